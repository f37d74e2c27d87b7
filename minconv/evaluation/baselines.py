"""Baselines as forecasters: persistence, climatology and damped persistence cost nothing, a linear map seconds."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.evaluation.forecast import DAY, as_array, frame_step, same_grid
from minconv.runtime.checks import whole

YEAR = 360 * DAY  # the shortest of all calendars
PENALTIES = np.logspace(-4, 3, 22)  # of ridge regression, as parts of the mean variance of what it sees


def persistence(frames: Tensor, horizon: int = 0) -> Tensor:
    """The forecast that nothing changes: every output is the last true frame seen.

    Args:
        frames: [B, T, C, H, W].

    Returns:
        [B, T + horizon, C, H, W]; output t < T repeats frame t, the others the last one.
    """
    return torch.cat([frames, frames[:, -1:].expand(-1, whole("horizon", horizon), -1, -1, -1)], dim=1)


class Climatology:
    """The mean of a series by day of year and time of day, smoothed: harmonics of the year, of the day, and products.

    As a forecaster it forecasts itself: no anomaly.

    Args:
        series: to fit, over (time, lat, lon), or a Dataset of such; several years, best, and at least one.
        annual: harmonics of the year; of the day there are as many as its steps resolve, at most two.
    """

    def __init__(self, series: xr.DataArray | xr.Dataset, annual: int = 2):
        step, self.annual = frame_step(series), whole("annual", annual, 0)
        series = as_array(series)
        span = series.sizes["time"] * step
        if self.annual and span < YEAR:
            raise ValueError(
                f"series must cover a year to fit {annual} harmonics of it; it covers {span / DAY:.0f} days"
            )
        steps = round(DAY / step)
        self.daily = max(0, min(2, (steps - 1) // 2))
        # the wave that turns once in two steps has one phase that the steps show
        self.fastest = steps // 2 if steps in (2, 4) else 0
        self.first = _hours(series.time)[0]
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

    @property
    def climatology(self) -> "Climatology":
        return self

    def __call__(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Anomalies [B, T, C, H, W] -> zeros [B, T + horizon, C, H, W]."""
        return torch.zeros_like(persistence(frames, horizon))

    def at(self, times: xr.DataArray) -> xr.DataArray:
        """The climatology at ``times`` of any dims: over these dims, variable if there are several, lat, lon."""
        design = self._design(times.stack(flat=times.dims) if times.ndim != 1 else times)
        values = (design @ self.coefficients).astype(np.float32)
        field, kept = self.series, self.series.dims[1:]
        coordinates = {**times.coords, **{dim: field[dim] for dim in kept}}
        values = values.reshape(*times.shape, *field.shape[1:])
        return xr.DataArray(values, coordinates, (*times.dims, *kept), field.name, field.attrs)

    def _design(self, times: xr.DataArray) -> np.ndarray:
        """[times, terms]: every product of an annual and a daily wave."""
        when, hour = times.dt, _hours(times)
        day = 2 * np.pi * hour / 24
        days = {"360_day": 360, "noleap": 365, "365_day": 365, "all_leap": 366, "366_day": 366}
        year = 2 * np.pi * (when.dayofyear.values - 1 + hour / 24) / days.get(when.calendar, 365.25)
        daily = _waves(day, self.daily)
        if self.fastest:
            daily = np.column_stack([daily, np.cos(self.fastest * (day - 2 * np.pi * self.first / 24))])
        return (_waves(year, self.annual)[:, :, None] * daily[:, None, :]).reshape(len(hour), -1)


def _hours(times: xr.DataArray) -> np.ndarray:
    return times.dt.hour.values + times.dt.minute.values / 60


def _waves(phase: np.ndarray, harmonics: int) -> np.ndarray:
    turns = [wave(n * phase) for n in range(1, harmonics + 1) for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(phase), *turns], axis=1)


class DampedPersistence:
    """The anomaly of the start, damped at each grid point and lead by its own regression on the past.

    Args:
        series: to fit the regression on.
        climatology: that anomalies are taken from.
        steps: longest lead, in frames.
    """

    def __init__(self, series: xr.DataArray | xr.Dataset, climatology: Climatology, steps: int):
        self.climatology = climatology
        anomalies = _anomalies(series, climatology, whole("steps", steps, 1))

        def slope(lag: int) -> np.ndarray:
            before, after = anomalies[:-lag], anomalies[lag:]
            covariance, variance = (np.einsum("tcij,tcij->cij", before, x, dtype=np.float64) for x in (after, before))
            return covariance / np.maximum(variance, np.finfo(np.float64).tiny)  # 0 where nothing ever happens

        self.factors = np.stack([slope(lag) for lag in range(1, steps + 1)])

    def __call__(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Anomalies [B, T, C, H, W] -> [B, T + horizon, C, H, W]: each, then the last one, times the lead's factor.

        Raises ValueError where ``horizon`` + 1 is beyond the leads that were fitted.
        """
        _check_leads(horizon, len(self.factors))
        factors = torch.from_numpy(self.factors[: horizon + 1].astype(np.float32)).to(frames.device)
        leads = torch.cat([factors[:1].expand(frames.shape[1] - 1, -1, -1, -1), factors])
        return leads * persistence(frames, horizon)


class RidgeRegression:
    """The anomaly of each lead as a linear map of all cells of the last frames: W = (X'X + penalty)^-1 X'Y.

    Each variable counts in its own standard deviation. The penalty of a lead is that of the lowest error on the last
    fifth of the series, fitted on the rest; W is then fitted on all of it.

    Args:
        series: to fit on.
        climatology: that anomalies are taken from.
        steps: longest lead, in frames.
        frames: how many of the last frames it sees.
    """

    def __init__(self, series: xr.DataArray | xr.Dataset, climatology: Climatology, steps: int, frames: int = 2):
        self.climatology, self.frames = climatology, whole("frames", frames, 1)
        anomalies = _anomalies(series, climatology, whole("steps", steps, 1) + 10 * self.frames)
        std = anomalies.std((0, 2, 3), dtype=np.float64, keepdims=True)[0]
        self.std = np.broadcast_to(np.maximum(std, np.finfo(np.float32).tiny), anomalies.shape[1:]).ravel()
        rows = anomalies.reshape(len(anomalies), -1) / self.std
        seen = np.concatenate([rows[self.frames - 1 - k : len(rows) - k] for k in range(self.frames)], axis=1)
        wanted = [rows[self.frames - 1 + lead :] for lead in range(1, steps + 1)]
        end = len(seen) - steps  # those with a target at every lead
        part = end - len(seen) // 5  # fitted on frames before those that choose the penalty
        first, whole_series = _Regression(seen[:part]), _Regression(seen[:end])
        later, maps = seen[part + steps : end], []
        for target in wanted:
            truth, fits = target[part + steps : end], first.fits(target[:part], PENALTIES)
            errors = [np.square(later @ fit - truth).mean() for fit in fits]
            maps += whole_series.fits(target[:end], [PENALTIES[int(np.argmin(errors))]])
        self.maps = np.stack(maps).astype(np.float32)  # [leads, seen, cells]

    def __call__(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Anomalies [B, T, C, H, W] -> [B, T + horizon, C, H, W]; outputs before the last frame repeat their frame.

        Raises ValueError where ``horizon`` + 1 is beyond the leads that were fitted, or T below the frames it sees.
        """
        _check_leads(horizon, len(self.maps))
        if frames.shape[1] < self.frames:
            raise ValueError(f"frames must be {self.frames} or more, which the regression sees; got {frames.shape[1]}")
        std = torch.from_numpy(self.std).to(frames)
        last = frames[:, -self.frames :].flip(1).flatten(2) / std  # the last frame first
        maps = torch.from_numpy(self.maps[: horizon + 1]).to(frames)
        leads = torch.einsum("bf,lfc->blc", last.flatten(1), maps) * std
        return torch.cat([frames[:, :-1], leads.unflatten(2, frames.shape[2:])], dim=1)


class _Regression:
    """Ridge regressions on the same x [rows, columns] for many targets and penalties: one eigendecomposition."""

    def __init__(self, x: np.ndarray):
        self.x, self.tall = x, len(x) >= x.shape[1]
        products = x.T @ x if self.tall else x @ x.T  # the smaller
        values, self.vectors = np.linalg.eigh(products)
        self.values, self.scale = values.clip(min=0), np.trace(products) / x.shape[1]

    def fits(self, y: np.ndarray, penalties: Iterable[float]) -> Iterator[np.ndarray]:
        """[columns, cells] for y [rows, cells], by penalty."""
        turned = self.vectors.T @ (self.x.T @ y if self.tall else y)
        for penalty in penalties:
            found = self.vectors @ (turned / (self.values + penalty * self.scale)[:, None])
            yield found if self.tall else self.x.T @ found


def _anomalies(series: xr.DataArray | xr.Dataset, climatology: Climatology, steps: int) -> np.ndarray:
    """[T, C, lat, lon], more frames than ``steps``."""
    frame_step(series)
    field = as_array(series)
    same_grid(climatology, field)
    if steps >= len(field):
        raise ValueError(f"steps must be below the {len(field)} frames of the series; got {steps}")
    anomalies = field.values - climatology.at(field.time).values
    return anomalies.reshape(len(field), -1, *field.shape[-2:])


def _check_leads(horizon: int, leads: int) -> None:
    if whole("horizon", horizon) >= leads:
        raise ValueError(f"horizon must be below the {leads} leads that were fitted; got {horizon}")
