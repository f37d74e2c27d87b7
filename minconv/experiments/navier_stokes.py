"""The flow: forced Navier-Stokes vorticity on the torus, arXiv 2508.03614, section 4.1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import avg_pool2d

from minconv.core.cells import CELLS
from minconv.data import navier_stokes as solver
from minconv.evaluation.errors import all_errors
from minconv.evaluation.forecast import Forecaster, rollout
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.experiments.recipes import ADAM, NO_DECAY, PAIR, PUBLISHED, RECIPE, SHAPE, setting
from minconv.experiments.tasks import Trajectories

NAME = "navier_stokes"
GRID = 16  # cells of a frame in each direction
CONTEXT = 20  # teacher-forced frames of a test forecast
UNITS = "1 / unit time"  # of vorticity
SPLITS = {"train": 50, "validation": 50, "test": 51}  # frames of a trajectory; the seed is the place in this list


@dataclass(frozen=True)
class Size:
    """How large the experiment is in a profile.

    Args:
        samples: trajectories to train, validate and test on.
        epochs: passes over them.
        short: epochs of the ablations.
        longer: epochs of two minimal cells that take about as long as ConvLSTM's ``epochs``.
        long: number and frames of the trajectories that show whether a rollout stays stable.
        less: what of all trainings differs from the paper's.
        adam: models that are trained with the recipe and Adam.
        ablations: which of them; none means all.
        twice: epochs of ``RIVALS`` that take about twice as long as ConvLSTM's ``epochs``.
    """

    samples: tuple[int, int, int]
    epochs: int
    short: int
    longer: int
    long: tuple[int, int] = (16, 221)
    less: Mapping[str, int] = field(default_factory=dict)
    adam: tuple[str, ...] = ("minconvlstm",)
    ablations: tuple[str, ...] = ()
    twice: tuple[int, int] = (1, 4)


RIVALS = ("convs5", "simvp")  # models of other papers
SMALL = ("recipe, short", "Adam", "4 layers, no dilation")
SIZES = {
    "smoke": Size((3, 2, 2), 2, 1, 3, (2, 61), {"context": 5, "horizon": 2}, ablations=SMALL),
    "laptop": Size((64, 16, 32), 8, 2, 11, ablations=SMALL, twice=(4, 40)),
    "study": Size((64, 16, 32), 20, 4, 27, adam=tuple(CELLS), twice=(10, 100)),
    "paper": Size((1000, 50, 200), 30, 4, 40, adam=tuple(CELLS), twice=(15, 150)),
}


def navier_stokes(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """All cells as published, without weight decay and with the recipe, at 175,000 parameters on 16 x 16."""
    profile = get_profile(profile)
    size, seeds = SIZES[profile.name], profile.seeds
    less = {"epochs": size.epochs, **size.less}
    settings = {
        "published": setting(replace(PUBLISHED, **less), seeds),
        "no weight decay": setting(replace(NO_DECAY, **less), seeds),
        "recipe with Adam": setting(replace(ADAM, **less), seeds, size.adam, **SHAPE),
        "recipe": setting(replace(RECIPE, **less), seeds, **SHAPE),
    }
    if profile.name == "paper":
        settings["published, 15 frames"] = setting(replace(PUBLISHED, context=5, horizon=10), seeds)
    return Experiment(NAME, profile, settings, partial(_load, profile), device)


def ablations(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """The recipe in a short training of two cells, with one thing of it taken back or one more added."""
    whole = navier_stokes(profile, device)
    size = SIZES[whole.profile.name]
    recipe = replace(RECIPE, epochs=size.short, **size.less)
    training = {
        "recipe, short": recipe,
        "Adam": replace(recipe, optimizer="adam"),
        "weight decay of 0.1": replace(recipe, weight_decay=0.1),
    }
    options = {
        "norm over H x W": SHAPE | {"norm": "plane"},
        "norm over channels": SHAPE | {"norm": "channels"},
        "increments": SHAPE | {"increment": True},
        "no dilation": SHAPE | {"dilation": 1},
        "4 layers": SHAPE | {"layers": 4, "dilation": (1, 2, 4, 2)},
        "4 layers, no dilation": SHAPE | {"layers": 4, "dilation": 1},
        "4 layers, kernel 5": SHAPE | {"layers": 4, "dilation": 1, "kernel_size": 5},
    }
    make = partial(setting, seeds=whole.profile.seeds, models=PAIR)
    changed: dict[str, Setting] = {name: make(settings, **SHAPE) for name, settings in training.items()}
    changed |= {name: make(recipe, **shape) for name, shape in options.items()}
    return replace(whole, settings={name: changed[name] for name in size.ablations or changed})


def longer(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """The recipe for two minimal cells, for about as long as ConvLSTM takes for its epochs."""
    whole = navier_stokes(profile, device)
    size = SIZES[whole.profile.name]
    training = replace(RECIPE, epochs=size.longer, **size.less)
    recipe = setting(training, whole.profile.seeds, ("minconvgru", "minconvlstm"), **SHAPE)
    return replace(whole, settings={f"recipe, {size.longer} epochs": recipe})


def rivals(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """ConvS5 and SimVP at the size of the cells, trained as they are: as published, with the recipe, and with the
    recipe for about twice as long as ConvLSTM takes for its epochs."""
    whole = navier_stokes(profile, device)
    size = SIZES[whole.profile.name]
    settings = {
        name: setting(whole.settings[name].training, whole.profile.seeds, RIVALS, **whole.settings[name].options)
        for name in ("published", "recipe")
    }
    settings["recipe, twice as long"] = replace(settings["recipe"], epochs=dict(zip(RIVALS, size.twice, strict=True)))
    return replace(whole, settings=settings)


def data_files(profile: Profile, device: str | torch.device = "auto") -> dict[str, Path]:
    """The files of the profile's training, validation and test sets, generated where they are not there yet."""
    sets = zip(SPLITS.items(), SIZES[profile.name].samples, strict=True)
    return {
        split: trajectory_file(split, samples, frames, seed, device)
        for seed, ((split, frames), samples) in enumerate(sets)
    }


def trajectory_file(split: str, samples: int, frames: int, seed: int, device: str | torch.device) -> Path:
    """The file of so many trajectories of a seed, generated where it is not there yet."""
    path = home() / "data" / f"{NAME}_{split}_{samples}x{frames}.nc"
    return solver.generate(path, samples, frames, seed=seed, device=device)


def _load(profile: Profile, device: torch.device) -> Trajectories:
    """Trajectories [N, T, 1, 16, 16]; errors are by time and by trajectory, for intervals of their differences."""
    data = {split: solver.frames(path, device) for split, path in data_files(profile, device).items()}
    return Trajectories(**data, context=CONTEXT, units=UNITS, measure=all_errors)


def new_trajectory(number: int, frames: int = SPLITS["test"], seed: int = len(SPLITS) + 1) -> Tensor:
    """A trajectory [1, T, 1, 16, 16] that is in none of the data sets, at t = 1 .. ``frames``; solved in a second.

    Args:
        number: which; every whole number has its own initial state.
        seed: of all of them; those of the data sets are below ``len(SPLITS)``, and give their trajectories again.
    """
    w0 = solver.initial_vorticity(1, seed=seed, first=number)
    fine = solver.solve(w0, range(1, frames + 1), forcing=solver.forcing())  # [1, T, x, y]
    return avg_pool2d(fine, fine.shape[-1] // GRID).mT.unsqueeze(2).float()


def beside_truth(forecasters: Mapping[str, Forecaster], trajectory: Tensor, context: int = CONTEXT) -> xr.DataArray:
    """Forecasts of one trajectory [1, T, 1, y, x] by name and the truth, over (row, time, y, x), for figures.

    ``time`` counts predicted frames, 1 .. T - 1; those after ``context`` are from a forecast's own.
    """
    rows = [trajectory[:, 1:], *(rollout(forecaster, trajectory, context) for forecaster in forecasters.values())]
    coordinates = {"row": ["truth", *forecasters], "time": range(1, trajectory.shape[1])}
    fields = torch.cat(rows)[:, :, 0].cpu().numpy()
    return xr.DataArray(
        fields, coordinates, ("row", "time", "y", "x"), attrs={"long_name": "vorticity", "units": UNITS}
    )


def long_rollouts(experiment: Experiment) -> Trajectories:
    """The task of trajectories many times as long as those trained on, with initial states of their own."""
    device = experiment.task.test.device
    path = trajectory_file("long", *SIZES[experiment.profile.name].long, seed=len(SPLITS), device=device)
    return replace(experiment.task, test=solver.frames(path, device))


def reach(layers: int = 4, dilation: int | Sequence[int] = 1, kernel_size: int = 3, **_: object) -> int:
    """Cells to every side that the kernels of all layers see in one step."""
    dilations = [dilation] * layers if isinstance(dilation, int) else dilation
    return sum(dilations) * (kernel_size // 2)
