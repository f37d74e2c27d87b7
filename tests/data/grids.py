"""Fields that know where and when they are, as datasets and files."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr

LAT = -87.1875 + 5.625 * np.arange(32)  # WeatherBench's
LON = 5.625 * np.arange(64)


def position(time: xr.DataArray, lat: xr.DataArray, lon: xr.DataArray) -> xr.DataArray:
    """A field that knows where and when it is, the same for longitudes 360 degrees apart."""
    hours = xr.DataArray(np.arange(time.size), dims=time.dims)
    angle = np.radians(lon)
    return (1000 * hours + 10 * lat + np.cos(angle) + 3 * np.sin(angle)).astype(np.float32)


def make(
    times: object = 4, lat: object = (-60.0, -20.0, 20.0, 60.0), lon: object = (0.0, 90.0, 180.0, 270.0), **variables
) -> xr.Dataset:
    """A series ``z`` of ``position`` with plain names, 6-hourly where ``times`` is a number."""
    if isinstance(times, int):
        times = np.datetime64("2000-01-01", "ns") + np.arange(times) * np.timedelta64(6, "h")
    coords = {"time": ("time", times), "lat": ("lat", np.array(lat)), "lon": ("lon", np.array(lon))}
    dataset = xr.Dataset(coords=coords)
    z = position(dataset.time, dataset.lat, dataset.lon).assign_attrs(units="m**2 s**-2", long_name="Geopotential")
    return dataset.assign(z=z.transpose("time", "lat", "lon"), **variables)


def write(path: Path, dataset: xr.Dataset, **options) -> Path:
    dataset.to_netcdf(path, engine="h5netcdf", **options)
    return path


def alter(path: Path) -> None:
    """Turns a bit in the middle of the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def random_spectrum(members: int, truncation: int, fall: float = 2.0, seed: int = 0) -> torch.Tensor:
    """Streamfunctions of some 10^7 m2/s whose degrees n fall off as n^-fall."""
    degree = torch.arange(truncation + 1)
    shape = members, truncation + 1, 2, truncation + 1
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values *= 1e7 * ((degree >= degree[:, None]) & (degree > 0))[:, None] / degree.clamp(min=1) ** fall
    values[:, 0, 1] = 0
    return values
