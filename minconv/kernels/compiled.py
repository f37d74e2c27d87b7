"""What the CPU's kernels are written with: how one is compiled and called, memory, vectors, functions.

A ``Kernel`` gets one address, where its arguments lie as whole numbers: a tensor as its address and its strides but
the last, which is 1. It is compiled at its first call, and cached beside its file or where Numba's ``NUMBA_CACHE_DIR``
says, so that a second process starts at once. Numba compiles anew what is in a file that has changed, and does not see
a change in another: a file of kernels names the ``digest`` of this one, and so changes with it.

Kernels read and write through ``load``, ``fetch`` and ``store``, which promise the compiler that what is stored as one
output is not what is stored as another (and read back with ``fetch``), nor anything that is only read (with ``load``).
So loops become vector instructions without a comparison of all addresses before each.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from operator import add, mul, sub
from threading import local
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, float32, float64, njit, types, void
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from torch import Tensor

from minconv.kernels import openmp
from minconv.kernels.openmp import barrier, part, parts
from minconv.runtime.progress import announced


class _Recording(local):
    program: Any = None


recording = _Recording()  # the ``Program`` that takes down what kernels are called with, instead of their being run

WORTH_THREADS = 1 << 14  # elements: less is done before a second thread is awake
OUTPUTS = 6  # arrays that one kernel may store to
NUMBERS = {torch.float32: float32, torch.float64: float64}

# contract: a * b + c in one instruction, and nothing else, so that NaN stays NaN; numpy: a division by 0 gives inf
FLAGS = {"fastmath": {"contract"}, "error_model": "numpy"}
inlined = njit(forceinline=True, **FLAGS)
apart = njit(**FLAGS)  # what is large and called from several places: compiled once


def threads(size: int) -> int:
    """How many share the work on so many elements."""
    return torch.get_num_threads() if size >= WORTH_THREADS and openmp.parallel else 1


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
            if isinstance(arg, int):
                numbers.append(arg)
            else:
                numbers.append(arg.data_ptr())
                numbers.extend(arg.stride()[:-1])
        compiled = self.compiled(dtype)
        if recording.program is not None:
            recording.program.add(compiled.address, size, numbers)
            return
        packed = (ctypes.c_ssize_t * len(numbers))(*numbers)
        run(compiled, ctypes.addressof(packed), threads(size))


def run(compiled: Any, packed: int, count: int) -> None:
    """What a kernel was compiled to, with the address of its arguments, by so many threads."""
    if count > 1:
        openmp.parallel(compiled.address, packed, count, 0)
    else:
        compiled.ctypes(ctypes.cast(packed, compiled.ctypes.argtypes[0]))


def scratch(*shape: int) -> Tensor:
    """Memory for what one call of a kernel needs, in float32: that of a program, if one takes it down."""
    return torch.empty(shape) if recording.program is None else recording.program.shared(*shape)


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
def together():
    """Waits for all threads."""
    if parts() > 1:
        barrier()


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
    if isinstance(like, Vector):
        number = like.dtype
        return lambda value, like: spread(number(value), like)
    return (lambda value, like: float32(value)) if like == float32 else (lambda value, like: float64(value))


# Vectors: several numbers at once, said outright where a loop would leave it to the compiler to find out


class Vector(types.Type):
    """LANES numbers of a dtype, in a register or two."""

    def __init__(self, dtype: Any):
        super().__init__(f"Vector({dtype})")
        self.dtype = dtype


LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.dtype).get_value_type(), LANES))


def _vector_at(context: Any, builder: Any, kind: Vector, array: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(array, [index]), context.get_value_type(kind).as_pointer())


@intrinsic
def vector(typingctx: Any, array: Any, index: Any) -> Any:
    """``array[index : index + LANES]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _vector_at(context, builder, signature.return_type, *args)
        return builder.load(where, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def put(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index : index + LANES] = value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _vector_at(context, builder, value, *args[:2]), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


def _mask(builder: Any, count: Any) -> Any:
    """True for the first ``count`` lanes."""
    lanes = ir.VectorType(ir.IntType(64), LANES)
    one = builder.insert_element(ir.Constant(lanes, ir.Undefined), count, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(LANES))), builder.shuffle_vector(one, one, zeros))


def _masked(context: Any, builder: Any, name: str, kind: Vector, result: Any, count: Any, *args: Any) -> Any:
    """LLVM's masked load or store of the first ``count`` lanes."""
    mask = _mask(builder, count)
    align = ir.IntType(32)(kind.dtype.bitwidth // 8)
    values = [*args[:-1], align, mask, args[-1]] if name == "load" else [*args, align, mask]
    signature = ir.FunctionType(result, [value.type for value in values])
    of = f"v{LANES}f{kind.dtype.bitwidth}"
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.{name}.{of}.p0{of}")
    return builder.call(function, values)


@intrinsic
def vector_part(typingctx: Any, array: Any, index: Any, count: Any) -> Any:
    """``array[index : index + count]``, and zeros."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.return_type
        where, result = _vector_at(context, builder, kind, *args[:2]), context.get_value_type(kind)
        return _masked(context, builder, "load", kind, result, args[2], where, ir.Constant(result, None))

    return Vector(array.dtype)(array, types.intp, types.intp), codegen


@intrinsic
def put_part(typingctx: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """``array[index : index + count]`` = the first of ``value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _vector_at(context, builder, value, *args[:2])
        _masked(context, builder, "store", value, ir.VoidType(), args[2], args[3], where)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), codegen


def _elementwise(instruction: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=("contract",))

        return x(x, x), codegen

    return operation


_sum, _difference, _product = map(_elementwise, ("fadd", "fsub", "fmul"))


def _of_vectors(operator: Any, operation: Any) -> None:
    @overload(operator, jit_options=FLAGS)
    def choose(x, y):
        return (lambda x, y: operation(x, y)) if isinstance(x, Vector) and x == y else None


for _operator, _operation in ((add, _sum), (sub, _difference), (mul, _product)):
    _of_vectors(_operator, _operation)


@intrinsic
def spread(typingctx: Any, value: Any, like: Any) -> Any:
    """The vector of one number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        empty = ir.Constant(context.get_value_type(like), ir.Undefined)
        one = builder.insert_element(empty, args[0], ir.IntType(32)(0))
        return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

    return like(like.dtype, like), codegen


@intrinsic
def total(typingctx: Any, value: Any, count: Any) -> Any:
    """The sum of the vector's first ``count`` numbers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, number = context.get_value_type(value), context.get_value_type(value.dtype)
        kept = builder.select(_mask(builder, args[1]), args[0], ir.Constant(kind, None))
        of = f"v{LANES}f{value.dtype.bitwidth}"
        name = f"llvm.vector.reduce.fadd.{of}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number, kind]), name)
        return builder.call(function, [ir.Constant(number, 0.0), kept], fastmath=("reassoc",))

    return value.dtype(value, types.intp), codegen


@intrinsic
def call(typingctx: Any, address: Any, array: Any, index: Any) -> Any:
    """Runs the kernel at an address on the arguments ``array[index:]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = builder.gep(args[1], [args[2]])
        function = ir.FunctionType(ir.VoidType(), [where.type]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), [where])
        return context.get_dummy_value()

    return types.void(types.intp, array, types.intp), codegen
