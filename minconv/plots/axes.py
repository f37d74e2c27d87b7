"""What figures share on their axes: lines with bands, scales, legends and words."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

from minconv.evaluation.compare import spread
from minconv.plots.style import STYLE
from minconv.runtime.checks import choice

POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def lines_by(
    ax: Axes, values: xr.DataArray, by: str, x: str, styles: Mapping[str, Mapping[str, Any]], extremes: bool = False
) -> None:
    """A line with about ten markers for each of ``by``, and its band; a cross where it ends early, not finite.

    Median and quartiles over repeats, or the three that a dimension ``quartile`` holds; mean and deviation, or
    ``extremes``, over seeds.
    """
    for name in values[by].values.tolist():
        style, row = styles[choice(by, name, styles)], values.sel({by: name})
        if "repeat" in row.dims:
            low, middle, high = np.quantile(row.transpose("repeat", x).values, (0.25, 0.5, 0.75), axis=0)
        elif "quartile" in row.dims:
            low, middle, high = row.transpose("quartile", x).values
        elif "seed" in row.dims:
            middle, deviation = (part.value.values for part in spread(row.to_dataset(name="value")))
            low, high = middle - deviation, middle + deviation
            if extremes:
                low, high = row.min("seed", skipna=False).values, row.max("seed", skipna=False).values
        else:
            low = middle = high = row.values
        places, finite = row[x].values, np.flatnonzero(np.isfinite(middle))
        ax.plot(places, middle, **style, markevery=max(1, len(places) // 10))
        ax.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
        if len(finite) and finite[-1] + 1 < len(places):
            end = finite[-1]
            ax.plot(places[end], middle[end], "x", color=style["color"], markersize=8, markeredgewidth=2)


def log_axes(ax: Axes, along: str = "y") -> None:
    """Logarithmic axes; below two decades with plain numbers, since powers of ten would be too few."""
    for name in along:
        ax.set(**{f"{name}scale": "log"})
        axis = getattr(ax, f"{name}axis")
        low, high = axis.get_view_interval()
        if high < 100 * low:
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())


def lengths_axis(ax: Axes, measured: xr.DataArray | None = None) -> None:
    """Sequence lengths along x, written out: those that were ``measured``, or powers of two."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(LogLocator(2, numticks=8) if measured is None else FixedLocator(measured.values))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def note(ax: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **options: Any) -> None:
    """Small grey words beside a place, ``offset`` in points."""
    ax.annotate(text, place, offset, textcoords="offset points", color="0.35", fontsize=8, **options)


def letters(axes: Iterable[Axes]) -> None:
    """Names the panels of a figure (a), (b), ... at their upper left, for its caption."""
    for letter, ax in zip("abcdefghi", axes, strict=False):
        ax.set_title(f"({letter})", loc="left", fontweight="bold")


def legend_above(fig: Figure, ax: Axes, title: str = "") -> None:
    """One legend for all panels, above them, and the figure's title above it, which else would be drawn over it."""
    handles, labels = ax.get_legend_handles_labels()
    letters = sum(len(label) + 7 for label in labels)  # with their handles; a page is some 100 wide
    lines = 1 if letters <= 102 else 2 if letters <= 180 else 3
    columns = math.ceil(len(labels) / lines)
    style = {"ncols": columns, "columnspacing": 1.2, "handlelength": 2.2}
    legend = fig.legend(handles, labels, loc="outside upper center", **style)
    if title:
        legend.set_title(title, {"size": 10})


def titled(title: str, *data: xr.Dataset | xr.DataArray) -> str:
    """``title`` in lines of the page, with the first source that the data name, unless it is there already."""
    source = next((values.attrs["source"] for values in data if values.attrs.get("source")), "")
    if source not in title:
        title = f"{title} ({source})" if title else source
    return textwrap.fill(title, 95)


def lead_words(lead: np.timedelta64) -> str:
    """A lead time in words: 6 h, 1 day, 1.5 days."""
    if not isinstance(lead, np.timedelta64):
        raise ValueError(f"lead_time must be timedelta64; got {lead!r}")
    hours = float(lead / np.timedelta64(1, "h"))
    if hours < 24:
        return f"{hours:g} h"
    return f"{hours / 24:.4g} {'day' if hours == 24 else 'days'}"


def words(name: Any) -> str:
    """What stands on a figure for a row or panel: the label of a model, a lead time in words, or the name itself."""
    if isinstance(name, np.timedelta64):
        return lead_words(name)
    return STYLE[name]["label"] if name in STYLE else str(name)


def axis_label(values: xr.DataArray, otherwise: str) -> str:
    """The quantity and its units, CF's ``m2 s-2`` as m² s⁻²; pure numbers have none."""
    name, units = values.attrs.get("long_name", otherwise), values.attrs.get("units", "1")
    if units in ("", "1"):
        return name
    units = re.sub(r"(?<=[A-Za-z])-?\d+", lambda power: power[0].translate(POWERS), units)
    return f"{name} {units}" if units.startswith("(") else f"{name} ({units})"


def largest(values: np.ndarray) -> float:
    """Largest absolute value that is finite, for a colour scale; 1 where all is zero."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0


def clipped(values: np.ndarray, low: float, high: float) -> str:
    """Which ends of a colour bar need an arrow, since ``values`` lie beyond: its argument ``extend``."""
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    return ends[bool((values < low).any()), bool((values > high).any())]
