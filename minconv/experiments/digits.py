"""Real digits, read by a deep convolutional network without norms: ReLUs with and without SUGAR, and their rivals.

And the same question on the flow, of the ReLUs of ConvS5.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.data import moving_mnist
from minconv.experiments.experiment import Experiment
from minconv.experiments.navier_stokes import navier_stokes
from minconv.experiments.profiles import Profile, get_profile
from minconv.experiments.recipes import setting
from minconv.models.sugar import SUGAR
from minconv.runtime.checks import choice
from minconv.runtime.progress import progress
from minconv.runtime.seeds import generator

LAYERS, WIDTH, HALVED = 12, 16, (0, 1, 4)  # convolutions, their channels, and those with a stride of 2
BATCH = 64
CHOOSING = 0  # the seed that learning rates are chosen with, and no other
DEAD = -1.0  # biases of the networks that are dead from the start
REVIVING = 3e-3  # learning rate of Adam for these
ABOUT = {
    "misread": {"long_name": "digits misread", "units": "%"},
    "dead": {"long_name": "channels that are dead", "units": "%"},
    "rate": {"long_name": "learning rate"},
}


class BSiLU(nn.Module):
    """(x + 1.67) sigmoid(x) - 1.67 / 2, which SUGAR takes its gradient from by default."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1.67) * x.sigmoid() - 1.67 / 2


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "SUGAR, B-SiLU": SUGAR,
    "SUGAR, GELU": partial(SUGAR, "gelu"),
    "SUGAR, NeLU": partial(SUGAR, "nelu"),
    "B-SiLU": BSiLU,
    "GELU": nn.GELU,
    "ReLU, batch norm": nn.ReLU,
}
OPTIMIZERS = {"SGD": partial(torch.optim.SGD, momentum=0.9), "Adam": torch.optim.Adam}
FORECASTER = {"ReLU": "relu", "SUGAR, B-SiLU": "sugar", "GELU": "gelu"}  # activations of ConvS5
SHAPE = {"layers": 3, "dilation": (1, 2, 4), "norm": "frame"}  # of the forecasters


@dataclass(frozen=True)
class Size:
    """How large the experiment is in a profile.

    Args:
        digits: of each class to train on; 50 more to choose by.
        epochs: of a training.
        seeds: of those compared.
        rates: learning rates by optimiser.
        activations: of ``ACTIVATIONS``, those compared.
        forecasts: hidden channels and epochs of the forecasters.
    """

    digits: int = 350
    epochs: int = 6
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    rates: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {"SGD": (3e-3, 1e-2, 3e-2, 1e-1), "Adam": (1e-3, 3e-3, 1e-2)}
    )
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    forecasts: tuple[int, int] = (16, 3)


FEW = ("ReLU", "SUGAR, B-SiLU", "ReLU, batch norm")
SIZES = {
    "smoke": Size(20, 1, (1, 2), {"SGD": (1e-2, 1e-1), "Adam": (3e-3, 1e-2)}, FEW, (4, 1)),
    "laptop": Size(350, 2, (1,), {"SGD": (1e-2, 3e-2, 1e-1), "Adam": (3e-3, 1e-2)}, FEW, (8, 1)),
    "study": Size(),
    "paper": Size(epochs=30, forecasts=(35, 30)),
}


def classifier(activation: str, seed: int, bias: float = 0.0) -> nn.Sequential:
    """Images [N, 1, 28, 28] to [N, 10]: twelve convolutions, a mean over places, a linear map; He's initialisation.

    Args:
        activation: of ``ACTIVATIONS``.
        seed: of the weights.
        bias: of the convolutions at the start.
    """
    make = ACTIVATIONS[choice("activation", activation, ACTIVATIONS)]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        layers = []
        for place in range(LAYERS):
            conv = nn.Conv2d(WIDTH if place else 1, WIDTH, 3, 2 if place in HALVED else 1, 1)
            nn.init.kaiming_normal_(conv.weight)
            nn.init.constant_(conv.bias, bias)
            norm = [nn.BatchNorm2d(WIDTH)] if activation.endswith("batch norm") else []
            layers.append(nn.Sequential(conv, *norm, make()))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))


def train(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: str, rate: float, epochs: int, seed: int
) -> Iterator[int]:
    """Trains in place, with a learning rate that falls to 0 with the cosine of the step; yields after each epoch."""
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(
        OPTIMIZERS[choice("optimizer", optimizer, OPTIMIZERS)](model.parameters(), lr=rate),
        epochs * (len(images) // BATCH),
    )
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator(seed, "windows", epoch))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            steps.optimizer.zero_grad()
            loss.backward()
            steps.optimizer.step()
            steps.step()
        yield epoch + 1


@torch.no_grad()
def misread(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Per cent of the images that are taken for another digit; of numbers that are not finite, all but one class."""
    model.eval()
    found = model(images).nan_to_num().argmax(1)
    model.train()
    return 100 * (found != labels).double().mean().item()


@torch.no_grad()
def dead(model: nn.Sequential, images: Tensor) -> float:
    """Per cent of the channels of all layers that are not above 0 at any place of any image."""
    model.eval()
    shares = []
    for layer in model[:LAYERS]:
        images = layer(images)
        shares.append((images.amax((0, 2, 3)) <= 0).double().mean())
    model.train()
    return 100 * torch.stack(shares).mean().item()


@dataclass(frozen=True)
class Digits:
    """Who reads digits how well, at which learning rate, and who comes back from the dead."""

    profile: Profile

    @property
    def size(self) -> Size:
        return SIZES[self.profile.name]

    @cached_property
    def data(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Images [N, 1, 28, 28], normalised, and labels [N], to train on, to choose by (``validation``) and to test."""
        parts = {split: torch.from_numpy(moving_mnist.digits(split)).float() for split in ("train", "test")}
        std, mean = torch.std_mean(parts["train"])
        known, unknown = (((part - mean) / std).view(10, -1, 1, 28, 28) for part in parts.values())
        sets = {"train": known[:, : self.size.digits], "validation": known[:, -50:], "test": unknown}
        return {
            name: (part.flatten(0, 1), torch.arange(10).repeat_interleave(part.shape[1])) for name, part in sets.items()
        }

    def train(self, activation: str, optimizer: str, rate: float, seed: int, bias: float = 0.0) -> Iterator[nn.Module]:
        """A network before its training and after each epoch."""
        model = classifier(activation, seed, bias)
        yield model
        for _ in train(model, *self.data["train"], optimizer, rate, self.size.epochs, seed):
            yield model

    def trained(self, *arguments: Any) -> nn.Module:
        """What ``train`` ends with."""
        *_, model = self.train(*arguments)
        return model

    @cached_property
    def by_rate(self) -> dict[str, xr.DataArray]:
        """By optimiser, per cent of the validation digits misread over (activation, rate), by one seed."""

        def error(optimizer: str, activation: str, rate: float) -> dict[str, float]:
            return {"misread": misread(self.trained(activation, optimizer, rate, CHOOSING), *self.data["validation"])}

        return {
            optimizer: self._kept(
                f"rates_{optimizer}", partial(error, optimizer), activation=self.size.activations, rate=rates
            ).misread
            for optimizer, rates in self.size.rates.items()
        }

    @cached_property
    def at_best(self) -> xr.Dataset:
        """Per cent of the test digits ``misread``, and of channels ``dead``, over (optimizer, activation, seed), at the
        learning rates that ``by_rate`` finds best."""

        def scores(optimizer: str, activation: str, seed: int) -> dict[str, float]:
            rate = self.by_rate[optimizer].sel(activation=activation).idxmin("rate").item()
            model = self.trained(activation, optimizer, rate, seed)
            return {"misread": misread(model, *self.data["test"]), "dead": dead(model, self.data["validation"][0])}

        over = {"optimizer": self.size.rates, "activation": self.size.activations, "seed": self.size.seeds}
        return self._kept("at_best", scores, **over)

    @cached_property
    def revival(self) -> xr.Dataset:
        """``misread`` and ``dead`` over (activation, seed, epoch) by Adam, of networks that are dead at the start."""

        def course(activation: str, seed: int) -> dict[str, list[float]]:
            models = self.train(activation, "Adam", REVIVING, seed, DEAD)
            rows = [(misread(model, *self.data["test"]), dead(model, self.data["validation"][0])) for model in models]
            return dict(zip(("misread", "dead"), map(list, zip(*rows, strict=True)), strict=True))

        found = self._kept("revival", course, activation=self.size.activations, seed=self.size.seeds[:3])
        return found.assign_coords(epoch=range(self.size.epochs + 1))

    def _kept(self, name: str, scores: Callable[..., Mapping[str, Any]], **over: Iterable[Any]) -> xr.Dataset:
        return self.profile.kept(f"digits/{name}", partial(_table, scores, **over), size=str(self.size))


def _table(scores: Callable[..., Mapping[str, Any]], **over: Iterable[Any]) -> xr.Dataset:
    """What a function gives for each combination of its arguments, which are the dimensions; lists are over epochs."""
    over = {name: list(values) for name, values in over.items()}
    shape = tuple(map(len, over.values()))
    rows = [scores(*values) for values in progress([*product(*over.values())], unit="network")]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    dims = {name: (*over, *["epoch"] * (values.ndim - 1)) for name, values in found.items()}
    return xr.Dataset(
        {name: (dims[name], values.reshape(*shape, *values.shape[1:]), ABOUT[name]) for name, values in found.items()},
        {name: (name, values, ABOUT.get(name, {})) for name, values in over.items()},
    )


def digits(profile: str | Profile | None = None) -> Digits:
    """The experiment in a profile; None is the default."""
    return Digits(get_profile(profile))


def forecasters(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """ConvS5 on the flow with the recipe, small and briefly trained, a setting for each activation."""
    whole = navier_stokes(profile, device)
    hidden, epochs = SIZES[whole.profile.name].forecasts
    training = replace(whole.settings["recipe"].training, epochs=epochs)
    settings = {
        name: setting(training, whole.profile.seeds, ("convs5",), **SHAPE, hidden=hidden, activation=activation)
        for name, activation in FORECASTER.items()
    }
    return replace(whole, name="sugar", settings=settings)
