"""Losses, errors and scores: by epoch, by predicted time, by lead time, by latitude, by setting."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from minconv.evaluation.errors import PHASES
from minconv.plots.axes import axis_label, lead_words, legend_above, letters, lines_by, log_axes, note, titled, words
from minconv.plots.style import BLACK, GUIDE, MEAN, PAGE, SEASONS, SETTINGS, STYLE
from minconv.runtime.checks import choice, needs

LINEAR = ("correlation", "variance_ratio", "mean")  # variables on linear axes; errors are on logarithmic ones
USEFUL = 0.6  # anomaly correlation above which a forecast counts as useful
BASELINES = (DAMPED := "damped persistence", "persistence", "climatology", "ridge regression")
RATIO = "beside damped persistence"


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


def error_curves(dataset: xr.Dataset, variables: Sequence[str] = ("rmse", "correlation")) -> Figure:
    """Errors by predicted time: mean over seeds, a band of one standard deviation; the closed loop is marked.

    Args:
        dataset: from :func:`minconv.evaluation.errors.collect`; a model ``persistence`` is drawn in black.
        variables: one panel for each.
    """
    _named("dataset", dataset, variables, "time")
    fig, axes = plt.subplots(1, len(variables), figsize=(PAGE, 2.8), squeeze=False, sharex=True)
    for ax, name in zip(axes[0], variables, strict=True):
        lines_by(ax, dataset[name], "model", "time", STYLE)
        ax.set(xlabel=axis_label(dataset.time, "time"), ylabel=axis_label(dataset[name], name))
        if name not in LINEAR:
            log_axes(ax)
        _mark_closed_loop(ax, dataset.attrs["context"] + 0.5)
    legend_above(fig, axes[0, 0])
    return fig


def rmse_summary(parts: xr.Dataset) -> Figure:
    """RMSE of every model and seed (dots) with its mean (bar), and persistence as a line.

    Args:
        parts: ``teacher_forced`` and ``closed_loop`` over (model, seed), from ``evaluation.errors.summary``.
    """
    needs("parts", parts, ("teacher_forced", "closed_loop"), ("model", "seed"))
    models = [model for model in parts.model.values.tolist() if model != "persistence"]
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 0.25 * len(models) + 1.1), sharey=True)
    for ax, name, title in zip(axes, ("teacher_forced", "closed_loop"), PHASES, strict=True):
        for row, model in enumerate(models):
            _dots(ax, parts[name].sel(model=model).values, row, STYLE[choice("model", model, STYLE)], MEAN)
        if "persistence" in parts.model:
            value = float(parts[name].sel(model="persistence").mean())
            ax.axvline(value, color=BLACK, linestyle=STYLE["persistence"]["linestyle"])
        ax.set(title=title, xlabel=axis_label(parts[name], "RMSE").replace(f", {title}", ""))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(models)), [STYLE[model]["label"] for model in models])
    axes[0].set_ylim(len(models) - 0.4, -0.6)
    axes[0].plot([], [], "o", color="0.5", label="one seed")
    axes[0].plot([], [], **MEAN, label="mean over seeds")
    if "persistence" in parts.model:
        axes[0].plot([], [], **STYLE["persistence"])
    legend_above(fig, axes[0])
    return fig


def ablations(errors: xr.DataArray) -> Figure:
    """RMSE of every setting, model and seed (dots) with its mean (bar); the first setting's means go on as lines.

    Args:
        errors: over (setting, model, seed), such as ``closed_loop`` of ``evaluation.errors.summary``.
    """
    needs("errors", errors, (), ("setting", "model", "seed"))
    settings, models = errors.setting.values.tolist(), errors.model.values.tolist()
    fig, ax = plt.subplots(figsize=(PAGE, 0.17 * len(settings) * len(models) + 1.0))
    apart, mean = 0.5 / len(models), MEAN | {"markersize": 8}
    for number, model in enumerate(models):
        style = STYLE[choice("model", model, STYLE)]
        for row, setting in enumerate(settings):
            place = row + apart * (number - (len(models) - 1) / 2)
            _dots(ax, errors.sel(model=model, setting=setting).values, place, style, mean)
        first = float(errors.sel(model=model).isel(setting=0).mean())
        ax.axvline(first, color=style["color"], linestyle=style["linestyle"], linewidth=0.8)
        ax.plot([], [], style["marker"], color=style["color"], label=style["label"] + ", one seed")
    ax.plot([], [], **mean, label="mean over seeds")
    ax.set(xlabel=axis_label(errors, "RMSE"))
    ax.set_yticks(range(len(settings)), settings)
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    legend_above(fig, ax)
    return fig


def directions(losses: xr.DataArray, changes: xr.DataArray) -> Figure:
    """How fast settings learn, and into how many directions training moves the kernels.

    Args:
        losses: over (setting, seed, epoch); settings of :data:`SETTINGS`.
        changes: over (setting, seed, place), from ``probes.kernel_changes``.
    """
    needs("losses", losses, (), ("setting", "seed", "epoch"))
    needs("changes", changes, (), ("setting", "seed", "place"))
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    for ax, values, x in zip(axes, (losses, changes), ("epoch", "place"), strict=True):
        lines_by(ax, values, "setting", x, SETTINGS, extremes=True)
        ax.set(xlabel=axis_label(values[x], x), ylabel=axis_label(values, str(values.name)))
        log_axes(ax)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(fig, axes[0])
    return fig


def reach(influence: xr.DataArray, errors: xr.DataArray) -> Figure:
    """How far a change reaches in one step, of the flow and of the models; and the error by the reach of the kernels.

    Args:
        influence: over (setting, distance), from ``evaluation.errors.influence``; settings of :data:`SETTINGS`.
        errors: over (setting, model, seed), with a coordinate ``reach`` (cells) along setting.
    """
    needs("influence", influence, (), ("setting", "distance"))
    needs("errors", errors, (), ("setting", "model", "seed"))
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    lines_by(left, influence, "setting", "distance", SETTINGS)
    left.set(xlabel=axis_label(influence.distance, "distance"), ylabel=axis_label(influence, "response"))
    log_axes(left)
    errors = errors.sortby("reach")
    for model in errors.model.values.tolist():
        style = STYLE[choice("model", model, STYLE)]
        rows = errors.sel(model=model).transpose("seed", "setting").values
        right.plot(errors.reach.values, rows.mean(0), **style)
        right.plot(errors.reach.values, rows.T, style["marker"], color=style["color"], alpha=0.3)
    right.set(xlabel=axis_label(errors.reach, "reach"), ylabel=axis_label(errors, "RMSE"))
    left.legend()
    right.legend()
    return fig


def score_curves(
    scores: xr.Dataset,
    variables: Sequence[str] = ("rmse", "acc"),
    title: str = "",
    beside: Sequence[xr.Dataset] = (),
) -> Figure:
    """Scores by lead time: mean over seeds, a band of one standard deviation.

    Args:
        scores: ``variables`` over (model, seed, lead_time), baselines among the models; each has a panel. That of
            ``acc``, the anomaly correlation, has a line where forecasts cease to be useful. With ``rmse`` there is a
            further one, its ratio to that of damped persistence, if that is among the models; it ends above what is no
            baseline, or at 1.5.
        variables: names of variables.
        title: above everything.
        beside: scores in other figures, whose axes this one is to share.
    """
    for found in (scores, *beside):
        _named("scores", found, variables, "lead_time")
    if scores.lead_time.dtype.kind != "m":
        raise ValueError(f"lead_time must be timedelta64; got {scores.lead_time.dtype}")
    variables = list(variables)
    if "rmse" in variables and DAMPED in scores.model:
        variables.append(RATIO)
        scores, *beside = (found.assign({RATIO: _ratio(found)}) for found in (scores, *beside))
    days = scores.assign_coords(lead_time=scores.lead_time.values / np.timedelta64(1, "D"))
    fig, axes = plt.subplots(1, len(variables), figsize=(PAGE, 2.9), squeeze=False, sharex=True)
    for ax, name in zip(axes[0], variables, strict=True):
        lines_by(ax, days[name], "model", "lead_time", STYLE)
        ax.set(xlabel="lead time (days)", ylabel=axis_label(scores[name], name), xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        low, high = _ends([found[name] for found in (scores, *beside)])
        if name == "acc":
            ax.set_ylim(min(0, low) - 0.03, 1.02)
            ax.axhline(USEFUL, **GUIDE)
            note(ax, "useful →", (1, USEFUL), (2, 0), xycoords=ax.get_yaxis_transform(), rotation=90)
        elif name == RATIO:
            learned = [found[name].where(~found.model.isin(BASELINES)) for found in (scores, *beside)]
            ax.set_ylim(max(0, low - 0.05), min(max(1.1, _ends(learned)[1] + 0.05), 1.5))
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
            difference and the upper end; such as of ``evaluation.compare.paired_difference``.
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
                ax.plot(data.lat, points, marker, color=colour, markersize=3, markeredgewidth=0)
            shape = {"marker": marker} if others else {}
            ax.plot([], [], color=colour, markersize=3, markeredgewidth=0, label=season, **shape)
        ax.set(xlabel="latitude", ylabel=axis_label(data[name], name))
        _latitudes(ax, data.lat.values, 30)
    axes[1].set_ylim(0, None)
    if len(rows) == 2:
        axes[0].plot([], [], color="0.4", label=f"{words(rows[0])} (line)")
        axes[0].plot([], [], "o", color="0.4", markersize=3, label=f"{words(rows[1])} (markers)")
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


def _dots(ax: Axes, values: np.ndarray, row: float, style: Mapping[str, Any], mean: Mapping[str, Any]) -> None:
    """A dot for every seed in its row, and a bar at their mean; in its place how many are not finite, if any."""
    fine = values[np.isfinite(values)]
    ax.plot(fine, [row] * len(fine), style["marker"], color=style["color"], alpha=0.7)
    if len(fine) == len(values):
        ax.plot(values.mean(), row, **mean)
    else:
        lost = f"not finite: {len(values) - len(fine)} of {len(values)}"
        ax.text(0.02, row, lost, transform=ax.get_yaxis_transform(), va="center", fontsize=8)


def _mark_closed_loop(ax: Axes, start: float) -> None:
    """A vertical line where teacher forcing ends, with both sides named."""
    ax.axvline(start, color="0.4", linewidth=0.8)
    for text, offset, side in zip(PHASES, (-4, 4), ("right", "left"), strict=True):
        note(ax, text, (start, 1), (offset, 2), xycoords=("data", "axes fraction"), ha=side)


def _latitudes(ax: Axes, lat: np.ndarray, step: int) -> None:
    """Ticks as 60°S along the whole meridian, or the part of it that there is."""
    ends, inner = lat[[0, -1]], lat[[1, -2]]
    ax.set_xlim((ends + (ends - inner) / 2).clip(-90, 90))
    ax.xaxis.set_major_locator(MultipleLocator(step))
    ax.xaxis.set_major_formatter(lambda at, _: f"{abs(at):g}°{'S' if at < 0 else 'N' if at else ''}")
