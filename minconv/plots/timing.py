"""What the models cost."""

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from minconv.plots.axes import legend_above, lengths_axis, lines_by, log_axes
from minconv.plots.style import GUIDE, PAGE, STYLE
from minconv.runtime.checks import needs


def timing(data: xr.Dataset) -> Figure:
    """A training step of every model by sequence length: time, speed-up, time over its convolutions', peak memory.

    Args:
        data: ``training`` (seconds), ``training_speedup`` (over the fastest ConvLSTM) and ``over_convolutions`` (the
            step's time over that of its direct convolutions alone) over (model, T[, quartile]); ``memory``, bytes over
            (model, T).
    """
    panels = {
        "training": ("training step (ms)", 1e3, "log"),
        "training_speedup": ("speed-up over the\nfastest ConvLSTM", 1, "linear"),
        "over_convolutions": ("training step / its convolutions", 1, "linear"),
        "memory": ("peak memory (MiB)", 2**-20, "log"),
    }
    needs("data", data, list(panels), ("model", "T"))
    fig, axes = plt.subplots(2, 2, figsize=(PAGE, 5), sharex=True)
    for ax, (name, (label, unit, scale)) in zip(axes.flat, panels.items(), strict=True):
        lines_by(ax, data[name] * unit, "model", "T", STYLE)
        ax.set_ylabel(label)
        lengths_axis(ax)
        if scale == "log":
            log_axes(ax)
        else:  # quotients
            ax.axhline(1, **GUIDE)
    for ax in axes[-1]:
        ax.set_xlabel("sequence length T (frames)")
    legend_above(fig, axes.flat[0])
    return fig
