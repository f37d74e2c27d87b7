"""NetCDF files that say what made them, and that end with a seal: a mark and the SHA-256 of all bytes before it.

HDF5 reads files by the addresses in them and never looks behind their end, so that a sealed NetCDF is one like any
other. But of the damages to its own structures HDF5 notices few, and by some it is led round in circles for ever: a
broken seal is seen before HDF5 is asked.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from minconv.runtime import processes
from minconv.runtime.files import atomic, claim_room
from minconv.runtime.provenance import provenance

MARK = b"\nminconv sha256 "
SIZE = len(MARK) + 64  # bytes of a seal

# attributes by which a reader decodes values, where they are left from the file that values were read from
DECODING = {
    *("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "dtype"),
    *("valid_range", "valid_min", "valid_max", "coordinates"),
}

# what the libraries that read data raise where a file is damaged, each in its own way
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SystemError)


def cached(path: str | Path, parameters: Mapping[str, Any], make: Callable[[], Any], *, together: bool = False) -> Path:
    """The file at ``path`` with these ``parameters`` among its attributes; ``make`` writes it where there is none.

    A whole file with them is kept as it is; a file with others, and anything that is no such file, is left alone and
    raises ValueError. Under ``torchrun`` every process must call this; the first one makes the file while the others
    wait, or all of them ``together``.
    """
    path = Path(path)
    if not processes.gather(path.exists())[0]:  # the same for all
        if together or processes.rank() == 0:
            make()
        processes.barrier()
    compare(path, parameters)
    return path


def compare(path: str | Path, parameters: Mapping[str, Any]) -> None:
    """Raises ValueError naming every one of ``parameters`` that the file does not have; else as ``opened`` does."""
    with opened(path) as dataset:
        found = dataset.attrs
    differ = [
        f"{name} is {found.get(name)}, not {value}" for name, value in parameters.items() if found.get(name) != value
    ]
    if differ:
        raise ValueError(
            f"{path} has other parameters ({'; '.join(differ)}) and was left as it is; remove it or choose another path"
        )


@contextmanager
def opened(path: str | Path, maker: str = "") -> Iterator[xr.Dataset]:
    """A sealed file as it is stored, times not decoded; its values are not read yet.

    Raises FileNotFoundError, telling that ``maker`` makes the file, or ValueError where the file is truncated, altered
    or not sealed, or where what is done with the dataset finds it to be another than expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}" + f"; {maker} makes it" * bool(maker))
    try:
        _check_seal(path)
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False, cache=False) as dataset:
            yield dataset
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a whole file of minconv's: {error}") from error


def load(path: str | Path, name: str, dims: Sequence[str], maker: str) -> xr.DataArray:
    """The variable ``name`` over ``dims`` in memory, with all of the file's attributes; raises as ``opened`` does."""
    with opened(path, maker) as dataset:
        array = xr.decode_cf(dataset.load())[name].transpose(*dims)
        return array.assign_attrs(dataset.attrs | array.attrs)


def write(
    path: str | Path,
    dataset: xr.Dataset,
    attributes: Mapping[str, Any],
    device: str | Any = "cpu",
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes ``dataset`` as CF NetCDF with ``attributes``, what produced it and a seal; whole or not at all.

    No value stands for a missing one, but where ``encoding``, which is xarray's, has one, and no attribute tells how to
    decode the values. ``device`` is what computed the numbers. Raises ValueError for units that would make dates of
    numbers; OSError, saying what to do, where the disk is full or the folder read-only.
    """
    made_by = {f"provenance_{name}": value for name, value in provenance(device).items()}
    about = {
        "Conventions": "CF-1.11",
        **attributes,
        **made_by,
        "seal": "SHA-256 of all bytes before, at the end of this file",
    }
    encoding = {name: {"_FillValue": None} for name in dataset.variables} | dict(encoding or {})
    dataset = dataset.drop_encoding().assign_attrs(about)
    for name, variable in dataset.variables.items():
        dates = variable.dtype.kind in "MO"
        left = DECODING | {*("units", "calendar") * dates}
        variable.attrs = {key: value for key, value in variable.attrs.items() if key not in left}
        if "since" in str(variable.attrs.get("units")):
            raise ValueError(f"{name} must not have the units of a date; got {variable.attrs['units']!r}")
    with atomic(path) as temporary:
        claim_room(temporary, dataset.nbytes)
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
        seal = MARK + _digest(temporary, temporary.stat().st_size)
        with open(temporary, "ab") as file:
            file.write(seal)
    return Path(path)


def _check_seal(path: Path) -> None:
    """Raises ValueError unless the file ends with the seal of all before."""
    size = max(path.stat().st_size - SIZE, 0)
    with open(path, "rb") as file:
        file.seek(size)
        end = file.read()
    if not end.startswith(MARK):
        raise ValueError("the seal at its end is missing")
    if end != MARK + _digest(path, size):
        raise ValueError("its bytes are not those that were sealed")


def _digest(path: Path, size: int) -> bytes:
    """The SHA-256 of the first ``size`` bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 18))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest().encode()
