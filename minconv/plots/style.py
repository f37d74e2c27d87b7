"""What the figures share: a model's colour, marker and line, sizes, words, axes and legends.

A model has one colour, marker and line everywhere (:data:`STYLE`, colours of Okabe and Ito): the classical cells
are broken lines, the minimal ones solid, so that figures read in grey as well; ``minconv.models.register`` adds to it.
Sizes are those of a printed page;
text is 9 pt and stays text in the PDF. In a notebook a figure shows by itself at the end of its cell.
"""

import matplotlib.pyplot as plt

from minconv.runtime.names import STYLE, style

COLUMN, PAGE = 3.4, 7.0  # inches

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
WINE, TEAL = "#882255", "#44AA99"  # of Tol, for pairs that stand alone

STYLE |= {
    "convgru": style("ConvGRU", SKY, "v", (0, (1, 1))),
    "convlstm": style("ConvLSTM", BLUE, "s", (0, (4, 1, 1, 1))),
    "minconvgru": style("MinConvGRU", ORANGE, "^"),
    "minconvlstm": style("MinConvLSTM", VERMILION, "o"),
    "minconvexplstm": style("MinConvExpLSTM", GREEN, "D"),
    "published": style("MinConvLSTM, log domain", PURPLE, "P", (0, (4, 2))),
    "half": style("MinConvLSTM, bf16-mixed", "0.45", "X", (0, (1, 1))),
    "cylinder": style("MinConvLSTM, cylinder padding", WINE, "<", (0, (6, 1.5))),
    "sphere": style("MinConvLSTM, sphere padding", TEAL, ">"),
    "persistence": style("Persistence", BLACK, "", (0, (4, 2))),
    "damped persistence": style("Damped persistence", "0.3", "", (0, (4, 1, 1, 1))),
    "climatology": style("Climatology", "0.6", "", (0, (1, 1))),
    "ridge regression": style("Ridge regression", "#8C510A", "", (0, (6, 1, 1, 1, 1, 1))),
    "truth": style("Truth", BLACK, ""),
}
BACKENDS = {
    "stepwise": style("frame by frame", PURPLE, "P", (0, (4, 2))),
    "reference": style("reference (loop)", BLACK, "s", (0, (1, 1))),
    "logspace": style("log domain (published)", BLUE, "v", (0, (4, 1, 1, 1))),
    "linear": style("linear domain", VERMILION, "o"),
    "cpu": style("fused, CPU", GREEN, "^"),
    "triton": style("fused, GPU", ORANGE, "D"),
    "copy": style("copying as many bytes", "0.5", ""),
}
SETTINGS = {
    "truth": STYLE["truth"],
    "published": style("published", PURPLE, "s", (0, (4, 1, 1, 1))),
    "no weight decay": style("no weight decay", SKY, "v", (0, (4, 2))),
    "recipe with Adam": style("recipe with Adam", GREEN, "D", (0, (5, 1))),
    "recipe": style("recipe", VERMILION, "o"),
}
SCHEMES = (
    style("", VERMILION, "o"),
    style("", BLUE, "s", (0, (4, 1, 1, 1))),
    style("", GREEN, "^", (0, (1, 1))),
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
