"""The models by name: what they are called, whether they are minimal, and how one is built.

A model is called as ``model(frames, horizon)``: frames [B, T, C, H, W] -> [B, T + horizon, C, H, W], where output t
predicts frame t + 1 and the last ``horizon`` outputs are made from the model's own. SimVP and FNO, which have no
recurrence, give the last horizon + 1 of these alone, the frames after those they were given.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from minconv.core import cells
from minconv.core.cells import CELLS, Cell, MinimalCell
from minconv.models.convs5_cell import ConvS5
from minconv.models.fno import FNO
from minconv.models.forecaster import Forecaster
from minconv.models.simvp import SimVP
from minconv.runtime.checks import choice
from minconv.runtime.names import STYLE, style
from minconv.runtime.seeds import generator

PARAMETERS = 175_000  # of a model, about, where not its channels but its size is asked for
SMALL = 35_000, (("layers", 3),)  # the published size for geopotential
# options of the recurrent ones alone, and those by which channels are not those of the published size
STACK = {"layers", "kernel_size", "padding", "dilation", "norm", "increment", "checkpoint", "backend"}
RESHAPING = {"layers", "kernel_size", "context", "translator", "hid_s", "n_s", "n_t", "mlp_ratio", "modes"}


@dataclass(frozen=True)
class Model:
    """What a model is, whatever it is trained on.

    Args:
        label: in tables and figures.
        minimal: whether its gates see the input alone, so that a sequence trains in one scan.
        build: makes it, with random weights; takes its options.
        channels: hidden channels of the two published sizes, for the flow and for geopotential.
        window: its options for how many frames it sees, ``context``, and gives at once, ``ahead``, as far as it has
            them; none of a ``Forecaster``, which is recurrent.
    """

    label: str
    minimal: bool
    build: Callable[..., nn.Module]
    channels: tuple[int, int]
    window: tuple[str, ...] = ()

    @property
    def recurrent(self) -> bool:
        return not self.window

    def options(self, shared: Mapping[str, Any], context: int, horizon: int) -> dict[str, Any]:
        """What it takes of the options that all models of an experiment share, which are trained on such windows.

        One that is not recurrent has none of the layers, paddings and norms of the others.
        """
        if self.recurrent:
            return dict(shared)
        window = {"context": context, "ahead": min(context, horizon + 1)}
        own = {name: value for name, value in shared.items() if name not in STACK}
        return {name: window[name] for name in self.window} | own


def _recurrent(cell: str, minimal: bool, *channels: int) -> Model:
    return Model(cells.cell_class(cell).__name__, minimal, partial(Forecaster, cell), channels)


def _simvp(hidden: int, **options: Any) -> SimVP:
    """For frames of 16 x 16 on a torus that others see 20 of: what is published for larger ones, with few channels."""
    shape = {"context": 20, "size": (16, 16), "hid_s": 4, "n_s": 2, "n_t": 3, "mlp_ratio": 2, "padding": "circular"}
    return SimVP(hid_t=hidden, **shape | options)


def _fno(hidden: int, **options: Any) -> FNO:
    """For frames of 16 x 16 that others see 20 of."""
    return FNO(hidden=hidden, **{"context": 20, "size": (16, 16), "modes": 12} | options)


MODELS = {
    "convgru": _recurrent("convgru", False, 28, 14),
    "convlstm": _recurrent("convlstm", False, 25, 12),
    "minconvgru": _recurrent("minconvgru", True, 49, 24),
    "minconvlstm": _recurrent("minconvlstm", True, 40, 20),
    "minconvexplstm": _recurrent("minconvexplstm", True, 40, 20),
}

# models of other papers: built, trained and drawn by their names, in an experiment where it names them; ``MODELS`` are
# those that every experiment compares
cells.PEERS["convs5"] = ConvS5
PEERS = {
    "convs5": _recurrent("convs5", True, 35, 17),
    "simvp": Model("SimVP", False, _simvp, (73, 29), ("context", "ahead")),
    "fno": Model("FNO", False, _fno, (16, 7), ("context",)),
}


def named(name: str) -> Model:
    """One of ``MODELS`` or ``PEERS``; raises ValueError, TypeError on another name."""
    models = MODELS | PEERS
    return models[choice("name", name, models)]


def register(name: str, cell: type[Cell], label: str, color: str, marker: str = "*") -> None:
    """Adds a cell of one's own: to ``Forecaster(name)`` and ``build_model(name, seed)``, to experiments made after it,
    and to the legends of figures.

    A minimal cell is its gates: a ``Gating`` in ``minconv.core.gates.GATINGS`` and a class that names it. Such a cell
    runs on every backend; where no kernel knows its gates, a and b are formed by PyTorch before the kernel's scan.

    Args:
        name: that no other has.
        cell: its class.
        label, color, marker: in tables and figures.

    Raises:
        TypeError, ValueError: not a cell, or a name that is taken.
    """
    if not isinstance(cell, type) or not issubclass(cell, Cell):
        raise TypeError(f"cell must be a class of minconv.core.cells.Cell; got {cell!r}")
    if name in MODELS or name in STYLE or not isinstance(name, str):
        raise ValueError(f"name must be one that is not taken, as {', '.join(STYLE | MODELS)} are; got {name!r}")
    build = partial(Forecaster, cell)  # the class itself, which other processes have where they import it
    channels = _channels(build, ()), _channels(build, SMALL[1], SMALL[0])
    CELLS[name], MODELS[name] = cell, Model(label, issubclass(cell, MinimalCell), build, channels)
    STYLE[name] = style(label, color, marker)


def build_model(name: str | Model, seed: int, **options: Any) -> nn.Module:
    """A model with the initial weights of a seed, at about 175,000 parameters where ``hidden`` does not say otherwise.

    Args:
        name: one of ``MODELS`` or ``PEERS``, or what it stands for there.
        seed: of the weights; the global random state is left alone.
        options: of the model. Without ``hidden`` (of SimVP, ``hid_t``) it has the published channels; with options that
            change its size, such as ``layers`` or ``context``, as many as bring it nearest to that size.

    Raises:
        TypeError, ValueError: an unknown name, a seed that is none, or an option that the model does not allow.
    """
    model = name if isinstance(name, Model) else named(name)
    if "hidden" not in options:
        reshaped = options.keys() & RESHAPING
        fixed = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in options.items())
        options["hidden"] = _channels(model.build, fixed) if reshaped else model.channels[0]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return model.build(**options)


@cache
def _channels(
    build: Callable[..., nn.Module], options: tuple[tuple[str, Any], ...], parameters: int = PARAMETERS
) -> int:
    """Hidden channels that bring a model nearest to the size of all."""

    def size(channels: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(hidden=channels, **dict(options)))

    above = bisect_left(range(1000), parameters, lo=2, key=size)
    return min((above - 1, above), key=lambda channels: abs(size(channels) - parameters))


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(weight.numel() for weight in model.parameters())
