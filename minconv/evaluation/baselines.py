"""What costs nothing, as forecasters: persistence, climatology, damped persistence."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.evaluation.forecast import DAY, frame_step, same_grid
from minconv.runtime.checks import whole


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
        series: to fit, over (time, lat, lon); several years, best, and at least one.
        annual: harmonics of the year; of the day there are as many as its steps resolve, at most two.
    """

    def __init__(self, series: xr.DataArray, annual: int = 2):
        step, self.annual = frame_step(series), whole("annual", annual, 0)
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

    @property
    def climatology(self) -> "Climatology":
        return self

    def __call__(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Anomalies [B, T, C, H, W] -> zeros [B, T + horizon, C, H, W]."""
        return torch.zeros_like(persistence(frames, horizon))

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


class DampedPersistence:
    """The anomaly of the start, damped at each grid point and lead by its own regression on the past.

    Args:
        series: to fit the regression on.
        climatology: that anomalies are taken from.
        steps: longest lead, in frames.
    """

    def __init__(self, series: xr.DataArray, climatology: Climatology, steps: int):
        self.climatology = climatology
        frame_step(series)
        same_grid(climatology, series)
        anomalies = series.values - climatology.at(series.time).values
        if whole("steps", steps, 1) >= len(anomalies):
            raise ValueError(f"steps must be below the {len(anomalies)} frames of the series; got {steps}")

        def slope(lag: int) -> np.ndarray:
            before, after = anomalies[:-lag], anomalies[lag:]
            covariance, variance = (np.einsum("tij,tij->ij", before, x, dtype=np.float64) for x in (after, before))
            return covariance / np.maximum(variance, np.finfo(np.float64).tiny)  # 0 where nothing ever happens

        self.factors = np.stack([slope(lag) for lag in range(1, steps + 1)])

    def __call__(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Anomalies [B, T, 1, H, W] -> [B, T + horizon, 1, H, W]: each, then the last one, times the lead's factor.

        Raises ValueError where ``horizon`` + 1 is beyond the leads that were fitted.
        """
        if whole("horizon", horizon) >= len(self.factors):
            raise ValueError(f"horizon must be below the {len(self.factors)} leads that were fitted; got {horizon}")
        factors = torch.from_numpy(self.factors[: horizon + 1].astype(np.float32))[:, None].to(frames.device)
        leads = torch.cat([factors[:1].expand(frames.shape[1] - 1, -1, -1, -1), factors])
        return leads * persistence(frames, horizon)
