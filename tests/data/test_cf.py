"""Files are believed in what they declare: invalid values, grids, dates, units; what cannot be meant is refused."""

from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch
import xarray as xr
from grids import make, write

from minconv.data.cf import NEVER_WRITTEN
from minconv.data.series import frames, open_series, read_series, write_series


def set_attributes(path: Path, variable: str, attributes: dict[str, object]) -> Path:
    with h5netcdf.File(path, "a") as file:
        for name, value in attributes.items():
            file[variable].attrs[name] = value
    return path


def stored(path: Path, values: np.ndarray, attributes: dict[str, object]) -> Path:
    """A file of ``z`` with these values and attributes as they are stored."""
    dataset = make(len(values))
    dataset["z"] = dataset.z.dims, values
    write(path, dataset, encoding={"z": {"_FillValue": None}})
    return set_attributes(path, "z", attributes)


# Values

PACKED = {"scale_factor": np.float32(0.01), "add_offset": np.float32(270)}


@pytest.mark.parametrize(
    ("kind", "values", "attributes", "missing"),
    [
        ("f4", [-1, 0, 400, 400.1, np.nan], {"valid_range": np.float32([0, 400])}, [0, 3, 4]),
        ("f4", [0.1, 0.3, 0.4], {"valid_range": [0.1, 0.3]}, [2]),  # of more digits than the values have
        ("f4", [-1, 0, 400], {"valid_min": 0}, [0]),
        ("f8", [-1, 0, 400], {"valid_max": np.float32(0)}, [2]),
        ("f4", [-1, 0, 400], {"valid_range": np.float32([np.nan, 0])}, [2]),
        ("i2", [-1, 0, 400, 401], {"valid_range": np.int16([0, 400])}, [0, 3]),
        ("i2", [-1, 0, 400, 401], {"valid_range": np.int16([0, 400]), **PACKED}, [0, 3]),
        ("i2", [-1, 0, 400, 401], {"valid_min": np.int16(0), **PACKED}, [0]),
        ("i2", [-1, 0, 400, 401], {"valid_max": np.int16(400), **PACKED, "scale_factor": -0.01}, [3]),
        ("i2", [-1, 0, 400, 401], {"valid_range": np.float32([270, 274]), **PACKED}, [0, 3]),  # so not in packed units
        ("i2", [-1, 0, 400], {"valid_range": [0, 40000]}, [0]),
        ("i1", [1, -56, -6], {"valid_range": np.int8([0, -56]), "_Unsigned": "true"}, [2]),  # 1, 200, 250
        ("i1", [1, -56, -6], {"valid_max": np.int16(200), "_Unsigned": "true"}, [2]),
        ("u1", [1, 200, 250], {"valid_min": np.uint8(206), "_Unsigned": "false"}, [1]),  # 1, -56, -6; from -50 on
        ("f4", [5, 6, 7], {"missing_value": np.float32([5, 7])}, [0, 2]),
        ("i2", [5, 6, 7], {"missing_value": np.int16([5, 7]), **PACKED}, [0, 2]),
        ("i2", [5, 6, 7], {"_FillValue": np.int16(5), "missing_value": np.int16(7)}, [0, 2]),
        ("i2", [-32767, -32768, 5], PACKED, [0]),
        ("i2", [-32767, 7, 5], {"_FillValue": np.int16(7)}, [1]),  # the file's own instead
        ("i1", [-127, -128, 127], {}, []),  # bytes have none
        ("u1", [255, 0], {}, []),
        *((kind, [5, fill], {}, [1]) for kind, fill in NEVER_WRITTEN.items()),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning"
)  # of several missing values, to who opens the dataset
def test_values_that_the_file_declares_invalid_are_missing(tmp_path, kind, values, attributes, missing):
    values = np.array(values, kind)
    good = next(place for place in range(len(values)) if place not in missing)
    whole = np.full((len(values), 4, 4), values[good])
    whole[:, 2, 1] = values
    path = stored(tmp_path / "z.nc", whole, attributes)
    with xr.open_dataset(path) as dataset:  # which decodes the others
        expected = dataset.z.values.astype(np.float32)
        expected[missing, 2, 1] = np.nan
        for source in (path, dataset):
            series = open_series(source, "z")
            np.testing.assert_array_equal(series, expected)
            if missing:
                with pytest.raises(ValueError, match=rf"z has {len(missing)} missing values, the first on 2000-01-0"):
                    frames(series)


def test_limits_of_a_packing_that_is_lost_do_not_count():
    packed = make(valid=(("time", "lat", "lon"), np.full((4, 4, 4), 280.0), {"valid_range": np.int16([0, 100])}))
    assert frames(open_series(packed, "valid")).eq(280).all()
    packed["valid"].attrs["valid_range"] = [0.0, 100.0]
    with pytest.raises(ValueError, match="valid has 64 missing values"):
        frames(open_series(packed, "valid"))


def test_numbers_in_memory_were_all_written():
    dataset = make(count=(("time", "lat", "lon"), np.full((4, 4, 4), -32767, np.int16)))
    assert frames(open_series(dataset, "count")).eq(-32767).all()


@pytest.mark.parametrize(
    ("name", "value"), [("valid_range", "0, 400"), ("valid_range", [0.0]), ("valid_min", [0, 1]), ("valid_max", "high")]
)
def test_limits_that_are_no_numbers_are_refused(tmp_path, name, value):
    path = set_attributes(write(tmp_path / "z.nc", make()), "z", {name: value})
    with pytest.raises(TypeError, match=rf"the attribute {name} of z of .*z\.nc must be numbers, [12] of them; got"):
        open_series(path, "z")


# Grids


def test_grid_mappings_that_are_not_of_latitude_and_longitude():
    plain = make().rename(lat="y", lon="x")
    tilted = plain.assign(pole=((), 0, {"grid_mapping_name": "rotated_latitude_longitude"}))
    tilted["globe"] = (), 0, {"grid_mapping_name": "latitude_longitude"}
    for told, said in (
        ("pole", "as pole says, rotated_latitude_longitude"),
        ("globe: time pole: y x", "as pole says, rotated_latitude_longitude"),
        ("globe", None),
        ("globe: y x pole: time", None),
        ("absent", None),
    ):
        tilted["z"].attrs["grid_mapping"] = told
        if said is None:
            assert open_series(tilted, "z").dims == ("time", "lat", "lon")
        else:
            with pytest.raises(ValueError, match=f"the grid of z of the dataset is not of latitude .*{said}"):
                open_series(tilted, "z")
    for name in ("lat", "lon"):  # said of themselves, which is surer
        tilted[{"lat": "y", "lon": "x"}[name]].attrs["standard_name"] = {"lat": "latitude", "lon": "longitude"}[name]
    tilted["z"].attrs["grid_mapping"] = "pole"
    assert len(open_series(tilted, "z")) == 4


@pytest.mark.parametrize(
    ("attributes", "taken"),
    [
        ({"grid_mapping_name": "latitude_longitude", "crs_wkt": 'GEOGCRS["WGS 84"]'}, True),
        ({"spatial_ref": 'GEOGCS["WGS 84"]'}, True),
        ({"grid_mapping_name": "transverse_mercator"}, False),
        ({"crs_wkt": 'PROJCRS["UTM"]'}, False),
        ({"spatial_ref": 'PROJCS["UTM"]'}, False),
    ],
)
def test_the_reference_system_that_comes_along_as_a_scalar(tmp_path, attributes, taken):
    """As rioxarray has it, which names it in the encoding, or nowhere after a calculation."""
    dataset = make().rename(lat="y", lon="x").assign_coords(spatial_ref=((), 0, attributes))
    dataset["z"].encoding["grid_mapping"] = "spatial_ref"
    for source in (dataset, dataset.z, dataset.z.drop_encoding(), write(tmp_path / "z.nc", dataset)):
        if taken:
            assert open_series(source, "z").lat[0] == -60
        else:
            with pytest.raises(ValueError, match="not of latitude and longitude but, as spatial_ref says"):
                open_series(source, "z")


@pytest.mark.parametrize("declared", [True, False])
def test_latitudes_and_longitudes_in_two_dimensions_tell_what_y_and_x_are(tmp_path, declared):
    dataset = make().rename(lat="y", lon="x")
    true = np.broadcast_arrays(dataset.y.values[:, None], dataset.x.values - 360)
    units = {"units": "degrees_north"}, {"units": "degrees_east"}

    def told(lat: np.ndarray, lon: np.ndarray) -> Path:
        fields = {"nav_lat": (("y", "x"), lat, units[0]), "nav_lon": (("y", "x"), lon, units[1])}
        grown = dataset.assign_coords(fields) if declared else dataset.assign(fields)
        return write(tmp_path / f"{len(list(tmp_path.iterdir()))}.nc", grown)

    assert (open_series(told(*true), "z").lon == [0, 90, 180, 270]).all()
    for lat, lon, said in (
        (true[0] + 1, true[1], "y has .* nav_lat"),
        (true[0], true[1] + true[0], "x has .* nav_lon"),
    ):
        lat = np.where(lat == lat.max(), np.nan, lat)  # such as under land
        with pytest.raises(ValueError, match=f"the grid of z of .* not of latitude and longitude: {said}"):
            open_series(told(lat, lon), "z")


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        ({"units": "radians"}, {"units": "radians"}),
        ({"units": "radians", "standard_name": "latitude"}, {"units": "degrees_east"}),
        ({"units": "km", "standard_name": "latitude", "axis": "Y"}, {}),
        ({"units": "gridcells"}, {}),
        ({"units": "1", "axis": "Y"}, {}),
        ({}, {"units": "degrees_west", "standard_name": "longitude"}),
        ({"units": "degrees_east", "standard_name": "latitude"}, {}),
    ],
)
def test_units_that_are_not_those_of_a_latitude_or_longitude(lat, lon):
    dataset = make()
    dataset["lat"].attrs, dataset["lon"].attrs = lat, lon
    units = lat.get("units", lon.get("units"))
    with pytest.raises(ValueError, match=rf"found none for .*la?.* among time, lat, lon \(.*in {units}"):
        open_series(dataset, "z")


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        ({"units": "deg", "axis": "Y"}, {"units": "deg", "axis": "X"}),
        ({"units": "degN"}, {"units": "degE"}),
        ({"units": "degrees north"}, {"units": "Degrees East"}),
        ({"units": "deg_north"}, {"units": "°E"}),
        ({"standard_name": "Latitude"}, {"standard_name": " LONGITUDE "}),
        ({"standard_name": "latitude", "units": "degree"}, {"standard_name": "longitude", "units": "degE"}),
    ],
)
def test_latitudes_and_longitudes_in_other_spellings(lat, lon):
    dataset = make().rename(lat="b", lon="c")
    dataset["b"].attrs, dataset["c"].attrs = lat, lon
    series = open_series(dataset, "z")
    np.testing.assert_array_equal(series.lat, dataset.b)
    np.testing.assert_array_equal(series.lon, dataset.c)


# Dates


@pytest.mark.parametrize(
    ("start", "calendar"), [("2000-01-01", "standard"), ("2000-01-01", "noleap"), ("2300-01-01", "standard")]
)
@pytest.mark.parametrize("kind", ["f8", "i4"])
def test_missing_dates_are_refused(tmp_path, start, calendar, kind):
    """Of two kinds: cftime would make the first date of a missing one."""
    times = xr.date_range(start, periods=6, freq="6h", calendar=calendar, use_cftime=True)
    encoding = {"dtype": kind, "units": "hours since 1900-01-01"} | (
        {"_FillValue": np.int32(-5)} if kind == "i4" else {}
    )
    path = write(tmp_path / "z.nc", make(times), encoding={"time": encoding})
    assert len(open_series(path, "z")) == 6
    with h5netcdf.File(path, "a") as file:
        file["time"][2:4] = np.nan if kind == "f8" else -5
    with pytest.raises(ValueError, match=r"z\.nc lacks 2 of 6 dates of time"):
        open_series(path, "z")


def test_missing_dates_of_a_dataset_and_of_a_series():
    dataset = make(6)
    times = dataset.time.values.copy()
    times[3] = np.datetime64("NaT")
    with pytest.raises(ValueError, match="the dataset lacks 1 of 6 dates of time"):
        open_series(dataset.assign_coords(time=times), "z")
    with pytest.raises(ValueError, match="series must have all its dates; 1 of 6 are missing"):
        frames(dataset.z.assign_coords(time=times))


@pytest.mark.parametrize("calendar", ["proleptic_gregorian", "standard", "gregorian", "noleap"])
@pytest.mark.parametrize("start", ["2262-03-25", "1677-09-15"])
def test_files_on_both_sides_of_what_nanoseconds_can_hold(tmp_path, calendar, start):
    named = "standard" if calendar == "gregorian" else calendar
    times = xr.date_range(start, periods=20, freq="1D", calendar=named, use_cftime=True)
    whole, days = make(times), "days since 1850-01-01"
    for name, rows, written in (("b", slice(0, 10), calendar), ("a", slice(10, 20), named)):
        part = whole.isel(time=rows)
        write(tmp_path / f"{name}.nc", part, encoding={"time": {"units": days, "calendar": written}})
    series = open_series(tmp_path, "z")
    assert series.time.dt.calendar == named
    assert (series.time.values == times.values).all()
    np.testing.assert_array_equal(frames(series)[:, 0], whole.z)


def test_another_calendar_is_told_as_the_file_has_it(tmp_path):
    for name, start, calendar in (("a", "2262-03-25", "standard"), ("b", "2262-04-14", "noleap")):
        times = xr.date_range(start, periods=20, freq="1D", calendar=calendar, use_cftime=True)
        write(tmp_path / f"{name}.nc", make(times), encoding={"time": {"calendar": calendar}})
    with pytest.raises(ValueError, match=r"b\.nc has another calendar than .*a\.nc: noleap, not standard"):
        open_series(tmp_path, "z")


# Attributes and coordinates


LEFT = {
    **{"_FillValue": np.float32(5), "missing_value": np.float32(6), "scale_factor": 2.0, "add_offset": 1.0},
    **{"_Unsigned": "true", "dtype": "int16", "valid_range": np.int16([0, 3]), "valid_min": 3.0, "valid_max": 4.0},
}


@pytest.mark.parametrize("name", LEFT)
def test_attributes_left_from_decoding_are_not_written(tmp_path, name):
    series = make().z.assign_attrs({name: LEFT[name], "comment": "stays"})
    lat = series.lat.assign_attrs({name: LEFT[name]})
    series = series.assign_coords(lat=lat, time=series.time.assign_attrs(units="days since 1900-01-01"))
    again = read_series(write_series(tmp_path / "z.nc", series))
    np.testing.assert_array_equal(again, series)
    np.testing.assert_array_equal(again.time, series.time)
    np.testing.assert_array_equal(again.lat, series.lat)
    assert again.attrs["comment"] == "stays" and name not in again.attrs
    assert name in series.attrs and name in series.lat.attrs  # of the caller's


def test_units_that_would_make_dates_of_values_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="z must not have the units of a date; got 'days since 2000-01-01'"):
        write_series(tmp_path / "z.nc", make().z.assign_attrs(units="days since 2000-01-01"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["z", "lat", "time"])
@pytest.mark.parametrize("name", ["units", "standard_name", "long_name"])
def test_attributes_that_are_no_text_are_refused_by_name(tmp_path, variable, name):
    path = set_attributes(write(tmp_path / "z.nc", make()), variable, {name: np.array([1.0, 2.0])})
    with pytest.raises(
        TypeError, match=rf"the attribute {name} of {variable} of .*z\.nc must be text or a number; got"
    ):
        open_series(path, "z")


def test_an_attribute_that_is_a_number(tmp_path):
    path = set_attributes(write(tmp_path / "z.nc", make()), "z", {"units": 1, "long_name": 2.5})
    series = open_series(path, "z")
    assert series.attrs["units"] == "1" and series.attrs["long_name"] == "2.5"


def test_coordinates_that_are_no_numbers_are_refused_by_name(tmp_path):
    words = make().assign_coords(lat=("lat", list("abcd"), {"units": "degrees_north"}))
    levels = make().expand_dims(level=["500hPa", "850hPa"])
    undated = make().assign_coords(time=["monday", "tuesday", "wednesday", "friday"])
    for name, dataset, level, error, said in (
        ("a", words, None, TypeError, r"lat of z of .*a\.nc must be numbers; got"),
        ("b", levels, 500, TypeError, r"the levels level of z of .*b\.nc must be numbers; got"),
        ("c", undated, None, ValueError, r"the times of z of .*c\.nc have no units such as"),
    ):
        with pytest.raises(error, match=said):
            open_series(write(tmp_path / f"{name}.nc", dataset), "z", level=level)


# Chunks


@pytest.mark.parametrize("fill", [None, -9999.0, 0.0, np.nan])
@pytest.mark.parametrize("form", [2, 3])
def test_a_chunk_that_a_store_lacks_is_no_data(tmp_path, form, fill):
    import zarr

    path, dataset = tmp_path / "z.zarr", make(6)
    dataset.to_zarr(path, zarr_format=form, consolidated=False)
    about = {"dimension_names": dataset.z.dims} if form == 3 else {"attributes": {"_ARRAY_DIMENSIONS": dataset.z.dims}}
    options = {"shape": dataset.z.shape, "chunks": (2, 4, 4), "dtype": "f4", "fill_value": fill, **about}
    zarr.open_group(path, mode="a").create_array("z", overwrite=True, **options)[:] = dataset.z.values
    np.testing.assert_array_equal(frames(open_series(path, "z"))[:, 0], dataset.z)
    (path / "z" / ("c/1/0/0" if form == 3 else "1.0.0")).unlink()
    missing = "32 missing values, the first on 2000-01-01 12:00"
    absent = r"z cannot be read in .*z\.zarr: its chunk z/(c/1/0/0|1\.0\.0) is not there"
    with pytest.raises(ValueError, match=missing if form == 2 and fill is not None else absent):
        frames(open_series(path, "z"))
    before = open_series(path, "z").isel(time=slice(0, 2))
    assert torch.equal(frames(before)[:, 0], torch.tensor(dataset.z.values[:2]))


def test_coordinates_of_zarr_may_be_left_out_where_they_are_the_fill_value(tmp_path):
    """Zarr writes no chunk that holds nothing else."""
    dataset = make(1).assign_coords(number=0)
    dataset.to_zarr(
        tmp_path / "z.zarr", zarr_format=3, consolidated=False, encoding={"time": {"units": "hours since 2000-01-01"}}
    )
    assert not (tmp_path / "z.zarr" / "time" / "c").exists()
    np.testing.assert_array_equal(frames(open_series(tmp_path / "z.zarr", "z"))[:, 0], dataset.z)
