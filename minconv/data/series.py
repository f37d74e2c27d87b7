"""Anybody's file in one convention, that of :mod:`minconv.data.grid`.

``open_series`` brings a user's own file into it, lazily: values are read in blocks of time steps, when they are needed.
``frames`` reads them all into a tensor. Missing values are refused by whatever reads the values.
"""

import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import cftime
import dask
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data import store
from minconv.data.cf import field_of
from minconv.data.grid import BLOCK, SINCE, block_rows, checked, described, epoch_seconds
from minconv.data.store import UNREADABLE
from minconv.runtime.checks import positive, whole
from minconv.runtime.device import pick_device
from minconv.runtime.progress import progress

WAITS = (1.0, 3.0, 9.0)  # seconds before another attempt at a read that the network broke off
NETWORK_ERRORS = (aiohttp.ClientError, ConnectionError, TimeoutError)
Result = TypeVar("Result")


def open_series(
    source: str | Path | Iterable[str | Path],
    variable: str,
    *,
    level: float | None = None,
    years: tuple[int, int] | None = None,
) -> xr.DataArray:
    """The series of ``variable`` in ``source`` in the convention above, lazily opened.

    ``source`` is a NetCDF file, a list of them, a folder or a pattern such as ``"era5/t2m_*.nc"``, or a Zarr store: a
    folder, or a URL with consolidated metadata, where ``gs://`` is a public bucket. ``level`` is in hPa, whatever the
    file's units. ``years`` are the first and the last one wanted.

    Dimensions are told by their CF attributes, else by their usual names, in any order. Latitudes and longitudes may
    run either way; a repeated meridian (0 and 360) is dropped; a regional grid that the edge of the map cuts in two is
    joined, and keeps its longitudes otherwise. Times are sorted; steps that are there twice with equal values are kept
    once. Packed and masked values are decoded. ``m**2 s**-2`` is written ``m2 s-2``; no units are converted.

    Raises FileNotFoundError; TypeError; ValueError naming what there is where the variable, level or years are not,
    and for grids that are not of latitude and longitude, further dimensions, uneven or missing time steps, and times
    that are there twice with different values.
    """
    if not isinstance(variable, str):
        raise TypeError(f"variable must be a string; got {variable!r}")
    if level is not None:
        positive("level", level)
    if years is not None:
        years = year_range(years)
    items = _items(source)
    fields = [field_of(_open(item), item, variable, level) for item in items]
    label = getattr(items[0], "name", str(items[0]).rstrip("/").rsplit("/", 1)[-1])
    series = _joined(fields, items)
    series = _regular(series, years, f"{variable} of {label}")
    found = series.attrs
    series.attrs = {
        "units": str(found.get("units", "unknown")).replace("**", ""),
        "long_name": str(found.get("long_name", found.get("standard_name", variable))),
        "source": found.get("source", label if len(items) == 1 else f"{label} and {len(items) - 1} more"),
    } | {name: found[name] for name in ("standard_name", "level") if name in found}
    series = described(series.drop_encoding().rename(variable))
    series.encoding["source"] = f"{items[0]}" + f" and {len(items) - 1} more" * (len(items) > 1)  # as xarray names it
    return series


def write_series(
    path: str | Path, series: xr.DataArray, attrs: dict[str, Any] | None = None, device: str | torch.device = "cpu"
) -> Path:
    """Writes ``series`` as CF NetCDF with ``attrs``, what produced it and a seal, whole or not at all.

    Raises ValueError where ``series`` is not in the convention or has missing values.
    """
    series = checked(series)
    if not isinstance(series.name, str):
        raise ValueError(f"series must have its variable for a name; got {series.name!r}")
    if series.chunks:
        series = series.copy(data=read_values(series))
    else:
        series = series.astype(np.float32, copy=False)
        deque(_finite_blocks(series), maxlen=0)  # looks at all, keeps none
    title = {"title": f"{series.attrs.get('long_name', series.name)}"}
    blocks = {"chunksizes": (min(block_rows(series), len(series)), *series.shape[1:]), "zlib": True, "complevel": 1}
    encoding = {series.name: {"_FillValue": None, **blocks}}
    return store.write(path, described(series).to_dataset(), title | (attrs or {}), device, encoding)


def read_series(path: str | Path) -> xr.DataArray:
    """The series of a file that ``write_series`` wrote, checked and lazily opened, with all of the file's attributes.

    Raises FileNotFoundError, or ValueError where the file is truncated, altered or not one of these.
    """
    with store.opened(path) as dataset:
        (name,) = dataset.data_vars
        return open_series(path, name).assign_attrs(dataset.attrs | dataset[name].attrs)


def frames(series: xr.DataArray, device: str | torch.device = "cpu") -> Tensor:
    """The values of ``series`` as float32 ``[T, 1, H, W]`` on ``device``, in memory of their own.

    A long series is read with a progress bar. Raises ValueError with the number of missing values and the date of the
    first, where there are any.
    """
    series = checked(series)
    with progress(total=len(series), desc=series.name, unit="step", quiet=4 * series.size < 8 * BLOCK) as bar:
        values = read_values(series, bar)
    return torch.from_numpy(values).unsqueeze(1).to(pick_device(device))


def _items(source: Any) -> list[Path | str]:
    """The files, Zarr folders and URLs that ``source`` names."""
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            raise TypeError(f"source must be a path, a URL or a list of these; got {source!r}")
        items = [item for one in source for item in _items(one)]
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


def _open(item: Path | str) -> xr.Dataset:
    """Opens one file or store without reading more than its coordinates."""
    if isinstance(item, str):  # a slow line is no fault, a silent one is
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {"storage_options": {"client_kwargs": {"timeout": timeout}}} if item.startswith("http") else {}
        how = {"engine": "zarr", "consolidated": True, **options}
    elif item.is_dir():
        how = {"engine": "zarr", "consolidated": (item / ".zmetadata").is_file()}
    else:
        how = {}
    with warnings.catch_warnings():  # such as dates beyond datetime64, which then are cftime's
        warnings.simplefilter("ignore", xr.SerializationWarning)
        try:
            return xr.open_dataset(item, chunks=None, cache=False, decode_timedelta=False, **how)
        except NETWORK_ERRORS:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no Zarr store {item}") from error
        except UNREADABLE as error:
            raise ValueError(f"{item} cannot be read as {'Zarr' if how else 'NetCDF'}: {error}") from error


def _joined(fields: list[xr.DataArray], items: list[Path | str]) -> xr.DataArray:
    """The fields of several files one after the other; raises ValueError where they do not belong together."""
    first = fields[0]
    for field, item in zip(fields, items, strict=True):
        for axis in ("lat", "lon"):
            if field.sizes[axis] != first.sizes[axis] or abs(field[axis].values - first[axis].values).max() > 1e-3:
                raise ValueError(f"{item} has another grid than {items[0]}: its {axis} differs")
        for name, mine, theirs in (
            ("units", field.attrs.get("units"), first.attrs.get("units")),
            ("level", field.attrs.get("level"), first.attrs.get("level")),
            ("calendar", field["time"].dt.calendar, first["time"].dt.calendar),
        ):
            if mine != theirs:
                raise ValueError(f"{item} has another {name} than {items[0]}: {mine}, not {theirs}")
    if len(fields) == 1:
        return first
    fields = sorted(fields, key=lambda field: field["time"].values[0])
    fields = [field.assign_coords(lat=first["lat"], lon=first["lon"]) for field in fields]
    joined = xr.concat(fields, "time", coords="minimal", compat="override", join="override", combine_attrs="drop")
    return joined.assign_attrs(first.attrs)


def _regular(series: xr.DataArray, years: tuple[int, int] | None, what: str) -> xr.DataArray:
    """The series within ``years``, sorted, each step once; raises ValueError unless its steps are even."""
    calendar, seconds = series["time"].dt.calendar, epoch_seconds(series["time"])
    order = np.arange(len(seconds))
    if years is not None:
        year = series["time"].dt.year.values
        if absent := sorted(set(range(years[0], years[1] + 1)) - set(year.tolist())):
            raise ValueError(
                f"years must be among those of {what}, {year.min()} to {year.max()}; got {years[0]} to {years[1]}, "
                f"of which {len(absent)} are not there: {', '.join(map(str, absent[:5]))}{' ...' * (len(absent) > 5)}"
            )
        order = order[(year >= years[0]) & (year <= years[1])]
    order = order[np.argsort(seconds[order], kind="stable")]
    twice = np.flatnonzero(np.diff(seconds[order]) == 0) + 1
    if len(twice):
        one, other = (series.isel(time=order[which]).drop_vars("time") for which in (twice - 1, twice))
        equal = ((one == other) | (one.isnull() & other.isnull())).all(("lat", "lon")).values
        if not equal.all():
            dates = _dates(seconds[order[twice[~equal]]], calendar)
            raise ValueError(f"{what} has steps twice, with different values: {dates}")
        order = np.delete(order, twice)
    seconds = seconds[order]
    steps = np.diff(seconds)
    if len(steps):
        sizes, counts = np.unique(steps, return_counts=True)
        step = sizes[counts.argmax()]
        if len(uneven := np.flatnonzero(steps % step)):
            raise ValueError(
                f"{what} must have even time steps; most are {step / 3600:g} h, "
                f"but {len(uneven)} are not, the first from {_dates(seconds[uneven[0] : uneven[0] + 2], calendar)}"
            )
        gaps = np.flatnonzero(steps > step)
        missing = [seconds[gap] + step * k for gap in gaps[:5] for k in range(1, min(6, steps[gap] // step))]
        if missing:
            count = int((steps // step - 1).sum())
            raise ValueError(f"{what} lacks time steps: {_dates(missing, calendar, count)}")
    if not np.array_equal(order, np.arange(len(series))):
        one_piece = (np.diff(order) == 1).all()
        series = series.isel(time=slice(order[0], order[-1] + 1) if one_piece else order)
    if series["time"].dtype.kind == "M":  # float times come out a little beside the second
        series = series.assign_coords(time=seconds.astype("datetime64[s]").astype(series["time"].dtype))
    return series


def _dates(seconds: Any, calendar: str, count: int | None = None) -> str:
    """The first few dates in words, and how many there are."""
    count = len(seconds) if count is None else count
    dates = cftime.num2date(np.asarray(seconds[:5]), SINCE, calendar)
    listed = ", ".join(date.strftime("%Y-%m-%d %H:%M") for date in dates)
    return listed if count <= len(dates) else f"{listed}, ... ({count} in all)"


def _blocks(series: xr.DataArray) -> Iterator[tuple[slice, np.ndarray]]:
    """Goes through the values block by block: (rows, contiguous float32 ``[rows, lat, lon]``)."""
    if series.chunks:
        ends = np.cumsum(series.chunksizes["time"]).tolist()
        (series,) = dask.optimize(series)  # once, not for every block
    else:
        ends = [*range(block_rows(series), len(series), block_rows(series)), len(series)]
    for start, end in pairwise([0, *ends]):
        rows = slice(start, end)
        try:
            block = patiently(lambda rows=rows: series[rows].compute(scheduler="synchronous").values)
        except NETWORK_ERRORS:
            raise
        except UNREADABLE as error:
            raise ValueError(f"{series.name or 'series'} cannot be read{_origin(series)}: {error}") from error
        yield rows, np.ascontiguousarray(block, "<f4")


def _finite_blocks(series: xr.DataArray) -> Iterator[tuple[slice, np.ndarray]]:
    """As ``_blocks``; at the end raises ValueError where values are missing, with their number and the first date."""
    missing, first = 0, None
    for rows, block in _blocks(series):
        bad = ~np.isfinite(block)
        if bad.any():
            missing += int(bad.sum())
            first = rows.start + int(bad.any((1, 2)).argmax()) if first is None else first
        yield rows, block
    if missing:
        times = series["time"]
        date = _dates(epoch_seconds(times[first : first + 1]), times.dt.calendar)
        raise ValueError(
            f"{series.name or 'series'} has {missing} missing values, the first on {date}{_origin(series)}"
        )


def _origin(series: xr.DataArray) -> str:
    """The file that a series is from, if any, as the end of a sentence."""
    return f" in {series.encoding['source']}" if "source" in series.encoding else ""


def read_values(series: xr.DataArray, bar: Any = None) -> np.ndarray:
    """All values in memory of their own, float32 ``[time, lat, lon]``."""
    values = np.empty(series.shape, np.float32)
    for rows, block in _finite_blocks(series):
        values[rows] = block
        if bar is not None:
            bar.update(len(block))
    return values


def patiently(read: Callable[[], Result]) -> Result:
    """``read()``, repeated after a pause when the network breaks it off."""
    for wait in WAITS:
        try:
            return read()
        except NETWORK_ERRORS:
            time.sleep(wait)
    return read()


def year_range(years: Any) -> tuple[int, int]:
    """``years`` as (first, last); raises TypeError or ValueError unless they are such a pair."""
    try:
        first, last = years
    except (TypeError, ValueError) as error:
        raise TypeError(f"years must be the first and the last year, such as (1979, 2018); got {years!r}") from error
    if whole("years", last) < whole("years", first):
        raise ValueError(f"years must be the first and the last year, in this order; got {years}")
    return int(first), int(last)
