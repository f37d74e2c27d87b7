"""The scan on the CPU, fused: one pass over the convolution's output, whose coefficients never lie in memory.

The loops are in ``cpu_loops``. Their floor is memory: for each state, k blocks of gates are read and 1 number is
written; backwards k + 2 are read and k written. Half precision is computed in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minconv.kernels import cpu_loops as kernels
from minconv.kernels.lanes import scans


def forward(gating: str, blocks: Sequence[Tensor], h0: Tensor, h: Tensor) -> None:
    tensors = (*_three(gating, blocks), h0.unsqueeze(1), h)
    kernels.scan_forward(h.dtype, h.numel(), kernels.GATINGS.index(gating), *h.shape, *tensors)


def backward(
    gating: str,
    blocks: Sequence[Tensor],
    h0: Tensor,
    h: Tensor,
    grad: Tensor,
    grads: Sequence[Tensor],
    grad_h0: Tensor,
) -> None:
    tensors = (*_three(gating, blocks), h0.unsqueeze(1), h, grad, *_three(gating, grads), grad_h0.zero_().unsqueeze(1))
    kernels.scan_backward(h.dtype, h.numel(), kernels.GATINGS.index(gating), *h.shape, *tensors)


def _three(gating: str, blocks: Sequence[Tensor]) -> list[Tensor]:
    """x, y, u as the kernels count them; what a gating lacks is not looked at."""
    if gating == "linear":
        return [*blocks, blocks[0]]
    return [blocks[0], *blocks] if len(blocks) == 2 else list(blocks)


_linear_scan, _gated_scan = scans(forward, backward)


def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] of h_t = a_t h_{t-1} + b_t; raises TypeError, ValueError for complex numbers or on a GPU."""
    dtype = _computed_in(h0)
    return _linear_scan(a.to(dtype), b.to(dtype), h0.to(dtype)).to(h0.dtype)


def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
    """h [B, T, C, H, W] from gates [B, T, kC, H, W]; raises ValueError on a GPU."""
    dtype = _computed_in(h0)
    return _gated_scan(gates.to(dtype), h0.to(dtype), gating).to(h0.dtype)


def _computed_in(h0: Tensor) -> torch.dtype:
    if h0.device.type != "cpu":
        raise ValueError(f"h0 must be on the CPU for backend cpu; got {h0.device}")
    if h0.is_complex():
        raise TypeError(f"a, b and h0 must be real for backend cpu; got {h0.dtype}")
    return h0.dtype if h0.dtype == torch.float64 else torch.float32
