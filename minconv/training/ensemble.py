"""Several models of one architecture as one: where it can be, their weights stacked and run by ``torch.vmap``."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from minconv.runtime.seeds import generator

DRAWING = threading.RLock()  # held by the thread that seeds PyTorch's own generator, which is one for all of them


class Ensemble(nn.Module):
    """S models run together: frames [S, B, T, C, H, W] -> [S, B, T', C, H, W], model s seeing frames[s] only.

    Each model computes what it would alone, to rounding; one model is run as it is. On a GPU, small models together
    cost hardly more than one, because launches dominate.

    Args:
        models: of one architecture, on one device.
        stack: run copies of the models, their weights and buffers stacked to [S, ...], as one; else the models
            themselves, one after another. See ``stackable``.
        seeds: one for each model that is not stacked, of what it draws while it runs, as dropout does; by default it
            draws from PyTorch's own generator.

    Attributes:
        model: the one model; or one that holds the stacked weights, by their names in a single model; or a list.
        members: the modules that are run, of one model each, or of all S.
        place: epoch, step and rank, at which models draw the same numbers whenever they come there.

    Raises:
        ValueError: the models are not alike, or one is there twice.
    """

    def __init__(self, models: Sequence[nn.Module], stack: bool = True, seeds: Sequence[int] | None = None):
        super().__init__()
        if len({_signature(model) for model in models}) != 1:
            raise ValueError(f"models must be one or more of one architecture; got {len(models)}, not all the same")
        if len({id(model) for model in models}) < len(models):
            raise ValueError(f"models must be {len(models)} different ones; got one of them twice")
        self.size, self.seeds, self.place = len(models), seeds, (0, 0, 0)
        self.known = getattr(models[0], "known", 0)
        self.is_stacked = stack and self.size > 1
        if self.is_stacked:
            self.model = _stacked(models)
        else:
            self.model = models[0] if self.size == 1 else nn.ModuleList(models)

    @property
    def members(self) -> list[nn.Module]:
        return [self.model] if self.is_stacked or self.size == 1 else list(self.model)

    def forward(self, frames: Tensor, *arguments: Any) -> Tensor:
        """``frames[s]`` through model s; ``arguments`` are the same for all."""
        if self.is_stacked:
            return self._together(frames, *arguments)
        found = []
        for s, member in enumerate(self.members):
            with nullcontext() if self.seeds is None else _drawing(self.seeds[s], self.place, frames.device):
                found.append(member(frames[s], *arguments))
        return found[0].unsqueeze(0) if self.size == 1 else torch.stack(found)

    def _together(self, frames: Tensor, *arguments: Any) -> Tensor:
        buffers = dict(self.model.named_buffers())

        def single(held: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            state = dict(held)
            prediction = functional_call(self.model, state, (x, *arguments), tie_weights=False)
            return prediction, {name: state[name] for name in buffers if state[name] is not held[name]}

        prediction, replaced = torch.vmap(single)(_held(self.model), frames)
        for name, value in replaced.items():  # what is changed in place is so in the stacked buffer
            buffers[name].copy_(value)
        return prediction

    def stacked(self, weight: Tensor) -> Tensor:
        """A parameter, or what is shaped like one, as a view [models, ...] of the models that it is of."""
        return weight if self.is_stacked else weight.unsqueeze(0)

    def weights(self) -> dict[str, Tensor]:
        """Copies of all that the models' ``state_dict()`` hold, by name, [S, ...]."""
        states = [member.state_dict() for member in self.members]
        if self.is_stacked:
            return {name: value.detach().clone() for name, value in states[0].items()}
        return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Puts back what ``weights()`` gave; RuntimeError if it is of other models."""
        for s, member in enumerate(self.members):
            member.load_state_dict(weights if self.is_stacked else {name: value[s] for name, value in weights.items()})


def stackable(models: Sequence[nn.Module], frames: Tensor, *arguments: Any) -> bool:
    """Whether models can be stacked: what they are besides weights and buffers is equal, and ``torch.vmap`` runs them.

    It does not run those that draw random numbers or ask for the value of a tensor. A pass over ``frames``
    [B, T, C, H, W] in each mode tells.
    """
    try:
        if not all(_equal(_besides(models[0]), _besides(model)) for model in models[1:]):
            return False
        ensemble = Ensemble(models)
        with torch.no_grad():
            for mode in (True, False):
                ensemble.train(mode)(frames.expand(len(models), *frames.shape), *arguments)
    except Exception:  # of whatever kind: what is wrong with a model itself, it will say when it is run alone
        return False
    return True


def _stacked(models: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first whose weights and buffers are those of all, stacked; what was tied in it is tied."""
    model = deepcopy(models[0])
    weights, buffers = stack_module_state(list(models))
    values = {name: nn.Parameter(value.detach(), value.requires_grad) for name, value in weights.items()} | buffers
    first = {id(tensor): name for name, tensor in chain(model.named_parameters(), model.named_buffers())}
    for name, tensor in _held(model).items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, values[first[id(tensor)]])
    return model


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by each module that holds them: tied ones more than once, those of a shared module once."""
    found = {}
    for prefix, module in model.named_modules():
        found |= dict(module.named_parameters(prefix, recurse=False))
        found |= dict(module.named_buffers(prefix, recurse=False))
    return found


def _signature(model: nn.Module) -> tuple:
    tensors = chain(model.named_parameters(), model.named_buffers())
    return str(model), *((name, tensor.shape, tensor.dtype) for name, tensor in tensors)


def _besides(model: nn.Module) -> list:
    """What a model is besides weights and buffers: attributes, modes, which weights are trained."""
    known = vars(nn.Module()).keys() - {"training"}  # what every module has: weights, buffers, modules, hooks
    attributes = [{k: v for k, v in vars(module).items() if k not in known} for module in model.modules()]
    return [*attributes, [weight.requires_grad for weight in model.parameters()]]


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are; of what has no equality of its own, such as functions, whether they are the same one."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, nn.Module):  # one that is not registered, as in a list
        return _equal(one.state_dict(), other.state_dict())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or bool(one == other)


@contextmanager
def _drawing(seed: int, place: tuple[int, int, int], device: torch.device) -> Iterator[None]:
    """Within, PyTorch's own generator gives the numbers of a seed at a place; afterwards it goes on as before."""
    epoch, step, rank = place
    # the stream of the noise on the inputs, which is drawn at (epoch, 0, 0)
    number = generator(seed, "noise", epoch, step + 1, rank).initial_seed()
    devices = [device] if device.type == "cuda" else []
    with DRAWING, torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed(number)
        yield
