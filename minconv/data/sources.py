"""Where a series is read from: files, Zarr stores, URLs and datasets, opened without more than their coordinates."""

import re
import warnings
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import xarray as xr
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from minconv.data.store import UNREADABLE

NETWORK_ERRORS = (aiohttp.ClientError, ConnectionError, TimeoutError)


def items_of(source: Any) -> list[Path | str | xr.Dataset]:
    """The files, Zarr folders, URLs and datasets that ``source`` names."""
    if isinstance(source, xr.Dataset):
        return [source]
    if isinstance(source, xr.DataArray):
        dataset = source.to_dataset(name=source.name)
        dataset.encoding = {name: source.encoding[name] for name in ("source",) if name in source.encoding}
        return [dataset]
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            raise TypeError(f"source must be a path, a URL, an xarray object or a list of these; got {source!r}")
        items = [item for one in source for item in items_of(one)]
        if not items:
            raise ValueError("source must name at least one file; got none")
        return items
    if "://" in str(source):
        return [re.sub("^gs://", "https://storage.googleapis.com/", str(source))]
    path = Path(source)
    if path.is_file() or _is_zarr(path):
        return [path]
    if path.is_dir():
        items = sorted(file for file in path.iterdir() if file.suffix in {".nc", ".nc4", ".netcdf", ".cdf"})
        if not items:
            raise FileNotFoundError(f"the folder {path} is no Zarr store and holds no NetCDF file (*.nc)")
        return items
    items = sorted(Path(name) for name in glob(str(source), recursive=True))
    if not items:
        raise FileNotFoundError(f"there is no file, folder or Zarr store {source}")
    return items


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def name_of(item: Path | str | xr.Dataset) -> str:
    """What messages call an item: its path or URL, for a dataset that of the file it was opened from."""
    return str(item.encoding.get("source", "the dataset")) if isinstance(item, xr.Dataset) else str(item)


def opened(item: Path | str | xr.Dataset) -> xr.Dataset:
    """One item decoded as CF has it, with no values read but those of its coordinates.

    Raises FileNotFoundError, or ValueError where it cannot be read or dates are missing.
    """
    kind = "a dataset" if isinstance(item, xr.Dataset) else "Zarr" if _in_zarr(item) else "NetCDF"
    with warnings.catch_warnings():  # such as dates beyond datetime64, which then are cftime's
        warnings.simplefilter("ignore", xr.SerializationWarning)
        try:
            dataset = item if isinstance(item, xr.Dataset) else _undated(item)
            missing = _missing_dates(dataset)
            if not missing:
                return _decoded(dataset)
        except NETWORK_ERRORS:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no Zarr store {item}") from error
        except UNREADABLE as error:
            raise ValueError(f"{name_of(item)} cannot be read as {kind}: {error}") from error
    raise ValueError(f"{name_of(item)} lacks {missing}")


def _in_zarr(item: Path | str) -> bool:
    return isinstance(item, str) or item.is_dir()


def _undated(item: Path | str) -> xr.Dataset:
    """A file or store with times as they are stored."""
    how = {"chunks": None, "cache": False, "decode_times": False}
    if not _in_zarr(item):
        return xr.open_dataset(item, **how)
    if isinstance(item, str):  # a slow line is no fault, a silent one is
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {"client_kwargs": {"timeout": timeout}} if item.startswith("http") else {}
        store = WholeStore(FsspecStore.from_url(item, options, read_only=True))
    else:
        store = WholeStore(LocalStore(item, read_only=True))
    consolidated = isinstance(item, str) or (item / ".zmetadata").is_file()
    dataset = xr.open_dataset(store, engine="zarr", consolidated=consolidated, **how)
    for name, variable in dataset.data_vars.items():
        encoding = variable.encoding  # in format 2 the fill value stands for missing values
        if "serializer" in encoding or "_FillValue" not in encoding:
            store.whole.add(str(name))
    return dataset


class WholeStore(WrapperStore):
    """A Zarr store that refuses to pass a chunk that is not there for one that is full of the fill value.

    This holds for the arrays named in ``whole``, by reading, so that a remote store is asked for nothing else.
    """

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.whole: set[str] = set()

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        found = await super().get(key, *args, **options)
        name, _, rest = key.partition("/")
        if found is None and name in self.whole and rest not in {"zarr.json", ".zarray", ".zattrs", ".zgroup"}:
            raise ValueError(f"its chunk {key} is not there, which Zarr would fill with one number")
        return found


def _decoded(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset decoded; the encoding has the type that is stored for those variables only that are from a file."""
    decoded = xr.decode_cf(dataset, decode_timedelta=False)
    for name, variable in dataset.variables.items():
        if "dtype" not in variable.encoding and decoded[name].dtype == variable.dtype:
            decoded[name].encoding.pop("dtype", None)
    return decoded


def _missing_dates(dataset: xr.Dataset) -> str:
    """How many dates of which dimension are missing, in words; cftime would take them for the first of all dates."""
    for name in dataset.dims:
        if name not in dataset.coords:
            continue
        times = dataset[name]
        stored = " since " in str(times.attrs.get("units"))
        count = int(times.isnull().sum()) if stored or times.dtype.kind in "MO" else 0
        if stored and times.dtype.kind == "i":
            count += int((times == np.iinfo(times.dtype).min).sum())
        if count:
            return f"{count} of {times.size} dates of {name}"
    return ""
