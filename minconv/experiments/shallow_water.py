"""Depth from waves: FINN's learned stencil beside fixed ones, after arXiv 2408.10649."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data import shallow_water as waves
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.models.finn import Learned, Simulate, depth_covariance, deviation, fit_kernel, infer_depth, misfit
from minconv.runtime.checks import choice

STENCILS = ("two", "four", "FINN")
OTHER = {"B": "C", "C": "B"}  # the bottom that FINN knows when it is to find one
PLACES = (*waves.CENTRES, (0.0, -250e3), (0.0, 250e3), (-250e3, 0.0), (250e3, 0.0))
SMOOTHING = 1e-3
NOISE = 0.01
SEEN = {"noise": 0.0, "waves_seen": 4, "span": 30000.0, "seed": 1}  # if nothing else is said
EVERY = 8  # frames between those that the uncertainty is computed from
SCORES = ("rmse", "inner", "bias")  # in m


@dataclass(frozen=True)
class Size:
    """How large the experiment is in a profile.

    Args:
        cells: of the model's grid along an axis; data are solved on four times as many.
        frames: of the waves, 30 000 s in all.
        iterations: of L-BFGS.
        noises: shares of the standard deviation of elevation.
        waves: how many are seen.
        spans: seconds that they are seen for.
        smoothings: weights of the differences of neighbours.
        coarse: cells of the grid on which is computed what cannot be known.
    """

    cells: int = 32
    frames: int = 97
    iterations: int = 40
    noises: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3)
    waves: tuple[int, ...] = (1, 2, 4, 8)
    spans: tuple[float, ...] = (7500.0, 15000.0, 30000.0)
    smoothings: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    coarse: int = 16


FEW: dict[str, Any] = {
    "noises": (0.0, 0.01, 0.1),
    "waves": (1, 4),
    "spans": (7500.0, 30000.0),
    "smoothings": (1e-5, 1e-3),
}
SIZES = {
    "smoke": Size(8, 25, 4, **FEW, coarse=8),
    "laptop": Size(iterations=25, **FEW),
    "study": Size(),
    "paper": Size(iterations=60),
}


class Observed(NamedTuple):
    """Elevation [K, T, X, Y] at times [T], that at t = 0 [K, X, Y], and the depth below [X, Y]."""

    eta: Tensor
    times: np.ndarray
    eta0: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Topography:
    """Who finds what depth, from how many waves, how noisy, seen for how long."""

    profile: Profile

    @property
    def size(self) -> Size:
        return SIZES[self.profile.name]

    @property
    def dx(self) -> float:
        """Edge of a cell, m."""
        return waves.LENGTH / self.size.cells

    @property
    def dt(self) -> float:
        """Step, s: that of the frames."""
        return 30000.0 / (self.size.frames - 1)

    def observed(
        self,
        bottom: str = "B",
        noise: float = SEEN["noise"],
        waves_seen: int = SEEN["waves_seen"],
        span: float = SEEN["span"],
        seed: int = SEEN["seed"],
    ) -> Observed:
        """Waves over a bottom, solved on four times as many cells in a quarter of the step, once and for all."""
        cells, frames = self.size.cells, self.size.frames
        path = home() / "data" / f"shallow_water_{bottom}_{waves_seen}x{frames}x{cells}.nc"
        settings = {"centres": PLACES[:waves_seen], "frames": frames, "seconds": self.dt, "cells": cells}
        data = waves.load(waves.generate(path, bottom, **settings))
        eta, depth = (torch.from_numpy(data[name].values) for name in ("eta", "depth"))
        seen = data.time.values <= span
        return Observed(waves.observe(eta, noise, seed)[:, seen], data.time.values[seen], eta[:, 0], depth)

    @cached_property
    def kernels(self) -> dict[str, Learned]:
        """FINN's kernels by the bottom that they were learned on, from half the time."""
        found = {}
        for bottom in OTHER:
            eta, times, eta0, depth = self.observed(bottom, span=15000.0)
            found[bottom], _ = fit_kernel(waves.simulate, eta, times, eta0, depth, self.dx, self.dt)
        return found

    def kept(self, name: str, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """What ``make`` finds on this grid, once and for all."""
        size = {name: getattr(self.size, name) for name in ("cells", "frames", "iterations")}
        return self.profile.kept(f"topography/{name}", make, **size)

    def kernel(self, stencil: str, bottom: str) -> str | Learned:
        """What the scheme takes as its kernel over a bottom: a name, or what FINN has learned on the other bottom."""
        return self.kernels[OTHER[bottom]] if choice("stencil", stencil, STENCILS) == "FINN" else stencil

    def find(self, stencil: str, bottom: str = "B", smoothing: float = SMOOTHING, **seen: Any) -> xr.Dataset:
        """The depth (x, y) that is found with a stencil, and its ``scores``; ``seen`` as ``observed`` takes it.

        With what ``search`` tells besides.
        """
        what = SEEN | seen

        def found() -> xr.Dataset:
            scheme = waves.simulate, self.dx, self.dt, self.kernel(stencil, bottom)
            return search(self.observed(bottom, **what), *scheme, smoothing, self.size.iterations)

        return self.kept("_".join(map(str, (stencil, bottom, smoothing, *what.values()))), found)  # sweeps meet

    def sweep(self, name: str, values: Iterable[Any], stencils: Sequence[str] = STENCILS, **others: Any) -> xr.Dataset:
        """``find`` over (stencil, ``name``), which is one of the other arguments of ``find`` or ``observed``."""
        values = list(values)
        rows = [[self.find(stencil, **others, **{name: value}) for value in values] for stencil in stencils]
        parts = [xr.concat(row, name).assign_coords({name: values}) for row in rows]
        return xr.concat(parts, "stencil").assign_coords(stencil=list(stencils))

    def uncertainty(self, bottom: str) -> xr.Dataset:
        """What FINN finds from every eighth frame, with noise; its ``error`` and the ``deviation`` that it tells, m.

        With the shares of cells whose error is within one and two deviations.
        """
        return self.kept(f"uncertainty_{bottom}", partial(self._uncertainty, bottom))

    def _uncertainty(self, bottom: str) -> xr.Dataset:
        data, kernel = self.observed(bottom, NOISE), self.kernel("FINN", bottom)
        every = (data.eta[:, ::EVERY], data.times[::EVERY], data.eta0)
        found, _ = infer_depth(waves.simulate, *every, self.dx, self.dt, kernel, iterations=self.size.iterations)
        noise = NOISE * float(self.observed(bottom).eta.std())
        covariance = depth_covariance(waves.simulate, *every, found, self.dx, self.dt, noise, kernel, SMOOTHING)
        known, error = deviation(covariance, found.shape), found - data.depth
        shares = {f"within_{limit}": float((error.abs() <= limit * known).double().mean()) for limit in (1, 2)}
        return xr.merge([_map(found, "depth"), _map(error, "error"), _map(known, "deviation")]).assign(shares)

    def known(self, bottom: str, seen: Sequence[tuple[int, float]]) -> xr.DataArray:
        """Deviation of depth (x, y) where nothing but waves tells of it, by number and span of these, m.

        On a coarse grid, with noise, and 30 m for each cell before anything was seen.
        """
        cells, maps = self.size.coarse, []
        dx, dt, depth = waves.LENGTH / cells, 10000.0 / cells, waves.topography(bottom, cells)
        everything = waves.simulate(waves.gaussian(PLACES, cells, 150e3), depth, dx, dt, 3 * cells)
        noise = NOISE * float(everything.std())
        for number, span in seen:
            steps = round(span / dt)
            eta, times = everything[:number, : steps + 1], dt * np.arange(steps + 1)
            covariance = depth_covariance(waves.simulate, eta, times, eta[:, 0], depth, dx, dt, noise)
            maps.append(_map(deviation(covariance, depth.shape), "deviation").deviation)
        return xr.concat(maps, "panel").assign_coords(
            panel=[f"{number} wave{'s' * (number > 1)}, {span:g} s" for number, span in seen]
        )

    def product(self, bottom: str = "B") -> dict[str, float]:
        """Misfits without noise at the true depth, and at 4/5 of it with 5/4 of gravity and with gravity as it is."""
        data, kernel = self.observed(bottom), self.kernel("FINN", bottom)
        tried = {"the true depth": (1.0, 1.0), "4/5 of depth, 5/4 of gravity": (0.8, 1.25), "4/5 of depth": (0.8, 1.0)}
        return {
            name: misfit(
                waves.simulate, *data[:3], share * data.depth, self.dx, self.dt, kernel, factor * waves.GRAVITY
            ).item()
            for name, (share, factor) in tried.items()
        }


def topography(profile: str | Profile | None = None) -> Topography:
    """The experiment in a profile; None is the default."""
    return Topography(get_profile(profile))


def beside_flat(study: Topography, bottom: str, centres: Sequence[Sequence[float]], every: int = 6) -> xr.DataArray:
    """Elevation over a bottom and over a flat one as deep on average, (row, wave, time, y, x), for films.

    From ``centres``, m, by the scheme of four points; time in hours.
    """
    cells, steps = study.size.cells, study.size.frames - 1
    eta0, depth = waves.gaussian(centres, cells), waves.topography(bottom, cells)
    rows = [
        waves.simulate(eta0, below, study.dx, study.dt, steps, every).mT
        for below in (depth, torch.full_like(depth, depth.mean().item()))
    ]
    coordinates = {
        "row": [f"bottom {bottom}", "a flat bottom"],
        "wave": [f"wave from ({x / 1e3:g}, {y / 1e3:g}) km" for x, y in centres],
        "time": study.dt * every / 3600 * np.arange(steps // every + 1),
    }
    return xr.DataArray(torch.stack(rows).numpy(), coordinates, ("row", "wave", "time", "y", "x"))


def search(
    data: Observed, simulate: Simulate, dx: float, dt: float, kernel: Any, smoothing: float, iterations: int
) -> xr.Dataset:
    """The depth (x, y) that a scheme finds below waves, its ``scores``, and the misfit there and at the true depth.

    That at the true depth is what the scheme's own error and the noise come to.
    """
    problem = simulate, *data[:3]
    depth, history = infer_depth(*problem, dx, dt, kernel, smoothing, iterations=iterations)
    true = misfit(*problem, data.depth, dx, dt, kernel).item()
    about = {"misfit": min(history["misfit"]), "misfit_of_truth": true, "evaluations": len(history["loss"])}
    return _map(depth, "depth").merge(scores(depth, data.depth)).assign(about)


def scores(found: Tensor, depth: Tensor) -> xr.Dataset:
    """How far a depth is from the true one, both [X, Y].

    ``rmse``, ``inner``, that without the two outer rings, and ``bias`` in m; ``relative``, the error over what differs
    from the mean depth.
    """
    error = found - depth
    values = {
        "rmse": error.square().mean().sqrt(),
        "inner": error[2:-2, 2:-2].square().mean().sqrt(),
        "bias": error.mean(),
        "relative": error.norm() / (depth - depth.mean()).norm(),
    }
    units = {name: {"units": "m"} for name in SCORES}
    return xr.Dataset({name: ((), value.item(), units.get(name, {"units": "1"})) for name, value in values.items()})


def _map(field: Tensor, name: str) -> xr.Dataset:
    """As maps are drawn, in km."""
    centre = waves.LENGTH / 1e3 * ((np.arange(len(field)) + 0.5) / len(field) - 0.5)
    places = {axis: (axis, centre, {"units": "km", "long_name": axis}) for axis in ("x", "y")}
    about = {"units": "m", "long_name": {"deviation": "standard deviation", "error": "error"}.get(name, name)}
    return xr.Dataset({name: (("x", "y"), field.numpy(), about)}, places)
