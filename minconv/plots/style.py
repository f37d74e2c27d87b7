"""What the figures share: a model's colour, marker and line, sizes, words, axes and legends.

A model has one colour, marker and line everywhere (:data:`STYLE`, colours of Okabe and Ito): the classical cells
are broken lines, the minimal ones solid, so that figures read in grey as well. Sizes are those of a printed page;
text is 9 pt and stays text in the PDF. In a notebook a figure shows by itself at the end of its cell.
"""

from typing import Any

import matplotlib.pyplot as plt

COLUMN, PAGE = 3.4, 7.0  # inches

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
WINE, TEAL = "#882255", "#44AA99"  # of Tol, for pairs that stand alone


def _line(label: str, color: str, marker: str, linestyle: Any = "-") -> dict[str, Any]:
    return {"label": label, "color": color, "marker": marker, "linestyle": linestyle}


STYLE = {
    "convgru": _line("ConvGRU", SKY, "v", (0, (1, 1))),
    "convlstm": _line("ConvLSTM", BLUE, "s", (0, (4, 1, 1, 1))),
    "minconvgru": _line("MinConvGRU", ORANGE, "^"),
    "minconvlstm": _line("MinConvLSTM", VERMILION, "o"),
    "minconvexplstm": _line("MinConvExpLSTM", GREEN, "D"),
    "published": _line("MinConvLSTM, log domain", PURPLE, "P", (0, (4, 2))),
    "half": _line("MinConvLSTM, bf16-mixed", "0.45", "X", (0, (1, 1))),
    "cylinder": _line("MinConvLSTM, cylinder padding", WINE, "<", (0, (6, 1.5))),
    "sphere": _line("MinConvLSTM, sphere padding", TEAL, ">"),
    "persistence": _line("Persistence", BLACK, "", (0, (4, 2))),
    "damped persistence": _line("Damped persistence", "0.3", "", (0, (4, 1, 1, 1))),
    "climatology": _line("Climatology", "0.6", "", (0, (1, 1))),
    "ridge regression": _line("Ridge regression", "0.45", "", (0, (6, 1, 1, 1, 1, 1))),
    "truth": _line("Truth", BLACK, ""),
}
BACKENDS = {
    "stepwise": _line("frame by frame", PURPLE, "P", (0, (4, 2))),
    "reference": _line("reference (loop)", BLACK, "s", (0, (1, 1))),
    "logspace": _line("log domain (published)", BLUE, "v", (0, (4, 1, 1, 1))),
    "linear": _line("linear domain", VERMILION, "o"),
    "cpu": _line("fused, CPU", GREEN, "^"),
    "triton": _line("fused, GPU", ORANGE, "D"),
    "copy": _line("copying as many bytes", "0.5", ""),
}
SETTINGS = {
    "truth": STYLE["truth"],
    "published": _line("published", PURPLE, "s", (0, (4, 1, 1, 1))),
    "no weight decay": _line("no weight decay", SKY, "v", (0, (4, 2))),
    "recipe with Adam": _line("recipe with Adam", GREEN, "D", (0, (5, 1))),
    "recipe": _line("recipe", VERMILION, "o"),
}
SCHEMES = (
    _line("", VERMILION, "o"),
    _line("", BLUE, "s", (0, (4, 1, 1, 1))),
    _line("", GREEN, "^", (0, (1, 1))),
)
SEASONS = {"DJF": (BLUE, "s"), "MAM": (GREEN, "^"), "JJA": (VERMILION, "o"), "SON": (ORANGE, "D")}
MEAN = {"color": BLACK, "marker": "|", "linestyle": "", "markersize": 13, "markeredgewidth": 1.3}
GUIDE = {"color": "0.4", "linewidth": 0.8, "zorder": 1}  # a line to read others by

plt.rcParams.update(
    dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 9)
    | dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8)
    | {
        "legend.frameon": False,
        "lines.linewidth": 1.3,
        "lines.markersize": 4,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "image.origin": "lower",
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }
)
