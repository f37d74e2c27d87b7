"""Loops of the residual norm of frames: z = x + y, normalised over each channel's plane or over the whole frame.

Frames are [N, P, C] with a dense last axis, places P = HW. Statistics and what is summed for the gradients have rows of
C_ numbers, the next multiple of LANES.
"""

import numpy as np

from minconv.kernels.compiled import (
    LANES,
    Kernel,
    inlined,
    integers,
    load,
    part,
    pointer,
    put,
    put_part,
    real,
    share,
    size_of,
    spread,
    vector,
    vector_part,
)

EPS = 1e-5
FRAMES, PLACES, CHANNELS, WHOLE = range(
    4
)  # WHOLE: over C x H x W, with an affine map per channel; else H x W, per place
X, Y, Z, OUT, MEAN, SCALE, WEIGHT, BIAS = 4, 7, 10, 13, 16, 18, 20, 21  # forwards
OF_Z, GRAD, GRAD_Z, OF_MEAN, OF_SCALE, OF_WEIGHT, SUMS, PARTS, SECOND = 4, 7, 10, 13, 15, 17, 18, 20, 22  # backwards


@inlined
def _get(array, n, width):
    return vector(array, n) if n + LANES <= width else vector_part(array, n, width - n)


@inlined
def _set(array, n, width, value):
    if n + LANES <= width:
        put(array, n, value)
    else:
        put_part(array, n, width - n, value)


@inlined
def _place(args, k, frame, place, like):
    number = frame * load(args, k + 1) + place * load(args, k + 2)
    return pointer(load(args, k) + number * size_of(like), like)


@inlined
def _row(args, k, row, like):
    return pointer(load(args, k) + row * load(args, k + 1) * size_of(like), like)


@inlined
def _rows(args, k, row, step, like):
    """A row's beginning, and what is ``step`` numbers after it."""
    start = load(args, k) + row * load(args, k + 1) * size_of(like)
    return pointer(start, like), pointer(start + step * size_of(like), like)


@inlined
def _means(sums, width, places, whole):
    """Sums over places to means over places, or over all."""
    total = real(0, sums[0])
    for c in range(width):
        total += sums[c]
    for c in range(width):
        sums[c] = total / (places * width) if whole else sums[c] / places


@inlined
def _affine(args, k, n, place, whole, width, zero, like):
    """The weight or bias of a vector: of its channels, or of its place."""
    values = pointer(load(args, k), like)
    return _get(values, n, width) if whole else spread(values[place], zero)


@Kernel
def norm_forward(like):
    """N, P, C, whole; x, y; z, the norm of it; its mean and 1 / deviation [N, C_]; weight, bias."""
    args = integers(like)
    places, width, whole = load(args, PLACES), load(args, CHANNELS), load(args, WHOLE)
    first, last = share(load(args, FRAMES))
    for frame in range(first, last):
        mean, scale = _row(args, MEAN, frame, like), _row(args, SCALE, frame, like)
        for n in range(0, width, LANES):
            total = real(0, vector(mean, n))
            for p in range(places):
                z = _get(_place(args, X, frame, p, like), n, width) + _get(_place(args, Y, frame, p, like), n, width)
                _set(_place(args, Z, frame, p, like), n, width, z)
                total = total + z
            put(mean, n, total)
        _means(mean, width, places, whole)
        for n in range(0, width, LANES):
            middle = vector(mean, n)
            total = real(0, middle)
            for p in range(places):
                off = _get(_place(args, Z, frame, p, like), n, width) - middle
                total = total + off * off
            put(scale, n, total)
        _means(scale, width, places, whole)
        for c in range(width):
            scale[c] = real(1, scale[c]) / np.sqrt(scale[c] + real(EPS, scale[c]))
        for n in range(0, width, LANES):
            middle, factor = vector(mean, n), vector(scale, n)
            zero = real(0, middle)
            for p in range(places):
                off = (_get(_place(args, Z, frame, p, like), n, width) - middle) * factor
                w = _affine(args, WEIGHT, n, p, whole, width, zero, like)
                b = _affine(args, BIAS, n, p, whole, width, zero, like)
                _set(_place(args, OUT, frame, p, like), n, width, off * w + b)


@Kernel
def norm_backward(like):
    """N, P, C, whole; z, gradient of the norm, gradient of z; mean, 1 / deviation, weight; [N, 2 C_] for sums; and what
    the gradients by weight and bias are the sums of, a row for each thread: [C_] each, or [P, LANES] each."""
    args = integers(like)
    places, width, whole = load(args, PLACES), load(args, CHANNELS), load(args, WHOLE)
    of_weight, of_bias = _rows(args, PARTS, part(), load(args, SECOND), like)
    wide = -(-width // LANES) * LANES
    first, last = share(load(args, FRAMES))
    for frame in range(first, last):
        mean, scale = _row(args, OF_MEAN, frame, like), _row(args, OF_SCALE, frame, like)
        sums, along = _rows(args, SUMS, frame, wide, like)
        for n in range(0, width, LANES):
            middle, factor = vector(mean, n), vector(scale, n)
            zero = real(0, middle)
            total, slope, by_weight, by_bias = zero, zero, zero, zero
            for p in range(places):
                off = (_get(_place(args, OF_Z, frame, p, like), n, width) - middle) * factor
                grad = _get(_place(args, GRAD, frame, p, like), n, width)
                moved = grad * off
                if whole:
                    by_weight, by_bias = by_weight + moved, by_bias + grad
                else:
                    put(of_weight, p * LANES, vector(of_weight, p * LANES) + moved)
                    put(of_bias, p * LANES, vector(of_bias, p * LANES) + grad)
                w = _affine(args, OF_WEIGHT, n, p, whole, width, zero, like)
                total, slope = total + grad * w, slope + moved * w
            if whole:
                put(of_weight, n, vector(of_weight, n) + by_weight)
                put(of_bias, n, vector(of_bias, n) + by_bias)
            put(sums, n, total)
            put(along, n, slope)
        _means(sums, width, places, whole)
        _means(along, width, places, whole)
        for n in range(0, width, LANES):
            middle, factor, total, slope = vector(mean, n), vector(scale, n), vector(sums, n), vector(along, n)
            zero = real(0, middle)
            for p in range(places):
                off = (_get(_place(args, OF_Z, frame, p, like), n, width) - middle) * factor
                w = _affine(args, OF_WEIGHT, n, p, whole, width, zero, like)
                grad = _get(_place(args, GRAD, frame, p, like), n, width) * w
                _set(_place(args, GRAD_Z, frame, p, like), n, width, (grad - total - off * slope) * factor)
