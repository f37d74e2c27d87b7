"""The scan fused in Triton kernels for NVIDIA GPUs: gates to coefficients to states in one pass over memory.

The kernels are in ``triton_kernels``, which is imported with Triton at the first scan.

A thread keeps the state of a few neighbouring lanes in registers and walks along time; loads of the next steps, which
do not depend on the state, are in flight meanwhile. What counts is memory traffic. Per element of h, for k blocks of
gates (k = 2 for a and b), a pass cannot do with less than

    forward     k reads (gates)                              + 1 write (h)
    backward    k + 2 reads (gates, h, gradient of h)        + k writes (gradient of the gates)

and with enough lanes these kernels do with just that. Too few lanes to fill the chip are cut in time: chunks compute at
once the product of their a and their end state from zero; then every chunk finds the state it starts from in those of
the chunks before it, and scans. That reads the gates twice.

Sums are in float32, in float64 for float64; h and gradients are rounded once, when they are written. With
TRITON_INTERPRET=1 in the environment Triton's interpreter runs the same kernels on the CPU, slowly.
"""

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from math import gcd, isqrt
from typing import Any

import torch
from torch import Tensor

from minconv.kernels.autograd import scans

BLOCK = 128  # lanes of one program, which is one warp: 16 bytes of float32 per thread and load
STAGES = 4  # steps in flight
PROGRAMS = 8  # per multiprocessor, whose loads in flight keep memory busy
SHORT = 64  # steps that take no longer than launching another kernel

INSTALLED = find_spec("triton") is not None
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def available(kind: str = "cuda") -> bool:
    """Whether Triton is installed and can run on a kind of device: on a GPU, or anywhere with its interpreter."""
    return INSTALLED and ((kind == "cuda" and torch.cuda.is_available()) or _interpreted())


def forward(gating: str, blocks: Sequence[Tensor], h0: Tensor, h: Tensor, chunks: int | None = None) -> None:
    """Writes h [B, T, P, L]; see ``minconv.kernels.autograd``. ``chunks`` of time are chosen if not given."""
    _launch("forward", gating, blocks, (h,), (h0,), chunks)


def backward(
    gating: str,
    blocks: Sequence[Tensor],
    h0: Tensor,
    h: Tensor,
    grad: Tensor,
    grads: Sequence[Tensor],
    grad_h0: Tensor,
    chunks: int | None = None,
) -> None:
    """Writes the gradients of the blocks [B, T, P, L] and of h0 [B, P, L]."""
    _launch("backward", gating, blocks, (h, grad, *grads), (h0, grad_h0), chunks)


linear_scan, gated_scan = scans(forward, backward, "triton_scan")


def chunk_count(lanes: int, steps: int, processors: int) -> int:
    """Into how many chunks of time to cut, for a chip of so many multiprocessors.

    One, if the lanes by themselves are half of what fills the chip, since chunks read the gates twice, and if there are
    few steps. Otherwise as many as fill it, but at most sqrt(T): a chunk walks its steps and the chunks before it.
    """
    programs = -(-lanes // BLOCK)
    wanted = PROGRAMS * processors
    if steps < SHORT or 2 * programs >= wanted:
        return 1
    return min(-(-wanted // programs), isqrt(steps))


def _launch(
    name: str,
    gating: str,
    blocks: Sequence[Tensor],
    sequences: Sequence[Tensor],
    states: tuple[Tensor, ...],
    chunks: int | None,
) -> None:
    h, h0 = sequences[0], states[0]
    _check(h0)
    lanes = h0.numel()
    if lanes == 0:
        return
    _, steps, pixels, size = h.shape
    if chunks is None:
        chunks = chunk_count(lanes, steps, _processors(h.device))
    length = -(-steps // chunks)
    chunks = -(-steps // length)
    tensors = (*blocks, *sequences)
    strides = [[x.stride(axis) if x.shape[axis] > 1 else 0 for axis in range(3)] for x in tensors]
    # divides every offset but a lane's own, and so tells how many lanes a thread may load at once
    unit = gcd(16, size, *(stride for triple in strides for stride in triple))
    strides = tuple(tuple(stride // unit for stride in triple) for triple in strides)
    # of every chunk but the last: the product of its a, and where it ends from zero
    sums = torch.float64 if h.dtype == torch.float64 else torch.float32
    summary = torch.empty((chunks - 1, 2, lanes), dtype=sums, device=h.device)
    arguments = (tensors, strides, states, summary, steps, length, pixels, size // unit, lanes // unit)
    block = 1024 if _interpreted() else BLOCK  # the interpreter's time goes by operations, whatever their size
    options = {"GATING": gating, "UNIT": unit, "BLOCK": block, "STAGES": STAGES, "num_warps": 1}
    kernel, programs = _kernels()[name], -(-lanes // block)
    with torch.cuda.device_of(h):
        if chunks > 1:
            kernel[programs, chunks - 1](*arguments, SUMMARISE=True, **options)
        kernel[programs, chunks](*arguments, SUMMARISE=False, **options)


def _check(h0: Tensor) -> None:
    if h0.dtype not in DTYPES:
        allowed = ", ".join(str(dtype) for dtype in DTYPES)
        raise TypeError(f"h0 must be one of {allowed} for backend triton; got {h0.dtype}")
    if not (h0.is_cuda or _interpreted()):
        raise ValueError(f"h0 must be on a CUDA device for backend triton; got {h0.device}")


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _processors(device: torch.device) -> int:
    """Of the chip; 0 for the interpreter, which runs one program at a time, so that nothing is cut."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


@cache
def _kernels() -> dict[str, Any]:
    """By name; from here on, and not from the import of this module, Triton is loaded."""
    from minconv.kernels import triton_kernels

    return {"forward": triton_kernels.forward, "backward": triton_kernels.backward}
