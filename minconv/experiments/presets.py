"""The experiments: profiles of the Navier-Stokes study, and the data, models and runs that belong to them.

``smoke`` shows in seconds that everything works, ``laptop`` trains models that have learned on two CPU cores within the
hour, ``paper`` has the settings of arXiv 2508.03614. Notebooks call these functions; results are kept under ``home()``.
What other experiments share with this one is here, too: ``home``, ``default_profile``, ``runs_of``, ``trained``.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import avg_pool2d

from minconv.core.cells import Cell, cell_class
from minconv.data import navier_stokes
from minconv.evaluation.errors import ModelSeed, collect, evaluate, influence, persistence, rollout
from minconv.models.forecaster import Forecaster
from minconv.runtime import processes
from minconv.runtime.checks import choice
from minconv.runtime.device import pick_device
from minconv.runtime.seeds import generator
from minconv.training.fit import Run, Training, fit_all, load_weights, restore
from minconv.training.muon import is_kernel

SIZE = 175_000  # parameters of every model, about
# hidden channels that come to it in models of the published shape
HIDDEN = {"convgru": 28, "convlstm": 25, "minconvgru": 49, "minconvlstm": 40, "minconvexplstm": 40}

PUBLISHED = Training(optimizer="adam", lr=5e-4, warmup=0.0, weight_decay=0.01)
NO_DECAY = replace(PUBLISHED, weight_decay=0.0)
RECIPE = Training()
ADAM = replace(RECIPE, optimizer="adam")
SHAPE = {"layers": 6, "dilation": (1, 2, 4, 1, 2, 4), "norm": "frame"}  # of the recipe's models
GRID = 16  # cells of a frame in each direction
SPLITS = ("train", "validation", "test")
UNITS = "1 / unit time"  # of vorticity


@dataclass(frozen=True)
class Setting:
    """How the models of one comparison are built and trained.

    Args:
        training: settings of the training.
        options: of the forecaster; where they change its size, channels are chosen that restore it.
        cells: the models.
    """

    training: Training
    options: Mapping[str, Any] = field(default_factory=dict)
    cells: tuple[str, ...] = tuple(HIDDEN)


@dataclass(frozen=True)
class Profile:
    """How large an experiment is.

    Args:
        name: its folder under results/.
        samples: trajectories to train, validate and test on.
        frames: length of their trajectories; the test context is fed as truth, the rest is closed loop.
        test_context: teacher-forced frames of a test forecast.
        long: number and frames of the trajectories that show whether a rollout stays stable.
        settings: by name; the first is what the paper's claims are checked with.
        ablations: more of them, by name: what the recipe is made of, one thing changed in each.
        longer: the recipe for two of the minimal cells, for about as long as ConvLSTM takes for its epochs.
        seeds: of the models.
        timing_lengths: sequence lengths T of the timing notebook.
        timing_repeats: interleaved repeats, whose median counts.
    """

    name: str
    samples: tuple[int, int, int]
    settings: dict[str, Setting]
    seeds: tuple[int, ...]
    timing_lengths: tuple[int, ...]
    timing_repeats: int
    frames: tuple[int, int, int] = (50, 50, 51)
    test_context: int = 20
    long: tuple[int, int] = (16, 221)
    ablations: dict[str, Setting] = field(default_factory=dict)
    longer: dict[str, Setting] = field(default_factory=dict)

    @property
    def all_settings(self) -> dict[str, Setting]:
        return self.settings | self.ablations | self.longer

    @property
    def folder(self) -> Path:
        """Where this profile's runs, figures and executed notebooks are."""
        return home() / "results" / self.name

    @property
    def figures(self) -> Path:
        return self.folder / "figures"


def _settings(epochs: int) -> dict[str, Setting]:
    return {
        "published": Setting(replace(PUBLISHED, epochs=epochs)),
        "no weight decay": Setting(replace(NO_DECAY, epochs=epochs)),
        "recipe with Adam": Setting(replace(ADAM, epochs=epochs), SHAPE),
        "recipe": Setting(replace(RECIPE, epochs=epochs), SHAPE),
    }


def _ablations(epochs: int, names: Sequence[str] = ()) -> dict[str, Setting]:
    """The recipe in a short training, with one thing of it taken back or one more added."""
    recipe, pair = replace(RECIPE, epochs=epochs), ("convlstm", "minconvlstm")
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
    changed = {name: Setting(settings, SHAPE, pair) for name, settings in training.items()}
    changed |= {name: Setting(recipe, shape, pair) for name, shape in options.items()}
    return {name: changed[name] for name in names or changed}


def _longer(epochs: int) -> dict[str, Setting]:
    return {f"recipe, {epochs} epochs": Setting(replace(RECIPE, epochs=epochs), SHAPE, ("minconvgru", "minconvlstm"))}


PROFILES = {
    "smoke": Profile(
        name="smoke",
        samples=(4, 4, 4),
        long=(2, 61),
        settings=_settings(epochs=2),
        ablations=_ablations(1, ("recipe, short", "Adam", "4 layers, no dilation")),
        longer=_longer(3),
        seeds=(1234, 1235),
        timing_lengths=(4, 8, 16),
        timing_repeats=3,
    ),
    "laptop": Profile(
        name="laptop",
        samples=(64, 16, 32),
        settings=_settings(epochs=20),
        ablations=_ablations(4),
        longer=_longer(27),
        seeds=(1234, 1235, 1236),
        timing_lengths=(8, 32, 128, 512),
        timing_repeats=5,
    ),
    "paper": Profile(
        name="paper",
        samples=(1000, 50, 200),
        settings=_settings(epochs=30) | {"published, short": Setting(replace(PUBLISHED, context=5, horizon=10))},
        ablations=_ablations(4),
        longer=_longer(40),
        seeds=(1234, 1235, 1236, 1237, 1238),
        timing_lengths=(8, 16, 32, 64, 128, 256, 512, 1024),
        timing_repeats=11,
    ),
}


def home() -> Path:
    """Folder that holds data/ and results/: $MINCONV_HOME, or the project's root."""
    return Path(os.environ.get("MINCONV_HOME") or Path(__file__).resolve().parents[2])


def default_profile() -> str:
    """$MINCONV_PROFILE, or ``paper`` where there is a GPU and ``laptop`` where there is none."""
    return os.environ.get("MINCONV_PROFILE") or ("paper" if torch.cuda.is_available() else "laptop")


def get_profile(name: str | None = None) -> Profile:
    """A profile by name; None is the default. Raises ValueError on an unknown name."""
    return PROFILES[choice("profile", default_profile() if name is None else name, PROFILES)]


def build_model(cell: str | type[Cell], seed: int, **options: Any) -> Forecaster:
    """The Navier-Stokes forecaster of a cell at about 175,000 parameters, with the initial weights of a seed.

    Args:
        options: of the forecaster. With ``layers`` or ``kernel_size`` among them, it has as many hidden channels as
            bring it nearest to that size.
    """
    kind = cell_class(cell)
    hidden = {cell_class(name): channels for name, channels in HIDDEN.items()}.get(kind, 40)
    if "hidden" not in options and options.keys() & {"layers", "kernel_size"}:
        hidden = _channels(kind, options)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return Forecaster(kind, **{"hidden": hidden} | options)


def _channels(kind: type[Cell], options: Mapping[str, Any]) -> int:
    """Hidden channels that bring a forecaster nearest to the size of all."""

    def size(channels: int) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in Forecaster(kind, hidden=channels, **options).parameters())

    above = bisect_left(range(1000), SIZE, lo=2, key=size)
    return min((above - 1, above), key=lambda channels: abs(size(channels) - SIZE))


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


def load_long(profile: Profile, device: str = "auto") -> Tensor:
    """Trajectories [N, T, 1, 16, 16] many times as long as those trained on, with initial states of their own."""
    samples, frames = profile.long
    path = home() / "data" / f"navier_stokes_long_{samples}x{frames}.nc"
    generated = navier_stokes.generate(path, samples, frames, seed=len(SPLITS), device=device)
    return navier_stokes.frames(generated, pick_device(device))


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
    """Every model and seed to train for one of all the profile's settings; see ``runs_of``."""
    found = profile.all_settings[choice("setting", setting, profile.all_settings)]
    builds = {cell: partial(build_model, cell, **found.options) for cell in found.cells}
    return runs_of(builds, profile.seeds, found.training, profile.folder / "runs" / setting, device)


def train_all(profile: Profile, settings: Iterable[str] | None = None, device: str = "auto") -> dict[str, list[Path]]:
    """Trains every model and seed of some settings, or what is left of it; the folders of the runs by setting.

    Args:
        settings: by default the profile's, without its ablations and longer trainings.
    """
    data = load_data(profile, device)
    wanted = {name: runs(profile, name, device) for name in (profile.settings if settings is None else settings)}
    fit_all([run for found in wanted.values() for run in found], data["train"], data["validation"], device=device)
    return {name: [run.folder for run in found] for name, found in wanted.items()}


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


def evaluate_all(
    profile: Profile,
    setting: str,
    device: str = "auto",
    *,
    truth: Tensor | None = None,
    measure: Callable[..., xr.Dataset] = evaluate,
) -> xr.Dataset:
    """Errors of every model, seed and of persistence on the whole test set; dims model, seed, time.

    Under ``torchrun`` every process calls this, forecasts with its share of the models, and has the whole result.

    Args:
        truth: other trajectories [N, T, 1, 16, 16] than those of the test set.
        measure: what is computed from each forecast, ``metrics.evaluate`` or ``metrics.sample_errors``.
    """
    truth = load_data(profile, device)["test"] if truth is None else truth
    models = [("persistence", None, None), *trained_models(profile, setting, device)]

    def errors(entry: tuple[str, int | None, Forecaster | None]) -> tuple[ModelSeed, xr.Dataset]:
        name, seed, model = entry
        context = profile.test_context
        forecast = rollout(model, truth, context) if model else persistence(truth, context)
        return (name, seed), measure(forecast, truth, context, units=UNITS)

    return collect(processes.each(errors, models))


def flow_influence(samples: int = 4, time: float = 30.0) -> Tensor:
    """``metrics.influence`` of the flow itself, by the solver from developed states: [9]."""
    forcing = navier_stokes.forcing().double()
    start = navier_stokes.initial_vorticity(samples, seed=len(SPLITS) + 1).double()
    developed = navier_stokes.solve(start, [time], forcing=forcing)[:, 0]

    def step(fields: Tensor) -> Tensor:
        later = navier_stokes.solve(fields, [1.0], forcing=forcing)
        return avg_pool2d(later, later.shape[-1] // GRID)[:, 0]

    return influence(step, developed, GRID)


def model_influence(profile: Profile, setting: str, cell: str, device: str = "auto") -> Tensor:
    """``metrics.influence`` of a setting's models of one cell after 30 test frames, in the mean over seeds: [9]."""
    frames = load_data(profile, device)["test"][:4, :31]

    def of(model: Forecaster) -> Tensor:
        with torch.no_grad():
            _, states = model.advance(frames[:, :-1])
        return influence(
            lambda fields: model.advance(fields[:, None, None], states)[0][:, 0, 0], frames[:, -1, 0], GRID
        )

    found = [of(model) for name, _, model in trained_models(profile, setting, device) if name == cell]
    return torch.stack(found).square().mean(0).sqrt().cpu()


def kernel_changes(profile: Profile, setting: str, cell: str, places: int = 33, device: str = "auto") -> Tensor:
    """How many directions training uses: singular values of what it has added to the kernels of a cell's models.

    A kernel is a matrix [out, in kH kW]. Its singular values are divided by the largest and taken at ``places`` from
    the first of them to the last; the geometric mean over kernels: [seeds, places].
    """

    def change(before: Tensor, after: Tensor) -> Tensor:
        values = torch.linalg.svdvals((after - before).flatten(1).double()).log()
        at = np.linspace(0, len(values) - 1, places)
        return torch.from_numpy(np.interp(at, np.arange(len(values)), values - values[0]))

    rows = []
    for run in runs(profile, setting, device):
        if run.folder.parent.name == cell:
            for seed, weights in load_weights(run.folder).items():
                before = run.build(seed).state_dict()
                kernels = [name for name, weight in weights.items() if is_kernel(weight)]
                rows.append(torch.stack([change(before[name], weights[name]) for name in kernels]).mean(0).exp())
    return torch.stack(rows)
