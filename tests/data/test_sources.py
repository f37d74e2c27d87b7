"""Sources other than files, members by label, and several variables at once."""

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from grids import make, write
from helpers import SHARED

from minconv.data.series import frames, open_series, read_series, write_series

DATA = SHARED / "data"
EUROPE, ATLANTIC = DATA / "era_interim_europe_2000-2010.nc", DATA / "ncep_slp_north_atlantic_2001-2010.nc"
GFS = DATA / "gfs_z500_t850_2021.nc"


# Datasets and arrays


def test_a_dataset_and_an_array_are_what_their_file_is(tmp_path):
    packing = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 100.0, "_FillValue": -32768}
    path = write(tmp_path / "z.nc", make(6), encoding={"z": packing})
    expected = open_series(path, "z")
    for options in ({}, {"chunks": {"time": 2}}, {"decode_cf": False}):
        with xr.open_dataset(path, **options) as dataset:
            for series in (open_series(dataset, "z"), open_series(dataset.z), open_series(dataset.z, "z")):
                assert series.identical(expected) or (options and series.equals(expected))
                assert series.encoding == {"source": str(path)} and series.attrs["source"] == "z.nc"
    again = open_series(expected)
    assert again.identical(expected) and again.encoding == expected.encoding
    assert open_series([dataset.isel(time=slice(3, 6)) for dataset in [make(6)]] + [make(3)], "z").equals(make(6).z)


def test_a_dataset_in_memory_is_left_as_it_is():
    dataset = make(6)
    dataset["z"].attrs["valid_max"] = 1e9
    before = dataset.copy(deep=True)
    series = open_series(dataset, "z", years=(2000, 2000))
    assert series.attrs["source"] == "the dataset"
    frames(series).zero_()
    assert dataset.identical(before) and not dataset.z.encoding
    assert open_series(dataset.z.rename(None), "height").name == "height"
    for source, variable, error, said in (
        (dataset, None, TypeError, "variable must be a string, or a list of them; got None"),
        (dataset.z.rename(None), None, TypeError, "variable must be a string, or a list of them; got None"),
        (dataset.z, "t", ValueError, "variable must be one of z, which the dataset has; got 't'"),
        (dataset.isel(lat=0), "z", ValueError, "z of the dataset must have dimensions"),
    ):
        with pytest.raises(error, match=said):
            open_series(source, variable)


# Members


@pytest.fixture(scope="module")
def ensemble() -> xr.Dataset:
    """z of 3 members at 3 steps, t of 2 runs at these, msl of one; z is larger by the member and 1000 per hour."""
    dataset = make()
    hours = xr.DataArray(np.array([0, 6, 24], "m8[h]").astype("m8[ns]"), dims="step")
    more = xr.Dataset({"z": dataset.z, "t": dataset.z, "msl": dataset.z}).assign_coords(step=hours)
    later = 1000 * (more.step / np.timedelta64(1, "h")).astype(np.float32)
    members = xr.DataArray(np.float32([1, 2, 3]), dims="member", coords={"member": [1, 2, 3]})
    runs = xr.DataArray(np.float32([10, 20]), dims="run", coords={"run": ["first", "second"]})
    return more.assign(z=more.z + later + members, t=(more.t + later + runs).transpose("run", "time", ...))


@pytest.fixture(scope="module", params=["dataset", "file", "file with durations", "file without"])
def source(request, ensemble, tmp_path_factory):
    if request.param == "dataset":
        return ensemble
    path = write(tmp_path_factory.mktemp("ensemble") / "e.nc", ensemble)
    if request.param == "file":
        return path
    return xr.open_dataset(path, decode_timedelta="with" in request.param.split()[1:2])


def test_members_are_chosen_by_label(source, ensemble):
    z = ensemble.z.isel(member=2, step=2)
    for label in ("24h", np.timedelta64(1, "D")):
        np.testing.assert_array_equal(open_series(source, "z", member=3, step=label), z)
    t = open_series(source, "t", run="second", step="0h")
    np.testing.assert_array_equal(t, ensemble.t.isel(run=1, step=0))
    assert set(t.coords) == {"time", "lat", "lon"}


@pytest.mark.parametrize(
    ("variable", "labels", "said"),
    [
        ("z", {}, r"by keyword, such as .*: .*member \(1, 2, 3\)"),
        ("z", {"member": 3}, r"by keyword, such as step='0h': .*step \('0h', '6h', '24h'\)"),
        ("z", {"member": 4, "step": "24h"}, "member must be one of 1, 2, 3, which z of .* has; got 4"),
        ("z", {"member": "3", "step": "24h"}, "member must be one of 1, 2, 3, .*; got '3'"),
        ("z", {"member": [1, 2], "step": "24h"}, "member must be one of 1, 2, 3"),
        ("z", {"member": 1, "step": "12h"}, "step must be one of '0h', '6h', '24h', which z of .* has; got '12h'"),
        ("t", {"run": 2, "step": "6h"}, "run must be one of 'first', 'second', which t of .* has; got 2"),
        ("t", {"member": 1}, "t of .* has no further dimension member to choose from; it has .*run"),
        ("msl", {"time": 1}, "msl of .* has no further dimension time to choose from; it has none"),
    ],
)
def test_labels_that_are_not_there_are_told_with_those_that_are(source, variable, labels, said):
    with pytest.raises(ValueError, match=said):
        open_series(source, variable, **labels)


def test_labels_of_other_kinds():
    for labels, chosen, place in (
        (np.float32([0.1, 0.3]), 0.3, 1),
        (np.array([b"a", b"bc"]), "bc", 1),
        (np.array(["2000-01-01", "2000-01-02"], "M8[ns]"), "2000-01-02", 1),
        (np.arange(12), 11, 11),
        (None, 1, 1),  # without labels, by their place
    ):
        other = xr.DataArray(np.arange(2 if labels is None else len(labels)), dims="other")
        dataset = make()
        dataset["z"] = dataset.z + (other if labels is None else other.assign_coords(other=labels))
        np.testing.assert_array_equal(open_series(dataset, "z", other=chosen), make().z + place)
    with pytest.raises(ValueError, match=r"other must be one of 0, 1, which .*; got 7"):
        open_series(dataset, "z", other=7)


def test_a_level_that_is_no_pressure_is_chosen_by_its_number():
    dataset = make()
    dataset["z"] = dataset.z + xr.DataArray([0, 100], {"level": ("level", [0.5, 1.0], {"units": "1"})})
    np.testing.assert_array_equal(open_series(dataset, "z", level=1), make().z + 100)
    with pytest.raises(ValueError, match=r"level must be one of 0\.5, 1, which z of the dataset has; got 3"):
        open_series(dataset, "z", level=3)


# Several variables


def levelled() -> xr.Dataset:
    """z and t on levels, msl on none."""
    dataset = make(6)
    levels = xr.DataArray(np.float32([0, 100]), {"level": ("level", [500, 850], {"units": "hPa"})})
    return dataset.assign(z=dataset.z + levels, t=dataset.z + 7 + levels, msl=(dataset.z + 1).assign_attrs(units="Pa"))


def test_several_variables_are_each_as_alone(tmp_path):
    path = write(tmp_path / "all.nc", levelled())
    found = open_series(path, ["t", "msl", "z"], level=850, years=(2000, 2000))
    assert list(found) == ["t", "msl", "z"] and all(one.chunks for one in found.values())
    for name, one in found.items():
        alone = open_series(path, name, level=None if name == "msl" else 850)
        assert one.identical(alone) and one.encoding == alone.encoding
    assert found.t.attrs["level"] == "850 hPa" and "level" not in found.msl.attrs
    tensor = frames(found)
    assert tensor.shape == (6, 3, 4, 4) and tensor.dtype == torch.float32
    for channel, name in enumerate(found):
        assert torch.equal(tensor[:, channel : channel + 1], frames(found[name]))
    assert list(open_series(path, (name for name in ("z", "t")), level=500)) == ["z", "t"]


def test_levels_and_names_of_each_variable(tmp_path):
    names = {"z500": "z", "msl": "msl", "z850": "z"}
    found = open_series(levelled(), names, level={"z850": 850, "z500": 500})
    assert list(found) == list(names)
    np.testing.assert_array_equal(found.z850 - found.z500, np.full((6, 4, 4), 100))
    assert found.z500.attrs["level"] == "500 hPa" and found.z500.name == "z500"
    assert list(read_series(write_series(tmp_path / "z.nc", found))) == list(names)


def test_variables_in_files_of_their_own(tmp_path):
    whole = levelled().drop_vars("level").isel(level=0)
    for name in ("z", "t"):
        for part, rows in enumerate((slice(0, 3), slice(3, 6))):
            write(tmp_path / f"{name}{part}.nc", whole[[name]].isel(time=rows))
    found = open_series(tmp_path, ["z", "t"])
    np.testing.assert_array_equal(frames(found), np.stack([whole.z, whole.t], 1))
    assert found.t.attrs["source"] == "t0.nc and 1 more"
    with pytest.raises(ValueError, match=r"variable must be among t, z, which .*t0\.nc and 3 more has; got 'q'"):
        open_series(tmp_path, ["z", "q"])


def test_members_of_several_variables(source, ensemble):
    found = open_series(source, ["z", "t", "msl"], member=2, run="first", step="6h")
    np.testing.assert_array_equal(found.z, ensemble.z.isel(member=1, step=1))
    np.testing.assert_array_equal(found.t, ensemble.t.isel(run=0, step=1))
    np.testing.assert_array_equal(found.msl, ensemble.msl)
    with pytest.raises(ValueError, match=r"z of .* has no further dimension number"):
        open_series(source, ["z", "t"], member=2, run="first", step="6h", number=1)


@pytest.mark.parametrize(
    ("variable", "options", "error", "said"),
    [
        ([], {}, ValueError, "variable must name at least one; got none"),
        (["z", 3], {}, TypeError, "variable must be a string, or a list of them; got 3"),
        (["z", ["t"]], {}, TypeError, r"variable must be a string, or a list of them; got \['t'\]"),
        (["z", "z"], {}, ValueError, "variable must name each one once; got z, z"),
        (["z", "t"], {}, ValueError, "level must be one of 500, 850 hPa, which z of .* has; got none"),
        (["z", "t"], {"level": {"z": 500}}, ValueError, "level must be one of .* which t of .*; got none"),
        (["z", "t"], {"level": {"q": 500}}, ValueError, "level must be of z, t; got one of q"),
        (["z", "t"], {"level": {"z": 500, "t": "850"}}, TypeError, "level must be a number; got '850'"),
        (["msl"], {"level": 500}, ValueError, "level must be left out, as msl of .* has no pressure levels"),
    ],
)
def test_what_is_asked_of_several_variables_and_is_not_there(variable, options, error, said):
    with pytest.raises(error, match=said):
        open_series(levelled(), variable, **options)


def test_variables_that_differ_in_grid_or_times():
    first, other = make(6), make(6).rename(z="t")
    for second, said in (
        (
            other.isel(lat=slice(1, 4)),
            "variables must be on one grid; t has 3 from -20 to 60 for lat, z 4 from -60 to 60",
        ),
        (other.assign_coords(lon=other.lon + 5), "t has 4 from 5 to 275 for lon, z 4 from 0 to 270"),
        (
            other.isel(time=slice(1, 6)),
            "the same times; t has 5 from 2000-01-01 06:00 to 2000-01-02 06:00, z 6 from 2000-01-01 00:00",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            open_series([first, second], ["z", "t"])
    close = other.assign_coords(lat=other.lat + 1e-5)
    assert open_series([first, close], ["z", "t"]).sizes["lat"] == 4


def test_several_variables_are_written_and_read_as_they_were(tmp_path):
    found = open_series(levelled(), ["z", "t", "msl"], level=500).assign_attrs(note="of the dataset")
    again = read_series(write_series(tmp_path / "all.nc", found, {"seed": 3}))
    assert list(again) == ["z", "t", "msl"] and all(one.chunks for one in again.values())
    assert {"seed": 3, "note": "of the dataset"}.items() <= again.attrs.items()
    for name, one in found.items():
        assert one.attrs.items() <= again[name].attrs.items()
        np.testing.assert_array_equal(again[name], one)
    alone = read_series(write_series(tmp_path / "one.nc", found[["t"]].load()))
    assert isinstance(alone, xr.Dataset) and list(alone) == ["t"]
    assert torch.equal(frames(alone), frames(found[["t"]]))


def test_datasets_that_are_no_series(tmp_path):
    found = open_series(levelled(), ["z", "msl"], level=500).load()
    found["msl"][4, 1, 2] = np.nan
    for use in (frames, lambda dataset: write_series(tmp_path / "out.nc", dataset)):
        for dataset, error, said in (
            (found, ValueError, "msl has 1 missing values, the first on 2000-01-02 00:00"),
            (found.chunk(time=2), ValueError, "msl has 1 missing values, the first on 2000-01-02 00:00"),
            (found.assign(mask=found.z[0]), ValueError, "mask of series must have dimensions time, lat and lon"),
            (found.drop_vars(["z", "msl"]), ValueError, "series must have at least one variable"),
            (found.z.values, TypeError, "series must be an xarray.DataArray"),
        ):
            with pytest.raises(error, match=said):
                use(dataset)
    assert not list(tmp_path.iterdir())


def test_several_variables_are_read_in_blocks_when_they_are_needed(tmp_path, monkeypatch):
    path = write(tmp_path / "all.nc", levelled())
    monkeypatch.setattr("minconv.data.grid.BLOCK", 2 * 4 * 16)
    with dask.config.set(scheduler=lambda *_, **__: pytest.fail("values were read")):
        found = open_series(path, ["z", "msl"], level=500)
    assert found.z.chunksizes["time"] == (2, 2, 2) and found.msl.chunksizes["time"] == (2, 2, 2)
    np.testing.assert_array_equal(frames(found)[:, 0], levelled().z.sel(level=500))


# Real data


def real(path):
    if not path.exists():
        pytest.skip(f"there is no {path.name}")
    return path


def test_three_fields_over_europe(tmp_path):
    path = real(EUROPE)
    found = open_series(path, ["z", "t", "msl"])
    tensor = frames(found)
    assert tensor.shape == (4018, 3, 11, 13) and [one.attrs["units"] for one in found.values()] == ["m2 s-2", "K", "Pa"]
    with xr.open_dataset(path) as raw:
        for channel, name in enumerate(found):
            np.testing.assert_array_equal(tensor[:, channel], raw[name].sortby("latitude").astype(np.float32))
    again = read_series(write_series(tmp_path / "europe.nc", found))
    assert torch.equal(frames(again), tensor)


def test_pressure_over_the_atlantic_from_a_file_and_a_dataset():
    with xr.open_dataset(real(ATLANTIC)) as dataset:
        found = frames(open_series(dataset.slp, years=(2003, 2004)))
    assert found.shape == (731, 1, 17, 33)
    assert torch.equal(found, frames(open_series(ATLANTIC, "slp", years=(2003, 2004))))
    if EUROPE.exists():
        with pytest.raises(
            ValueError, match="variables must be on one grid; slp has 17 from 30 to 70 for lat, z 11 from"
        ):
            open_series([EUROPE, ATLANTIC], ["z", "slp"])


def test_analyses_with_missing_steps():
    path = real(GFS)
    for variable in ("z500", ["z500", "t850"]):
        with pytest.raises(
            ValueError, match=r"z500 of gfs\w*\.nc lacks time steps: 2021-02-15 06:00, .* \(76 in all\)"
        ):
            open_series(path, variable)
    with xr.open_dataset(path) as dataset:
        part = dataset.sel(time=slice("2021-04-09", "2021-04-12"))
        assert frames(open_series(part, ["z500", "t850"])).shape == (16, 2, 32, 64)
        with pytest.raises(ValueError, match="t2m has 32768 missing values, the first on 2021-04-09 00:00"):
            frames(open_series(part, ["z500", "t2m"]))
