"""Forecasts and their scores against closed forms, and against an independent library."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import adds_one
from torch import nn

from minconv import Forecaster
from minconv.data.grid import area_weights
from minconv.evaluation import Climatology, DampedPersistence, persistence, weather
from minconv.evaluation import forecast as one_forecast
from minconv.evaluation.forecast import DAY, DIMS, Scaled, forecasts, init_times, verification

HOUR = np.timedelta64(1, "h")
LAT, LON = np.arange(-75.0, 90.0, 30.0), np.arange(0.0, 360.0, 45.0)


def series(values, start: str = "2001-01-01", hours: int = 6, lat=LAT, lon=LON, **options) -> xr.DataArray:
    """Over (time, lat, lon) from values that broadcast to it; the first axis is time."""
    values = np.asarray(values, np.float32)
    times = xr.date_range(start, periods=len(values), freq=f"{hours}h", use_cftime=bool(options) or None, **options)
    values = np.broadcast_to(
        values.reshape(len(values), *values.shape[1:] or (1, 1)), (len(values), len(lat), len(lon))
    )
    return xr.DataArray(
        values.copy(),
        {"time": times, "lat": lat, "lon": lon},
        ("time", "lat", "lon"),
        "z",
        {"units": "m2 s-2", "source": "test"},
    )


def noise(frames: int, seed: int = 0, **options) -> xr.DataArray:
    return series(np.random.default_rng(seed).normal(size=(frames, len(LAT), len(LON))), **options)


def test_forecast_continues_the_last_frame():
    history = noise(5)
    found = one_forecast(adds_one, history, 4)
    assert found.dims == DIMS and found.shape == (1, 4, len(LAT), len(LON))
    assert found.name == "z" and found.attrs == history.attrs and found.dtype == np.float32
    assert found.init_time.values[0] == history.time.values[-1]
    assert (found.lead_time.values == 6 * HOUR * np.arange(1, 5)).all()
    assert (found.valid_time.values == history.time.values[-1] + 6 * HOUR * np.arange(1, 5)).all()
    for lead in range(4):
        np.testing.assert_allclose(found[0, lead], history[-1] + lead + 1, rtol=1e-6)
    np.testing.assert_array_equal(found.sel(lead_time="12h", lat=15, lon=90), found[0, 1, 3, 2])


def test_many_forecasts_are_single_ones():
    whole = noise(40)
    starts = whole.time[[7, 8, 20, 38]]
    together = forecasts(adds_one, whole, starts, context=6, steps=3, batch=3)
    for start, one in zip(starts, together, strict=True):
        alone = one_forecast(adds_one, whole.sel(time=slice(None, start))[-6:], 3)
        xr.testing.assert_identical(alone[0].reset_coords(drop=True), one.reset_coords(drop=True))


def test_forecaster_in_units_of_the_series():
    model = Forecaster("minconvlstm", hidden=3, layers=2, size=(len(LAT), len(LON)), padding="sphere").eval()
    history = 3349 * noise(8).assign_attrs(units="m2 s-2") + 54108
    scaled = Scaled(model, 54108.0, 3349.0)
    found = one_forecast(scaled, history, 5)
    frames = torch.from_numpy((history.values.astype(np.float64) - 54108) / 3349).float()[None, :, None]
    with torch.no_grad():
        expected = model(frames, 4)[0, 7:, 0].double().numpy() * 3349 + 54108
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert not any(weight.grad_fn for weight in scaled.parameters()) and len(found.lead_time) == 5


def test_scaled_by_grid_point_and_not_by_zero():
    mean, std = np.arange(6.0).reshape(2, 3), np.arange(1.0, 7.0).reshape(2, 3)
    scaled, frames = Scaled(nn.Identity(), mean, std), torch.randn(4, 2, 1, 2, 3)
    np.testing.assert_allclose(scaled.normalise(frames), (frames.numpy() - mean) / std, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="std above 0"):
        Scaled(nn.Identity(), 0.0, 0.0)


def test_two_starts_a_week_with_room_before_and_after():
    whole = noise(4 * 60)
    starts = init_times(whole, context=20, steps=28)
    assert starts[0] == whole.time[19] and (np.diff(starts.values)[:4] / DAY).tolist() == [3, 4, 3, 4]
    assert starts.values[-1] + 7 * DAY <= whole.time.values[-1] < starts.values[-1] + 12 * DAY
    assert (np.diff(init_times(whole, 1, 1, every=(0.25,)).values) == 6 * HOUR).all()
    with pytest.raises(ValueError, match="20 frames before and 28 after"):
        init_times(whole[:47], 20, 28)


def test_verification_and_persistence():
    whole = series(np.arange(30.0))
    starts = whole.time[[3, 10]]
    truth = verification(whole, starts, 5)
    assert truth[:, :, 0, 0].values.tolist() == [[4, 5, 6, 7, 8], [11, 12, 13, 14, 15]]
    still = forecasts(persistence, whole, starts, 2, 5)
    assert (still.values[0] == 3).all() and (still.values[1] == 10).all()
    assert (truth.valid_time == still.valid_time).all()
    np.testing.assert_array_equal(truth[1], whole.sel(time=truth.valid_time[1]))
    with pytest.raises(ValueError, match="must have 5 frames after"):
        verification(whole, whole.time[[26]], 5)


# --- climatology and damped persistence -----------------------------------------------------------


@pytest.mark.parametrize("options, days", [({}, 365.25), ({"calendar": "noleap"}, 365), ({"calendar": "360_day"}, 360)])
def test_climatology_of_an_annual_and_a_daily_wave(options, days):
    def wave(whole):
        hour = whole.time.dt.hour
        year = 2 * np.pi * (whole.time.dt.dayofyear - 1 + hour / 24) / days
        day = 2 * np.pi * hour / 24
        return 280 + 10 * np.cos(year) + 2 * np.sin(2 * year) + (3 + np.sin(year)) * np.cos(day) + 0 * whole

    train = wave(noise(4 * 3 * 366, **options)).transpose("time", "lat", "lon").astype(np.float32)
    later = wave(noise(200, start="2011-05-01", **options)).transpose("time", "lat", "lon")
    climatology = Climatology(train)
    np.testing.assert_allclose(climatology.at(later.time), later, rtol=2e-6)
    grid = later.time.values[:6].reshape(2, 3)
    square = climatology.at(xr.DataArray(grid, dims=("a", "b")))
    assert square.dims == ("a", "b", "lat", "lon")
    np.testing.assert_allclose(square.values.reshape(6, *square.shape[2:]), later[:6], rtol=2e-6)


def test_climatology_needs_a_year():
    with pytest.raises(ValueError, match=r"series must cover a year .* covers 25 days"):
        Climatology(noise(100))
    mean = Climatology(noise(100, hours=24), annual=0)
    np.testing.assert_allclose(
        mean.at(noise(3, hours=24).time)[2], noise(100, hours=24).mean("time"), rtol=1e-4, atol=1e-6
    )


def test_damped_persistence_of_a_red_noise_decays_with_its_correlation():
    rng, frames, keep = np.random.default_rng(1), 40_000, 0.9
    values = np.zeros((frames, len(LAT), len(LON)))
    for t in range(1, frames):
        values[t] = keep * values[t - 1] + rng.normal(size=values.shape[1:]) * np.sqrt(1 - keep**2)
    whole = series(values, hours=24)
    climatology = Climatology(whole)
    damped = DampedPersistence(whole, climatology, 4)
    for lead, factors in enumerate(damped.factors, start=1):
        np.testing.assert_allclose(factors, keep**lead, atol=0.04)
    starts = whole.time[100:130_00:10]
    scored = weather.scores(forecasts(damped, whole, starts, 1, 4), verification(whole, starts, 4), climatology)
    np.testing.assert_allclose(scored.rmse, np.sqrt(1 - keep ** (2 * np.arange(1, 5))), rtol=0.03)
    assert damped.factors.shape == (4, 1, len(LAT), len(LON))


def test_damped_persistence_where_nothing_ever_happens():
    whole = noise(1600) * (LON > 0)
    climatology = Climatology(whole)
    damped = DampedPersistence(whole, climatology, 2)
    found = forecasts(damped, whole, whole.time[[5]], 3, 2)
    assert np.isfinite(found).all() and np.abs(found[..., 0]).max() == 0


# --- scores ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case():
    """A forecast, what came true, and a climatology."""
    whole = noise(1600)
    climatology, starts = Climatology(whole), whole.time[[100, 400, 900]]
    truth = verification(whole, starts, 4)
    return truth + noise(12, seed=2).values.reshape(truth.shape) * np.arange(1, 5)[:, None, None], truth, climatology


def test_a_perfect_forecast(case):
    _, truth, climatology = case
    found = weather.scores(truth, truth, climatology)
    assert (found.rmse == 0).all() and (found.bias == 0).all()
    np.testing.assert_allclose(found.acc, 1, rtol=1e-12)
    assert found.attrs == {"starts": 3, "source": "test"} and found.rmse.attrs["units"] == "m2 s-2"


def test_constant_offset_and_climatology_itself(case):
    _, truth, climatology = case
    found = weather.scores(truth + 2, truth, climatology)
    for name in ("rmse", "bias", "zonal_rmse"):
        np.testing.assert_allclose(found[name], 2, rtol=1e-6)
    normal = climatology.at(truth.valid_time)
    assert (weather.scores(normal, truth, climatology).acc == 0).all()
    opposite = normal - (truth - normal)
    np.testing.assert_allclose(weather.scores(opposite, truth, climatology).acc, -1, rtol=1e-12)


def test_error_of_one_hemisphere_weighs_half_and_of_a_cap_its_area(case):
    _, truth, climatology = case
    north = xr.where(truth.lat > 0, 1.0, 0.0)
    found = weather.scores((truth + north).transpose(*DIMS), truth, climatology)
    np.testing.assert_allclose(found.rmse, np.sqrt(0.5), rtol=1e-6)
    cap = xr.where(truth.lat == 75, 1.0, 0.0)  # from 60 degrees to the pole: (1 - sin 60) / 2 of the sphere
    found = weather.scores((truth + cap).transpose(*DIMS), truth, climatology)
    np.testing.assert_allclose(found.rmse**2, (1 - np.sqrt(3) / 2) / 2, rtol=1e-6)
    np.testing.assert_allclose(weather.band_rmse(found, 60, 90) ** 2, 0.5, rtol=1e-6)
    np.testing.assert_allclose(weather.band_rmse(found, 0, 90), found.rmse, rtol=1e-9)
    assert (weather.band_rmse(found, 0, 60) == 0).all()
    with pytest.raises(ValueError, match="a row between 80 and 90"):
        weather.band_rmse(found, 80, 90)


def test_agreement_with_an_independent_library(case):
    continuous = pytest.importorskip("scores.continuous")
    predicted, truth, climatology = case
    found = weather.scores(predicted, truth, climatology)
    weights = xr.DataArray(area_weights(LAT), {"lat": LAT}, ("lat",))
    over = ["init_time", "lat", "lon"]
    rmse = continuous.rmse(predicted, truth, reduce_dims=over, weights=weights)
    np.testing.assert_allclose(found.rmse, rmse, rtol=1e-6)
    bias = continuous.mean_error(predicted, truth, reduce_dims=over, weights=weights)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-5, atol=1e-7)
    zonal = continuous.rmse(predicted, truth, reduce_dims=["init_time", "lon"])
    np.testing.assert_allclose(found.zonal_rmse, zonal.transpose(*found.zonal_rmse.dims), rtol=1e-6)
    # Pearson's correlation of a field beside its negative, which has no mean, is the uncentred one
    normal = climatology.at(truth.valid_time)
    a, b = (np.sqrt(weights) * (field - normal).astype(float) for field in (predicted, truth))
    a, b = (xr.concat([x, -x], "sign") for x in (a, b))
    acc = continuous.correlation.pearsonr(a, b, reduce_dims=["sign", "lat", "lon"]).mean("init_time")
    np.testing.assert_allclose(found.acc, acc, rtol=1e-6)


def test_lead_of_skill():
    leads = 6 * HOUR * np.arange(1, 5)
    curve, flat = (xr.DataArray(values, {"lead_time": leads}) for values in ([1, 2, 3, 2], [2.5] * 4))
    assert weather.lead_of_skill(curve, flat) == 12 * HOUR
    assert weather.lead_of_skill(flat, curve) == 0 * HOUR
    assert weather.lead_of_skill(curve, flat + 1) == 24 * HOUR


# --- faults ---------------------------------------------------------------------------------------


def test_what_is_not_a_series_is_refused():
    good = noise(10)
    for wrong, error, words in [
        (good.values, TypeError, "series must be a DataArray"),
        (good.rename(lat="y"), ValueError, "over \\(time, lat, lon\\)"),
        (good[:1], ValueError, "two times or more"),
        (good[[0, 1, 2, 4]], ValueError, "evenly spaced times; after 2001-01-01T12"),
        (good[::-1], ValueError, "evenly spaced"),
    ]:
        with pytest.raises(error, match=words):
            one_forecast(adds_one, wrong, 2)


def test_starts_and_models_that_do_not_fit_are_refused():
    good = noise(10)
    elsewhere = [pd.Timestamp("1999-01-01").to_datetime64()]
    with pytest.raises(ValueError, match="init_times must be times of the series, 2001-01-01T18"):
        forecasts(adds_one, good, elsewhere, 4, 2)
    with pytest.raises(ValueError, match="init_times must be times"):
        forecasts(adds_one, good, good.time[[2]], 4, 2)  # too early for its context
    with pytest.raises(ValueError, match=r"model must return frames of shape \[1, 5, 1, 6, 8\]; got \[1, 4"):
        forecasts(lambda frames, horizon: frames, good, good.time[[5]], 4, 2)
    with pytest.raises(ValueError, match="no missing values"):
        one_forecast(adds_one, good.where(good.lon > 0), 2)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        one_forecast(adds_one, good, 0)


def test_scores_of_different_cases_are_refused(case):
    predicted, truth, climatology = case
    with pytest.raises(ValueError, match="the same lead_time"):
        weather.scores(predicted[:, :2], truth[:, 1:3], climatology)
    with pytest.raises(ValueError, match="predicted must be a DataArray over"):
        weather.scores(predicted[0], truth, climatology)


def test_blocks_are_samples_of_whole_forecasts():
    """Sixty daily starts in blocks of four weeks: two, each the root of its starts' mean square."""
    starts = np.datetime64("2001-01-01", "ns") + np.arange(60) * np.timedelta64(1, "D")
    mse = xr.DataArray(np.arange(60.0)[None] + 1, {"model": ["a"], "init_time": starts}, ("model", "init_time"))
    found = weather.blocks(xr.Dataset({"mse": mse, "rmse": ((), 0.0, {"units": "K"})}))
    np.testing.assert_allclose(found.rmse, np.sqrt([[15.5, 45.5]]))
    assert found.rmse.dims == ("model", "sample") and found.rmse.units == "K"


def test_each_forecast_has_its_error():
    found = noise(60)
    starts = init_times(found, 4, 8, (1,))
    predicted, truth = forecasts(persistence, found, starts, 4, 8), verification(found, starts, 8)
    scored = weather.scores(predicted, truth, Climatology(found, annual=0))
    assert scored.mse.dims == ("init_time", "lead_time") and scored.mse.sizes["init_time"] == len(starts)
    np.testing.assert_allclose(np.sqrt(scored.mse.mean("init_time")), scored.rmse)


def test_beside_a_reference_by_lead():
    """A model whose error is 10 % larger at the first lead and 10 % smaller at the second, in every block."""
    starts = np.datetime64("2001-01-01", "ns") + np.arange(120) * np.timedelta64(1, "D")
    square = np.random.default_rng(0).uniform(1, 2, (1, 1, 120, 2))
    mse = np.concatenate([square, square * np.array([1.1, 0.9]) ** 2])
    places = {"model": ["base", "mine"], "seed": [1], "init_time": starts, "lead_time": [1 * DAY, 2 * DAY]}
    scored = xr.Dataset(
        {"mse": (tuple(places), mse), "rmse": ((), 0.0, {"units": "K"})}, places, attrs={"source": "test"}
    )
    found = weather.beside(scored, ["mine"], "base")
    assert found.dims == ("model", "lead_time", "quartile") and found.units == "%" and found.source == "test"
    np.testing.assert_allclose(found[0], [[10] * 3, [-10] * 3], atol=1e-6)
