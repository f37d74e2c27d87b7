"""The CPU's loops, compiled by Numba: the scan, and the padding of a convolution.

Each goes once over memory where eager operations go several times, in vector instructions along the dense axis, on
PyTorch's threads (``openmp``).
"""

from minconv.kernels.compiled import (
    Kernel,
    exp,
    fetch,
    inlined,
    integers,
    load,
    pointer,
    real,
    share,
    size_of,
    store,
)

COMPILED = "cc757e55"  # the digest of compiled.py, see there

# The scan: h_t = a_t h_{t-1} + w_t g(u_t), with a = sigmoid(-d) and w = sigmoid(d) of the logit d (minconv.core.gates).
# Backwards, with e_t the gradient of the loss by h_t through all that follows,
#
#     e_t = grad h_t + a_{t+1} e_{t+1},    grad d_t = a_t w_t e_t (g(u_t) - h_{t-1}),    grad u_t = w_t e_t g'(u_t)
#
# Lanes are independent, so threads take tiles of them, and go through time with each.

LINEAR, GRU, LSTM, EXPLSTM = range(4)  # as in minconv.kernels.autograd.FUSED
TILE = 1024  # lanes that go through time together, few enough for their states to stay in the first-level cache

# where arguments begin: numbers, then tensors [B, T, P, L], each its address and three strides
GATING, BATCH, STEPS, PLACES, LANES = range(5)
X, Y, U, H0, H, GRAD, GRAD_X, GRAD_Y, GRAD_U, GRAD_H0 = range(5, 45, 4)


@inlined
def _sigmoids(d):
    """sigmoid(-d) and sigmoid(d), each to full relative accuracy."""
    e = exp(-abs(d))
    large = real(1, d) / (real(1, d) + e)
    small = e * large
    return (small, large) if d >= real(0, d) else (large, small)


@inlined
def _lstm(f, i):
    """a, w and sigmoid(-f), sigmoid(-i) of gating lstm: quotients times e^min(f, i, 0), so that nothing overflows."""
    zero, one = real(0, f), real(1, f)
    low, high = (f, i) if f < i else (i, f)
    least = low if low < zero else zero
    of_low, of_high = exp(-abs(low)), exp(least - high)
    shift, of_low = (of_low, one) if low < zero else (one, of_low)
    of_f, of_i = (of_low, of_high) if f < i else (of_high, of_low)
    p, q = shift + of_f, shift + of_i
    r = one / (p + q)
    return q * r, p * r, of_f / p, of_i / q


@inlined
def _coefficients(gating, x, y):
    """a, w, and the derivatives of the logit by x and by y."""
    zero, one = real(0, x), real(1, x)
    if gating == LSTM:
        a, w, of_f, of_i = _lstm(x, y)
        return a, w, -of_f, of_i
    a, w = _sigmoids(y - x if gating == EXPLSTM else x)
    return (a, w, -one, one) if gating == EXPLSTM else (a, w, one, zero)


@inlined
def _candidate(u):
    """g(u) and g'(u)."""
    e = exp(-abs(u))
    s = e / (real(1, u) + e)
    return (u + real(0.5, u), real(1, u)) if u >= real(0, u) else (s, s * (real(1, u) - s))


@inlined
def _forward_row(gating, x, y, u, before, h, width):
    for n in range(width):
        if gating == LINEAR:
            store(0, h, n, load(x, n) * fetch(0, before, n) + load(y, n))
        else:
            a, w, _, _ = _coefficients(gating, load(x, n), load(y, n))
            g, _ = _candidate(load(u, n))
            store(0, h, n, a * fetch(0, before, n) + w * g)


@inlined
def _backward_row(gating, x, y, u, before, grad, grad_x, grad_y, grad_u, carry, width):
    for n in range(width):
        e = load(grad, n) + fetch(3, carry, n)
        if gating == LINEAR:
            store(0, grad_x, n, e * load(before, n))
            store(1, grad_y, n, e)
            store(3, carry, n, e * load(x, n))
        else:
            a, w, of_x, of_y = _coefficients(gating, load(x, n), load(y, n))
            g, slope = _candidate(load(u, n))
            grad_d = a * w * e * (g - load(before, n))
            store(0, grad_x, n, grad_d * of_x)
            if gating != GRU:
                store(1, grad_y, n, grad_d * of_y)
            store(2, grad_u, n, w * e * slope)
            store(3, carry, n, a * e)


@inlined
def _row(args, k, b, t, p, n, like):
    """Where frame t, place p, lane n of argument k begins: a tensor [B, T, P, L]."""
    number = b * load(args, k + 1) + t * load(args, k + 2) + p * load(args, k + 3) + n
    return pointer(load(args, k) + number * size_of(like), like)


@inlined
def _step(gating, backward, args, b, t, p, n, width, like):
    """A tile's lanes of one place at one time."""
    x = _row(args, X, b, t, p, n, like)
    y = _row(args, Y, b, t, p, n, like)
    u = _row(args, U, b, t, p, n, like)
    before = _row(args, H0, b, 0, p, n, like) if t == 0 else _row(args, H, b, t - 1, p, n, like)
    if backward:
        grad = _row(args, GRAD, b, t, p, n, like)
        grad_x = _row(args, GRAD_X, b, t, p, n, like)
        grad_y = _row(args, GRAD_Y, b, t, p, n, like)
        grad_u = _row(args, GRAD_U, b, t, p, n, like)
        carry = _row(args, GRAD_H0, b, 0, p, n, like)
        _backward_row(gating, x, y, u, before, grad, grad_x, grad_y, grad_u, carry, width)
    else:
        _forward_row(gating, x, y, u, before, _row(args, H, b, t, p, n, like), width)


@inlined
def _steady_step(backward, args, b, t, p, n, width, like):
    """The same of h_t = a h_{t-1} + b_t with complex numbers, (Re, Im) side by side, where a is that of all times."""
    a = _row(args, X, b, 0, p, n, like)
    before = _row(args, H0, b, 0, p, n, like) if t == 0 else _row(args, H, b, t - 1, p, n, like)
    if backward:
        grad, grad_b = _row(args, GRAD, b, t, p, n, like), _row(args, GRAD_Y, b, t, p, n, like)
        grad_a, carry = _row(args, GRAD_X, b, 0, p, n, like), _row(args, GRAD_H0, b, 0, p, n, like)
        for re in range(0, width, 2):
            im = re + 1
            x, y = load(grad, re) + fetch(3, carry, re), load(grad, im) + fetch(3, carry, im)
            u, v, c, s = load(before, re), load(before, im), load(a, re), load(a, im)
            sum_re, sum_im = fetch(0, grad_a, re), fetch(0, grad_a, im)
            store(0, grad_a, re, sum_re + (x * u + y * v))  # e_t conj(h_{t-1})
            store(0, grad_a, im, sum_im + (y * u - x * v))
            store(1, grad_b, re, x)
            store(1, grad_b, im, y)
            store(3, carry, re, x * c + y * s)
            store(3, carry, im, y * c - x * s)
    else:
        of_b, h = _row(args, Y, b, t, p, n, like), _row(args, H, b, t, p, n, like)
        for re in range(0, width, 2):
            im = re + 1
            u, v, c, s = fetch(0, before, re), fetch(0, before, im), load(a, re), load(a, im)
            store(0, h, re, c * u - s * v + load(of_b, re))
            store(0, h, im, c * v + s * u + load(of_b, im))


@inlined
def _scan(backward, steady, like):
    args = integers(like)
    gating, batch, steps = load(args, GATING), load(args, BATCH), load(args, STEPS)
    places, lanes = load(args, PLACES), load(args, LANES)
    group = max(1, TILE // max(1, lanes))  # places of a tile
    across, along = -(-places // group), -(-lanes // TILE)
    first, last = share(batch * across * along)
    for tile in range(first, last):
        b, rest = divmod(tile, across * along)
        start, n = rest // along * group, rest % along * TILE
        width = min(TILE, lanes - n)
        for step in range(steps):
            t = steps - 1 - step if backward else step
            for p in range(start, min(start + group, places)):
                if steady:
                    _steady_step(backward, args, b, t, p, n, width, like)
                elif gating == LINEAR:
                    _step(LINEAR, backward, args, b, t, p, n, width, like)
                elif gating == GRU:
                    _step(GRU, backward, args, b, t, p, n, width, like)
                elif gating == LSTM:
                    _step(LSTM, backward, args, b, t, p, n, width, like)
                else:
                    _step(EXPLSTM, backward, args, b, t, p, n, width, like)


@Kernel
def scan_forward(args):
    """x, y, u, h0, h: with x, y, u the blocks of a gating (y = x where it has two; u = x for linear), lanes."""
    _scan(False, False, args)


@Kernel
def scan_backward(args):
    """x, y, u, h0, h, grad, grad_x, grad_y, grad_u, grad_h0, which is zero before."""
    _scan(True, False, args)


@Kernel
def steady_forward(args):
    """As ``scan_forward`` with x = a [B, 1, P, L], y = b; lanes of (Re, Im)."""
    _scan(False, True, args)


@Kernel
def steady_backward(args):
    """As ``scan_backward``; grad_x is that of a, which is zero before as well."""
    _scan(True, True, args)


# Padding of channels_last frames [N, H, W, C] on axes that wrap. Over a pole, rows go on as in a mirror, the longitudes
# turned by half of a circle: row -1 - j is row j turned, and row H + j is row H - 1 - j

# where arguments begin: numbers, then two dense tensors, each its address and two strides
FRAMES, HEIGHT, WIDTH, CHANNELS, UP, LEFT, POLE, FRAME, PADDED = *range(8), 10


@inlined
def _copy(target, start, source, first, count):
    for n in range(count):
        store(0, target, start + n, load(source, first + n))


@inlined
def _add(target, start, source, first, count):
    for n in range(count):
        store(0, target, start + n, fetch(0, target, start + n) + load(source, first + n))


@inlined
def _copy_round(target, start, source, first, row, place, count):
    """Of the row from ``first`` on, ``count`` numbers from ``place`` on, after its last the first again."""
    done = 0
    while done < count:
        some = min(row - place, count - done)
        _copy(target, start + done, source, first + place, some)
        done, place = done + some, 0


@inlined
def _add_round(target, start, row, place, source, first, count):
    """To the row from ``start`` on, ``count`` numbers from ``place`` on, after its last the first again."""
    done = 0
    while done < count:
        some = min(row - place, count - done)
        _add(target, start + place, source, first + done, some)
        done, place = done + some, 0


@Kernel
def wrap(like):
    """Margins of ``up`` rows and ``left`` columns from the other side, or from over the pole (0 or 1): N, H, W, C, up,
    left, pole, x, padded; both dense."""
    args = integers(like)
    height, width, channels = load(args, HEIGHT), load(args, WIDTH), load(args, CHANNELS)
    up, left, pole = load(args, UP), load(args, LEFT), load(args, POLE)
    x, padded = pointer(load(args, FRAME), like), pointer(load(args, PADDED), like)
    row, margin = width * channels, left * channels
    tall = height + 2 * up
    first, last = share(load(args, FRAMES) * tall)
    for number in range(first, last):
        frame, r = divmod(number, tall)
        r, turn = r - up, 0
        if pole and not 0 <= r < height:
            r, turn = height - 1 - r, width // 2 * channels
        source = (frame * height + r % height) * row
        _copy_round(padded, number * (row + 2 * margin), x, source, row, (turn - margin) % row, row + 2 * margin)


@inlined
def _add_margins(x, target, padded, source, row, margin, turn):
    _add_round(x, target, row, (turn - margin) % row, padded, source, margin)
    _add_round(x, target, row, turn, padded, source + margin + row, margin)


@inlined
def _add_row(x, target, padded, source, row, margin, turn):
    _add_round(x, target, row, turn, padded, source + margin, row)
    _add_margins(x, target, padded, source, row, margin, turn)


@Kernel
def fold(like):
    """The gradient of ``wrap``: x, from the gradient of padded."""
    args = integers(like)
    height, width, channels = load(args, HEIGHT), load(args, WIDTH), load(args, CHANNELS)
    up, left, pole = load(args, UP), load(args, LEFT), load(args, POLE)
    x, padded = pointer(load(args, FRAME), like), pointer(load(args, PADDED), like)
    row, margin = width * channels, left * channels
    turn = width // 2 * channels if pole else 0
    wide = row + 2 * margin
    first, last = share(load(args, FRAMES) * height)
    for number in range(first, last):
        frame, r = divmod(number, height)
        target, source = number * row, (frame * (height + 2 * up) + up) * wide
        _copy(x, target, padded, source + r * wide + margin, row)
        _add_margins(x, target, padded, source + r * wide, row, margin, 0)
        r = height - 1 - r if pole else r
        if r >= height - up:  # is also a row of the upper margin
            _add_row(x, target, padded, source + (r - height) * wide, row, margin, turn)
        if r < up:  # and of the lower one
            _add_row(x, target, padded, source + (r + height) * wide, row, margin, turn)
