"""The scan: how it works, how exact and how fast it is."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from minconv.plots.axes import legend_above, lengths_axis, letters, lines_by, log_axes, note
from minconv.plots.style import BACKENDS, BLACK, BLUE, GUIDE, PAGE
from minconv.runtime.checks import needs, whole


def scan_schematic(steps: int = 8) -> Figure:
    """The same recurrence as a loop, one frame after another, and as a scan that doubles its reach in every round.

    Args:
        steps: frames T >= 2.
    """
    frames = range(1, whole("steps", steps, least=2) + 1)
    rounds = math.ceil(math.log2(steps))
    # what each node (frame, level) is made from
    loop = {(t, t): [(t, 0), (t - 1, t - 1)] for t in frames}
    scan = {(t, r): [(t, r - 1), (t - 2 ** (r - 1), r - 1)] for r in range(1, rounds + 1) for t in frames}
    titles = f"loop: {steps} steps", f"scan: {rounds} rounds"
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.7), sharex=True, sharey=True)
    for ax, network, title in zip(axes, (loop, scan), titles, strict=True):
        for (t, level), parents in network.items():
            for frame, above in parents:
                if frame in frames:
                    ax.plot((frame, t), (above, level), color="0.6", linewidth=0.8, zorder=1)
            ax.plot(t, level, **_node(BLUE if t <= 2**level else "white"))
        ax.plot(frames, [0] * steps, **_node("0.8") | {"marker": "s"}, label="step $(a_t, b_t)$")
        ax.set(title=title, xlabel="frame t", xticks=frames)
        ax.grid(visible=False)
    ax.plot([], [], **_node("white"), label="several steps in one")
    ax.plot([], [], **_node(BLUE), label="all steps up to t: $h_t$")
    axes[0].set_ylabel("sequential step")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].invert_yaxis()
    letters(axes)
    legend_above(fig, ax)
    return fig


def scan_accuracy(data: xr.Dataset) -> Figure:
    """Error of the scan and of its gradients against a float64 loop, by sequence length.

    Args:
        data: ``output`` and ``gradient`` (relative errors) over (backend, T); where it is there, ``spacing`` over T,
            the distance of float32 numbers at the sums A_T of logarithms.
    """
    needs("data", data, ("output", "gradient"), ("backend", "T"))
    fig = _scans({"output": data.output, "gradients": data.gradient}, "relative error")
    if "spacing" in data:
        ax = fig.axes[0]
        ax.plot(data.T, data.spacing, **GUIDE | {"color": "0.5"})
        note(ax, "spacing of float32\nnumbers at $A_T$", (data.T[0], data.spacing[0]), (0, 16))
    letters(fig.axes)
    return fig


def scan_speed(data: xr.Dataset) -> Figure:
    """Time of the scan, or of a model by its scan, by sequence length.

    Args:
        data: ``forward`` and ``training`` (forward + backward), seconds over (backend, T[, repeat or quartile]); the
            line is the median over the repeats, the band their quartiles. The backend ``copy`` is the floor: moving
            the bytes that a scan must move.
    """
    needs("data", data, ("forward", "training"), ("backend", "T"))
    fig = _scans({"forward": 1e3 * data.forward, "forward + backward": 1e3 * data.training}, "time (ms)")
    for ax in fig.axes:
        lengths_axis(ax, data["T"])
    fig.axes[0].yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    fig.axes[0].yaxis.set_major_formatter("{x:g}")
    letters(fig.axes)
    return fig


def _scans(panels: Mapping[str, xr.DataArray], label: str) -> Figure:
    """One panel for each title, values over (backend, T[, repeat])."""
    fig, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.6), sharex=True, sharey=True)
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        lines_by(ax, values, "backend", "T", BACKENDS)
        ax.set(title=title, xlabel="sequence length T (frames)")
        log_axes(ax)
        lengths_axis(ax)
    axes[0].set_ylabel(label)
    legend_above(fig, axes[0])
    return fig


def _node(color: str) -> dict[str, Any]:
    shape = {"marker": "o", "linestyle": "", "markersize": 7}
    return shape | {"color": color, "markeredgecolor": BLACK, "markeredgewidth": 0.8}
