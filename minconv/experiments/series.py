"""Anybody's series, from what ``open_series`` gives to forecasts that are verified beside the simple baselines.

series = open_series("europe.nc", ["z", "t", "msl"])
study = series_experiment(series, "runs/europe", train=("2000", "2007"), validation=("2008", "2008"), test=...)
study.train()
scores = study.evaluate()
week = study.forecast(series.isel(time=slice(-20, None)), steps=7)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from minconv.data.forcing import Forcing
from minconv.data.grid import Field, cell_edges, goes_round
from minconv.data.mask import Mask
from minconv.evaluation.combine import Combination, stacked
from minconv.evaluation.forecast import DAY, as_array, forecast, frame_step, init_times
from minconv.experiments.experiment import Entry, Experiment, Setting, Task
from minconv.experiments.tasks import Series, split
from minconv.models import MODELS, PEERS, build_model
from minconv.runtime.checks import choice, positive
from minconv.training import Training

SMALL = Training(context=8, batch=8, noise=0.3)  # a record of some thousand frames
UPDATES = 700  # of a training on it, about: with more, models learn it by heart
LARGEST = 2**28  # numbers that a ridge regression may have, 1 GiB
SHAPE = {"layers": 3, "dilation": (1, 2, 4), "norm": "frame", "increment": True}
EVERY = (1.25,)  # days: at each hour of the day in turn, where there are several


@dataclass(frozen=True)
class SeriesExperiment(Experiment):
    """An experiment on a dated series, which forecasts beyond its end as well; see ``series_experiment``."""

    @cached_property
    def stack(self) -> Combination:
        """Models, each the mean of its seeds, and what else was fitted, weighted on the validation part."""
        task, members = self.task, {}
        for name, _, model in self.trained():
            members.setdefault(name, []).append(task.forecaster(model))
        held = task.parts["validation"]
        starts = init_times(held, task.context, task.steps, task.every)
        learned = [baseline for name, baseline in task.baselines.items() if name not in ("persistence", "climatology")]
        return stacked([*map(Combination, members.values()), *learned], held, starts, task.context, task.steps)

    def forecasters(self, setting: str | None = None, task: Task | None = None) -> Iterator[Entry]:
        """As of every experiment; with the models of the first setting, of which it is made, the ``stack``."""
        yield from super().forecasters(setting, task)
        if setting in (None, next(iter(self.settings))):
            yield "stack", None, self.stack

    def forecast(self, history: Field, steps: int) -> Field:
        """Continues a series like that of the experiment with the ``stack``.

        Args:
            history: its last frames, as many as a test forecast sees, or more.
            steps: how many frames to forecast, at most as many as a test forecast has.

        Returns:
            Over (init_time, lead_time, lat, lon), in the units of the series.

        Raises:
            TypeError, ValueError: no such series, or more steps than the stack has weights for.
        """
        mask = self.task.mask
        return self.task.shown(forecast(self.stack, mask.fill(history) if mask else history, steps))


def series_experiment(
    series: Field,
    folder: str | Path,
    *,
    train: tuple[str, str],
    validation: tuple[str, str],
    test: tuple[str, str],
    models: Iterable[str] = ("minconvlstm",),
    seeds: Iterable[int] = (1, 2, 3),
    days: float = 7,
    training: Training | None = None,
    weights: Mapping[str, float] | None = None,
    by_area: bool = False,
    known: Sequence[str | xr.DataArray] = (),
    device: str = "auto",
    **options: Any,
) -> SeriesExperiment:
    """Models of a series, trained on anomalies from its climatology and verified beside the simple baselines.

    Cells that have no value at any time, as over land in a series of the sea, count neither in the loss nor in scores,
    and have none in forecasts.

    Args:
        series: over (time, lat, lon), or a Dataset of several variables, from ``minconv.data.open_series``.
        folder: where runs are kept, and continued.
        train, validation, test: first and last date of each period, as xarray selects by: ("2000", "2007").
        models: names in ``minconv.models.MODELS`` or ``PEERS``.
        seeds: of each model.
        days: of a forecast; ridge regression is among the baselines where its map from cells to cells fits
            1 GiB and the record is six times as long.
        training: how to train; by default few updates and noisy inputs, for records of some thousand frames.
        weights: of variables in the loss, such as {"z": 2}; by default all count alike.
        by_area: whether cells count by their area in the loss, as they do in scores.
        known: what models see besides, of the days to come as well: ``insolation`` and ``season``, which date and place
            tell, and fields over (lat, lon) that do not change, such as orography; see ``minconv.data.forcing``.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: of the models, see ``minconv.Forecaster``; by default three dilated layers that predict increments, at
            the sizes of the paper's for geopotential, padded as the grid is: around the globe, or the edge goes on.

    Raises:
        TypeError, ValueError: no such series, a period without enough frames, or an unknown model.
    """
    field, steps = as_array(series), round(positive("days", days) * DAY / frame_step(series))
    if not steps:
        raise ValueError(f"days must be at least a step of the series; got {days}")
    names = list(series.data_vars) if isinstance(series, xr.Dataset) else [series.name]
    for name, weight in (weights or {}).items():
        positive(f"weights of {choice('weights', name, names)}", weight, zero=True)
    periods = {"train": train, "validation": validation, "test": test}
    given = training or replace(SMALL, horizon=min(12, steps - 1))
    parts = split(series, periods, max(2 * (given.context + given.horizon), given.context + steps))
    if mask := Mask.of(parts["train"]):
        parts = {name: mask.fill(part) for name, part in parts.items()}
    if training is None:
        windows = parts["train"].sizes["time"] // (given.context + given.horizon) - 1
        batch = min(given.batch, windows)
        given = replace(given, batch=batch, epochs=max(1, round(UPDATES * batch / windows)))
    fixed = {"size": field.shape[-2:], "channels": len(names)}
    forcing = Forcing(field, known) if len(known) else None
    fixed |= {"known": forcing.count} if forcing else {}
    options = SHAPE | {"padding": _padding(field)} | options | fixed
    builds, registry = {}, MODELS | PEERS
    for name in models:
        model = registry[choice("models", name, registry)]
        shared = {"hidden": model.channels[1]} | options
        builds[name] = partial(build_model, model, **model.options(shared, given.context, given.horizon))

    def load(on: torch.device) -> Series:
        small, long = 3 * steps * field[0].size ** 2 <= LARGEST, parts["train"].sizes["time"] >= 6 * (steps + 1)
        ridge = 3 if small and long else 0
        window = given.context + given.horizon
        return Series(parts, window, given.context, EVERY, True, on, days, ridge, weights, by_area, mask, forcing)

    setting = Setting(given, builds, tuple(seeds), options)
    return SeriesExperiment("series", Path(folder), {"recipe": setting}, load, device)


def _padding(field: xr.DataArray) -> str:
    """What is beyond the grid's edges: the rest of the globe, or nothing known."""
    if not goes_round(field.lon.values):
        return "replicate"
    south, north = cell_edges(field)[0][[0, -1]]
    return "sphere" if (south, north) == (-90, 90) else "cylinder"
