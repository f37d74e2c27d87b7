"""Results of several models and seeds side by side, and how far apart two models are."""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from minconv.runtime.checks import choice, fraction, needs, whole

ModelSeed = tuple[str, int | None]


def collect(runs: Mapping[ModelSeed, xr.Dataset] | Iterable[tuple[ModelSeed, xr.Dataset]]) -> xr.Dataset:
    """Puts results of :func:`errors.evaluate`, keyed by (model, seed), side by side with dims model, seed, time.

    Those of :func:`errors.sample_errors` likewise, with dims model, seed, sample.

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

    where a seed's RMSE is the root of the mean square over samples, as in ``errors.summary``. The interval lies
    between percentiles of resamples, in each of which trajectories are drawn once for both models, which have
    forecast the same ones, and seeds for each model by itself, since two models of one seed are no pair (resampling of
    both factors: McCullagh 2000; Owen 2007, "The pigeonhole bootstrap"). Of n, n - 1 are drawn, with replacement: with
    n draws the variance would be too small by (n - 1) / n, which is much for a few seeds (Rao and Wu 1988).

    Few seeds still tell little of their spread: where it dominates, a 95 % interval holds the true value in about 85 %
    of cases with 3 seeds of each model, 90 % with 5, 94 % with 10; where trajectories dominate, in 95 % or more. With
    one seed, the interval is that of these trained models on other trajectories: it says nothing of training again.

    Args:
        errors: results of :func:`errors.sample_errors` from :func:`collect`, or of ``weather.blocks``, with dims model,
            seed, sample.
        model, reference: two of its models.
        part: which of its variables, such as ``closed_loop``.
        level: probability of the interval, above 0 and below 1.
        resamples: how many, at least 1.
        seed: of the resampling.

    Returns:
        ``difference``, ``low`` and ``high`` in per cent, all NaN where an error of either model is not finite.

    Raises:
        TypeError, ValueError: another dataset, a model it does not hold, or arguments out of range.
    """
    needs("errors", errors, (part,), ("model", "seed", "sample"))
    level, resamples = fraction("level", level), whole("resamples", resamples, least=1)
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
