"""What explains a result: how long a step takes, how far a change reaches in one, and into how many directions
training moves kernels."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.flop_counter import FlopCounterMode

from minconv.bench.measure import measure, training_step
from minconv.data import navier_stokes as solver
from minconv.data.windows import FixedWindows
from minconv.experiments.experiment import Experiment
from minconv.experiments.navier_stokes import GRID, SPLITS
from minconv.runtime.checks import whole
from minconv.runtime.device import pick_device
from minconv.training import load_weights
from minconv.training.muon import is_kernel


def step_seconds(experiment: Experiment, *settings: str, rounds: int = 15) -> xr.DataArray:
    """How long a training step of every model of some settings takes, forward and backward, over (setting, model).

    Medians of rounds in which all take turns; NaN where a setting has no such model.
    """
    calls = _training_steps(experiment, settings)
    taken = measure({" ".join(key): call for key, call in calls.items()}, rounds, device=pick_device(experiment.device))
    seconds = taken.median("repeat").values
    return _by_model(dict(zip(calls, seconds, strict=True)), settings, "seconds", long_name="step", units="s")


def training_minutes(experiment: Experiment, *settings: str, rounds: int = 15) -> xr.DataArray:
    """How long a training of every model takes, over (setting, model): its steps times what one takes, measured now."""
    minutes = step_seconds(experiment, *settings, rounds=rounds) / 60
    for name in settings:
        for model, (run, *_) in experiment.runs(name).items():
            steps = run.settings.epochs * (len(experiment.task.train) // run.settings.batch)
            minutes.loc[name, model] *= steps
    return minutes.assign_attrs(long_name="training", units="min")


def multiply_adds(experiment: Experiment, *settings: str) -> xr.DataArray:
    """Multiply-adds of a training step of every model of some settings, forward and backward, over (setting, model):
    those of convolutions and matrix products. NaN where a setting has no such model.

    Counted by PyTorch (``torch.utils.flop_counter``) in float64, in which convolutions are direct ones; Winograd's of
    float32 come to the same result with fewer.
    """
    counts = {}
    for key, call in _training_steps(experiment, settings, torch.float64).items():
        with FlopCounterMode(display=False) as counter:
            call()
        counts[key] = counter.get_total_flops() / 2
    return _by_model(counts, settings, "multiply_adds", long_name="multiply-adds of a step", units="1")


def _training_steps(
    experiment: Experiment, settings: Sequence[str], dtype: torch.dtype = torch.float32
) -> dict[tuple[str, str], Callable[[], object]]:
    calls, train, device = {}, experiment.task.train, pick_device(experiment.device)
    for name in settings:
        found = experiment.settings[name]
        frames = next(FixedWindows(train, found.window + 1).share(batch=found.training.batch)).to(device, dtype)
        for model, build in found.models.items():
            calls[name, model] = training_step(build(0).to(device, dtype), frames, found.training.horizon)
    return calls


def _by_model(found: Mapping[tuple[str, str], float], settings: Sequence[str], name: str, **about: str) -> xr.DataArray:
    places = {"setting": list(settings), "model": list(dict.fromkeys(model for _, model in found))}
    values = xr.DataArray(np.nan, places, ("setting", "model"), name, about)
    for key, value in found.items():
        values.loc[key] = value
    return values


@torch.no_grad()
def influence(
    step: Callable[[Tensor], Tensor], fields: Tensor, size: int, cells: int = 8, change: float = 1e-3, seed: int = 0
) -> Tensor:
    """How far a change of one cell reaches in one step: root mean square response by distance, per unit of change.

    Distance is the larger of those in rows and columns, on the torus, as a square kernel reaches.

    Args:
        step: from fields [B, H, W] to the fields [B, size, size] one frame later.
        fields: [N, H, W], H and W a multiple of ``size``: where they are finer, a cell is a block of them.
        size: cells in each direction.
        cells: how many are changed in each field, one at a time, chosen at random.
        change: what is added to a cell.
        seed: of the choice.

    Returns:
        [size // 2 + 1], for distances 0, 1, ...; the square is a mean over fields, changed cells and cells at that
        distance.
    """
    pool = fields.shape[-1] // whole("size", size, least=2)
    draw = torch.Generator().manual_seed(whole("seed", seed))
    places = torch.randint(size, (len(fields), whole("cells", cells, least=1), 2), generator=draw)
    grid = torch.arange(size)
    before, squares = step(fields), []
    for y, x in places.permute(1, 2, 0):
        apart = [(grid - at[:, None]).remainder(size) for at in (y, x)]
        rows, columns = (torch.minimum(d, size - d).to(fields.device) for d in apart)  # [N, size]
        distance = torch.maximum(rows[:, :, None], columns[:, None])
        block = (distance == 0).repeat_interleave(pool, 1).repeat_interleave(pool, 2)
        response = (step(fields + change * block.to(fields.dtype)) - before) / change
        total = response.new_zeros(size // 2 + 1).index_add(0, distance.flatten(), response.square().flatten())
        squares.append(total / distance.flatten().bincount())
    return torch.stack(squares).mean(0).sqrt()


def flow_influence(samples: int = 4, time: float = 30.0) -> Tensor:
    """``influence`` of the flow itself, by the solver from developed states: [9]."""
    forcing = solver.forcing().double()
    start = solver.initial_vorticity(samples, seed=len(SPLITS) + 1).double()
    developed = solver.solve(start, [time], forcing=forcing)[:, 0]

    def step(fields: Tensor) -> Tensor:
        later = solver.solve(fields, [1.0], forcing=forcing)
        return avg_pool2d(later, later.shape[-1] // GRID)[:, 0]

    return influence(step, developed, GRID)


def model_influence(experiment: Experiment, setting: str, model: str) -> Tensor:
    """``influence`` of a setting's forecasters of one name after 30 test frames, in the mean over seeds: [9]."""
    frames = experiment.task.test[:4, :31]

    def of(forecaster: nn.Module) -> Tensor:
        with torch.no_grad():
            _, states = forecaster.advance(frames[:, :-1])
        return influence(
            lambda fields: forecaster.advance(fields[:, None, None], states)[0][:, 0, 0], frames[:, -1, 0], GRID
        )

    found = [of(trained) for name, _, trained in experiment.trained(setting) if name == model]
    return torch.stack(found).square().mean(0).sqrt().cpu()


def kernel_changes(experiment: Experiment, setting: str, model: str, places: int = 33) -> Tensor:
    """How many directions training uses: singular values of what it has added to the kernels of a model's seeds.

    A kernel is a matrix [out, in kH kW]. Its singular values are divided by the largest and taken at ``places`` from
    the first of them to the last; the geometric mean over kernels: [seeds, places].
    """

    def change(before: Tensor, after: Tensor) -> Tensor:
        values = torch.linalg.svdvals((after - before).flatten(1).double()).log()
        at = np.linspace(0, len(values) - 1, places)
        return torch.from_numpy(np.interp(at, np.arange(len(values)), values - values[0]))

    rows = []
    for run in experiment.runs(setting)[model]:
        for seed, weights in load_weights(run.folder).items():
            before = run.build(seed).state_dict()
            kernels = [name for name, weight in weights.items() if is_kernel(weight)]
            rows.append(torch.stack([change(before[name], weights[name]) for name in kernels]).mean(0).exp())
    return torch.stack(rows)
