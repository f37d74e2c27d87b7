"""How a model is called and drawn, by its name: what tables, figures and the registry of models share.

A model has one colour, marker and line everywhere, so that figures read in grey as well.
"""

from typing import Any

STYLE: dict[str, dict[str, Any]] = {}  # the models of the package have theirs in minconv.plots.style


def style(label: str, color: str, marker: str, linestyle: Any = "-") -> dict[str, Any]:
    """As Matplotlib takes it."""
    return {"label": label, "color": color, "marker": marker, "linestyle": linestyle}
