"""Trajectories and forecasts of the flow: frames, films, spectra, statistics."""

import io
import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from minconv.evaluation.errors import PHASES
from minconv.plots.axes import axis_label, clipped, largest, legend_above, lines_by, words
from minconv.plots.style import COLUMN, PAGE, SCHEMES, STYLE
from minconv.runtime.checks import needs, positive, whole

LETTER = 0.085  # inches of a colour bar's label


def frames_strip(
    fields: xr.DataArray, context: int | None = None, errors: bool = False, label: str = "vorticity (1 / unit time)"
) -> Figure:
    """Rows of frames by time in one symmetric colour scale.

    Args:
        fields: over (row, time, y, x) or (time, y, x), with coordinates ``time`` and ``row`` (names of
            :data:`STYLE` or any words).
        context: number of teacher-forced frames; marks the columns after it, made in the closed loop.
        errors: draw every row but the first as its absolute error, with a second colour scale.
        label: what the colours mean, with units.
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
    _show(fig, axes[:together], pictures[:together], label, cmap="RdBu_r", vmin=-bound, vmax=bound)
    if errors:
        label, worst = f"absolute error of {label}", largest(pictures[1:])
        _show(fig, axes[1:], pictures[1:], label, cmap="magma_r", vmin=0, vmax=worst)
    if context is not None:
        _mark_columns(axes, times > context)
    return fig


def animation(fields: xr.DataArray, scale: int = 4, milliseconds: int = 120) -> bytes:
    """A GIF of the rows side by side in one symmetric colour scale, for ``IPython.display.Image``.

    Args:
        fields: over (row, time, y, x) or (time, y, x).
        scale: pixels on the screen for one of the grid.
        milliseconds: duration of a frame.
    """
    fields, scale = film_rows(fields), whole("scale", scale, least=1)
    limit = largest(fields.values)
    levels = np.nan_to_num((fields.values / limit + 1) / 2, nan=0.5).clip(0, 1)
    pixels = np.flip((levels * 63).round().astype(np.uint8), 2).repeat(scale, 2).repeat(scale, 3)
    gap = np.full((*pixels.shape[1:3], scale), 64, np.uint8)
    wide = [part for row in pixels for part in (gap, row)][1:]
    colours = np.vstack([plt.get_cmap("RdBu_r")(np.linspace(0, 1, 64)), (0.3, 0.3, 0.3, 1)])  # few: a small file
    palette = (colours[:, :3] * 255).round().astype(np.uint8).tobytes()
    pictures = [Image.fromarray(frame) for frame in np.concatenate(wide, -1)]
    for picture in pictures:
        picture.putpalette(palette)
    file = io.BytesIO()
    duration = int(positive("milliseconds", milliseconds))
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    return file.getvalue()


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


def model_spectra(dataset: xr.Dataset, time: int) -> Figure:
    """Spectrum of every model's predictions at one time, beside the truth's, and the ratio of the two.

    Lines are means over seeds, bands reach from the least to the greatest.

    Args:
        dataset: from :func:`minconv.evaluation.errors.collect`.
        time: of the predicted frame.
    """
    needs("dataset", dataset, ("spectrum",), ("model", "seed", "time", "k"))
    needs("dataset", dataset, ("spectrum_truth",), ("time", "k"))
    if time not in dataset.time:
        raise ValueError(f"time must be one of {dataset.time.values.tolist()}; got {time!r}")
    found = dataset[["spectrum", "spectrum_truth"]].sel(time=time, k=slice(1, None))
    truth = found.spectrum_truth
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    lines_by(axes[0], found.spectrum, "model", "k", STYLE, extremes=True)  # over decades a deviation reaches below 0
    lines_by(axes[0], truth.expand_dims(model=["truth"]), "model", "k", STYLE)
    lines_by(axes[1], found.spectrum / truth, "model", "k", STYLE, extremes=True)
    axes[1].axhline(1, **STYLE["truth"])
    for ax in axes:
        _wavenumbers(ax, found.spectrum)
    axes[0].set_ylabel(axis_label(dataset.spectrum, "enstrophy"))
    axes[1].set_ylabel("enstrophy, prediction / truth")
    axes[0].set_title(f"t = {time:g} frames")
    legend_above(fig, axes[0])
    return fig


def flow_statistics(data: xr.Dataset) -> Figure:
    """How a set of trajectories spins up, and how long its frames resemble each other; medians and quartiles.

    Args:
        data: ``deviation`` over (grid, sample, time), each field's standard deviation, and ``correlation`` over
            (grid, sample, lag), of frames that far apart; at most three grids.
    """
    needs("data", data, ("deviation",), ("grid", "sample", "time"))
    needs("data", data, ("correlation",), ("grid", "sample", "lag"))
    grids = data.grid.values.tolist()
    styles = {name: style | {"label": name} for name, style in zip(grids, SCHEMES, strict=False)}
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6))
    for ax, x, values in zip(axes, ("time", "lag"), (data.deviation, data.correlation), strict=True):
        lines_by(ax, values.rename(sample="repeat"), "grid", x, styles)
        ax.set(xlabel=f"{x} (unit times)", ylabel=axis_label(values, values.name), ylim=(0, None))
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
