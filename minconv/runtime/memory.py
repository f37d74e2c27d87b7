"""Settings of the process that decide how fast CPU code runs."""

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h

SAID = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"}  # by the user


@cache
def keep_memory() -> bool:
    """Lets the process keep the memory it frees, for the tensors of the next step.

    By default glibc gives large blocks, always those above 32 MB, back to the system when a tensor is freed, and has
    them again page by page, each cleared first, for the next tensor of that size. That takes longer than many an
    operation on it. ``fit`` and the benchmark call this; a training loop of your own gains as well. The process stays
    as large as it ever was.

    Returns:
        Whether it was done: not where the C library is not glibc, nor where the environment says what is wanted.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or not SAID.isdisjoint(os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    # no mappings of their own for large blocks; never a shrinking heap; which grows in steps of 64 MB
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 1 << 26)])
