"""A seal at the end of a file: a mark and the SHA-256 of all bytes before it.

HDF5 reads files by the addresses in them and never looks behind their end, so that a sealed NetCDF is one like any
other. But of the damages to its own structures HDF5 notices few, and by some it is led round in circles for ever: a
broken seal is seen before HDF5 is asked.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import xarray as xr

ABOUT = "SHA-256 of all bytes before, at the end of this file"
MARK = b"\nminconv sha256 "
SIZE = len(MARK) + 64  # bytes of a seal

# what the libraries that read data raise where a file is damaged, each in its own way
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SystemError)


def seal(path: str | Path) -> None:
    """Appends a seal to a file that is complete."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with open(path, "ab") as file:
        file.write(MARK + digest.encode())


def opened(path: str | Path, read: Callable[[str | Path], xr.Dataset]) -> xr.Dataset:
    """``read(path)``, after its seal was checked; raises ValueError where that is broken, or told of and missing."""
    sealed = _sealed(path)  # before HDF5 reads what is damaged
    dataset = read(path)
    if "seal" in dataset.attrs and not sealed:
        dataset.close()
        raise ValueError("the seal at its end is missing")
    return dataset


def _sealed(path: str | Path) -> bool:
    """Whether a file ends with a seal; raises ValueError where it does and other bytes were sealed."""
    left = Path(path).stat().st_size - SIZE
    with open(path, "rb") as file:
        file.seek(max(left, 0))
        end = file.read()
        if not end.startswith(MARK):
            return False
        file.seek(0)
        digest = hashlib.sha256()
        while left:
            block = file.read(min(left, 1 << 16))
            digest.update(block)
            left -= len(block)
    if end != MARK + digest.hexdigest().encode():
        raise ValueError("its bytes are not those that were sealed")
    return True
