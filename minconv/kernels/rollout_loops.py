"""Loops of the closed loop between its layers: encoder and decoder, of a few channels, and norms of residual sums.

Rows are the numbers of one place: tensors [B, P, n], dense along n.
"""

import numpy as np

from minconv.kernels.compiled import (
    LANES,
    Kernel,
    inlined,
    integers,
    load,
    pointer,
    put_part,
    share,
    size_of,
    spread,
    total,
    vector_part,
)

COMPILED = "cc757e55"  # the digest of compiled.py, see there


@inlined
def _row(args, k, b, p, like):
    """Where place p of frame b of argument k begins."""
    return pointer(load(args, k) + (b * load(args, k + 1) + p * load(args, k + 2)) * size_of(like), like)


# Between few channels and many: numbers, two tensors, a matrix [few, many], a bias, and what is added


BATCH, PLACES, FEW, MANY, FROM, TO, MATRIX, BIAS, ADDED, ADDED_TOO = *range(5), 7, 10, 11, 12, 15


@Kernel
def widen(like):
    """y [B, P, many] = x [B, P, few] W + bias: B, P, few, many, x, y, W, bias (0 for none)."""
    args = integers(like)
    places, few, many = load(args, PLACES), load(args, FEW), load(args, MANY)
    matrix, bias = pointer(load(args, MATRIX), like), pointer(load(args, BIAS), like)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        x, y = _row(args, FROM, b, p, like), _row(args, TO, b, p, like)
        for n in range(0, many, LANES):
            count = min(LANES, many - n)
            value = vector_part(bias, n, count if load(args, BIAS) else 0)
            for c in range(few):
                value = value + spread(x[c], value) * vector_part(matrix, c * many + n, count)
            put_part(y, n, count, value)


@Kernel
def narrow(like):
    """y [B, P, few] = x [B, P, many] W' + bias + what is added: B, P, few, many, x, y, W, bias, two tensors
    [B, P, few] (each 0 for none)."""
    args = integers(like)
    places, few, many = load(args, PLACES), load(args, FEW), load(args, MANY)
    matrix, bias = pointer(load(args, MATRIX), like), pointer(load(args, BIAS), like)
    first, last = share(load(args, BATCH) * places)
    for number in range(first, last):
        b, p = divmod(number, places)
        x, y = _row(args, FROM, b, p, like), _row(args, TO, b, p, like)
        for c in range(few):
            value = vector_part(x, 0, 0)
            for n in range(0, many, LANES):
                count = min(LANES, many - n)
                value = value + vector_part(x, n, count) * vector_part(matrix, c * many + n, count)
            result = total(value, LANES)
            if load(args, BIAS):
                result += bias[c]
            if load(args, ADDED):
                result += _row(args, ADDED, b, p, like)[c]
            if load(args, ADDED_TOO):
                result += _row(args, ADDED_TOO, b, p, like)[c]
            y[c] = result


# Norms of z = x + y: s = (z - mean) / deviation over the places of a channel (PLANE), all of a frame (FRAME) or the
# channels of a place (ROW); then s w + b, with w and b of a place (PLANE) or a channel. Backwards, with g = w grad,
#
#     grad z = (g - mean of g - s * mean of g s) / deviation

PLANE, FRAME, ROW = range(3)
EPS = 1e-5
KIND, COUNT, SIZE, WIDTH, WEIGHT, SHIFT, SCALE, S = range(8)  # SCALE is 1 / deviation [B, C], [B, 1] or [B, P]
X, Y, RESULT = 10, 13, 16  # tensors forward
GRAD, GRAD_Z = 10, 13  # and back


@inlined
def _rows(args, k, b, like):
    """Of frame b of argument k, where it begins and how far its places are apart, in bytes."""
    return load(args, k) + b * load(args, k + 1) * size_of(like), load(args, k + 2) * size_of(like)


@inlined
def _at(rows, p, like):
    return pointer(rows[0] + p * rows[1], like)


@inlined
def _frame(args, backward, b, like):
    """What is read, s, what is written, and w and b."""
    if backward:
        grad = _rows(args, GRAD, b, like)
        read, to = (grad, grad), _rows(args, GRAD_Z, b, like)
    else:
        read, to = (_rows(args, X, b, like), _rows(args, Y, b, like)), _rows(args, RESULT, b, like)
    return read, _rows(args, S, b, like), to, pointer(load(args, WEIGHT), like), pointer(load(args, SHIFT), like)


@inlined
def _affine(kind, array, p, n, count):
    """w or b of a vector of a place."""
    return spread(array[p], vector_part(array, 0, 0)) if kind == PLANE else vector_part(array, n, count)


@inlined
def _part(frame, backward, kind, p, n, count, like):
    """z, or g, of a vector of a place."""
    x, y = frame[0]
    if backward:
        return vector_part(_at(x, p, like), n, count) * _affine(kind, frame[3], p, n, count)
    return vector_part(_at(x, p, like), n, count) + vector_part(_at(y, p, like), n, count)


@inlined
def _second(frame, backward, kind, p, n, count, mean, like):
    """(z - mean)^2, or g s."""
    value = _part(frame, backward, kind, p, n, count, like)
    if backward:
        return value * vector_part(_at(frame[1], p, like), n, count)
    return (value - mean) * (value - mean)


@inlined
def _finish(frame, backward, kind, p, n, count, mean, second, scale, like):
    """s and the result, or grad z, of a vector of a place."""
    value, of_s = _part(frame, backward, kind, p, n, count, like) - mean, _at(frame[1], p, like)
    if backward:
        put_part(_at(frame[2], p, like), n, count, (value - vector_part(of_s, n, count) * second) * scale)
    else:
        s = value * scale
        put_part(of_s, n, count, s)
        result = s * _affine(kind, frame[3], p, n, count) + _affine(kind, frame[4], p, n, count)
        put_part(_at(frame[2], p, like), n, count, result)


@inlined
def _over_plane(args, backward, b, n, count, like):
    """A vector of channels at all places."""
    frame, places = _frame(args, backward, b, like), load(args, SIZE)
    scale = pointer(load(args, SCALE) + (b * load(args, WIDTH) + n) * size_of(like), like)
    mean = second = vector_part(scale, 0, 0)
    of_one = spread(np.float32(1) / np.float32(places), mean)
    for p in range(places):
        mean = mean + _part(frame, backward, PLANE, p, n, count, like)
    mean = mean * of_one
    for p in range(places):
        second = second + _second(frame, backward, PLANE, p, n, count, mean, like)
    second = second * of_one
    if not backward:
        put_part(scale, 0, count, second)
        for c in range(count):
            scale[c] = np.float32(1) / np.sqrt(scale[c] + np.float32(EPS))
    factor = vector_part(scale, 0, count)
    for p in range(places):
        _finish(frame, backward, PLANE, p, n, count, mean, second, factor, like)


@inlined
def _over_places(args, backward, kind, b, number, start, stop, first, last, like):
    """Mean and deviation over the places from start to stop; the result at those from first to last."""
    frame, width = _frame(args, backward, b, like), load(args, WIDTH)
    scale = pointer(load(args, SCALE), like)
    zero = vector_part(scale, 0, 0)
    of_one = np.float32(1) / np.float32((stop - start) * width)
    mean, second = np.float32(0), np.float32(0)
    for n in range(0, width, LANES):
        count, sums = min(LANES, width - n), zero
        for p in range(start, stop):
            sums = sums + _part(frame, backward, kind, p, n, count, like)
        mean += total(sums, count)
    mean *= of_one
    for n in range(0, width, LANES):
        count, sums = min(LANES, width - n), zero
        for p in range(start, stop):
            sums = sums + _second(frame, backward, kind, p, n, count, spread(mean, zero), like)
        second += total(sums, count)
    second *= of_one
    factor = scale[number] if backward else np.float32(1) / np.sqrt(second + np.float32(EPS))
    means = spread(mean, zero), spread(second, zero), spread(factor, zero)
    for n in range(0, width, LANES):
        count = min(LANES, width - n)
        for p in range(first, last):
            _finish(frame, backward, kind, p, n, count, *means, like)
    if not backward:
        scale[number] = factor  # of all who computed it the same


@inlined
def _norm(backward, like):
    args = integers(like)
    kind, frames, places, width = load(args, KIND), load(args, COUNT), load(args, SIZE), load(args, WIDTH)
    if kind == PLANE:
        across = -(-width // LANES)
        first, last = share(frames * across)
        for number in range(first, last):
            b, block = divmod(number, across)
            _over_plane(args, backward, b, block * LANES, min(LANES, width - block * LANES), like)
        return
    first, last = share(frames * places)
    if kind == FRAME:
        for b in range(first // places, -(-last // places)):
            start = b * places
            mine = max(first, start) - start, min(last, start + places) - start
            _over_places(args, backward, FRAME, b, b, 0, places, *mine, like)
    else:
        for number in range(first, last):
            b, p = divmod(number, places)
            _over_places(args, backward, ROW, b, number, p, p + 1, p, p + 1, like)


@Kernel
def norm_forward(like):
    """Kind, B, P, C, w, b, 1 / deviation, s, x, y, result."""
    _norm(False, like)


@Kernel
def norm_backward(like):
    """Kind, B, P, C, w, b, 1 / deviation, s, grad, grad z."""
    _norm(True, like)
