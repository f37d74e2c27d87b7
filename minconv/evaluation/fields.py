"""Series and forecasts of one variable, a DataArray, or of several, a Dataset: what they must be, and their labels.

Inside, both are one array over (time, lat, lon) or (time, variable, lat, lon).
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import xarray as xr

DIMS = ("init_time", "lead_time", "lat", "lon")  # of a forecast
DAY = np.timedelta64(1, "D")
VARIABLE = "variable"  # the dimension of several
Field = TypeVar("Field", xr.DataArray, xr.Dataset)


def as_array(field: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """A Dataset as one array, its variables along a dimension before lat and lon; a DataArray as it is."""
    if not isinstance(field, xr.Dataset):
        return field
    array = field.to_dataarray(VARIABLE)
    return array.transpose(*(dim for dim in array.dims if dim not in (VARIABLE, "lat", "lon")), VARIABLE, "lat", "lon")


def as_given(array: xr.DataArray, given: Field) -> Field:
    """What was made of ``as_array(given)`` as a Dataset again, if that is what was given."""
    if not isinstance(given, xr.Dataset):
        return array
    found = array.to_dataset(VARIABLE).assign_attrs(given.attrs)
    return found.assign({name: found[name].assign_attrs(given[name].attrs) for name in given.data_vars})


def frame_step(series: xr.DataArray | xr.Dataset) -> np.timedelta64:
    """The time between frames; raises unless ``series`` is over (time, lat, lon) and evenly spaced."""
    if not isinstance(series, xr.DataArray | xr.Dataset):
        raise TypeError(f"series must be a DataArray over (time, lat, lon) or a Dataset; got {type(series).__name__}")
    if isinstance(series, xr.Dataset) and not series.data_vars:
        raise ValueError("series must have one variable or more; got none")
    for field in series.data_vars.values() if isinstance(series, xr.Dataset) else (series,):
        dims = tuple(dim for dim in field.dims if dim != VARIABLE)
        if dims != ("time", "lat", "lon") or field.sizes["time"] < 2 or set(dims) - set(field.coords):
            raise ValueError(
                f"series must be over (time, lat, lon), with their coordinates and two times or more; "
                f"got {dict(field.sizes)} with {', '.join(map(str, field.coords)) or 'none'}; "
                "minconv.data.open_series brings a file into this form"
            )
        if field.dtype.kind != "f" or field.dtype.itemsize > 8:
            raise TypeError(f"series must be of float32 or float64; got {field.dtype}")
    if series.time.dtype.kind not in "MO":
        raise TypeError(f"series must have dates for times; got {series.time.dtype}")
    steps = np.diff(series.time.values)  # in the unit of the times: nanoseconds reach from 1678 to 2262 alone
    steps = steps.astype("timedelta64[ns]") if steps.dtype == object else steps
    if (steps != steps[0]).any() or steps[0] <= np.timedelta64(0):
        odd = int(np.flatnonzero(steps != steps[0])[0]) if (steps != steps[0]).any() else 0
        raise ValueError(f"series must have evenly spaced times; after {series.time.values[odd]} they are not")
    return steps[0]


def positions(series: xr.DataArray | xr.Dataset, times: Iterable, context: int = 1) -> np.ndarray:
    """Where ``times`` are in the series; raises unless each is the last of ``context`` frames."""
    wanted = np.atleast_1d(np.asarray(times))
    found = series.indexes["time"].get_indexer(wanted)
    if not wanted.size or (found < context - 1).any():
        bad = wanted[found < context - 1][:1].tolist() or ["none"]
        span = f"{series.time.values[min(context, series.sizes['time']) - 1]} to {series.time.values[-1]}"
        raise ValueError(f"init_times must be times of the series, {span}; got {bad[0]}")
    return found


def labelled(values: np.ndarray, field: xr.DataArray, last: np.ndarray, step: np.timedelta64) -> xr.DataArray:
    """Forecasts [starts, steps, C, lat, lon] that begin one ``step`` after the frames ``last`` of the series."""
    leads = step * np.arange(1, values.shape[1] + 1)
    start = field.time.values[last]
    coordinates = {
        "init_time": ("init_time", start, {"long_name": "time of the last frame seen"}),
        "lead_time": ("lead_time", leads, {"long_name": "lead time"}),
        "lat": field.lat,
        "lon": field.lon,
        "valid_time": (("init_time", "lead_time"), _later(start, leads), {"long_name": "time forecast"}),
    }
    dims = (*DIMS[:2], *field.dims[1:])
    if VARIABLE in dims:
        coordinates[VARIABLE] = field[VARIABLE]
    return xr.DataArray(values.reshape(*values.shape[:2], *field.shape[1:]), coordinates, dims, field.name, field.attrs)


def _later(start: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """[starts, leads]; dates of other calendars are Python objects and want such leads."""
    return start[:, None] + (leads.astype("timedelta64[us]").astype(object) if start.dtype == object else leads)


def same_grid(climatology: Any, field: xr.DataArray) -> None:
    for axis in ("lat", "lon"):
        if not np.array_equal(climatology.series[axis], field[axis]):
            raise ValueError(f"climatology must be on the same grid as the series; its {axis} differs")
    found, wanted = (
        list(map(str, x[VARIABLE].values)) if VARIABLE in x.dims else [] for x in (climatology.series, field)
    )
    if found != wanted:
        raise ValueError(f"climatology must be of the same variables as the series; got {found}, not {wanted}")
