"""Models with weights that were trained with the published code, and its checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minconv.core.cells import Cell, cell_class
from minconv.core.layers import PADDINGS
from minconv.models.forecaster import Forecaster
from minconv.runtime.checks import choice


def from_reference(cell: str | type[Cell], state_dict: Mapping[str, Tensor] | str | Path, padding: str) -> Forecaster:
    """A forecaster with the weights of a model trained with the published code.

    Args:
        cell: the cell the weights are of, by name or class.
        state_dict: the published names (``encoder.0.weight``, ``clstm.0.conv.0.weight``, ...) and tensors or arrays,
            with or without the prefix ``_orig_mod.`` of a compiled model; or the path of a published checkpoint
            (``*_best.ckpt``), of which only weights, numbers and plain containers are read: it cannot run code.
        padding: ``zeros``, ``circular``, ``cylinder``, ``sphere`` or ``replicate``; weights do not tell.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        TypeError, ValueError: unknown cell or padding; the weights are those of another model, or incomplete; a damaged
            checkpoint, or one that holds more than was said.
    """
    name = cell_class(cell).__name__
    choice("padding", padding, PADDINGS)
    if isinstance(state_dict, str | Path):
        state_dict = _published(Path(state_dict))
    try:
        weights = {_our_name(name): torch.as_tensor(value) for name, value in state_dict.items()}
        hidden, channels = weights["encoder.weight"].shape[:2]
        size = tuple(weights["norms.0.weight"].shape)
        layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("cells."))
        model = Forecaster(cell, channels, hidden, layers, size, padding).to(weights["encoder.weight"].dtype)
        model.load_state_dict(weights)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"state_dict does not hold the weights of a published {name} model: {error}") from error
    return model


def _published(path: Path) -> Mapping[str, Tensor]:
    """The weights in a checkpoint of the published code, which keeps beside them what its training needs."""
    allowed = [  # the code's best error is an array of NumPy; 1.x had another name for what makes one
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float32", "float64")),
        *((np.zeros(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint.get("model_state_dict", checkpoint)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever it is: torch has no type for a damaged file
        raise ValueError(f"{path} is no whole checkpoint of weights alone: {error}") from error


def _our_name(name: str) -> str:
    """``clstm.0.conv.1.weight`` -> ``cells.0.conv.weight``: entries of the published Sequentials lose their number."""
    first, *inner, last = name.removeprefix("_orig_mod.").split(".")
    match first, inner:
        case "encoder", [*_]:
            return f"encoder.{last}"
        case "cgru" | "clstm", [layer, conv, *_]:
            conv = {"conv_a": "conv_gates", "conv_b": "conv_candidate"}.get(conv, conv)
            return f"cells.{layer}.{conv}.{last}"
    return ".".join([first, *inner, last])
