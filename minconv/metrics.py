"""Rollouts and their errors, as xarray: by predicted time, model and seed.

A test trajectory has frames 0..T-1, of which the first ``context`` are shown. Output t predicts frame t + 1:

    teacher forcing   outputs 0..context-1     made from true frames only
    closed loop       outputs context..T-2     fed by at least one prediction

so that each predicted frame belongs to one part. ``lead`` is the predicted frame's distance from the last
true frame that the prediction has seen: 1 throughout teacher forcing, then 2, 3, ... in the closed loop.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data.windows import check_trajectories
from minconv.errors import whole

TEACHER_FORCING, CLOSED_LOOP = PHASES = ("teacher forcing", "closed loop")
ModelSeed = tuple[str, int | None]


@torch.no_grad()
def rollout(model: Callable[[Tensor, int], Tensor], trajectories: Tensor, context: int, batch: int = 64) -> Tensor:
    """Predicts frames 1..T-1 of every trajectory: ``context`` true frames, then the model's own.

    Args:
        model: called as ``model(frames, horizon)`` with frames [B, context, C, H, W] on the device of the
            trajectories; returns [B, context + horizon, C, H, W]. A module is used in the mode it is in.
        trajectories: [N, T, C, H, W].
        context: number of teacher-forced frames, 1..T-2.
        batch: trajectories in one call.

    Returns:
        [N, T-1, C, H, W], where output t predicts frame t + 1.

    Raises:
        TypeError, ValueError: trajectories of another rank or dtype, context out of range, another shape
            from the model.
    """
    context = _checked(trajectories, context)
    horizon = trajectories.shape[1] - 1 - context
    parts = []
    for chunk in trajectories.split(whole("batch", batch, least=1)):
        part = model(chunk[:, :context], horizon)
        if part.shape != chunk[:, 1:].shape:
            raise ValueError(f"model must return frames of shape {list(chunk[:, 1:].shape)}; got {list(part.shape)}")
        parts.append(part)
    return torch.cat(parts)


def persistence(trajectories: Tensor, context: int) -> Tensor:
    """The forecast that nothing changes: repeats the last true frame seen; see :func:`rollout`."""
    context = _checked(trajectories, context)
    seen = torch.arange(trajectories.shape[1] - 1, device=trajectories.device).clamp(max=context - 1)
    return trajectories[:, seen]


def enstrophy_spectrum(vorticity: Tensor) -> Tensor:
    """Enstrophy w^2 / 2 by radial wavenumber: [..., H, W] -> [..., K].

    Bin k sums |w_k|^2 / 2 over the Fourier modes whose wavenumber, in cycles per domain, rounds to k. All
    modes are counted, so that the bins add up to the spatial mean of w^2 / 2 (Parseval).
    """
    return _by_wavenumber(_power(vorticity))


def evaluate(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """Errors of a rollout by predicted time; what is not finite stays so and shows as ``finite`` below 1.

    Args:
        prediction: [N, T-1, C, H, W], from :func:`rollout` or :func:`persistence`.
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
    context = _checked(truth, context)
    check_trajectories(prediction, 1, "prediction")
    if prediction.shape != truth[:, 1:].shape:
        raise ValueError(f"prediction must have shape {list(truth[:, 1:].shape)}; got {list(prediction.shape)}")
    p, t = prediction.double().flatten(2), truth[:, 1:].to(prediction.device).double().flatten(2)
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


def summary(dataset: xr.Dataset) -> xr.Dataset:
    """RMSE over each part, ``teacher_forced`` and ``closed_loop``: root mean square over its frames.

    Takes a result of :func:`evaluate` or :func:`collect` and keeps every dimension but time.
    """
    parts = {}
    for name, phase in zip(("teacher_forced", "closed_loop"), PHASES, strict=True):
        square = dataset.rmse.isel(time=np.flatnonzero(dataset.phase == phase)) ** 2
        parts[name] = np.sqrt(square.mean("time", skipna=False))
        parts[name].attrs = {
            "long_name": f"RMSE, {phase}",
            "units": dataset.rmse.attrs["units"],
        }
    return xr.Dataset(parts, attrs=dataset.attrs)


def collect(runs: Mapping[ModelSeed, xr.Dataset] | Iterable[tuple[ModelSeed, xr.Dataset]]) -> xr.Dataset:
    """Puts results of :func:`evaluate`, keyed by (model, seed), side by side with dims model, seed, time.

    A seed of None stands for every seed: ``("persistence", None)``. Variables of the truth, whose names end in
    ``_truth``, have neither dim.

    Raises:
        ValueError: nothing to collect, a (model, seed) given twice or missing, or several test sets.
    """
    pairs = list(runs.items() if isinstance(runs, Mapping) else runs)
    table = dict(pairs)
    if not table or len(table) < len(pairs):
        raise ValueError(f"runs must hold each (model, seed) once and at least one; got {[key for key, _ in pairs]}")
    models = list(dict.fromkeys(model for model, _ in table))
    seeds = list(dict.fromkeys(seed for _, seed in table if seed is not None))
    if not seeds:
        raise ValueError(f"runs must hold at least one seed that is not None; got {list(table)}")

    def run(model: str, seed: int) -> xr.Dataset:
        found = table.get((model, seed), table.get((model, None)))
        if found is None:
            raise ValueError(f"runs must hold every model with every seed; ({model!r}, {seed!r}) is missing")
        return found

    first = run(models[0], seeds[0])
    truth = [name for name in first.data_vars if name.endswith("_truth")]
    options = {
        "data_vars": "all",
        "coords": "minimal",
        "compat": "override",
        "join": "exact",
        "combine_attrs": "override",
    }
    rows = []
    for model in models:
        row = [run(model, seed) for seed in seeds]
        for seed, found in zip(seeds, row, strict=True):
            same = found.attrs == first.attrs and found.coords.equals(first.coords)
            if not (same and set(found) == set(first) and found[truth].equals(first[truth])):
                raise ValueError(f"runs must be of one test set; ({model!r}, {seed!r}) differs from {pairs[0][0]}")
        rows.append(xr.concat([found.drop_vars(truth) for found in row], "seed", **options))
    together = xr.concat(rows, "model", **options).assign_coords(model=models, seed=seeds)
    return together.assign(first[truth].data_vars)


def spread(dataset: xr.Dataset, dim: str = "seed") -> tuple[xr.Dataset, xr.Dataset]:
    """Mean and sample standard deviation over ``dim``; the latter is NaN where there is one seed only."""
    parts = dataset[[name for name, values in dataset.data_vars.items() if dim in values.dims]]
    with np.errstate(invalid="ignore"):  # inf - inf, where a rollout blew up
        mean = parts.mean(dim, skipna=False, keep_attrs=True)
        if parts.sizes[dim] == 1:
            return mean, xr.full_like(mean, np.nan)
        return mean, parts.std(dim, ddof=1, skipna=False, keep_attrs=True)


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


def _checked(trajectories: Tensor, context: int) -> int:
    """Returns ``context`` if it leaves at least one closed-loop step of the trajectories [N, T, C, H, W]."""
    check_trajectories(trajectories, 3)
    frames = trajectories.shape[1]
    if (context := whole("context", context, least=1)) > frames - 2:
        raise ValueError(f"context must be at most {frames - 2}, two less than the {frames} frames; got {context}")
    return context
