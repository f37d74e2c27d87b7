"""The experiments: profiles of the Navier-Stokes study, and the data, models and runs that belong to them.

``smoke`` shows in seconds that everything works, ``laptop`` trains models that have learned on two CPU cores within the
hour, ``paper`` has the settings of arXiv 2508.03614. Notebooks call these functions; results are kept under ``home()``.
What other experiments share with this one is here, too: ``home``, ``default_profile``, ``runs_of``, ``trained``.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor

from minconv import processes
from minconv.cells import Cell, cell_class
from minconv.data import navier_stokes
from minconv.device import pick_device
from minconv.errors import choice
from minconv.forecaster import Forecaster
from minconv.metrics import ModelSeed, collect, evaluate, persistence, rollout
from minconv.seeds import generator
from minconv.train import Run, Training, fit_all, load_weights, restore

# hidden channels that give every model about 175,000 parameters
HIDDEN = {"convgru": 28, "convlstm": 25, "minconvgru": 49, "minconvlstm": 40, "minconvexplstm": 40}

PUBLISHED = Training()
NO_DECAY = replace(PUBLISHED, weight_decay=0.0)
SPLITS = ("train", "validation", "test")
UNITS = "1 / unit time"  # of vorticity


@dataclass(frozen=True)
class Profile:
    """How large an experiment is.

    Args:
        name: its folder under results/.
        samples: trajectories to train, validate and test on.
        frames: length of their trajectories; the test context is fed as truth, the rest is closed loop.
        test_context: teacher-forced frames of a test forecast.
        training: settings by name; the first is what the paper's claims are checked with.
        seeds: of the models.
        timing_lengths: sequence lengths T of the timing notebook.
        timing_repeats: interleaved repeats, whose median counts.
    """

    name: str
    samples: tuple[int, int, int]
    training: dict[str, Training]
    seeds: tuple[int, ...]
    timing_lengths: tuple[int, ...]
    timing_repeats: int
    frames: tuple[int, int, int] = (50, 50, 51)
    test_context: int = 20

    @property
    def folder(self) -> Path:
        """Where this profile's runs, figures and executed notebooks are."""
        return home() / "results" / self.name

    @property
    def figures(self) -> Path:
        return self.folder / "figures"


PROFILES = {
    "smoke": Profile(
        name="smoke",
        samples=(4, 4, 4),
        training={
            "published": replace(PUBLISHED, epochs=2),
            "no weight decay": replace(NO_DECAY, epochs=2),
        },
        seeds=(1234, 1235),
        timing_lengths=(4, 8, 16),
        timing_repeats=3,
    ),
    "laptop": Profile(
        name="laptop",
        samples=(64, 16, 32),
        training={
            "published": replace(PUBLISHED, epochs=20),
            "no weight decay": replace(NO_DECAY, epochs=20),
        },
        seeds=(1234, 1235, 1236),
        timing_lengths=(8, 32, 128, 512),
        timing_repeats=5,
    ),
    "paper": Profile(
        name="paper",
        samples=(1000, 50, 200),
        training={
            "published": PUBLISHED,
            "no weight decay": NO_DECAY,
            "published, short": replace(PUBLISHED, context=5, horizon=10),
        },
        seeds=(1234, 1235, 1236, 1237, 1238),
        timing_lengths=(8, 16, 32, 64, 128, 256, 512, 1024),
        timing_repeats=11,
    ),
}


def home() -> Path:
    """Folder that holds data/ and results/: $MINCONV_HOME, or the project's root."""
    return Path(os.environ.get("MINCONV_HOME") or Path(__file__).resolve().parents[1])


def default_profile() -> str:
    """$MINCONV_PROFILE, or ``paper`` where there is a GPU and ``laptop`` where there is none."""
    return os.environ.get("MINCONV_PROFILE") or ("paper" if torch.cuda.is_available() else "laptop")


def get_profile(name: str | None = None) -> Profile:
    """A profile by name; None is the default. Raises ValueError on an unknown name."""
    return PROFILES[choice("profile", default_profile() if name is None else name, PROFILES)]


def build_model(cell: str | type[Cell], seed: int, **options: int) -> Forecaster:
    """The Navier-Stokes forecaster of a cell at about 175,000 parameters, with the initial weights of a seed."""
    kind = cell_class(cell)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        hidden = {cell_class(name): channels for name, channels in HIDDEN.items()}
        return Forecaster(kind, **{"hidden": hidden.get(kind, 40)} | options)


def make_data(profile: Profile, device: str = "auto") -> dict[str, Path]:
    """Generates the profile's three data sets, where they are not there yet; their files by split."""
    paths = {}
    for number, (split, samples, frames) in enumerate(zip(SPLITS, profile.samples, profile.frames, strict=True)):
        path = home() / "data" / f"navier_stokes_{split}_{samples}x{frames}.nc"
        paths[split] = navier_stokes.generate(path, samples, frames, seed=number, device=device)
    return paths


def load_data(profile: Profile, device: str = "auto") -> dict[str, Tensor]:
    """Trajectories [N, T, 1, 16, 16] by split, on the device; generated first where they are not there."""
    on = pick_device(device)
    return {split: navier_stokes.frames(path, on) for split, path in make_data(profile, device).items()}


def runs_of(
    builds: Mapping[str, Callable[[int], Forecaster]],
    seeds: tuple[int, ...],
    settings: Training,
    folder: Path,
    device: str = "auto",
) -> list[Run]:
    """Every model and seed to train, in ``folder``/model/seeds.

    On a GPU, which one small model cannot fill, all seeds of a model train together; on the CPU each alone.

    Args:
        builds: by model, what makes the untrained model of a seed.
    """
    groups = [seeds] if pick_device(device).type == "cuda" else [(seed,) for seed in seeds]
    return [
        Run(
            build=build,
            seeds=group,
            folder=folder / model / "-".join(map(str, group)),
            settings=settings,
            name=f"{model} {group[0]}" + (f"-{group[-1]}" if len(group) > 1 else ""),
        )
        for model, build in builds.items()
        for group in groups
    ]


def trained(runs: list[Run], device: str = "auto") -> Iterator[tuple[str, int, Forecaster]]:
    """Model, seed and trained forecaster (at its lowest validation loss) of ``runs_of``, one after another."""
    for run in runs:
        for seed, weights in load_weights(run.folder).items():
            yield run.folder.parent.name, seed, restore(run.build(seed), weights).to(pick_device(device)).eval()


def runs(profile: Profile, setting: str, device: str = "auto") -> list[Run]:
    """Every model and seed to train for one of the profile's settings; see ``runs_of``."""
    choice("setting", setting, profile.training)
    builds = {cell: partial(build_model, cell) for cell in HIDDEN}
    return runs_of(builds, profile.seeds, profile.training[setting], profile.folder / "runs" / setting, device)


def train_all(profile: Profile, device: str = "auto") -> dict[str, list[Path]]:
    """Trains every setting, model and seed, or what is left of it; the folders of the runs by setting."""
    data = load_data(profile, device)
    wanted = [run for setting in profile.training for run in runs(profile, setting, device)]
    fit_all(wanted, data["train"], data["validation"], device=device)
    return {setting: [run.folder for run in runs(profile, setting, device)] for setting in profile.training}


def train_half(profile: Profile, setting: str, cell: str, device: str = "auto") -> dict[str, list[Path]]:
    """Trains a cell's seeds in ``bf16-mixed`` precision, too, beside those of ``train_all``; folders by precision."""
    data = load_data(profile, device)
    full = [run for run in runs(profile, setting, device) if run.folder.parent.name == cell]
    half = [replace(run, folder=run.folder.parent / "bf16-mixed" / run.folder.name) for run in full]
    fit_all(half, data["train"], data["validation"], device=device, precision="bf16-mixed")
    return {"32-true": [run.folder for run in full], "bf16-mixed": [run.folder for run in half]}


def trained_models(profile: Profile, setting: str, device: str = "auto") -> Iterator[tuple[str, int, Forecaster]]:
    """Cell, seed and trained model of one of the profile's settings; see ``trained``."""
    return trained(runs(profile, setting, device), device)


def evaluate_all(profile: Profile, setting: str, device: str = "auto") -> xr.Dataset:
    """Errors of every model, seed and of persistence on the whole test set; dims model, seed, time.

    Under ``torchrun`` every process calls this, forecasts with its share of the models, and has the whole result.
    """
    test, context = load_data(profile, device)["test"], profile.test_context
    models = [("persistence", None, None), *trained_models(profile, setting, device)]

    def errors(entry: tuple[str, int | None, Forecaster | None]) -> tuple[ModelSeed, xr.Dataset]:
        name, seed, model = entry
        forecast = rollout(model, test, context) if model else persistence(test, context)
        return (name, seed), evaluate(forecast, test, context, units=UNITS)

    return collect(processes.each(errors, models))
