"""Spherical harmonics: fields on a Gaussian grid, their spectra, and what derivatives of them need.

A spectrum is real, ``[..., m, part, n]``: order m and degree n up to the truncation, part 0 real and 1 imaginary. The
harmonics have mean square 1, so that ``[..., 0, 0, 0]`` is the global mean.
"""

import math

import numpy as np
import torch
from torch import Tensor

from minconv.runtime.checks import whole
from minconv.runtime.device import pick_device


def ladder(truncation: int) -> np.ndarray:
    """e ``[m, n]`` of mu P(m, n) = e(m, n + 1) P(m, n + 1) + e(m, n) P(m, n - 1); 0 where n <= m."""
    m, n = np.ogrid[: truncation + 1, : truncation + 1]
    return np.sqrt(np.maximum(n**2 - m**2, 0) / (4 * n**2 - 1.0))


def legendre(truncation: int, sines: np.ndarray) -> np.ndarray:
    """Associated Legendre functions P ``[m, n, points]`` of the sines of latitude, with mean square 1; 0 where n < m.

    By the normalised recurrence in n, which is stable; without the Condon-Shortley phase.
    """
    values = np.zeros((truncation + 1, truncation + 1, len(sines)))
    e = ladder(truncation)
    diagonal = np.ones(len(sines))
    for m in range(truncation + 1):
        if m:
            diagonal = diagonal * np.sqrt((2 * m + 1) / (2 * m) * (1 - sines**2))
        values[m, m] = diagonal
        for n in range(m + 1, truncation + 1):
            values[m, n] = (sines * values[m, n - 1] - e[m, n - 1] * values[m, n - 2]) / e[m, n]
    return values


def neighbours(sines: np.ndarray, down: np.ndarray, up: np.ndarray) -> np.ndarray:
    """down(n) e(m, n) P(m, n - 1) + up(n) e(m, n + 1) P(m, n + 1), ``[m, n, points]`` for n below ``len(down)``."""
    size = len(down)
    e, values = ladder(size)[:-1, :, None], legendre(size, sines)[:-1]
    below = np.pad(values, ((0, 0), (1, 0), (0, 0)))[:, :size]
    return down[:, None] * e[:, :-1] * below + up[:, None] * e[:, 1:] * values[:, 1:]


def slope(truncation: int, sines: np.ndarray) -> np.ndarray:
    """(1 - mu^2) dP/dmu ``[m, n, points]`` of the Legendre functions."""
    n = np.arange(truncation + 1)
    return neighbours(sines, n + 1, -n)


def fourier(truncation: int, longitudes: np.ndarray) -> np.ndarray:
    """``[longitudes, m, part]``: the field at ``longitudes`` (degrees) of each part of each order."""
    angle = np.deg2rad(longitudes)[:, None] * np.arange(truncation + 1)
    waves = 2 * np.stack([np.cos(angle), -np.sin(angle)], -1)
    waves[:, 0] /= 2
    return waves


def equiangular(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes (degrees, ascending) of ``rows`` x 2 ``rows`` cells, as in WeatherBench."""
    return (np.arange(rows) + 0.5) * 180 / rows - 90, np.arange(2 * rows) * 180 / rows


def bump(latitudes: np.ndarray, longitudes: np.ndarray, latitude: float, longitude: float, radius: float) -> np.ndarray:
    """A Gaussian hill of height 1 in the distance to its top; all in degrees."""
    here, there = np.deg2rad(latitudes), math.radians(latitude)
    turn = np.cos(np.deg2rad(longitudes - longitude))
    cosine = np.sin(here) * math.sin(there) + np.cos(here) * math.cos(there) * turn
    return np.exp(-((np.rad2deg(np.arccos(np.clip(cosine, -1, 1))) / radius) ** 2))


class Sphere:
    """Fields ``[..., latitude, longitude]`` on a Gaussian grid, and their spectra; float64."""

    def __init__(self, truncation: int = 31, device: str | torch.device = "cpu"):
        self.truncation = whole("truncation", truncation, 1)
        self.device = pick_device(device)
        rows = 2 * math.ceil((3 * truncation + 1) / 4)  # the integral of a product of three fields is exact
        self.sines, weights = np.polynomial.legendre.leggauss(rows)
        self.weights = weights / 2  # their sum is 1
        self.latitudes = np.rad2deg(np.arcsin(self.sines))
        self.longitudes = np.arange(2 * rows) * 180 / rows
        self._grid = self.operators(self.latitudes, self.longitudes)
        functions, waves = self._grid
        mean = torch.where(torch.arange(truncation + 1) > 0, 0.5, 1.0).to(waves)[:, None] / len(self.longitudes)
        self._forward = functions * self.tensor(self.weights), waves * mean

    def tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, np.float64), device=self.device)

    def operators(self, latitudes: np.ndarray, longitudes: np.ndarray) -> tuple[Tensor, Tensor]:
        """What ``synthesis`` needs for another grid, given in degrees: Legendre and Fourier matrices."""
        functions = legendre(self.truncation, np.sin(np.deg2rad(latitudes)))
        return self.tensor(functions), self.tensor(fourier(self.truncation, longitudes))

    def synthesis(self, spectrum: Tensor, operators: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The field of a spectrum, on the Gaussian grid or that of ``operators``."""
        functions, waves = operators or self._grid
        return torch.einsum("...mcn,mnk,jmc->...kj", spectrum, functions, waves)

    def analysis(self, field: Tensor) -> Tensor:
        """The spectrum of a field on the Gaussian grid."""
        functions, waves = self._forward
        return torch.einsum("...kj,jmc,mnk->...mcn", field, waves, functions)
