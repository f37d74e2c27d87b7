"""The CPU's fused operations: the scan, and the padding of a convolution on axes that wrap.

One pass over the convolution's output, whose coefficients never lie in memory. The loops are in ``cpu_loops``. Their
floor is memory: for each state, k blocks of gates are read and 1 number is written; backwards k + 2 are read and k
written. Half precision is computed in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minconv.core import scan
from minconv.core.layers import Margins, wrap_eagerly
from minconv.kernels import cpu_loops as loops
from minconv.kernels.autograd import FUSED, Lanes, differentiable, scans


def available(kind: str = "cpu") -> bool:
    """Whether these can run on a kind of device."""
    return kind == "cpu"


def forward(gating: str, blocks: Sequence[Tensor], h0: Tensor, h: Tensor) -> None:
    """Writes h [B, T, P, L]; see ``minconv.kernels.autograd``."""
    tensors = (*_three(gating, blocks), h0.unsqueeze(1), h)
    loops.scan_forward(h.dtype, h.numel(), FUSED.index(gating), *h.shape, *tensors)


def backward(
    gating: str,
    blocks: Sequence[Tensor],
    h0: Tensor,
    h: Tensor,
    grad: Tensor,
    grads: Sequence[Tensor],
    grad_h0: Tensor,
) -> None:
    """Writes the gradients of the blocks [B, T, P, L] and of h0 [B, P, L]."""
    tensors = (*_three(gating, blocks), h0.unsqueeze(1), h, grad, *_three(gating, grads), grad_h0.zero_().unsqueeze(1))
    loops.scan_backward(h.dtype, h.numel(), FUSED.index(gating), *h.shape, *tensors)


def _three(gating: str, blocks: Sequence[Tensor]) -> list[Tensor]:
    """x, y, u as the loops count them; what a gating lacks is not looked at."""
    if gating == "linear":
        return [*blocks, blocks[0]]
    return [blocks[0], *blocks] if len(blocks) == 2 else list(blocks)


_linear_scan, _gated_scan = scans(forward, backward, "cpu_scan")


def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] of h_t = a_t h_{t-1} + b_t; raises TypeError, ValueError for complex numbers or on a GPU."""
    dtype = _computed_in(h0)
    return _linear_scan(a.to(dtype), b.to(dtype), h0.to(dtype)).to(h0.dtype)


def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
    """h [B, T, C, H, W] from gates [B, T, kC, H, W]; raises ValueError on a GPU."""
    dtype = _computed_in(h0)
    return _gated_scan(gates.to(dtype), h0.to(dtype), gating).to(h0.dtype)


# With one complex a for all times


def steady_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] of h_t = a h_{t-1} + b_t, complex, with a that broadcasts to h0 [B, ...].

    The gradient by a is summed over time while it is made. Raises ValueError on a GPU.
    """
    if h0.device.type != "cpu":
        raise ValueError(f"h0 must be on the CPU for backend cpu; got {h0.device}")
    return _steady(None, h0, a.expand(h0.shape), b)


def _pairs(lanes: Tensor) -> Tensor:
    """Complex lanes [B, T, P, L] as real ones [B, T, 1, 2PL], (Re, Im) side by side: rows are long for any L."""
    return torch.view_as_real(lanes.resolve_conj()).flatten(2).unsqueeze(2)


def _steady_run(option: None, h0: Tensor, a: Tensor, b: Tensor) -> Tensor:
    lanes = Lanes(b, "linear")
    h = lanes.empty(b)
    inputs = lanes(a.unsqueeze(1)), lanes(b), lanes(b), lanes.state(h0).unsqueeze(1), h
    _on_pairs(loops.steady_forward, *map(_pairs, inputs))
    return lanes.frames(h)


def _steady_gradient(option: None, grad: Tensor, tensors: Sequence[Tensor], h: Tensor) -> Sequence[Tensor]:
    h0, a, b = tensors
    lanes = Lanes(b, "linear")
    state, grad_b = lanes.state(h0).unsqueeze(1), lanes.empty(b)
    grad_h0, grad_a = torch.zeros_like(state), torch.zeros_like(state)
    inputs = lanes(a.unsqueeze(1)), lanes(b), lanes(b), state, lanes(h), lanes(grad), grad_a, grad_b, grad_b, grad_h0
    _on_pairs(loops.steady_backward, *map(_pairs, inputs))
    return lanes.frames(grad_h0.squeeze(1)), lanes.frames(grad_a.squeeze(1)), lanes.frames(grad_b)


def _on_pairs(kernel: loops.Kernel, *tensors: Tensor) -> None:
    h = tensors[4]  # as in scan_forward
    kernel(h.dtype, h.numel(), 0, *h.shape, *tensors)


_steady = differentiable(
    _steady_run, _steady_gradient, lambda _, h0, a, b: scan.linear_scan(a.unsqueeze(1), b, h0, "linear")
)


def _computed_in(h0: Tensor) -> torch.dtype:
    if h0.device.type != "cpu":
        raise ValueError(f"h0 must be on the CPU for backend cpu; got {h0.device}")
    if h0.is_complex():
        raise TypeError(f"a, b and h0 must be real for backend cpu; got {h0.dtype}")
    return h0.dtype if h0.dtype == torch.float64 else torch.float32


# Padding


def places(x: Tensor) -> Tensor:
    """Frames [N, C, H, W] as dense [N, HW, C], without a copy if they are channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _frames(x: Tensor, height: int, width: int) -> Tensor:
    """Back from [N, HW, C] to [N, C, H, W], which is channels_last then."""
    return x.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _wrap(margins: Margins, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    up, left, pole = margins
    padded = x.new_empty(count, (height + 2 * up) * (width + 2 * left), channels)
    loops.wrap(x.dtype, padded.numel(), count, height, width, channels, up, left, pole, places(x), padded)
    return _frames(padded, height + 2 * up, width + 2 * left)


def _fold(margins: Margins, grad: Tensor, tensors: Sequence[Tensor], output: None) -> tuple[Tensor]:
    """The margins added back to where they were taken from."""
    count, channels, height, width = tensors[0].shape
    x = grad.new_empty(count, height * width, channels)
    loops.fold(grad.dtype, grad.numel(), count, height, width, channels, *margins, x, places(grad))
    return (_frames(x, height, width),)


wrap = differentiable(_wrap, _fold, wrap_eagerly, linear=True)
