"""Metrics against closed forms."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from minconv import metrics


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
    found = metrics.evaluate(metrics.persistence(ramp, 3), ramp, 3)
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

    found = metrics.rollout(model, truth, 2, batch=batch)
    assert not found.requires_grad
    assert torch.equal(found, metrics.persistence(truth, 2))
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
    mean, deviation = metrics.spread(metrics.collect({("a", 1): found, ("a", 2): fine}))
    assert np.isfinite(mean.rmse).values.tolist() == [[True] * 3 + [False] * 2]
    assert np.isfinite(deviation.rmse).values.tolist() == [[True] * 3 + [False] * 2]


def offsets(*values: float) -> list[xr.Dataset]:
    truth = trajectories()
    return [metrics.evaluate(truth[:, 1:] + value, truth, 2) for value in values]


def test_collect_and_spread():
    a1, a2, b1, b2, p = offsets(1, 3, 5, 5, 7)
    runs = {("a", 11): a1, ("a", 12): a2, ("b", 11): b1, ("b", 12): b2, ("persistence", None): p}
    found = metrics.collect(runs)
    assert found.rmse.dims == ("model", "seed", "time")
    assert found.spectrum.dims == ("model", "seed", "time", "k")
    assert found.spectrum_truth.dims == ("time", "k")
    assert found.model.values.tolist() == ["a", "b", "persistence"] and found.seed.values.tolist() == [11, 12]
    assert found.attrs == {"context": 2, "samples": 3} and found.rmse.attrs["units"] == "1"
    assert {"lead", "phase"} <= set(found.coords)
    mean, deviation = metrics.spread(found)
    np.testing.assert_allclose(mean.rmse.isel(time=0), [2, 5, 7])
    np.testing.assert_allclose(deviation.rmse.isel(time=0), [math.sqrt(2), 0, 0], atol=1e-12)
    parts = metrics.summary(found)
    np.testing.assert_allclose(parts.closed_loop, [[1, 3], [5, 5], [7, 7]])
    assert metrics.collect(list(runs.items())).identical(found)


def test_one_seed_has_no_spread():
    (a,) = offsets(1)
    mean, deviation = metrics.spread(metrics.collect({("a", 1): a}))
    np.testing.assert_allclose(mean.rmse, 1)
    assert np.isnan(deviation.rmse).all()


def test_results_survive_a_file(tmp_path):
    a, p = offsets(1, 2)
    found = metrics.collect({("a", 1): a, ("persistence", None): p})
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
        metrics.collect([(key, results[index]) for key, index in pairs])


def test_collect_rejects_another_test_set():
    (a,) = offsets(1)
    truth = trajectories() + 1
    with pytest.raises(ValueError, match=r"one test set; \('b', 1\)"):
        metrics.collect({("a", 1): a, ("b", 1): metrics.evaluate(truth[:, 1:], truth, 2)})


@pytest.mark.parametrize(
    "context, error",
    [(0, ValueError), (5, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_context_out_of_range(context, error):
    truth = trajectories()
    for call in (
        lambda: metrics.rollout(lambda frames, horizon: frames, truth, context),
        lambda: metrics.persistence(truth, context),
        lambda: metrics.evaluate(truth[:, 1:], truth, context),
    ):
        with pytest.raises(error, match="context"):
            call()


def test_wrong_frames():
    truth = trajectories()
    with pytest.raises(ValueError, match=r"trajectories must be \[N, T, C, H, W\]"):
        metrics.persistence(truth[0], 2)
    with pytest.raises(ValueError, match=r"trajectories must be \[N, T, C, H, W\]"):
        metrics.persistence(truth[:0], 2)
    with pytest.raises(TypeError, match="trajectories must be a floating-point tensor; got"):
        metrics.persistence(truth.long(), 2)
    with pytest.raises(TypeError, match="trajectories must be a floating-point tensor; got"):
        metrics.persistence(truth.numpy(), 2)
    with pytest.raises(TypeError, match="prediction must be a floating-point tensor; got NoneType"):
        metrics.evaluate(None, truth, 2)
    with pytest.raises(ValueError, match="prediction must have shape"):
        metrics.evaluate(truth, truth, 2)
    with pytest.raises(ValueError, match="model must return"):
        metrics.rollout(lambda frames, horizon: frames, truth, 2)
    with pytest.raises(ValueError, match="batch"):
        metrics.rollout(lambda frames, horizon: frames, truth, 2, batch=0)
