"""Rollouts and their errors, as xarray: by predicted time, model and seed.

A test trajectory has frames 0..T-1, of which the first ``context`` are shown. Output t predicts frame t + 1:

    teacher forcing   outputs 0..context-1     made from true frames only
    closed loop       outputs context..T-2     fed by at least one prediction

so that each predicted frame belongs to one part. ``lead`` is the predicted frame's distance from the last
true frame that the prediction has seen: 1 throughout teacher forcing, then 2, 3, ... in the closed loop.

:func:`evaluate` finds the errors of a rollout by time, :func:`sample_errors` and :func:`forecast_errors` by trajectory.
:func:`summary`,
:func:`correlation_time`, :func:`spectrum_error`, :func:`drift` and :func:`closed_loop_mean` make numbers of what it
returns, or of what ``compare.collect`` has put side by side, and keep all other dimensions.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data.windows import check_trajectories
from minconv.evaluation.forecast import checked_context
from minconv.runtime.checks import fraction, needs

TEACHER_FORCING, CLOSED_LOOP = PHASES = ("teacher forcing", "closed loop")
PARTS = ("teacher_forced", "closed_loop")  # their names as variables


@torch.no_grad()
def evaluate(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """Errors of a rollout by predicted time; what is not finite, or not predicted, shows as ``finite`` below 1.

    Args:
        prediction: [N, T-1, C, H, W], from ``forecast.rollout``.
        truth: the trajectories [N, T, C, H, W] they were made from.
        context: number of teacher-forced frames.
        units: units of the frames.

    Returns:
        Variables over ``time`` (of the predicted frame, 1..T-1; coordinates ``lead`` and ``phase``):
        ``rmse`` (root of the mean square over samples, channels and space), ``relative_l2`` (mean over
        samples of ||p - t|| / ||t||), ``correlation`` (Pearson's, over channels and space; mean over samples),
        ``finite`` (fraction of samples), and ``spectrum``, ``spectrum_truth`` over (time, k).

    Raises:
        TypeError, ValueError: frames of another rank or dtype, shapes that differ, a bad context.
    """
    context, p, t = _flat_pair(prediction, truth, context)
    pa, ta = (x - x.mean(-1, keepdim=True) for x in (p, t))
    squared = "1" if units == "1" else f"({units})²"
    found = {
        "rmse": ((p - t).square().mean((0, 2)).sqrt(), "RMSE", units),
        "relative_l2": (((p - t).norm(dim=-1) / t.norm(dim=-1)).mean(0), "relative L2 error", "1"),
        "correlation": (
            ((pa * ta).sum(-1) / (pa.norm(dim=-1) * ta.norm(dim=-1))).mean(0),
            "pattern correlation",
            "1",
        ),
        "finite": (p.isfinite().all(-1).double().mean(0), "fraction of samples with finite predictions", "1"),
        "spectrum": (_mean_spectrum(prediction), "enstrophy", squared),
        "spectrum_truth": (_mean_spectrum(truth[:, 1:]), "enstrophy of the truth", squared),
    }
    time = np.arange(1, truth.shape[1])
    coordinates = {
        "time": ("time", time, {"long_name": "time", "units": "frames"}),
        "lead": ("time", np.maximum(time - context + 1, 1), {"long_name": "lead time", "units": "frames"}),
        "phase": ("time", np.where(time <= context, *PHASES)),
        "k": (
            "k",
            np.arange(len(found["spectrum"][0][0])),
            {"long_name": "wavenumber", "units": "cycles per domain"},
        ),
    }
    variables = {
        name: (("time", "k")[: values.ndim], values.cpu().numpy(), {"long_name": long_name, "units": unit})
        for name, (values, long_name, unit) in found.items()
    }
    return xr.Dataset(variables, coordinates, {"context": context, "samples": len(truth)})


@torch.no_grad()
def sample_errors(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """RMSE of every trajectory of a rollout; arguments and errors as in :func:`evaluate`.

    Returns:
        Over ``sample``: ``teacher_forced`` and ``closed_loop``, the root of the mean square over the part's frames,
        channels and space; the root mean square of these over samples is that of :func:`summary`. ``rms_truth``, the
        same of the true frames 1..T-1, tells ``compare.collect`` one test set from another.
    """
    context, p, t = _flat_pair(prediction, truth, context)
    square = (p - t).square().mean(-1)
    found = {
        "teacher_forced": (square[:, :context], f"RMSE, {TEACHER_FORCING}"),
        "closed_loop": (square[:, context:], f"RMSE, {CLOSED_LOOP}"),
        "rms_truth": (t.square().mean(-1), "root mean square of the truth"),
    }
    variables = {
        name: ("sample", squares.mean(1).sqrt().cpu().numpy(), {"long_name": long_name, "units": units})
        for name, (squares, long_name) in found.items()
    }
    return xr.Dataset(variables, attrs={"context": context, "samples": len(truth)})


@torch.no_grad()
def forecast_errors(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """Relative L2 error of every trajectory's forecast, whole; arguments and errors as in :func:`evaluate`.

    Returns:
        Over ``sample``: ``forecast_l2``, ||p - t|| / ||t|| over all frames after the context, leads 1, 2, ..., and over
        channels and space. Its mean over samples is what papers on neural operators report (arXiv 2010.08895); later
        frames, where the truth is large or hard to foresee, count more in it than in the mean of ``relative_l2`` over
        leads.
    """
    context, p, t = _flat_pair(prediction, truth, context)
    p, t = p[:, context - 1 :].flatten(1), t[:, context - 1 :].flatten(1)
    error = ((p - t).norm(dim=-1) / t.norm(dim=-1)).cpu().numpy()
    about = {"long_name": "relative L2 error of the forecast", "units": "1"}
    return xr.Dataset({"forecast_l2": ("sample", error, about)}, attrs={"context": context, "samples": len(truth)})


def all_errors(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """What :func:`evaluate` finds by time, and :func:`sample_errors` by trajectory; arguments and errors as there."""
    rollouts = prediction, truth, context, units
    return evaluate(*rollouts).merge(sample_errors(*rollouts))


def summary(dataset: xr.Dataset) -> xr.Dataset:
    """RMSE over each part, ``teacher_forced`` and ``closed_loop``: root mean square over its frames.

    Takes a result of :func:`evaluate` or ``compare.collect`` and keeps every dimension but time.
    """
    parts = {}
    for name, phase in zip(PARTS, PHASES, strict=True):
        square = dataset.rmse.isel(time=np.flatnonzero(dataset.phase == phase)) ** 2
        parts[name] = np.sqrt(square.mean("time", skipna=False))
        parts[name].attrs = {
            "long_name": f"RMSE, {phase}",
            "units": dataset.rmse.attrs["units"],
        }
    return xr.Dataset(parts, attrs=dataset.attrs)


def closed_loop_mean(dataset: xr.Dataset) -> xr.Dataset:
    """Mean of every variable over the closed-loop frames; not finite where one of them is not."""
    return dataset.isel(time=_closed_loop(dataset)).mean("time", skipna=False, keep_attrs=True)


def correlation_time(dataset: xr.Dataset, threshold: float = 0.9) -> xr.Dataset:
    """Lead at which the pattern correlation first falls below ``threshold``, counted from the last true frame.

    The curve is that of ``correlation``, the mean over samples; one time of the mean curve, not the mean of the
    samples' times, of which those that outlast the rollout would be unknown. It begins with 1 at lead 0, the true
    frame itself, goes on with the last teacher-forced output (lead 1) and the closed loop (leads 2, 3, ...), and is
    linear between frames. A correlation that is not finite counts as below: the time is then the lead before it.

    Args:
        dataset: ``correlation`` over time and whatever else, from :func:`evaluate` or ``compare.collect``.
        threshold: above 0 and below 1.

    Returns:
        ``correlation_time`` in frames and ``censored``, which is true where the correlation does not fall below the
        threshold: the time is then the last lead, and the true one longer.

    Raises:
        TypeError, ValueError: another dataset or threshold.
    """
    threshold = fraction("threshold", threshold)
    # the closed loop and the frame before it
    start = max(_closed_loop(dataset, "correlation", "lead")[0] - 1, 0)
    forecast = dataset.isel(time=slice(start, None))
    curve = forecast.correlation.transpose(..., "time")
    lead = np.concatenate([[0], forecast.lead.values])
    values = np.concatenate([np.ones_like(curve.values[..., :1]), curve.values], -1)

    above = values >= threshold
    censored = above.all(-1)
    last = np.where(censored, len(lead) - 2, above.argmin(-1) - 1)  # the frame before the fall
    high, low = (np.take_along_axis(values, frame[..., None], -1)[..., 0] for frame in (last, last + 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # of censored curves
        part = np.where(np.isfinite(low), (high - threshold) / (high - low), 0)
    crossing = lead[last] + part * (lead[last + 1] - lead[last])
    found = {
        "correlation_time": (np.where(censored, lead[-1], crossing), f"lead of correlation {threshold:g}", "frames"),
        "censored": (censored, f"correlation stays above {threshold:g}", "1"),
    }
    variables = {
        name: (curve.dims[:-1], value, {"long_name": long_name, "units": units})
        for name, (value, long_name, units) in found.items()
    }
    others = {name: coordinate for name, coordinate in curve.coords.items() if "time" not in coordinate.dims}
    return xr.Dataset(variables, others, dataset.attrs)


def spectrum_error(dataset: xr.Dataset, share: float = 1e-6) -> xr.Dataset:
    """How far the enstrophy spectrum is from the truth's, in decades: 0.3 is a factor of two, above or below.

        mean over k of |log10(spectrum(k) / spectrum_truth(k))|

    over the wavenumbers k >= 1 at which the truth of that time has more than ``share`` of its enstrophy (that of
    k >= 1), so that large and small scales count alike and those of rounding noise do not count. The spectra are means
    over samples; every model is judged at the same wavenumbers. Phases do not enter: persistence, whose frames are
    true ones of another time, does well.

    Args:
        dataset: ``spectrum`` and ``spectrum_truth`` over time, k and whatever else, from :func:`evaluate` or
            ``compare.collect``.
        share: above 0 and below 1.

    Returns:
        ``spectrum_error`` by time: infinite where a forecast has no enstrophy at such a wavenumber, NaN where it is
        not finite, or the truth's enstrophy is 0.

    Raises:
        TypeError, ValueError: another dataset or share.
    """
    share = fraction("share", share)
    spectrum, truth = _fluctuations(dataset)
    kept = truth > share * truth.sum("k")
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.abs(np.log10(spectrum / truth)).where(kept, 0)
        error = decades.sum("k", skipna=False) / kept.sum("k")
    error.attrs = {"long_name": "error of the enstrophy spectrum", "units": "decades"}
    return xr.Dataset({"spectrum_error": error}, attrs=dataset.attrs)


def drift(dataset: xr.Dataset) -> xr.Dataset:
    """Whether a rollout keeps the mean and the variance of the flow; found from the spectra, which hold both.

    Args:
        dataset: ``spectrum`` and ``spectrum_truth`` over time, k and whatever else, and ``rmse``, from :func:`evaluate`
            or ``compare.collect``.

    Returns:
        By time, NaN where a forecast is not finite:
        ``mean``, the size of the spatial mean, sqrt(2 spectrum(0)): the root of its mean square over samples and
        channels, in which drifts of opposite sign do not cancel. The vorticity of a periodic domain has none.
        ``variance_ratio``, the spatial variance, 2 x the sum of spectrum(k) over k >= 1, over that of the truth; either
        is a mean over samples and channels.

    Raises:
        TypeError, ValueError: another dataset.
    """
    needs("dataset", dataset, ("rmse",), ("time",))  # for its units
    spectrum, truth = _fluctuations(dataset)
    mean = np.sqrt(2 * dataset.spectrum.sel(k=0, drop=True))
    mean.attrs = {"long_name": "spatial mean", "units": dataset.rmse.attrs["units"]}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = spectrum.sum("k", skipna=False) / truth.sum("k")
    ratio.attrs = {"long_name": "variance over that of the truth", "units": "1"}
    return xr.Dataset({"mean": mean, "variance_ratio": ratio}, attrs=dataset.attrs)


def enstrophy_spectrum(vorticity: Tensor) -> Tensor:
    """Enstrophy w^2 / 2 by radial wavenumber: [..., H, W] -> [..., K].

    Bin k sums |w_k|^2 / 2 over the Fourier modes whose wavenumber, in cycles per domain, rounds to k. All
    modes are counted, so that the bins add up to the spatial mean of w^2 / 2 (Parseval).
    """
    return _by_wavenumber(_power(vorticity))


def _fluctuations(dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """The spectra of a forecast and of the truth without the spatial mean: wavenumbers 1 and up."""
    needs("dataset", dataset, ("spectrum", "spectrum_truth"), ("time", "k"))
    return tuple(dataset[name].isel(k=dataset.k.values >= 1) for name in ("spectrum", "spectrum_truth"))


def _closed_loop(dataset: xr.Dataset, *variables: str) -> np.ndarray:
    """Where the closed-loop frames are along time, of which there must be some, and these variables as well."""
    needs("dataset", dataset, ("phase", *variables), ("time",))
    found = np.flatnonzero(dataset.phase == CLOSED_LOOP)
    if not len(found):
        raise ValueError(f"dataset must hold closed-loop frames; got times {dataset.time.values.tolist()}")
    return found


def _flat_pair(prediction: Tensor, truth: Tensor, context: int) -> tuple[int, Tensor, Tensor]:
    """The context, and a prediction and what it predicts as float64 [N, T-1, C H W], all checked."""
    context = checked_context(truth, context)
    check_trajectories(prediction, 1, "prediction")
    if prediction.shape != truth[:, 1:].shape:
        raise ValueError(f"prediction must have shape {list(truth[:, 1:].shape)}; got {list(prediction.shape)}")
    return context, prediction.double().flatten(2), truth[:, 1:].to(prediction.device).double().flatten(2)


def _power(vorticity: Tensor) -> Tensor:
    """|w_k|^2 / 2 of every Fourier mode, [..., H, W]."""
    return torch.fft.fft2(vorticity.double(), norm="forward").abs().square() / 2


def _by_wavenumber(power: Tensor) -> Tensor:
    """Sums over the modes [..., H, W] whose radial wavenumber rounds to k: [..., K]."""
    ky, kx = (torch.fft.fftfreq(n, 1 / n, device=power.device) for n in power.shape[-2:])
    shell = torch.hypot(ky[:, None], kx).round().long().flatten()
    return power.new_zeros(*power.shape[:-2], int(shell.max()) + 1).index_add(-1, shell, power.flatten(-2))


def _mean_spectrum(fields: Tensor) -> Tensor:
    """[N, T, C, H, W] -> [T, K], mean over samples and channels; a few samples at a time to bound the memory."""
    total = sum(_power(part).sum((0, 2)) for part in fields.split(16))
    return _by_wavenumber(total / (fields.shape[0] * fields.shape[2]))
