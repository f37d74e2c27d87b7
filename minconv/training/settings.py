"""What to train, and how."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from minconv.runtime.checks import choice, positive, whole

OPTIMIZERS = ("muon", "adam")
# for those who have called something else
CALL = 'fit(model, train, validation, folder="runs/mine")'
SEVERAL = 'fit(Run(lambda seed: Model(), [0, 1], "runs/mine"), train, validation)'


@dataclass(frozen=True)
class Training:
    """Settings of a run; the defaults are the recipe that notebook 8 arrives at.

    Args:
        context: teacher-forced frames of a window.
        horizon: closed-loop steps after them; the loss is the mean square error over all context + horizon predictions,
            or the horizon + 1 new frames of a model that gives these alone.
        epochs, batch: passes over the trajectories, windows a step.
        optimizer: ``adam``, or ``muon`` for the kernels of convolutions wider than one cell and Adam for all else.
        lr: learning rate, falling to 0 with the cosine of the step.
        warmup: part of all steps in which it rises to that first, linearly, from 0 at the first step, which so moves
            nothing; but a run of one step in all takes it with ``lr``.
        weight_decay: Adam's L2 term; with ``muon`` of its kernels alone, and decoupled from the gradient.
        clip: largest norm of the gradient, or None.
        noise: standard deviation of the noise on the inputs while training.

    Raises:
        TypeError, ValueError: a setting is not allowed; the message names it.
    """

    context: int = 20
    horizon: int = 5
    epochs: int = 30
    batch: int = 1
    optimizer: str = "muon"
    lr: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float | None = None
    noise: float = 1e-2

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("horizon", 0), ("epochs", 1), ("batch", 1)):
            whole(name, getattr(self, name), least)
        choice("optimizer", self.optimizer, OPTIMIZERS)
        positive("lr", self.lr)
        for name in ("weight_decay", "noise"):
            positive(name, getattr(self, name), zero=True)
        if positive("warmup", self.warmup, zero=True) >= 1:
            raise ValueError(f"warmup must be below 1, a part of all steps; got {self.warmup}")
        if self.clip is not None:
            positive("clip", self.clip)

    def rate(self, done: float) -> float:
        """Learning rate when ``done``, from 0 to 1, of all steps are."""
        if done < self.warmup:
            return self.lr * done / self.warmup
        return 0.5 * self.lr * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


@dataclass(frozen=True)
class Run:
    """One model to train, for one or more seeds together.

    Args:
        build: makes the untrained model of a seed; called as ``model(frames, horizon)``, it returns
            [B, T + horizon, C, H, W] of frames [B, T, C, H, W], or [B, horizon + 1, C, H, W], the last of these alone.
        seeds: one for each model; seed s draws the same weights, windows and noise in whatever company.
        folder: where the run is kept and continued.
        settings: how to train.
        name: for the progress bar.

    Raises:
        TypeError, ValueError: an argument is not allowed, such as a model instead of what makes one, or seeds that are
            not one or more different whole numbers.
    """

    build: Callable[[int], nn.Module]
    seeds: Sequence[int]
    folder: Path
    settings: Training = field(default_factory=Training)
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.build, nn.Module) or not callable(self.build):
            raise TypeError(
                f"build must make the model of a seed, as in {SEVERAL}; got {type(self.build).__name__}. A model "
                f"itself is trained by {CALL}"
            )
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"folder must be a path; got {self.folder!r}")
        if not isinstance(self.settings, Training):
            raise TypeError(f"settings must be a Training; got {self.settings!r}")
        if not isinstance(self.seeds, Sequence):
            raise TypeError(f"seeds must be a sequence of whole numbers; got {self.seeds!r}")
        seeds = [whole("seeds", seed) for seed in self.seeds]
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more different whole numbers; got {seeds}")
