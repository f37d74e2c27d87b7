"""Loops of the classical cells between their convolutions: a frame's gates to its state, and back.

Rows are the C numbers of one place. Gates are those before sigmoid and tanh, which the backward pass forms again.
"""

from minconv.kernels.compiled import (
    LANES,
    Kernel,
    exp,
    fetch,
    inlined,
    integers,
    load,
    pointer,
    put_part,
    real,
    share,
    size_of,
    store,
    vector_part,
)

COMPILED = "cc757e55"  # the digest of compiled.py, see there


@inlined
def _sigmoid(x):
    e = exp(-abs(x))
    large = real(1, x) / (real(1, x) + e)
    return large if x >= real(0, x) else e * large


@inlined
def _tanh(x):
    e = exp(real(-2, x) * abs(x))
    large = (real(1, x) - e) / (real(1, x) + e)
    return large if x >= real(0, x) else -large


@inlined
def _row(args, k, b, p, like):
    """Where place p of frame b of argument k begins: a tensor [B, P, C]."""
    return pointer(load(args, k) + (b * load(args, k + 1) + p * load(args, k + 2)) * size_of(like), like)


BATCH, PLACES, CHANNELS = range(3)
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH, SEVENTH, EIGHTH = range(3, 27, 3)


@Kernel
def lstm_forward(like):
    """c = s(f) c + s(i) tanh(g), h = s(o) tanh(c): B, P, C; gates g, i, f, o, c before, c, h."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        gates, before = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like)
        c, h = _row(args, THIRD, b, p, like), _row(args, FOURTH, b, p, like)
        for n in range(width):
            g, i = _tanh(load(gates, n)), _sigmoid(load(gates, width + n))
            f, o = _sigmoid(load(gates, 2 * width + n)), _sigmoid(load(gates, 3 * width + n))
            new = f * load(before, n) + i * g
            store(0, c, n, new)
            store(1, h, n, o * _tanh(new))


@Kernel
def lstm_backward(like):
    """The same back: gates, c before, c, gradient by h from outside, gradients by the gates; those by h and c from the
    next frame, of which that by c becomes what goes to the one before; and where that by h is to be 0."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        gates, before = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like)
        c, grad, grads = _row(args, THIRD, b, p, like), _row(args, FOURTH, b, p, like), _row(args, FIFTH, b, p, like)
        by_h, by_c = _row(args, SIXTH, b, p, like), _row(args, SEVENTH, b, p, like)
        of_h = _row(args, EIGHTH, b, p, like)
        for n in range(width):
            g, i = _tanh(load(gates, n)), _sigmoid(load(gates, width + n))
            f, o = _sigmoid(load(gates, 2 * width + n)), _sigmoid(load(gates, 3 * width + n))
            t, one = _tanh(load(c, n)), real(1, load(c, n))
            e = load(grad, n) + fetch(4, by_h, n)
            d = fetch(5, by_c, n) + e * o * (one - t * t)
            store(0, grads, n, d * i * (one - g * g))
            store(1, grads, width + n, d * g * i * (one - i))
            store(2, grads, 2 * width + n, d * load(before, n) * f * (one - f))
            store(3, grads, 3 * width + n, e * t * o * (one - o))
            store(4, of_h, n, real(0, e))
            store(5, by_c, n, d * f)


@Kernel
def gru_reset(like):
    """s(r) h: B, P, C; gates z, r, h before, reset h."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        gates, h, reset = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like), _row(args, THIRD, b, p, like)
        for n in range(width):
            store(0, reset, n, _sigmoid(load(gates, width + n)) * load(h, n))


@Kernel
def gru_forward(like):
    """h = (1 - s(z)) h + s(z) tanh(n): gates z, r, candidate n, h before, h."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        gates, candidate = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like)
        before, h = _row(args, THIRD, b, p, like), _row(args, FOURTH, b, p, like)
        for n in range(width):
            old = load(before, n)
            store(0, h, n, old + _sigmoid(load(gates, n)) * (_tanh(load(candidate, n)) - old))


@Kernel
def gru_backward(like):
    """The same back: gates, candidate, h before, gradient by h from outside, gradients by the gates (z of them) and by
    the candidate; that by h from the next frame; and what of it goes to the one before."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        gates, candidate = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like)
        before, grad = _row(args, THIRD, b, p, like), _row(args, FOURTH, b, p, like)
        grads, by_candidate = _row(args, FIFTH, b, p, like), _row(args, SIXTH, b, p, like)
        by_h, of_h = _row(args, SEVENTH, b, p, like), _row(args, EIGHTH, b, p, like)
        for n in range(width):
            z, t, old = _sigmoid(load(gates, n)), _tanh(load(candidate, n)), load(before, n)
            e, one = load(grad, n) + fetch(2, by_h, n), real(1, z)
            store(0, grads, n, e * (t - old) * z * (one - z))
            store(1, by_candidate, n, e * z * (one - t * t))
            store(2, of_h, n, e * (one - z))


@Kernel
def gru_reset_backward(like):
    """``gru_reset`` back: gates, h before, gradients by the gates (r of them), by s(r) h, which becomes 0, and by h."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        gates, before, grads = (
            _row(args, FIRST, b, p, like),
            _row(args, SECOND, b, p, like),
            _row(args, THIRD, b, p, like),
        )
        by_reset, by_h = _row(args, FOURTH, b, p, like), _row(args, FIFTH, b, p, like)
        for n in range(width):
            r, e = _sigmoid(load(gates, width + n)), fetch(1, by_reset, n)
            store(0, grads, width + n, e * load(before, n) * r * (real(1, r) - r))
            store(1, by_reset, n, real(0, r))
            store(2, by_h, n, fetch(2, by_h, n) + e * r)


# Rows as they are


@Kernel
def copy(like):
    """y = x: B, P, n, x, y."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        x, y = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like)
        for n in range(0, width, LANES):
            count = min(LANES, width - n)
            put_part(y, n, count, vector_part(x, n, count))


@Kernel
def move(like):
    """y += x, and x = 0: B, P, n, x, y."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        x, y = _row(args, FIRST, b, p, like), _row(args, SECOND, b, p, like)
        for n in range(0, width, LANES):
            count = min(LANES, width - n)
            put_part(y, n, count, vector_part(y, n, count) + vector_part(x, n, count))
            put_part(x, n, count, vector_part(x, 0, 0))


@Kernel
def clear(like):
    """y = 0: B, P, n, y."""
    args = integers(like)
    places, width = load(args, PLACES), load(args, CHANNELS)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        y = _row(args, FIRST, b, p, like)
        for n in range(0, width, LANES):
            put_part(y, n, min(LANES, width - n), vector_part(y, 0, 0))
