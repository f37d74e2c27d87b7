"""Gridded series from files and archives, in one convention; geopotential from WeatherBench 1 and 2.

A series is an ``xarray.DataArray`` named by its variable with dimensions (time, lat, lon), in float32: latitudes ascend
in degrees north; longitudes ascend in degrees east, from 0 to 360 on a global grid; times (datetime64, or cftime in
calendars that numpy lacks) have regular steps and no gaps. Its attributes are ``units``, ``long_name`` and ``source``,
which is short enough for a figure's title, and where they are known ``standard_name`` and ``level``.

``open_series`` brings a user's own file into this form, lazily: values are read in blocks of time steps, when they are
needed. ``frames`` reads them all into a tensor. Missing values are refused by whatever reads the values.
"""

import hashlib
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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

from minconv.data import records, seals
from minconv.data.seals import UNREADABLE
from minconv.runtime.checks import positive, whole
from minconv.runtime.device import pick_device
from minconv.runtime.files import atomic, claim_room, lock, remove_stale_lock
from minconv.runtime.progress import progress
from minconv.runtime.provenance import provenance

WEATHERBENCH2 = "gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"
DIMS = ("time", "lat", "lon")
BLOCK = 8 << 20  # bytes of a series that are read at once
WAITS = (1.0, 3.0, 9.0)  # seconds before another attempt at a read that the network broke off
NETWORK_ERRORS = (aiohttp.ClientError, ConnectionError, TimeoutError)
SINCE = "seconds since 1970-01-01"

# How CF says what a coordinate is, the surest first; the last two count only where the units do not object.
STANDARD_NAMES = {"latitude": "lat", "longitude": "lon", "time": "time", "air_pressure": "level"}
HECTOPASCALS = {
    **dict.fromkeys(("hpa", "hectopascal", "hectopascals", "millibar", "millibars", "mbar", "mb"), 1.0),
    **dict.fromkeys(("pa", "pascal", "pascals"), 0.01),
}
UNITS = {
    **dict.fromkeys(("degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn", "degreen"), "lat"),
    **dict.fromkeys(("degrees_east", "degree_east", "degrees_e", "degree_e", "degreese", "degreee"), "lon"),
    **dict.fromkeys(HECTOPASCALS, "level"),
}
AXES = {"Y": "lat", "X": "lon", "T": "time", "Z": "level"}
NAMES = {
    **dict.fromkeys(("lat", "latitude", "y"), "lat"),
    **dict.fromkeys(("lon", "longitude", "x"), "lon"),
    **dict.fromkeys(("time", "valid_time", "t"), "time"),
    **dict.fromkeys(("level", "lev", "plev", "pressure_level", "pressure", "isobaricinhpa"), "level"),
}
COORDINATES = {
    "time": {"standard_name": "time", "long_name": "time", "axis": "T"},
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
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
        years = _years(years)
    items = _items(source)
    fields = [_field(item, variable, level) for item in items]
    label = getattr(items[0], "name", str(items[0]).rstrip("/").rsplit("/", 1)[-1])
    series = _joined(fields, items)
    series = _regular(series, years, f"{variable} of {label}")
    found = series.attrs
    series.attrs = {
        "units": str(found.get("units", "unknown")).replace("**", ""),
        "long_name": str(found.get("long_name", found.get("standard_name", variable))),
        "source": found.get("source", label if len(items) == 1 else f"{label} and {len(items) - 1} more"),
    } | {name: found[name] for name in ("standard_name", "level") if name in found}
    series = _with_attributes(series.drop_encoding().rename(variable))
    series.encoding["source"] = f"{items[0]}" + f" and {len(items) - 1} more" * (len(items) > 1)  # as xarray names it
    return series


def weatherbench1(folder: str | Path, years: tuple[int, int] | None = None, level: int = 500) -> xr.DataArray:
    """Hourly ERA5 geopotential ``z``, in m2 s-2, from the files of WeatherBench 1 in ``folder``, lazily opened.

    The files are ``geopotential_500hPa_1979_5.625deg.nc`` and so on, a year each. ``years`` are the first and the last
    one, by default of those there are. Raises FileNotFoundError naming the years that are missing, and as
    ``open_series`` does.
    """
    folder, level = Path(folder), whole("level", level, 1)
    pattern = rf"geopotential_{level}hPa_(\d{{4}})_5\.625deg\.nc"
    names = {int(match[1]): path for path in folder.glob("*.nc") if (match := re.fullmatch(pattern, path.name))}
    if not names:
        raise FileNotFoundError(f"there is no file such as geopotential_{level}hPa_1979_5.625deg.nc in {folder}")
    first, last = (min(names), max(names)) if years is None else _years(years)
    if missing := [str(year) for year in range(first, last + 1) if year not in names]:
        raise FileNotFoundError(
            f"{folder} lacks geopotential_{level}hPa_YYYY_5.625deg.nc for {', '.join(missing)}; "
            f"there are {min(names)} to {max(names)}"
        )
    files = [names[year] for year in range(first, last + 1)]
    series = open_series(files, "z", level=level, years=(first, last))
    return series.assign_attrs(source="ERA5, WeatherBench 1")


def weatherbench2(
    url: str | Path,
    cache: str | Path,
    *,
    years: tuple[int, int],
    variable: str = "geopotential",
    level: float | None = 500,
) -> Path:
    """Downloads ``level`` (hPa; None for a surface variable) and ``years`` of ERA5 in WeatherBench 2's Zarr.

    ``url`` is ``WEATHERBENCH2``, another of its stores, or a local copy; ``cache`` the NetCDF to make, which
    ``read_series`` reads; geopotential is called ``z`` there. The years arrive one by one in a folder beside ``cache``:
    a download that was cut off goes on from there when it is called again. A whole file with the same request is kept
    as it is; a file with another, and anything that is not such a file, is left alone and raises ValueError. Reads
    that the network breaks off are repeated; then ConnectionError says what is kept. Raises as ``open_series`` does,
    and BlockingIOError where another process is at it.
    """
    cache = Path(cache)
    first, last = _years(years)
    request = {
        "store": str(url).rstrip("/").rsplit("/", 1)[-1],
        "variable": variable,
        "level": "none" if level is None else f"{positive('level', level):g} hPa",
        "first_year": first,
        "last_year": last,
    }
    parts = cache.with_name(f"{cache.name}.parts")
    paths = {year: parts / f"{year}.nc" for year in range(first, last + 1)}
    alone = cache.with_name(f".{cache.name}.lock")
    if not cache.exists():
        with lock(alone):
            if not cache.exists():
                _download(url, cache, paths, request, level)
    records.same(cache, read_series(cache).attrs, request)
    remove_stale_lock(alone)
    for path in paths.values():
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        parts.rmdir()
    return cache


def _download(url: str | Path, cache: Path, paths: dict[int, Path], request: dict[str, Any], level: Any) -> None:
    """Fetches those years that are not whole in ``paths`` yet, and joins them in ``cache``."""
    variable = request["variable"]
    try:
        series = _patiently(lambda: open_series(url, variable, level=level, years=(min(paths), max(paths))))
        series = series.rename("z" if variable == "geopotential" else variable)
        series.attrs["source"] = "ERA5, WeatherBench 2"
        with progress(total=series.sizes["time"], desc=cache.name, unit="step") as bar:
            for year, path in paths.items():
                part = series.sel(time=str(year))
                wanted = request | {"first_year": year, "last_year": year}
                if _is_part(path, part, wanted):
                    bar.update(part.sizes["time"])
                else:
                    write_series(path, part.copy(data=_values(part, bar)), wanted)
    except NETWORK_ERRORS as error:
        kept = sum(path.exists() for path in paths.values())
        raise ConnectionError(
            f"the download from {url} was cut off ({type(error).__name__}: {error}); {kept} of {len(paths)} years are "
            f"kept in {paths[min(paths)].parent}: the same call goes on from there"
        ) from error
    write_series(cache, open_series(paths.values(), series.name), request)


def write_series(
    path: str | Path, series: xr.DataArray, attrs: dict[str, Any] | None = None, device: str | torch.device = "cpu"
) -> Path:
    """Writes ``series`` as CF NetCDF with ``attrs``, what produced it, a checksum and a seal, whole or not at all.

    Raises ValueError where ``series`` is not in the convention or has missing values.
    """
    path = Path(path)
    series = _checked(series)
    if not isinstance(series.name, str):
        raise ValueError(f"series must have its variable for a name; got {series.name!r}")
    series = series.copy(data=_values(series)) if series.chunks else series.astype(np.float32, copy=False)
    checksum = _checksum(_finite_blocks(series))
    made_by = {f"provenance_{name}": value for name, value in provenance(device).items()}
    about = {"Conventions": "CF-1.11", "title": f"{series.attrs.get('long_name', series.name)}", **(attrs or {})}
    about |= made_by | {"checksum": checksum, "seal": seals.ABOUT}
    dataset = _with_attributes(series).to_dataset().assign_attrs(about)
    encoding = {name: {"_FillValue": None} for name in ("lat", "lon")}
    blocks = {"chunksizes": (min(_rows(series), len(series)), *series.shape[1:]), "zlib": True, "complevel": 1}
    encoding[series.name] = {"_FillValue": None, **blocks}
    with atomic(path) as temporary:
        claim_room(temporary, dataset.nbytes)
        dataset.drop_encoding().to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
        seals.seal(temporary)
    return path


def read_series(path: str | Path) -> xr.DataArray:
    """The series of a file that ``write_series`` wrote, checked and lazily opened, with all of the file's attributes.

    Raises FileNotFoundError, or ValueError where the file is truncated, altered or not one of these.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with seals.opened(path, _open) as dataset:
            (name,) = dataset.data_vars
            attributes = dataset.attrs | dataset[name].attrs
        series = open_series(path, name)
        intact = attributes["checksum"] == _checksum(_blocks(series))
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a whole series file: {error}") from error
    if not intact:
        raise ValueError(f"{path} is not a whole series file: its values do not have the recorded checksum")
    return series.assign_attrs(attributes)


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


def coarsen(series: xr.DataArray, factor: int) -> xr.DataArray:
    """Means of ``factor`` x ``factor`` cells, weighted by their exact areas; lazy, with the blocks' centres.

    Raises ValueError unless ``factor`` divides both axes.
    """
    whole("factor", factor, 1)
    series = _checked(series)
    for axis in ("lat", "lon"):
        if series.sizes[axis] % factor:
            raise ValueError(f"factor must divide the grid's {series.sizes[axis]} points in {axis}; got {factor}")
    blocks = {"lat": factor, "lon": factor}
    weights = xr.DataArray(area_weights(series["lat"]), {"lat": series["lat"]})
    total = factor * weights.coarsen(lat=factor).sum()
    series = series if series.chunks else series.chunk(time=_rows(series))
    mean = (series * weights).coarsen(blocks).reduce(np.sum) / total
    mean = mean.transpose(*DIMS).astype(np.float32).rename(series.name).assign_attrs(series.attrs)
    return _with_attributes(mean)


def frames(series: xr.DataArray, device: str | torch.device = "cpu") -> Tensor:
    """The values of ``series`` as float32 ``[T, 1, H, W]`` on ``device``, in memory of their own.

    A long series is read with a progress bar. Raises ValueError with the number of missing values and the date of the
    first, where there are any.
    """
    series = _checked(series)
    with progress(total=len(series), desc=series.name, unit="step", quiet=4 * series.size < 8 * BLOCK) as bar:
        values = _values(series, bar)
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


def _units(coordinate: xr.DataArray) -> str:
    return str(coordinate.attrs.get("units", "")).strip().lower()


def _role(coordinate: xr.DataArray) -> str | None:
    """``time``, ``lat``, ``lon``, ``level``, or None for any other coordinate."""
    attributes = coordinate.attrs
    if "standard_name" in attributes:
        return STANDARD_NAMES.get(attributes["standard_name"])
    units = _units(coordinate)
    if units in UNITS:
        return UNITS[units]
    if units not in {"", "degree", "degrees"}:  # such as metres, of a map projection
        return None
    return AXES.get(attributes.get("axis")) or NAMES.get(str(coordinate.name).lower())


def _field(item: Path | str, variable: str, level: float | None) -> xr.DataArray:
    """``variable`` of one file as (time, lat, lon) with the grid in the convention, in dask blocks along time."""
    dataset = _open(item)
    if variable not in dataset.data_vars:
        raise ValueError(
            f"variable must be one of {', '.join(map(str, dataset.data_vars)) or 'none'}, which {item} has; "
            f"got {variable!r}"
        )
    field = dataset[variable]
    stored = field.encoding.get("preferred_chunks", {})
    what = f"{variable} of {item}"
    if field.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be numbers; got {field.dtype}")
    roles: dict[str, str] = {}
    for dim in field.dims:
        role = _role(field[dim]) if dim in field.coords else None
        if role in roles:
            raise ValueError(f"{what} has two dimensions for {role}: {roles[role]} and {dim}")
        if role:
            roles[role] = dim
    if missing := [role for role in DIMS if role not in roles]:
        raise ValueError(
            f"{what} must have dimensions of time, latitude and longitude, each with coordinate values; "
            f"found none for {', '.join(missing)} among {', '.join(map(str, field.dims)) or 'no dimensions'}"
        )
    field, level_attribute = _at_level(field, roles.get("level"), level, what)
    others = [dim for dim in field.dims if dim not in roles.values()]
    if large := [f"{dim} ({field.sizes[dim]})" for dim in others if field.sizes[dim] > 1]:
        raise ValueError(f"{what} has further dimensions, of which one member must be chosen: {', '.join(large)}")
    field = field.isel(dict.fromkeys(others, 0)).reset_coords(drop=True)
    if not field.size:
        raise ValueError(f"{what} is empty: {dict(field.sizes)}")
    field = field.rename({roles[role]: role for role in DIMS if roles[role] != role}).transpose(*DIMS)
    if field["time"].dtype.kind not in "MO":
        raise ValueError(f"the times of {what} have no units such as 'hours since 1979-01-01'")
    together = stored.get(roles["time"], 1)
    field = field.chunk(time=together * max(1, _rows(field) // together)).astype(np.float32)
    return _eastward(_northward(field, what), what).assign_attrs(level_attribute)


def _at_level(
    field: xr.DataArray, dim: str | None, level: float | None, what: str
) -> tuple[xr.DataArray, dict[str, str]]:
    """The field at ``level``, and the attribute that says which level it is where that is known."""
    name = dim or next((name for name, one in field.coords.items() if not one.ndim and _role(one) == "level"), None)
    if name is None:
        if level is not None:
            raise ValueError(f"level must be left out, as {what} has no pressure levels; got {level:g}")
        return field, {}
    if level is None and field[name].size == 1 and _units(field[name]) not in HECTOPASCALS:
        return field.isel({dim: 0} if dim else {}), {}  # nothing to choose, and perhaps no pressure
    there = np.atleast_1d(_hectopascals(field[name], what))
    index = 0 if level is None else int(abs(there - level).argmin())
    if len(there) > 1 if level is None else not np.isclose(there[index], level, rtol=1e-5):
        raise ValueError(
            f"level must be one of {', '.join(f'{value:g}' for value in there)} hPa, which {what} has; "
            f"got {'none' if level is None else f'{level:g}'}"
        )
    return field.isel({dim: index} if dim else {}), {"level": f"{there[index]:g} hPa"}


def _hectopascals(coordinate: xr.DataArray, what: str) -> np.ndarray:
    """The pressures of a level coordinate; without units they are taken for hPa or Pa where only one can be meant."""
    values = coordinate.values.astype(np.float64)
    units = _units(coordinate)
    if units in HECTOPASCALS:
        return values * HECTOPASCALS[units]
    numbered = values.size > 1 and np.array_equal(
        values, np.arange(len(values)) + values[0]
    )  # 1, 2, 3 are no pressures
    if units or numbered or 1100 < values.max() < 5000:
        raise ValueError(
            f"the levels {coordinate.name} of {what} must have units of pressure, hPa or Pa; got {units or 'none'}"
        )
    return values if values.max() <= 1100 else values / 100


def _northward(field: xr.DataArray, what: str) -> xr.DataArray:
    lat = field["lat"].values.astype(np.float64)
    if len(lat) < 2 or not (abs(lat) <= 90 + 1e-4).all():
        raise ValueError(f"the latitudes of {what} must be two or more, from -90 to 90; got {lat}")
    if (np.diff(lat) < 0).all():
        field, lat = field.isel(lat=slice(None, None, -1)), lat[::-1]
    if not (np.diff(lat) > 0).all():
        raise ValueError(f"the latitudes of {what} must ascend or descend; got {lat}")
    return field.assign_coords(lat=lat.clip(-90, 90))


def _eastward(field: xr.DataArray, what: str) -> xr.DataArray:
    """Longitudes ascending: from 0 on a global grid, else from the region's western edge."""
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
    calendar, seconds = series["time"].dt.calendar, _seconds(series["time"])
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


def _seconds(times: xr.DataArray) -> np.ndarray:
    """Times as whole seconds since 1970 in their own calendar."""
    if times.dtype.kind == "M":
        return (times.values.astype("datetime64[ms]") + np.timedelta64(500, "ms")).astype("datetime64[s]").astype(int)
    return np.rint(cftime.date2num(times.values, SINCE, times.dt.calendar)).astype(int)


def _dates(seconds: Any, calendar: str, count: int | None = None) -> str:
    """The first few dates in words, and how many there are."""
    count = len(seconds) if count is None else count
    dates = cftime.num2date(np.asarray(seconds[:5]), SINCE, calendar)
    listed = ", ".join(date.strftime("%Y-%m-%d %H:%M") for date in dates)
    return listed if count <= len(dates) else f"{listed}, ... ({count} in all)"


def _with_attributes(series: xr.DataArray) -> xr.DataArray:
    """The series with its coordinates described as CF has it."""
    return series.assign_coords({name: series[name].assign_attrs(COORDINATES[name]) for name in DIMS})


def _rows(series: xr.DataArray) -> int:
    """How many time steps make a block."""
    return max(1, BLOCK // (4 * series.sizes["lat"] * series.sizes["lon"]))


def _blocks(series: xr.DataArray) -> Iterator[tuple[slice, np.ndarray]]:
    """Goes through the values block by block: (rows, contiguous float32 ``[rows, lat, lon]``)."""
    if series.chunks:
        ends = np.cumsum(series.chunksizes["time"]).tolist()
        (series,) = dask.optimize(series)  # once, not for every block
    else:
        ends = [*range(_rows(series), len(series), _rows(series)), len(series)]
    for start, end in pairwise([0, *ends]):
        rows = slice(start, end)
        try:
            block = _patiently(lambda rows=rows: series[rows].compute(scheduler="synchronous").values)
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
        date = _dates(_seconds(times[first : first + 1]), times.dt.calendar)
        raise ValueError(
            f"{series.name or 'series'} has {missing} missing values, the first on {date}{_origin(series)}"
        )


def _origin(series: xr.DataArray) -> str:
    """The file that a series is from, if any, as the end of a sentence."""
    return f" in {series.encoding['source']}" if "source" in series.encoding else ""


def _values(series: xr.DataArray, bar: Any = None) -> np.ndarray:
    """All values in memory of their own, float32 ``[time, lat, lon]``."""
    values = np.empty(series.shape, np.float32)
    for rows, block in _finite_blocks(series):
        values[rows] = block
        if bar is not None:
            bar.update(len(block))
    return values


def _patiently(read: Callable[[], Result]) -> Result:
    """``read()``, repeated after a pause when the network breaks it off."""
    for wait in WAITS:
        try:
            return read()
        except NETWORK_ERRORS:
            time.sleep(wait)
    return read()


def _checksum(blocks: Iterable[tuple[slice, np.ndarray]]) -> str:
    """What ``records.checksum`` says of all blocks together."""
    digest = hashlib.sha256()
    for _, block in blocks:
        digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _is_part(path: Path, part: xr.DataArray, wanted: dict[str, Any]) -> bool:
    """Whether ``path`` is a whole file of ``part`` as asked for."""
    try:
        found = read_series(path)
        records.same(path, found.attrs, wanted)
    except (FileNotFoundError, ValueError):
        return False
    return np.array_equal(found["time"], part["time"])


def _checked(series: Any) -> xr.DataArray:
    """``series`` as (time, lat, lon); raises TypeError or ValueError unless it is in the convention."""
    if not isinstance(series, xr.DataArray):
        raise TypeError(f"series must be an xarray.DataArray; got {type(series).__name__}")
    if set(series.dims) != set(DIMS) or set(DIMS) - set(series.coords):
        raise ValueError(f"series must have dimensions time, lat and lon with coordinates; got {series.dims}")
    if series["time"].dtype.kind not in "MO":
        raise TypeError(f"series must have dates for times; got {series['time'].dtype}")
    series = series.transpose(*DIMS)
    for name, values in {"time": _seconds(series["time"]), "lat": series["lat"], "lon": series["lon"]}.items():
        steps = np.diff(values)
        if not (steps > 0).all() or (name == "time" and len(set(steps.tolist())) > 1):
            raise ValueError(f"series must have {name} ascending{' in even steps' if name == 'time' else ''}")
    return series


def _years(years: Any) -> tuple[int, int]:
    """``years`` as (first, last); raises TypeError or ValueError unless they are such a pair."""
    try:
        first, last = years
    except (TypeError, ValueError) as error:
        raise TypeError(f"years must be the first and the last year, such as (1979, 2018); got {years!r}") from error
    if whole("years", last) < whole("years", first):
        raise ValueError(f"years must be the first and the last year, in this order; got {years}")
    return int(first), int(last)
