"""The linear recurrence behind every minimal cell, by one signature and several backends.

    h_t = a_t * h_{t-1} + b_t,        t = 1 .. T

``linear_scan`` takes a and b; ``gated_scan`` takes the raw output of a cell's convolution and forms a and b itself, so
that a fused backend can do both in one pass. A backend is one file with these two functions; choosing one is an import.

    reference   a loop, any dtype: what the others are tested against
    logspace    as published, by cumsum and logcumsumexp
    linear      eager operations in the linear domain, any device and dtype
    cpu         fused, compiled by Numba
    triton      fused, for CUDA GPUs
    distributed the time axis split over processes, each with one of the others
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import torch
import torch.distributed
from torch import Tensor

from minconv.core.gates import GATINGS
from minconv.kernels.autograd import numba_kernels
from minconv.runtime.checks import choice

__all__ = ["BACKENDS", "GATINGS", "gated_scan", "linear_scan", "usable"]

BACKENDS = ("reference", "logspace", "linear", "cpu", "triton", "distributed")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex128, torch.complex64)


def linear_scan(a: Tensor, b: Tensor, h0: Tensor, backend: str = "auto") -> Tensor:
    """Solves h_t = a_t h_{t-1} + b_t for all t at once.

    Args:
        a, b: coefficients [B, T, ...], T >= 1.
        h0: initial state [B, ...].
        backend: one of ``BACKENDS`` (``logspace`` needs a > 0, b >= 0, h0 >= 0), or ``auto``: the fused one of the
            device if its compiler is installed and the numbers are real, else ``linear``.

    Returns:
        h [B, T, ...]; its last frame is the new state.

    Raises:
        TypeError: an argument is no floating-point (or complex) tensor, or dtypes differ.
        ValueError: shapes do not fit, T = 0, devices differ, or the backend is unknown or not for this device.
    """
    choice("backend", backend, ("auto", *BACKENDS))
    _check_tensors(a=a, b=b, h0=h0)
    if a.shape != b.shape or a.dim() < 2:
        raise ValueError(f"a and b must have one shape [B, T, ...]; got a {list(a.shape)} and b {list(b.shape)}")
    _check_state("b", b, h0, b.shape[2:])
    return _module(backend, b).linear_scan(a, b, h0)


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
    return _module(backend, gates).gated_scan(gates, h0, gating)


def usable(device: torch.device | str) -> tuple[str, ...]:
    """The backends that can be asked for on a device, with what is installed here."""
    kind = torch.device(device).type
    return tuple(name for name in BACKENDS if name not in _NEEDS or _NEEDS[name](kind))


def _module(backend: str, x: Tensor) -> ModuleType:
    if backend == "auto":
        fused = {"cpu": "cpu", "cuda": "triton"}.get(x.device.type)
        backend = fused if fused and not x.is_complex() and _NEEDS[fused](x.device.type) else "linear"
    return import_module(f"minconv.{'kernels' if backend in _NEEDS else 'core'}.{backend}")


# whether a backend can run on a kind of device; the others always can
_NEEDS: dict[str, Callable[[str], bool]] = {
    "cpu": lambda kind: kind == "cpu" and numba_kernels() is not None,
    "triton": lambda kind: import_module("minconv.kernels.triton").available(kind),
    "distributed": lambda kind: torch.distributed.is_available() and torch.distributed.is_initialized(),
}


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


def _check_state(name: str, sequence: Tensor, h0: Tensor, tail: tuple[int, ...] | torch.Size) -> None:
    if sequence.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one time step; got shape {list(sequence.shape)}")
    if h0.shape != (sequence.shape[0], *tail):
        raise ValueError(f"h0 must be {[sequence.shape[0], *tail]} to fit {name}; got {list(h0.shape)}")
