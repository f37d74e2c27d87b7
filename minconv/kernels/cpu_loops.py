"""The CPU's loops, compiled by Numba: the scan, and the padding of a convolution.

Each goes once over memory where eager operations go several times, in vector instructions along the dense axis, on
PyTorch's threads (``openmp``).

A ``Kernel`` gets one address, where its arguments lie as whole numbers: a tensor as its address and its strides but
the last, which is 1. It is compiled at its first call, and cached beside this file or where Numba's
``NUMBA_CACHE_DIR`` says, so that a second process starts at once. (All kernels are in this one file because Numba
compiles anew what is in a file that has changed, and does not see a change in another.)

Kernels read and write through ``load``, ``fetch`` and ``store``, which promise the compiler that what is stored as one
output is not what is stored as another (and read back with ``fetch``), nor anything that is only read (with ``load``).
So loops become vector instructions without a comparison of all addresses before each.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import cfunc, float32, float64, njit, types, void
from numba.extending import intrinsic, overload
from torch import Tensor

from minconv.kernels import openmp
from minconv.kernels.openmp import part, parts
from minconv.runtime.progress import announced

WORTH_THREADS = 1 << 14  # elements: less is done before a second thread is awake
OUTPUTS = 4  # arrays that one kernel may store to
NUMBERS = {torch.float32: float32, torch.float64: float64}

# contract: a * b + c in one instruction, and nothing else, so that NaN stays NaN; numpy: a division by 0 gives inf
FLAGS = {"fastmath": {"contract"}, "error_model": "numpy"}
inlined = njit(forceinline=True, **FLAGS)


class Kernel:
    """A function of one address; as a decorator. Called with tensors and whole numbers, of which it gets the address.

    The argument's type, a pointer to float32 or float64, tells the type of the real numbers.
    """

    def __init__(self, body: Callable[[Any], None]):
        self.__doc__ = body.__doc__
        self.body = body
        self.compiled = cache(self._compile)

    def _compile(self, dtype: torch.dtype) -> Any:
        signature = void(types.CPointer(NUMBERS[dtype]))
        try:
            with announced("compiling for this CPU, once: it takes some ten seconds"):
                return cfunc(signature, cache=True, **FLAGS)(self.body)
        except RuntimeError:  # nowhere to write a cache to
            with announced("compiling for this CPU, in every process: NUMBA_CACHE_DIR can name a folder to keep it in"):
                return cfunc(signature, **FLAGS)(self.body)

    def __call__(self, dtype: torch.dtype, size: int, *args: Tensor | int) -> None:
        """Runs it.

        Args:
            dtype: float32 or float64, of all tensors.
            size: elements to work through, which decides whether threads pay.
        """
        numbers: list[int] = []
        for arg in args:
            if isinstance(arg, Tensor):
                numbers.append(arg.data_ptr())
                numbers.extend(arg.stride()[:-1])
            else:
                numbers.append(arg)
        packed = (ctypes.c_ssize_t * len(numbers))(*numbers)
        compiled = self.compiled(dtype)
        threads = torch.get_num_threads() if size >= WORTH_THREADS else 1
        if threads > 1 and openmp.parallel:
            openmp.parallel(compiled.address, packed, threads, 0)
        else:
            compiled.ctypes(ctypes.cast(packed, compiled.ctypes.argtypes[0]))


# In kernels


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The array at an address, of numbers as in the array ``like``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(like))

    return like(types.intp, like), codegen


@intrinsic
def integers(typingctx: Any, array: Any) -> Any:
    """The same array read as whole numbers: a kernel's argument, whose type tells that of the real numbers."""
    kind = types.CPointer(types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(array), codegen


@intrinsic
def size_of(typingctx: Any, array: Any) -> Any:
    """Bytes of a number of the array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, array.dtype.bitwidth // 8)

    return types.intp(array), codegen


@inlined
def share(count):
    """First and last + 1 of the items, of so many, that this thread is to do."""
    return count * part() // parts(), count * (part() + 1) // parts()


def _scopes(builder: Any) -> list[Any]:
    """LLVM's names for what ``store`` writes; https://llvm.org/docs/LangRef.html#noalias-and-alias-scope-metadata."""
    domain = builder.module.add_metadata(["minconv"])
    return [builder.module.add_metadata([f"minconv output {number}", domain]) for number in range(OUTPUTS)]


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """``array[index]``, which no ``store`` of the kernel writes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.gep(args[0], [args[1]]))
        value.set_metadata("noalias", builder.module.add_metadata(_scopes(builder)))
        return value

    return array.dtype(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def store(typingctx: Any, output: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value``, where output number ``output`` < OUTPUTS, a literal, overlaps no other array."""
    number = output.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scopes = _scopes(builder)
        instruction = builder.store(args[3], builder.gep(args[1], [args[2]]))
        instruction.set_metadata("alias.scope", builder.module.add_metadata([scopes.pop(number)]))
        instruction.set_metadata("noalias", builder.module.add_metadata(scopes))
        return context.get_dummy_value()

    return types.void(output, array, types.intp, array.dtype), codegen


@intrinsic(prefer_literal=True)
def fetch(typingctx: Any, output: Any, array: Any, index: Any) -> Any:
    """``array[index]``, which the kernel stores as this output and no other."""
    number = output.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scopes = _scopes(builder)
        value = builder.load(builder.gep(args[1], [args[2]]))
        value.set_metadata("alias.scope", builder.module.add_metadata([scopes.pop(number)]))
        value.set_metadata("noalias", builder.module.add_metadata(scopes))
        return value

    return array.dtype(output, array, types.intp), codegen


def exp(x):
    """e^x for x <= 0 in a kernel, to a unit in the last place; NaN stays NaN. (The library's would not vectorise.)

    Below -87 (float32) or -708 (float64) it is that at -87 or -708, 1e-38 or 1e-308.
    """
    raise NotImplementedError("in kernels only")


@inlined
def _exp32(x):
    # x = n ln 2 + r with |r| <= ln(2) / 2: the series of e^r to rounding, and 2^n by its bits
    x = float32(-87) if x < float32(-87) else x
    n = np.rint(x * float32(1.4426950408889634))
    r = (x - n * float32(0.693359375)) + n * float32(2.12194440e-4)
    p = float32(1 / 5040) * r + float32(1 / 720)
    p = ((p * r + float32(1 / 120)) * r + float32(1 / 24)) * r + float32(1 / 6)
    p = ((p * r + float32(1 / 2)) * r + float32(1)) * r + float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def _exp64(x):
    x = -708.0 if x < -708.0 else x
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6
    p = (r / 6227020800 + 1 / 479001600) * r + 1 / 39916800
    p = ((p * r + 1 / 3628800) * r + 1 / 362880) * r + 1 / 40320
    p = ((p * r + 1 / 5040) * r + 1 / 720) * r + 1 / 120
    p = ((p * r + 1 / 24) * r + 1 / 6) * r + 1 / 2
    return ((p * r + 1.0) * r + 1.0) * np.int64((np.int64(n) + 1023) << 52).view(np.float64)


@overload(exp, jit_options=FLAGS)
def _exp(x):
    return (lambda x: _exp32(x)) if x == float32 else (lambda x: _exp64(x))


def real(value: float, like: Any) -> Any:
    """A constant in the type of ``like``: 0.5 alone is float64 in a kernel and would make all that follows so."""
    raise NotImplementedError("in kernels only")


@overload(real, jit_options=FLAGS)
def _real(value, like):
    return (lambda value, like: float32(value)) if like == float32 else (lambda value, like: float64(value))


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
