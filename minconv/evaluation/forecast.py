"""Forecasts of trajectories, and of gridded series with their dates.

A forecaster is called as ``forecaster(frames, horizon)`` with frames [B, T, C, H, W] in the units of the data, and
gives [B, T + horizon, C, H, W]: output t predicts frame t + 1, the last ``horizon`` from its own predictions. It may
give the last horizon + 1 alone, [B, horizon + 1, C, H, W], the frames after those it was given. One whose frames are
anomalies says from what, by an attribute ``climatology``: this is taken from a series, and added to its forecast. One
that also sees channels known in the future has them by an attribute ``forcing``, and is given frames
[B, T + horizon, C + K, H, W] instead.

A series is a DataArray over (time, lat, lon) in the convention of :mod:`minconv.data.series`, or a Dataset of several
variables, which are the channels of the frames. A forecast of it is one too, with dims (init_time, lead_time, lat,
lon): ``init_time`` is the time of the last frame that was seen, ``lead_time`` counts from it, ``valid_time``
(init_time, lead_time) is their sum. Inside, both are one array over (time, lat, lon) or (time, variable, lat, lon).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from minconv.data.grid import Field
from minconv.data.windows import check_trajectories
from minconv.runtime.checks import familiar, positive, whole

DIMS = ("init_time", "lead_time", "lat", "lon")  # of a forecast
DAY = np.timedelta64(1, "D")
VARIABLE = "variable"  # the dimension of several
Forecaster = Callable[[Tensor, int], Tensor]


@torch.no_grad()
def rollout(forecaster: Forecaster, trajectories: Tensor, context: int, batch: int = 64) -> Tensor:
    """Predicts frames 1..T-1 of every trajectory: ``context`` true frames, then the model's own.

    Args:
        forecaster: of frames on the device of the trajectories. A module is used in the mode it is in, and one that has
            a ``normalisation`` in the units of the data.
        trajectories: [N, T, C, H, W].
        context: number of teacher-forced frames, 1..T-2.
        batch: trajectories in one call.

    Returns:
        [N, T-1, C, H, W], where output t predicts frame t + 1; of a forecaster that gives new frames alone, NaN before
        output context - 1.

    Raises:
        TypeError, ValueError: trajectories of another rank or dtype, context out of range, another shape
            from the forecaster.
    """
    context = checked_context(trajectories, context)
    horizon = trajectories.shape[1] - 1 - context
    forecaster, parts = in_units(forecaster), []
    for chunk in trajectories.split(whole("batch", batch, least=1)):
        part = forecaster(chunk[:, :context].clone(), horizon)  # a model may work in place; the truth stays
        missing = _missing(part, chunk[:, 1:].shape, horizon)
        parts.append(nn.functional.pad(part, (0,) * 6 + (missing, 0), value=math.nan) if missing else part)
    return torch.cat(parts)


def _missing(predicted: Tensor, expected: Sequence[int], horizon: int) -> int:
    """How many of the ``expected`` predictions, the first, are not there; ValueError unless horizon + 1 or all are."""
    batch, steps, *frame = expected
    if predicted.shape not in ((batch, steps, *frame), (batch, horizon + 1, *frame)):
        raise ValueError(f"model must return frames of shape {list(expected)}; got {list(predicted.shape)}")
    return steps - predicted.shape[1]


def checked_context(trajectories: Tensor, context: int) -> int:
    """Returns ``context`` if it leaves at least one closed-loop step of the trajectories [N, T, C, H, W]."""
    check_trajectories(trajectories, 3)
    frames = trajectories.shape[1]
    if (context := whole("context", context, least=1)) > frames - 2:
        raise ValueError(f"context must be at most {frames - 2}, two less than the {frames} frames; got {context}")
    return context


def forecast(forecaster: Forecaster, history: Field, steps: int) -> Field:
    """Continues a series.

    Args:
        forecaster: of frames [1, T, C, H, W] in the units of ``history``, such as a model that has a normalisation.
        history: over (time, lat, lon), or a Dataset of C such variables; at least two frames, evenly spaced, none
            missing.
        steps: how many frames to forecast.

    Returns:
        Over (init_time, lead_time, lat, lon), with one init time, the last of ``history``, and leads of 1 to ``steps``
        frames; units and names are those of ``history``.

    Raises:
        TypeError, ValueError: ``history`` is no such series, has missing values, or is not of the grid, step and range
            of a model that comes with the package; or the forecaster returns another shape.
    """
    frame_step(history)
    return forecasts(forecaster, history, history.time[-1:], history.sizes["time"], steps)


@torch.no_grad()
def forecasts(
    forecaster: Forecaster,
    series: Field,
    init_times: Sequence[np.datetime64] | xr.DataArray,
    context: int,
    steps: int,
    batch: int = 32,
) -> Field:
    """Many forecasts from one series: from each of ``init_times``, the last of ``context`` frames; see ``forecast``.

    Args:
        batch: forecasts made at once.
    """
    step, last = frame_step(series), positions(series, init_times, whole("context", context, 1))
    whole("steps", steps, 1)
    forecaster, field = in_units(forecaster), as_array(series)
    climatology, forcing = (getattr(forecaster, name, None) for name in ("climatology", "forcing"))
    if climatology is not None:
        same_grid(climatology, field)
    values = field.values if climatology is None else field.values - climatology.at(field.time).values
    values = values.reshape(len(values), -1, *values.shape[-2:])  # [T, C, H, W]
    _check_series(forecaster, field, step, values)
    on = next(iter(getattr(forecaster, "parameters", list)()), torch.empty(0)).device
    rows = []
    for start in range(0, len(last), whole("batch", batch, 1)):
        histories = last[start : start + batch, None] + np.arange(1 - context, 1)
        frames = torch.from_numpy(values[histories].astype(values.dtype.newbyteorder("="), copy=False))
        if not frames.isfinite().all():
            raise ValueError("series must have no missing values where forecasts start; got nan or inf")
        expected = (len(frames), context + steps - 1, *frames.shape[2:])
        if forcing is not None:
            moments = _later(field.time.values[last[start : start + batch]], step * np.arange(1 - context, steps))
            frames = with_known(frames, torch.from_numpy(forcing.at(xr.DataArray(moments, dims=DIMS[:2]))))
        predicted = forecaster(frames.to(on), steps - 1)
        _missing(predicted, expected, steps - 1)
        rows.append(predicted[:, -steps:].to("cpu", frames.dtype).numpy())
    found = _labelled(np.concatenate(rows), field, last, step)
    if climatology is not None:
        found = found.copy(data=found.values + climatology.at(found.valid_time).values)
    return as_given(found, series)


def _check_series(forecaster: Forecaster, field: xr.DataArray, step: np.timedelta64, values: np.ndarray) -> None:
    """Refuses a series of another grid, step or range than a model that comes with the package has been trained on."""
    frames = getattr(getattr(forecaster, "model", None), "frames", None) or {}
    for dim in frames.keys() & {"lat", "lon"}:
        wanted, found = np.array(frames[dim]), field[dim].values
        if wanted.shape != found.shape or not np.allclose(found, wanted, atol=1e-3):
            ends = [f"{len(one)} from {one[0]:g} to {one[-1]:g} degrees" for one in (wanted, found)]
            raise ValueError(f"series must have the model's grid, {dim} {ends[0]}; got {ends[1]}")
    if frames and (hours := f"{step / np.timedelta64(1, 'h'):g} h") != frames["step"]:
        raise ValueError(
            f"series must have a frame every {frames['step']}, as the model was trained; got one every {hours}"
        )
    familiar(np.nanmin(values), np.nanmax(values), frames)


def with_known(frames: Tensor, known: Tensor) -> Tensor:
    """Frames [B, T, C, H, W] and known channels [B, T', K, H, W] of T' >= T as one tensor [B, T', C + K, H, W]."""
    ahead = known.shape[1] - frames.shape[1]
    return torch.cat([nn.functional.pad(frames, (0,) * 7 + (ahead,)), known.to(frames)], dim=2)


def in_units(forecaster: Forecaster) -> Forecaster:
    """A model that keeps what its frames were normalised with, as a forecaster in the units of the data."""
    normalisation = getattr(forecaster, "normalisation", None)
    return Scaled(forecaster, *normalisation) if normalisation else forecaster


class Scaled(nn.Module):
    """A model of normalised frames as one of frames in their own units.

    Args:
        model: called as ``model(frames, horizon)``.
        mean, std: numbers, one for each channel, or arrays that broadcast to a frame [C, H, W]: normalised frames are
            (frames - mean) / std.
        climatology: what the frames are anomalies from, if they are.
        forcing: the known channels that the model sees as well, a ``minconv.data.forcing.Forcing``.
    """

    def __init__(self, model: nn.Module, mean: Any, std: Any, climatology: Any = None, forcing: Any = None):
        super().__init__()
        self.model, self.climatology, self.forcing = model, climatology, forcing
        for name, value in (("mean", mean), ("std", std)):
            value = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value), dtype=torch.float64)
            self.register_buffer(name, value[:, None, None] if value.dim() == 1 else value)
        if not (self.mean.isfinite().all() and self.std.isfinite().all() and (self.std > 0).all()):
            raise ValueError(f"mean must be finite and std above 0; got {mean} and {std}")

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames [..., C, H, W] as the model sees them; in double precision in between, as the mean may be large."""
        return ((frames - self.mean) / self.std).to(frames.dtype)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Frames [B, T, C, H, W] -> the model's predictions, as many, both in the series' units."""
        if self.forcing is not None:
            frames, known = frames.tensor_split([frames.shape[2] - self.forcing.count], dim=2)
            seen = torch.cat([self.normalise(frames), known], dim=2)
        else:
            seen = self.normalise(frames)
        return (self.model(seen, horizon) * self.std + self.mean).to(frames.dtype)


def init_times(series: Field, context: int, steps: int, every: Sequence[float] = (3, 4)) -> xr.DataArray:
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


def verification(series: Field, init_times: Sequence[np.datetime64] | xr.DataArray, steps: int) -> Field:
    """What came true: the frames of ``series`` that forecasts of ``steps`` from ``init_times`` are compared with."""
    step, last = frame_step(series), positions(series, init_times)
    after = last[:, None] + np.arange(1, whole("steps", steps, 1) + 1)
    if after.max() >= series.sizes["time"]:
        raise ValueError(f"series must have {steps} frames after {series.time.values[last.max()]}; it ends too early")
    field = as_array(series)
    values = field.values[after]
    return as_given(_labelled(values.reshape(*values.shape[:2], -1, *values.shape[-2:]), field, last, step), series)


def as_array(field: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """A Dataset as one array, its variables along a dimension before lat and lon; a DataArray as it is."""
    if not isinstance(field, xr.Dataset):
        return field
    array = field.to_dataarray(VARIABLE)
    return array.transpose(*(dim for dim in array.dims if dim not in (VARIABLE, "lat", "lon")), VARIABLE, "lat", "lon")


def as_given(array: xr.DataArray, given: Field) -> Field:
    """What was made of ``as_array(given)`` as a Dataset again, if that is what was given."""
    if not isinstance(given, xr.Dataset):
        return array
    found = array.to_dataset(VARIABLE).assign_attrs(given.attrs)
    return found.assign({name: found[name].assign_attrs(given[name].attrs) for name in given.data_vars})


def frame_step(series: xr.DataArray | xr.Dataset) -> np.timedelta64:
    """The time between frames; raises unless ``series`` is over (time, lat, lon) and evenly spaced."""
    if not isinstance(series, xr.DataArray | xr.Dataset):
        raise TypeError(f"series must be a DataArray over (time, lat, lon) or a Dataset; got {type(series).__name__}")
    if isinstance(series, xr.Dataset) and not series.data_vars:
        raise ValueError("series must have one variable or more; got none")
    for field in series.data_vars.values() if isinstance(series, xr.Dataset) else (series,):
        dims = tuple(dim for dim in field.dims if dim != VARIABLE)
        if dims != ("time", "lat", "lon") or field.sizes["time"] < 2 or set(dims) - set(field.coords):
            raise ValueError(
                f"series must be over (time, lat, lon), with their coordinates and two times or more; "
                f"got {dict(field.sizes)} with {', '.join(map(str, field.coords)) or 'none'}; "
                "minconv.data.open_series brings a file into this form"
            )
        if field.dtype.kind != "f" or field.dtype.itemsize > 8:
            raise TypeError(f"series must be of float32 or float64; got {field.dtype}")
    if series.time.dtype.kind not in "MO":
        raise TypeError(f"series must have dates for times; got {series.time.dtype}")
    steps = np.diff(series.time.values)  # in the unit of the times: nanoseconds reach from 1678 to 2262 alone
    steps = steps.astype("timedelta64[ns]") if steps.dtype == object else steps
    if (steps != steps[0]).any() or steps[0] <= np.timedelta64(0):
        odd = int(np.flatnonzero(steps != steps[0])[0]) if (steps != steps[0]).any() else 0
        raise ValueError(f"series must have evenly spaced times; after {series.time.values[odd]} they are not")
    return steps[0]


def positions(series: xr.DataArray | xr.Dataset, times: Iterable, context: int = 1) -> np.ndarray:
    """Where ``times`` are in the series; raises unless each is the last of ``context`` frames."""
    wanted = np.atleast_1d(np.asarray(times))
    found = series.indexes["time"].get_indexer(wanted)
    if not wanted.size or (found < context - 1).any():
        bad = wanted[found < context - 1][:1].tolist() or ["none"]
        span = f"{series.time.values[min(context, series.sizes['time']) - 1]} to {series.time.values[-1]}"
        raise ValueError(f"init_times must be times of the series, {span}; got {bad[0]}")
    return found


def _labelled(values: np.ndarray, field: xr.DataArray, last: np.ndarray, step: np.timedelta64) -> xr.DataArray:
    """Forecasts [starts, steps, C, lat, lon] that begin one ``step`` after the frames ``last`` of the series."""
    leads = step * np.arange(1, values.shape[1] + 1)
    start = field.time.values[last]
    coordinates = {
        "init_time": ("init_time", start, {"long_name": "time of the last frame seen"}),
        "lead_time": ("lead_time", leads, {"long_name": "lead time"}),
        "lat": field.lat,
        "lon": field.lon,
        "valid_time": (("init_time", "lead_time"), _later(start, leads), {"long_name": "time forecast"}),
    }
    dims = (*DIMS[:2], *field.dims[1:])
    if VARIABLE in dims:
        coordinates[VARIABLE] = field[VARIABLE]
    return xr.DataArray(values.reshape(*values.shape[:2], *field.shape[1:]), coordinates, dims, field.name, field.attrs)


def _later(start: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """[starts, leads]; dates of other calendars are Python objects and want such leads."""
    return start[:, None] + (leads.astype("timedelta64[us]").astype(object) if start.dtype == object else leads)


def same_grid(climatology: Any, field: xr.DataArray) -> None:
    for axis in ("lat", "lon"):
        if not np.array_equal(climatology.series[axis], field[axis]):
            raise ValueError(f"climatology must be on the same grid as the series; its {axis} differs")
    found, wanted = (
        list(map(str, x[VARIABLE].values)) if VARIABLE in x.dims else [] for x in (climatology.series, field)
    )
    if found != wanted:
        raise ValueError(f"climatology must be of the same variables as the series; got {found}, not {wanted}")
