"""Several forecasters as one."""

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data.grid import area_weights
from minconv.evaluation.baselines import Climatology, DampedPersistence, persistence
from minconv.evaluation.combine import Combination, stacked
from minconv.evaluation.forecast import forecasts, init_times, verification

LAT, LON = np.array([0.0, 30, 60]), np.array([0.0, 10, 20])


def noise_with_memory(years: int = 3, seed: int = 0) -> xr.Dataset:
    """Two variables, each half of what it was the day before and half new, about a mean of 10 and 1000."""
    draw = np.random.default_rng(seed)
    values = np.zeros((365 * years, 2, 3, 3), np.float32)
    for day in range(1, len(values)):
        values[day] = 0.5 * values[day - 1] + draw.normal(size=values.shape[1:])
    times = np.datetime64("2001-01-01", "ns") + np.arange(len(values)) * np.timedelta64(1, "D")
    coordinates = {"time": times, "lat": LAT, "lon": LON}
    return xr.Dataset(
        {
            name: (("time", "lat", "lon"), mean + values[:, k])
            for k, (name, mean) in enumerate({"a": 10, "b": 1e3}.items())
        },
        coordinates,
    )


def test_without_weights_it_is_the_mean():
    frames = torch.randn(2, 3, 1, 4, 4)
    double = Combination([persistence, lambda x, horizon: 3 * persistence(x, horizon)])
    torch.testing.assert_close(double(frames, 2), 2 * persistence(frames, 2))


def test_the_stack_has_the_lowest_error_on_what_it_was_fitted_on():
    series = noise_with_memory()
    past, held = series.isel(time=slice(0, 730)), series.isel(time=slice(730, None))
    climatology = Climatology(past)
    damped = DampedPersistence(past, climatology, 3)
    still = Combination([persistence, climatology], np.ones((2, 3, 2)))  # of anomalies, as its climatology says
    starts = init_times(held, 2, 3, (1,))
    stack = stacked([still, damped], held, starts, 2, 3)
    truth = verification(held, starts, 3)

    def errors(forecaster) -> np.ndarray:
        gone = (forecasts(forecaster, held, starts, 2, 3) - truth).to_dataarray().astype(np.float64) ** 2
        weights = xr.DataArray(area_weights(LAT), {"lat": LAT})
        return (gone * weights).mean(("init_time", "lat", "lon")).values

    assert stack.weights.shape == (2, 3, 2) and (stack.weights >= 0).all()
    assert (errors(stack) <= np.minimum(errors(still), errors(damped)) * (1 + 1e-6)).all()
    # by hand, where damped persistence alone is given: the regression of the truth on it
    one = stacked([damped], held, starts, 2, 3).weights[0, 0, 0]
    normal = climatology.at(truth.valid_time).sel(variable="a").values
    x = forecasts(damped, held, starts, 2, 3)["a"].values[:, 0] - normal[:, 0]
    y = truth["a"].values[:, 0] - normal[:, 0]
    area = area_weights(LAT)[:, None]
    assert one == pytest.approx((area * x * y).sum() / (area * x * x).sum(), rel=1e-4)


def test_what_cannot_be_combined_is_refused():
    series = noise_with_memory(2)
    one, other = Climatology(series), Climatology(series)
    with pytest.raises(ValueError, match="members must be one or more with one climatology; got 2 with 2"):
        Combination([one, other])
    with pytest.raises(ValueError, match="got 0 with 0"):
        Combination([])
    with pytest.raises(ValueError, match=r"weights must be \[1, leads, C\]; got \[2, 3, 1\]"):
        Combination([one], np.ones((2, 3, 1)))
    with pytest.raises(ValueError, match="horizon must be below the 3 leads with weights; got 3"):
        Combination([one], np.ones((1, 3, 2)))(torch.zeros(1, 2, 2, 3, 3), 3)
    with pytest.raises(ValueError, match="members must forecast anomalies"):
        stacked([persistence], series, series.time[5:7], 2, 3)
