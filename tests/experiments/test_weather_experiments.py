"""The experiments on weather, from a series to scores."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data.grid import coarsen
from minconv.data.series import write_series
from minconv.evaluation import forecast
from minconv.experiments import Experiment, Setting, air_temperature, geopotential
from minconv.experiments.profiles import PROFILES
from minconv.experiments.tasks import Series, split, years
from minconv.models import build_model, count_parameters
from minconv.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = {"convgru": 34_993, "convlstm": 34_357, "minconvgru": 34_393, "minconvlstm": 35_713, "minconvexplstm": 35_713}
PERIODS = {
    "train": ("2016-12-01", "2017-12-15"),
    "validation": ("2017-12-16", "2018-01-20"),
    "test": ("2018-01-21", "2018-03-05"),
}


def travelling_wave(first: str = "2016-12-01", days: int = 460, hours: int = 24) -> xr.DataArray:
    """A wave that goes round a 4 x 8 globe in 8 days, on a mean that depends on latitude."""
    times = np.datetime64(first, "ns") + np.arange(days * 24 // hours) * np.timedelta64(hours, "h")
    lat, lon = np.arange(-67.5, 90, 45), np.arange(0.0, 360, 45)
    phase = 2 * np.pi * np.arange(len(times)) * hours / (8 * 24)
    values = 100 + lat[:, None] / 10 + np.cos(np.radians(lat))[:, None] * np.cos(np.radians(lon) - phase[:, None, None])
    coordinates = {"time": times, "lat": lat, "lon": lon}
    return xr.DataArray(values.astype(np.float32), coordinates, ("time", "lat", "lon"), "z", {"units": "m2 s-2"})


def tiny(anomalies: bool = False, epochs: int = 2) -> Experiment:
    options = {"layers": 2, "size": (4, 8), "increment": True, "hidden": 12}
    models = {
        "minconvlstm": partial(build_model, "minconvlstm", padding="cylinder", **options),
        "sphere": partial(build_model, "minconvgru", padding="sphere", **options),
    }
    setting = Setting(Training(context=6, horizon=2, epochs=epochs, batch=4, noise=0.0), models, (1, 2))

    def load(device: torch.device) -> Series:
        parts = split(travelling_wave(), PERIODS, 2 * setting.window)
        return Series(parts, setting.window, context=6, every=(2,), anomalies=anomalies, device=device)

    return Experiment("tiny", PROFILES["smoke"], {"recipe": setting}, load, "cpu")


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch):
    """In place of the barotropic model; the years that were asked for."""
    asked = []

    def made(path, first, last, **_):
        asked.append((first, last))
        return write_series(path, travelling_wave(f"{first}-01-01", 730).assign_attrs(source="not ERA5"))

    monkeypatch.setattr(geopotential.barotropic, "generate", made)
    return asked


@pytest.mark.parametrize("profile", PROFILES)
def test_experiments_are_sound(profile, home, stand_in):
    periods, _ = geopotential.SMALLER[profile]
    for found, dates in ((geopotential.geopotential(profile), periods), (air_temperature.PERIODS,) * 2):
        dates = [np.datetime64(date) for part in ("train", "validation", "test") for date in dates[part]]
        assert dates == sorted(dates) and len(set(dates)) == len(dates)
        if isinstance(found, Experiment):
            assert {setting.window for setting in found.settings.values()} == {found.settings["recipe"].window}
    assert years(PERIODS) == (2016, 2018)


def test_paper_has_the_published_settings_and_sizes():
    paper = geopotential.geopotential("paper")
    published = paper.settings["published"]
    settings = {"context": 20, "horizon": 4, "epochs": 20, "batch": 1, "lr": 1e-3, "weight_decay": 0.01, "noise": 0.0}
    assert published.training == Training(**settings, optimizer="adam", warmup=0.0)
    assert published.seeds == (1234, 1235, 1236, 1237, 1238) and published.window == 24
    models = {name: build(0) for name, build in published.models.items()}
    assert {name: count_parameters(model) for name, model in models.items()} == COUNTS
    assert {cell.conv.padding for cell in models["minconvlstm"].cells} == {"cylinder"}
    assert not models["convgru"].increment and paper.settings["recipe"].models["sphere"](0).increment
    assert geopotential.PERIODS["train"] == ("1979", "2014") and paper.settings["recipe"].window == 24


def test_periods_are_cut_and_coarsened():
    series = travelling_wave()
    data = split(series, PERIODS, 16)
    assert [field.sizes["time"] for field in data.values()] == [380, 36, 44] and data["train"].equals(series[:380])
    half = split(series, PERIODS, 16, factor=2)["validation"]
    assert half.shape == (36, 2, 4) and half.equals(coarsen(series, 2)[380:416])
    with pytest.raises(ValueError, match=r"at least 16 frames from 2018-01-21 to 2018-03-05 \(test\); got 12"):
        split(series[:428], PERIODS, 16)


def test_frames_are_anomalies_where_they_should_be(home):
    task = tiny(anomalies=True).task
    frames = task.frames("train")
    assert frames.shape == (380, 1, 4, 8) and frames.mean().abs() < 1e-3
    plain = tiny().task
    torch.testing.assert_close(plain.frames("test")[:, 0], torch.from_numpy(plain.parts["test"].values))
    normal = plain.forecaster(torch.nn.Identity()).normalise(plain.frames("train"))
    assert normal.mean().abs() < 1e-4 and normal.std() == pytest.approx(1, abs=1e-4)
    assert plain.train.shape == (46, 16, 1, 4, 8) and plain.steps == 7


@pytest.mark.parametrize(
    "anomalies", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.robustness)]
)
def test_from_series_to_scores(anomalies, home):
    experiment = tiny(anomalies, epochs=16)
    experiment.train()
    found, task = experiment.evaluate("recipe"), experiment.task
    baselines = ["persistence", "damped persistence", "climatology", "ridge regression"]
    assert found.model.values.tolist() == [*baselines, "minconvlstm", "sphere"]
    assert found.sizes["lead_time"] == 7 and found.seed.values.tolist() == [1, 2]
    assert found.rmse.notnull().all() and found.starts == len(task.starts) == 16
    # the wave is where it was after 8 days: persistence is worst half-way, and a model that learned is ahead of it
    still, models = found.rmse.sel(model="persistence", seed=1), found.rmse.sel(model=["minconvlstm", "sphere"])
    assert int(np.argmax(still.values)) == 3
    first = models.isel(lead_time=0)
    assert (first < still[0]).all() and first.mean() < 0.5 * still[0]
    # what evaluate scores is what forecast gives
    name, seed, model = next(experiment.trained("recipe"))
    forecaster = task.forecaster(model)
    history = task.parts["test"].sel(time=slice(None, task.starts[3]))[-6:]
    assert (name, seed) == ("minconvlstm", 1)
    np.testing.assert_allclose(forecast(forecaster, history, 7)[0], task.forecasts(forecaster)[3], rtol=1e-5)


def test_series_offline(home, monkeypatch, stand_in):
    """The smoke profile asks for no network; a file in data/ is taken, and without one there is the stand-in."""
    monkeypatch.setattr(xr.tutorial, "open_dataset", lambda name: pytest.fail("asked for the network"))
    found = air_temperature.series(fetch=False)
    assert found.source == "not ERA5" and found.lat.values.min() >= 15 and found.lon.values.max() <= 330
    write_series(home / "data" / "air_temperature.nc", travelling_wave("2013-01-01", 30).rename("air"))
    assert air_temperature.series().source == "NCEP/NCAR Reanalysis 1"


def test_no_network_falls_back_and_says_so(home, monkeypatch, capsys, stand_in):
    def unreachable(name):
        raise ConnectionError("no route")

    monkeypatch.setattr(xr.tutorial, "open_dataset", unreachable)
    assert air_temperature.series().source == "not ERA5" and stand_in == [(2013, 2014)]
    assert "none could be fetched: no route" in capsys.readouterr().out


def test_sources_of_geopotential(home, stand_in, tmp_path):
    periods, _ = geopotential.SMALLER["smoke"]
    assert geopotential.series(periods).source == "not ERA5" and stand_in == [(2013, 2014)]
    folder = tmp_path / "weatherbench"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"geopotential_500hPa_1979_5\.625deg\.nc"):
        geopotential.series(periods, folder)
    with pytest.raises(FileNotFoundError):
        geopotential.series(periods, tmp_path / "era5.zarr")


def test_a_shorter_training_has_other_seeds():
    study = geopotential.geopotential("study")
    assert [len(setting.seeds) for setting in study.settings.values()] == [2, 2, 1, 1]
    assert replace(study.settings["recipe"].training, epochs=20) == geopotential.TRAINING["recipe"]
