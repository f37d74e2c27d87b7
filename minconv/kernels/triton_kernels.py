"""The Triton kernels of the scan, which ``triton`` launches."""

from functools import partial

import triton
import triton.language as tl

# what kernels call; the interpreter takes that as it is, and is faster so
inlined = (lambda function: function) if triton.knobs.runtime.interpret else triton.jit
kernel = partial(triton.jit, do_not_specialize=["steps", "length", "pixels", "size", "lanes"])  # one kernel for any

# Lanes are counted through [B, P, L]. ``size`` L, ``lanes`` and strides come divided by UNIT, for the
# compiler to see that they are multiples of it, and are multiplied in 64 bits.


@inlined
def _place(pointer, strides, n, pixels, size, UNIT: tl.constexpr):
    """Of the lanes n in a sequence [B, T, P, L]: where their first step is, and from one step to the next."""
    row = n // (size.to(tl.int64) * UNIT)
    of_batch, of_step, of_pixel = strides
    offset = row // pixels * of_batch.to(tl.int64) + row % pixels * of_pixel.to(tl.int64)
    return pointer + offset * UNIT + n % (size.to(tl.int64) * UNIT), of_step.to(tl.int64) * UNIT


@inlined
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


@inlined
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1 + e)


@inlined
def _candidate(u):
    """g(u)."""
    return tl.where(u >= 0, u + 0.5, _sigmoid(u))


@kernel
def forward(
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


@kernel
def backward(
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
    """Gradients of ``tensors`` (blocks, h, grad, grads) and ``states`` (h0, grad_h0), or the summary; in reverse."""
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
