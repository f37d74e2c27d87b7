"""The bottom of the sea: found depths, their errors and deviations."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from minconv.plots.axes import axis_label, clipped, largest, legend_above, letters, lines_by, log_axes
from minconv.plots.style import PAGE, STENCILS
from minconv.runtime.checks import needs, positive


def depth_maps(depth: xr.DataArray, limit: float | None = None) -> Figure:
    """The true depth and what was found, with the errors below in one scale of their own.

    Args:
        depth: over (row, y, x), the first row the truth; rows are names of :data:`STENCILS` or any words.
        limit: of the errors' colours; None is the largest error.
    """
    depth = _panels(depth, "row", least=2)
    truth, found = depth.values[0], depth.values[1:]
    errors = found - truth
    limit = largest(errors) if limit is None else positive("limit", limit)
    fig, axes = plt.subplots(2, len(depth), figsize=(PAGE, 0.4 + 2 * (PAGE - 0.8) / len(depth)), squeeze=False)
    scale = {"cmap": "viridis_r", "vmin": truth.min(), "vmax": truth.max()}
    for ax, name, field in zip(axes[0], depth.row.values.tolist(), depth.values, strict=True):
        image = _map(ax, depth, field, **scale)
        ax.set_title(STENCILS.get(name, {"label": name})["label"])
    fig.colorbar(image, ax=axes[0], label=axis_label(depth, "depth"), extend=clipped(depth.values, *image.get_clim()))
    axes[1, 0].set_axis_off()
    for ax, field in zip(axes[1, 1:], errors, strict=True):
        image = _map(ax, depth, field, cmap="RdBu_r", vmin=-limit, vmax=limit)
    label = axis_label(depth.assign_attrs(long_name="error"), "error")
    fig.colorbar(image, ax=axes[1], label=label, extend=clipped(errors, -limit, limit))
    _name_axes(axes[1, 1:], axes[0, 0], depth)
    return fig


def place_maps(fields: xr.DataArray, limit: float | None = None) -> Figure:
    """Fields over places, none of them negative, side by side in one colour scale that starts at 0.

    Args:
        fields: over (panel, y, x); panels are words.
        limit: of the colours; None is the largest value.
    """
    fields = _panels(fields, "panel", least=1)
    fig, axes = plt.subplots(1, len(fields), figsize=(PAGE, 0.7 + (PAGE - 0.9) / max(len(fields), 2)), squeeze=False)
    limit = largest(fields.values) if limit is None else positive("limit", limit)
    for ax, name, field in zip(axes[0], fields.panel.values.tolist(), fields.values, strict=True):
        image = _map(ax, fields, field, cmap="magma_r", vmin=0, vmax=limit)
        ax.set_title(name)
    fig.colorbar(image, ax=axes[0], label=axis_label(fields, "deviation"), extend=clipped(fields.values, 0, limit))
    _name_axes(axes[0], axes[0, 0], fields)
    return fig


def inversion_errors(panels: Mapping[str, xr.DataArray]) -> Figure:
    """Errors of found depths against what was varied, a panel for each, on logarithmic axes.

    Args:
        panels: by the words below the axis, over (stencil, x) with any name for x; stencils are those of
            :data:`STENCILS`. Where x is 0 it is drawn left of all others.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.6), sharey=True, squeeze=False)
    for ax, (words, values) in zip(axes[0], panels.items(), strict=True):
        along = next((str(dim) for dim in getattr(values, "dims", ()) if dim != "stencil"), "x")
        needs("panels", values, (), ("stencil", along))
        places = values[along].values.astype(float)
        ticks = [f"{place:g}" for place in places]
        if (places == 0).any():  # a logarithmic axis has none
            places = np.where(places == 0, places[places > 0].min() / 3, places)
        lines_by(ax, values.assign_coords({along: places}), "stencil", along, STENCILS)
        ax.set(xscale="log", xlabel=words)
        ax.set_xticks(places, ticks)
        ax.set_xticks([], minor=True)
    log_axes(axes[0, 0])
    axes[0, 0].set_ylabel(axis_label(next(iter(panels.values())).assign_attrs(long_name="RMSE"), "RMSE"))
    letters(axes[0])
    legend_above(fig, axes[0, 0])
    return fig


def _panels(fields: xr.DataArray, row: str, least: int) -> xr.DataArray:
    needs("fields", fields, (), (row, "y", "x"))
    if fields.sizes[row] < least:
        raise ValueError(f"fields must have at least {least} of {row}; got {fields.sizes[row]}")
    return fields.transpose(row, "y", "x")


def _map(ax: Axes, fields: xr.DataArray, field: np.ndarray, **colours: Any) -> AxesImage:
    x, y = (fields[axis].values for axis in ("x", "y"))
    half = (x[1] - x[0]) / 2
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    extent = (x[0] - half, x[-1] + half, y[0] - half, y[-1] + half)
    return ax.imshow(field, extent=extent, interpolation="nearest", **colours)


def _name_axes(below: np.ndarray, left: Axes, fields: xr.DataArray) -> None:
    """Ticks at the domain's centre and edges."""
    low, high = below[0].get_xlim()
    for ax in below:
        ax.set_xticks([low, (low + high) / 2, high])
        ax.set_xlabel(axis_label(fields.x, "x"))
    low, high = left.get_ylim()
    left.set_yticks([low, (low + high) / 2, high])
    left.set_ylabel(axis_label(fields.y, "y"))
