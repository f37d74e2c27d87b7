"""Scores of forecasts as meteorologists have them: by lead time, weighted with the exact areas of the grid's cells."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from minconv.data.grid import area_weights
from minconv.evaluation.baselines import Climatology
from minconv.evaluation.compare import paired_difference
from minconv.evaluation.forecast import DAY, DIMS, VARIABLE, as_array, same_grid
from minconv.runtime.checks import choice

SQUARE = "({})2"  # units of a mean square


def scores(
    predicted: xr.DataArray | xr.Dataset, truth: xr.DataArray | xr.Dataset, climatology: Climatology
) -> xr.Dataset:
    """Area-weighted scores by lead time, and by variable where there are several.

    Args:
        predicted: a forecast over (init_time, lead_time, lat, lon), or a Dataset of such.
        truth: what came true, from :func:`verification`. Cells without a value at any time, as over land in a series of
            the sea, do not count.

    Returns:
        ``rmse`` (root of the mean square over starts and the area-weighted grid), ``bias`` (mean of forecast minus
        truth) and ``acc`` over (lead_time): for each start the correlation of the anomalies from the climatology,
        uncentred and area-weighted, then the mean over starts. ``zonal_rmse`` over (lead_time, lat): root mean square
        over starts and longitudes. ``mse`` over (init_time, lead_time): mean square of each forecast, area-weighted. A
        forecast of the climatology itself has no anomaly and an ``acc`` of 0. Where a value is missing, on either side,
        the scores of its lead are NaN. Of several variables the coordinate ``units`` has those of each.

    Raises:
        ValueError: the two, or the climatology, are not of the same starts, leads and grid.
    """
    several = {}
    if isinstance(predicted, xr.Dataset):
        several["units"] = (VARIABLE, [str(one.attrs.get("units", "1")) for one in predicted.data_vars.values()])
    predicted, truth = as_array(predicted), as_array(truth)
    _same_cases(predicted, truth)
    same_grid(climatology, truth)
    weights = xr.DataArray(area_weights(predicted.lat.values), {"lat": predicted.lat}, ("lat",))
    there = truth.notnull().any(("init_time", "lead_time"))
    if not there.all():
        weights = weights * there
        weights = weights / weights.mean(("lat", "lon"))
    normal = climatology.at(truth.valid_time)
    space = ("lat", "lon")

    def mean(x: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
        return x.mean(dims, skipna=False)  # xarray's default would leave out what is missing

    def product(x: xr.DataArray, y: xr.DataArray) -> xr.DataArray:
        return mean(weights * x * y, space)

    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, or beyond float32, shows in the scores
        differences = (predicted - truth, predicted - normal, truth - normal)
        error, a, b = (found.astype(np.float64).where(there, 0.0) for found in differences)
        power = np.sqrt(product(a, a) * product(b, b))
        none = (power <= 1e-9 * product(b, b)) & np.isfinite(power)  # no anomaly
        correlation = xr.where(none, 0.0, product(a, b) / power.where(power > 0, 1))
        units = "units of the variable" if several else predicted.attrs.get("units", "1")
        found = {
            "rmse": (np.sqrt(mean(product(error, error), ["init_time"])), "RMSE", units),
            "acc": (mean(correlation, ["init_time"]), "anomaly correlation", "1"),
            "bias": (mean(weights * error, ["init_time", *space]), "mean error", units),
            "zonal_rmse": (np.sqrt(mean(error**2, ["init_time", "lon"]) / there.mean("lon")), "RMSE", units),
            "mse": (product(error, error), "mean square error", SQUARE.format(units)),
        }
    variables = {
        name: values.drop_vars("valid_time", errors="ignore").assign_attrs(long_name=long_name, units=unit)
        for name, (values, long_name, unit) in found.items()
    }
    source = str(truth.attrs.get("source", "unknown"))
    attributes = {"starts": predicted.sizes["init_time"], "source": source}
    return xr.Dataset(variables, attrs=attributes).assign_coords(several)


def of_variable(scored: xr.Dataset, name: str) -> xr.Dataset:
    """The scores of one of several variables, with its units."""
    chosen = scored.sel({VARIABLE: choice("name", name, scored[VARIABLE].values.tolist())})
    units = chosen.units.item()
    named = {"rmse": units, "bias": units, "zonal_rmse": units, "mse": SQUARE.format(units)}
    chosen = chosen.drop_vars([VARIABLE, "units"])
    return chosen.assign({score: chosen[score].assign_attrs(units=unit) for score, unit in named.items()})


def blocks(scored: xr.Dataset, days: float = 28) -> xr.Dataset:
    """RMSE of all forecasts that start within ``days``, by ``sample``: what ``compare.paired_difference`` draws from.

    Forecasts of neighbouring days are much alike, so that they are no sample of their own; those of one month and the
    next nearly are.

    Args:
        scored: ``mse`` over (..., init_time), such as the ``evaluate()`` of an experiment at one lead and variable.

    Returns:
        ``rmse`` over (..., sample), of blocks as even in length as can be.
    """
    starts = scored.init_time.values
    count = max(1, round((starts[-1] - starts[0]) / (days * DAY)))
    sample = np.arange(len(starts)) * count // len(starts)
    mean = scored.mse.groupby(xr.DataArray(sample, {"init_time": starts}, "init_time", "sample")).mean(skipna=False)
    units = scored.rmse.attrs["units"]
    return np.sqrt(mean).assign_attrs(long_name="RMSE", units=units).to_dataset(name="rmse").assign_attrs(scored.attrs)


def beside(scored: xr.Dataset, models: Sequence[str], reference: str, days: float = 28) -> xr.DataArray:
    """How much larger the RMSE of models is than that of a reference, in per cent, with intervals of 95 %.

    Args:
        scored: over (model, seed, ...), the ``evaluate()`` of an experiment, of one variable.
        models, reference: among its models.
        days: of the blocks that are resampled, as the seeds are; see ``blocks`` and ``compare.paired_difference``.

    Returns:
        Over (model, lead_time, quartile): the interval's lower end, the difference, and the upper end.
    """
    parts = [blocks(scored.sel(lead_time=lead), days) for lead in scored.lead_time]
    found = [[paired_difference(part, model, reference, "rmse") for part in parts] for model in models]
    values = [[[float(one[end]) for end in ("low", "difference", "high")] for one in row] for row in found]
    places = {"model": list(models), "lead_time": scored.lead_time.values, "quartile": [0.025, 0.5, 0.975]}
    about = {"long_name": "difference of RMSE", "units": "%", "source": scored.attrs["source"]}
    return xr.DataArray(values, places, tuple(places), attrs=about)


def band_rmse(scored: xr.Dataset, south: float, north: float) -> xr.DataArray:
    """RMSE over the rows whose absolute latitude is from ``south`` to ``north`` degrees, from ``zonal_rmse``."""
    rows = np.abs(scored.lat)
    inside = (rows >= south) & (rows <= north)
    if not inside.any():
        raise ValueError(f"there must be a row between {south} and {north} degrees; got {scored.lat.values.tolist()}")
    weights = xr.DataArray(area_weights(scored.lat.values), {"lat": scored.lat}, ("lat",)).where(inside, 0.0)
    squares = (weights * scored.zonal_rmse**2).where(inside, 0.0)
    band = np.sqrt(squares.sum("lat", skipna=False) / weights.sum())
    return band.assign_attrs(scored.zonal_rmse.attrs)


def lead_of_skill(curve: xr.DataArray, baseline: xr.DataArray) -> np.timedelta64:
    """The longest lead up to which ``curve`` (rmse by lead_time) is below ``baseline`` at every lead; 0 if at none."""
    worse = np.flatnonzero(~(curve.values < baseline.values))
    leads = curve.lead_time.values
    if not worse.size:
        return leads[-1]
    return leads[worse[0] - 1] if worse[0] else np.timedelta64(0, "ns")


def by_day(scored: xr.Dataset, baselines: Sequence[str], days: Sequence[int] = (1, 3, 5, 7)) -> xr.Dataset:
    """A table's columns: the RMSE at some days over (model, seed), and up to which day a model is ahead of baselines.

    Args:
        scored: ``rmse`` over (model, seed, lead_time).
        baselines: among the models.
    """
    columns, mean = {}, scored.rmse.mean("seed")
    for day in days:
        at = scored.rmse.sel(lead_time=np.timedelta64(24 * day, "h")).drop_vars("lead_time")
        columns[f"rmse_{day}"] = at.assign_attrs(long_name=f"{day} day{'s' * (day > 1)}")
    for base in baselines:
        ahead = [
            np.nan if name in baselines else lead_of_skill(mean.sel(model=name), mean.sel(model=base)) / DAY
            for name in scored.model.values
        ]
        attributes = {"long_name": f"ahead of {base}", "units": "days", "digits": 2}
        columns[f"ahead_of_{base.replace(' ', '_')}"] = xr.DataArray(
            ahead, {"model": scored.model}, ("model",), attrs=attributes
        )
    return xr.Dataset(columns)


def _same_cases(predicted: xr.DataArray, truth: xr.DataArray) -> None:
    for name, field in (("predicted", predicted), ("truth", truth)):
        dims = tuple(dim for dim in getattr(field, "dims", ()) if dim != VARIABLE)
        if not isinstance(field, xr.DataArray) or dims != DIMS:
            raise ValueError(f"{name} must be a DataArray over {DIMS}; got {getattr(field, 'dims', type(field))}")
    if predicted.dims != truth.dims:
        raise ValueError(f"predicted and truth must have the same dims; got {predicted.dims} and {truth.dims}")
    for dim in predicted.dims:
        if not predicted[dim].equals(truth[dim]):
            raise ValueError(f"predicted and truth must have the same {dim}; they differ")
