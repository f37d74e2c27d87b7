"""Records from public sources: what is made of their files, once."""

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import SHARED

from minconv.data import public

DATA = SHARED / "data"


@pytest.fixture
def fetched(monkeypatch):
    """Instead of the network: files by the end of their address, and what was asked for."""
    files, asked = {}, []

    def fetch(url: str, sha256: str, folder: Path) -> Path:
        assert url.startswith("https://") and len(sha256) == 64
        asked.append(url)
        path = Path(folder) / f"{len(asked)}.nc"
        files[url.removeprefix(public.RAW)](path)
        return path

    monkeypatch.setattr(public, "_fetched", fetch)
    return files, asked


def test_three_files_are_one_series(fetched, tmp_path):
    files, asked = fetched
    times = np.datetime64("2000-01-01T12", "ns") + np.arange(4) * np.timedelta64(1, "D")
    axes = {"time": times, "latitude": [55.0, 52.5, 50.0], "longitude": [-2.5, 0.0, 2.5]}
    values = np.arange(36.0).reshape(4, 3, 3)
    for number, (name, variable) in enumerate({"z500_ei.nc": "z", "t850_ei.nc": "t", "mslp_ei.nc": "msl"}.items()):
        field = xr.Dataset({variable: (tuple(axes), values + 100 * number, {"units": f"units {number}"})}, axes)
        files[public.ERA_INTERIM.removeprefix(public.RAW) + name] = field.to_netcdf
    series = public.era_interim(tmp_path)
    assert (
        list(series) == ["z", "t", "msl"]
        and series.source == series.z.source == "ERA-Interim"
        and series.t.units == "units 1"
    )
    np.testing.assert_array_equal(series.msl, values[:, ::-1] + 200)
    assert series.msl.dtype == np.float32 and len(asked) == 3
    assert public.era_interim(tmp_path).load().identical(series.load()) and len(asked) == 3  # not again


def test_analyses_are_blocks_without_gaps(fetched, tmp_path, monkeypatch):
    """Days of 6 h, of which one step is missing, a gap of days, and again."""
    files, asked = fetched
    steps = [0, 1, 3, 4, 40, 41, 42]
    table = tmp_path / "table.csv"
    rows = [{"time": step, "commit": f"{step:040d}", "sha256": "0" * 64} for step in steps]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setattr(public, "GFS_FILES", table)
    lat, lon = np.arange(90.0, -91, -1), np.arange(0.0, 360)
    for step, row in zip(steps, rows, strict=True):
        time = np.datetime64("2021-02-14T06", "ns") + step * np.timedelta64(6, "h")
        values = 1e4 + step + np.sin(np.radians(lat))[:, None] + np.cos(np.radians(lon))
        field = xr.Dataset(
            {"z": (("latitude", "longitude"), values)}, {"latitude": lat, "longitude": lon, "time": time}
        )
        files[f"amsimp/initial-conditions/{row['commit']}/gfs/z.nc"] = field.to_netcdf
    first, second = public.gfs(tmp_path)
    assert first.sizes == {"time": 5, "lat": 32, "lon": 64} and second.sizes["time"] == 3 and len(asked) == 7
    space = np.sin(np.radians(first.lat.values))[:, None] + np.cos(np.radians(first.lon.values))
    for block, start in ((first, 0), (second, 40)):
        expected = 1e4 + start + np.arange(len(block))[:, None, None] + space
        np.testing.assert_allclose(block, expected, atol=2e-3)  # bilinear, and step 2 between its neighbours


def test_listed_analyses():
    """One commit and checksum a step, in order."""
    with open(public.GFS_FILES, newline="") as table:
        rows = list(csv.DictReader(table))
    times = np.array([row["time"] for row in rows], "datetime64[h]")
    assert len(rows) == 273 and (np.diff(times) > np.timedelta64(0)).all()
    assert len({row["commit"] for row in rows}) == 273 and {len(row["sha256"]) for row in rows} == {64}


def test_pressure_is_read_from_r(fetched, tmp_path):
    rdata = pytest.importorskip("rdata")
    files, _ = fetched
    values = 1e5 + np.arange(24.0).reshape(2, 3, 4)
    content = {
        "Variable": {"varName": "slp"},
        "Data": values,
        "xyCoords": {"x": np.arange(-70.0, -60, 2.5), "y": np.array([30.0, 32.5, 35.0])},
        "Dates": {"start": np.array(["2001-01-01 GMT", "2001-01-02 GMT"])},
    }
    files[public.NCEP.removeprefix(public.RAW)] = lambda path: rdata.write_rda(path, {"NCEP_slp_2001_2010": content})
    series = public.north_atlantic(tmp_path)
    np.testing.assert_array_equal(series, values.astype(np.float32))
    assert series.units == "Pa" and series.lon[0] == -70 and str(series.time.values[1])[:10] == "2001-01-02"


@pytest.mark.skipif(not DATA.is_dir(), reason="no data there")
def test_records_are_what_they_are_said_to_be():
    europe, atlantic, (first, second) = public.era_interim(DATA), public.north_atlantic(DATA), public.gfs(DATA)
    assert dict(europe.sizes) == {"time": 4018, "lat": 11, "lon": 13} and europe.z.units == "m2 s-2"
    assert atlantic.sizes == {"time": 3652, "lat": 17, "lon": 33} and atlantic.units == "Pa"
    assert [block.shape for block in (first, second)] == [(145, 32, 64), (136, 32, 64)]
    assert first.notnull().all() and second.notnull().all()
