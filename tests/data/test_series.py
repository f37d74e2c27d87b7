"""Loaders against files of the published layouts, served as a user would meet them; areas and means in closed form."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
import xarray as xr
from grids import LAT, LON, make, position, write
from helpers import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from minconv.data import grid
from minconv.data.cf import field_of
from minconv.data.grid import area_weights, coarsen
from minconv.data.series import frames, open_series, read_series, write_series

AIR = SHARED / "data" / "air_temperature.nc"


def check(series: xr.DataArray) -> None:
    """The convention, and values that belong to their coordinates."""
    assert series.dims == ("time", "lat", "lon") and series.dtype == np.float32
    assert (np.diff(series.lat) > 0).all() and (np.diff(series.lon) > 0).all()
    assert set(series.coords) == {"time", "lat", "lon"}
    np.testing.assert_allclose(series, position(series.time, series.lat, series.lon).transpose(*series.dims), atol=2e-3)


def field(dataset: xr.Dataset, level: float | None = None) -> xr.DataArray:
    """``z`` of a dataset as it is found in a file."""
    return field_of(dataset, "a file", "z", level)


@settings(max_examples=20, deadline=None)
@given(
    points=st.sampled_from([4, 5, 8]),
    shift=st.integers(-360, 360),
    half=st.booleans(),
    wrap=st.sampled_from([0, 180, None]),
    rolled=st.integers(0, 7),
    south_up=st.booleans(),
    westward=st.booleans(),
    order=st.permutations(["time", "lat", "lon"]),
    kind=st.sampled_from(["f4", "f8"]),
)
def test_global_grids_come_out_from_0_to_360(points, shift, half, wrap, rolled, south_up, westward, order, kind):
    step = 360 / points
    lon = np.roll(step * (np.arange(points) + half / 2), rolled) + shift
    if wrap is not None:
        lon = (lon + wrap) % 360 - wrap
    lat = np.array([-60.0, -20, 20, 60])
    lon, lat = (lon[::-1] if westward else lon).astype(kind), (lat[::-1] if south_up else lat).astype(kind)
    series = field(make(3, lat, lon).transpose(*order))
    check(series)
    assert 0 <= series.lon[0] < step - 1e-3 and series.lon[-1] < 360
    np.testing.assert_allclose(np.diff(series.lon), step, atol=1e-3)
    assert len(series.lon) == points


@settings(max_examples=20, deadline=None)
@given(
    west=st.integers(-180, 359),
    points=st.integers(2, 9),
    step=st.sampled_from([1.0, 2.5, 30.0]),
    wrap=st.sampled_from([0, 180, None]),
    sort=st.booleans(),
    order=st.permutations(["time", "lat", "lon"]),
)
def test_regions_stay_in_one_piece(west, points, step, wrap, sort, order):
    whole = west + step * np.arange(points)
    lon = whole if wrap is None else (whole + wrap) % 360 - wrap
    lon = np.sort(lon) if sort else lon
    series = field(make(3, lon=lon).transpose(*order))
    check(series)
    np.testing.assert_allclose(np.diff(series.lon), step)
    assert (series.lon[0] - west) % 360 == 0
    if (np.diff(lon) > 0).all() and np.ptp(lon) < 300:
        np.testing.assert_array_equal(series.lon, lon)  # as it was


@pytest.mark.parametrize(
    ("lon", "joined"),
    [
        ([0, 5, 10, 350, 355], [-10, -5, 0, 5, 10]),  # across Greenwich, cut by 0..360
        ([-180, -175, 170, 175], [170, 175, 180, 185]),  # across the date line, cut by -180..180
        ([200, 202.5, 205], [200, 202.5, 205]),
        ([-130, -120, -110], [-130, -120, -110]),
        ([175, 180, 185], [175, 180, 185]),
    ],
)
def test_a_region_cut_by_the_edge_of_the_map(lon, joined):
    series = field(make(lon=np.array(lon, float)))
    check(series)
    np.testing.assert_array_equal(series.lon, joined)


def test_a_repeated_meridian_is_dropped():
    series = field(make(lon=np.linspace(-180, 180, 9)))
    check(series)
    np.testing.assert_array_equal(series.lon, np.arange(0, 360, 45))


ABC = {"time": "a", "lat": "b", "lon": "c"}
MISLEADING = {"time": "x", "lat": "time", "lon": "lat"}
DEGREES = {"lat": {"units": "degrees_north"}, "lon": {"units": "degrees_east"}}


@pytest.mark.parametrize(
    ("names", "attributes"),
    [
        ({}, {}),
        ({"time": "valid_time", "lat": "latitude", "lon": "longitude"}, {}),
        ({"time": "t", "lat": "y", "lon": "x"}, {}),
        (
            ABC,
            {"time": {"standard_name": "time"}, "lat": {"standard_name": "latitude"}, "lon": {"units": "degree_east"}},
        ),
        (MISLEADING, {"time": {"axis": "T"}, **DEGREES}),
        (ABC, {"time": {"axis": "T"}, "lat": {"axis": "Y"}, "lon": {"axis": "X", "units": "degrees"}}),
    ],
)
def test_dimensions_by_attributes_then_names(names, attributes):
    dataset = make()
    for name, found in attributes.items():
        dataset[name].attrs = found
    check(field(dataset.rename(names)))


def test_packed_and_masked_values(tmp_path):
    values = 270 + 0.01 * np.random.default_rng(0).integers(-3000, 3000, (4, 4, 4))
    dataset = make(air=(("time", "lat", "lon"), values, {"units": "K"}))
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 270.0, "_FillValue": -32768}
    series = open_series(write(tmp_path / "whole.nc", dataset, encoding={"air": packing}), "air")
    assert series.dtype == np.float32 and series.encoding.keys() == {"source"}
    np.testing.assert_array_equal(series, values.astype(np.float32))
    values[2, 1, :2] = values[3, 0, 0] = np.nan
    series = open_series(write(tmp_path / "holes.nc", dataset, encoding={"air": packing}), "air")
    for read in (frames, lambda series: write_series(tmp_path / "out.nc", series)):
        for one in (series, series.load()):
            with pytest.raises(ValueError, match=r"air has 3 missing values, the first on 2000-01-01 12:00"):
                read(one)
    assert not (tmp_path / "out.nc").exists()


@pytest.mark.parametrize(
    ("units", "levels", "name"),
    [
        ("hPa", [850, 500, 200], "pressure"),
        ("millibars", [850, 500, 200], "z_of_any_name"),
        ("Pa", [85000.0, 50000.0, 20000.0], "plev"),
        (None, [850, 500, 200], "isobaricInhPa"),
        (None, [85000, 50000, 20000], "level"),
    ],
)
def test_levels_in_any_units(units, levels, name):
    dataset = make()
    dataset["z"] = dataset.z + xr.DataArray([1e5, 0, 2e5], {name: levels})
    if units:
        dataset[name].attrs["units"] = units
    dataset = dataset.transpose("time", "lat", name, "lon")
    series = field(dataset, 500)
    check(series)
    assert series.attrs["level"] == "500 hPa"
    with pytest.raises(ValueError, match=r"level must be one of 850, 500, 200 hPa, which z of .* has; got 700"):
        field(dataset, 700)
    with pytest.raises(ValueError, match=r"level must be one of 850, 500, 200 hPa, which z of .* has; got none"):
        field(dataset)
    for chosen in (1, [1]):
        for level in (None, 500):
            series = field(dataset.isel({name: chosen}), level)
            check(series)
            assert series.attrs.get("level") == (None if units is level is None else "500 hPa")
        with pytest.raises(ValueError, match="level must be one of 500 hPa"):
            field(dataset.isel({name: chosen}), 850)


def test_levels_that_are_refused(tmp_path):
    path = write(tmp_path / "z.nc", make())
    with pytest.raises(ValueError, match=r"level must be left out, as z of .*z\.nc has no pressure levels; got 500"):
        open_series(path, "z", level=500)
    with pytest.raises(ValueError, match="level must be above 0"):
        open_series(path, "z", level=-500)
    for units, levels, said in (
        (None, [1, 2, 3], "levels level of z of .* must have units of pressure, hPa or Pa; got none"),
        (None, [500, 2000], "must have units of pressure"),
        ("1", [0.1, 0.5], r"one member must be chosen by keyword, such as level=0.1: level \(0.1, 0.5\)$"),
    ):
        dataset = make()
        dataset["z"] = dataset.z + xr.DataArray(np.zeros(len(levels)), {"level": levels})
        if units:
            dataset["level"].attrs["units"] = units
        with pytest.raises(ValueError, match=said):
            field(dataset, 500 if units is None else None)


def test_further_dimensions():
    check(field(make().expand_dims(number=[3], step=1)))
    check(field(make(1).assign_coords(level=2.0)))  # a series of one step
    with pytest.raises(
        ValueError,
        match=r"z of .* has further dimensions, .* by keyword, such as number=3: number \(3, 4\), step \(0\)$",
    ):
        field(make().expand_dims(number=[3, 4], step=1))


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
def test_other_calendars(tmp_path, calendar):
    times = xr.date_range("2000-02-20", periods=80, freq="6h", calendar=calendar, use_cftime=True)
    series = open_series(write(tmp_path / "z.nc", make(times)), "z")
    check(series)
    assert series.time.dt.calendar == calendar
    days = {(time.month, time.day) for time in series.time.values if time.month == 2}
    assert max(days) == (2, {"noleap": 28, "360_day": 30}.get(calendar, 29))
    again = read_series(write_series(tmp_path / "copy.nc", series))
    np.testing.assert_array_equal(again.time, series.time)
    np.testing.assert_array_equal(again, series)
    with pytest.raises(ValueError, match=r"lacks time steps: 2000-02-21 12:00$"):
        open_series(write(tmp_path / "gap.nc", make(np.delete(times, 6))), "z")


def test_a_leap_day_that_was_left_out_is_missed(tmp_path):
    times = np.arange("2000-02-20", "2000-03-10", 6, dtype="M8[h]").astype("M8[ns]")
    times = times[times.astype("M8[D]") != np.datetime64("2000-02-29")]
    with pytest.raises(ValueError, match=r"2000-02-29 00:00, 2000-02-29 06:00, 2000-02-29 12:00, 2000-02-29 18:00$"):
        open_series(write(tmp_path / "z.nc", make(times)), "z")


def test_dates_that_nanoseconds_cannot_hold(tmp_path):
    times = xr.date_range("0850-01-01", periods=8, freq="D", calendar="proleptic_gregorian", use_cftime=True)
    series = open_series(write(tmp_path / "z.nc", make(times)), "z", years=(850, 850))
    check(series)
    assert series.time.dt.calendar == "proleptic_gregorian"
    assert read_series(write_series(tmp_path / "copy.nc", series)).time.equals(series.time)


def test_times_a_little_beside_the_second(tmp_path):
    """Days as floating-point numbers are tenths of a day to within microseconds only."""
    dataset = make().drop_vars("time").assign_coords(time=np.array([0.1, 0.2, 0.3, 0.4]) + 40000)
    dataset["time"].attrs["units"] = "days since 1900-01-01"
    series = open_series(write(tmp_path / "z.nc", dataset), "z")
    assert set(np.diff(series.time)) == {np.timedelta64(8640, "s")}


def test_missing_steps_are_counted_and_the_first_named(tmp_path):
    dataset = make(100).isel(time=np.r_[0:10, 20:30, 31:100])
    with pytest.raises(
        ValueError,
        match=r"z of z\.nc lacks time steps: 2000-01-03 12:00, 2000-01-03 18:00, .*, \.\.\. \(11 in all\)$",
    ):
        open_series(write(tmp_path / "z.nc", dataset), "z")


def test_uneven_steps(tmp_path):
    months = [f"2000-0{month}-{day}" for month, day in enumerate((31, 29, 31, 30, 31), 1)]
    hours = [f"2000-01-01T{hour}" for hour in ("00", "06", "12", "15")]
    for times, said in ((months, "must have even time steps; most are"), (hours, "1 are not, the first from .* 12")):
        with pytest.raises(ValueError, match=said):
            open_series(write(tmp_path / "z.nc", make(np.array(times, "M8[ns]"))), "z")


def test_steps_that_are_there_twice(tmp_path):
    whole = make(12)
    whole["z"][5, 1, 1] = np.nan  # missing twice is the same twice
    write(tmp_path / "b.nc", whole.isel(time=slice(0, 7)))
    write(tmp_path / "a.nc", whole.isel(time=slice(4, 12)))
    series = open_series([tmp_path / "b.nc", tmp_path / "a.nc"], "z")
    assert (np.diff(series.time) == np.timedelta64(6, "h")).all()
    np.testing.assert_array_equal(series, whole.z)
    whole["z"][6] += 1
    write(tmp_path / "other.nc", whole.isel(time=slice(0, 7)))
    with pytest.raises(ValueError, match=r"has steps twice, with different values: 2000-01-02 12:00$"):
        open_series([tmp_path / "other.nc", tmp_path / "a.nc"], "z")
    inside = make(6).isel(time=[3, 0, 1, 1, 2, 5, 4])
    check(open_series(write(tmp_path / "c.nc", inside), "z"))


def test_files_in_any_order_from_a_list_a_folder_and_a_pattern(tmp_path):
    whole = make(12)
    for name, rows in {"c": slice(0, 4), "a": slice(4, 8), "b": slice(8, 12)}.items():
        write(tmp_path / f"{name}.nc", whole.isel(time=rows))
    (tmp_path / "notes.txt").write_text("not a NetCDF file")
    listed = open_series([tmp_path / f"{name}.nc" for name in "abc"], "z")
    check(listed)
    assert listed.attrs["source"] == "a.nc and 2 more"
    for source in (tmp_path, str(tmp_path / "*.nc"), [tmp_path / "a.nc", str(tmp_path / "[bc].nc")]):
        assert open_series(source, "z").identical(listed)
    assert open_series(tmp_path / "a.nc", "z").attrs["source"] == "a.nc"
    with pytest.raises(ValueError, match="lacks time steps"):
        open_series([tmp_path / "c.nc", tmp_path / "b.nc"], "z")


def test_files_that_hold_a_time_of_day_each(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "BLOCK", 1024)
    whole = make(200)
    for part in range(4):
        write(tmp_path / f"{6 * part:02}.nc", whole.isel(time=slice(part, None, 4)))
    series = open_series(tmp_path, "z")
    assert len(series.chunks[0]) > 10
    np.testing.assert_array_equal(frames(series)[:, 0].numpy(), whole.z)


@pytest.mark.parametrize("form", ["2 consolidated", "2", "3"])
def test_zarr_of_any_form(tmp_path, form):
    make().to_zarr(tmp_path / "z.zarr", zarr_format=int(form[0]), consolidated="consolidated" in form)
    check(open_series(tmp_path / "z.zarr", "z"))


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.nc").write_text("not a NetCDF file")
    write(tmp_path / "z.nc", make())
    (tmp_path / "half.nc").write_bytes((tmp_path / "z.nc").read_bytes()[:3000])
    for source, error, said in (
        (tmp_path / "none.nc", FileNotFoundError, "there is no file, folder or Zarr store .*none.nc"),
        (str(tmp_path / "x*.nc"), FileNotFoundError, "there is no file, folder or Zarr store"),
        (tmp_path / "empty", FileNotFoundError, "holds no NetCDF file"),
        (tmp_path / "text.nc", ValueError, "text.nc cannot be read as NetCDF"),
        (tmp_path / "half.nc", ValueError, "half.nc cannot be read as NetCDF"),
        ([], ValueError, "source must name at least one file"),
        (3, TypeError, "source must be a path, a URL, an xarray object or a list of these; got 3"),
    ):
        with pytest.raises(error, match=said):
            open_series(source, "z")


def test_variables_that_are_no_series(tmp_path):
    dataset = make(words=(("time", "lat", "lon"), np.full((4, 4, 4), "a")), mask=(("lat", "lon"), np.ones((4, 4))))
    path = write(tmp_path / "z.nc", dataset)
    with pytest.raises(ValueError, match=r"variable must be one of z, words, mask, which .* has; got 'y'"):
        open_series(path, "y")
    with pytest.raises(ValueError, match="found none for time among lat, lon"):
        open_series(path, "mask")
    with pytest.raises(TypeError, match=r"words of .* must be numbers"):
        open_series(path, "words")
    with pytest.raises(TypeError, match="variable must be a string"):
        open_series(path, 3)
    with pytest.raises(ValueError, match="is empty"):
        open_series(write(path, make().isel(time=slice(0, 0))), "z")


def test_grids_that_are_not_of_latitude_and_longitude():
    projected = make().rename(lat="y", lon="x")
    projected["y"].attrs = {"axis": "Y", "units": "m", "standard_name": "projection_y_coordinate"}
    projected["x"].attrs = {"axis": "X", "units": "km"}
    with pytest.raises(ValueError, match="found none for lat, lon among time, y, x"):
        field(projected)
    rotated = make().rename(lat="rlat", lon="rlon")
    rotated["rlat"].attrs = {"axis": "Y", "units": "degrees", "standard_name": "grid_latitude"}
    rotated["rlon"].attrs = {"axis": "X", "units": "degrees", "standard_name": "grid_longitude"}
    with pytest.raises(ValueError, match="found none for lat, lon among time, rlat, rlon"):
        field(rotated)
    curved = make().drop_vars(["lat", "lon"]).assign_coords(lat2=(("lat", "lon"), np.zeros((4, 4))))
    with pytest.raises(ValueError, match="found none for lat, lon"):
        field(curved)
    undated = make().assign_coords(time=np.arange(4))
    with pytest.raises(ValueError, match=r"the times of z of .* have no units such as 'hours since"):
        field(undated)
    twice = make().expand_dims(latitude=[1.0, 2.0])
    with pytest.raises(ValueError, match="two dimensions for lat: latitude and lat"):
        field(twice)
    for bad, said in (
        ({"lat": [-60, 20, -20, 60]}, "latitudes of z of .* must ascend or descend"),
        ({"lat": [-60, -20, 20, 95]}, "from -90 to 90"),
        ({"lat": [0.0]}, "two or more"),
        ({"lon": [0, 10, 20, 31]}, "longitudes of z of .* must be evenly spaced; got steps from 10 to 11"),
        ({"lon": [0, 90, 90, 180, 180]}, "none there twice"),
        ({"lon": [0.0]}, "two or more"),
        ({"lon": [0, 90, math.nan]}, "must be finite"),
    ):
        with pytest.raises(ValueError, match=said):
            field(make(**bad))


def test_files_that_do_not_belong_together(tmp_path):
    first = write(tmp_path / "a.nc", make(8).isel(time=slice(0, 4)))
    later = make(8).isel(time=slice(4, 8))
    other_units = later.copy(deep=True)
    other_units["z"].attrs["units"] = "m"
    calendar = xr.date_range("2000-01-02", periods=4, freq="6h", calendar="noleap", use_cftime=True)
    for other, said in (
        (later.assign_coords(lat=later.lat + 1), "b.nc has another grid than .*a.nc: its lat differs"),
        (later.isel(lon=slice(0, 3)), "its lon differs"),
        (other_units, r"b.nc has another units than .*a.nc: m, not m\*\*2 s\*\*-2"),
        (later.assign_coords(time=calendar), "another calendar than .*: noleap, not proleptic_gregorian"),
        (later.rename(z="t"), "variable must be one of t, which .*b.nc has"),
    ):
        with pytest.raises(ValueError, match=said):
            open_series([first, write(tmp_path / "b.nc", other)], "z")


def test_years(tmp_path):
    times = np.arange("1999-12-30", "2002-01-03", dtype="M8[D]").astype("M8[ns]")
    path = write(tmp_path / "z.nc", make(times))
    series = open_series(path, "z", years=(2000, 2001))
    assert series.time[0] == np.datetime64("2000-01-01") and series.time[-1] == np.datetime64("2001-12-31")
    assert len(series) == 366 + 365
    with pytest.raises(
        ValueError, match=r"years must be among those of z of z.nc, 1999 to 2002; got 2001 to 2004, .*2003"
    ):
        open_series(path, "z", years=(2001, 2004))
    for bad in (2000, ("2000", "2001"), (2000.0, 2001.0), (1, 2, 3)):
        with pytest.raises(TypeError, match="years must be"):
            open_series(path, "z", years=bad)


# Tensors and files


def test_frames_are_the_values_in_memory_of_their_own(tmp_path):
    series = make(7, LAT, LON).z
    for one in (series, series.chunk(time=3), series.transpose("lon", "time", "lat"), series.astype(float)):
        found = frames(one)
        assert found.shape == (7, 1, 32, 64) and found.dtype == torch.float32
        np.testing.assert_array_equal(found[:, 0].numpy(), series)
    frames(series).zero_()
    assert float(abs(series).max()) > 0
    series[3, 0, 5] = np.inf
    with pytest.raises(ValueError, match="z has 1 missing values, the first on 2000-01-01 18:00"):
        frames(series)
    with pytest.raises(ValueError, match="series must have dimensions time, lat and lon with coordinates"):
        frames(series.rename(lat="latitude"))
    with pytest.raises(ValueError, match="series must have time ascending in even steps"):
        frames(series.isel(time=[0, 1, 3]))
    with pytest.raises(TypeError, match="series must have dates for times; got int64"):
        frames(series.assign_coords(time=np.arange(7)))
    with pytest.raises(TypeError, match=r"series must be an xarray.DataArray; got ndarray"):
        frames(series.values)


@pytest.mark.slow
def test_a_long_series_is_held_once(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "BLOCK", 1 << 17)
    times = np.datetime64("2000-01-01", "ns") + np.arange(500) * np.timedelta64(1, "h")
    for part, rows in enumerate((slice(0, 200), slice(200, 500))):
        write(tmp_path / f"{part}.nc", make(times, LAT, LON).isel(time=rows))
    frames(open_series(tmp_path, "z", years=(2000, 2000)))  # what is imported on the way is no matter

    def peak(read) -> float:
        tracemalloc.start()
        read()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found / (4 * 500 * 32 * 64)

    for use in (frames, lambda series: write_series(tmp_path / "copy.nc4", series)):
        series = open_series([tmp_path / "0.nc", tmp_path / "1.nc"], "z")
        assert max(series.chunksizes["time"]) == 16
        assert peak(lambda use=use, series=series: use(series)) < 1.4
    assert peak(lambda: read_series(tmp_path / "copy.nc4")) < 0.4


def test_written_series_are_read_as_they_were(tmp_path):
    series = open_series(write(tmp_path / "z.nc", make(6, LAT, LON)), "z").assign_attrs(source="a test")
    path = write_series(tmp_path / "out.nc", series, {"seed": 3, "note": "as is"})
    again = read_series(path)
    assert again.chunks
    assert {"seed": 3, "note": "as is", **series.attrs}.items() <= again.attrs.items()
    assert again.attrs["provenance_minconv"]
    assert again.drop_attrs(deep=False).identical(series.drop_attrs(deep=False))
    assert open_series(path, "z").identical(series)  # with the source's name that the file has
    np.testing.assert_array_equal(read_series(write_series(tmp_path / "own.nc", series.load())), series)


def test_series_that_are_not_written(tmp_path):
    series = make().z
    for bad, said in (
        (series.isel(lat=slice(None, None, -1)), "series must have lat ascending"),
        (series.isel(lon=[1, 0, 2]), "series must have lon ascending"),
        (series.isel(time=[0, 2, 3]), "series must have time ascending in even steps"),
        (series.rename(None), "series must have its variable for a name"),
        (series.isel(time=0), "series must have dimensions"),
    ):
        with pytest.raises(ValueError, match=said):
            write_series(tmp_path / "out.nc", bad)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_series(tmp_path / "out.nc")


# Real data


@pytest.fixture(scope="module")
def air() -> xr.DataArray:
    if not AIR.exists():
        pytest.skip(f"there is no {AIR.name}")
    return open_series(AIR, "air")


def test_the_tutorial_series(air):
    assert air.shape == (2920, 25, 53) and air.attrs["units"] == "degK" and air.attrs["source"] == "air_temperature.nc"
    assert (air.lat[[0, -1]] == [15, 75]).all() and (air.lon[[0, -1]] == [200, 330]).all()
    with xr.open_dataset(AIR) as raw:
        np.testing.assert_array_equal(air, raw.air[:, ::-1].astype(np.float32))
    found = frames(air)
    assert found.shape == (2920, 1, 25, 53)
    halves = [len(open_series(AIR, "air", years=(year, year))) for year in (2013, 2014)]
    assert halves == [1460, 1460]


def test_persistence_and_climatology_of_the_tutorial_series_have_the_known_errors(air):
    """With the exact areas, which on an even grid are the cosines of latitude that the known errors were made with."""
    values = frames(air)[:, 0].double().numpy()
    weights = area_weights(air.lat)
    cosines = np.cos(np.radians(air.lat.values))
    known = {6: 2.42, 24: 2.97, 48: 3.86, 72: 4.19, 120: 4.55, 168: 4.69}
    errors = [(rmse, values[hours // 6 :] - values[: -(hours // 6)]) for hours, rmse in known.items()]
    for known, error in [*errors, (7.87, values - values.mean(0))]:
        by_latitude = (error**2).mean((0, 2))
        found = math.sqrt((weights * by_latitude).mean())
        assert round(found, 2) == known
        assert found == pytest.approx(math.sqrt((cosines * by_latitude).sum() / cosines.sum()), rel=1e-12)


def test_a_region_of_real_data_in_coarser_cells(air):
    coarse = coarsen(air.isel(lat=slice(0, 24), lon=slice(0, 52)), 4)
    assert coarse.shape == (2920, 6, 13)
    np.testing.assert_allclose(coarse.lat, 18.75 + 10 * np.arange(6))
    weights, fine = area_weights(coarse.lat), area_weights(air.lat[:24])
    assert float((coarse * weights[:, None]).mean()) == pytest.approx(float((air[:, :24, :52] * fine[:, None]).mean()))
