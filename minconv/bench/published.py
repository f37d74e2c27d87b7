"""The paper's own code beside ours, where somebody has it: none of it is here.

    git clone https://github.com/AdaptiveAILab/minconvrnns
    MINCONV_PUBLISHED=minconvrnns/src/mcrnn python -m minconv.bench

Its models then take turns with ours in every training step that is measured.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

VARIABLE = "MINCONV_PUBLISHED"
CLASSES = {"convlstm": "ConvLSTM", "minconvlstm": "MinConvLSTM"}


def published_models(channels: dict[str, int], size: tuple[int, int]) -> dict[str, nn.Module]:
    """The paper's models of four layers with so many channels, for frames of this size; none without its code.

    Raises:
        ValueError: the folder that ``MINCONV_PUBLISHED`` names does not hold it.
    """
    if not (folder := os.environ.get(VARIABLE)):
        return {}
    code = _code(Path(folder).resolve())
    options = {"batch_size": 1, "input_size": 1, "height": size[0], "width": size[1], "padding_mode": "circular"}
    norm = {"h": size[0], "w": size[1]}
    return {
        f"{name}_published": Published(getattr(code, kind)(hidden_sizes=[channels[name]] * 4, norm=norm, **options))
        for name, kind in CLASSES.items()
    }


def _code(folder: Path) -> ModuleType:
    """Its package ``models``. What it configures itself with is stood in for: a norm is made from its size."""
    hydra, omegaconf = ModuleType("hydra"), ModuleType("omegaconf")
    hydra.utils = SimpleNamespace(instantiate=lambda norm: nn.LayerNorm((norm["h"], norm["w"])))
    omegaconf.DictConfig = dict
    stand_ins = {"hydra": hydra, "hydra.utils": hydra.utils, "omegaconf": omegaconf}
    for name, module in stand_ins.items():
        sys.modules.setdefault(name, module)
    for path in (str(folder / "utils"), str(folder)):
        if path not in sys.path:
            sys.path.insert(0, path)
    try:
        code = import_module("models")
        if missing := [kind for kind in CLASSES.values() if not hasattr(code, kind)]:
            raise ImportError(f"it has no {', '.join(missing)}")
    except ImportError as error:
        raise ValueError(f"{VARIABLE} must name the folder src/mcrnn of the paper's code; {folder}: {error}") from error
    return code


class Published(nn.Module):
    """One of its models, called as ours are: [B, T, C, H, W], horizon -> [B, T + horizon, C, H, W]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        batch, length = frames.shape[:2]
        unseen = frames.new_zeros(batch, horizon, *frames.shape[2:])  # their number counts, they are not looked at
        return self.model(torch.cat([frames, unseen], 1), length)
