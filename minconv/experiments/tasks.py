"""What models learn, and how their forecasts are verified: trajectories rolled out to their end, or a dated series."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from minconv.data.forcing import Forcing
from minconv.data.grid import Field, area_weights, coarsen
from minconv.data.mask import Mask
from minconv.data.series import frames
from minconv.data.windows import Stored, pieces
from minconv.evaluation.baselines import YEAR, Climatology, DampedPersistence, RidgeRegression, persistence
from minconv.evaluation.errors import evaluate
from minconv.evaluation.forecast import (
    DAY,
    Forecaster,
    Scaled,
    as_array,
    forecasts,
    frame_step,
    init_times,
    rollout,
    verification,
)
from minconv.evaluation.weather import scores
from minconv.training.loop import Loss
from minconv.training.loss import WeightedSquare


@dataclass(frozen=True)
class Trajectories:
    """Rollouts of whole trajectories.

    Args:
        train, validation, test: [N, T, C, H, W], the last one, and what is not stored, on the device.
        context: teacher-forced frames of a test forecast; the rest is closed loop.
        units: of the frames.
        measure: what is computed of a rollout, see ``errors.evaluate``.
        loss: of a training, see ``minconv.training.fit``.
    """

    train: Tensor | Stored
    validation: Tensor | Stored
    test: Tensor
    context: int
    units: str = "1"
    measure: Callable[..., xr.Dataset] = evaluate
    loss: Loss | None = None

    @property
    def baselines(self) -> dict[str, Forecaster]:
        return {"persistence": persistence}

    def forecaster(self, model: nn.Module) -> Forecaster:
        return model

    def errors(self, forecaster: Forecaster) -> xr.Dataset:
        rolled = rollout(forecaster, self.test, self.context)
        return self.measure(rolled, self.test, self.context, units=self.units)


@dataclass(frozen=True)
class Series:
    """Forecasts of a week from a gridded series, verified by lead time.

    Args:
        parts: ``train``, ``validation`` and ``test``, each a series over (time, lat, lon), or a Dataset of C such; see
            ``split``.
        window: frames that a model is trained on at once.
        context: frames that a test forecast is made from.
        every: days from one test forecast to the next, in turn.
        anomalies: whether the models' frames are anomalies from the climatology of ``train``, or the fields themselves.
        device: of the models.
        days: of a test forecast.
        ridge: frames that a ridge regression among the baselines sees; 0: there is none.
        weights: of the variables in the loss, if they differ.
        by_area: whether cells count by their area in the loss, as they do in scores.
        mask: where the series has values, if not everywhere; the parts are filled.
        forcing: channels that models see besides and do not predict, of the frames to come as well.
    """

    parts: Mapping[str, xr.DataArray | xr.Dataset]
    window: int
    context: int = 20
    every: tuple[float, ...] = (3, 4)
    anomalies: bool = False
    device: torch.device | str = "cpu"
    days: float = 7
    ridge: int = 2
    weights: Mapping[str, float] | None = None
    by_area: bool = False
    mask: Mask | None = None
    forcing: Forcing | None = None

    @cached_property
    def climatology(self) -> Climatology:
        """Of ``train``; its mean and the day's course alone where that is less than a year."""
        train = self.parts["train"]
        return Climatology(train, annual=2 if train.sizes["time"] * frame_step(train) >= YEAR else 0)

    def frames(self, part: str) -> Tensor:
        """The models' frames [T, C, H, W] of a part, in the units of the series."""
        field = self.parts[part]
        found = frames(field)
        if self.anomalies:
            found -= torch.from_numpy(self.climatology.at(field.time).values).view_as(found)
        return found

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        values = self.frames("train").double().transpose(0, 1)  # [C, T, H, W]
        there = self._there.unsqueeze(1).expand(values.shape)
        found = [one[given].flatten() for one, given in zip(values, there, strict=True)]
        mean, std = (torch.stack(numbers) for numbers in zip(*((x.mean(), x.std()) for x in found), strict=True))
        return mean.squeeze(), std.squeeze()  # of one series numbers, which keep float32

    @cached_property
    def _there(self) -> Tensor:
        """Where frames have values, [C, H, W]."""
        first = as_array(self.parts["train"])[0]
        there = np.ones(first.shape, bool) if self.mask is None else as_array(self.mask.there).values
        return torch.from_numpy(there).reshape(-1, *first.shape[-2:])

    @cached_property
    def loss(self) -> WeightedSquare | None:
        """The square error by area, variable and mask, where these count."""
        if not (self.weights or self.by_area or self.mask):
            return None
        train = self.parts["train"]
        names = list(train.data_vars) if isinstance(train, xr.Dataset) else [train.name]
        variables = torch.tensor([float((self.weights or {}).get(name, 1)) for name in names])
        area = torch.ones(train.sizes["lat"])
        if self.by_area:
            area = torch.from_numpy(area_weights(train.lat.values)).float()
        return WeightedSquare(variables[:, None, None] * area[:, None] * self._there)

    def forecaster(self, model: nn.Module) -> Scaled:
        base = self.climatology if self.anomalies else None
        return Scaled(model, *self._scale, base, self.forcing).to(self.device)

    def _trajectories(self, part: str) -> Tensor:
        found = Scaled(nn.Identity(), *self._scale).normalise(self.frames(part))
        if self.forcing is not None:
            found = torch.cat([found, torch.from_numpy(self.forcing.at(self.parts[part].time))], dim=1)
        return pieces(found, self.window).to(self.device)

    @cached_property
    def train(self) -> Tensor:
        return self._trajectories("train")

    @cached_property
    def validation(self) -> Tensor:
        return self._trajectories("validation")

    @cached_property
    def steps(self) -> int:
        """Frames of a test forecast."""
        return round(self.days * DAY / frame_step(self.parts["test"]))

    @cached_property
    def starts(self) -> xr.DataArray:
        """When test forecasts begin."""
        return init_times(self.parts["test"], self.context, self.steps, self.every)

    @cached_property
    def truth(self) -> xr.DataArray | xr.Dataset:
        """What test forecasts are compared with."""
        return self.shown(verification(self.parts["test"], self.starts, self.steps))

    @cached_property
    def baselines(self) -> dict[str, Forecaster]:
        past = self.parts["train"], self.climatology, self.steps
        found = {"persistence": persistence, "damped persistence": DampedPersistence(*past)}
        found["climatology"] = self.climatology
        return found | ({"ridge regression": RidgeRegression(*past, self.ridge)} if self.ridge else {})

    def forecasts(self, forecaster: Forecaster, starts: xr.DataArray | None = None) -> xr.DataArray | xr.Dataset:
        """From each of the test forecasts' starts, or from some of them."""
        starts = self.starts if starts is None else starts
        return self.shown(forecasts(forecaster, self.parts["test"], starts, self.context, self.steps))

    def case(self, forecasters: Mapping[str, Forecaster], days: Sequence[float] = (1, 3, 5)) -> Field:
        """The truth and forecasts by name from the start in the middle, over (row, lead_time, lat, lon)."""
        start = self.starts[len(self.starts) // 2 :][:1]
        rows = {"truth": self.truth.sel(init_time=start.values)}
        rows |= {name: self.forecasts(forecaster, start) for name, forecaster in forecasters.items()}
        found = (
            xr.concat(rows.values(), "row", combine_attrs="override").assign_coords(row=list(rows)).isel(init_time=0)
        )
        return found.sel(lead_time=(np.array(days) * 24).astype("timedelta64[h]").astype("timedelta64[ns]"))

    def shown(self, field: Field) -> Field:
        """Without what stands in for values where the series has none."""
        return self.mask.hide(field) if self.mask else field

    def errors(self, forecaster: Forecaster) -> xr.Dataset:
        return scores(self.forecasts(forecaster), self.truth, self.climatology)


def split(series: Field, periods: Mapping[str, tuple[str, str]], least: int, factor: int = 1) -> dict[str, Field]:
    """Parts of a series, or of a Dataset of such, by first and last date, in memory.

    Args:
        periods: by part, dates as xarray selects by: ("1979", "2014").
        least: frames that a part must have.
        factor: cells of the source, in each direction, that make one of the part's.

    Raises:
        ValueError: a period has too few frames.
    """
    parts = {}
    for part, (first, last) in periods.items():
        found = series.sel(time=slice(first, last))
        if found.sizes["time"] < least:
            raise ValueError(
                f"series must have at least {least} frames from {first} to {last} ({part}); got {found.sizes['time']}"
            )
        parts[part] = (coarsen(found, factor) if factor > 1 else found).load()
    return parts


def years(periods: Mapping[str, tuple[str, str]]) -> tuple[int, int]:
    """The first and the last year of all periods."""
    dates = [np.datetime64(date, "Y").astype(int) + 1970 for period in periods.values() for date in period]
    return min(dates), max(dates)
