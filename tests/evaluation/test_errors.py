"""Metrics against closed forms."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.evaluation import errors as metrics
from minconv.evaluation import persistence, rollout
from minconv.evaluation.compare import collect, paired_difference, spread


def waves(*numbers: tuple[int, int], size: int = 16) -> torch.Tensor:
    """Sum of sines with the wavenumbers (ky, kx), [size, size], float64."""
    x = torch.arange(size, dtype=torch.float64) / size
    return sum(torch.sin(2 * math.pi * (ky * x[:, None] + kx * x)) for ky, kx in numbers)


def trajectories(samples: int = 3, frames: int = 6, size: int = 8) -> torch.Tensor:
    return torch.randn(samples, frames, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("context, frames, counts", [(20, 51, (20, 30)), (2, 6, (2, 3)), (4, 6, (4, 1))])
def test_each_predicted_frame_belongs_to_one_part(context, frames, counts):
    truth = trajectories(frames=frames)
    found = metrics.evaluate(truth[:, 1:], truth, context)
    assert tuple(int((found.phase == phase).sum()) for phase in metrics.PHASES) == counts
    assert sum(counts) == found.sizes["time"] == frames - 1
    assert found.time.values.tolist() == list(range(1, frames))
    assert found.lead.values.tolist() == [1] * context + list(range(2, frames - context + 1))


def test_constant_offset():
    truth = trajectories()
    found = metrics.evaluate(truth[:, 1:] + 0.25, truth, 2, units="s-1")
    np.testing.assert_allclose(found.rmse, 0.25, rtol=1e-12)
    np.testing.assert_allclose(found.correlation, 1, rtol=1e-12)
    expected = (0.25 * 8 / truth[:, 1:].flatten(2).norm(dim=-1)).mean(0)
    np.testing.assert_allclose(found.relative_l2, expected, rtol=1e-12)
    assert found.rmse.attrs["units"] == "s-1"
    assert (found.finite == 1).all()


def test_rmse_and_relative_l2_average_differently_over_samples():
    truth = torch.ones(2, 4, 1, 4, 4, dtype=torch.float64)
    truth[1] *= 2
    prediction = truth[:, 1:].clone()
    prediction[0] += 3
    prediction[1] += 4
    found = metrics.evaluate(prediction, truth, 1)
    np.testing.assert_allclose(found.rmse, math.sqrt((9 + 16) / 2))
    np.testing.assert_allclose(found.relative_l2, (3 / 1 + 4 / 2) / 2)


@pytest.mark.parametrize("shift, expected", [(0.0, 1.0), (1 / 4, 0.0), (1 / 2, -1.0), (1 / 6, 0.5)])
def test_correlation_of_shifted_waves_is_the_cosine(shift, expected):
    x = torch.arange(48, dtype=torch.float64) / 48
    truth = (1 + torch.sin(2 * math.pi * x)).expand(1, 4, 1, 4, 48)
    prediction = (5 + 2 * torch.sin(2 * math.pi * (x + shift))).expand(1, 3, 1, 4, 48)
    np.testing.assert_allclose(metrics.evaluate(prediction, truth, 1).correlation, expected, atol=1e-12)


def test_spectrum_of_sines_stands_at_their_wavenumbers():
    found = metrics.enstrophy_spectrum(waves((0, 2), (3, 4)))
    expected = torch.zeros_like(found)
    expected[2] = expected[5] = 0.25  # the mean of sin^2 / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(16, 16), (15, 16), (9, 7), (1, 1)])
def test_spectrum_adds_up_to_the_mean_enstrophy(size):
    field = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = field.double().square().mean((-2, -1)) / 2
    torch.testing.assert_close(metrics.enstrophy_spectrum(field).sum(-1), expected, rtol=1e-12, atol=0)


def test_evaluate_keeps_both_spectra():
    truth = waves((0, 1)).expand(2, 4, 1, 16, 16)
    found = metrics.evaluate(2 * truth[:, 1:], truth, 1)
    assert found.spectrum.dims == ("time", "k")
    np.testing.assert_allclose(found.spectrum.sel(k=1), 1.0)
    np.testing.assert_allclose(found.spectrum_truth.sel(k=1), 0.25)
    assert found.k.attrs["units"] == "cycles per domain"


def test_persistence_on_a_ramp_errs_by_the_lead_time():
    ramp = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(3, 8, 2, 4, 4)
    found = metrics.evaluate(rollout(persistence, ramp, 3), ramp, 3)
    np.testing.assert_allclose(found.rmse, [1, 1, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found.rmse, found.lead)
    parts = metrics.summary(found)
    assert float(parts.teacher_forced) == pytest.approx(1)
    assert float(parts.closed_loop) == pytest.approx(math.sqrt((4 + 9 + 16 + 25) / 4))


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_rollout_shows_the_context_only_and_covers_the_whole_test_set(batch):
    truth = trajectories(samples=5).requires_grad_()
    sizes = []

    def model(frames, horizon):
        sizes.append(len(frames))
        return torch.cat([frames, frames[:, -1:].expand(-1, horizon, -1, -1, -1)], 1)

    found = rollout(model, truth, 2, batch=batch)
    assert not found.requires_grad
    assert torch.equal(found, truth[:, [0, 1, 1, 1, 1]])
    assert sum(sizes) == 5 and max(sizes) <= batch


def test_a_rollout_that_blows_up_is_seen():
    truth = trajectories()
    prediction = truth[:, 1:].clone()
    prediction[0, 3, 0, 0, 0] = math.inf
    prediction[1, 4, 0, 0, 0] = math.nan
    found = metrics.evaluate(prediction, truth, 2)
    np.testing.assert_allclose(found.finite, [1, 1, 1, 2 / 3, 2 / 3])
    assert np.isfinite(found.rmse).values.tolist() == [True] * 3 + [False] * 2
    assert not np.isfinite(metrics.summary(found).closed_loop)
    assert np.isfinite(metrics.summary(found).teacher_forced)
    fine = metrics.evaluate(truth[:, 1:], truth, 2)
    mean, deviation = spread(collect({("a", 1): found, ("a", 2): fine}))
    assert np.isfinite(mean.rmse).values.tolist() == [[True] * 3 + [False] * 2]
    assert np.isfinite(deviation.rmse).values.tolist() == [[True] * 3 + [False] * 2]


def offsets(*values: float) -> list[xr.Dataset]:
    truth = trajectories()
    return [metrics.evaluate(truth[:, 1:] + value, truth, 2) for value in values]


def test_collect_and_spread():
    a1, a2, b1, b2, p = offsets(1, 3, 5, 5, 7)
    runs = {("a", 11): a1, ("a", 12): a2, ("b", 11): b1, ("b", 12): b2, ("persistence", None): p}
    found = collect(runs)
    assert found.rmse.dims == ("model", "seed", "time")
    assert found.spectrum.dims == ("model", "seed", "time", "k")
    assert found.spectrum_truth.dims == ("time", "k")
    assert found.model.values.tolist() == ["a", "b", "persistence"] and found.seed.values.tolist() == [11, 12]
    assert found.attrs == {"context": 2, "samples": 3} and found.rmse.attrs["units"] == "1"
    assert {"lead", "phase"} <= set(found.coords)
    mean, deviation = spread(found)
    np.testing.assert_allclose(mean.rmse.isel(time=0), [2, 5, 7])
    np.testing.assert_allclose(deviation.rmse.isel(time=0), [math.sqrt(2), 0, 0], atol=1e-12)
    parts = metrics.summary(found)
    np.testing.assert_allclose(parts.closed_loop, [[1, 3], [5, 5], [7, 7]])
    assert collect(list(runs.items())).identical(found)


def test_one_seed_has_no_spread():
    (a,) = offsets(1)
    mean, deviation = spread(collect({("a", 1): a}))
    np.testing.assert_allclose(mean.rmse, 1)
    assert np.isnan(deviation.rmse).all()


def test_results_survive_a_file(tmp_path):
    a, p = offsets(1, 2)
    found = collect({("a", 1): a, ("persistence", None): p})
    found.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "found.nc", engine="h5netcdf") as read:
        xr.testing.assert_equal(read.load(), found)


@pytest.mark.parametrize(
    "runs, message",
    [
        ({}, "at least one"),
        ({("p", None): 0}, "not None"),
        ({("a", 1): 0, ("a", 2): 1, ("b", 1): 2}, r"\('b', 2\) is missing"),
        ([(("a", 1), 0), (("a", 1), 1)], "once"),
    ],
)
def test_collect_rejects(runs, message):
    results = offsets(1, 2, 3)
    pairs = runs.items() if isinstance(runs, dict) else runs
    with pytest.raises(ValueError, match=message):
        collect([(key, results[index]) for key, index in pairs])


def test_collect_rejects_another_test_set():
    (a,) = offsets(1)
    truth = trajectories() + 1
    with pytest.raises(ValueError, match=r"one test set; \('b', 1\)"):
        collect({("a", 1): a, ("b", 1): metrics.evaluate(truth[:, 1:], truth, 2)})


@pytest.mark.parametrize(
    "context, error",
    [(0, ValueError), (5, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_context_out_of_range(context, error):
    truth = trajectories()
    for call in (
        lambda: rollout(lambda frames, horizon: frames, truth, context),
        lambda: metrics.evaluate(truth[:, 1:], truth, context),
    ):
        with pytest.raises(error, match="context"):
            call()


def test_wrong_frames():
    truth = trajectories()
    with pytest.raises(ValueError, match=r"trajectories must be \[N, T, C, H, W\]"):
        rollout(persistence, truth[0], 2)
    with pytest.raises(ValueError, match=r"trajectories must be \[N, T, C, H, W\]"):
        rollout(persistence, truth[:0], 2)
    with pytest.raises(TypeError, match="trajectories must be a floating-point tensor; got"):
        rollout(persistence, truth.long(), 2)
    with pytest.raises(TypeError, match="trajectories must be a floating-point tensor; got"):
        rollout(persistence, truth.numpy(), 2)
    with pytest.raises(TypeError, match="prediction must be a floating-point tensor; got NoneType"):
        metrics.evaluate(None, truth, 2)
    with pytest.raises(ValueError, match="prediction must have shape"):
        metrics.evaluate(truth, truth, 2)
    with pytest.raises(ValueError, match="model must return"):
        rollout(lambda frames, horizon: frames, truth, 2)
    with pytest.raises(ValueError, match="batch"):
        rollout(lambda frames, horizon: frames, truth, 2, batch=0)


def by_lead(correlation, context: int = 3) -> xr.Dataset:
    """What ``correlation_time`` needs, from correlations over leads 1, 2, ..., the last axis."""
    correlation = np.asarray(correlation, float)
    values = np.concatenate([np.full((*correlation.shape[:-1], context - 1), 0.5), correlation], -1)
    time = np.arange(1, values.shape[-1] + 1)
    coordinates = {
        "lead": ("time", np.maximum(time - context + 1, 1)),
        "phase": ("time", np.where(time <= context, *metrics.PHASES)),
    }
    dims = ("model", "seed")[: values.ndim - 1]
    return xr.Dataset({"correlation": ((*dims, "time"), values)}, {"time": time, **coordinates}, {"context": context})


def test_correlation_time_of_a_linear_fall():
    found = metrics.correlation_time(by_lead(1 - 0.03 * np.arange(1, 21)))
    assert float(found.correlation_time) == pytest.approx(0.1 / 0.03) and not found.censored
    assert found.correlation_time.attrs["units"] == "frames" and found.attrs == {"context": 3}
    assert float(metrics.correlation_time(by_lead(1 - 0.03 * np.arange(1, 21)), 0.5).correlation_time) == (
        pytest.approx(0.5 / 0.03)
    )


def test_correlation_time_is_of_the_first_fall():
    assert float(metrics.correlation_time(by_lead([0.8, 0.95, 0.2])).correlation_time) == pytest.approx(0.5)
    assert float(metrics.correlation_time(by_lead([1, 1, 0.9, 0.8, 1, 0])).correlation_time) == pytest.approx(3)


def test_correlation_that_never_falls_is_censored():
    found = metrics.correlation_time(by_lead([0.99, 0.95, 0.95, 0.9]))
    assert bool(found.censored) and float(found.correlation_time) == 4


def test_correlation_time_ends_before_a_rollout_blows_up():
    found = metrics.correlation_time(by_lead([0.99, 0.98, math.nan, math.nan]))
    assert not found.censored and float(found.correlation_time) == 2


def test_correlation_time_by_model_and_seed():
    table = [[[1, 0.8, 0.6], [1, 1, 1]], [[0.8, 0.6, 0.4], [1, 1, 0.8]]]
    found = metrics.correlation_time(by_lead(table))
    assert found.correlation_time.dims == ("model", "seed")
    np.testing.assert_allclose(found.correlation_time, [[1.5, 3], [0.5, 2.5]])
    assert found.censored.values.tolist() == [[False, True], [False, False]]
    mean, _ = spread(found)
    np.testing.assert_allclose(mean.correlation_time, [2.25, 1.5])
    np.testing.assert_allclose(mean.censored, [0.5, 0])


def test_correlation_time_of_rotating_waves():
    x = torch.arange(64, dtype=torch.float64) / 64
    shift = torch.arange(12)[:, None, None, None] / 60  # of a wavelength a frame; correlation cos(2 pi shift)
    truth = torch.sin(2 * math.pi * (x + shift)).expand(12, 1, 4, 64).expand(2, 12, 1, 4, 64)
    found = metrics.correlation_time(metrics.evaluate(rollout(persistence, truth, 4), truth, 4))
    before, after = (math.cos(2 * math.pi * lead / 60) for lead in (4, 5))
    assert float(found.correlation_time) == pytest.approx(4 + (before - 0.9) / (before - after))


def scaled(factor: float) -> xr.Dataset:
    """Errors of a forecast whose wave k = 3 is ``factor`` times the truth's, which has k = 1 and 3."""
    truth = waves((0, 1), (3, 0)).expand(2, 5, 1, 16, 16)
    return metrics.evaluate((waves((0, 1)) + factor * waves((3, 0))).expand(2, 4, 1, 16, 16), truth, 2)


def test_spectrum_error_of_one_scaled_wave():
    found = metrics.spectrum_error(scaled(0.1))
    assert found.spectrum_error.dims == ("time",) and found.spectrum_error.attrs["units"] == "decades"
    np.testing.assert_allclose(found.spectrum_error, 1, rtol=1e-9)  # the mean of 0 and |log10(0.01)|
    np.testing.assert_allclose(metrics.spectrum_error(scaled(10)).spectrum_error, 1, rtol=1e-9)
    assert metrics.spectrum_error(scaled(0)).spectrum_error.min() > 10  # no more than rounding noise is left


def test_spectrum_error_counts_what_holds_enstrophy():
    truth = (waves((0, 1)) + 1e-2 * waves((3, 0))).expand(1, 4, 1, 16, 16)
    prediction = (waves((0, 1)) + 1e-4 * waves((3, 0)) + 5).expand(1, 3, 1, 16, 16)
    found = metrics.evaluate(prediction, truth, 1)
    np.testing.assert_allclose(metrics.spectrum_error(found).spectrum_error, 2, rtol=1e-6)
    np.testing.assert_allclose(metrics.spectrum_error(found, share=1e-3).spectrum_error, 0, atol=1e-12)


def test_spectrum_error_and_drift_of_models_side_by_side():
    truth = trajectories()
    runs = {
        (name, seed): metrics.evaluate(factor * truth[:, 1:], truth, 2)
        for name, factor in (("a", 1.0), ("b", 10.0))
        for seed in (1, 2)
    }
    together = collect(runs)
    error, moments = metrics.spectrum_error(together), metrics.drift(together)
    assert error.spectrum_error.dims == moments["mean"].dims == moments.variance_ratio.dims == ("model", "seed", "time")
    for found in (error, metrics.closed_loop_mean(error)):
        values = found.spectrum_error.transpose("model", ...).values
        np.testing.assert_allclose(values[0], 0, atol=1e-12)
        np.testing.assert_allclose(values[1], 2, rtol=1e-12)
    np.testing.assert_allclose(moments.variance_ratio.mean(("seed", "time")), [1, 100])
    mean, deviation = spread(metrics.closed_loop_mean(error))
    np.testing.assert_allclose(mean.spectrum_error, [0, 2], atol=1e-12)
    np.testing.assert_allclose(deviation.spectrum_error, 0, atol=1e-12)


def test_drift_of_a_known_mean_and_variance():
    truth = waves((1, 2)).expand(2, 6, 1, 16, 16)
    steps = torch.arange(1, 6, dtype=torch.float64).view(5, 1, 1, 1)
    prediction = truth[:, 1:] * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    prediction = prediction + steps * torch.tensor([0.1, -0.1]).view(2, 1, 1, 1, 1)
    found = metrics.drift(metrics.evaluate(prediction, truth, 2, units="s-1"))
    np.testing.assert_allclose(found["mean"], 0.1 * np.arange(1, 6), rtol=1e-7)  # of either sign
    np.testing.assert_allclose(found.variance_ratio, (1 + 9) / 2, rtol=1e-9)
    assert found["mean"].attrs["units"] == "s-1" and found.variance_ratio.attrs["units"] == "1"


def test_drift_is_that_of_the_fields():
    truth = trajectories()
    prediction = 1.5 * truth[:, 1:].roll(1, 0) + 0.2
    found = metrics.drift(metrics.evaluate(prediction, truth, 2))
    size = prediction.mean((2, 3, 4)).square().mean(0).sqrt()
    variances = [x.var((2, 3, 4), correction=0).mean(0) for x in (prediction, truth[:, 1:])]
    np.testing.assert_allclose(found["mean"], size, rtol=1e-12)
    np.testing.assert_allclose(found.variance_ratio, variances[0] / variances[1], rtol=1e-12)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_spectra_of_a_rollout_that_blows_up(value):
    truth = trajectories()
    prediction = truth[:, 1:].clone()
    prediction[0, 3, 0, 0, 0] = value
    found = metrics.evaluate(prediction, truth, 2)
    for by_time in (metrics.spectrum_error(found), metrics.drift(found)):
        for name in by_time:
            assert np.isfinite(by_time[name]).values.tolist() == [True, True, True, False, True]
            assert not np.isfinite(metrics.closed_loop_mean(by_time)[name])


def test_closed_loop_mean_is_of_these_frames_only():
    ramp = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(3, 8, 2, 4, 4)
    found = metrics.closed_loop_mean(metrics.evaluate(rollout(persistence, ramp, 3), ramp, 3)[["rmse"]])
    assert float(found.rmse) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert found.rmse.attrs["long_name"] == "RMSE"


@pytest.mark.parametrize("function", [metrics.correlation_time, metrics.spectrum_error, metrics.drift])
def test_metrics_reject_another_dataset(function):
    with pytest.raises(TypeError, match=r"dataset must be an xarray.Dataset; got DataArray"):
        function(xr.DataArray([1.0]))
    with pytest.raises(ValueError, match=r"dataset must hold .* over \(time"):
        function(metrics.summary(offsets(1)[0]))


def test_metrics_need_the_closed_loop():
    (found,) = offsets(1)
    for function in (metrics.correlation_time, metrics.closed_loop_mean):
        with pytest.raises(ValueError, match=r"dataset must hold closed-loop frames; got times \[1, 2\]"):
            function(found.isel(time=slice(2)))


@pytest.mark.parametrize("value, error", [(0, ValueError), (1.0, ValueError), (math.nan, ValueError), ("x", TypeError)])
def test_fractions_out_of_range(value, error):
    (found,) = offsets(1)
    with pytest.raises(error, match="threshold must be"):
        metrics.correlation_time(found, value)
    with pytest.raises(error, match="share must be"):
        metrics.spectrum_error(found, value)
    with pytest.raises(error, match="level must be"):
        paired_difference(errors_of([[1.0, 2.0]], [[1.0, 2.0]]), "a", "b", level=value)


def test_sample_errors_add_up_to_the_summary():
    truth = trajectories(samples=5)
    prediction = truth[:, 1:].roll(1, 0)
    found = metrics.sample_errors(prediction, truth, 2, units="s-1")
    parts = metrics.summary(metrics.evaluate(prediction, truth, 2))
    assert found.closed_loop.dims == ("sample",) and found.sizes["sample"] == 5
    for name in metrics.PARTS:
        np.testing.assert_allclose(np.sqrt((found[name] ** 2).mean()), parts[name], rtol=1e-12)
        assert found[name].attrs["units"] == "s-1"
    both = metrics.all_errors(prediction, truth, 2, units="s-1")
    assert both.attrs == metrics.evaluate(prediction, truth, 2).attrs and both.rmse.attrs["units"] == "s-1"
    xr.testing.assert_identical(both[list(found)].drop_attrs(deep=False), found.drop_attrs(deep=False))


def test_sample_errors_tell_trajectories_and_parts_apart():
    truth = trajectories()
    prediction = truth[:, 1:].clone()
    prediction[1, :2] += 0.5
    prediction[2, 2:] += 0.25
    prediction[0, 4, 0, 0, 0] = math.nan
    found = metrics.sample_errors(prediction, truth, 2)
    np.testing.assert_allclose(found.teacher_forced, [0, 0.5, 0])
    np.testing.assert_allclose(found.closed_loop, [math.nan, 0, 0.25])


def test_forecast_errors_are_over_all_frames_after_the_context():
    truth = trajectories(samples=4, frames=6)
    scale = torch.tensor([1.0, 0.5, 3.0, 1.0]).view(-1, 1, 1, 1, 1)
    prediction = scale * truth[:, 1:]
    prediction[3, 0] += 100  # made from true frames before the last one: no part of the forecast
    found = metrics.forecast_errors(prediction, truth, 2)
    np.testing.assert_allclose(found.forecast_l2, [0, 0.5, 2, 0], atol=1e-12)
    prediction[3, 1] = 0  # the first frame of the forecast, lead 1
    share = truth[3, 2].norm() / truth[3, 2:].norm()
    np.testing.assert_allclose(metrics.forecast_errors(prediction, truth, 2).forecast_l2[3], share, rtol=1e-6)
    assert found.forecast_l2.dims == ("sample",) and found.attrs == {"context": 2, "samples": 4}


def test_forecast_errors_of_new_frames_alone():
    """As a model without recurrence makes them."""
    truth = trajectories()
    prediction = 1.5 * truth[:, 1:]
    prediction[:, :1] = math.nan
    np.testing.assert_allclose(metrics.forecast_errors(prediction, truth, 2).forecast_l2, 0.5)
    prediction[0, 1] = math.nan
    assert metrics.forecast_errors(prediction, truth, 2).forecast_l2.isnull().values.tolist()[:2] == [True, False]


def test_sample_errors_of_one_test_set():
    truth = trajectories()
    one, other = (metrics.sample_errors(x[:, 1:] + 1, x, 2) for x in (truth, truth + 1))
    together = collect({("a", 1): one, ("a", 2): one, ("persistence", None): one})
    assert together.closed_loop.dims == ("model", "seed", "sample") and together.rms_truth.dims == ("sample",)
    with pytest.raises(ValueError, match="one test set"):
        collect({("a", 1): one, ("b", 1): other})


def errors_of(a, b) -> xr.Dataset:
    """Errors [seed, sample] of the models a and b, as from ``collect``."""
    values = np.asarray([a, b], float)
    return xr.Dataset(
        {"closed_loop": (("model", "seed", "sample"), values)},
        {"model": ["a", "b"], "seed": range(values.shape[1])},
    )


def interval(found: xr.Dataset) -> list[float]:
    return [float(found[name]) for name in ("low", "difference", "high")]


def drawn(
    seeds: int = 3, samples: int = 32, by_seed: float = 0.1, by_sample: float = 0.2, random: int = 0
) -> xr.Dataset:
    """Two models, of which a has 0.8 the errors of b, with normal factors of seeds, trajectories and both."""
    draw = np.random.default_rng(random)
    shared = draw.normal(1, by_sample, samples)
    found = [
        factor * (shared + draw.normal(0, by_seed, (seeds, 1)) + draw.normal(0, 0.05, (seeds, samples)))
        for factor in (0.8, 1)
    ]
    return errors_of(*np.abs(found))


def test_paired_difference_of_a_model_and_itself():
    errors = drawn()
    errors = errors.isel(model=[1, 1]).assign_coords(model=["a", "b"])
    low, difference, high = interval(paired_difference(errors, "a", "b"))
    assert difference == 0 and low < 0 < high


def test_paired_difference_of_a_constant_factor_has_no_width():
    one = np.random.default_rng(0).uniform(1, 5, 32)  # trajectories differ, and are drawn for both models at once
    for seeds in (1, 3):
        errors = errors_of(*(np.broadcast_to(factor * one, (seeds, 32)) for factor in (0.9, 1)))
        np.testing.assert_allclose(interval(paired_difference(errors, "a", "b")), -10, rtol=1e-12)


def test_paired_difference_is_that_of_the_summaries():
    truth = trajectories(samples=5)
    predictions = {
        ("a", 1): truth[:, 1:].roll(1, 0),
        ("a", 2): truth[:, 1:] + 1,
        ("b", 1): 0.5 * truth[:, 1:],
        ("b", 2): truth[:, 1:].roll(1, 3),
    }
    errors, whole = (
        collect({key: function(prediction, truth, 2) for key, prediction in predictions.items()})
        for function in (metrics.sample_errors, metrics.evaluate)
    )
    a, b = spread(metrics.summary(whole))[0].closed_loop.values
    found = paired_difference(errors, "a", "b")
    assert float(found.difference) == pytest.approx(100 * (a / b - 1))
    assert found.low < found.difference < found.high and found.difference.attrs["units"] == "%"
    assert found.attrs == {"context": 2, "samples": 5, "level": 0.95, "resamples": 10_000, "seeds": 2}


def test_paired_difference_is_reproducible():
    errors = drawn()
    first, second, other = (paired_difference(errors, "a", "b", seed=seed) for seed in (0, 0, 1))
    assert first.identical(second) and interval(first) != interval(other)
    np.testing.assert_allclose(interval(first), interval(other), atol=1)


def test_one_seed_leaves_the_trajectories():
    errors = drawn(seeds=1)
    low, difference, high = interval(paired_difference(errors, "a", "b"))
    ratios = errors.closed_loop.values[:, 0]
    assert low < difference < high
    assert 100 * ((ratios[0] / ratios[1]).min() - 1) < low and high < 100 * ((ratios[0] / ratios[1]).max() - 1)
    alone = interval(paired_difference(errors.isel(sample=[0]), "a", "b"))
    np.testing.assert_allclose(alone, 100 * (ratios[0, 0] / ratios[1, 0] - 1))


def test_standard_error_over_seeds():
    """With seeds as the only spread, the interval is that of a difference of means of n = 20 seeds."""
    draw = np.random.default_rng(3)
    a, b = 1 + 0.01 * draw.standard_normal((2, 20, 1))
    low, difference, high = interval(paired_difference(errors_of(a, b), "a", "b"))
    width = 100 * 2 * 1.96 * math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 20)
    assert high - low == pytest.approx(width, rel=0.05)
    assert (low + high) / 2 == pytest.approx(difference, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds, by_seed, least, most",
    [(3, 0.1, 0.78, 0.93), (10, 0.1, 0.9, 0.98), (3, 0.01, 0.94, 1)],
)
def test_coverage_of_the_interval(seeds, by_seed, least, most):
    held = 0
    for repeat in range(300):
        errors = drawn(seeds, by_seed=by_seed, random=repeat)
        low, _, high = interval(paired_difference(errors, "a", "b", resamples=300))
        held += low <= -20 <= high
    assert least <= held / 300 <= most


def test_a_rollout_that_blew_up_has_no_interval():
    for value in (math.inf, math.nan):
        errors = drawn()
        errors.closed_loop[0, 1, 2] = value
        for pair in (("a", "b"), ("b", "a")):
            assert np.isnan(interval(paired_difference(errors, *pair, resamples=100))).all()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"errors": None}, TypeError, "errors must be an xarray.Dataset; got NoneType"),
        (
            {"errors": xr.Dataset()},
            ValueError,
            r"errors must hold closed_loop over \(model, seed, sample\); got nothing",
        ),
        ({"part": "teacher_forced"}, ValueError, "errors must hold teacher_forced over"),
        ({"part": "rmse"}, ValueError, r"errors must hold rmse over \(model, seed, sample\)"),
        ({"model": "c"}, ValueError, "model must be one of a, b; got 'c'"),
        ({"reference": 1}, TypeError, "reference must be a string"),
        ({"resamples": 0}, ValueError, "resamples must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_paired_difference_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        paired_difference(**{"errors": drawn(), "model": "a", "reference": "b"} | arguments)


@pytest.mark.parametrize("measure", [metrics.evaluate, metrics.sample_errors, metrics.forecast_errors])
def test_a_prediction_may_have_a_gradient(measure):
    truth = trajectories()
    prediction = truth[:, 1:] + 0.25
    expected = measure(prediction, truth, 2)
    xr.testing.assert_identical(measure(prediction.clone().requires_grad_(), truth, 2), expected)
