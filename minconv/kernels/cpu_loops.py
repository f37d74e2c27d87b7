"""The CPU's loops, compiled by Numba: the scan, the padding of a convolution, and the sum and norm of a layer.

Each goes once over memory where eager operations go several times, in vector instructions along the dense axis, on the
threads of the OpenMP pool that PyTorch has anyway: with a second pool, the threads of one would spin for the cores that
those of the other need. Where no such pool is found, one thread does all.

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
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import cfunc, float32, float64, njit, types, void
from numba.extending import intrinsic, overload
from torch import Tensor

WORTH_THREADS = 1 << 14  # elements: less is done before a second thread is awake
OUTPUTS = 7  # arrays that one kernel may store to
NUMBERS = {torch.float32: float32, torch.float64: float64}

# contract: a * b + c in one instruction, and nothing else, so that NaN stays NaN; numpy: a division by 0 gives inf
FLAGS = {"fastmath": {"contract"}, "error_model": "numpy"}
inlined = njit(forceinline=True, **FLAGS)

# Threads


def _openmp() -> tuple[Any, int, int]:
    """Of the OpenMP that PyTorch runs on: its parallel call, and the addresses of what gives a thread's number and
    their count. Without one, of stand-ins for a single thread."""
    for path in Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"):
        try:
            library = ctypes.CDLL(str(path))  # is loaded already; finds the symbols of what it is linked to, too
            parallel, *others = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return parallel, *(ctypes.cast(function, ctypes.c_void_p).value for function in others)
    alone = ctypes.CFUNCTYPE(ctypes.c_int)
    _openmp.kept = [alone(lambda: 0), alone(lambda: 1)]
    return None, *(ctypes.cast(function, ctypes.c_void_p).value for function in _openmp.kept)


_parallel, *_addresses = _openmp()
for _name, _address in zip(("minconv_part", "minconv_parts"), _addresses, strict=True):
    llvm.add_symbol(_name, _address)
part = types.ExternalFunction("minconv_part", types.int32())  # number of this thread
parts = types.ExternalFunction("minconv_parts", types.int32())  # how many there are


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
            return cfunc(signature, cache=True, **FLAGS)(self.body)
        except RuntimeError:  # nowhere to write a cache to
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
        if threads > 1 and _parallel:
            _parallel(compiled.address, packed, threads, 0)
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

GATINGS = ("linear", "gru", "lstm", "explstm")
LINEAR, GRU, LSTM, EXPLSTM = range(4)
TILE = 1024  # lanes that go through time together, few enough for their states to stay in the first-level cache


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
    x = _row(args, 5, b, t, p, n, like)
    y = _row(args, 9, b, t, p, n, like)
    u = _row(args, 13, b, t, p, n, like)
    before = _row(args, 17, b, 0, p, n, like) if t == 0 else _row(args, 21, b, t - 1, p, n, like)
    if backward:
        grad = _row(args, 25, b, t, p, n, like)
        grad_x = _row(args, 29, b, t, p, n, like)
        grad_y = _row(args, 33, b, t, p, n, like)
        grad_u = _row(args, 37, b, t, p, n, like)
        carry = _row(args, 41, b, 0, p, n, like)
        _backward_row(gating, x, y, u, before, grad, grad_x, grad_y, grad_u, carry, width)
    else:
        _forward_row(gating, x, y, u, before, _row(args, 21, b, t, p, n, like), width)


@inlined
def _scan(backward, like):
    args = integers(like)
    gating, batch, steps, places, lanes = load(args, 0), load(args, 1), load(args, 2), load(args, 3), load(args, 4)
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
                if gating == LINEAR:
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
    _scan(False, args)


@Kernel
def scan_backward(args):
    """x, y, u, h0, h, grad, grad_x, grad_y, grad_u, grad_h0, which is zero before."""
    _scan(True, args)


# Padding of channels_last frames [N, H, W, C] on axes that wrap. Over a pole, rows go on as in a mirror, the longitudes
# turned by half of a circle: row -1 - j is row j turned, and row H + j is row H - 1 - j


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
    height, width, channels, up, left = load(args, 1), load(args, 2), load(args, 3), load(args, 4), load(args, 5)
    pole, x, padded = load(args, 6), pointer(load(args, 7), like), pointer(load(args, 10), like)
    row, margin = width * channels, left * channels
    tall = height + 2 * up
    first, last = share(load(args, 0) * tall)
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
    height, width, channels, up, left = load(args, 1), load(args, 2), load(args, 3), load(args, 4), load(args, 5)
    pole, x, padded = load(args, 6), pointer(load(args, 7), like), pointer(load(args, 10), like)
    row, margin = width * channels, left * channels
    turn = width // 2 * channels if pole else 0
    wide = row + 2 * margin
    first, last = share(load(args, 0) * height)
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


# The norm of a sum: z = x + y; over the places p of each frame and channel, out = w_p (z - mean) / deviation + b_p


@inlined
def _frame(args, k, frame, like):
    return pointer(load(args, k) + frame * load(args, k + 1) * size_of(like), like)


@inlined
def _moments(x, y, z, mean, scale, places, channels, epsilon):
    """z = x + y, its mean and 1 / standard deviation over the places, by channel."""
    one, many, nothing = real(1, epsilon), real(places, epsilon), real(np.nan, epsilon)
    for c in range(channels):
        store(1, mean, c, real(0, epsilon))
        store(2, scale, c, real(0, epsilon))
    for p in range(places):
        for c in range(channels):
            n = p * channels + c
            value = load(x, n) + load(y, n)
            store(0, z, n, value)
            store(1, mean, c, fetch(1, mean, c) + value)
    for c in range(channels):
        store(1, mean, c, fetch(1, mean, c) / many)
    for p in range(places):
        for c in range(channels):
            d = fetch(0, z, p * channels + c) - fetch(1, mean, c)
            store(2, scale, c, fetch(2, scale, c) + d * d)
    for c in range(channels):
        variance = fetch(2, scale, c) / many + epsilon
        # beyond what can be squared, 1 / inf would make every frame a constant, silently
        store(2, scale, c, one / np.sqrt(variance) if variance < real(np.inf, epsilon) else nothing)


@Kernel
def norm_forward(like):
    """N, P, C, x [N, P, C], y, weight [P], bias, epsilon [1], out, moments [N, 2, C]; all dense."""
    args = integers(like)
    places, channels = load(args, 1), load(args, 2)
    weight, bias = pointer(load(args, 9), like), pointer(load(args, 10), like)
    epsilon = load(pointer(load(args, 11), like), 0)
    first, last = share(load(args, 0))
    for frame in range(first, last):
        x = _frame(args, 3, frame, like)
        y = _frame(args, 6, frame, like)
        z = _frame(args, 12, frame, like)
        mean = _frame(args, 15, frame, like)
        scale = pointer(load(args, 15) + (frame * load(args, 16) + channels) * size_of(like), like)
        _moments(x, y, z, mean, scale, places, channels, epsilon)
        for p in range(places):
            w, b = load(weight, p), load(bias, p)
            for c in range(channels):
                n = p * channels + c
                store(0, z, n, (fetch(0, z, n) - fetch(1, mean, c)) * fetch(2, scale, c) * w + b)


@njit(forceinline=True, error_model="numpy", fastmath={"contract", "reassoc"})  # a sum in any order, in vectors
def _dot(x, y, count, zero):
    total = zero
    for n in range(count):
        total += fetch(0, x, n) * load(y, n)
    return total


@njit(forceinline=True, error_model="numpy", fastmath={"reassoc"})
def _sum(x, count, zero):
    total = zero
    for n in range(count):
        total += load(x, n)
    return total


@Kernel
def norm_backward(like):
    """N, P, C, x, y, weight, epsilon, grad [N, P, C], grad_z, scratch [N, 4, C], grad_affine [threads, 2, P], zero."""
    args = integers(like)
    places, channels = load(args, 1), load(args, 2)
    weight = pointer(load(args, 9), like)
    epsilon = load(pointer(load(args, 10), like), 0)
    zero, many = real(0, epsilon), real(places, epsilon)
    grad_weight = _frame(args, 20, part(), like)
    grad_bias = pointer(load(args, 20) + (part() * load(args, 21) + places) * size_of(like), like)
    first, last = share(load(args, 0))
    for frame in range(first, last):
        x = _frame(args, 3, frame, like)
        y = _frame(args, 6, frame, like)
        grad = _frame(args, 11, frame, like)
        z = _frame(args, 14, frame, like)
        scratch = load(args, 17) + frame * load(args, 18) * size_of(like)
        row = channels * size_of(like)
        mean, scale = pointer(scratch, like), pointer(scratch + row, like)
        mean_grad, mean_product = pointer(scratch + 2 * row, like), pointer(scratch + 3 * row, like)
        _moments(x, y, z, mean, scale, places, channels, epsilon)
        for c in range(channels):
            store(3, mean_grad, c, zero)
            store(4, mean_product, c, zero)
        for p in range(places):
            w = load(weight, p)
            for c in range(channels):
                n = p * channels + c
                normal = (fetch(0, z, n) - fetch(1, mean, c)) * fetch(2, scale, c)
                g = load(grad, n) * w
                store(0, z, n, normal)
                store(3, mean_grad, c, fetch(3, mean_grad, c) + g)
                store(4, mean_product, c, fetch(4, mean_product, c) + g * normal)
        for c in range(channels):
            store(3, mean_grad, c, fetch(3, mean_grad, c) / many)
            store(4, mean_product, c, fetch(4, mean_product, c) / many)
        for p in range(places):
            start = p * channels
            row_z = pointer(load(args, 14) + (frame * load(args, 15) + start) * size_of(like), like)
            row_grad = pointer(load(args, 11) + (frame * load(args, 12) + start) * size_of(like), like)
            store(5, grad_weight, p, fetch(5, grad_weight, p) + _dot(row_z, row_grad, channels, zero))
            store(6, grad_bias, p, fetch(6, grad_bias, p) + _sum(row_grad, channels, zero))
            w = load(weight, p)
            for c in range(channels):
                g = load(row_grad, c) * w
                centred = g - fetch(3, mean_grad, c) - fetch(0, row_z, c) * fetch(4, mean_product, c)
                store(0, row_z, c, centred * fetch(2, scale, c))
