"""Losses and scores: by epoch, by lead time, by latitude, by season."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from minconv.plots.axes import axis_label, lead_words, legend_above, letters, lines_by, log_axes, note, titled, words
from minconv.plots.style import GUIDE, PAGE, SEASONS, STYLE
from minconv.runtime.checks import choice, needs

USEFUL = 0.6  # anomaly correlation above which a forecast counts as useful
BASELINES = (DAMPED := "damped persistence", "persistence", "climatology", "ridge regression")
RATIO = "beside damped persistence"
MANY = 50  # frames ahead, of which most are alike
LOGARITHMIC = ("mse", "mae")  # of frames: a forecast that goes astray would press the others down


def training_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], units: str = "1", title: str = "") -> Figure:
    """Training and validation loss by epoch: mean over seeds, and a band from the lowest to the highest.

    Args:
        logs: by model, rows with ``epoch``, ``seed``, ``train_loss`` and ``validation_loss``.
        units: units of the loss.
        title: above everything.
    """
    if not logs or not all(logs.values()):
        raise ValueError(f"logs must hold at least one row for every model; got {list(logs) or 'no model'}")
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharex=True, sharey=True)
    for ax, key, part in zip(axes, ("train_loss", "validation_loss"), ("training", "validation"), strict=True):
        for model, rows in logs.items():
            values = {(int(row["seed"]), int(row["epoch"])): float(row[key]) for row in rows}
            seeds, epochs = (sorted(set(numbers)) for numbers in zip(*values, strict=True))
            table = [[values.get((seed, epoch), math.nan) for epoch in epochs] for seed in seeds]
            places = {"model": [model], "seed": seeds, "epoch": epochs}
            loss = xr.DataArray([table], places, [*places], attrs={"long_name": "mean square error", "units": units})
            lines_by(ax, loss, "model", "epoch", STYLE, extremes=True)  # a deviation might reach below 0
        ax.set(title=part, xlabel="epoch")
        log_axes(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(axis_label(loss, "loss"))
    letters(axes)
    legend_above(fig, axes[0], titled(title))
    return fig


def score_curves(
    scores: xr.Dataset,
    variables: Sequence[str] = ("rmse", "acc"),
    title: str = "",
    beside: Sequence[xr.Dataset] = (),
) -> Figure:
    """Scores by lead time: mean over seeds, a band of one standard deviation.

    Args:
        scores: ``variables`` over (model, seed, lead_time), or over ``lead``, in frames, instead, on a logarithmic axis
            where there are many; baselines among the models; each has a panel. That of ``acc``, the anomaly
            correlation, has a line where forecasts cease to be useful. With ``rmse`` there is a further one, its ratio
            to that of damped persistence, if that is among the models; it ends above what is no baseline, or at 1.5.
        variables: names of variables.
        title: above everything.
        beside: scores in other figures, whose axes this one is to share.
    """
    dated = not (isinstance(scores, xr.Dataset) and "lead" in scores.dims)
    for found in (scores, *beside):
        _named("scores", found, variables, "lead_time" if dated else "lead")
    if dated and scores.lead_time.dtype.kind != "m":
        raise ValueError(f"lead_time must be timedelta64; got {scores.lead_time.dtype}")
    variables = list(variables)
    if "rmse" in variables and DAMPED in scores.model:
        variables.append(RATIO)
        scores, *beside = (found.assign({RATIO: _ratio(found)}) for found in (scores, *beside))
    lead = scores.lead_time / np.timedelta64(1, "D") if dated else scores.lead
    leads = scores.assign_coords({str(lead.name): lead.values})
    label = "lead time (days)" if dated else axis_label(lead, "lead")
    fig, axes = plt.subplots(1, len(variables), figsize=(PAGE, 2.9), squeeze=False, sharex=True)
    for ax, name in zip(axes[0], variables, strict=True):
        lines_by(ax, leads[name], "model", lead.name, STYLE)
        ax.set(xlabel=label, ylabel=axis_label(scores[name], name))
        if not dated and lead.size > MANY:
            log_axes(ax, "x")
            ax.xaxis.set_major_formatter("{x:g}")
        else:
            ax.set_xlim(0, None)
            ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        low, high = _ends([found[name] for found in (scores, *beside)])
        if name == "acc":
            ax.set_ylim(min(0, low) - 0.03, 1.02)
            ax.axhline(USEFUL, **GUIDE)
            note(ax, "useful →", (1, USEFUL), (2, 0), xycoords=ax.get_yaxis_transform(), rotation=90)
        elif name == RATIO:
            learned = [found[name].where(~found.model.isin(BASELINES)) for found in (scores, *beside)]
            ax.set_ylim(max(0, low - 0.05), min(max(1.1, _ends(learned)[1] + 0.05), 1.5))
        elif name in LOGARITHMIC:
            log_axes(ax)
        else:
            ax.set_ylim(0, 1.05 * high)
    if len(variables) > 1:
        letters(axes[0])
    legend_above(fig, axes[0, 0], titled(title, *scores.data_vars.values(), scores))
    return fig


def skill(differences: xr.DataArray, reference: str, title: str = "") -> Figure:
    """How much larger than a reference's the RMSE of models is, by lead time, with an interval.

    Args:
        differences: in per cent over (model, lead_time, quartile), of which the three are the interval's lower end, the
            difference and the upper end; such as of ``evaluation.weather.beside``.
        reference: its name in :data:`STYLE`.
        title: above everything.
    """
    needs("differences", differences, (), ("model", "lead_time", "quartile"))
    fig, ax = plt.subplots(figsize=(PAGE, 3))
    days = differences.assign_coords(lead_time=differences.lead_time.values / np.timedelta64(1, "D"))
    lines_by(ax, days, "model", "lead_time", STYLE)
    ax.axhline(0, **STYLE[choice("reference", reference, STYLE)])
    ax.set(xlabel="lead time (days)", ylabel=axis_label(differences, "difference of RMSE"))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    legend_above(fig, ax, titled(title, differences))
    return fig


def zonal_ratio(scores: xr.Dataset, model: str, reference: str, title: str = "") -> Figure:
    """Error of one model over that of another by latitude, a line for each lead time and dots for each seed.

    Args:
        scores: ``zonal_rmse`` over (model, seed, lead_time, lat), from ``evaluation.weather.scores``.
        model, reference: two of its models.
        title: above everything.
    """
    needs("scores", scores, ("zonal_rmse",), ("model", "seed", "lead_time", "lat"))
    errors, leads = scores.zonal_rmse, scores.lead_time.values
    over, under = (errors.sel(model=choice("model", name, errors.model.values.tolist())) for name in (model, reference))
    ratio = (over / under).transpose("lead_time", "seed", "lat")
    fig, ax = plt.subplots(figsize=(PAGE, 3))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(leads)))
    for lead, rows, shade in zip(leads, ratio, shades, strict=True):
        ax.plot(ratio.lat, rows.mean("seed"), color=shade, label=f"{lead_words(lead)}, mean over seeds")
        ax.plot(ratio.lat, rows.T, "o", color=shade, alpha=0.7, markersize=3, markeredgewidth=0)
    ax.plot([], [], "o", color="0.5", markersize=3, label="one seed")
    ax.axhline(1, **GUIDE)
    ax.set(xlabel="latitude", ylabel=f"RMSE, {model} / {reference}")
    _latitudes(ax, ratio.lat.values, 30)
    legend_above(fig, ax, titled(title, errors, scores))
    return fig


def climate(data: xr.Dataset, title: str = "") -> Figure:
    """Zonal mean and standard deviation by latitude, a line for each season.

    Args:
        data: ``mean`` and ``deviation`` over (season, lat) or (row, season, lat); seasons are DJF, MAM, JJA and SON.
            The first row (the data, say) is drawn as lines, a second one (a model) as markers.
        title: above everything.
    """
    needs("data", data, ("mean", "deviation"), ("season", "lat"))
    rows = data.row.values.tolist() if "row" in data.dims else [""]
    if len(rows) > 2:
        raise ValueError(f"data must have at most two rows; got {rows}")
    found = [choice("season", season, SEASONS) for season in data.season.values.tolist()]
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9), sharex=True)
    for ax, name in zip(axes, ("mean", "deviation"), strict=True):
        values = data[name] if "row" in data.dims else data[name].expand_dims(row=rows)
        for season in sorted(found, key=[*SEASONS].index):
            colour, marker = SEASONS[season]
            line, *others = values.sel(season=season).transpose("row", "lat").values
            ax.plot(data.lat, line, color=colour)
            for points in others:
                ax.plot(data.lat, points, marker, color=colour, markersize=4.5, markeredgewidth=0)
            shape = {"marker": marker} if others else {}
            ax.plot([], [], color=colour, markersize=4.5, markeredgewidth=0, label=season, **shape)
        ax.set(xlabel="latitude", ylabel=axis_label(data[name], name))
        _latitudes(ax, data.lat.values, 30)
    axes[1].set_ylim(0, None)
    if len(rows) == 2:
        axes[0].plot([], [], color="0.4", label=f"{words(rows[0])} (line)")
        axes[0].plot([], [], "o", color="0.4", markersize=4.5, label=f"{words(rows[1])} (markers)")
    letters(axes)
    legend_above(fig, axes[0], titled(title, data["mean"], data))
    return fig


def _ratio(scores: xr.Dataset) -> xr.DataArray:
    """RMSE over that of damped persistence."""
    over = scores.rmse / scores.rmse.sel(model=DAMPED, drop=True)
    return over.assign_attrs(long_name="RMSE / that of\ndamped persistence", units="1")


def _ends(values: Sequence[xr.DataArray]) -> tuple[float, float]:
    """The lowest and the highest of values that are finite; 0 and 1 where none is."""
    finite = np.concatenate([found.values[np.isfinite(found.values)] for found in values])
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _named(name: str, dataset: xr.Dataset, variables: Sequence[str], x: str) -> None:
    """Raises unless ``dataset`` holds these variables, of which there must be one, over (model, seed, x)."""
    if not variables:
        raise ValueError(f"variables must name at least one variable of {name}; got none")
    needs(name, dataset, variables, ("model", "seed", x))


def _latitudes(ax: Axes, lat: np.ndarray, step: int) -> None:
    """Ticks as 60°S along the whole meridian, or the part of it that there is."""
    ends, inner = lat[[0, -1]], lat[[1, -2]]
    ax.set_xlim((ends + (ends - inner) / 2).clip(-90, 90))
    ax.xaxis.set_major_locator(MultipleLocator(step))
    ax.xaxis.set_major_formatter(lambda at, _: f"{abs(at):g}°{'S' if at < 0 else 'N' if at else ''}")
