"""What a series is, and its grid: the convention in which everything here has them, areas and edges of cells, means.

A series is an ``xarray.DataArray`` named by its variable with dimensions (time, lat, lon), in float32: latitudes ascend
in degrees north; longitudes ascend in degrees east, from 0 to 360 on a global grid; times (datetime64, or cftime in
calendars that numpy lacks) have regular steps and no gaps. Its attributes are ``units``, ``long_name`` and ``source``,
which is short enough for a figure's title, and where they are known ``standard_name`` and ``level``.
"""

from typing import Any, TypeVar

import cftime
import numpy as np
import xarray as xr

from minconv.runtime.checks import whole

DIMS = ("time", "lat", "lon")
Field = TypeVar("Field", xr.DataArray, xr.Dataset)  # one series, or several variables
BLOCK = 8 << 20  # bytes of a series that are read at once
SINCE = "seconds since 1970-01-01"
COORDINATES = {
    "time": {"standard_name": "time", "long_name": "time", "axis": "T"},
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}


def area_weights(lat: Any) -> np.ndarray:
    """The exact areas of a grid's cells, which depend on latitude alone, ``[lat]`` in float64 with mean 1.

    ``lat``: the cells' centres in degrees, ascending or descending. Cells meet midway between centres and end at the
    poles; those at the edge of a region are as high as their neighbours. Area is proportional to the difference of
    the sines of a cell's edges.
    """
    centre = np.asarray(lat, np.float64)
    steps = np.diff(centre)
    if (
        centre.ndim != 1
        or len(centre) < 2
        or not (abs(centre) <= 90).all()
        or not ((steps > 0).all() or (steps < 0).all())
    ):
        raise ValueError(f"lat must be two latitudes or more, ascending or descending, from -90 to 90; got {centre}")
    middle = centre[:-1] + steps / 2
    edges = np.clip([centre[0] - steps[0] / 2, *middle, centre[-1] + steps[-1] / 2], -90, 90)
    areas = abs(np.diff(np.sin(np.radians(edges))))
    return areas / areas.mean()


def coarsen(series: Field, factor: int) -> Field:
    """Means of ``factor`` x ``factor`` cells, weighted by their exact areas; lazy, with the blocks' centres.

    Raises ValueError unless ``factor`` divides both axes.
    """
    whole("factor", factor, 1)
    if isinstance(series, xr.Dataset):
        return series.map(coarsen, keep_attrs=True, factor=factor)
    series = checked(series)
    for axis in ("lat", "lon"):
        if series.sizes[axis] % factor:
            raise ValueError(f"factor must divide the grid's {series.sizes[axis]} points in {axis}; got {factor}")
    blocks = {"lat": factor, "lon": factor}
    weights = xr.DataArray(area_weights(series["lat"]), {"lat": series["lat"]})
    total = factor * weights.coarsen(lat=factor).sum()
    series = series if series.chunks else series.chunk(time=block_rows(series))
    mean = (series * weights).coarsen(blocks).reduce(np.sum) / total
    mean = mean.transpose(*DIMS).astype(np.float32).rename(series.name).assign_attrs(series.attrs)
    return described(mean)


def cell_edges(fields: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the cells of an ascending grid, lat [H + 1] and lon [W + 1] in degrees: half-way between the centres.

    Longitudes that go all round end where they began, 360 degrees later; such a grid's latitudes end at a pole where
    no other row would fit between.
    """
    lat, lon = (fields[name].values.astype(float) for name in ("lat", "lon"))
    lat_edges, lon_edges = midpoints(lat), midpoints(lon)
    if goes_round(lon):
        first = (lon[0] + lon[-1] - 360) / 2
        lon_edges[[0, -1]] = first, first + 360
        if 90 + lat[0] < lat[1] - lat[0]:
            lat_edges[0] = -90
        if 90 - lat[-1] < lat[-1] - lat[-2]:
            lat_edges[-1] = 90
    return lat_edges.clip(-90, 90), lon_edges


def midpoints(centres: np.ndarray) -> np.ndarray:
    """Half-way between ``centres``, and as far beyond the first and the last."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - middle[0], *middle, 2 * centres[-1] - middle[-1]])


def goes_round(lon: np.ndarray) -> bool:
    """Whether ascending longitudes are all there are, at even steps."""
    return bool(np.isclose(lon[0] + 360 - lon[-1], lon[-1] - lon[-2], rtol=1e-3))


def northward(field: xr.DataArray, what: str) -> xr.DataArray:
    """Latitudes ascending; raises ValueError, saying ``what`` has them, where they are none or in disorder."""
    lat = field["lat"].values.astype(np.float64)
    if len(lat) < 2 or not (abs(lat) <= 90 + 1e-4).all():
        raise ValueError(f"the latitudes of {what} must be two or more, from -90 to 90; got {lat}")
    if (np.diff(lat) < 0).all():
        field, lat = field.isel(lat=slice(None, None, -1)), lat[::-1]
    if not (np.diff(lat) > 0).all():
        raise ValueError(f"the latitudes of {what} must ascend or descend; got {lat}")
    return field.assign_coords(lat=lat.clip(-90, 90))


def eastward(field: xr.DataArray, what: str) -> xr.DataArray:
    """Longitudes ascending: from 0 on a global grid, else from the region's western edge; raises ValueError."""
    lon = field["lon"].values.astype(np.float64)
    if not np.isfinite(lon).all():
        raise ValueError(f"the longitudes of {what} must be finite; got {lon}")
    east = lon.round(4) % 360
    order = np.argsort(east, kind="stable")
    order = order[np.diff(east[order], prepend=-1) > 0]
    if len(order) < max(2, len(lon) - 1):
        raise ValueError(f"the longitudes of {what} must be two or more, and none there twice; got {lon}")
    gaps = np.diff(east[order], append=east[order[0]] + 360)
    step = gaps.min()
    if gaps.max() > 1.5 * step:  # a region: it begins behind the largest gap
        order = np.roll(order, -1 - gaps.argmax())
        gaps = np.delete(gaps, gaps.argmax())
        west = east[order[0]]
        span = (east[order] - west) % 360
        if abs(np.diff(lon[order]) - np.diff(span)).max() < 1e-3:  # not cut in two: as it was
            west = lon[order[0]]
        elif west + span[-1] >= 360:
            west -= 360
        east[order] = west + span
    if abs(gaps - step).max() > 0.01 * step + 1e-3:
        raise ValueError(f"the longitudes of {what} must be evenly spaced; got steps from {step:g} to {gaps.max():g}")
    lon += 360 * ((east - lon) / 360).round()  # exact, where east was rounded
    if not np.array_equal(order, np.arange(len(lon))):
        field = field.isel(lon=order)
    return field.assign_coords(lon=lon[order])


def checked(series: Any, what: str = "series") -> xr.DataArray:
    """``series`` as (time, lat, lon); raises TypeError or ValueError, on ``what``, unless it is in the convention."""
    if not isinstance(series, xr.DataArray):
        raise TypeError(f"{what} must be an xarray.DataArray; got {type(series).__name__}")
    if set(series.dims) != set(DIMS) or set(DIMS) - set(series.coords):
        raise ValueError(f"{what} must have dimensions time, lat and lon with coordinates; got {series.dims}")
    if series["time"].dtype.kind not in "MO":
        raise TypeError(f"{what} must have dates for times; got {series['time'].dtype}")
    if missing := int(series["time"].isnull().sum()):
        raise ValueError(f"{what} must have all its dates; {missing} of {series['time'].size} are missing")
    series = series.transpose(*DIMS)
    for name, values in {"time": epoch_seconds(series["time"]), "lat": series["lat"], "lon": series["lon"]}.items():
        steps = np.diff(values)
        if not (steps > 0).all() or (name == "time" and len(set(steps.tolist())) > 1):
            raise ValueError(f"{what} must have {name} ascending{' in even steps' if name == 'time' else ''}")
    return series


def described(series: xr.DataArray) -> xr.DataArray:
    """The series with its coordinates described as CF has it."""
    return series.assign_coords({name: series[name].assign_attrs(COORDINATES[name]) for name in DIMS})


def block_rows(series: xr.DataArray) -> int:
    """How many time steps make a block."""
    return max(1, BLOCK // (4 * series.sizes["lat"] * series.sizes["lon"]))


def epoch_seconds(times: xr.DataArray) -> np.ndarray:
    """Times as whole seconds since 1970 in their own calendar."""
    if times.dtype.kind == "M":
        return (times.values.astype("datetime64[ms]") + np.timedelta64(500, "ms")).astype("datetime64[s]").astype(int)
    return np.rint(cftime.date2num(times.values, SINCE, times.dt.calendar)).astype(int)
