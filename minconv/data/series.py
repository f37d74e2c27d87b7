"""Anybody's file in one convention, that of :mod:`minconv.data.grid`.

``open_series`` brings a user's own file into it, lazily: values are read in blocks of time steps, when they are needed.
``frames`` reads them all into a tensor. Missing values are refused by whatever reads the values.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import cftime
import dask
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data import store
from minconv.data.cf import choices, field_of
from minconv.data.grid import BLOCK, DIMS, SINCE, block_rows, checked, described, epoch_seconds
from minconv.data.sources import NETWORK_ERRORS, items_of, name_of, opened
from minconv.data.store import UNREADABLE
from minconv.runtime.checks import positive, whole
from minconv.runtime.device import pick_device
from minconv.runtime.progress import progress

WAITS = (1.0, 3.0, 9.0)  # seconds before another attempt at a read that the network broke off
Result = TypeVar("Result")
Opened = list[tuple[xr.Dataset, str]]  # datasets and what messages call them


def open_series(
    source: str | Path | xr.Dataset | xr.DataArray | Iterable[str | Path | xr.Dataset],
    variable: str | Iterable[str] | Mapping[str, str] | None = None,
    *,
    level: float | Mapping[str, float] | None = None,
    years: tuple[int, int] | None = None,
    **select: Any,
) -> xr.DataArray | xr.Dataset:
    """The series of ``variable`` in ``source`` in the convention above, lazily opened.

    ``source`` is a NetCDF file, a list of them, a folder or a pattern such as ``"era5/t2m_*.nc"``; a Zarr store: a
    folder, or a URL with consolidated metadata, where ``gs://`` is a public bucket; or an xarray Dataset or DataArray,
    whose attributes count as a file's. A DataArray's own name is its ``variable``. ``level`` is in hPa, whatever the
    file's units. ``years`` are the first and the last one wanted. Further dimensions are chosen from by label, such as
    ``member=3`` or ``step="24h"``.

    Several variables, such as ``["z", "t", "msl"]``, come as a Dataset in this order, each as it would come alone, on
    one grid with one set of times; they may be in different files. ``level`` is then a number for all that have levels,
    or of each: ``open_series(file, {"z500": "z", "t850": "t"}, level={"z500": 500, "t850": 850})`` names them, too.

    Dimensions are told by their CF attributes, else by their usual names, in any order. Latitudes and longitudes may
    run either way; a repeated meridian (0 and 360) is dropped; a regional grid that the edge of the map cuts in two is
    joined, and keeps its longitudes otherwise. Times are sorted; steps that are there twice with equal values are kept
    once. Packed and masked values are decoded, and missing where the file's valid range excludes them, or where nothing
    was written: netCDF's default fill values. Chunks that a Zarr store lacks are missing or refused when they are read,
    by its URL, too, but not in an xarray Dataset. ``m**2 s**-2`` is written ``m2 s-2``; no units are converted.

    Raises FileNotFoundError; TypeError; ValueError naming what there is where the variable, level, years or labels are
    not, and for grids that are not of latitude and longitude, further dimensions, missing dates, uneven or missing time
    steps, times that are there twice with different values, and variables that differ in grid or times.
    """
    if isinstance(source, xr.DataArray):
        variable = source.name if variable is None else variable
        source = source.rename(variable) if source.name is None and isinstance(variable, str) else source
    names = _names(variable)
    levels = level if isinstance(level, Mapping) else dict.fromkeys(names, level)
    if strange := [name for name in levels if name not in names]:
        raise ValueError(f"level must be of {', '.join(names)}; got one of {', '.join(map(str, strange))}")
    for number in levels.values():
        if number is not None:
            positive("level", number)
    if years is not None:
        years = year_range(years)
    sources = [(opened(item), name_of(item)) for item in items_of(source)]
    if isinstance(variable, str):
        return _one(sources, variable, levels.get(variable), years, select)
    found = _several(sources, names, level, years, select)
    return _together({name: one.rename(name) for name, one in found.items()})


def _names(variable: Any) -> dict[str, str]:
    """The names that variables get, and those that they have in the file; raises TypeError or ValueError."""
    if isinstance(variable, str) or not isinstance(variable, Iterable):
        variable = [variable]
    pairs = list(variable.items() if isinstance(variable, Mapping) else [(name, name) for name in variable])
    if not pairs:
        raise ValueError("variable must name at least one; got none")
    for name in (name for pair in pairs for name in pair):
        if not isinstance(name, str):
            raise TypeError(f"variable must be a string, or a list of them; got {name!r}")
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"variable must name each one once; got {', '.join(name for name, _ in pairs)}")
    return dict(pairs)


def _several(
    sources: Opened, names: Mapping[str, str], level: Any, years: Any, select: Mapping[str, Any]
) -> dict[str, xr.DataArray]:
    """The series of several variables, each of those sources that have it."""
    held, offered, where = {}, {}, _listing([item for _, item in sources])
    for name, wanted in names.items():
        held[name] = [(dataset, item) for dataset, item in sources if wanted in dataset.data_vars]
        if not held[name]:
            there = dict.fromkeys(str(one) for dataset, _ in sources for one in dataset.data_vars)
            raise ValueError(f"variable must be among {', '.join(there) or 'none'}, which {where} has; got {wanted!r}")
        offered[name] = {choice for dataset, _ in held[name] for choice in choices(dataset[wanted])}
    known = set().union(*offered.values())  # a choice is for those that have it; what none has is refused by each
    found = {}
    for name, wanted in names.items():
        taken = {choice for choice in ("level", *select) if choice in offered[name] or choice not in known}
        labels = {choice: label for choice, label in select.items() if choice in taken}
        of_all = level if "level" in taken else None
        of_one = level.get(name) if isinstance(level, Mapping) else of_all
        found[name] = _one(held[name], wanted, of_one, years, labels)
    return found


def _one(sources: Opened, variable: str, level: float | None, years: Any, select: Mapping[str, Any]) -> xr.DataArray:
    """The series of one variable in all of ``sources``."""
    items = [item for _, item in sources]
    fields = [field_of(dataset, item, variable, level, select) for dataset, item in sources]
    label = items[0].rstrip("/").rsplit("/", 1)[-1]
    series = _regular(_joined(fields, items), years, f"{variable} of {label}")
    found = series.attrs
    series.attrs = {
        "units": str(found.get("units", "unknown")).replace("**", ""),
        "long_name": str(found.get("long_name", found.get("standard_name", variable))),
        "source": found.get("source", _listing([label, *items[1:]])),
    } | {name: found[name] for name in ("standard_name", "level") if name in found}
    series = described(series.drop_encoding().rename(variable))
    series.encoding["source"] = _listing(items)  # as xarray names it
    return series


def _listing(items: list[str]) -> str:
    """The first one and how many more."""
    return items[0] + f" and {len(items) - 1} more" * (len(items) > 1)


def _together(found: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Several series as one dataset; raises ValueError unless they have the same grid and times."""
    (first, theirs), *others = found.items()
    for name, one in others:
        if axis := _other_grid(one, theirs):
            raise ValueError(
                f"variables must be on one grid; {name} has {_extent(one[axis])} for {axis}, "
                f"{first} {_extent(theirs[axis])}"
            )
        if not np.array_equal(_dated(one), _dated(theirs)):
            raise ValueError(
                f"variables must have the same times; {name} has {_extent(one['time'])}, "
                f"{first} {_extent(theirs['time'])}"
            )
    same = {name: theirs[name] for name in DIMS}
    return xr.Dataset({name: one.assign_coords(same) for name, one in found.items()})


def _dated(series: xr.DataArray) -> list[Any]:
    """The calendar and the times in it."""
    return [series["time"].dt.calendar, *epoch_seconds(series["time"])]


def _extent(axis: xr.DataArray) -> str:
    """How many coordinates there are, from where to where."""
    if axis.dtype.kind in "MO":
        ends = [_dates([second], axis.dt.calendar) for second in epoch_seconds(axis)[[0, -1]]]
    else:
        ends = [f"{end:g}" for end in axis.values[[0, -1]]]
    return f"{axis.size} from {ends[0]} to {ends[1]}"


def _other_grid(one: xr.DataArray, other: xr.DataArray) -> str | None:
    """The axis on which two grids differ, if any."""
    for axis in ("lat", "lon"):
        if one.sizes[axis] != other.sizes[axis] or abs(one[axis].values - other[axis].values).max() > 1e-3:
            return axis
    return None


def write_series(
    path: str | Path,
    series: xr.DataArray | xr.Dataset,
    attrs: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> Path:
    """Writes ``series``, one or a Dataset of several, as CF NetCDF with ``attrs``, what produced it and a seal.

    The file is written whole or not at all, without attributes that would decode its values once more when they are
    read. Raises ValueError where ``series`` is not in the convention or has missing values.
    """
    fields, encoding = [], {}
    for one in fields_of(series):
        if not isinstance(one.name, str):
            raise ValueError(f"series must have its variable for a name; got {one.name!r}")
        if one.chunks:
            one = one.copy(data=read_values(one))
        else:
            one = one.astype(np.float32, copy=False)
            deque(_finite_blocks(one), maxlen=0)  # looks at all, keeps none
        fields.append(described(one))
        blocks = {"chunksizes": (min(block_rows(one), len(one)), *one.shape[1:]), "zlib": True, "complevel": 1}
        encoding[one.name] = {"_FillValue": None, **blocks}
    about = {"title": ", ".join(str(one.attrs.get("long_name", one.name)) for one in fields)}
    if isinstance(series, xr.Dataset):  # in this order, which the file does not keep
        about |= {**series.attrs, "variables": list(encoding)}
    return store.write(path, xr.Dataset({one.name: one for one in fields}), about | (attrs or {}), device, encoding)


def read_series(path: str | Path) -> xr.DataArray | xr.Dataset:
    """What ``write_series`` wrote, one series or a Dataset, checked and lazily opened, with all attributes of the file.

    Raises FileNotFoundError, or ValueError where the file is truncated, altered or not one of these.
    """
    with store.opened(path) as dataset:
        if "variables" in dataset.attrs:
            names = np.atleast_1d(dataset.attrs["variables"]).tolist()
            found = open_series(path, names).assign_attrs(dataset.attrs)
            return found.assign({name: found[name].assign_attrs(dataset[name].attrs) for name in names})
        (name,) = dataset.data_vars
        return open_series(path, name).assign_attrs(dataset.attrs | dataset[name].attrs)


def frames(series: xr.DataArray | xr.Dataset, device: str | torch.device = "cpu") -> Tensor:
    """The values of ``series`` as float32 ``[T, C, H, W]`` on ``device``, in memory of their own.

    There is one channel for a DataArray, and one for each variable of a Dataset, in its order. A long series is read
    with a progress bar. Raises ValueError with the number of missing values and the date of the first, where there are
    any.
    """
    fields = fields_of(series)
    steps, *size = fields[0].shape
    values = np.empty((steps, len(fields), *size), np.float32)
    name = ", ".join(str(one.name) for one in fields)
    total = steps * len(fields)
    with progress(total=total, desc=name, unit="step", quiet=4 * values.size < 8 * BLOCK) as bar:
        for channel, one in enumerate(fields):
            read_values(one, bar, values[:, channel])
    return torch.from_numpy(values).to(pick_device(device))


def fields_of(series: Any) -> list[xr.DataArray]:
    """One series or all of a dataset, as (time, lat, lon); raises TypeError or ValueError as ``checked`` does."""
    if not isinstance(series, xr.Dataset):
        return [checked(series)]
    if not series.data_vars:
        raise ValueError("series must have at least one variable; got a Dataset without any")
    return [checked(one, f"{name} of series") for name, one in series.data_vars.items()]


def _joined(fields: list[xr.DataArray], items: list[str]) -> xr.DataArray:
    """The fields of several files one after the other; raises ValueError where they do not belong together."""
    if len({field["time"].dtype.kind for field in fields}) > 1:  # some dates are beyond datetime64
        fields = [_with_cftime(field) for field in fields]
    first = fields[0]
    for field, item in zip(fields, items, strict=True):
        if axis := _other_grid(field, first):
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


def _with_cftime(field: xr.DataArray) -> xr.DataArray:
    """The field with dates of cftime in the calendar that its file has."""
    times = field["time"]
    if times.dtype.kind == "O":
        return field
    calendar = times.encoding.get("calendar", times.dt.calendar)
    return field.assign_coords(time=cftime.num2date(epoch_seconds(times), SINCE, calendar))


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


def read_values(series: xr.DataArray, bar: Any = None, out: np.ndarray | None = None) -> np.ndarray:
    """All values in memory of their own or in ``out``, float32 ``[time, lat, lon]``."""
    values = np.empty(series.shape, np.float32) if out is None else out
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
