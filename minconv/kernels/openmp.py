"""Compiled loops on the threads of the OpenMP pool that PyTorch has anyway.

With a second pool, as Numba's own, the threads of one would spin for the cores that those of the other need. So loops
are handed to ``GOMP_parallel``, the entry that compilers emit for a parallel region, of the library that
``libtorch_cpu`` is linked to: a private contract between compiler and OpenMP, kept by libgomp and by LLVM's libomp, and
used here alone. Where it is not found, one thread does all.
"""

import ctypes
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import torch
from numba import types


def _openmp() -> tuple[Any, int, int]:
    """Of the OpenMP that PyTorch runs on: its parallel call, and the addresses of what gives a thread's number, their
    count, and a barrier. Without one, of stand-ins for a single thread."""
    for path in Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"):
        try:
            library = ctypes.CDLL(str(path))  # is loaded already; finds the symbols of what it is linked to, too
            call, barrier = library.GOMP_parallel, library.GOMP_barrier
            others = library.omp_get_thread_num, library.omp_get_num_threads, barrier
        except (OSError, AttributeError):
            continue
        call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return call, *(ctypes.cast(function, ctypes.c_void_p).value for function in others)
    alone = ctypes.CFUNCTYPE(ctypes.c_int)
    _openmp.kept = [alone(lambda: 0), alone(lambda: 1), alone(lambda: 0)]
    return None, *(ctypes.cast(function, ctypes.c_void_p).value for function in _openmp.kept)


parallel, *_addresses = _openmp()  # parallel(function's address, its argument's address, threads, 0); or None
for _name, _address in zip(("minconv_part", "minconv_parts", "minconv_barrier"), _addresses, strict=True):
    llvm.add_symbol(_name, _address)

# in compiled code: the number of this thread, how many there are, and to wait for all of them
part = types.ExternalFunction("minconv_part", types.int32())
parts = types.ExternalFunction("minconv_parts", types.int32())
barrier = types.ExternalFunction("minconv_barrier", types.void())
