"""Series of several variables beside one, and dates wherever they are."""

import numpy as np
import pytest
import torch
import xarray as xr
from test_weather import LAT, LON, adds_one, noise, series

from minconv import Forecaster
from minconv.evaluation import Climatology, DampedPersistence, forecast, persistence, rollout, scores
from minconv.evaluation.baselines import RidgeRegression
from minconv.evaluation.forecast import DAY, Scaled, forecasts, init_times, verification
from minconv.evaluation.weather import of_variable

pytestmark = pytest.mark.usefixtures("one_thread")


def pair(frames: int, **options) -> xr.Dataset:
    z, t = noise(frames, **options), noise(frames, seed=1, **options)
    return xr.Dataset({"z": z, "t": (20 * t + 280).assign_attrs(units="K")}, attrs={"title": "two"})


BASELINES = {
    "persistence": lambda train: persistence,
    "climatology": Climatology,
    "damped persistence": lambda train: DampedPersistence(train, Climatology(train), 3),
}


@pytest.mark.parametrize("name", BASELINES)
def test_several_variables_are_as_each_alone(name):
    whole = pair(3 * 365, hours=24)
    starts = init_times(whole, 4, 3, every=(40,))
    found = forecasts(BASELINES[name](whole), whole, starts, 4, 3)
    truth, climatology = verification(whole, starts, 3), Climatology(whole)
    assert list(found) == ["z", "t"] and found.attrs == whole.attrs and found.t.attrs["units"] == "K"
    scored = scores(found, truth, climatology)
    for variable in whole:
        alone = whole[variable]
        expected = forecasts(BASELINES[name](alone), alone, starts, 4, 3)
        xr.testing.assert_allclose(found[variable], expected, rtol=1e-5)
        xr.testing.assert_identical(truth[variable], verification(alone, starts, 3))
        single = scores(expected, verification(alone, starts, 3), Climatology(alone))
        for score in ("rmse", "acc", "bias", "zonal_rmse"):
            np.testing.assert_allclose(scored[score].sel(variable=variable), single[score], rtol=1e-4, atol=1e-4)
            assert of_variable(scored, variable)[score].units == single[score].units


def test_a_model_of_several_variables_in_their_units():
    torch.manual_seed(0)
    shape = {"channels": 2, "hidden": 3, "layers": 1, "size": (len(LAT), len(LON))}
    model = Forecaster("minconvlstm", **shape).set_normalisation([0, 280], [1, 20])
    history = pair(8)
    found = forecast(model, history, 3)
    frames = np.stack([history.z.values, history.t.values], 1)
    expected = model.predict(frames, 3)
    np.testing.assert_allclose(found.z[0], expected[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.t[0], expected[:, 1], rtol=1e-6)
    trajectories = torch.from_numpy(frames)[None]
    np.testing.assert_allclose(rollout(model, trajectories, 5)[0, -3:], model.predict(frames[:5], 3), rtol=1e-6)


def test_other_variables_and_grids_are_refused():
    whole = pair(400, hours=24)
    climatology = Climatology(whole)
    with pytest.raises(ValueError, match=r"same variables as the series; got \['z', 't'\], not \[\]"):
        DampedPersistence(whole.z, climatology, 2)
    with pytest.raises(ValueError, match="same variables"):
        forecast(climatology, whole[["t", "z"]], 2)
    with pytest.raises(ValueError, match="one variable or more"):
        forecast(persistence, whole[[]], 2)
    with pytest.raises(ValueError, match=r"series must be over \(time, lat, lon\)"):
        forecast(persistence, whole.assign(orography=whole.z[0].drop_vars("time")), 2)


@pytest.mark.parametrize("start", ["1500-01-01", "2300-01-01"])
@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_dates_beyond_nanoseconds(start, unit):
    time = np.datetime64(start, unit) + np.arange(800) * np.timedelta64(1, "D")
    whole = noise(800, hours=24).assign_coords(time=time)
    climatology = Climatology(whole)
    for forecaster in (persistence, climatology, DampedPersistence(whole, climatology, 3)):
        found = forecast(forecaster, whole[:20], 3)
        assert found.init_time.values[0] == np.datetime64(start) + 19 * DAY
        assert (found.valid_time.values[0] == np.datetime64(start) + np.arange(20, 23) * DAY).all()
    starts = init_times(whole, 4, 3)
    truth = verification(whole, starts, 3)
    assert (truth.valid_time.values - starts.values[:, None] == np.arange(1, 4) * DAY).all()
    assert scores(truth, truth, climatology).rmse.max() == 0


@pytest.mark.parametrize("first", ["00", "03"])
@pytest.mark.parametrize("hours", [6, 12])
def test_climatology_knows_every_hour_that_the_series_has(hours, first):
    steps = 24 // hours
    cycle = np.random.default_rng(0).normal(size=(steps, 1, 1))
    whole = series(np.tile(cycle, (2 * 366, 1, 1)), f"2015-01-01T{first}", hours)
    climatology = Climatology(whole)
    np.testing.assert_allclose(climatology.at(whole.time), whole, atol=1e-5)
    starts = init_times(whole, 4, 4)
    scored = scores(forecasts(persistence, whole, starts, 4, 4), verification(whole, starts, 4), climatology)
    assert abs(scored.acc).max() < 0.2  # no anomaly is there to be forecast


@pytest.mark.parametrize("several", [False, True])
def test_ridge_regression_finds_a_linear_law(several):
    """x_{t+1} = A x_t + B x_{t-1} + noise: as accurate as the law itself, where damped persistence is not."""
    rng, frames, cells = np.random.default_rng(2), 3000, 2 * 3 * 4
    turn = np.linalg.qr(rng.normal(size=(cells, cells)))[0]
    values = rng.normal(size=(frames, cells))
    for t in range(2, frames):
        values[t] = 0.6 * turn @ values[t - 1] - 0.2 * values[t - 2] + 0.1 * rng.normal(size=cells)
    fields = values.reshape(frames, 2, 3, 4)
    grid = {"lat": [-10.0, 0.0, 10.0], "lon": [0.0, 10.0, 20.0, 30.0]}
    names = ("z", "t") if several else ("z",)
    whole = xr.Dataset({name: series(fields[:, k], hours=24, **grid) for k, name in enumerate(names)})
    whole = whole if several else whole.z
    train, test = whole.isel(time=slice(0, 2000)), whole.isel(time=slice(2000, None))
    climatology = Climatology(train)
    ridge = RidgeRegression(train, climatology, 2)
    starts = init_times(test, 4, 2, every=(1,))
    truth = verification(test, starts, 2)
    rmse = scores(forecasts(ridge, test, starts, 4, 2), truth, climatology).rmse
    damped = scores(forecasts(DampedPersistence(train, climatology, 2), test, starts, 4, 2), truth, climatology).rmse
    assert (rmse < damped).all()
    if several:  # all of the state is seen
        np.testing.assert_allclose(rmse.sel(lead_time=DAY), 0.1, rtol=0.05)
        assert (rmse.sel(lead_time=2 * DAY) < 0.15).all()


def test_ridge_regression_with_more_cells_than_days():
    whole = noise(60, hours=24)
    climatology = Climatology(noise(400, hours=24, seed=3))
    ridge = RidgeRegression(whole, climatology, 3)
    frames = torch.from_numpy((whole - climatology.at(whole.time)).values)[None, :20, None]
    found = ridge(frames, 2)
    assert found.shape == (1, 22, 1, len(LAT), len(LON)) and found.isfinite().all()
    assert torch.equal(found[:, :19], frames[:, :19])
    assert found[:, 19:].square().mean() < 0.1 * frames.square().mean()  # noise has no law: it is penalised away
    with pytest.raises(ValueError, match="below the 3 leads"):
        ridge(frames, 3)
    with pytest.raises(ValueError, match="frames must be 2 or more"):
        ridge(frames[:, :1])


def test_the_truth_is_left_alone_by_a_model_that_works_in_place():
    trajectories = torch.randn(2, 6, 1, 3, 4)
    kept = trajectories.clone()
    rollout(lambda frames, horizon: adds_one(frames.mul_(2), horizon), trajectories, 3)
    assert torch.equal(trajectories, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_predictions_in_half_precision_come_out_in_the_series_own(dtype):
    found = forecast(lambda frames, horizon: adds_one(frames, horizon).to(dtype), noise(5), 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], noise(5)[-1] + 1, atol=0.05)


def test_scaled_by_what_xarray_gives():
    whole = noise(10)
    frames = torch.from_numpy(whole.values)[:, None]
    for mean, std in ((whole.mean(), whole.std()), (whole.mean("time"), whole.std("time"))):
        found = Scaled(torch.nn.Identity(), mean, std).normalise(frames)
        np.testing.assert_allclose(found[:, 0], (whole - mean) / std, rtol=1e-5, atol=1e-5)


def test_ridge_regression_of_too_few_frames_is_refused():
    """Of its last fifth some must have every lead, or no penalty could be chosen."""
    climatology = Climatology(noise(400, hours=24, seed=3))
    RidgeRegression(noise(21, hours=24), climatology, 3)
    with pytest.raises(ValueError, match="series must have 21 frames or more for 3 steps; got 20"):
        RidgeRegression(noise(20, hours=24), climatology, 3)
