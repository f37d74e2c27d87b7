"""Settings of a training beside each other: losses, errors by time, errors of every seed, what explains them.

Errors are RMSE × 100, as in the tables.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from minconv.evaluation.errors import PARTS
from minconv.plots.axes import axis_label, legend_above, letters, lines_by, log_axes, note, words
from minconv.plots.style import GUIDE, MEAN, PAGE, SEEN, SETTINGS, STYLE
from minconv.runtime.checks import choice, needs

LINEAR = ("correlation", "variance_ratio", "mean")  # variables on linear axes; errors are on logarithmic ones
TITLES = dict(zip(PARTS, ("teacher-forced", "closed loop"), strict=True))


def losses_by_epoch(losses: xr.Dataset) -> Figure:
    """Training and validation loss by epoch, a column for each setting: mean over seeds, band from least to greatest.

    Args:
        losses: ``train_loss`` and ``validation_loss`` over (setting, model, seed, epoch), of ``report.losses``.
    """
    parts = {"train_loss": "training loss", "validation_loss": "validation loss"}
    needs("losses", losses, [*parts], ("setting", "model", "seed", "epoch"))
    fig, axes = _grid(losses, rows=2)
    for row, (name, label) in zip(axes, parts.items(), strict=True):
        for ax, setting in zip(row, losses.setting.values.tolist(), strict=True):
            lines_by(ax, losses[name].sel(setting=setting), "model", "epoch", STYLE, extremes=True)
        row[0].set_ylabel(label)
    for ax in axes.flat:
        log_axes(ax)
        _stagger(ax)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend_above(fig, axes[0, 0])
    return fig


def loss_by_time(losses: xr.Dataset, reference: str = "convlstm") -> Figure:
    """Validation loss by the time of training, a panel for each setting, and where ``reference`` ends as a line.

    Args:
        losses: ``validation_loss`` over (setting, model, seed, epoch), of ``report.losses``, and ``seconds`` of an
            epoch over (setting, model).
        reference: one of the models.
    """
    needs("losses", losses, ("validation_loss",), ("setting", "model", "seed", "epoch"))
    needs("losses", losses, ("seconds",), ("setting", "model"))
    choice("reference", reference, losses.model.values.tolist())
    fig, axes = _grid(losses, rows=1)
    for ax, setting in zip(axes[0], losses.setting.values.tolist(), strict=True):
        found = losses.sel(setting=setting)
        for model in losses.model.values.tolist():
            minutes = found.epoch * float(found.seconds.sel(model=model)) / 60
            curve = found.validation_loss.sel(model=[model]).assign_coords(epoch=minutes.values)
            lines_by(ax, curve, "model", "epoch", STYLE, extremes=True)
        end = float(found.validation_loss.sel(model=reference).isel(epoch=-1).mean())
        ax.axhline(end, **GUIDE | {"color": STYLE[reference]["color"]})
        ax.set_xlabel("minutes of training")
    for ax in axes.flat:
        log_axes(ax)
        _stagger(ax)
    ax.set_xlim(0, None)
    axes[0, 0].set_ylabel("validation loss")
    legend_above(fig, axes[0, 0])
    return fig


def error_curves(dataset: xr.Dataset, variables: Sequence[str] = ("rmse",)) -> Figure:
    """Errors by predicted time: mean over seeds, a band from the least to the greatest; true frames are shaded.

    Args:
        dataset: from :func:`minconv.evaluation.compare.collect`; each ``setting``, where it has that dimension, has a
            column, with axes in common.
        variables: one panel, or row of panels, for each; those of ``rmse`` times 100.
    """
    if not variables:
        raise ValueError("variables must name at least one variable of dataset; got none")
    needs("dataset", dataset, variables, ("model", "seed", "time"))
    if "setting" in dataset.dims:
        fig, axes = _grid(dataset, len(variables), "row")
        rows = [[dataset.sel(setting=setting) for setting in dataset.setting.values] for _ in variables]
    else:
        fig, axes = plt.subplots(1, len(variables), figsize=(PAGE, 2.8), squeeze=False, sharex=True)
        axes, rows = axes.T, [[dataset] for _ in variables]
        letters(axes.flat if len(variables) > 1 else ())
    for name, line, row in zip(variables, axes, rows, strict=True):
        for ax, data in zip(line, row, strict=True):
            values = _hundredfold(data[name]) if name == "rmse" else data[name]
            ax.axvspan(0, dataset.attrs["context"] + 0.5, **SEEN, label="teacher-forced")
            lines_by(ax, values, "model", "time", STYLE, extremes=True)
            _stagger(ax)
            ax.set_xlabel(axis_label(dataset.time, "time") if ax.get_subplotspec().is_last_row() else "")
            ax.set_xlim(0, None)
        line[0].set_ylabel(axis_label(values, name))
        if name not in LINEAR:
            for ax in line:
                log_axes(ax)
    legend_above(fig, axes.flat[0])
    return fig


def rmse_dots(parts: xr.Dataset, base: str = "") -> Figure:
    """RMSE of every setting, model and seed (markers) with its mean (bar), in a row for each setting.

    Args:
        parts: ``teacher_forced`` and ``closed_loop`` over (setting, model, seed), of ``evaluation.errors.summary``;
            persistence, if it is among the models, is a line.
        base: a setting whose means go on as lines; the others follow it by their mean in closed loop.
    """
    needs("parts", parts, PARTS, ("setting", "model", "seed"))
    if base:
        choice("base", base, parts.setting.values.tolist())
        order = parts.closed_loop.mean(("model", "seed")).where(parts.setting != base, 0)
        parts = parts.sortby(order)
    settings = parts.setting.values.tolist()
    models = [model for model in parts.model.values.tolist() if model != "persistence"]
    size = (PAGE, 0.17 * len(settings) * len(models) + 1.1)
    fig, axes = plt.subplots(1, 2, figsize=size, sharex=True, sharey=True)
    apart, mean = 0.7 / len(models), MEAN | {"markersize": 8}
    for ax, name in zip(axes, PARTS, strict=True):
        values = _hundredfold(parts[name])
        for number, model in enumerate(models):
            style = STYLE[choice("model", model, STYLE)]
            for row, setting in enumerate(settings):
                place = row + apart * (number - (len(models) - 1) / 2)
                _dots(ax, values.sel(model=model, setting=setting).values, place, 0.2 * apart, style, mean)
            if base:
                first = float(values.sel(model=model, setting=base).mean())
                ax.axvline(first, color=style["color"], linestyle=style["linestyle"], linewidth=0.8)
        if "persistence" in parts.model:
            first = float(values.sel(model="persistence").isel(setting=0).mean())
            ax.axvline(first, **STYLE["persistence"])
        ax.set(title=TITLES[name], xlabel=axis_label(values, "RMSE × 100"))
        ax.grid(axis="y", visible=False)
    for model in models:
        line = {} if base else {"linestyle": ""}
        axes[0].plot([], [], **STYLE[model] | line)
    axes[0].plot([], [], **mean, label="mean over seeds")
    axes[0].set_yticks(range(len(settings)), settings)
    axes[0].set_ylim(len(settings) - 0.5, -0.5)
    for ax in axes:
        log_axes(ax, "x")
    letters(axes)
    legend_above(fig, axes[0])
    return fig


def scaling(errors: Sequence[xr.DataArray]) -> Figure:
    """RMSE by how much a model has learned from, a column for each setting: mean over seeds, band of the extremes.

    Args:
        errors: for each row of panels, over (setting, model, seed) and what is on the horizontal axis; NaN where no
            such model was trained.
    """
    over = "setting", "model", "seed"
    along = [next((str(dim) for dim in values.dims if dim not in over), "size") for values in errors]
    for values, x in zip(errors, along, strict=True):
        needs("errors", values, (), (*over, x))
    settings = errors[0].setting.values.tolist()
    size, share = (PAGE, 2.1 * len(errors) + 0.5), {"sharex": "row", "sharey": True}
    fig, axes = plt.subplots(len(errors), len(settings), figsize=size, squeeze=False, **share)
    for row, values, x in zip(axes, errors, along, strict=True):
        for ax, setting in zip(row, settings, strict=True):
            for model in values.model.values:
                trained = _hundredfold(values).sel(setting=setting, model=[model]).dropna(x, how="all")
                if trained.size:
                    lines_by(ax, trained, "model", x, STYLE, extremes=True)
            ax.set_xlabel(axis_label(values[x], x))
            log_axes(ax)
            ax.set_xscale("log")
            ax.set_xticks(values[x].values, [f"{number:,}" for number in values[x].values], minor=False)
            ax.xaxis.set_minor_locator(NullLocator())
        row[0].set_ylabel("RMSE × 100")
    for ax, setting in zip(axes[0], settings, strict=True):
        ax.set_title(setting)
    letters(axes.flat)
    legend_above(fig, axes[0, 0])
    return fig


def directions(losses: xr.DataArray, changes: xr.DataArray) -> Figure:
    """How fast settings learn, and into how many directions training moves the kernels.

    Args:
        losses: over (setting, seed, epoch); settings of :data:`SETTINGS`.
        changes: over (setting, seed, rank), from ``probes.kernel_changes``.
    """
    needs("losses", losses, (), ("setting", "seed", "epoch"))
    needs("changes", changes, (), ("setting", "seed", "rank"))
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    for ax, values, x in zip(axes, (losses, changes), ("epoch", "rank"), strict=True):
        lines_by(ax, values, "setting", x, SETTINGS, extremes=True)
        ax.set(xlabel=axis_label(values[x], x), ylabel=axis_label(values, str(values.name)))
        log_axes(ax)
    axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    letters(axes)
    legend_above(fig, axes[0])
    return fig


def reach(influence: xr.DataArray, errors: xr.DataArray) -> Figure:
    """How far a change reaches in one step, of the flow and of the models; and the error by the reach of the kernels.

    Args:
        influence: over (setting, distance), as of ``experiments.probes.influence``; settings of :data:`SETTINGS`.
        errors: over (setting, model, seed), with a coordinate ``reach`` (cells) along setting; each setting is named.
    """
    needs("influence", influence, (), ("setting", "distance"))
    needs("errors", errors, (), ("setting", "model", "seed"))
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 3.1))
    lines_by(left, influence, "setting", "distance", SETTINGS)
    left.set(xlabel=axis_label(influence.distance, "distance"), ylabel=axis_label(influence, "response"))
    log_axes(left)
    errors, models = _hundredfold(errors.sortby("reach")), errors.model.values.tolist()
    for number, model in enumerate(models):
        style = STYLE[choice("model", model, STYLE)] | {"linestyle": ""}
        rows = errors.sel(model=model).transpose("seed", "setting").values
        places = errors.reach.values + 0.3 * (number - (len(models) - 1) / 2)
        right.plot(places, rows.T, style["marker"], color=style["color"], alpha=0.3, markeredgewidth=0)
        right.plot(places, rows.mean(0), **style)
    right.set(xlabel=axis_label(errors.reach, "reach"), ylabel=axis_label(errors, "RMSE × 100"), ylim=(0, None))
    middle = sum(right.get_ylim()) / 2
    for setting in errors.setting.values.tolist():
        found = errors.sel(setting=setting)
        high = float(found.mean()) > middle
        edge = float(found.min() if high else found.max())
        side = {"rotation": 90, "ha": "center", "va": "top" if high else "bottom"}
        note(right, words(setting), (float(found.reach), edge), (0, -8 if high else 8), **side)
    left.legend(loc="upper right")
    right.legend(loc="upper right")
    letters((left, right))
    return fig


def _grid(dataset: xr.Dataset, rows: int, share: str = "all") -> tuple[Figure, np.ndarray]:
    """Panels [rows, setting] with axes in common, the settings' names above them."""
    settings = dataset.setting.values.tolist()
    size, share = (PAGE, 1.9 * rows + 0.8), {"sharex": True, "sharey": share}
    fig, axes = plt.subplots(rows, len(settings), figsize=size, squeeze=False, **share)
    for ax, setting in zip(axes[0], settings, strict=True):
        ax.set_title(setting)
    letters(axes.flat)
    return fig, axes


def _hundredfold(rmse: xr.DataArray) -> xr.DataArray:
    return (100 * rmse).assign_attrs(rmse.attrs, long_name="RMSE × 100")


def _stagger(ax: Axes) -> None:
    """Five markers a line, not all at the same places."""
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    for number, line in enumerate(lines):
        step = max(1, len(line.get_xdata()) // 5)
        line.set_markevery((number * step // len(lines), step))


def _dots(
    ax: Axes, values: np.ndarray, row: float, apart: float, style: Mapping[str, Any], mean: Mapping[str, Any]
) -> None:
    """A marker for every seed in its row, a bit apart, and a bar at their mean; or how many are not finite."""
    places = row + apart * (np.arange(len(values)) - (len(values) - 1) / 2)
    fine = np.isfinite(values)
    ax.plot(values[fine], places[fine], style["marker"], color=style["color"], alpha=0.7, markeredgewidth=0)
    if fine.all():
        ax.plot(values.mean(), row, **mean)
    else:
        lost = f"not finite: {(~fine).sum()} of {len(values)}"
        ax.text(0.02, row, lost, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
