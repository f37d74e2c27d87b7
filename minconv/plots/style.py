"""What the figures share: sizes and styles; a model's colour, marker and line are in ``runtime.names``.

Sizes are those of a printed page; text is 9 pt and stays text in the PDF. In a notebook a figure shows where it is
saved, with its caption below, and without one by itself at the end of its cell.
"""

import matplotlib.pyplot as plt

from minconv.runtime.names import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, STYLE, VERMILION, style

COLUMN, PAGE = 3.4, 7.0  # inches

BACKENDS = {
    "stepwise": style("frame by frame", PURPLE, "P", (0, (4, 2))),
    "reference": style("reference (loop)", BLACK, "s", (0, (1, 1))),
    "logspace": style("log domain (published)", BLUE, "v", (0, (4, 1, 1, 1))),
    "linear": style("linear domain", VERMILION, "o"),
    "cpu": style("fused, CPU", GREEN, "^"),
    "triton": style("fused, GPU", ORANGE, "D"),
    "copy": style("copying as many bytes", "0.5", ""),
}
SETTINGS = {  # from light to dark as they get better; no colours of models
    "truth": STYLE["truth"],
    "published": style("published", "#C3A5DC", "s", (0, (4, 1, 1, 1))),
    "no weight decay": style("no weight decay", "#9A6CC4", "v", (0, (4, 2))),
    "recipe with Adam": style("recipe with Adam", "#7136A8", "D", (0, (5, 1))),
    "recipe": style("recipe", "#42107A", "o"),
}
STENCILS = {
    "two": style("two points", SKY, "v", (0, (1, 1))),
    "four": style("four points", BLUE, "s", (0, (4, 1, 1, 1))),
    "FINN": style("FINN", VERMILION, "o"),
}
ACTIVATIONS = {
    "ReLU": style("ReLU", BLACK, "s"),
    "SUGAR, B-SiLU": style("SUGAR, B-SiLU", VERMILION, "o"),
    "SUGAR, GELU": style("SUGAR, GELU", ORANGE, "D"),
    "SUGAR, NeLU": style("SUGAR, NeLU", PURPLE, "^"),
    "B-SiLU": style("B-SiLU", GREEN, "v", (0, (4, 2))),
    "GELU": style("GELU", SKY, "P", (0, (4, 1, 1, 1))),
    "ReLU, batch norm": style("ReLU, batch norm", BLUE, "h", (0, (6, 1.5))),
}
SCHEMES = (
    style("", "#00677E", "o"),
    style("", "#8F5A00", "s", (0, (4, 1, 1, 1))),
    style("", "0.5", "^", (0, (1, 1))),
)
SEASONS = {"DJF": ("#1B2A6B", "s"), "MAM": ("#117733", "^"), "JJA": ("#CC6677", "o"), "SON": ("#999933", "D")}
MEAN = {"color": BLACK, "marker": "|", "linestyle": "", "markersize": 13, "markeredgewidth": 1.3}
SEEN = {"color": "0.93", "linewidth": 0, "zorder": 0}  # behind frames that are predicted from true ones
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
