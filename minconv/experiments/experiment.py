"""An experiment: who is compared, on what data, trained how, for how long; and how it is run.

    experiment = Experiment("blobs", profile, {"recipe": Setting(Training(), {"small": build}, seeds)}, load)
    experiment.train()
    experiment.evaluate()                  # errors over (model, seed, ...), baselines among the models

``load(device)`` makes its ``Task``: the trajectories to train on, and how a forecast is verified; ``tasks`` has two
kinds of them. A further experiment is one file that says what these are.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import xarray as xr
from torch import Tensor, nn

from minconv.data.windows import Stored
from minconv.evaluation.compare import ModelSeed, collect
from minconv.evaluation.forecast import Forecaster
from minconv.experiments.profiles import Profile
from minconv.runtime import processes
from minconv.runtime.checks import choice
from minconv.runtime.device import pick_device
from minconv.training import Run, Training, fit_all, load_weights, read_log, restore
from minconv.training.folder import LAST
from minconv.training.loop import Loss

Entry = tuple[str, int | None, Forecaster]  # a seed of None: of a baseline, which has none


@dataclass(frozen=True)
class Setting:
    """A way to train, and what is trained so.

    Args:
        training: settings of the training.
        models: by name, what makes the untrained model of a seed.
        seeds: of the models.
        options: of the models, where they have some in common; further models are built from them.
        epochs: by model, of those that have others than the training says, as where all are to take the same time.
    """

    training: Training
    models: Mapping[str, Callable[[int], nn.Module]]
    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)

    @property
    def window(self) -> int:
        """Frames that a model is trained on at once."""
        return self.training.context + self.training.horizon


class Task(Protocol):
    """What models learn and how their forecasts are verified."""

    train: Tensor | Stored  # trajectories [N, T, C, H, W] on the device, as the models see them
    validation: Tensor | Stored
    loss: Loss | None  # None: the mean square error

    @property
    def baselines(self) -> Mapping[str, Forecaster]:
        """What a model must beat, by name."""

    def forecaster(self, model: nn.Module) -> Forecaster:
        """A trained model as a forecaster in the units of the data."""

    def errors(self, forecaster: Forecaster) -> xr.Dataset:
        """How good the forecasts of the test data are."""


@dataclass(frozen=True)
class Experiment:
    """Models, data and trainings that belong together; runs are kept in a folder and never made twice.

    Args:
        name: of its folder in the profile's.
        profile: how large it is; or, where it has one size, the folder itself.
        settings: by name; where none is asked for, the first is meant.
        load: makes the task, its tensors on a device.
        device: to train and forecast on.
    """

    name: str
    profile: Profile | Path
    settings: Mapping[str, Setting]
    load: Callable[[torch.device], Task]
    device: str = "auto"

    @cached_property
    def task(self) -> Task:
        return self.load(pick_device(self.device))

    def only(self, setting: str, *models: str, seed: int | None = None) -> "Experiment":
        """The same with one setting, and of it these models and this seed, kept where the whole keeps them.

        Args:
            setting: one of its settings.
            models: by default all.
            seed: None is all; on a GPU, where seeds train together, one is trained by itself.

        Raises:
            ValueError: there is no such setting, or in it no such model or seed.
        """
        found = self.settings[choice("setting", setting, self.settings)]
        if seed is not None and seed not in found.seeds:
            raise ValueError(f"seed must be one of {', '.join(map(str, found.seeds))}; got {seed!r}")
        builds = {name: found.models[choice("model", name, found.models)] for name in models or found.models}
        seeds = found.seeds if seed is None else (seed,)
        return replace(self, settings={setting: replace(found, models=builds, seeds=seeds)})

    def folder(self, setting: str) -> Path:
        whole = self.profile.folder / "runs" / self.name if isinstance(self.profile, Profile) else self.profile
        return whole / setting

    def runs(self, setting: str | None = None, precision: str = "32-true") -> dict[str, list[Run]]:
        """By model, what there is to train for a setting, each in ``folder``/model/seeds.

        On a GPU, which one small model cannot fill, all seeds of a model train together; on the CPU each alone.
        """
        setting = next(iter(self.settings)) if setting is None else choice("setting", setting, self.settings)
        found = self.settings[setting]
        groups = [found.seeds] if pick_device(self.device).type == "cuda" else [(seed,) for seed in found.seeds]

        def run(model: str, seeds: tuple[int, ...]) -> Run:
            folder = self.folder(setting) / model / ("" if precision == "32-true" else precision)
            name = f"{setting}, {model} {seeds[0]}" + (f"-{seeds[-1]}" if len(seeds) > 1 else "")
            training = replace(found.training, epochs=found.epochs.get(model, found.training.epochs))
            return Run(found.models[model], seeds, folder / "-".join(map(str, seeds)), training, name)

        return {model: [run(model, seeds) for seeds in groups] for model in found.models}

    def train(self, *settings: str, models: tuple[str, ...] = (), precision: str = "32-true") -> None:
        """Trains every model and seed of some settings, by default of all, or what is left of it."""
        wanted = [self.only(setting, *models).runs(setting, precision) for setting in settings or self.settings]
        chosen = [run for runs in wanted for found in runs.values() for run in found]
        options = {"device": self.device, "precision": precision, "loss": self.task.loss}
        fit_all(chosen, self.task.train, self.task.validation, **options)

    def logs(self, setting: str | None = None, precision: str = "32-true") -> dict[str, list[dict[str, float]]]:
        """By model, the rows of its seeds' logs; of models that are trained."""
        runs = self.runs(setting, precision)
        return {
            model: [row for run in found for row in read_log(run.folder)]
            for model, found in runs.items()
            if all((run.folder / LAST).is_file() for run in found)
        }

    def trained(self, setting: str | None = None) -> Iterator[tuple[str, int, nn.Module]]:
        """Model, seed and trained network at its lowest validation loss, one after another."""
        for model, runs in self.runs(setting).items():
            for run in runs:
                for seed, weights in load_weights(run.folder).items():
                    yield model, seed, restore(run.build(seed), weights).to(pick_device(self.device)).eval()

    def forecasters(self, setting: str | None = None, task: Task | None = None) -> Iterator[Entry]:
        """Name, seed and forecaster of all that are compared: every baseline, and every model and seed of a setting."""
        task = task or self.task
        yield from ((name, None, baseline) for name, baseline in task.baselines.items())
        yield from ((name, seed, task.forecaster(model)) for name, seed, model in self.trained(setting))

    def evaluate(self, setting: str | None = None, task: Task | None = None) -> xr.Dataset:
        """Errors of every baseline, model and seed of a setting; dims model, seed, and those of the task's errors.

        Under ``torchrun`` every process calls this, forecasts with its share of the models, and has the whole result.

        Args:
            task: another way to verify, such as ``dataclasses.replace(experiment.task, ...)``.
        """
        task = task or self.task

        def errors(entry: Entry) -> tuple[ModelSeed, xr.Dataset]:
            *key, forecaster = entry
            return tuple(key), task.errors(forecaster)

        return collect(processes.each(errors, list(self.forecasters(setting, task))))
