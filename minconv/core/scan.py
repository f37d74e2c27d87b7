"""The linear recurrence behind every minimal cell, by one signature and several backends.

    h_t = a_t * h_{t-1} + b_t,        t = 1 .. T

``linear_scan`` takes a and b; ``gated_scan`` takes the raw output of a cell's convolution and forms a and b itself, so
that a fused backend can do both in one pass. Fused backends are files of ``minconv.kernels``, asked for by name when
first needed.

    reference   a loop, any dtype: what the others are tested against
    logspace    as published, by cumsum and logcumsumexp
    linear      eager operations in the linear domain, any device and dtype
    cpu         fused, compiled by Numba
    triton      fused, for CUDA GPUs
    distributed the time axis split over processes, each with one of the others
"""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from math import isqrt
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from minconv.core import logspace
from minconv.core.gates import GATINGS, coefficients
from minconv.runtime.checks import choice

__all__ = ["BACKENDS", "GATINGS", "gated_scan", "linear_scan", "usable"]

BACKENDS = ("reference", "logspace", "linear", "cpu", "triton", "distributed")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex128, torch.complex64)


def linear_scan(a: Tensor, b: Tensor, h0: Tensor, backend: str = "auto") -> Tensor:
    """Solves h_t = a_t h_{t-1} + b_t for all t at once.

    Args:
        a, b: coefficients [B, T, ...], T >= 1. ``a`` may be of any shape that broadcasts to b's, as [C, 1, 1] for one
            number a channel at all times; but by ``reference``, its gradient is never written in b's shape.
        h0: initial state [B, ...].
        backend: one of ``BACKENDS`` (``logspace`` needs a > 0, b >= 0, h0 >= 0), or ``auto``: the fused one of the
            device if its compiler is installed and the numbers are real, else ``linear``. An ``a`` that broadcasts is
            for ``reference``, ``linear`` and, if it is complex and the same at all times, ``cpu``.

    Returns:
        h [B, T, ...]; its last frame is the new state.

    Raises:
        TypeError: an argument is no floating-point (or complex) tensor, or dtypes differ.
        ValueError: shapes do not fit, T = 0, devices differ, or the backend is unknown or not for this device.
    """
    choice("backend", backend, ("auto", *BACKENDS))
    _check_tensors(a=a, b=b, h0=h0)
    if b.dim() < 2 or (a.shape != b.shape and not _broadcasts(a, b)):
        found = f"got a {list(a.shape)} and b {list(b.shape)}, to which a does not broadcast"
        raise ValueError(f"a and b must have one shape [B, T, ...]; {found}")
    _check_state("b", b, h0, b.shape[2:])
    if a.shape != b.shape:
        return _broadcast_scan(a, b, h0, backend)
    backend = _chosen(backend, b)
    if backend == "logspace":
        _check_signs(a=a, b=b, h0=h0)
    return _EAGER[backend](a, b, h0) if backend in _EAGER else _fused(backend).linear_scan(a, b, h0)


def gated_scan(gates: Tensor, h0: Tensor, gating: str, backend: str = "auto") -> Tensor:
    """Forms a_t and b_t from a convolution's output and scans them.

    Args:
        gates: [B, T, kC, H, W] as the convolution gives them, k = 2 (z, u) or 3 (f, i, u) blocks of C channels.
        h0: initial state [B, C, H, W].
        gating: ``gru``, ``lstm`` or ``explstm``: how a_t and b_t follow from the blocks, see ``minconv.core.gates``.
        backend: as in ``linear_scan``.

    Returns:
        h [B, T, C, H, W]; its last frame is the new state.

    Raises:
        TypeError, ValueError: as ``linear_scan``; also complex gates, an unknown gating, channels no multiple of k.
    """
    choice("backend", backend, ("auto", *BACKENDS))
    blocks = GATINGS[choice("gating", gating, GATINGS)].blocks
    _check_tensors(gates=gates, h0=h0)
    if gates.is_complex():  # g(u) asks for the sign of u
        raise TypeError(f"gates and h0 must be real; got {gates.dtype}")
    if gates.dim() != 5 or gates.shape[2] % blocks:
        raise ValueError(f"gates must be [B, T, {blocks}C, H, W] for gating {gating}; got {list(gates.shape)}")
    _check_state("gates", gates, h0, (gates.shape[2] // blocks, *gates.shape[3:]))
    backend = _chosen(backend, gates)
    if backend == "logspace":
        _check_signs(h0=h0)
        return logspace.gated_scan(gates, h0, gating)
    if backend in _EAGER:
        return _EAGER[backend](*coefficients(gates, gating), h0)
    return _fused(backend).gated_scan(gates, h0, gating)


def _broadcast_scan(a: Tensor, b: Tensor, h0: Tensor, backend: str) -> Tensor:
    """``linear_scan`` with an a that is smaller than b."""
    if backend not in ("auto", "reference", "linear", "cpu"):
        raise ValueError(f"a must have b's shape {list(b.shape)} for backend {backend}; got {list(a.shape)}")
    a = a[(None,) * (b.dim() - a.dim())]
    if backend == "reference" or traced():
        return loop(a.expand_as(b), b, h0)
    steady = b.is_complex() and a.shape[1] == 1
    if backend == "cpu" or (backend == "auto" and steady and b.shape[1] > 1 and _serves("cpu", b.device.type)):
        if not steady:
            found = f"got {a.dtype}, {list(a.shape)}"
            raise ValueError(f"a must be complex and the same at all times, or of b's shape, for backend cpu; {found}")
        return _fused("cpu").steady_scan(a.squeeze(1), b, h0)
    return linear(a.expand(b.shape[0], *a.shape[1:]), b, h0)  # leading axes are a batch's, see ``in_one_batch``


# Which backend


def usable(device: torch.device | str) -> tuple[str, ...]:
    """The backends that can be asked for on a device, with what is installed here."""
    kind = torch.device(device).type
    return tuple(name for name in BACKENDS if name in _EAGER or _serves(name, kind))


def traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records what is computed now."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def transformed() -> bool:
    """Whether a transform of ``torch.func`` or ``torch.vmap`` is at work."""
    return torch._C._are_functorch_transforms_active()  # PyTorch has no public name for it


def kernels(name: str) -> ModuleType | None:
    """``minconv.kernels.<name>``, or None where what compiles it cannot be imported, and eager operations serve."""
    return _loaded[name] if _load(name) else None


_loaded: dict[str, ModuleType | None] = {}


def _load(name: str) -> bool:
    if name not in _loaded:
        _loaded[name] = None
        try:
            _loaded[name] = import_module(f"minconv.kernels.{name}")
        except ModuleNotFoundError:
            pass
        except Exception as error:  # a broken Numba may raise anything
            warnings.warn(f"backend {name} is not used, as it cannot be imported: {error!r}", stacklevel=2)
    return _loaded[name] is not None


# Dynamo calls it while it traces, instead of tracing it: what torch.compiler.assume_constant_result does, which would
# import Dynamo here and now, in seconds
_load._dynamo_marked_constant = True


def _chosen(backend: str, x: Tensor) -> str:
    if backend != "auto":
        return backend
    kind = x.device.type
    fused = {"cpu": "cpu", "cuda": "triton"}.get(kind)
    return fused if fused and not x.is_complex() and _serves(fused, kind) else "linear"


def _serves(name: str, kind: str) -> bool:
    module = kernels(name)
    return module is not None and module.available(kind)


def _fused(backend: str) -> ModuleType:
    if (module := kernels(backend)) is None:
        raise ValueError(f"backend must be one whose compiler can be imported; got {backend!r}")
    return module


# The loop as it is written


def loop(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] of h_t = a_t h_{t-1} + b_t."""
    h, frames = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        frames.append(h)
    return torch.stack(frames, dim=1)


# The linear form


def linear(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] in the linear domain: as 0 < a < 1, the recurrence is stable by itself and needs no logarithms.

    On the CPU one multiply-add per step, which runs at the speed of memory. Where a kernel launch costs more than its
    work (on a GPU), in chunks: all chunks step together, then the carries between them, then a correction. The gradient
    is the same recurrence backwards in time:

        grad b_t = grad h_t + a_{t+1} grad b_{t+1},    grad a_t = grad b_t h_{t-1},    grad h_0 = a_1 grad b_1
    """
    if traced():
        return loop(a.expand_as(b), b, h0)
    if b.shape[1] == 1:  # a step: nothing to scan
        return torch.addcmul(b, a, h0.unsqueeze(1))
    return _Linear.apply(a, b, h0)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        return walk(a.expand_as(b), b, h0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        a, _, h0 = inputs
        ctx.save_for_backward(a, h0, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, h0, h = ctx.saved_tensors
        shape, a = a.shape, a.expand_as(h).conj()  # views; conj is nothing but a flag for real numbers
        last = grad[:, -1]
        if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too: nothing in place
            rest = linear(a[:, 1:].flip(1), grad[:, :-1].flip(1), last).flip(1)
            grad_b = torch.cat([rest, last.unsqueeze(1)], dim=1)
            before = torch.cat([h0.unsqueeze(1), h[:, :-1]], dim=1)
            return (grad_b * before.conj()).sum_to_size(shape), grad_b, a[:, 0] * grad_b[:, 0]
        grad_b = torch.empty_like(grad)
        grad_b[:, -1] = last
        # time backwards: step t of this scan is frame T - 1 - t
        walk(a[:, 1:], grad[:, :-1], last, out=grad_b[:, :-1], reverse=True)
        grad_a = None
        if ctx.needs_input_grad[0] and shape != h.shape:  # summed frame by frame
            grad_a = grad_b.new_zeros(shape)
            for t in range(h.shape[1]):
                frame = grad_b[:, t] * (h[:, t - 1] if t else h0).conj()
                grad_a[:, min(t, shape[1] - 1)] += frame.sum_to_size(shape[:1] + shape[2:])
        elif ctx.needs_input_grad[0]:
            grad_a = torch.empty_like(grad_b)
            torch.mul(grad_b[:, 0], h0.conj(), out=grad_a[:, 0])
            torch.mul(grad_b[:, 1:], h[:, :-1].conj(), out=grad_a[:, 1:])
        return grad_a, grad_b, a[:, 0] * grad_b[:, 0]

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, int]:
        return in_one_batch(_Linear.apply, info.batch_size, dims, (a, b, h0)), 0  # elementwise but for time


def walk(a: Tensor, b: Tensor, h0: Tensor, out: Tensor | None = None, reverse: bool = False) -> Tensor:
    """h of the recurrence without a gradient, written to ``out``; in reverse from the last frame to the first."""
    out = torch.empty_like(b, memory_format=torch.contiguous_format) if out is None else out
    steps = b.shape[1]
    if b.is_cuda and steps >= 32:
        return _chunked(a, b, h0, out, reverse, isqrt(steps))
    order = range(steps - 1, -1, -1) if reverse else range(steps)
    return _steps(a, b, h0, out, order)


def _steps(a: Tensor, b: Tensor, h: Tensor, out: Tensor, order: range) -> Tensor:
    for a_t, b_t, out_t in ((a.select(1, t), b.select(1, t), out.select(1, t)) for t in order):
        h = torch.addcmul(b_t, a_t, h, out=out_t)
    return out


def _chunked(a: Tensor, b: Tensor, h0: Tensor, out: Tensor, reverse: bool, chunk: int) -> Tensor:
    """T / chunk chunks at once, about 3 sqrt(T) kernels instead of T: the chunks' own scans from zero and the running
    products of a, then the carries from chunk to chunk, then h += product * carry for all."""
    whole = b.shape[1] // chunk * chunk
    rest = b.shape[1] - whole
    # steps that fill no chunk come last in the order of the scan
    part = slice(rest, None) if reverse else slice(0, whole)
    tail = range(rest - 1, -1, -1) if reverse else range(whole, whole + rest)
    split = (whole // chunk, chunk)
    a_, b_, out_ = (x[:, part].unflatten(1, split) for x in (a, b, out))
    # an a that broadcasts has products that do; axis 2 is time in a chunk, along which they differ
    small = a_[tuple(slice(0, 1 if stride == 0 and axis != 2 else None) for axis, stride in enumerate(a_.stride()))]
    products = torch.empty_like(small, memory_format=torch.contiguous_format)
    inner = range(chunk - 1, -1, -1) if reverse else range(chunk)
    outer = range(split[0] - 1, -1, -1) if reverse else range(split[0])
    first, last = inner[0], inner[-1]
    out_[:, :, first] = b_[:, :, first]
    products[:, :, first] = small[:, :, first]
    for before, t in pairwise(inner):
        torch.addcmul(b_[:, :, t], a_[:, :, t], out_[:, :, before], out=out_[:, :, t])
        torch.mul(products[:, :, before], small[:, :, t], out=products[:, :, t])
    products = products.expand(a_.shape)
    carries = torch.empty_like(out_[:, :, 0], memory_format=torch.contiguous_format)
    carry = h0
    for c in outer:
        carries[:, c] = carry
        carry = torch.addcmul(out_[:, c, last], products[:, c, last], carry)
    out_.addcmul_(products, carries.unsqueeze(2))
    _steps(a, b, carry, out, tail)
    return out


def in_one_batch(
    function: Callable[..., Tensor], size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]
) -> Tensor:
    """A ``torch.vmap`` rule: models stacked along ``dims`` are more of the batch in each tensor's first axis.

    Returns:
        What ``function`` gives, [size, B, ...].
    """
    stacked = [
        x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims, strict=True)
    ]
    return function(*(x.flatten(0, 1) for x in stacked)).unflatten(0, (size, stacked[0].shape[1]))


_EAGER = {"reference": loop, "logspace": logspace.linear_scan, "linear": linear}


# Checks


def _check_tensors(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(tensor).__name__}")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(f"{name} must be floating point; got {tensor.dtype}")
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
            allowed = ", ".join(str(dtype) for dtype in DTYPES)
            raise TypeError(f"{name} must be dense and one of {allowed}; got {tensor.dtype}, {tensor.layout}")
    for kind, found in (
        ("dtype", {t.dtype for t in tensors.values()}),
        ("device", {t.device for t in tensors.values()}),
    ):
        if len(found) > 1:
            listed = ", ".join(f"{name} {getattr(tensor, kind)}" for name, tensor in tensors.items())
            raise (TypeError if kind == "dtype" else ValueError)(f"all must have one {kind}; got {listed}")


def _broadcasts(a: Tensor, b: Tensor) -> bool:
    """Whether a has axes of b's lengths or of length 1, and no more of them."""
    axes = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return a.dim() <= b.dim() and all(mine in (1, other) for mine, other in axes)


def _check_state(name: str, sequence: Tensor, h0: Tensor, tail: tuple[int, ...] | torch.Size) -> None:
    if sequence.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one time step; got shape {list(sequence.shape)}")
    if h0.shape != (sequence.shape[0], *tail):
        raise ValueError(f"h0 must be {[sequence.shape[0], *tail]} to fit {name}; got {list(h0.shape)}")


def _check_signs(**tensors: Tensor) -> None:
    """What the logarithm asks; it is not asked where values are not known yet, under a transform or a trace."""
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise TypeError(f"a, b and h0 must be real for backend logspace; got {tensor.dtype}")
        if not (traced() or transformed()) and bool((tensor <= 0 if name == "a" else tensor < 0).any()):
            bound = "above 0" if name == "a" else "at least 0"
            raise ValueError(f"{name} must be {bound} for backend logspace; its least value is {tensor.min().item()}")
