"""Trajectories and forecasts of the flow: frames, spectra, statistics; and what solving them costs."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from minconv.evaluation.errors import PHASES
from minconv.plots.axes import (
    axis_label,
    clipped,
    largest,
    legend_above,
    letters,
    lines_by,
    log_axes,
    note,
    words,
)
from minconv.plots.style import COLUMN, GUIDE, PAGE, SCHEMES, STYLE
from minconv.runtime.checks import needs, whole

LETTER = 0.085  # inches of a colour bar's label


def frames_strip(
    fields: xr.DataArray,
    context: int | None = None,
    errors: bool = False,
    label: str = "vorticity (1 / unit time)",
    greys: tuple[float, float] | None = None,
) -> Figure:
    """Rows of frames by time in one symmetric colour scale, or in greys.

    Args:
        fields: over (row, time, y, x) or (time, y, x), with coordinates ``time`` and ``row`` (names of
            :data:`STYLE` or any words).
        context: number of teacher-forced frames; marks the columns after it, made in the closed loop.
        errors: draw every row but the first as its absolute error, with a second colour scale, and write the frame's
            RMSE × 100 into its corner.
        label: what the colours mean, with units.
        greys: what is drawn black, and white, of pictures.
    """
    fields = film_rows(fields)
    rows, times, pictures = fields.row.values.tolist(), fields.time.values, fields.values.copy()
    if context is not None:
        whole("context", context, least=1)
    if errors and len(rows) < 2:
        raise ValueError(f"fields must have at least 2 rows to show errors; got {len(rows)}")
    if errors:
        pictures[1:] = np.abs(pictures[1:] - pictures[0])
    side = (PAGE - 0.8 - 1.25 * any(rows)) / len(times)  # beside them the bar and the names
    height = min(side * fields.sizes["y"] / fields.sizes["x"], 1.4)
    size = (PAGE, (height + 0.04) * len(rows) + (0.3 if context is None else 0.5))
    fig, axes = plt.subplots(len(rows), len(times), figsize=size, squeeze=False)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for name, ax in zip(rows, axes[:, 0], strict=True):
        ax.set_ylabel(words(name), rotation=0, ha="right", va="center")
    for time, ax in zip(times, axes[0], strict=True):
        ax.set_title(f"t = {time:g}")
    bound, together = largest(pictures[:1]), 1 if errors else len(rows)
    cmap, (low, high) = ("gray", greys) if greys else ("RdBu_r", (-bound, bound))
    first = label.partition(" (")[0] if errors else label  # the units stand at the other scale, which is as high
    _show(fig, axes[:together], pictures[:together], first, cmap=cmap, vmin=low, vmax=high)
    if errors:
        worst = largest(pictures[1:])
        label = f"absolute error of {label}"
        _show(fig, axes[1:], pictures[1:], label, cmap="magma_r", vmin=0, vmax=worst)
        for ax, value in zip(axes[1:].flat, np.sqrt(np.square(pictures[1:]).mean((-2, -1))).flat, strict=True):
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
            place = {"transform": ax.transAxes, "ha": "right", "va": "bottom", "fontsize": 6.5, "bbox": box}
            ax.text(0.97, 0.04, f"{100 * value:.1f}", **place)
    if context is not None:
        _mark_columns(axes, times > context)
    return fig


def spectrum(spectra: xr.DataArray, label: str = "enstrophy (1 / unit time)²") -> Figure:
    """Spectra at several times.

    Args:
        spectra: over (time, k), with coordinate ``time``; k is the wavenumber in cycles per domain.
        label: the quantity in a bin of wavenumbers, with units.
    """
    needs("spectra", spectra, (), ("time", "k"))
    fig, ax = plt.subplots(figsize=(COLUMN, 2.6))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.8, spectra.sizes["time"]))
    for index, (time, shade) in enumerate(zip(spectra.time.values, shades, strict=True)):
        row = spectra.sel(time=time, k=slice(1, None))  # the mean has no place on a logarithmic axis
        ax.plot(row.k, row, color=shade, marker="os^Dv"[index % 5], label=f"t = {time:g}")
    _wavenumbers(ax, spectra)
    ax.set_ylabel(label)
    ax.legend()
    return fig


def model_spectra(dataset: xr.Dataset, time: int, least: float = 1e-6) -> Figure:
    """Spectrum of every model's predictions at one time, beside the truth's, and the ratio of the two.

    Lines are means over seeds, bands reach from the least to the greatest.

    Args:
        dataset: from :func:`minconv.evaluation.compare.collect`.
        time: of the predicted frame.
        least: where the axis ends; a ratio is drawn where the truth has more.
    """
    needs("dataset", dataset, ("spectrum",), ("model", "seed", "time", "k"))
    needs("dataset", dataset, ("spectrum_truth",), ("time", "k"))
    if time not in dataset.time:
        raise ValueError(f"time must be one of {dataset.time.values.tolist()}; got {time!r}")
    found = dataset[["spectrum", "spectrum_truth"]].sel(time=time, k=slice(1, None))
    truth = found.spectrum_truth
    ratio = (found.spectrum / truth).sel(k=truth.k[truth > least])
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 3.1), sharex=True)
    lines_by(axes[0], found.spectrum, "model", "k", STYLE, extremes=True)  # over decades a deviation reaches below 0
    lines_by(axes[0], truth.expand_dims(model=["truth"]), "model", "k", STYLE)
    lines_by(axes[1], ratio, "model", "k", STYLE, extremes=True)
    axes[1].axhline(1, **STYLE["truth"])
    for ax in axes:
        _wavenumbers(ax, found.spectrum)
    axes[0].set_ylim(least, None)
    axes[0].set_ylabel(axis_label(dataset.spectrum, "enstrophy"))
    axes[1].set_ylabel("prediction / truth")
    letters(axes)
    legend_above(fig, axes[0], f"t = {time:g} frames")
    return fig


def flow_statistics(data: xr.Dataset) -> Figure:
    """How a set of trajectories spins up, and how long its frames resemble each other; medians and quartiles.

    Args:
        data: ``deviation`` over (sample, time), each field's standard deviation, and ``correlation`` over (sample,
            lag), of frames that far apart.
    """
    needs("data", data, ("deviation",), ("sample", "time"))
    needs("data", data, ("correlation",), ("sample", "lag"))
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8))
    for ax, x, values in zip(axes, ("time", "lag"), (data.deviation, data.correlation), strict=True):
        row = values.rename(sample="repeat").expand_dims(model=["truth"])
        lines_by(ax, row, "model", x, STYLE)
        ax.set(xlabel=axis_label(data[x], x), ylabel=axis_label(values, values.name), xlim=(0, None), ylim=(0, None))
    letters(axes)
    return fig


def solver_convergence(schemes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Error of time stepping schemes by step, with the slopes they should have, and by cost.

    Args:
        schemes: by label, each with ``step`` (unit times), ``error`` (relative L2), ``seconds`` (per sample and
            unit time) as sequences of one length, its ``order``, and ``default``, the step that is ringed; at most
            three.
    """
    for label, scheme in schemes.items():
        lengths = {len(scheme.get(key, ())) for key in ("step", "error", "seconds")}
        if len(lengths) > 1 or 0 in lengths or not {"order", "default"} <= scheme.keys():
            raise ValueError(f"schemes[{label!r}] must hold step, error, seconds of one length, order and default")
    if not 1 <= len(schemes) <= len(SCHEMES):
        raise ValueError(f"schemes must hold 1 to {len(SCHEMES)} schemes; got {len(schemes)}")
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
    ring = {"marker": "o", "linestyle": "", "markersize": 10, "markerfacecolor": "none", "color": "k"}
    for (label, scheme), style in zip(schemes.items(), SCHEMES, strict=False):
        step, error, seconds = (np.asarray(scheme[key], float) for key in ("step", "error", "seconds"))
        for ax, x in zip(axes, (step, 1e3 * seconds), strict=True):
            ax.plot(x, error, **style | {"label": label})
            ax.plot(x[step == scheme["default"]], error[step == scheme["default"]], **ring)
        ends = np.array([step.min(), step.max()])
        slope = 8 * error[step.argmax()] * (ends / ends[1]) ** scheme["order"]  # beside the line, not below it
        axes[0].plot(ends, slope, **GUIDE | {"linestyle": (0, (4, 3))})
        middle = np.sqrt(ends.prod()), np.sqrt(slope.prod())
        note(axes[0], f"order {scheme['order']}", middle, (-2, 4), ha="right")
    axes[0].plot([], [], **ring, label="default step")
    axes[0].set(xlabel="time step (unit times)", ylabel="relative $L_2$ error")
    axes[1].set(xlabel="cost (ms per sample and unit time)")
    for ax in axes:
        log_axes(ax, "yx")
    letters(axes)
    legend_above(fig, axes[0])
    return fig


def film_rows(fields: xr.DataArray) -> xr.DataArray:
    """``fields`` over (row, time, y, x), with one nameless row where it had none."""
    if isinstance(fields, xr.DataArray) and "row" not in fields.dims:
        fields = fields.expand_dims(row=[""])
    needs("fields", fields, (), ("row", "time", "y", "x"))
    return fields.transpose("row", "time", "y", "x")


def _show(fig: Figure, axes: np.ndarray, pictures: np.ndarray, label: str, **colours: Any) -> None:
    """Draws ``pictures`` [row, time, y, x] on ``axes`` [row, time] in one colour scale, with its bar."""
    for ax, frame in zip(axes.flat, pictures.reshape(-1, *pictures.shape[2:]), strict=True):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="0.4")
        image = ax.imshow(frame, interpolation="nearest", **colours)
        if not np.isfinite(frame).all():
            ax.text(0.5, 0.5, "not\nfinite", transform=ax.transAxes, ha="center", va="center", fontsize=7)
    room = len(axes) * fig.get_figheight() / axes[0, 0].get_gridspec().nrows  # a longer label would meet the next one
    if len(label) * LETTER > room:
        parts = label.replace(" (", "\n(").split("\n")
        label = "\n".join(textwrap.fill(part, max(8, round(room / LETTER))) for part in parts)
    arrows = clipped(pictures, *image.get_clim())
    fig.colorbar(image, ax=axes, label=label, extend=arrows, aspect=12 * len(axes), pad=0.01, fraction=0.05)


def _mark_columns(axes: np.ndarray, closed: np.ndarray) -> None:
    """Names the two parts above the first row and draws a line between their columns."""
    for text, columns in zip(PHASES, (~closed, closed), strict=True):
        if columns.any():
            axes[0, columns.argmax()].set_title(f"{text}\n", loc="left", color="0.35", fontsize=8)
    if closed.any() and not closed.all():
        for ax in axes[:, closed.argmax()]:
            ax.plot([-0.03, -0.03], [-0.05, 1.05], "k", transform=ax.transAxes, clip_on=False, in_layout=False)


def _wavenumbers(ax: Axes, spectra: xr.DataArray) -> None:
    ax.set(xscale="log", yscale="log", xlabel="wavenumber (cycles per domain)")
    ticks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= spectra.k.max()]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
