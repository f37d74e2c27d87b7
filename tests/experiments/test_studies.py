"""The experiments on weather, from a series to scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data import series as gridded
from minconv.evaluation import weather
from minconv.experiments import studies
from minconv.experiments.presets import PROFILES
from minconv.models.forecaster import Forecaster
from minconv.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")

STUDIES = {"geopotential": studies.geopotential, "air_temperature": studies.air_temperature}
COUNTS = {"convgru": 34_993, "convlstm": 34_357, "minconvgru": 34_393, "minconvlstm": 35_713, "minconvexplstm": 35_713}


def travelling_wave(first: str = "2016-12-01", days: int = 460, hours: int = 24) -> xr.DataArray:
    """A wave that goes round a 4 x 8 globe in 8 days, on a mean that depends on latitude."""
    times = np.datetime64(first, "ns") + np.arange(days * 24 // hours) * np.timedelta64(hours, "h")
    lat, lon = np.arange(-67.5, 90, 45), np.arange(0.0, 360, 45)
    phase = 2 * np.pi * np.arange(len(times)) * hours / (8 * 24)
    values = 100 + lat[:, None] / 10 + np.cos(np.radians(lat))[:, None] * np.cos(np.radians(lon) - phase[:, None, None])
    coordinates = {"time": times, "lat": lat, "lon": lon}
    return xr.DataArray(values.astype(np.float32), coordinates, ("time", "lat", "lon"), "z", {"units": "m2 s-2"})


def tiny(**options) -> studies.Study:
    setting = studies.Setting(
        Training(context=6, horizon=2, epochs=2, batch=4, noise=0.0),
        {"minconvlstm": ("minconvlstm", "cylinder"), "sphere": ("minconvgru", "sphere")},
        seeds=(1, 2),
        increment=True,
    )
    periods = {
        "train": ("2016-12-01", "2017-12-15"),
        "validation": ("2017-12-16", "2018-01-20"),
        "test": ("2018-01-21", "2018-03-05"),
    }
    return studies.Study("tiny", PROFILES["smoke"], periods, {"recipe": setting}, context=6, **options)


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("profile", PROFILES)
def test_studies_are_sound(name, profile):
    study = STUDIES[name](profile)
    assert study.profile is PROFILES[profile] and study.name == name
    dates = [np.datetime64(date) for part in ("train", "validation", "test") for date in study.periods[part]]
    assert dates == sorted(dates) and study.periods["train"][1] < study.periods["validation"][0]
    assert study.periods["validation"][1] < study.periods["test"][0]
    assert {one.training.context + one.training.horizon for one in study.settings.values()} == {study.window}
    assert study.years == (dates[0].item().year, dates[-1].item().year)


def test_paper_has_the_published_settings():
    study = studies.geopotential("paper")
    published = study.settings["published"]
    settings = {"context": 20, "horizon": 4, "epochs": 20, "batch": 1, "lr": 1e-3, "weight_decay": 0.01, "noise": 0.0}
    assert published.training == Training(**settings, optimizer="adam", warmup=0.0) and not published.increment
    assert published.seeds == (1234, 1235, 1236, 1237, 1238) and list(published.models) == list(COUNTS)
    assert set(published.models.values()) == {(cell, "cylinder") for cell in COUNTS}
    assert study.periods == {"train": ("1979", "2014"), "validation": ("2015", "2016"), "test": ("2017", "2018")}
    assert study.coarsen == 2 and study.window == 24 and study.steps(np.timedelta64(1, "h")) == 168


def test_models_have_the_papers_size():
    grid = xr.DataArray(np.zeros((1, 16, 32), np.float32), dims=("time", "lat", "lon"))
    runs = studies.geopotential("paper").runs({"train": grid}, "published", "cpu")
    found = {run.folder.parent.name: sum(w.numel() for w in run.build(0).parameters()) for run in runs}
    assert found == COUNTS and len({run.folder for run in runs}) == len(runs) == 5 * 5
    recipe = studies.geopotential("paper").runs({"train": grid}, "recipe", "cpu")
    assert all(run.build(0).increment for run in recipe[::5])
    with pytest.raises(ValueError, match=r"setting must be one of recipe, recipe with Adam, published, .*; got 'best'"):
        studies.geopotential("paper").runs({"train": grid}, "best")


def test_periods_are_cut_and_coarsened():
    series = travelling_wave()
    data = tiny().split(series)
    assert [field.sizes["time"] for field in data.values()] == [380, 36, 44]
    assert data["test"].time[0] == np.datetime64("2018-01-21") and data["train"].equals(series[:380])
    half = tiny(coarsen=2).split(series)["validation"]
    assert half.shape == (36, 2, 4) and half.equals(gridded.coarsen(series, 2)[380:416])
    with pytest.raises(ValueError, match=r"at least 13 frames from 2018-01-21 to 2018-03-05 \(test\); got 12"):
        tiny().split(series[:428])


def test_frames_are_anomalies_where_they_should_be():
    data = tiny(anomalies=True).split(travelling_wave())
    frames = tiny(anomalies=True).frames(data, "train")
    assert frames.shape == (380, 1, 4, 8) and frames.mean().abs() < 1e-3
    torch.testing.assert_close(tiny().frames(data, "test")[:, 0], torch.from_numpy(data["test"].values))
    scaled = tiny().scaled(torch.nn.Identity(), data)
    normal = scaled.normalise(tiny().frames(data, "train"))
    assert normal.mean().abs() < 1e-4 and normal.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("anomalies", [False, True])
def test_from_series_to_scores(anomalies, home):
    study = tiny(anomalies=anomalies, every=(2,))
    setting = study.settings["recipe"]
    longer = replace(setting, training=replace(setting.training, epochs=12))
    study = replace(study, settings={"recipe": longer})
    data = study.split(travelling_wave())
    folders = study.train(data, "cpu")["recipe"]
    assert [folder.relative_to(home) for folder in map(type(home), folders)] == [
        type(home)(f"results/smoke/runs/tiny/recipe/{model}/{seed}")
        for model in ("minconvlstm", "sphere")
        for seed in (1, 2)
    ]
    found = study.evaluate(data, "recipe", "cpu")
    assert found.model.values.tolist() == ["persistence", "damped persistence", "climatology", "minconvlstm", "sphere"]
    assert found.sizes["lead_time"] == 7 and found.seed.values.tolist() == [1, 2]
    assert found.rmse.notnull().all() and found.starts == len(study.starts(data["test"])[0]) == 16
    # the wave is where it was after 8 days: persistence is worst half-way, and a model that learned is ahead of it
    still, models = found.rmse.sel(model="persistence", seed=1), found.rmse.sel(model=["minconvlstm", "sphere"])
    assert int(np.argmax(still.values)) == 3
    first = models.isel(lead_time=0)
    assert (first < still[0]).all() and first.mean() < 0.5 * still[0]
    # what evaluate scores is what forecast gives
    name, seed, model = next(study.trained(data, "recipe", "cpu"))
    starts, steps = study.starts(data["test"])
    history = data["test"].sel(time=slice(None, starts[3]))[-6:]
    one = weather.forecast(model, history, steps, study.climatology(data))
    assert (name, seed) == ("minconvlstm", 1) and isinstance(model.model, Forecaster)
    many = weather.forecasts(model, data["test"], starts, 6, steps, study.climatology(data))
    np.testing.assert_allclose(one[0], many[3], rtol=1e-5)


def test_series_offline(home, monkeypatch):
    """The smoke profile asks for no network; a file in data/ is taken, and without one there is the stand-in."""
    monkeypatch.setattr(xr.tutorial, "open_dataset", lambda name: pytest.fail("asked for the network"))
    study = studies.air_temperature("smoke")
    monkeypatch.setattr(studies.barotropic, "generate", lambda path, first, last: made(path, first, last))
    stand_in = studies.air_temperature_series(study)
    assert stand_in.source == "not ERA5" and stand_in.lat.values.min() >= 15 and stand_in.lon.values.max() <= 330
    file = home / "data" / "air_temperature.nc"
    gridded.write_series(file, globe("2013-01-01", 30).rename("air"))
    assert studies.air_temperature_series(study).source == "NCEP/NCAR Reanalysis 1"


def test_no_network_falls_back_and_says_so(home, monkeypatch, capsys):
    def unreachable(name):
        raise ConnectionError("no route")

    monkeypatch.setattr(xr.tutorial, "open_dataset", unreachable)
    monkeypatch.setattr(studies.barotropic, "generate", lambda path, first, last: made(path, first, last))
    assert studies.air_temperature_series(studies.air_temperature("laptop")).source == "not ERA5"
    assert "none could be fetched: no route" in capsys.readouterr().out


def test_sources_of_geopotential(home, monkeypatch, tmp_path):
    study, asked = studies.geopotential("smoke"), {}
    monkeypatch.setattr(
        studies.barotropic, "generate", lambda path, first, last, device: made(path, first, last, asked)
    )
    assert studies.geopotential_series(study).source == "not ERA5" and asked == {"years": (2017, 2018)}
    folder = tmp_path / "weatherbench"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"geopotential_500hPa_1979_5\.625deg\.nc"):
        studies.geopotential_series(study, folder)
    with pytest.raises(FileNotFoundError):
        studies.geopotential_series(study, tmp_path / "era5.zarr")


def globe(first: str, days: int) -> xr.DataArray:
    series = travelling_wave(first, days)
    return series.assign_attrs(source="not ERA5")


def made(path, first, last, asked=None):
    if asked is not None:
        asked["years"] = (first, last)
    return gridded.write_series(path, globe(f"{first}-01-01", 730))
