"""Forecasts of trajectories, and of gridded series with their dates.

A forecaster is called as ``forecaster(frames, horizon)`` with frames [B, T, C, H, W] in the units of the data, and
gives [B, T + horizon, C, H, W]: output t predicts frame t + 1, the last ``horizon`` from its own predictions. One whose
frames are anomalies says from what, by an attribute ``climatology``: this is taken from a series, and added to its
forecast.

A series is a DataArray over (time, lat, lon) in the convention of :mod:`minconv.data.series`. A forecast of it has dims
(init_time, lead_time, lat, lon): ``init_time`` is the time of the last frame that was seen, ``lead_time`` counts from
it, ``valid_time`` (init_time, lead_time) is their sum.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from minconv.data.windows import check_trajectories
from minconv.runtime.checks import positive, whole

DIMS = ("init_time", "lead_time", "lat", "lon")
DAY = np.timedelta64(1, "D")
Forecaster = Callable[[Tensor, int], Tensor]


@torch.no_grad()
def rollout(forecaster: Forecaster, trajectories: Tensor, context: int, batch: int = 64) -> Tensor:
    """Predicts frames 1..T-1 of every trajectory: ``context`` true frames, then the model's own.

    Args:
        forecaster: of frames on the device of the trajectories. A module is used in the mode it is in.
        trajectories: [N, T, C, H, W].
        context: number of teacher-forced frames, 1..T-2.
        batch: trajectories in one call.

    Returns:
        [N, T-1, C, H, W], where output t predicts frame t + 1.

    Raises:
        TypeError, ValueError: trajectories of another rank or dtype, context out of range, another shape
            from the forecaster.
    """
    context = checked_context(trajectories, context)
    horizon = trajectories.shape[1] - 1 - context
    parts = []
    for chunk in trajectories.split(whole("batch", batch, least=1)):
        part = forecaster(chunk[:, :context], horizon)
        if part.shape != chunk[:, 1:].shape:
            raise ValueError(f"model must return frames of shape {list(chunk[:, 1:].shape)}; got {list(part.shape)}")
        parts.append(part)
    return torch.cat(parts)


def checked_context(trajectories: Tensor, context: int) -> int:
    """Returns ``context`` if it leaves at least one closed-loop step of the trajectories [N, T, C, H, W]."""
    check_trajectories(trajectories, 3)
    frames = trajectories.shape[1]
    if (context := whole("context", context, least=1)) > frames - 2:
        raise ValueError(f"context must be at most {frames - 2}, two less than the {frames} frames; got {context}")
    return context


def forecast(forecaster: Forecaster, history: xr.DataArray, steps: int) -> xr.DataArray:
    """Continues a series.

    Args:
        forecaster: of frames [1, T, 1, H, W] in the units of ``history``.
        history: over (time, lat, lon), at least two frames, evenly spaced, none missing.
        steps: how many frames to forecast.

    Returns:
        Over (init_time, lead_time, lat, lon), with one init time, the last of ``history``, and leads of 1 to ``steps``
        frames; units and names are those of ``history``.

    Raises:
        TypeError, ValueError: ``history`` is no such series, has missing values, or the forecaster returns another
            shape.
    """
    frame_step(history)
    return forecasts(forecaster, history, history.time[-1:], history.sizes["time"], steps)


@torch.no_grad()
def forecasts(
    forecaster: Forecaster,
    series: xr.DataArray,
    init_times: Sequence[np.datetime64] | xr.DataArray,
    context: int,
    steps: int,
    batch: int = 32,
) -> xr.DataArray:
    """Many forecasts from one series: from each of ``init_times``, the last of ``context`` frames; see ``forecast``.

    Args:
        batch: forecasts made at once.
    """
    step, last = frame_step(series), positions(series, init_times, whole("context", context, 1))
    whole("steps", steps, 1)
    climatology = getattr(forecaster, "climatology", None)
    if climatology is not None:
        same_grid(climatology, series)
    values = series.values if climatology is None else series.values - climatology.at(series.time).values
    on = next(iter(getattr(forecaster, "parameters", list)()), torch.empty(0)).device
    rows = []
    for start in range(0, len(last), whole("batch", batch, 1)):
        histories = last[start : start + batch, None] + np.arange(1 - context, 1)
        frames = torch.from_numpy(values[histories].astype(values.dtype.newbyteorder("="), copy=False)).unsqueeze(2)
        if not frames.isfinite().all():
            raise ValueError("series must have no missing values where forecasts start; got nan or inf")
        predicted = forecaster(frames.to(on), steps - 1)
        expected = [len(frames), context + steps - 1, *frames.shape[2:]]
        if list(predicted.shape) != expected:
            raise ValueError(f"model must return frames of shape {expected}; got {list(predicted.shape)}")
        rows.append(predicted[:, context - 1 :, 0].cpu().numpy())
    found = _labelled(np.concatenate(rows), series, last, step)
    return found if climatology is None else found.copy(data=found.values + climatology.at(found.valid_time).values)


class Scaled(nn.Module):
    """A model of normalised frames as one of frames in their own units.

    Args:
        model: called as ``model(frames, horizon)``.
        mean, std: numbers, or arrays that broadcast to a frame [H, W]: normalised frames are (frames - mean) / std.
        climatology: what the frames are anomalies from, if they are.
    """

    def __init__(self, model: nn.Module, mean: float | Tensor, std: float | Tensor, climatology: Any = None):
        super().__init__()
        self.model, self.climatology = model, climatology
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64))
        if not (self.mean.isfinite().all() and self.std.isfinite().all() and (self.std > 0).all()):
            raise ValueError(f"mean must be finite and std above 0; got {mean} and {std}")

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames [..., H, W] as the model sees them; in double precision in between, as the mean may be large."""
        return ((frames - self.mean) / self.std).to(frames.dtype)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Frames [B, T, C, H, W] -> predictions [B, T + horizon, C, H, W], both in the series' units."""
        return (self.model(self.normalise(frames), horizon) * self.std + self.mean).to(frames.dtype)


def init_times(series: xr.DataArray, context: int, steps: int, every: Sequence[int] = (3, 4)) -> xr.DataArray:
    """Times to start forecasts at, two a week by default, that have ``context`` frames before and ``steps`` after.

    Args:
        every: days from one start to the next, in turn.
    """
    step, times = frame_step(series), series.time
    first, final = whole("context", context, 1) - 1, times.size - 1 - whole("steps", steps, 1)
    days = [round(positive("every", days) * DAY / step) for days in every]
    chosen, position = [], first
    while position <= final:
        chosen.append(position)
        position += max(1, days[(len(chosen) - 1) % len(days)])
    if not chosen:
        raise ValueError(f"series must have {context} frames before and {steps} after a start; got {times.size} frames")
    return times[chosen]


def verification(series: xr.DataArray, init_times: Sequence[np.datetime64] | xr.DataArray, steps: int) -> xr.DataArray:
    """What came true: the frames of ``series`` that forecasts of ``steps`` from ``init_times`` are compared with."""
    step, last = frame_step(series), positions(series, init_times)
    after = last[:, None] + np.arange(1, whole("steps", steps, 1) + 1)
    if after.max() >= series.sizes["time"]:
        raise ValueError(f"series must have {steps} frames after {series.time.values[last.max()]}; it ends too early")
    return _labelled(series.values[after], series, last, step)


def frame_step(series: xr.DataArray) -> np.timedelta64:
    """The time between frames; raises unless ``series`` is over (time, lat, lon) and evenly spaced."""
    if not isinstance(series, xr.DataArray):
        raise TypeError(f"series must be a DataArray over (time, lat, lon); got {type(series).__name__}")
    if series.dims != ("time", "lat", "lon") or series.sizes["time"] < 2 or set(series.dims) - set(series.coords):
        raise ValueError(
            f"series must be over (time, lat, lon), with their coordinates and two times or more; "
            f"got {dict(series.sizes)} with {', '.join(map(str, series.coords)) or 'none'}; "
            "minconv.data.open_series brings a file into this form"
        )
    if series.dtype.kind != "f" or series.dtype.itemsize > 8:
        raise TypeError(f"series must be of float32 or float64; got {series.dtype}")
    if series.time.dtype.kind not in "MO":
        raise TypeError(f"series must have dates for times; got {series.time.dtype}")
    steps = np.diff(series.time.values).astype("timedelta64[ns]")
    if (steps != steps[0]).any() or steps[0] <= np.timedelta64(0):
        odd = int(np.flatnonzero(steps != steps[0])[0]) if (steps != steps[0]).any() else 0
        raise ValueError(f"series must have evenly spaced times; after {series.time.values[odd]} they are not")
    return steps[0]


def positions(series: xr.DataArray, times: Iterable, context: int = 1) -> np.ndarray:
    """Where ``times`` are in the series; raises unless each is the last of ``context`` frames."""
    wanted = np.atleast_1d(np.asarray(times))
    found = series.indexes["time"].get_indexer(wanted)
    if not wanted.size or (found < context - 1).any():
        bad = wanted[found < context - 1][:1].tolist() or ["none"]
        span = f"{series.time.values[min(context, series.sizes['time']) - 1]} to {series.time.values[-1]}"
        raise ValueError(f"init_times must be times of the series, {span}; got {bad[0]}")
    return found


def _labelled(values: np.ndarray, series: xr.DataArray, last: np.ndarray, step: np.timedelta64) -> xr.DataArray:
    """Forecasts [starts, steps, lat, lon] that begin one ``step`` after the frames ``last`` of the series."""
    leads = step * np.arange(1, values.shape[1] + 1)
    start = series.time.values[last]
    coordinates = {
        "init_time": ("init_time", start, {"long_name": "time of the last frame seen"}),
        "lead_time": ("lead_time", leads, {"long_name": "lead time"}),
        "lat": series.lat,
        "lon": series.lon,
        "valid_time": (("init_time", "lead_time"), _later(start, leads), {"long_name": "time forecast"}),
    }
    return xr.DataArray(values, coordinates, DIMS, series.name, series.attrs)


def _later(start: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """[starts, leads]; dates of other calendars are Python objects and want such leads."""
    return start[:, None] + (leads.astype("timedelta64[us]").astype(object) if start.dtype == object else leads)


def same_grid(climatology: Any, field: xr.DataArray) -> None:
    for axis in ("lat", "lon"):
        if not np.array_equal(climatology.series[axis], field[axis]):
            raise ValueError(f"climatology must be on the same grid as the series; its {axis} differs")
