"""Scores of forecast images, frame by frame, as tables of video prediction have them (OpenSTL, arXiv 2306.11249).

Frames are in [0, 1]. A prediction is clipped to that for SSIM and PSNR, and is taken as it is for the errors. Scores of
a table are means over frames and sequences: ``mse(prediction, truth).mean()``; those of PSNR are means of logarithms.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.evaluation.forecast import checked_context
from minconv.runtime.checks import positive

PUBLISHED_RANGE = 2.0  # which scikit-image took frames of floats to have, -1 to 1, when the tables were made
WINDOW = 7  # pixels along an axis of what SSIM looks at
GAUSSIAN = {"win_size": 11, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def mse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Sum over C, H, W of (p - t)^2, float64 [B, T] of [B, T, C, H, W]: of 64 x 64 pixels 4096 times the mean."""
    p, t = _checked(prediction, truth)
    return (p - t).square().sum((2, 3, 4))


def mae(prediction: Tensor, truth: Tensor) -> Tensor:
    """Sum over C, H, W of |p - t|, float64 [B, T] of [B, T, C, H, W]."""
    p, t = _checked(prediction, truth)
    return (p - t).abs().sum((2, 3, 4))


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """-10 log10 of the mean over C, H, W of (p - t)^2, in dB, float64 [B, T] of [B, T, C, H, W]; infinite if equal."""
    p, t = _checked(prediction, truth)
    return -10 * (p.clamp(0, 1) - t).square().mean((2, 3, 4)).log10()


def ssim(prediction: Tensor, truth: Tensor, data_range: float = 1.0, gaussian: bool = False) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over channels, float64 [B, T] of [B, T, C, H, W].

    In a window of 7 x 7 that has equal weights, with the sample covariance and K = 0.01, 0.03; by scikit-image.

    Args:
        data_range: 1 for what frames in [0, 1] have; ``PUBLISHED_RANGE`` for the numbers of the tables, which are
            larger.
        gaussian: in a window of 11 x 11 with the weights of a Gaussian of 1.5 pixels and the covariance of all, as in
            the original paper, and in ConvS5's (arXiv 2310.19694).
    """
    from skimage.metrics import structural_similarity  # here, as few who import minconv want it

    positive("data_range", data_range)
    p, t = _checked(prediction, truth)
    options = GAUSSIAN if gaussian else {"win_size": WINDOW}
    if min(p.shape[-2:]) < (width := options["win_size"]):
        raise ValueError(f"truth must have {width} x {width} pixels or more for this SSIM; got {list(t.shape)}")
    pairs = zip(*(x.flatten(0, 1).cpu().numpy() for x in (p.clamp(0, 1), t)), strict=True)
    found = [structural_similarity(*pair, data_range=data_range, channel_axis=0, **options) for pair in pairs]
    return torch.tensor(found, dtype=torch.float64).view(p.shape[:2])


@torch.no_grad()
def evaluate(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """Scores of a rollout by lead time, as ``errors.evaluate`` gives errors; means over ``lead`` are those of tables.

    Args:
        prediction: [N, T-1, C, H, W], from ``forecast.rollout``.
        truth: the sequences [N, T, C, H, W] they were made from, in [0, 1].
        context: frames seen; those after them count.
        units: of the frames.

    Returns:
        Over ``lead``, 1 .. T - context frames: ``mse``, ``mae``, ``ssim`` with a data range of 1, ``ssim_published``
        with one of 2, ``ssim_gaussian``, and ``psnr``, each the mean over sequences.

    Raises:
        TypeError, ValueError: frames of another rank, dtype or range, shapes that differ, a bad context.
    """
    context = checked_context(truth, context)
    p, t = prediction[:, context - 1 :], truth[:, context:]
    found = {
        "mse": (mse(p, t), "MSE, sum over a frame", "1" if units == "1" else f"({units})²"),
        "mae": (mae(p, t), "MAE, sum over a frame", units),
        "ssim": (ssim(p, t), "SSIM", "1"),
        "ssim_published": (ssim(p, t, PUBLISHED_RANGE), "SSIM, data range of 2", "1"),
        "ssim_gaussian": (ssim(p, t, gaussian=True), "SSIM, Gaussian window", "1"),
        "psnr": (psnr(p, t), "PSNR", "dB"),
    }
    variables = {
        name: ("lead", scores.mean(0).cpu().numpy(), {"long_name": long_name, "units": unit})
        for name, (scores, long_name, unit) in found.items()
    }
    lead = ("lead", np.arange(1, truth.shape[1] - context + 1), {"long_name": "lead time", "units": "frames"})
    return xr.Dataset(variables, {"lead": lead}, {"context": context, "samples": len(truth)})


def _checked(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64; or TypeError, ValueError."""
    for name, frames in (("prediction", prediction), ("truth", truth)):
        if not isinstance(frames, Tensor) or not frames.is_floating_point():
            found = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
            raise TypeError(f"{name} must be a floating-point tensor; got {found}")
    if truth.dim() != 5 or not truth.numel() or prediction.shape != truth.shape:
        raise ValueError(
            f"prediction and truth must be [B, T, C, H, W] of one shape; got {list(prediction.shape)} and "
            f"{list(truth.shape)}"
        )
    if truth.min() < 0 or truth.max() > 1 or truth.isnan().any():
        raise ValueError(f"truth must be in [0, 1]; got {truth.min():g} to {truth.max():g}")
    return prediction.double(), truth.double()
