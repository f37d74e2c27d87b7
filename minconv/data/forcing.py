"""What is known of the future: fields that do not change, and what date and place tell.

Such channels go into a model beside those that it predicts, of the frames to come as well.
"""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

SOLAR = 1361.0  # W m-2, at the mean distance of the sun
YEAR = 365.2422  # days


def insolation(times: xr.DataArray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Sunlight at the top of the atmosphere at that moment, W m-2, [*times, lat, lon]; times are UTC.

    The sun's place by the low-precision formulae of the Astronomical Almanac (0.01 degrees from 1950 to 2050). In
    calendars other than ours the sun keeps to the calendar's year.
    """
    days = _days(times)  # since noon of 1 January 2000
    mean, anomaly = np.radians(280.460 + 0.9856474 * days), np.radians(357.528 + 0.9856003 * days)
    longitude = mean + np.radians(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.radians(23.439 - 4e-7 * days)
    declination = np.arcsin(np.sin(tilt) * np.sin(longitude))
    ascension = np.arctan2(np.cos(tilt) * np.sin(longitude), np.cos(longitude))
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly)
    turned = 2 * np.pi * (days % 1) + mean - ascension  # of Greenwich since its noon by the sun
    declination, distance, turned = (x[..., None, None] for x in (declination, distance, turned))
    place, angle = np.radians(lat)[:, None], turned + np.radians(lon)
    height = np.sin(place) * np.sin(declination) + np.cos(place) * np.cos(declination) * np.cos(angle)
    return SOLAR / distance**2 * height.clip(min=0)


def _days(times: xr.DataArray) -> np.ndarray:
    """Days since noon of 1 January 2000, such as the sun counts them."""
    if times.dtype.kind == "M":
        return (times.values - np.datetime64("2000-01-01T12:00")) / np.timedelta64(1, "D")
    when = times.dt
    hour = when.hour.values + when.minute.values / 60
    through = (when.dayofyear.values - 1 + hour / 24) / when.days_in_year.values
    whole = np.floor(YEAR * (when.year.values - 2000 + through))  # so that noon stays noon
    return whole + hour / 24 - 0.5


def season(times: xr.DataArray, lat: np.ndarray, lon: np.ndarray, wave: Callable = np.cos) -> np.ndarray:
    """Cosine, or sine, of the day of the year as an angle, [*times, lat, lon]."""
    angle = 2 * np.pi * (times.dt.dayofyear.values - 1) / YEAR
    return np.broadcast_to(wave(angle)[..., None, None], (*angle.shape, len(lat), len(lon)))


# channels by name: what computes them, and mean and deviation by which they are brought near those of other channels
COMPUTED = {
    "insolation": [(insolation, 300.0, 400.0)],
    "season": [(season, 0.0, 0.7), (lambda *place: season(*place, wave=np.sin), 0.0, 0.7)],
}


class Forcing:
    """K known channels of a grid.

    Args:
        series: over (..., lat, lon): the grid.
        fields: names, ``insolation`` or ``season`` (two channels), and fields over (lat, lon) that do not change, such
            as orography, on the same grid and finite; these are normalised by their own mean and deviation.

    Raises:
        TypeError, ValueError: an unknown name, or a field that is not of the grid, not finite or constant.
    """

    def __init__(self, series: xr.DataArray | xr.Dataset, fields: Sequence[str | xr.DataArray]):
        self.lat, self.lon = series.lat.values, series.lon.values
        self.still, self.moving = [], []
        for field in [fields] if isinstance(fields, str) else fields:
            if isinstance(field, xr.DataArray):
                self.still.append(self._normalised(field))
            elif field in COMPUTED:
                self.moving += COMPUTED[field]
            else:
                raise ValueError(f"known must be fields over (lat, lon), or of {', '.join(COMPUTED)}; got {field!r}")
        self.count = len(self.still) + len(self.moving)

    def at(self, times: xr.DataArray) -> np.ndarray:
        """The channels at ``times`` of any dims, [*times, K, lat, lon], float32."""
        space = (len(self.lat), len(self.lon))
        found = [np.broadcast_to(field, (*times.shape, *space)) for field in self.still]
        found += [(field(times, self.lat, self.lon) - mean) / std for field, mean, std in self.moving]
        return np.stack(found, axis=times.ndim).astype(np.float32)

    def _normalised(self, field: xr.DataArray) -> np.ndarray:
        name = field.name or "a field of known"
        if {*field.dims} != {"lat", "lon"}:
            raise ValueError(f"{name} must be over (lat, lon); got {field.dims}")
        field = field.transpose("lat", "lon")
        for axis, values in (("lat", self.lat), ("lon", self.lon)):
            if field.sizes[axis] != len(values) or abs(field[axis].values - values).max() > 1e-3:
                raise ValueError(f"{name} must be on the grid of the series; its {axis} differs")
        values = field.values.astype(np.float64)
        if not np.isfinite(values).all() or not values.std():
            raise ValueError(f"{name} must be finite and not the same everywhere")
        return (values - values.mean()) / values.std()
