"""Real weather for anybody: small records from public sources, fetched once, each of their files by its SHA-256.

Each function gives what is in ``folder``, and fetches it first where there is nothing. A machine without a network
gets the OSError of the download.
"""

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr

from minconv.data.grid import Field
from minconv.data.series import open_series
from minconv.runtime.files import atomic
from minconv.runtime.progress import announced, progress

RAW = "https://raw.githubusercontent.com/"
ERA_INTERIM = RAW + "lemuscanovas/synoptReg/1b1d15f34f2d296e4ad7652022f221ba93c1a7b0/inst/extdata/"
ERA_INTERIM_FILES = {
    "z500_ei.nc": "da5058303b2dbe6b4dd6f8c7fbb40465971839941360c1399cac8acaf2220878",
    "t850_ei.nc": "445d9762be4b8d8a8d64d6b90eeb29209f84f94d923b8762e4e821c67d1856ce",
    "mslp_ei.nc": "8f7c304c1aaab2288ac236a793bed8e06e77a3cf51e80b4fee41ee89659e6433",
}
NCEP = RAW + "SantanderMetGroup/climate4R.indices/3d5b6ee1c62b2c4b9341742db5d0bf8255958cdd/data/NCEP_slp_2001_2010.rda"
NCEP_SHA256 = "d7ad8dc25b77bc38245422fa4f328d355c9f96f3945fcb025954157b181522b9"
GFS = RAW + "amsimp/initial-conditions/{commit}/gfs/z.nc"
GFS_FILES = Path(__file__).with_name("gfs_z500_2021.csv")  # every commit there has replaced the file by a later one
GFS_STEP = np.timedelta64(6, "h")
GFS_GRID = {"lat": np.arange(-87.1875, 90, 5.625), "lon": np.arange(0, 360, 5.625)}


def era_interim(folder: str | Path) -> xr.Dataset:
    """Europe at 12 UTC of every day of 2000 to 2010: ``z`` of 500 hPa, m2 s-2, ``t`` of 850 hPa, K, and ``msl``, Pa.

    30 to 55 degrees north, 15 west to 15 east, by 2.5. ERA-Interim (ECMWF, CC BY 4.0); 3.5 MB from the R package
    synoptReg.
    """

    def make(files: Path) -> xr.Dataset:
        parts = [xr.load_dataset(_fetched(ERA_INTERIM + name, sum_, files)) for name, sum_ in ERA_INTERIM_FILES.items()]
        return xr.merge(parts, combine_attrs="drop_conflicts").astype(np.float32)

    path = _kept(Path(folder) / "era_interim_europe_2000-2010.nc", make)
    return _from(open_series(path, ["z", "t", "msl"]), "ERA-Interim")


def north_atlantic(folder: str | Path) -> xr.DataArray:
    """The North Atlantic, daily from 2001 to 2010: pressure at sea level ``slp``, Pa.

    30 to 70 degrees north, 70 west to 10 east, by 2.5. NCEP/NCAR Reanalysis 1 (US public domain); 2.8 MB from the R
    package climate4R.indices.
    """

    def make(files: Path) -> xr.Dataset:
        import rdata  # here, and pooch below: only notebooks ask for them

        (found,) = rdata.read_rda(_fetched(NCEP, NCEP_SHA256, files)).values()
        times = np.array([date[:10] for date in found["Dates"]["start"]], "datetime64[ns]")
        axes = {"time": times, "lat": found["xyCoords"]["y"], "lon": found["xyCoords"]["x"]}
        return xr.Dataset({"slp": (tuple(axes), found["Data"].astype(np.float32), {"units": "Pa"})}, axes)

    path = _kept(Path(folder) / "ncep_slp_north_atlantic_2001-2010.nc", make)
    return _from(open_series(path, "slp"), "NCEP/NCAR Reanalysis 1", long_name="pressure at sea level")


def gfs(folder: str | Path) -> tuple[xr.DataArray, xr.DataArray]:
    """The globe on WeatherBench's 32 x 64 grid, 6-hourly: ``z500``, m2 s-2, 14 February to 22 March and 8 April to
    12 May 2021.

    NCEP's GFS analyses (US public domain), bilinear from one degree; 145 MB in 273 files from the history of
    amsimp/initial-conditions. Single steps are missing, eight in all: they are the mean of the steps beside them.
    """

    def make(files: Path) -> xr.Dataset:
        with open(GFS_FILES, newline="") as table:
            rows = list(csv.DictReader(table))
        fields = []
        for row in progress(rows, desc="GFS", unit="file"):
            path = _fetched(GFS.format(commit=row["commit"]), row["sha256"], files)
            with xr.open_dataset(path) as found:
                field = found.z.load().astype(np.float32).rename(latitude="lat", longitude="lon")
            path.unlink()
            field = xr.concat([field, field.isel(lon=[0]).assign_coords(lon=[360.0])], "lon").sortby("lat")
            fields.append(field.interp(GFS_GRID).drop_vars("pressure", errors="ignore"))
        return (
            xr.concat(fields, "time")
            .astype(np.float32)
            .assign_attrs(units="m2 s-2")
            .to_dataset(name="z500")
            .drop_encoding()
        )

    path = _kept(Path(folder) / "gfs_z500_t850_2021.nc", make)
    with xr.open_dataset(path) as found:
        z = found.z500.load()
    gaps = np.flatnonzero(np.diff(z.time.values) > 4 * GFS_STEP) + 1
    blocks = [z[start:end].resample(time="6h").interpolate("linear") for start, end in pairwise([0, *gaps, len(z)])]
    name = {"long_name": "geopotential at 500 hPa"}
    return tuple(_from(open_series(block.astype(np.float32)), "GFS analyses", **name) for block in blocks)


def _kept(path: Path, make: Callable[[Path], xr.Dataset]) -> Path:
    """``path``, which is written from files in a temporary folder where it is not there."""
    if not path.exists():
        with TemporaryDirectory() as files, atomic(path) as temporary:
            make(Path(files)).to_netcdf(temporary, engine="h5netcdf")
    return path


def _fetched(url: str, sha256: str, folder: Path) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # each file is told on stderr, which notebooks paint like a warning
    with announced("fetching public data, once"):
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=folder))


def _from(series: Field, source: str, **attributes: str) -> Field:
    """With attributes fit for a figure's title."""
    attributes["source"] = source
    if isinstance(series, xr.Dataset):
        named = {name: one.assign_attrs(attributes) for name, one in series.data_vars.items()}
        return series.assign(named).assign_attrs(attributes)
    return series.assign_attrs(attributes)
