"""ERA5 from the archives WeatherBench 1, a folder of files, and WeatherBench 2, a Zarr store to download from."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from minconv.data import store
from minconv.data.series import open_series, patiently, read_series, read_values, write_series, year_range
from minconv.data.sources import NETWORK_ERRORS
from minconv.runtime.checks import positive, whole
from minconv.runtime.files import lock, remove_stale_lock
from minconv.runtime.progress import progress

WEATHERBENCH2 = "gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"


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
    first, last = (min(names), max(names)) if years is None else year_range(years)
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
    first, last = year_range(years)
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

    def make() -> None:
        with lock(alone):
            if not cache.exists():
                _download(url, cache, paths, request, level)

    store.cached(cache, request, make)
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
        series = patiently(lambda: open_series(url, variable, level=level, years=(min(paths), max(paths))))
        series = series.rename("z" if variable == "geopotential" else variable)
        series.attrs["source"] = "ERA5, WeatherBench 2"
        with progress(total=series.sizes["time"], desc=cache.name, unit="step") as bar:
            for year, path in paths.items():
                part = series.sel(time=str(year))
                wanted = request | {"first_year": year, "last_year": year}
                if _is_part(path, part, wanted):
                    bar.update(part.sizes["time"])
                else:
                    write_series(path, part.copy(data=read_values(part, bar)), wanted)
    except NETWORK_ERRORS as error:
        kept = sum(path.exists() for path in paths.values())
        raise ConnectionError(
            f"the download from {url} was cut off ({type(error).__name__}: {error}); {kept} of {len(paths)} years are "
            f"kept in {paths[min(paths)].parent}: the same call goes on from there"
        ) from error
    write_series(cache, open_series(paths.values(), series.name), request)


def _is_part(path: Path, part: xr.DataArray, wanted: dict[str, Any]) -> bool:
    """Whether ``path`` is a whole file of ``part`` as asked for."""
    try:
        store.compare(path, wanted)
        return np.array_equal(read_series(path)["time"], part["time"])
    except (FileNotFoundError, ValueError):
        return False
