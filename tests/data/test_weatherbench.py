"""Archives of the published layouts, served as a user would meet them; downloads that are cut off, and go on."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
from grids import LAT, LON, alter, position, write

from minconv.data import series as gridded
from minconv.data.series import frames, open_series, read_series
from minconv.data.weatherbench import WEATHERBENCH2, weatherbench1, weatherbench2

LEVELS = [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000]
STORE = "1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"


# WeatherBench 1


def weatherbench1_file(folder: Path, year: int, times: np.ndarray, level: int = 500) -> xr.Dataset:
    """A file of that layout: what its regridding and its choice of a level leave of ECMWF's attributes."""
    lon, lat = xr.DataArray(LON, dims="lon"), xr.DataArray(LAT, dims="lat")
    z = position(xr.DataArray(times, dims="time"), lat, lon).transpose("time", "lat", "lon")
    z.attrs = {"units": "m**2 s**-2", "long_name": "Geopotential", "standard_name": "geopotential"}
    coords = {
        "time": ("time", times, {"long_name": "time"}),
        "level": ((), np.int32(level), {"units": "millibars", "long_name": "pressure_level"}),
        "lon": ("lon", LON),
        "lat": ("lat", LAT),
    }
    dataset = xr.Dataset({"z": z}, coords, {"Conventions": "CF-1.6", "history": "2019-11-10 by grib_to_netcdf"})
    write(folder / f"geopotential_500hPa_{year}_5.625deg.nc", dataset)
    return dataset


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The last two days of 2016 and the first two of 2017, hourly."""
    for year, start in ((2016, "2016-12-30"), (2017, "2017-01-01")):
        weatherbench1_file(tmp_path, year, np.datetime64(start, "ns") + np.arange(48) * np.timedelta64(1, "h"))
    (tmp_path / "geopotential_500hPa_2015_2.8125deg.nc").touch()  # others, which must not be read
    (tmp_path / "temperature_850hPa_2016_5.625deg.nc").touch()
    return tmp_path


def test_weatherbench1_comes_in_the_convention(archive):
    series = weatherbench1(archive)
    assert series.chunks  # lazy
    assert series.name == "z" and series.dims == ("time", "lat", "lon") and series.dtype == np.float32
    assert series.attrs == {
        "units": "m2 s-2",
        "long_name": "Geopotential",
        "standard_name": "geopotential",
        "source": "ERA5, WeatherBench 1",
        "level": "500 hPa",
    }
    assert set(series.coords) == {"time", "lat", "lon"}
    np.testing.assert_array_equal(series.lat, LAT)
    np.testing.assert_array_equal(series.lon, LON)
    assert series.time[0] == np.datetime64("2016-12-30") and series.time[-1] == np.datetime64("2017-01-02T23")
    assert (np.diff(series.time) == np.timedelta64(1, "h")).all()
    with xr.open_dataset(archive / "geopotential_500hPa_2017_5.625deg.nc") as second:
        np.testing.assert_array_equal(series[48:], second.z)
    assert frames(series).shape == (96, 1, 32, 64)


def test_weatherbench1_takes_the_years_asked_for_and_names_those_missing(archive, tmp_path):
    assert set(weatherbench1(archive, years=(2017, 2017)).time.dt.year.values) == {2017}
    with pytest.raises(FileNotFoundError, match=r"5\.625deg\.nc for 2018, 2019; there are 2016 to 2017"):
        weatherbench1(archive, years=(2016, 2019))
    (archive / "geopotential_500hPa_2016_5.625deg.nc").rename(archive / "geopotential_500hPa_2014_5.625deg.nc")
    with pytest.raises(FileNotFoundError, match="for 2015, 2016;"):
        weatherbench1(archive)
    with pytest.raises(FileNotFoundError, match=r"geopotential_850hPa_1979_5\.625deg\.nc"):
        weatherbench1(archive, level=850)
    with pytest.raises(ValueError, match="years must be the first and the last year, in this order"):
        weatherbench1(archive, years=(2017, 2016))
    with pytest.raises(TypeError, match="years must be the first and the last year"):
        weatherbench1(archive, years=2017)


def test_weatherbench1_refuses_a_file_of_another_level(tmp_path):
    weatherbench1_file(tmp_path, 2016, np.datetime64("2016-01-01", "ns") + np.arange(3) * np.timedelta64(1, "h"), 850)
    with pytest.raises(ValueError, match="level must be one of 850 hPa"):
        weatherbench1(tmp_path)


def test_weatherbench1_refuses_missing_hours_between_years(archive):
    times = np.datetime64("2017-01-01T03", "ns") + np.arange(24) * np.timedelta64(1, "h")
    weatherbench1_file(archive, 2017, times)
    with pytest.raises(ValueError, match=r"lacks time steps: 2017-01-01 00:00, 2017-01-01 01:00, 2017-01-01 02:00$"):
        weatherbench1(archive)


# WeatherBench 2


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A Zarr of that layout, of 160 steps and fewer cells; its first chunk of 100 ends with 1978."""
    rng = np.random.default_rng(0)
    shape = {"time": 160, "level": 13, "longitude": 16, "latitude": 8}
    z = np.full(tuple(shape.values()), 5e4, np.float32)
    z[:, LEVELS.index(500)] = rng.normal(54108, 3349, (160, 16, 8))
    z[:, LEVELS.index(850)] = rng.normal(13750, 1471, (160, 16, 8))
    about = {"long_name": "Geopotential", "short_name": "z", "standard_name": "geopotential", "units": "m**2 s**-2"}
    warmth = {"long_name": "2 metre temperature", "short_name": "t2m", "units": "K"}
    flat = ("time", "longitude", "latitude")
    dataset = xr.Dataset(
        {
            "2m_temperature": (flat, rng.normal(280, 20, (160, 16, 8)).astype(np.float32), warmth),
            "geopotential": (tuple(shape), z, about),
            "land_sea_mask": (flat[1:], np.ones((16, 8), np.float32)),
        },
        {
            "latitude": LAT[::4],
            "level": np.array(LEVELS, np.int64),
            "longitude": LON[::4],
            "time": np.datetime64("1978-12-07", "ns") + np.arange(160) * np.timedelta64(6, "h"),
        },
    )
    blosc = numcodecs.Blosc("lz4", clevel=5, shuffle=1)
    path = tmp_path_factory.mktemp("weatherbench2") / STORE
    dataset.to_zarr(
        path,
        zarr_format=2,
        consolidated=True,
        encoding={
            "geopotential": {"chunks": (100, 13, 16, 8), "compressors": blosc},
            "2m_temperature": {"chunks": (100, 16, 8), "compressors": blosc},
            "time": {"units": "hours since 1959-01-01", "dtype": "int64"},
        },
    )
    return path


class Bucket:
    """The store over HTTP; ``fail`` says how to answer a request, if not with the file."""

    def __init__(self, store: Path):
        self.asked: list[str] = []
        self.fail: Callable[[str], str | None] = lambda path: None
        bucket = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                bucket.asked.append(self.path)
                match bucket.fail(self.path):
                    case None:
                        super().do_GET()
                    case "half":
                        body = Path(self.translate_path(self.path)).read_bytes()
                        self.send_response(200)
                        self.send_header("Content-Length", str(len(body)))
                        self.end_headers()
                        self.wfile.write(body[: len(body) // 2])
                    case "silence":
                        pass
                    case status:
                        self.send_error(int(status))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=store.parent))
        self.url = f"http://127.0.0.1:{self.server.server_port}/{store.name}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def chunks(self) -> set[str]:
        """Chunks of geopotential asked for so far; forgets them."""
        asked = {path.rsplit("/", 1)[1] for path in self.asked if "/geopotential/" in path and path.endswith(".0.0.0")}
        self.asked.clear()
        return asked


@pytest.fixture
def bucket(store, monkeypatch) -> Iterator[Bucket]:
    monkeypatch.setattr(gridded, "WAITS", (0.0, 0.0))
    found = Bucket(store)
    found.thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


def truth(store: Path, level: int = 500) -> np.ndarray:
    with xr.open_zarr(store, chunks=None) as dataset:
        return dataset.geopotential.sel(level=level).transpose("time", "latitude", "longitude").values


def test_weatherbench2_from_a_local_copy(store, tmp_path):
    path = weatherbench2(store, tmp_path / "z.nc", years=(1978, 1979))
    assert list(tmp_path.iterdir()) == [path] == [tmp_path / "z.nc"]
    series = read_series(path)
    assert series.name == "z" and series.dims == ("time", "lat", "lon") and series.dtype == np.float32
    np.testing.assert_array_equal(series, truth(store))
    np.testing.assert_array_equal(series.lat, LAT[::4])
    np.testing.assert_array_equal(series.lon, LON[::4])
    assert series.time[0] == np.datetime64("1978-12-07") and series.time[-1] == np.datetime64("1979-01-15T18")
    wanted = {
        "units": "m2 s-2",
        "long_name": "Geopotential",
        "source": "ERA5, WeatherBench 2",
        "level": "500 hPa",
        "store": STORE,
        "first_year": 1978,
    }
    assert wanted.items() <= series.attrs.items()
    again = open_series(path, "z")  # as any user's file
    assert again.equals(series) and again.attrs["source"] == "ERA5, WeatherBench 2"


def test_weatherbench2_other_levels_years_and_variables(store, tmp_path):
    part = read_series(weatherbench2(store, tmp_path / "z850.nc", years=(1979, 1979), level=850))
    np.testing.assert_array_equal(part, truth(store, 850)[100:])
    warmth = read_series(
        weatherbench2(store, tmp_path / "t.nc", years=(1978, 1978), variable="2m_temperature", level=None)
    )
    assert warmth.name == "2m_temperature" and warmth.attrs["units"] == "K" and warmth.shape == (100, 8, 16)


def test_weatherbench2_from_a_url_is_the_same(store, bucket, tmp_path):
    local = weatherbench2(store, tmp_path / "local.nc", years=(1978, 1979))
    remote = weatherbench2(bucket.url, tmp_path / "remote.nc", years=(1978, 1979))
    assert read_series(local).attrs == read_series(remote).attrs
    np.testing.assert_array_equal(read_series(local), read_series(remote))
    assert not any("2m_temperature/0" in path for path in bucket.asked)  # what is not needed stays there
    lazy = open_series(bucket.url, "geopotential", level=500, years=(1979, 1979))
    bucket.chunks()
    assert frames(lazy).shape == (60, 1, 8, 16)
    assert bucket.chunks() == {"1.0.0.0"}


def test_public_buckets_are_read_over_https(store, monkeypatch):
    asked = []
    monkeypatch.setattr(gridded, "opened", lambda item: asked.append(item) or xr.open_zarr(store, chunks=None))
    open_series(WEATHERBENCH2, "geopotential", level=500)
    assert asked == [f"https://storage.googleapis.com/weatherbench2/datasets/era5/{STORE}"]


@pytest.mark.parametrize("fault", ["503", "half", "silence"])
def test_a_download_that_is_cut_off_goes_on_where_it_stopped(store, bucket, tmp_path, fault):
    bucket.fail = lambda path: fault if "geopotential/1." in path else None
    with pytest.raises(ConnectionError, match=r"1 of 2 years are kept in .*z\.nc\.parts: the same call goes on"):
        weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert not (tmp_path / "z.nc").exists()
    assert [path.name for path in (tmp_path / "z.nc.parts").iterdir()] == ["1978.nc"]
    assert bucket.chunks() == {"0.0.0.0", "1.0.0.0"}
    bucket.fail = lambda path: "503"
    with pytest.raises(ConnectionError, match="1 of 2 years are kept"):
        weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    bucket.fail = lambda path: None
    path = weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert bucket.chunks() == {"1.0.0.0"}
    np.testing.assert_array_equal(read_series(path), truth(store))
    assert list(tmp_path.iterdir()) == [path]


def test_a_fault_that_passes_is_not_noticed(store, bucket, tmp_path):
    seen = set()
    once = (".zmetadata", "0.0.0.0", "1.0.0.0")
    bucket.fail = lambda path: None if not path.endswith(once) or path in seen else seen.add(path) or "503"
    path = weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert {path.rsplit("/", 1)[1] for path in seen} == set(once)
    np.testing.assert_array_equal(read_series(path), truth(store))


def test_no_server_at_all(bucket, tmp_path):
    bucket.fail = lambda path: "503"
    with pytest.raises(ConnectionError, match="0 of 2 years are kept"):
        weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    bucket.fail = lambda path: "404"
    with pytest.raises(FileNotFoundError, match="no Zarr store"):
        weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_that_the_server_lacks_is_refused(bucket, tmp_path):
    bucket.fail = lambda path: "404" if "geopotential/1." in path else None
    with pytest.raises(ValueError, match=rf"z has {60 * 8 * 16} missing values, the first on 1979-01-01 00:00"):
        weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert not (tmp_path / "z.nc").exists()


def test_damaged_parts_and_those_of_another_request_are_fetched_again(store, bucket, tmp_path):
    def cut_off(level: int) -> None:
        bucket.fail = lambda path: "503" if "geopotential/1." in path else None
        with pytest.raises(ConnectionError):
            weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979), level=level)
        bucket.fail = lambda path: None
        bucket.chunks()

    cut_off(500)
    alter(tmp_path / "z.nc.parts" / "1978.nc")
    path = weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert bucket.chunks() == {"0.0.0.0", "1.0.0.0"}
    np.testing.assert_array_equal(read_series(path), truth(store))

    path.unlink()
    cut_off(850)
    path = weatherbench2(bucket.url, tmp_path / "z.nc", years=(1978, 1979))
    assert bucket.chunks() == {"0.0.0.0", "1.0.0.0"}
    np.testing.assert_array_equal(read_series(path), truth(store))


def test_a_whole_cache_is_kept_and_another_request_refused(store, tmp_path):
    path = weatherbench2(store, tmp_path / "z.nc", years=(1978, 1978))
    before = path.read_bytes()
    assert weatherbench2(f"https://nowhere.invalid/{STORE}", path, years=(1978, 1978)) == path  # not asked
    for other, said in (
        ({"years": (1978, 1979)}, "last_year is 1978, not 1979"),
        ({"years": (1978, 1978), "level": 850}, "level is 500 hPa, not 850 hPa"),
        ({"years": (1978, 1978), "variable": "temperature"}, "variable is geopotential, not temperature"),
    ):
        with pytest.raises(ValueError, match=rf"other parameters \({said}\) and was left as it is"):
            weatherbench2(store, path, **other)
    assert path.read_bytes() == before


def test_weatherbench2_refuses_what_is_not_there(store, tmp_path):
    for bad, said in (
        ({"years": (1978, 1980)}, "of which 1 are not there: 1980"),
        ({"years": (1978, 1979), "level": 510}, "level must be one of 50, 100, .*, 1000 hPa, .*; got 510"),
        ({"years": (1978, 1979), "variable": "z"}, "variable must be one of 2m_temperature, geopotential, land_sea"),
        ({"years": (1978, 1979), "variable": "land_sea_mask", "level": None}, "found none for time"),
    ):
        with pytest.raises(ValueError, match=said):
            weatherbench2(store, tmp_path / "z.nc", **bad)
    with pytest.raises(FileNotFoundError, match="there is no file, folder or Zarr store"):
        weatherbench2(tmp_path / "none.zarr", tmp_path / "z.nc", years=(1978, 1979))
    assert list(tmp_path.iterdir()) == []
