"""Rollouts and their errors, as xarray: by predicted time, model and seed.

A test trajectory has frames 0..T-1, of which the first ``context`` are shown. Output t predicts frame t + 1:

    teacher forcing   outputs 0..context-1     made from true frames only
    closed loop       outputs context..T-2     fed by at least one prediction

so that each predicted frame belongs to one part. ``lead`` is the predicted frame's distance from the last
true frame that the prediction has seen: 1 throughout teacher forcing, then 2, 3, ... in the closed loop.

:func:`evaluate` finds the errors of a rollout and :func:`collect` puts rollouts side by side. :func:`summary`,
:func:`correlation_time`, :func:`spectrum_error`, :func:`drift` and :func:`closed_loop_mean` make numbers of what either
returns and keep its other dimensions, so that :func:`spread` takes theirs. :func:`sample_errors` and
:func:`paired_difference` compare two models on the same trajectories.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data.windows import check_trajectories
from minconv.runtime.checks import choice, positive, whole

TEACHER_FORCING, CLOSED_LOOP = PHASES = ("teacher forcing", "closed loop")
PARTS = ("teacher_forced", "closed_loop")  # their names as variables
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


@torch.no_grad()
def influence(
    step: Callable[[Tensor], Tensor], fields: Tensor, size: int, cells: int = 8, change: float = 1e-3, seed: int = 0
) -> Tensor:
    """How far a change of one cell reaches in one step: root mean square response by distance, per unit of change.

    Distance is the larger of those in rows and columns, on the torus, as a square kernel reaches.

    Args:
        step: from fields [B, H, W] to the fields [B, size, size] one frame later.
        fields: [N, H, W], H and W a multiple of ``size``: where they are finer, a cell is a block of them.
        size: cells in each direction.
        cells: how many are changed in each field, one at a time, chosen at random.
        change: what is added to a cell.
        seed: of the choice.

    Returns:
        [size // 2 + 1], for distances 0, 1, ...; the square is a mean over fields, changed cells and cells at that
        distance.
    """
    pool = fields.shape[-1] // whole("size", size, least=2)
    draw = torch.Generator().manual_seed(whole("seed", seed))
    places = torch.randint(size, (len(fields), whole("cells", cells, least=1), 2), generator=draw)
    grid = torch.arange(size)
    before, squares = step(fields), []
    for y, x in places.permute(1, 2, 0):
        apart = [(grid - at[:, None]).remainder(size) for at in (y, x)]
        rows, columns = (torch.minimum(d, size - d).to(fields.device) for d in apart)  # [N, size]
        distance = torch.maximum(rows[:, :, None], columns[:, None])
        block = (distance == 0).repeat_interleave(pool, 1).repeat_interleave(pool, 2)
        response = (step(fields + change * block.to(fields.dtype)) - before) / change
        total = response.new_zeros(size // 2 + 1).index_add(0, distance.flatten(), response.square().flatten())
        squares.append(total / distance.flatten().bincount())
    return torch.stack(squares).mean(0).sqrt()


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


def summary(dataset: xr.Dataset) -> xr.Dataset:
    """RMSE over each part, ``teacher_forced`` and ``closed_loop``: root mean square over its frames.

    Takes a result of :func:`evaluate` or :func:`collect` and keeps every dimension but time.
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


def collect(runs: Mapping[ModelSeed, xr.Dataset] | Iterable[tuple[ModelSeed, xr.Dataset]]) -> xr.Dataset:
    """Puts results of :func:`evaluate`, keyed by (model, seed), side by side with dims model, seed, time.

    Those of :func:`sample_errors` likewise, with dims model, seed, sample.

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
        dataset: ``correlation`` over time and whatever else, from :func:`evaluate` or :func:`collect`.
        threshold: above 0 and below 1.

    Returns:
        ``correlation_time`` in frames and ``censored``, which is true where the correlation does not fall below the
        threshold: the time is then the last lead, and the true one longer.

    Raises:
        TypeError, ValueError: another dataset or threshold.
    """
    threshold = _fraction("threshold", threshold)
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
        fraction = np.where(np.isfinite(low), (high - threshold) / (high - low), 0)
    crossing = lead[last] + fraction * (lead[last + 1] - lead[last])
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
            :func:`collect`.
        share: above 0 and below 1.

    Returns:
        ``spectrum_error`` by time: infinite where a forecast has no enstrophy at such a wavenumber, NaN where it is
        not finite, or the truth's enstrophy is 0.

    Raises:
        TypeError, ValueError: another dataset or share.
    """
    share = _fraction("share", share)
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
            or :func:`collect`.

    Returns:
        By time, NaN where a forecast is not finite:
        ``mean``, the size of the spatial mean, sqrt(2 spectrum(0)): the root of its mean square over samples and
        channels, in which drifts of opposite sign do not cancel. The vorticity of a periodic domain has none.
        ``variance_ratio``, the spatial variance, 2 x the sum of spectrum(k) over k >= 1, over that of the truth; either
        is a mean over samples and channels.

    Raises:
        TypeError, ValueError: another dataset.
    """
    _needs("dataset", dataset, ("rmse",), ("time",))  # for its units
    spectrum, truth = _fluctuations(dataset)
    mean = np.sqrt(2 * dataset.spectrum.sel(k=0, drop=True))
    mean.attrs = {"long_name": "spatial mean", "units": dataset.rmse.attrs["units"]}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = spectrum.sum("k", skipna=False) / truth.sum("k")
    ratio.attrs = {"long_name": "variance over that of the truth", "units": "1"}
    return xr.Dataset({"mean": mean, "variance_ratio": ratio}, attrs=dataset.attrs)


def sample_errors(prediction: Tensor, truth: Tensor, context: int, units: str = "1") -> xr.Dataset:
    """RMSE of every trajectory of a rollout; arguments and errors as in :func:`evaluate`.

    Returns:
        Over ``sample``: ``teacher_forced`` and ``closed_loop``, the root of the mean square over the part's frames,
        channels and space; the root mean square of these over samples is that of :func:`summary`. ``rms_truth``, the
        same of the true frames 1..T-1, tells :func:`collect` one test set from another.
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


def paired_difference(
    errors: xr.Dataset,
    model: str,
    reference: str,
    part: str = "closed_loop",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """How much larger the RMSE of ``model`` is than that of ``reference``, in per cent, with a bootstrap interval.

        100 (mean over seeds of RMSE(model) / mean over seeds of RMSE(reference) - 1)

    where a seed's RMSE is the root of the mean square over trajectories, as in :func:`summary`. The interval lies
    between percentiles of resamples, in each of which trajectories are drawn once for both models, which have
    forecast the same ones, and seeds for each model by itself, since two models of one seed are no pair (resampling of
    both factors: McCullagh 2000; Owen 2007, "The pigeonhole bootstrap"). Of n, n - 1 are drawn, with replacement: with
    n draws the variance would be too small by (n - 1) / n, which is much for a few seeds (Rao and Wu 1988).

    Few seeds still tell little of their spread: where it dominates, a 95 % interval holds the true value in about 85 %
    of cases with 3 seeds of each model, 90 % with 5, 94 % with 10; where trajectories dominate, in 95 % or more. With
    one seed, the interval is that of these trained models on other trajectories: it says nothing of training again.

    Args:
        errors: results of :func:`sample_errors` from :func:`collect`, with dims model, seed, sample.
        model, reference: two of its models.
        part: ``closed_loop`` or ``teacher_forced``.
        level: probability of the interval, above 0 and below 1.
        resamples: how many, at least 1.
        seed: of the resampling.

    Returns:
        ``difference``, ``low`` and ``high`` in per cent, all NaN where an error of either model is not finite.

    Raises:
        TypeError, ValueError: another dataset, a model it does not hold, or arguments out of range.
    """
    _needs("errors", errors, (choice("part", part, PARTS),), ("model", "seed", "sample"))
    level, resamples = _fraction("level", level), whole("resamples", resamples, least=1)
    draw = np.random.default_rng(whole("seed", seed))
    known = errors.model.values.tolist()
    chosen = [choice("model", model, known), choice("reference", reference, known)]
    squares = [errors[part].sel(model=name).transpose("seed", "sample").values ** 2 for name in chosen]
    squares = [np.where(np.isfinite(square), square, np.nan) for square in squares]  # no ratio of 0 to inf
    seeds, samples = squares[0].shape
    trajectories = _draws(draw, samples, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a reference without error
        resampled = [(_draws(draw, seeds, resamples) * np.sqrt(trajectories @ square.T)).sum(1) for square in squares]
        mean = [np.sqrt(square.mean(1)).mean() for square in squares]
        difference, ratios = (100 * (found[0] / found[1] - 1) for found in (mean, resampled))
        low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    values = {
        "difference": (difference, f"RMSE of {model} over that of {reference}, less one"),
        "low": (low, f"lower end of the {100 * level:g} % interval"),
        "high": (high, f"upper end of the {100 * level:g} % interval"),
    }
    variables = {
        name: ((), float(value), {"long_name": long_name, "units": "%"}) for name, (value, long_name) in values.items()
    }
    return xr.Dataset(variables, attrs=errors.attrs | {"level": level, "resamples": resamples, "seeds": seeds})


def _draws(draw: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """Weights [resamples, n] with which each of n counts in n - 1 draws with replacement; one counts fully."""
    drawn = max(n - 1, 1)
    return draw.multinomial(drawn, np.full(n, 1 / n), resamples) / drawn


def _fluctuations(dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """The spectra of a forecast and of the truth without the spatial mean: wavenumbers 1 and up."""
    _needs("dataset", dataset, ("spectrum", "spectrum_truth"), ("time", "k"))
    return tuple(dataset[name].isel(k=dataset.k.values >= 1) for name in ("spectrum", "spectrum_truth"))


def _closed_loop(dataset: xr.Dataset, *variables: str) -> np.ndarray:
    """Where the closed-loop frames are along time, of which there must be some, and these variables as well."""
    _needs("dataset", dataset, ("phase", *variables), ("time",))
    found = np.flatnonzero(dataset.phase == CLOSED_LOOP)
    if not len(found):
        raise ValueError(f"dataset must hold closed-loop frames; got times {dataset.time.values.tolist()}")
    return found


def _needs(name: str, dataset: xr.Dataset, variables: tuple[str, ...], dims: tuple[str, ...]) -> None:
    """Raises TypeError or ValueError unless the argument ``name`` is a dataset of these variables over ``dims``."""
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"{name} must be an xarray.Dataset; got {type(dataset).__name__}")
    if not all(variable in dataset and {*dims} <= {*dataset[variable].dims} for variable in variables):
        found = ", ".join(f"{key} {values.dims}" for key, values in dataset.variables.items())
        raise ValueError(f"{name} must hold {', '.join(variables)} over ({', '.join(dims)}); got {found or 'nothing'}")


def _fraction(name: str, value: float) -> float:
    if positive(name, value) >= 1:
        raise ValueError(f"{name} must be below 1; got {value}")
    return float(value)


def _flat_pair(prediction: Tensor, truth: Tensor, context: int) -> tuple[int, Tensor, Tensor]:
    """The context, and a prediction and what it predicts as float64 [N, T-1, C H W], all checked."""
    context = _checked(truth, context)
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


def _checked(trajectories: Tensor, context: int) -> int:
    """Returns ``context`` if it leaves at least one closed-loop step of the trajectories [N, T, C, H, W]."""
    check_trajectories(trajectories, 3)
    frames = trajectories.shape[1]
    if (context := whole("context", context, least=1)) > frames - 2:
        raise ValueError(f"context must be at most {frames - 2}, two less than the {frames} frames; got {context}")
    return context
