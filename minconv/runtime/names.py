"""How a model is called and drawn, by its name: what tables, figures and the registry of models share.

A model has one colour, marker and line everywhere (:data:`STYLE`, colours of Okabe and Ito): the classical cells are
broken lines, the minimal ones solid, so that figures read in grey as well. ``minconv.models.register`` adds to it.
"""

from typing import Any

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
# of Tol, for those that stand alone
WINE, VIOLET, MAGENTA, INDIGO, OLIVE = "#882255", "#7B3FA0", "#AA3377", "#332288", "#808000"


def style(label: str, color: str, marker: str, linestyle: Any = "-") -> dict[str, Any]:
    """As Matplotlib takes it."""
    return {"label": label, "color": color, "marker": marker, "linestyle": linestyle}


STYLE = {
    "convgru": style("ConvGRU", SKY, "v", (0, (1, 1))),
    "convlstm": style("ConvLSTM", BLUE, "s", (0, (4, 1, 1, 1))),
    "minconvgru": style("MinConvGRU", ORANGE, "^"),
    "minconvlstm": style("MinConvLSTM", VERMILION, "o"),
    "minconvexplstm": style("MinConvExpLSTM", GREEN, "D"),
    "convs5": style("ConvS5", INDIGO, "h"),
    "simvp": style("SimVP", OLIVE, "p", (0, (3, 1, 1, 1, 1, 1))),
    "fno": style("FNO", "#6B3E1D", "d", (0, (5, 1, 1, 1))),
    "fno_usual": style("FNO, its authors' size", "#B8805A", "X", (0, (2, 1))),
    "fno_published": style("FNO, its authors' size and way", "#D147A3", "*", (0, (3, 2))),
    "published": style("MinConvLSTM, log domain", PURPLE, "P", (0, (4, 2))),
    "convlstm_published": style("ConvLSTM, published code", "#1F3B73", "H", (0, (4, 1, 1, 1))),
    "minconvlstm_published": style("MinConvLSTM, published code", "#7A4A2B", "8"),
    "half": style("MinConvLSTM, bf16-mixed", "0.45", "X", (0, (1, 1))),
    "cylinder": style("MinConvLSTM, cylinder padding", WINE, "<", (0, (6, 1.5))),
    "sphere": style("MinConvLSTM, sphere padding", VIOLET, ">", (0, (4, 1.5))),
    "black": style("Black frames", "0.75", "", (0, (6, 1.5))),
    "persistence": style("Persistence", BLACK, "", (0, (4, 2))),
    "damped persistence": style("Damped persistence", "0.3", "", (0, (4, 1, 1, 1))),
    "climatology": style("Climatology", "0.6", "", (0, (1, 1))),
    "ridge regression": style("Ridge regression", "#8C510A", "", (0, (6, 1, 1, 1, 1, 1))),
    "stack": style("Stack", MAGENTA, "*"),
    "truth": style("truth", BLACK, ""),
}
