"""Data files that say what made them: parameters and a checksum among the attributes; kept if the same, or refused."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from minconv.data import seals
from minconv.data.seals import UNREADABLE


def checksum(values: np.ndarray) -> str:
    """SHA-256 of ``values`` as little-endian float32."""
    return "sha256:" + hashlib.sha256(np.ascontiguousarray(values, "<f4")).hexdigest()


def load(path: str | Path, name: str, dims: Sequence[str], kind: str, maker: str) -> xr.DataArray:
    """The variable ``name`` of a NetCDF with a ``checksum``, in memory, with all of the file's attributes.

    Raises FileNotFoundError, telling that ``maker`` makes the file, or ValueError where it is truncated, altered or
    no file of this ``kind``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {maker} makes it")
    try:
        dataset = seals.opened(path, partial(xr.load_dataset, engine="h5netcdf"))
        array = dataset[name].transpose(*dims)
        attributes = dataset.attrs | array.attrs
        intact = attributes["checksum"] == checksum(array.values)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a whole {kind} file: {error}") from error
    if not intact:
        raise ValueError(f"{path} is not a whole {kind} file: its {name} does not have the recorded checksum")
    return array.assign_attrs(attributes)


def same(path: str | Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError naming every parameter in which the file at ``path`` differs from what is ``wanted``."""
    differ = [f"{name} is {found.get(name)}, not {value}" for name, value in wanted.items() if found.get(name) != value]
    if differ:
        raise ValueError(
            f"{path} has other parameters ({'; '.join(differ)}) and was left as it is; remove it or choose another path"
        )
