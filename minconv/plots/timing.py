"""What the solver and the models cost."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from minconv.plots.axes import legend_above, lengths_axis, letters, lines_by, log_axes, note
from minconv.plots.style import GUIDE, PAGE, SCHEMES, STYLE
from minconv.runtime.checks import needs


def solver_convergence(schemes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Error of time stepping schemes by step, with the slopes they should have, and by cost.

    Args:
        schemes: by label, each with ``step`` (unit times), ``error`` (relative L2), ``seconds`` (per sample and
            unit time) as sequences of one length, and its ``order``; at most three.
    """
    for label, scheme in schemes.items():
        lengths = {len(scheme.get(key, ())) for key in ("step", "error", "seconds")}
        if len(lengths) > 1 or 0 in lengths or "order" not in scheme:
            raise ValueError(f"schemes[{label!r}] must hold step, error and seconds of one length, and order")
    if not 1 <= len(schemes) <= len(SCHEMES):
        raise ValueError(f"schemes must hold 1 to {len(SCHEMES)} schemes; got {len(schemes)}")
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
    for (label, scheme), style in zip(schemes.items(), SCHEMES, strict=False):
        step, error, seconds = (np.asarray(scheme[key], float) for key in ("step", "error", "seconds"))
        axes[0].plot(step, error, **style | {"label": label})
        axes[1].plot(1e3 * seconds, error, **style | {"label": label})
        ends = np.array([step.min(), step.max()])
        slope = error[step.argmax()] * (ends / ends[1]) ** scheme["order"]
        axes[0].plot(ends, slope, **GUIDE | {"color": "0.5"})
        middle = np.sqrt(ends[0] * ends[1]), np.sqrt(slope[0] * slope[1])
        note(axes[0], f"order {scheme['order']}", middle, (6, -9))
    axes[0].set(xlabel="time step (unit times)", ylabel="relative L2 error")
    axes[1].set(xlabel="cost (ms per sample and unit time)")
    for ax in axes:
        log_axes(ax, "yx")
    legend_above(fig, axes[0])
    return fig


def timing(data: xr.Dataset) -> Figure:
    """A training step of every model by sequence length: time, speed-up, time over its convolutions', peak memory.

    Time and memory are those of a frame, which differ less by length than by model.

    Args:
        data: ``training`` (seconds), ``training_speedup`` (over the fastest ConvLSTM) and ``over_convolutions`` (the
            step's time over that of its direct convolutions alone) over (model, T[, quartile]); ``memory``, bytes over
            (model, T).
    """
    panels = {
        "training": ("training step (ms / frame)", "log"),
        "training_speedup": ("speed-up over the\nfastest ConvLSTM", "linear"),
        "over_convolutions": ("training step / its convolutions", "linear"),
        "memory": ("peak memory (MiB / frame)", "log"),
    }
    needs("data", data, list(panels), ("model", "T"))
    data = data.assign(training=1e3 * data.training / data["T"], memory=2**-20 * data.memory / data["T"])
    fig, axes = plt.subplots(2, 2, figsize=(PAGE, 5.2))
    for ax, (name, (label, scale)) in zip(axes.flat, panels.items(), strict=True):
        lines_by(ax, data[name], "model", "T", STYLE)
        ax.set(xlabel="sequence length T (frames)", ylabel=label)
        lengths_axis(ax, data["T"])
        if scale == "log":
            log_axes(ax)
        else:  # quotients
            ax.axhline(1, **GUIDE)
    letters(axes.flat)
    legend_above(fig, axes.flat[0])
    return fig
