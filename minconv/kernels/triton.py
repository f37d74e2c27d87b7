"""The scan fused in Triton kernels for NVIDIA GPUs: gates to coefficients to states in one pass over memory.

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

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from math import gcd, isqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minconv.kernels.lanes import scans

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 128  # lanes of one program, which is one warp: 16 bytes of float32 per thread and load
STAGES = 4  # steps in flight
PROGRAMS = 8  # per multiprocessor, whose loads in flight keep memory busy
SHORT = 64  # steps that take no longer than launching another kernel

INSTALLED = find_spec("triton") is not None
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def available(kind: str = "cuda") -> bool:
    """Whether Triton is installed and can run on a kind of device: on a GPU, or anywhere with its interpreter."""
    return INSTALLED and (_interpreted() or (kind == "cuda" and torch.cuda.is_available()))


def forward(gating: str, blocks: Sequence[Tensor], h0: Tensor, h: Tensor, chunks: int | None = None) -> None:
    """Writes h [B, T, P, L]; see ``minconv.kernels.lanes``. ``chunks`` of time are chosen if not given."""
    _launch("_forward", gating, blocks, (h,), (h0,), chunks)


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
    _launch("_backward", gating, blocks, (h, grad, *grads), (h0, grad_h0), chunks)


linear_scan, gated_scan = scans(forward, backward)


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
def _kernels() -> dict:
    """The functions below as Triton's: from here on, and not from the import of this module, Triton is loaded."""
    global tl
    import triton
    import triton.language as tl

    if not _interpreted():  # what kernels call; the interpreter takes that as it is, and is faster so
        for function in (_place, _gate, _sigmoid, _candidate):
            globals()[function.__name__] = triton.jit(function)
    sizes = ["steps", "length", "pixels", "size", "lanes"]  # one kernel for any
    return {function.__name__: triton.jit(function, do_not_specialize=sizes) for function in (_forward, _backward)}


# In kernels, lanes are counted through [B, P, L]. ``size`` L, ``lanes`` and strides come divided by UNIT, for the
# compiler to see that they are multiples of it, and are multiplied in 64 bits.


def _place(pointer, strides, n, pixels, size, UNIT: tl.constexpr):
    """Of the lanes n in a sequence [B, T, P, L]: where their first step is, and from one step to the next."""
    row = n // (size.to(tl.int64) * UNIT)
    of_batch, of_step, of_pixel = strides
    offset = row // pixels * of_batch.to(tl.int64) + row % pixels * of_pixel.to(tl.int64)
    return pointer + offset * UNIT + n % (size.to(tl.int64) * UNIT), of_step.to(tl.int64) * UNIT


def _gate(x, y, GATING: tl.constexpr):
    """a = sigmoid(-d) and 1 - a = sigmoid(d), both to full relative accuracy, of x, y = z, - or f, i.

    a : 1 - a is e^-d : 1, and for lstm s(f) : s(i) with the sigmoid s(x) = e^min(x, 0) / (1 + e^-|x|).
    """
    if GATING == "gru":
        m = -x
        keep = 1.0
        write = 1.0
    elif GATING == "explstm":
        m = x - y
        keep = 1.0
        write = 1.0
    else:
        m = tl.where(x < 0, x, 0.0) - tl.where(y < 0, y, 0.0)
        keep = 1 + tl.exp(-tl.abs(y))
        write = 1 + tl.exp(-tl.abs(x))
    e = tl.exp(-tl.abs(m))
    keep = tl.where(m < 0, keep * e, keep)
    write = tl.where(m < 0, write, write * e)
    total = keep + write
    return keep / total, write / total


def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1 + e)


def _candidate(u):
    """g(u)."""
    return tl.where(u >= 0, u + 0.5, _sigmoid(u))


def _forward(
    tensors,
    strides,
    states,
    summary,
    steps,
    length,
    pixels,
    size,
    lanes,
    GATING: tl.constexpr,
    SUMMARISE: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """h, of ``tensors`` (blocks, h) and ``states`` (h0); or the summary [chunks - 1, 2, lanes]."""
    K: tl.constexpr = len(tensors) - 1
    dtype: tl.constexpr = summary.dtype.element_ty
    lanes = lanes.to(tl.int64) * UNIT
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < lanes
    x_at, x_step = _place(tensors[0], strides[0], n, pixels, size, UNIT)
    y_at, y_step = _place(tensors[1], strides[1], n, pixels, size, UNIT)
    u_at, u_step = _place(tensors[K - 1], strides[K - 1], n, pixels, size, UNIT)
    h_at, h_step = _place(tensors[K], strides[K], n, pixels, size, UNIT)

    chunk = tl.program_id(1)
    summary += n
    product = tl.full([BLOCK], 1, dtype)
    if SUMMARISE:
        state = tl.zeros([BLOCK], dtype)
    else:
        state = tl.load(states[0] + n, inside, 0).to(dtype)
        for c in tl.range(0, chunk, num_stages=STAGES):
            at = summary + 2 * c * lanes
            state = tl.load(at, inside, 0) * state + tl.load(at + lanes, inside, 0)

    first = chunk * length
    for t in tl.range(first, tl.minimum(first + length, steps), num_stages=STAGES):
        x = tl.load(x_at + t * x_step, inside, 0).to(dtype)
        u = tl.load(u_at + t * u_step, inside, 0).to(dtype)
        if GATING == "linear":
            a = x
            b = u
        else:
            y = tl.load(y_at + t * y_step, inside, 0).to(dtype) if K == 3 else x
            a, write = _gate(x, y, GATING)
            b = write * _candidate(u)
        state = a * state + b
        if SUMMARISE:
            product *= a
        else:
            tl.store(h_at + t * h_step, state, inside)
    if SUMMARISE:
        at = summary + 2 * chunk * lanes
        tl.store(at, product, inside)
        tl.store(at + lanes, state, inside)


def _backward(
    tensors,
    strides,
    states,
    summary,
    steps,
    length,
    pixels,
    size,
    lanes,
    GATING: tl.constexpr,
    SUMMARISE: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradients, of ``tensors`` (blocks, h, grad, grads) and ``states`` (h0, grad_h0); or the summary. Time, and so the
    chunks, run backwards; carried along is a_t times the gradient of h_t."""
    K: tl.constexpr = (len(tensors) - 2) // 2
    dtype: tl.constexpr = summary.dtype.element_ty
    lanes = lanes.to(tl.int64) * UNIT
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < lanes
    x_at, x_step = _place(tensors[0], strides[0], n, pixels, size, UNIT)
    y_at, y_step = _place(tensors[1], strides[1], n, pixels, size, UNIT)
    u_at, u_step = _place(tensors[K - 1], strides[K - 1], n, pixels, size, UNIT)
    h_at, h_step = _place(tensors[K], strides[K], n, pixels, size, UNIT)
    grad_at, grad_step = _place(tensors[K + 1], strides[K + 1], n, pixels, size, UNIT)
    dx_at, dx_step = _place(tensors[K + 2], strides[K + 2], n, pixels, size, UNIT)
    dy_at, dy_step = _place(tensors[K + 3], strides[K + 3], n, pixels, size, UNIT)
    du_at, du_step = _place(tensors[2 * K + 1], strides[2 * K + 1], n, pixels, size, UNIT)
    h0 = tl.load(states[0] + n, inside, 0).to(dtype)

    chunk = tl.program_id(1)
    summary += n
    product = tl.full([BLOCK], 1, dtype)
    carry = tl.zeros([BLOCK], dtype)
    if not SUMMARISE:
        for c in tl.range(0, chunk, num_stages=STAGES):
            at = summary + 2 * c * lanes
            carry = tl.load(at, inside, 0) * carry + tl.load(at + lanes, inside, 0)

    last = steps - 1 - chunk * length
    for back in tl.range(0, tl.minimum(length, last + 1), num_stages=STAGES):
        t = last - back
        x = tl.load(x_at + t * x_step, inside, 0).to(dtype)
        dh = tl.load(grad_at + t * grad_step, inside, 0).to(dtype) + carry
        if GATING == "linear":
            a = x
        else:
            y = tl.load(y_at + t * y_step, inside, 0).to(dtype) if K == 3 else x
            a, write = _gate(x, y, GATING)
        carry = a * dh
        if SUMMARISE:
            product *= a
        else:
            before = tl.load(h_at + tl.maximum(t - 1, 0) * h_step, inside, 0).to(dtype)
            before = tl.where(t > 0, before, h0)
            if GATING == "linear":
                dx = dh * before
                du = dh
            else:
                u = tl.load(u_at + t * u_step, inside, 0).to(dtype)
                g = _candidate(u)
                du = dh * write * tl.where(u >= 0, 1, g * (1 - g))
                dx = carry * write * (g - before)  # of the logit d
                if K == 3:  # d rises with y and falls with x
                    dy = dx
                    dx = -dx
                    if GATING == "lstm":
                        dy *= _sigmoid(-y)
                        dx *= _sigmoid(-x)
                    tl.store(dy_at + t * dy_step, dy, inside)
            tl.store(dx_at + t * dx_step, dx, inside)
            tl.store(du_at + t * du_step, du, inside)
    if SUMMARISE:
        at = summary + 2 * chunk * lanes
        tl.store(at, product, inside)
        tl.store(at + lanes, carry, inside)
    elif chunk == tl.num_programs(1) - 1:
        tl.store(states[1] + n, carry, inside)
