"""What activations, and the gradients that stand in for theirs, make of a network."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minconv.plots.axes import axis_label, legend_above, letters, lines_by, log_axes
from minconv.plots.style import ACTIVATIONS, MEAN, PAGE
from minconv.runtime.checks import choice, needs


def activation_curves(panels: Mapping[str, xr.DataArray], log: bool = False) -> Figure:
    """Lines by activation, a panel for each quantity or optimiser.

    Args:
        panels: by title, over (activation, x) with any name for x, and over seeds where there are several: their mean
            and, as a band, extremes; activations are those of :data:`ACTIVATIONS`.
        log: logarithmic axes, with ticks where x is, and one scale of y for all.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(PAGE, 3.1), squeeze=False, sharey=log)
    for ax, (title, values) in zip(axes[0], panels.items(), strict=True):
        along = next((str(dim) for dim in getattr(values, "dims", ()) if dim not in ("activation", "seed")), "x")
        seeds = ("seed",) if "seed" in getattr(values, "dims", ()) else ()
        needs("panels", values, (), ("activation", *seeds, along))
        lines_by(ax, values, "activation", along, ACTIVATIONS, extremes=True)
        ax.set(title=title, xlabel=axis_label(values[along], along), ylabel=axis_label(values, "error"))
        if log:
            log_axes(ax, "xy")
            ax.set_xticks(values[along].values, [f"{place:g}" for place in values[along].values])
            ax.set_xticks([], minor=True)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_ylim(min(0, ax.get_ylim()[0]), None)
    if len(panels) > 1:
        letters(axes[0])
    legend_above(fig, axes[0, 0])
    return fig


def activation_dots(panels: Mapping[str, xr.DataArray]) -> Figure:
    """Every activation and seed (dots) with its mean (bar), a panel for each quantity or optimiser.

    Args:
        panels: by title, over (activation, seed), the same activations in all; they are those of :data:`ACTIVATIONS`.
    """
    first = next(iter(panels.values()))
    names = first.activation.values.tolist()
    fig, axes = plt.subplots(1, len(panels), figsize=(PAGE, 0.22 * len(names) + 1.1), squeeze=False, sharey=True)
    for ax, (title, values) in zip(axes[0], panels.items(), strict=True):
        needs("panels", values, (), ("activation", "seed"))
        for row, name in enumerate(names):
            style, found = ACTIVATIONS[choice("activation", name, ACTIVATIONS)], values.sel(activation=name).values
            ax.plot(found, [row] * len(found), style["marker"], color=style["color"], alpha=0.7)
            ax.plot(found.mean(), row, **MEAN)
        ax.set(title=title, xlabel=axis_label(values, "error"))
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(names)), [ACTIVATIONS[name]["label"] for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    axes[0, 0].plot([], [], "o", color="0.5", label="one seed")
    axes[0, 0].plot([], [], **MEAN, label="mean over seeds")
    letters(axes[0])
    legend_above(fig, axes[0, 0])
    return fig
