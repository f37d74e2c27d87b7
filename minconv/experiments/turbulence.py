"""A harder flow, that of papers on neural operators, beside their own model; and the same with frames hidden.

Li et al., arXiv 2010.08895, section 5.3: the equation and forcing of ``data.navier_stokes`` at a viscosity of 1e-4 and
twenty frames from ten, or 1e-5 and ten from ten, a frame every unit of time from t = 1, in which the flow goes on
speeding up. The initial vorticity is smoother than that of arXiv 2508.03614, with alpha = 2.5 instead of 2. Frames are
means over cells here, where theirs are points of the solver's grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.fft import irfft2, rfft2

from minconv.core.cells import CELLS
from minconv.data import navier_stokes as solver
from minconv.evaluation.errors import all_errors, evaluate, forecast_errors
from minconv.evaluation.forecast import Forecaster
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.navier_stokes import UNITS
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.experiments.recipes import RECIPE, SHAPE, setting
from minconv.experiments.tasks import Trajectories
from minconv.models import build_model
from minconv.runtime.checks import whole
from minconv.training import Training
from minconv.training.loop import Loss
from minconv.training.loss import relative_l2

NAME = "turbulence"
CONTEXT = 10  # frames given
FRAMES = {1e-4: 30, 1e-5: 20}  # of a trajectory, by viscosity
ALPHA = 2.5  # of the initial vorticity
RIVALS = ("convs5", "simvp", "fno")
PAIRS = ("convgru", "minconvgru", "convlstm", "minconvlstm")  # of the memory task
OPERATOR = {"hidden": 20, "modes": 24, "context": CONTEXT}  # the Fourier neural operator at its authors' size
TRAINING = replace(RECIPE, context=CONTEXT)
# their way, a relative error through the whole forecast; but for batches of 20 for 500 epochs, and a rate in steps
AUTHORS = Training(CONTEXT, optimizer="adam", lr=1e-3, warmup=0.0, weight_decay=1e-4, noise=0.0)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Size:
    """How large the experiment is in a profile.

    Args:
        samples: trajectories to train, validate and test on.
        epochs: of the cells and ConvS5.
        others: of SimVP, FNO, and FNO at its authors' size, in which they take about as long as ConvLSTM.
        rolled: epochs and batch of the trainings through the whole forecast.
        memory: epochs of the memory task.
        cells: of a frame in each direction.
        grids: points of the solver in each direction, by viscosity.
        seeds: how many of the profile's; None is all.
    """

    samples: tuple[int, int, int]
    epochs: int
    others: tuple[int, int, int]
    rolled: tuple[int, int]
    memory: int
    cells: int = 32
    grids: Mapping[float, int] = field(default_factory=lambda: {1e-4: 128})
    seeds: int | None = None


# seconds of a step on a core: cells 0.12 to 0.15, ConvS5 0.39, SimVP 0.03, FNO 0.04, at its authors' size 0.13; through
# the whole forecast, four trajectories at once, FNO 0.4, at its authors' size 0.6 to 0.8; of the memory task
# 0.22 to 0.25
SIZES = {
    "smoke": Size((4, 2, 2), 1, (1, 1, 1), (1, 2), 1, 16, {1e-4: 64}, 1),
    "laptop": Size((40, 8, 16), 4, (16, 12, 4), (6, 4), 2, grids={1e-4: 96}, seeds=1),
    "study": Size((200, 20, 40), 20, (80, 60, 20), (40, 4), 6, seeds=1),
    "paper": Size((1000, 50, 200), 30, (120, 90, 30), (500, 20), 30, 64, {1e-4: 256, 1e-5: 512}, 3),
}


def turbulence(
    profile: str | Profile | None = None, device: str = "auto", viscosity: float = 1e-4, loss: Loss | None = None
) -> Experiment:
    """All cells, ConvS5, SimVP and FNO at 175,000 parameters with the recipe, and FNO at its authors' size.

    The recurrent ones have equally many steps, the others as many as take about as long as ConvLSTM's.

    Args:
        viscosity: one of ``viscosities(profile)``; 1e-4 is in all of them.
        loss: instead of the mean square error.

    Raises:
        ValueError: the profile has no such flow.
    """
    profile = get_profile(profile)
    size, models = SIZES[profile.name], (*CELLS, *RIVALS)
    if viscosity not in size.grids:
        known = ", ".join(f"{one:g}" for one in size.grids)
        raise ValueError(f"viscosity must be one of {known} in profile {profile.name}; got {viscosity!r}")
    frames = {"size": (size.cells, size.cells)}
    recipe = setting(replace(TRAINING, epochs=size.epochs), profile.seeds[: size.seeds], models, **SHAPE, **frames)
    builds = {**recipe.models, "fno_usual": partial(build_model, "fno", **OPERATOR, **frames)}
    epochs = dict(zip(("simvp", "fno", "fno_usual"), size.others, strict=True))
    settings = {"recipe": replace(recipe, models=builds, epochs=epochs)}
    return Experiment(f"{NAME}_{viscosity:g}", profile, settings, partial(_load, size, viscosity, loss), device)


def operators(profile: str | Profile | None = None, device: str = "auto", viscosity: float = 1e-4) -> Experiment:
    """FNO of both sizes as its authors train it: the relative error of all frames to come, each made from its own."""
    flow = turbulence(profile, device, viscosity, relative_l2)
    epochs, batch = SIZES[flow.profile.name].rolled
    training = replace(AUTHORS, horizon=FRAMES[viscosity] - CONTEXT - 1, epochs=epochs, batch=batch)
    recipe = flow.settings["recipe"]
    builds = {name: recipe.models[name] for name in ("fno", "fno_usual")}
    return replace(flow, name=f"{flow.name}_operators", settings={"published": Setting(training, builds, recipe.seeds)})


def viscosities(profile: str | Profile | None = None) -> list[float]:
    """Of the flows that a profile has, the largest first."""
    return [*SIZES[get_profile(profile).name].grids]


def trajectory_file(size: Size, viscosity: float, split: str, device: str | torch.device) -> Path:
    """The file of a split, generated where it is not there yet; its place in ``SPLITS`` is the seed."""
    seed, grid, frames = SPLITS.index(split), size.grids[viscosity], FRAMES[viscosity]
    samples = size.samples[seed]
    path = home() / "data" / f"{NAME}_{viscosity:g}_{split}_{samples}x{frames}x{size.cells}.nc"
    options = {"size": grid, "pool": grid // size.cells, "viscosity": viscosity, "alpha": ALPHA}
    return solver.generate(path, samples, frames, seed=seed, device=device, step=largest_step(grid), **options)


def largest_step(grid: int) -> float:
    """The solver's largest time step, which it may halve: flows at 1e-4 reach speeds of 0.55, and 0.73 is allowed."""
    return 2.56 / grid


def _load(size: Size, viscosity: float, loss: Loss | None, device: torch.device) -> Trajectories:
    data = {split: solver.frames(trajectory_file(size, viscosity, split, device), device) for split in SPLITS}
    return Trajectories(**data, context=CONTEXT, units=UNITS, measure=_errors, loss=loss)


def _errors(prediction: Tensor, truth: Tensor, context: int, units: str) -> xr.Dataset:
    rollout = prediction, truth, context, units
    return all_errors(*rollout).merge(forecast_errors(*rollout))


def refinement(grid: int, samples: int = 2, frames: int = 30, viscosity: float = 1e-4) -> xr.DataArray:
    """What the solver's grid leaves out: relative L2 difference from one twice as fine, over (sample, time).

    Both begin with the modes that the coarser one has, and are compared at its points.
    """
    w0 = solver.initial_vorticity(samples, grid, seed=len(SPLITS), alpha=ALPHA)
    modes = (grid - 1) // 3
    coarse, fine = rfft2(w0, norm="forward"), torch.zeros(samples, 2 * grid, grid + 1, dtype=torch.complex128)
    for rows in (slice(modes + 1), slice(-modes, None)):
        fine[:, rows, : modes + 1] = coarse[:, rows, : modes + 1]
    starts = w0, irfft2(fine, s=(2 * grid, 2 * grid), norm="forward")
    solved = [
        solver.solve(
            start, range(1, frames + 1), viscosity=viscosity, forcing=solver.forcing(points), step=largest_step(points)
        )
        for start, points in zip(starts, (grid, 2 * grid), strict=True)
    ]
    found, truth = solved[0].flatten(2), solved[1][..., ::2, ::2].flatten(2)
    error = ((found - truth).norm(dim=-1) / truth.norm(dim=-1)).numpy()
    about = {"long_name": "relative L2 difference from twice the grid", "units": "1"}
    return xr.DataArray(error, {"time": np.arange(1, frames + 1)}, ("sample", "time"), attrs=about)


# Memory


class Hidden(nn.Module):
    """A model of frames that are not all shown: the others are zeros, and a channel of ones and zeros says which.

    Args:
        model: a ``Forecaster`` with one known channel, that one.
        shown: of the frames of a sequence, which are.
    """

    def __init__(self, model: nn.Module, shown: tuple[bool, ...]):
        super().__init__()
        self.model, self.shown = model, shown

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Frames [B, T, C, H, W] -> the next ones, as many; T at most as many as ``shown``, ``horizon`` 0."""
        steps = _steps(self.shown, frames, horizon)
        shown = torch.tensor(self.shown[:steps], dtype=frames.dtype, device=frames.device).view(-1, 1, 1, 1)
        mask = shown.expand(len(frames), steps, 1, *frames.shape[-2:])
        return self.model(torch.cat([frames * shown, mask], 2))

    def extra_repr(self) -> str:
        return "shown=" + "".join("01"[there] for there in self.shown)


class Fed(nn.Module):
    """A model that was trained on whole sequences: where a frame is hidden, it has its own prediction of it."""

    def __init__(self, model: nn.Module, shown: tuple[bool, ...]):
        super().__init__()
        self.model, self.shown = model, shown

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """As of ``Hidden``."""
        predictions, states = [], None
        for time in range(_steps(self.shown, frames, horizon)):
            given = frames[:, time : time + 1] if self.shown[time] else predictions[-1]
            prediction, states = self.model.advance(given, states)
            predictions.append(prediction)
        return torch.cat(predictions, 1)


def _steps(shown: tuple[bool, ...], frames: Tensor, horizon: int) -> int:
    if whole("horizon", horizon) or frames.shape[1] > len(shown):
        raise ValueError(f"frames must be at most {len(shown)}, with horizon 0; got {frames.shape[1]} and {horizon}")
    return frames.shape[1]


def last_shown(shown: tuple[bool, ...]) -> list[int]:
    """The number of the last frame shown, at each."""
    return [*accumulate(range(len(shown)), lambda last, time: time if shown[time] else last)]


def _persistence(shown: tuple[bool, ...], frames: Tensor, horizon: int = 0) -> Tensor:
    return frames[:, last_shown(shown)[: _steps(shown, frames, horizon)]]


@dataclass(frozen=True)
class Sequences(Trajectories):
    """Every next frame of a sequence, of which some are not shown.

    Args:
        shown: which are, of all but the last; the first is.
    """

    shown: tuple[bool, ...] = ()

    @property
    def baselines(self) -> dict[str, Forecaster]:
        return {"persistence": partial(_persistence, self.shown)}

    def forecaster(self, model: nn.Module) -> Forecaster:
        return model if isinstance(model, Hidden) else Fed(model, self.shown)

    @torch.no_grad()
    def errors(self, forecaster: Forecaster) -> xr.Dataset:
        """By time of the predicted frame, with its distance ``lead`` from the last frame shown before it."""
        predicted = torch.cat([forecaster(part[:, :-1], 0) for part in self.test.split(64)])
        found = evaluate(predicted, self.test, 1, self.units)[["rmse", "relative_l2", "correlation"]]
        lead = found.time - np.array(last_shown(self.shown))
        return found.drop_vars(["phase", "k"], errors="ignore").assign_coords(lead=lead.assign_attrs(found.lead.attrs))


def patterns(frames: int = FRAMES[1e-4]) -> dict[str, tuple[bool, ...]]:
    """Which frames of a sequence are shown, all but the last: a third in the middle is not, or every second one."""
    first = frames // 3
    times = range(frames - 1)
    return {
        "blackout": tuple(not first <= time < 2 * first for time in times),
        "every second": tuple(time % 2 == 0 for time in times),
    }


def memory(profile: str | Profile | None = None, device: str = "auto") -> dict[str, Experiment]:
    """By pattern, two classical cells and their minimal ones, trained to forecast every next frame though some are
    hidden."""
    flow = turbulence(profile, device)
    size, recipe = SIZES[flow.profile.name], flow.settings["recipe"]
    training = replace(recipe.training, context=FRAMES[1e-4] - 1, horizon=0, epochs=size.memory)

    def experiment(pattern: str, shown: tuple[bool, ...]) -> Experiment:
        builds = {name: partial(_hidden, name, shown, recipe.options) for name in PAIRS}
        settings = {pattern: Setting(training, builds, recipe.seeds, recipe.options)}
        return replace(flow, name=f"{NAME}_memory", settings=settings, load=partial(_load_hidden, size, shown))

    return {pattern: experiment(pattern, shown) for pattern, shown in patterns().items()}


def fed(flow: Experiment, task: Sequences) -> xr.Dataset:
    """Errors in a memory task of the same cells as they are trained to forecast, on their own predictions where frames
    are hidden."""
    return flow.only("recipe", *PAIRS).evaluate(task=task)


def _hidden(name: str, shown: tuple[bool, ...], options: Mapping[str, Any], seed: int) -> Hidden:
    return Hidden(build_model(name, seed, **options, known=1), shown)


def _load_hidden(size: Size, shown: tuple[bool, ...], device: torch.device) -> Sequences:
    return Sequences(**vars(_load(size, 1e-4, None, device)), shown=shown)
