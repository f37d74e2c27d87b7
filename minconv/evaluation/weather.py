"""Forecasts of gridded series as xarray, and their verification as meteorologists do it.

A series is a DataArray over (time, lat, lon) in the convention of :mod:`minconv.data.series`. A forecast has dims
(init_time, lead_time, lat, lon): ``init_time`` is the time of the last frame that the model has seen, ``lead_time``
counts from it, ``valid_time`` (init_time, lead_time) is their sum. Means over the grid are weighted with the exact
areas of the cells. Models are callables on tensors in the series' own units; :class:`Scaled` makes one of a network.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from minconv.data.series import area_weights
from minconv.runtime.checks import positive, whole

DIMS = ("init_time", "lead_time", "lat", "lon")
DAY = np.timedelta64(1, "D")


class Scaled(nn.Module):
    """A model of normalised frames as one of frames in their own units.

    Args:
        model: called as ``model(frames, horizon)``.
        mean, std: numbers, or arrays that broadcast to a frame [H, W]: normalised frames are (frames - mean) / std.
    """

    def __init__(self, model: nn.Module, mean: float | Tensor, std: float | Tensor):
        super().__init__()
        self.model = model
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


def forecast(
    model: Callable[[Tensor, int], Tensor],
    history: xr.DataArray,
    steps: int,
    climatology: "Climatology | None" = None,
) -> xr.DataArray:
    """Continues a series.

    Args:
        model: called as ``model(frames, horizon)``, frames [1, T, 1, H, W] in the units of ``history``; returns
            [1, T + horizon, 1, H, W], output t predicting frame t + 1.
        history: over (time, lat, lon), at least two frames, evenly spaced, none missing.
        steps: how many frames to forecast.
        climatology: what the model's frames are anomalies from; it is taken from the history and added to the forecast.

    Returns:
        Over (init_time, lead_time, lat, lon), with one init time, the last of ``history``, and leads of 1 to ``steps``
        frames; units and names are those of ``history``.

    Raises:
        TypeError, ValueError: ``history`` is no such series, has missing values, or the model returns another shape.
    """
    _step(history)
    return forecasts(model, history, history.time[-1:], history.sizes["time"], steps, climatology)


@torch.no_grad()
def forecasts(
    model: Callable[[Tensor, int], Tensor],
    series: xr.DataArray,
    init_times: Sequence[np.datetime64] | xr.DataArray,
    context: int,
    steps: int,
    climatology: "Climatology | None" = None,
    batch: int = 32,
) -> xr.DataArray:
    """Many forecasts from one series: from each of ``init_times``, the last of ``context`` frames; see ``forecast``.

    Args:
        batch: forecasts made at once.
    """
    step, last = _step(series), _positions(series, init_times, whole("context", context, 1))
    whole("steps", steps, 1)
    if climatology is not None:
        _same_grid(climatology, series)
    values = series.values if climatology is None else series.values - climatology.at(series.time).values
    on = next(iter(getattr(model, "parameters", list)()), torch.empty(0)).device
    rows = []
    for start in range(0, len(last), whole("batch", batch, 1)):
        histories = last[start : start + batch, None] + np.arange(1 - context, 1)
        frames = torch.from_numpy(values[histories].astype(values.dtype.newbyteorder("="), copy=False)).unsqueeze(2)
        if not frames.isfinite().all():
            raise ValueError("series must have no missing values where forecasts start; got nan or inf")
        predicted = model(frames.to(on), steps - 1)
        expected = [len(frames), context + steps - 1, *frames.shape[2:]]
        if list(predicted.shape) != expected:
            raise ValueError(f"model must return frames of shape {expected}; got {list(predicted.shape)}")
        rows.append(predicted[:, context - 1 :, 0].cpu().numpy())
    found = _labelled(np.concatenate(rows), series, last, step)
    return found if climatology is None else found.copy(data=found.values + climatology.at(found.valid_time).values)


def init_times(series: xr.DataArray, context: int, steps: int, every: Sequence[int] = (3, 4)) -> xr.DataArray:
    """Times to start forecasts at, two a week by default, that have ``context`` frames before and ``steps`` after.

    Args:
        every: days from one start to the next, in turn.
    """
    step, times = _step(series), series.time
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
    step, last = _step(series), _positions(series, init_times)
    after = last[:, None] + np.arange(1, whole("steps", steps, 1) + 1)
    if after.max() >= series.sizes["time"]:
        raise ValueError(f"series must have {steps} frames after {series.time.values[last.max()]}; it ends too early")
    return _labelled(series.values[after], series, last, step)


# --- baselines ------------------------------------------------------------------------------------


class Climatology:
    """The mean of a series by day of year and time of day, smoothed: harmonics of the year, of the day, and products.

    Args:
        series: to fit, over (time, lat, lon); several years, best, and at least one.
        annual: harmonics of the year; of the day there are as many as its steps resolve, at most two.
    """

    def __init__(self, series: xr.DataArray, annual: int = 2):
        step, self.annual = _step(series), whole("annual", annual, 0)
        span = series.sizes["time"] * step
        if self.annual and span < 360 * DAY:
            raise ValueError(
                f"series must cover a year to fit {annual} harmonics of it; it covers {span / DAY:.0f} days"
            )
        self.daily = max(0, min(2, (round(DAY / step) - 1) // 2))
        design = self._design(series.time)
        values = series.values.reshape(len(design), -1)
        # normal equations: a tall matrix of sines is well conditioned, and the series is not copied to float64
        sums = np.zeros((design.shape[1], values.shape[1]))
        for start in range(0, len(design), 4096):
            part = slice(start, start + 4096)
            sums += design[part].T @ values[part].astype(np.float64)
        products = design.T @ design
        if len(design) < len(products) or np.linalg.cond(products) > 1e4:
            raise ValueError(
                f"series must have dates that tell {annual} harmonics of the year and {self.daily} of the day apart; "
                f"got {len(design)} dates, {step / DAY:g} days apart"
            )
        self.coefficients = np.linalg.solve(products, sums)
        self.series = series[:0]

    def at(self, times: xr.DataArray) -> xr.DataArray:
        """The climatology at ``times`` of any dims: over these dims, lat and lon."""
        design = self._design(times.stack(flat=times.dims) if times.ndim != 1 else times)
        values = (design @ self.coefficients).astype(np.float32)
        values = values.reshape(*times.shape, *self.series.shape[1:])
        coordinates = {**times.coords, "lat": self.series.lat, "lon": self.series.lon}
        return xr.DataArray(values, coordinates, (*times.dims, "lat", "lon"), self.series.name, self.series.attrs)

    def _design(self, times: xr.DataArray) -> np.ndarray:
        """[times, terms]: every product of an annual and a daily wave."""
        when = times.dt
        hour = when.hour.values + when.minute.values / 60
        day = 2 * np.pi * hour / 24
        days = {"360_day": 360, "noleap": 365, "365_day": 365, "all_leap": 366, "366_day": 366}
        year = 2 * np.pi * (when.dayofyear.values - 1 + hour / 24) / days.get(when.calendar, 365.25)
        waves = [_waves(year, self.annual), _waves(day, self.daily)]
        return (waves[0][:, :, None] * waves[1][:, None, :]).reshape(len(hour), -1)


def _waves(phase: np.ndarray, harmonics: int) -> np.ndarray:
    turns = [wave(n * phase) for n in range(1, harmonics + 1) for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(phase), *turns], axis=1)


def persistence(series: xr.DataArray, init_times: Sequence[np.datetime64] | xr.DataArray, steps: int) -> xr.DataArray:
    """The forecast that nothing changes."""
    last = _positions(series, init_times)
    values = np.broadcast_to(series.values[last][:, None], (len(last), whole("steps", steps, 1), *series.shape[1:]))
    return _labelled(values, series, last, _step(series))


class DampedPersistence:
    """The anomaly of the start, damped at each grid point and lead by its own regression on the past.

    Args:
        series: to fit the regression on.
        climatology: that anomalies are taken from.
        steps: longest lead, in frames.
    """

    def __init__(self, series: xr.DataArray, climatology: Climatology, steps: int):
        self.climatology = climatology
        _step(series)
        _same_grid(climatology, series)
        anomalies = series.values - climatology.at(series.time).values
        if whole("steps", steps, 1) >= len(anomalies):
            raise ValueError(f"steps must be below the {len(anomalies)} frames of the series; got {steps}")

        def slope(lag: int) -> np.ndarray:
            before, after = anomalies[:-lag], anomalies[lag:]
            covariance, variance = (np.einsum("tij,tij->ij", before, x, dtype=np.float64) for x in (after, before))
            return covariance / np.maximum(variance, np.finfo(np.float64).tiny)  # 0 where nothing ever happens

        self.factors = np.stack([slope(lag) for lag in range(1, steps + 1)])

    def forecast(self, series: xr.DataArray, init_times: Sequence[np.datetime64] | xr.DataArray) -> xr.DataArray:
        """From each of ``init_times``, for as many steps as were fitted."""
        start = persistence(series, init_times, len(self.factors))
        _same_grid(self.climatology, series)
        anomaly = start - self.climatology.at(start.init_time)
        factors = xr.DataArray(self.factors.astype(np.float32), dims=DIMS[1:])
        return (self.climatology.at(start.valid_time) + factors * anomaly).transpose(*DIMS).assign_attrs(series.attrs)


# --- scores ---------------------------------------------------------------------------------------


def scores(predicted: xr.DataArray, truth: xr.DataArray, climatology: Climatology) -> xr.Dataset:
    """Area-weighted scores by lead time.

    Args:
        predicted: a forecast over (init_time, lead_time, lat, lon).
        truth: what came true, from :func:`verification`.

    Returns:
        ``rmse`` (root of the mean square over starts and the area-weighted grid), ``bias`` (mean of forecast minus
        truth) and ``acc`` over (lead_time): for each start the correlation of the anomalies from the climatology,
        uncentred and area-weighted, then the mean over starts. ``zonal_rmse`` over (lead_time, lat): root mean square
        over starts and longitudes. A forecast of the climatology itself has no anomaly and an ``acc`` of 0. Where a
        value is missing, on either side, the scores of its lead are NaN.

    Raises:
        ValueError: the two, or the climatology, are not of the same starts, leads and grid.
    """
    _same_cases(predicted, truth)
    _same_grid(climatology, truth)
    weights = xr.DataArray(area_weights(predicted.lat.values), {"lat": predicted.lat}, ("lat",))
    normal = climatology.at(truth.valid_time)
    space = ("lat", "lon")

    def mean(x: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
        return x.mean(dims, skipna=False)  # xarray's default would leave out what is missing

    def product(x: xr.DataArray, y: xr.DataArray) -> xr.DataArray:
        return mean(weights * x * y, space)

    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, or beyond float32, shows in the scores
        error = (predicted - truth).astype(np.float64)
        a, b = (predicted - normal).astype(np.float64), (truth - normal).astype(np.float64)
        power = np.sqrt(product(a, a) * product(b, b))
        none = (power <= 1e-9 * product(b, b)) & np.isfinite(power)  # no anomaly
        correlation = xr.where(none, 0.0, product(a, b) / power.where(power > 0, 1))
        units = predicted.attrs.get("units", "1")
        found = {
            "rmse": (np.sqrt(mean(product(error, error), ["init_time"])), "RMSE", units),
            "acc": (mean(correlation, ["init_time"]), "anomaly correlation", "1"),
            "bias": (mean(weights * error, ["init_time", *space]), "mean error", units),
            "zonal_rmse": (np.sqrt(mean(error**2, ["init_time", "lon"])), "RMSE", units),
        }
    variables = {
        name: values.drop_vars("valid_time", errors="ignore").assign_attrs(long_name=long_name, units=unit)
        for name, (values, long_name, unit) in found.items()
    }
    source = str(truth.attrs.get("source", "unknown"))
    return xr.Dataset(variables, attrs={"starts": predicted.sizes["init_time"], "source": source})


def band_rmse(scored: xr.Dataset, south: float, north: float) -> xr.DataArray:
    """RMSE over the rows whose absolute latitude is from ``south`` to ``north`` degrees, from ``zonal_rmse``."""
    rows = np.abs(scored.lat)
    inside = (rows >= south) & (rows <= north)
    if not inside.any():
        raise ValueError(f"there must be a row between {south} and {north} degrees; got {scored.lat.values.tolist()}")
    weights = xr.DataArray(area_weights(scored.lat.values), {"lat": scored.lat}, ("lat",)).where(inside, 0.0)
    squares = (weights * scored.zonal_rmse**2).where(inside, 0.0)
    band = np.sqrt(squares.sum("lat", skipna=False) / weights.sum())
    return band.assign_attrs(scored.zonal_rmse.attrs)


def lead_of_skill(curve: xr.DataArray, baseline: xr.DataArray) -> np.timedelta64:
    """The longest lead up to which ``curve`` (rmse by lead_time) is below ``baseline`` at every lead; 0 if at none."""
    worse = np.flatnonzero(~(curve.values < baseline.values))
    leads = curve.lead_time.values
    if not worse.size:
        return leads[-1]
    return leads[worse[0] - 1] if worse[0] else np.timedelta64(0, "ns")


# --- pieces ---------------------------------------------------------------------------------------


def _step(series: xr.DataArray) -> np.timedelta64:
    """The time between frames; raises unless ``series`` is over (time, lat, lon) and evenly spaced."""
    if not isinstance(series, xr.DataArray):
        raise TypeError(f"series must be a DataArray over (time, lat, lon); got {type(series).__name__}")
    if series.dims != ("time", "lat", "lon") or series.sizes["time"] < 2 or set(series.dims) - set(series.coords):
        raise ValueError(
            f"series must be over (time, lat, lon), with their coordinates and two times or more; "
            f"got {dict(series.sizes)} with {', '.join(map(str, series.coords)) or 'none'}; "
            "minconv.data.series.open_series brings a file into this form"
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


def _positions(series: xr.DataArray, times: Iterable, context: int = 1) -> np.ndarray:
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


def _same_grid(climatology: Climatology, field: xr.DataArray) -> None:
    for axis in ("lat", "lon"):
        if not np.array_equal(climatology.series[axis], field[axis]):
            raise ValueError(f"climatology must be on the same grid as the series; its {axis} differs")


def _same_cases(predicted: xr.DataArray, truth: xr.DataArray) -> None:
    for name, field in (("predicted", predicted), ("truth", truth)):
        if not isinstance(field, xr.DataArray) or field.dims != DIMS:
            raise ValueError(f"{name} must be a DataArray over {DIMS}; got {getattr(field, 'dims', type(field))}")
    for dim in DIMS:
        if not predicted[dim].equals(truth[dim]):
            raise ValueError(f"predicted and truth must have the same {dim}; they differ")
