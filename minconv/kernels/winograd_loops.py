"""Loops of a 3 x 3 convolution by Winograd's F(4 x 4, 3 x 3): 36 products where 4 x 4 places take 144.

A tile of 6 x 6 places d gives 4 x 4 of the output, y = A' [sum over channels (G g G') * (B' d B)] A, with ' for
transposed, * elementwise, and the matrices of Toom and Cook for the points 0, +-a, +-b and infinity. The usual points
0, +-1, +-2 round twice as much as these.

Everything here is one thing: a grid of vectors along the dense axis is multiplied from both sides by one of these
matrices or its transposed, so that the gradients are exact. Where the grid lies is said by tables of offsets, so that
padding, dilation and ragged edges are tables.
"""

from minconv.kernels.compiled import (
    LANES,
    Kernel,
    apart,
    inlined,
    integers,
    load,
    part,
    parts,
    pointer,
    put,
    put_part,
    real,
    share,
    size_of,
    spread,
    together,
    vector,
    vector_part,
)

COMPILED = "cc757e55"  # the digest of compiled.py, see there

POINTS = A, B = 5 / 8, 3 / 2
NODES = 6  # of a line of a tile

# what is made of a line of six numbers x: six, four or three others
TILE, TILE_GRADIENT, FRAME, FRAME_GRADIENT, WEIGHT, WEIGHT_GRADIENT = range(6)

AA, BB = A * A, B * B
OF_A, OF_B, OF_0 = 1 / (2 * AA * (AA - BB)), 1 / (2 * BB * (BB - AA)), 1 / (AA * BB)


@inlined
def _line(kind, u, v, w, x, y, z):
    """B' d, B v, A' m, A y, G g, G' u of one line."""
    a, b, aa, bb = real(A, u), real(B, u), real(AA, u), real(BB, u)
    if kind == TILE:
        even_a, odd_a = y - bb * w, a * (x - bb * v)
        even_b, odd_b = y - aa * w, b * (x - aa * v)
        both, product = real(AA + BB, u), real(AA * BB, u)
        first, last = product * u - both * w + y, product * v - both * x + z
        return first, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, last
    if kind == TILE_GRADIENT:
        even_a, odd_a, even_b, odd_b = v + w, a * (v - w), x + y, b * (x - y)
        both, product = real(AA + BB, u), real(AA * BB, u)
        second = product * z - bb * odd_a - aa * odd_b
        third = real(0, u) - both * u - bb * even_a - aa * even_b
        return product * u, second, third, odd_a + odd_b - both * z, u + even_a + even_b, z
    if kind == FRAME:
        even_a, odd_a, even_b, odd_b = v + w, a * (v - w), x + y, b * (x - y)
        return u + even_a + even_b, odd_a + odd_b, aa * even_a + bb * even_b, aa * odd_a + bb * odd_b + z, u, u
    if kind == FRAME_GRADIENT:
        even_a, odd_a = u + aa * w, a * (v + aa * x)
        even_b, odd_b = u + bb * w, b * (v + bb * x)
        return u, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, x
    of_a, of_b = real(OF_A, u), real(OF_B, u)
    if kind == WEIGHT:
        even_a, odd_a = of_a * (u + aa * w), of_a * (a * v)
        even_b, odd_b = of_b * (u + bb * w), of_b * (b * v)
        return real(OF_0, u) * u, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, w
    even_a, odd_a = of_a * (v + w), of_a * (a * (v - w))
    even_b, odd_b = of_b * (x + y), of_b * (b * (x - y))
    return real(OF_0, u) * u + even_a + even_b, odd_a + odd_b, aa * even_a + bb * even_b + z, u, u, u


# Vectors of a grid: whole ones, and the last, of ``count`` numbers


@inlined
def _whole(array, n, count):
    return vector(array, n)


@inlined
def _part(array, n, count):
    return vector_part(array, n, count)


@inlined
def _put_whole(array, n, count, value):
    put(array, n, value)


@inlined
def _put_part(array, n, count, value):
    put_part(array, n, count, value)


SET, ADD, ADD_ALL = range(3)  # to nothing; to what is there; the same vector to all


@inlined
def _store(how, get, to, array, n, count, value, other):
    if how == ADD:
        to(array, n, count, value + get(array, n, count))
    elif how == ADD_ALL:
        to(array, n, count, value + get(other, n, count))
    else:
        to(array, n, count, value)


@inlined
def _vectors(kind, outputs, how, get, to, s, d, other, n, count):
    x = _line(
        kind,
        get(s[0], n, count),
        get(s[1], n, count),
        get(s[2], n, count),
        get(s[3], n, count),
        get(s[4], n, count),
        get(s[5], n, count),
    )
    _store(how, get, to, d[0], n, count, x[0], other)
    _store(how, get, to, d[1], n, count, x[1], other)
    _store(how, get, to, d[2], n, count, x[2], other)
    if outputs > 3:
        _store(how, get, to, d[3], n, count, x[3], other)
    if outputs > 4:
        _store(how, get, to, d[4], n, count, x[4], other)
        _store(how, get, to, d[5], n, count, x[5], other)


@inlined
def _lines(kind, outputs, how, last, s, d, other, width):
    """The six (or fewer) vectors at s to those at d, along the dense axis, whose ``last`` is put so."""
    whole = width // LANES * LANES
    for n in range(0, whole, LANES):
        _vectors(kind, outputs, how, _whole, _put_whole, s, d, other, n, LANES)
    if whole < width:
        _vectors(kind, outputs, how, _part, last, s, d, other, whole, width - whole)


@inlined
def _strided(start, step, like):
    """Pointers to six vectors, from numbers in units of one byte."""
    return (
        pointer(start, like),
        pointer(start + step, like),
        pointer(start + 2 * step, like),
        pointer(start + 3 * step, like),
        pointer(start + 4 * step, like),
        pointer(start + 5 * step, like),
    )


# Frames: an address, bytes of a frame, and tables of the bytes from there to the places of each tile, or NOWHERE: six
# to a row of tiles, six to a column, and six to a column for rows from beyond a pole, to which BEYOND is added

ADDRESS, SIZE, ROWS, COLUMNS, TURNED, ACROSS = range(6)
SIDE = 6
NOWHERE, BEYOND = -1, 1 << 40


@inlined
def _corner(args, side, number, tiles):
    """Where a tile's tables and its frame begin."""
    frame, tile = divmod(number, tiles)
    down, across = divmod(tile, load(args, side + ACROSS))
    down, across = down * NODES * 8, across * NODES * 8
    start = load(args, side) + frame * load(args, side + SIZE)
    return (
        start,
        load(args, side + ROWS) + down,
        load(args, side + COLUMNS) + across,
        load(args, side + TURNED) + across,
    )


@inlined
def _row(args, corner, i, none, like):
    """Pointers to the six places of row i of a tile."""
    start, rows, columns, turned = corner
    row = load(pointer(rows, args), i)
    if row >= BEYOND:
        row, columns = row - BEYOND, turned
    columns = pointer(columns, args)
    return (
        _place(start, row, load(columns, 0), none, like),
        _place(start, row, load(columns, 1), none, like),
        _place(start, row, load(columns, 2), none, like),
        _place(start, row, load(columns, 3), none, like),
        _place(start, row, load(columns, 4), none, like),
        _place(start, row, load(columns, 5), none, like),
    )


@inlined
def _place(start, row, column, none, like):
    return pointer(none if row == NOWHERE or column == NOWHERE else start + row + column, like)


# Between frames and nodes. The nodes of a tile lie in 36 planes; ``lines`` is memory for 6 x 6 vectors


@inlined
def _read(kind, rows, args, side, number, tiles, nodes, plane, lines, step, zeros, width, like):
    """A tile of a frame to its nodes: kind TILE of six rows or FRAME_GRADIENT of four."""
    corner = _corner(args, side, number, tiles)
    for i in range(rows):
        s = _row(args, corner, i, zeros, like)
        _lines(kind, 6, SET, _put_whole, s, _strided(lines + i * NODES * step, step, like), s[0], width)
    for j in range(NODES):
        s = _strided(lines + j * step, NODES * step, like)
        _lines(kind, 6, SET, _put_whole, s, _strided(nodes + j * plane, NODES * plane, like), s[0], width)


@inlined
def _write(kind, rows, how, args, side, number, tiles, nodes, plane, lines, step, spare, other, width, like, beyond=0):
    """The nodes of a tile to a frame, from ``beyond`` bytes of each place on: kind FRAME to four rows or TILE_GRADIENT
    to six."""
    for j in range(NODES):
        s = _strided(nodes + j * plane, NODES * plane, like)
        _lines(kind, rows, SET, _put_whole, s, _strided(lines + j * step, NODES * step, like), s[0], width)
    start, down, across, turned = _corner(args, side, number, tiles)
    corner, other = (start + beyond, down, across, turned), pointer(other, like)
    for i in range(rows):
        s = _strided(lines + i * NODES * step, step, like)
        _lines(kind, rows, how, _put_part, s, _row(args, corner, i, spare, like), other, width)


# Products of matrices, four rows and three vectors at a time: c (+)= a b


@inlined
def _product(adds, vectors, a, of_row, of_depth, b, by_depth, c, by_row, depth, like):
    """c [4, vectors] of a, whose numbers lie of_row and of_depth apart, and b [depth, vectors]."""
    zero = real(0, vector(b, 0))
    p0 = p1 = p2 = q0 = q1 = q2 = r0 = r1 = r2 = s0 = s1 = s2 = zero
    if adds:
        p0, q0, r0, s0 = vector(c, 0), vector(c, by_row), vector(c, 2 * by_row), vector(c, 3 * by_row)
        if vectors > 1:
            n = LANES
            p1, q1, r1, s1 = vector(c, n), vector(c, by_row + n), vector(c, 2 * by_row + n), vector(c, 3 * by_row + n)
        if vectors > 2:
            n = 2 * LANES
            p2, q2, r2, s2 = vector(c, n), vector(c, by_row + n), vector(c, 2 * by_row + n), vector(c, 3 * by_row + n)
    for k in range(depth):
        u0 = vector(b, k * by_depth)
        u1 = vector(b, k * by_depth + LANES) if vectors > 1 else u0
        u2 = vector(b, k * by_depth + 2 * LANES) if vectors > 2 else u0
        at = k * of_depth
        x = spread(a[at], zero)
        p0, p1, p2 = p0 + x * u0, p1 + x * u1, p2 + x * u2
        x = spread(a[at + of_row], zero)
        q0, q1, q2 = q0 + x * u0, q1 + x * u1, q2 + x * u2
        x = spread(a[at + 2 * of_row], zero)
        r0, r1, r2 = r0 + x * u0, r1 + x * u1, r2 + x * u2
        x = spread(a[at + 3 * of_row], zero)
        s0, s1, s2 = s0 + x * u0, s1 + x * u1, s2 + x * u2
    put(c, 0, p0)
    put(c, by_row, q0)
    put(c, 2 * by_row, r0)
    put(c, 3 * by_row, s0)
    if vectors > 1:
        put(c, LANES, p1)
        put(c, by_row + LANES, q1)
        put(c, 2 * by_row + LANES, r1)
        put(c, 3 * by_row + LANES, s1)
    if vectors > 2:
        put(c, 2 * LANES, p2)
        put(c, by_row + 2 * LANES, q2)
        put(c, 2 * by_row + 2 * LANES, r2)
        put(c, 3 * by_row + 2 * LANES, s2)


@apart
def _multiply(adds, a, of_row, of_depth, b, c, rows, depth, width, like):
    """c [rows, width] (+)= a [rows, depth] b [depth, width], dense b and c; rows divide by four, width by LANES.

    ``a``, ``b`` and ``c`` are addresses.
    """
    size = size_of(like)
    for n in range(0, width, 3 * LANES):
        left = (width - n) // LANES
        of_b = pointer(b + n * size, like)
        for row in range(0, rows, 4):
            of_a, of_c = pointer(a + row * of_row * size, like), pointer(c + (row * width + n) * size, like)
            if left > 2:
                _product(adds, 3, of_a, of_row, of_depth, of_b, width, of_c, width, depth, like)
            elif left > 1:
                _product(adds, 2, of_a, of_row, of_depth, of_b, width, of_c, width, depth, like)
            else:
                _product(adds, 1, of_a, of_row, of_depth, of_b, width, of_c, width, depth, like)


# The kernels. GROUP tiles at a time stay in the cache with all that is made of them. Arguments are numbers and
# addresses, then sides; C and C' stand for channels of x and y, and with _ for the next multiple of LANES

TILES, COUNT, GROUP, INTO, OUT, WEIGHT_AT, BIAS, SCRATCH, OF_THREAD, X, Y = *range(10), 9 + SIDE
GRAD_X, GRAD_WEIGHT, OF_GRADIENT = Y + SIDE, Y + 2 * SIDE, Y + 2 * SIDE + 1


@inlined
def _padded(width):
    return -(-width // LANES) * LANES


@inlined
def _clear(array, width):
    for n in range(0, width, LANES):
        put(array, n, real(0, vector(array, n)))


@Kernel
def convolve(like):
    """y = A' [(B' d B) U] A + bias of COUNT tiles, with U [36, C, C'_]; y += it without a bias (0)."""
    args = integers(like)
    tiles, count, group = load(args, TILES), load(args, COUNT), load(args, GROUP)
    into, out, size = load(args, INTO), load(args, OUT), size_of(like)
    of_v, of_m = _padded(into), _padded(out)
    plane_v, plane_m = (group * of_v + LANES) * size, (group * of_m + LANES) * size
    step = max(of_v, of_m) * size
    zeros = load(args, SCRATCH) + part() * load(args, OF_THREAD) * size  # stay so
    spare, lines = zeros + step, zeros + 2 * step
    _clear(pointer(zeros, like), max(of_v, of_m))
    v = lines + NODES * NODES * step
    m = v + NODES * NODES * plane_v
    first, last = share(-(-count // group))
    for start in range(first * group, min(last * group, count), group):
        some = min(group, count - start)
        for t in range(some):
            at = v + t * of_v * size
            _read(TILE, 6, args, X, start + t, tiles, at, plane_v, lines, step, zeros, into, like)
        for k in range(NODES * NODES):
            u = load(args, WEIGHT_AT) + k * into * of_m * size
            _multiply(False, v + k * plane_v, of_v, 1, u, m + k * plane_m, -(-some // 4) * 4, into, of_m, like)
        for t in range(some):
            at, bias = m + t * of_m * size, load(args, BIAS)
            if bias:
                _write(FRAME, 4, ADD_ALL, args, Y, start + t, tiles, at, plane_m, lines, step, spare, bias, out, like)
            else:
                _write(FRAME, 4, ADD, args, Y, start + t, tiles, at, plane_m, lines, step, spare, at, out, like)


@Kernel
def gradients(like):
    """Of COUNT frames, grad_x += B [(A dy A') U'] B' and grad_U' += (A dy A')' (B' d B), with U' [36, C', C_]; one
    grad_U' for each thread that has frames, of which there are BIAS that were not written to before (or 0). What has
    no address (0) is left out."""
    args = integers(like)
    tiles, count, group = load(args, TILES), load(args, COUNT), load(args, GROUP)
    into, out, size = load(args, INTO), load(args, OUT), size_of(like)
    of_v, of_m = _padded(into), _padded(out)
    plane_v, plane_m = (group * of_v + LANES) * size, (group * of_m + LANES) * size
    step = max(of_v, of_m) * size
    zeros = load(args, SCRATCH) + part() * load(args, OF_THREAD) * size
    spare, lines = zeros + step, zeros + 2 * step
    _clear(pointer(zeros, like), max(of_v, of_m))
    v = lines + NODES * NODES * step
    m = v + NODES * NODES * plane_v
    rows = -(-out // 4) * 4
    first, last = share(count)  # whole frames, as tiles overlap
    number = part() if count >= parts() else first  # of this thread among those that have frames
    of_u = load(args, GRAD_WEIGHT) + number * load(args, OF_GRADIENT) * size
    fresh = load(args, BIAS)
    if part() == 0:  # those of threads that were asked for and are not here
        for missing in range(min(parts(), count), fresh):
            start = load(args, GRAD_WEIGHT) + missing * load(args, OF_GRADIENT) * size
            _clear(pointer(start, like), NODES * NODES * rows * of_v)
    for start in range(first * tiles, last * tiles, group):
        some = min(group, last * tiles - start)
        for t in range(some):
            at = m + t * of_m * size
            _read(FRAME_GRADIENT, 4, args, Y, start + t, tiles, at, plane_m, lines, step, zeros, out, like)
        if load(args, GRAD_WEIGHT):
            for t in range(some):
                at = v + t * of_v * size
                _read(TILE, 6, args, X, start + t, tiles, at, plane_v, lines, step, zeros, into, like)
            adds = start > first * tiles or not fresh
            for k in range(NODES * NODES):
                to = of_u + k * rows * of_v * size
                _multiply(adds, m + k * plane_m, 1, of_m, v + k * plane_v, to, rows, some, of_v, like)
        if load(args, GRAD_X):
            for k in range(NODES * NODES):
                u = load(args, WEIGHT_AT) + k * out * of_v * size
                _multiply(False, m + k * plane_m, of_m, 1, u, v + k * plane_v, -(-some // 4) * 4, out, of_v, like)
            for t in range(some):
                at, to = v + t * of_v * size, start + t
                _write(TILE_GRADIENT, 6, ADD, args, GRAD_X, to, tiles, at, plane_v, lines, step, spare, at, into, like)


V, M = GRAD_X, GRAD_X + 1


@Kernel
def transpose(like):
    """x += B [(A dy A') U'] B' of COUNT tiles, of which threads share tiles, then nodes, then channels, as tiles
    overlap: for frames fewer than threads. V [36, GROUP, C_] and M [36, GROUP, C'_] are theirs together."""
    args = integers(like)
    tiles, count, group = load(args, TILES), load(args, COUNT), load(args, GROUP)
    into, out, size = load(args, INTO), load(args, OUT), size_of(like)
    of_v, of_m = _padded(into), _padded(out)
    plane_v, plane_m = (group * of_v + LANES) * size, (group * of_m + LANES) * size
    step = max(of_v, of_m) * size
    zeros = load(args, SCRATCH) + part() * load(args, OF_THREAD) * size
    spare, lines = zeros + step, zeros + 2 * step
    _clear(pointer(zeros, like), max(of_v, of_m))
    v, m = load(args, V), load(args, M)
    for start in range(0, count, group):
        some = min(group, count - start)
        first, last = share(some)
        for t in range(first, last):
            at = m + t * of_m * size
            _read(FRAME_GRADIENT, 4, args, Y, start + t, tiles, at, plane_m, lines, step, zeros, out, like)
        together()
        first, last = share(NODES * NODES)
        for k in range(first, last):
            u = load(args, WEIGHT_AT) + k * out * of_v * size
            _multiply(False, m + k * plane_m, of_m, 1, u, v + k * plane_v, -(-some // 4) * 4, out, of_v, like)
        together()
        first, last = share(of_v // LANES)
        width, beyond = min(last * LANES, into) - first * LANES, first * LANES * size
        for t in range(some):
            at, to = v + t * of_v * size + beyond, start + t
            _write(TILE_GRADIENT, 6, ADD, args, X, to, tiles, at, plane_v, lines, step, spare, at, width, like, beyond)


FROM, TO, PLANE, KERNELS, WIDTH, LINES, OF_LINES = range(7)


@Kernel
def weights(like):
    """U of KERNELS kernels [3, 3, WIDTH]: from, to, the distance of its planes, KERNELS, WIDTH, scratch."""
    args = integers(like)
    width, size = load(args, WIDTH), size_of(like)
    step, plane = _padded(width) * size, load(args, PLANE) * size
    lines = load(args, LINES) + part() * load(args, OF_LINES) * size
    first, last = share(load(args, KERNELS))
    for kernel in range(first, last):
        at = load(args, FROM) + kernel * 9 * width * size
        for i in range(3):
            s = _strided(at + i * 3 * width * size, width * size, like)
            s = s[0], s[1], s[2], s[0], s[0], s[0]  # what is beyond is not looked at
            _lines(WEIGHT, 6, SET, _put_whole, s, _strided(lines + i * NODES * step, step, like), s[0], width)
        for j in range(NODES):
            s = _strided(lines + j * step, NODES * step, like)
            d = _strided(load(args, TO) + kernel * step + j * plane, NODES * plane, like)
            _lines(WEIGHT, 6, SET, _put_whole, s, d, s[0], width)


@Kernel
def weights_gradient(like):
    """The gradient by the kernels, from that by U; the same arguments."""
    args = integers(like)
    width, size = load(args, WIDTH), size_of(like)
    step, plane = _padded(width) * size, load(args, PLANE) * size
    lines = load(args, LINES) + part() * load(args, OF_LINES) * size
    first, last = share(load(args, KERNELS))
    for kernel in range(first, last):
        for j in range(NODES):
            s = _strided(load(args, FROM) + kernel * step + j * plane, NODES * plane, like)
            _lines(WEIGHT_GRADIENT, 3, SET, _put_whole, s, _strided(lines + j * step, NODES * step, like), s[0], width)
        for i in range(3):
            s = _strided(lines + i * NODES * step, step, like)
            d = _strided(load(args, TO) + (kernel * 9 + i * 3) * width * size, width * size, like)
            _lines(WEIGHT_GRADIENT, 3, SET, _put_part, s, d, s[0], width)
