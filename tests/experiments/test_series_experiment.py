"""From anybody's series to forecasts of it."""

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data.grid import area_weights
from minconv.evaluation import Climatology, forecast
from minconv.experiments import series_experiment
from minconv.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")

PERIODS = {"train": ("2001", "2002"), "validation": ("2003-01", "2003-04"), "test": ("2003-05", "2003-06")}
SHORT = Training(context=6, horizon=2, epochs=3, batch=4, noise=0.0)


def waves(lon=None) -> xr.Dataset:
    """A wave that goes east round the globe in 8 days, and its square, with a season: daily, three years, 4 x 8."""
    times = np.datetime64("2001-01-01", "ns") + np.arange(3 * 365) * np.timedelta64(1, "D")
    lat, lon = np.arange(-67.5, 90, 45), np.arange(0.0, 360, 45) if lon is None else lon
    days = np.arange(len(times))[:, None, None]
    wave = np.cos(np.radians(lat))[:, None] * np.cos(np.radians(lon) - 2 * np.pi * days / 8)
    season = 100 + 3 * np.cos(2 * np.pi * days / 365)
    fields = {"z": (season + wave, {"units": "m2 s-2"}), "t": (20 + wave**2, {"units": "K"})}
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {name: (dims, values.astype(np.float32), attrs) for name, (values, attrs) in fields.items()},
        {"time": times, "lat": lat, "lon": lon},
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waves")
    return series_experiment(waves(), folder, **PERIODS, models=["minconvlstm"], seeds=(1, 2), training=SHORT, hidden=8)


def test_padding_is_that_of_the_grid(study, tmp_path):
    assert study.settings["recipe"].models["minconvlstm"](1).cells[0].conv.padding == "sphere"
    region = series_experiment(waves(np.arange(0.0, 80, 10)), tmp_path, **PERIODS)
    model = region.settings["recipe"].models["minconvlstm"](1)
    assert model.cells[0].conv.padding == "replicate" and model.channels == 2 and model.size == (4, 8)
    band = series_experiment(waves().isel(lat=slice(1, 3)), tmp_path, **PERIODS)
    assert band.settings["recipe"].models["minconvlstm"](1).cells[0].conv.padding == "cylinder"
    training = region.settings["recipe"].training  # some 700 updates, whatever the record's length
    assert training.horizon == 6 and training.epochs * (730 // 14 - 1) // training.batch in range(600, 800)


@pytest.mark.slow
def test_trained_verified_and_forecast(study):
    study.train()
    scores = study.evaluate()
    names = ["persistence", "damped persistence", "climatology", "ridge regression", "minconvlstm", "stack"]
    assert scores.model.values.tolist() == names and scores["variable"].values.tolist() == ["z", "t"]
    assert scores.rmse.dims == ("model", "seed", "lead_time", "variable") and scores.rmse.notnull().all()
    rmse = scores.rmse.sel(seed=1)
    # the wave is a linear map of itself, which the regression finds, and the stack takes
    assert (rmse.sel(model=["ridge regression", "stack"]) < 0.05 * rmse.sel(model="climatology")).all()
    assert (
        (rmse.sel(model="minconvlstm") < rmse.sel(model="persistence")).isel(lead_time=slice(0, 3)).all()
    )  # then t is where it was

    history = waves().isel(time=slice(-20, None))
    week = study.forecast(history, steps=7)
    assert dict(week.sizes) == {"init_time": 1, "lead_time": 7, "lat": 4, "lon": 8}
    assert list(week) == ["z", "t"] and week.t.units == "K"
    assert abs(week.z.values.mean() - 100) < 5 and abs(week.t.values.mean() - 20) < 1
    # the forecast that was verified is the one that is given
    last = study.task.parts["test"]
    found = study.task.forecasts(study.stack)
    again = forecast(study.stack, last.sel(time=slice(None, found.init_time[-1])).isel(time=slice(-6, None)), 7)
    np.testing.assert_allclose(again.z[0], found.z[-1], rtol=1e-5)
    with pytest.raises(ValueError, match="horizon must be below the 7 leads"):
        study.forecast(history, steps=8)


@pytest.mark.slow
def test_what_is_known_of_the_days_to_come(tmp_path):
    """Fields that do not change, the season and sunlight reach the models, those of frames to come as well."""
    whole = waves()
    values = np.random.default_rng(0).normal(size=(4, 8))
    height = xr.DataArray(values, {"lat": whole.lat, "lon": whole.lon}, ("lat", "lon"), "height")
    arguments = {**PERIODS, "models": ["minconvlstm"], "seeds": (1,), "training": SHORT, "hidden": 8}
    study = series_experiment(whole, tmp_path, **arguments, known=[height, "season", "insolation"])
    task = study.task
    assert task.train.shape[2] == 2 + 4 and study.settings["recipe"].models["minconvlstm"](1).known == 4
    torch.testing.assert_close(task.train[0, 0, 2], task.train[5, 3, 2])  # what does not change
    study.train()
    scores = study.evaluate()
    assert scores.rmse.notnull().all() and "stack" in scores.model
    network = next(study.trained())[2]
    history = whole.isel(time=slice(-6, None))
    found = forecast(task.forecaster(network), history, 3)
    # by hand: normalised anomalies and known channels, of the days to come as well
    mean, std = (x.float()[:, None, None] for x in task._scale)
    days = xr.date_range("2003-12-26", periods=8, freq="D")
    anomalies = history.to_dataarray().transpose("time", ...) - task.climatology.at(history.time)
    frames = torch.zeros(8, 2, 4, 8)
    frames[:6] = (torch.from_numpy(anomalies.values).float() - mean) / std
    known = torch.from_numpy(task.forcing.at(xr.DataArray(days, dims="time")))
    with torch.no_grad():
        ahead = network(torch.cat([frames, known], 1)[None], 2)[0, -3:] * std + mean
    normal = task.climatology.at(xr.DataArray(days[-2:].append(days[-1:] + np.timedelta64(1, "D")), dims="time"))
    np.testing.assert_allclose(found.z[0], ahead[:, 0].numpy() + normal.sel(variable="z").values, atol=1e-3)


@pytest.mark.slow
def test_a_series_of_the_sea_alone(tmp_path):
    """Land counts nowhere: not in means and deviations, the loss, scores or forecasts, whatever stands there."""
    whole = waves()
    land = (whole.lon > 200) & (whole.lat > 0)
    sea = whole.where(~land)
    arguments = {**PERIODS, "models": ["minconvlstm"], "seeds": (1,), "training": SHORT, "hidden": 8}
    study = series_experiment(sea, tmp_path / "sea", **arguments, weights={"z": 3}, by_area=True)
    task = study.task
    std = task._scale[1]
    anomalies = sea - Climatology(whole).at(sea.time).to_dataset("variable")
    expected = anomalies.sel(time=slice(*PERIODS["train"]))
    np.testing.assert_allclose(std, [float(expected.z.std()), float(expected.t.std())], rtol=1e-3)
    weights = task.loss.weights
    assert (weights[:, torch.from_numpy(land.transpose("lat", "lon").values)] == 0).all()
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weights[0, 0, 0] / weights[1, 0, 0], 3)
    area = area_weights(whole.lat)
    np.testing.assert_allclose(weights[0, 1, 0] / weights[0, 0, 0], area[1] / area[0])
    study.train()
    scored = study.evaluate().rmse.isel(seed=0)
    full = scores_of(whole.where(~land).fillna(0), task, land)
    np.testing.assert_allclose(scored.sel(model="persistence").transpose("lead_time", "variable"), full, rtol=1e-5)
    week = study.forecast(sea.isel(time=slice(-20, None)), steps=7)
    assert week.z.isnull().equals((week.z * 0).isnull()) and (week.z.isnull() == land).all() and week.t.units == "K"
    with pytest.raises(ValueError, match="values in the same cells at all times"):
        study.forecast(whole.isel(time=slice(-20, None)), steps=7)
    with pytest.raises(
        ValueError, match="z must have values at all times or at none in each cell; 1 cells have them at"
    ):
        gap = sea.copy(deep=True)
        gap.z[3, 0, 0] = np.nan
        series_experiment(gap, tmp_path / "gap", **arguments)


def scores_of(filled: xr.Dataset, task, land: xr.DataArray) -> np.ndarray:
    """The RMSE of persistence over the sea, by hand, [lead, variable]."""
    area = xr.DataArray(area_weights(filled.lat), {"lat": filled.lat}).where(~land, 0)
    rows = []
    for lead in range(1, task.steps + 1):
        before = filled.sel(time=task.starts)
        after = filled.sel(time=task.starts + np.timedelta64(lead, "D"))
        square = [(after[name].values - before[name].values) ** 2 for name in filled]
        weights = area.transpose("lat", "lon").values
        rows.append([np.sqrt((one * weights).sum((1, 2)).mean() / weights.sum()) for one in square])
    return np.array(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["gru"]}, "models must be one of convgru.*got 'gru'"),
        ({"test": ("2005", "2006")}, r"at least 28 frames from 2005 to 2006 \(test\); got 0"),
        ({"days": 0}, "days must be"),
        ({"days": 0.4}, "days must be at least a step of the series; got 0.4"),
        ({"days": 400}, "at least 408 frames"),
        ({"weights": {"q": 2}}, "weights must be one of z, t; got 'q'"),
        ({"weights": {"z": -2}}, "weights of z must be"),
        ({"known": ["moon"]}, "known must be"),
    ],
)
def test_bad_input_is_told(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        series_experiment(waves(), tmp_path, **PERIODS | arguments)
