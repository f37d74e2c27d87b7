"""What the models cost."""

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from minconv.plots.axes import legend_above, lengths_axis, letters, lines_by, log_axes
from minconv.plots.style import GUIDE, PAGE, STYLE
from minconv.runtime.checks import needs


def timing(data: xr.Dataset) -> Figure:
    """A training step of every model by sequence length: time, speed-up, time over its convolutions', peak memory.

    Time and memory are those of a frame, which differ less by length than by model.

    Args:
        data: ``training`` (seconds), ``training_speedup`` (over the fastest ConvLSTM) and, which may be left out,
            ``over_convolutions`` (the step's time over that of its direct convolutions alone) over (model, T[, quartile
            or repeat]); ``memory``, bytes over (model, T).
    """
    panels = {
        "training": ("training step (ms / frame)", "log"),
        "training_speedup": ("speed-up over the\nfastest ConvLSTM", "linear"),
        "over_convolutions": ("training step / its convolutions", "linear"),
        "memory": ("peak memory (MiB / frame)", "log"),
    }
    if isinstance(data, xr.Dataset) and "over_convolutions" not in data:
        del panels["over_convolutions"]
    needs("data", data, list(panels), ("model", "T"))
    data = data.assign(training=1e3 * data.training / data["T"], memory=2**-20 * data.memory / data["T"])
    rows = len(panels) - 2
    fig, axes = plt.subplots(rows, len(panels) // rows, figsize=(PAGE, 2.6 * rows), squeeze=False)
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
