"""Networks that are shown the depth: trained on waves over many bottoms, then asked for the one below other waves.

They have what FINN has not, hundreds of bottoms, and not what it has, the equations. Trained, a network is run from the
first elevation to the last frame with the depth as the unknown, just as ``minconv.data.shallow_water.simulate`` is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from minconv.data import shallow_water as solver
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.experiments.shallow_water import NOISE, OTHER, Observed, Topography, search
from minconv.models import build_model
from minconv.training import Training

NAME = "depth_networks"
HIDDEN = {"convlstm": 10, "minconvlstm": 16, "convs5": 14}  # channels: about 21,000 parameters each
SHAPE = {"layers": 3, "dilation": (1, 2, 1), "norm": "frame", "increment": True, "padding": "replicate"}
EVERY = 6  # steps of the solver's from a frame to the next; waves go two cells
ELEVATION, DEPTH = 0.12, (105.0, 12.0)  # m, by which elevation and depth are brought near 1
RATE = 1e-2  # half the loss of 3e-3 after a short training of MinConvLSTM
SEEDS = {"train": 1, "validation": 2, "test": 3}  # of the random bottoms


@dataclass(frozen=True)
class Size:
    """How large the experiment is in a profile.

    Args:
        bottoms: random ones with a wave each, to train, validate and test on.
        epochs: of each network over the training waves and their mirror images, so that all take about the same time.
        batch: of a step.
        iterations: of L-BFGS.
        smoothings: that are tried.
    """

    bottoms: tuple[int, int, int] = (256, 16, 16)
    epochs: tuple[int, int, int] = (2, 3, 1)
    batch: int = 2
    iterations: int = 30
    smoothings: tuple[float, ...] = (1e-3, 1e-2, 3e-2, 1e-1)


SIZES = {
    "smoke": Size((1, 1, 2), (1, 1, 1), 4, 2, (1e-2, 1e-1)),
    "study": Size(),
    "paper": Size((1024, 32, 32), (20, 30, 10)),
}


class Rollout:
    """A trained network as a scheme, called as ``solver.simulate``: from rest, dt from a frame to the next.

    What it knows of kernels and of gravity is in its weights.
    """

    def __init__(self, model: nn.Module):
        self.model = model.requires_grad_(False)

    def __call__(
        self, eta0: Tensor, depth: Tensor, dx: float, dt: float, steps: int, every: int = 1, *_: Any
    ) -> Tensor:
        start = frames(eta0[:, None], depth).to(next(self.model.parameters()))
        ahead = self.model(start.expand(-1, steps, -1, -1, -1), steps - 1)[:, :, 0]
        return torch.cat([eta0[:, None], ELEVATION * ahead.to(eta0)], 1)[:, ::every]


def frames(eta: Tensor, depth: Tensor) -> Tensor:
    """What a network sees, [K, T, 2, X, Y], of elevation [K, T, X, Y] and depth [X, Y] or [K, X, Y], m."""
    mean, spread = DEPTH
    depth = (depth - mean) / spread
    return torch.stack([eta / ELEVATION, depth.expand(len(eta), *eta.shape[2:])[:, None].expand_as(eta)], 2)


def mirrored(trajectories: Tensor) -> Tensor:
    """As they are and in the mirrors of both axes, [4 N, ...]."""
    return torch.cat([trajectories.flip(axes) for axes in ((), (-2,), (-1,), (-2, -1))])


@dataclass(frozen=True)
class Waves:
    """What networks learn, and how well they follow waves over bottoms that they have not seen.

    Args:
        train, validation: [N, T, 2, X, Y], as ``frames`` has them.
        test: eta (sample, time, x, y) and depth (sample, x, y).
    """

    train: Tensor
    validation: Tensor
    test: xr.Dataset
    loss: None = None

    @property
    def baselines(self) -> dict[str, Callable[..., Tensor]]:
        return {}

    def forecaster(self, model: nn.Module) -> Rollout:
        return Rollout(model)

    @torch.no_grad()
    def errors(self, scheme: Callable[..., Tensor]) -> xr.Dataset:
        """``own``, the relative error of all frames from the first alone, and ``other``, with a wrong bottom."""
        eta, depth = (torch.from_numpy(self.test[name].values) for name in ("eta", "depth"))
        dx, dt, steps = solver.LENGTH / eta.shape[-1], float(self.test.time[1]), eta.shape[1] - 1
        found = {}
        for name, below in {"own": depth, "other": depth.roll(1, 0)}.items():
            error = scheme(eta[:, 0], below, dx, dt, steps) - eta
            found[name] = (error.norm() / eta[:, 1:].norm()).item()
        return xr.Dataset(found)


@dataclass(frozen=True)
class Networks:
    """Who finds what depth from the waves that stencils are asked by, seen in every sixth frame."""

    waves: Topography

    @property
    def size(self) -> Size:
        return SIZES[self.waves.profile.name]

    @cached_property
    def experiment(self) -> Experiment:
        """Their training, from the first frame to the last, as they are run afterwards; one seed."""
        profile, steps, cells = self.waves.profile, (self.waves.size.frames - 1) // EVERY, self.waves.size.cells
        training = Training(1, steps - 1, batch=self.size.batch, lr=RATE, noise=0.0, clip=1.0)
        options = SHAPE | {"known": 1, "size": (cells, cells)}
        models = {name: partial(build_model, name, hidden=hidden, **options) for name, hidden in HIDDEN.items()}
        epochs = dict(zip(HIDDEN, self.size.epochs, strict=True))
        setting = Setting(training, models, profile.seeds[:1], options, epochs)
        return Experiment(NAME, profile, {"rollout": setting}, self.load)

    def load(self, device: torch.device) -> Waves:
        """Waves over random bottoms, each with its own, solved once and for all."""
        cells, count = self.waves.size.cells, (self.waves.size.frames - 1) // EVERY + 1
        found = {}
        for (part, seed), number in zip(SEEDS.items(), self.size.bottoms, strict=True):
            path = home() / "data" / f"shallow_water_drawn_{number}x{count}x{cells}_{seed}.nc"
            settings = {"frames": count, "every": EVERY, "seconds": self.waves.dt, "cells": cells, "seed": seed}
            found[part] = solver.load(solver.generate_drawn(path, number, **settings))
        seen = {
            part: frames(*(torch.from_numpy(found[part][name].values) for name in ("eta", "depth"))).float().to(device)
            for part in ("train", "validation")
        }
        return Waves(mirrored(seen["train"]), seen["validation"], found["test"])

    def observed(self, bottom: str) -> Observed:
        """With the noise that stencils are asked with."""
        data = self.waves.observed(bottom, NOISE)
        return data._replace(eta=data.eta[:, ::EVERY], times=data.times[::EVERY])

    @cached_property
    def searched(self) -> xr.Dataset:
        """What the trained networks find, by ``search``, over (network, bottom, smoothing)."""
        return self.waves.profile.kept(f"{NAME}/searched", self._searched, size=str(self.size))

    def _searched(self) -> xr.Dataset:
        asked, rows = {bottom: self.observed(bottom) for bottom in OTHER}, []
        for _, _, model in self.experiment.trained():
            scheme = Rollout(model.cpu()), self.waves.dx, EVERY * self.waves.dt, None
            maps = [
                [search(data, *scheme, weight, self.size.iterations) for weight in self.size.smoothings]
                for data in asked.values()
            ]
            rows.append(xr.concat([xr.concat(found, "smoothing") for found in maps], "bottom"))
        places = {"network": list(HIDDEN), "bottom": list(OTHER), "smoothing": list(self.size.smoothings)}
        return xr.concat(rows, "network").assign_coords(places)

    @cached_property
    def found(self) -> xr.Dataset:
        """``searched`` over (network, bottom), with the smoothing that was best over the other bottom."""
        best = self.searched.rmse.idxmin("smoothing")
        chosen = best.sel(bottom=[OTHER[bottom] for bottom in best.bottom.values]).assign_coords(bottom=best.bottom)
        return self.searched.sel(smoothing=chosen)


def networks(profile: str | Profile | None = None) -> Networks:
    """The experiment in a profile; None is the default. Raises ValueError for one that has none."""
    return Networks(Topography(get_profile(profile)))
