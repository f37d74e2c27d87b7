"""Several models of one architecture as one: their weights stacked, their convolutions grouped by ``torch.vmap``."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class Ensemble(nn.Module):
    """S models run together: frames [S, B, T, C, H, W] -> [S, B, T', C, H, W], model s seeing frames[s] only.

    Each model computes what it would alone, to rounding; one model is run as it is. On a GPU, small models together
    cost hardly more than one, because launches dominate.

    Args:
        models: of one architecture, on one device, without buffers.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        if len({_signature(model) for model in models}) != 1:
            raise ValueError(f"models must be one or more of one architecture; got {len(models)}, not all the same")
        self.size = len(models)
        # with S > 1 only a container for the stacked weights, by their names in a single model
        self.model = models[0] if self.size == 1 else deepcopy(models[0])
        if self.size > 1:
            stacked, _ = stack_module_state(list(models))
            for name, weight in stacked.items():
                owner, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(owner), leaf, nn.Parameter(weight.detach(), weight.requires_grad))
            self._skeleton = [deepcopy(models[0]).to("meta")]  # in a list, so as not to be registered

    def forward(self, frames: Tensor, *arguments: Any) -> Tensor:
        """``frames[s]`` through model s; ``arguments`` are the same for all."""
        if self.size == 1:
            return self.model(frames[0], *arguments).unsqueeze(0)

        def single(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._skeleton[0], weights, (x, *arguments))

        return torch.vmap(single)(dict(self.model.named_parameters()), frames)

    def stacked(self, weight: Tensor) -> Tensor:
        """A parameter, or what is shaped like one, as a view [S, ...]."""
        return weight.unsqueeze(0) if self.size == 1 else weight


def _signature(model: nn.Module) -> tuple:
    return str(model), *((name, weight.shape, weight.dtype) for name, weight in model.named_parameters())
