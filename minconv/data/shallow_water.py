"""Waves over a varying bottom: the shallow-water equations with linear momentum and the whole flux of mass.

    u_t = -g eta_x,    v_t = -g eta_y,    eta_t = -[(H + eta) u]_x - [(H + eta) v]_y

eta elevation above still water and H still depth, both as means over cells, u and v velocities at the faces between
them; metres and seconds. That is what the development code of arXiv 2408.10649 integrates; 1 m waves on 100 m of
water are 0.4 % from those of the full equations. In memory the two grid axes are (x, y); files are (y, x), as maps are
drawn.

The scheme is staggered and forward-backward: velocities first, then the elevation with the new velocities. A water
level at rest stays to the bit, whatever the bottom, and mass is kept to rounding. Differences D and means M of a field
c at the face between c_1 and c_2, with c_0 and c_3 beyond them, are one family,

    D c = (1 - 3 a) (c_2 - c_1) + a (c_3 - c_0),    M c = (1/2 - b) (c_1 + c_2) + b (c_0 + c_3),

consistent for every a and b: second order for a = b = 0, fourth for a = b = -1/12 as these are means over cells.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from minconv.data import store
from minconv.runtime.checks import choice, positive, whole

GRAVITY = 9.81  # m s-2
LENGTH = 1e6  # m, of the square domain, whose centre is the origin
DTYPES = (torch.float32, torch.float64)
BOUNDARIES = ("walls", "periodic")
PLANE_WAVES = 64  # whose sum is a random bottom
FINE = 1024  # points along an axis over whose values a topography is averaged
CENTRES = ((-250e3, -250e3), (250e3, 250e3), (-250e3, 250e3), (250e3, -250e3))
SECONDS = 312.5  # between frames; on 32 x 32 cells a step, a Courant number of 0.35 where H is 120 m
TOPOGRAPHIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "A": lambda p, q: 100 + 20 * np.arctan(2 * q) + 0 * p,
    "B": lambda p, q: (
        100
        + 12 * np.cos(np.pi * p) * np.cos(2 * np.pi * q)
        - 25 * np.exp(-((p - 0.35) ** 2 + (q - 0.6) ** 2) / (2 * 0.12**2))
        + 15 * np.exp(-((p - 0.7) ** 2 + (q - 0.3) ** 2) / (2 * 0.15**2))
    ),
    "C": lambda p, q: (
        110
        - 20 * np.sin(1.5 * np.pi * p + 0.4) * np.sin(2 * np.pi * q + 1.1)
        + 10 * np.cos(3 * np.pi * p) * np.cos(np.pi * q)
        - 18 * np.exp(-((p - 0.65) ** 2 + (q - 0.7) ** 2) / (2 * 0.1**2))
    ),
}
ABOUT = {
    "title": "Surface waves over a varying bottom, shallow-water equations",
    "source": "minconv.data.shallow_water: staggered finite volumes, forward-backward",
    "references": "arXiv:2408.10649",
    "comment": "Linear momentum, nonlinear continuity; walls. Solved on a finer grid and averaged.",
}


class Kernel(Protocol):
    """What ``simulate`` needs of a kernel: numbers or tensors.

    ``b`` None is the depth of the cell that the velocity leaves; ``multiplier`` is of the elevation at a face, and the
    slope there is multiplied by it.
    """

    a: float | Tensor
    b: float | Tensor | None
    multiplier: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Stencil:
    """A fixed ``Kernel``."""

    a: float
    b: float | None
    multiplier: None = None


KERNELS = {"two": Stencil(0.0, 0.0), "four": Stencil(-1 / 12, -1 / 12), "upwind": Stencil(0.0, None)}
Cells = tuple[Tensor, Tensor, Tensor, Tensor]  # c_0 .. c_3 around each face along an axis


def _around(field: Tensor, axis: int, periodic: bool) -> Cells:
    """The four cells around each face; walls have no faces of their own and are mirrors."""
    size = field.shape[axis]
    before, after = (field.narrow(axis, start, 1) for start in (0, size - 1))
    if periodic:
        before, after = after, field.narrow(axis, 0, 2)
    field = torch.cat([before, field, after], axis)
    faces = size if periodic else size - 1
    return tuple(field.narrow(axis, start, faces) for start in range(4))


class _Waves:
    """The equations on a grid with a depth, walls or none, a kernel and a step."""

    def __init__(self, depth: Tensor, dx: float, dt: float, kernel: Kernel, gravity: float | Tensor, boundary: str):
        self.ratio, self.gravity, self.kernel = dt / dx, gravity, kernel
        self.periodic = boundary == "periodic"
        around = [_around(depth, axis, self.periodic) for axis in (-2, -1)]
        self.depth = around if kernel.b is None else [self._mean(cells) for cells in around]

    def advance(self, eta: Tensor, velocities: Sequence[Tensor], kick: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        """Elevation and velocities a step later; with ``kick`` 1/2 the first velocities from rest are at dt/2."""
        new, change = [], 0
        for axis, velocity, depth in zip((-2, -1), velocities, self.depth, strict=True):
            cells = _around(eta, axis, self.periodic)
            slope = self._difference(cells)
            if self.kernel.multiplier is not None:
                slope = slope * self.kernel.multiplier(self._mean(cells))
            velocity = velocity - kick * self.ratio * self.gravity * slope
            if self.kernel.b is None:
                left, right = (depth[place] + cells[place] for place in (1, 2))
                flux = velocity * torch.where(velocity > 0, left, right)
            else:
                flux = velocity * (depth + self._mean(cells))
            new.append(velocity)
            change = change + self._divergence(flux, axis)
        return eta - self.ratio * change, new

    def rest(self, eta: Tensor) -> list[Tensor]:
        missing = 0 if self.periodic else 1
        return [eta.new_zeros((eta.narrow(axis, missing, eta.shape[axis] - missing)).shape) for axis in (-2, -1)]

    def _difference(self, cells: Cells) -> Tensor:
        a = self.kernel.a
        return (1 - 3 * a) * (cells[2] - cells[1]) + a * (cells[3] - cells[0])

    def _mean(self, cells: Cells) -> Tensor:
        b = 0.0 if self.kernel.b is None else self.kernel.b
        return (0.5 - b) * (cells[1] + cells[2]) + b * (cells[0] + cells[3])

    def _divergence(self, flux: Tensor, axis: int) -> Tensor:
        if self.periodic:
            return flux - flux.roll(1, axis)
        return pad(flux, (0, 0, 1, 1) if axis == -2 else (1, 1)).diff(dim=axis)


def step(
    eta: Tensor,
    u: Tensor,
    v: Tensor,
    depth: Tensor,
    dx: float,
    dt: float,
    kernel: str | Kernel = "four",
    gravity: float | Tensor = GRAVITY,
    boundary: str = "walls",
    kick: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of ``simulate``: eta ``[K, X, Y]`` at t, u and v at t - dt/2, to eta at t + dt, u and v at t + dt/2.

    u is ``[K, X - 1, Y]`` and v ``[K, X, Y - 1]``; with ``periodic`` all are ``[K, X, Y]``. ``kick`` is 1/2 where
    u and v are those at t. Nothing is checked but names and shapes.
    """
    kernel = _kernel(kernel)
    waves = _Waves(depth, dx, dt, kernel, gravity, choice("boundary", boundary, BOUNDARIES))
    for name, found, rest in zip("uv", (u, v), waves.rest(eta), strict=True):
        if found.shape != rest.shape:
            raise ValueError(f"{name} must be {list(rest.shape)} for this eta; got {list(found.shape)}")
    eta, (u, v) = waves.advance(eta, (u, v), kick)
    return eta, u, v


def simulate(
    eta0: Tensor,
    depth: Tensor,
    dx: float,
    dt: float,
    steps: int,
    every: int = 1,
    kernel: str | Kernel = "four",
    gravity: float | Tensor = GRAVITY,
    boundary: str = "walls",
) -> Tensor:
    """Waves from rest, differentiable in elevation, depth, gravity and what the kernel is made of.

    Args:
        eta0: elevation ``[K, X, Y]`` of K waves at t = 0, m, float64 or float32; that of the result.
        depth: still depth, m, above 0, ``[X, Y]`` of all waves or ``[K, X, Y]``.
        dx: edge of a cell, m.
        dt: step, s.
        steps: number of steps.
        every: steps between frames.
        kernel: ``two`` or ``four`` points, ``upwind``, or a ``Kernel``, such as ``minconv.models.finn.Learned``.
        gravity: m s-2.
        boundary: ``walls``, through which nothing flows, or ``periodic``.

    Returns:
        eta ``[K, steps / every + 1, X, Y]``, the first frame at t = 0.

    Raises:
        TypeError, ValueError: bad arguments.
        FloatingPointError: the step is too large for the depth, a cell falls dry, or the elevation is no longer finite;
            the message names sample and step. Or a kernel that no step is stable with.
    """
    kernel = _kernel(kernel)
    _check(eta0, depth, dx, dt, gravity)
    if whole("steps", steps, 1) % whole("every", every, 1):
        raise ValueError(f"every must divide steps = {steps}; got {every}")
    waves = _Waves(depth, dx, dt, kernel, gravity, choice("boundary", boundary, BOUNDARIES))
    if _number(kernel.a) >= 0.25:
        raise FloatingPointError(
            f"kernel.a must be below 1/4, where the shortest waves grow; got {_number(kernel.a):g}"
        )
    limit = _limit(eta0, depth, dx, kernel, gravity)
    if not (slow := limit >= dt).all():
        sample = int((~slow).nonzero()[0])
        raise FloatingPointError(
            f"sample {sample} at step 0: dt = {dt:g} s is too large for the fastest wave on cells of {dx:g} m; "
            f"use dt = {0.9 * float(limit[sample]):.4g} s or less"
        )
    eta, velocities, frames, lowest = eta0, waves.rest(eta0), [eta0], []
    for number in range(1, steps + 1):
        eta, velocities = waves.advance(eta, velocities, 0.5 if number == 1 else 1.0)
        lowest.append((depth.detach() + eta.detach()).amin((-2, -1)))
        if number % every == 0:
            frames.append(eta)
    _check_states(torch.stack(lowest), eta.detach(), dt)
    return torch.stack(frames, 1)


def _kernel(kernel: str | Kernel) -> Kernel:
    if isinstance(kernel, str):
        return KERNELS[choice("kernel", kernel, KERNELS)]
    if not all(hasattr(kernel, name) for name in ("a", "b", "multiplier")):
        raise TypeError(f"kernel must be one of {', '.join(KERNELS)} or have a, b and multiplier; got {kernel!r}")
    return kernel


def _limit(eta: Tensor, depth: Tensor, dx: float, kernel: Kernel, gravity: float | Tensor) -> Tensor:
    """The largest stable step of each sample, ``[K]``, over a flat bottom as deep as the deepest place.

    A wave of s = sin^2(k dx / 2) along each axis turns by g H (dt/dx)^2 4 s (1 - 4 a s) in one step, at most 4 in two.
    """
    deepest = (depth.detach() + eta.detach()).amax((-2, -1))
    steepest = 1 - 4 * min(_number(kernel.a), 0.0)
    return dx / (2 * steepest * _number(gravity) * deepest).sqrt()


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _check(eta0: Tensor, depth: Tensor, dx: float, dt: float, gravity: float | Tensor) -> None:
    for name, field in {"eta0": eta0, "depth": depth}.items():
        if not isinstance(field, Tensor) or field.dtype not in DTYPES:
            kind = field.dtype if isinstance(field, Tensor) else type(field).__name__
            raise TypeError(f"{name} must be a tensor of float32 or float64; got {kind}")
    if eta0.dtype != depth.dtype:
        raise TypeError(f"depth must be {eta0.dtype} as eta0 is; got {depth.dtype}")
    if eta0.ndim != 3 or not len(eta0) or min(eta0.shape[1:]) < 2:
        raise ValueError(f"eta0 must be [K, X, Y], 2 x 2 cells or more; got {list(eta0.shape)}")
    if depth.shape not in (eta0.shape, eta0.shape[1:]):
        raise ValueError(f"depth must be {list(eta0.shape[1:])} or {list(eta0.shape)}; got {list(depth.shape)}")
    for name, value in {"dx": dx, "dt": dt, "gravity": _number(gravity)}.items():
        positive(name, value)
    if not eta0.isfinite().all() or not depth.isfinite().all():
        raise ValueError("eta0 and depth must be finite; got nan or inf")
    if not (depth > 0).all():
        raise ValueError(f"depth must be above 0 m everywhere; got {float(depth.min()):g}")
    if not ((low := (depth + eta0).detach().amin((-2, -1))) > 0).all():
        sample = int((low <= 0).nonzero()[0])
        raise FloatingPointError(f"sample {sample} at step 0: a cell is dry, H + eta = {float(low[sample]):.3g} m")


def _check_states(lowest: Tensor, last: Tensor, dt: float) -> None:
    """Raises for the first sample that is dry or not finite at the first step ``[steps, K]`` at which one is."""
    if not (wrong := ~(lowest > 0)).any():
        if (finite := last.isfinite().flatten(1).all(1)).all():
            return
        wrong[-1], lowest = ~finite, lowest.where(finite, math.nan)
    number, sample = wrong.nonzero()[0].tolist()
    where, low = f"sample {sample} at step {number + 1} of dt = {dt:g} s", float(lowest[number, sample])
    if math.isfinite(low):
        raise FloatingPointError(f"{where}: a cell fell dry, H + eta = {low:.3g} m; deepen it or lower the waves")
    raise FloatingPointError(f"{where}: the elevation is not finite; use a smaller step or lower waves")


@cache
def _fine(name: str) -> Tensor:
    p = (np.arange(FINE) + 0.5) / FINE
    return torch.from_numpy(TOPOGRAPHIES[choice("topography", name, TOPOGRAPHIES)](p[:, None], p))


def topography(name: str, cells: int = 32) -> Tensor:
    """Still depth ``A``, a slope along y, ``B`` or ``C``, with structure: cell means, m, float64 [cells, cells]."""
    if FINE % whole("cells", cells, 1):
        raise ValueError(f"cells must divide {FINE}; got {cells}")
    return coarsen(_fine(name), FINE // cells)


def gaussian(
    centres: Sequence[Sequence[float]],
    cells: int = 32,
    width: float = 100e3,
    amplitude: float = 1.0,
    length: float = LENGTH,
) -> Tensor:
    """Waves amplitude exp(-r^2 / (2 width^2)) as cell means, which point values are not, float64 [K, cells, cells].

    ``centres`` are (x, y) from the domain's centre; all in m.
    """
    edges = length * (torch.arange(whole("cells", cells, 2) + 1, dtype=torch.float64) / cells - 0.5)
    width = positive("width", width) * math.sqrt(2)
    area = math.sqrt(math.pi) / 2 * width / (positive("length", length) / cells)
    x, y = (area * torch.erf((edges - _places(centres)[..., None]) / width).diff(dim=-1)).unbind(1)
    return amplitude * x[:, :, None] * y[:, None, :]


def _places(centres: Sequence[Sequence[float]]) -> Tensor:
    places = torch.as_tensor(centres, dtype=torch.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places) or not places.isfinite().all():
        raise ValueError(f"centres must be finite (x, y) of each wave; got {centres!r}")
    return places


def coarsen(field: Tensor, factor: int) -> Tensor:
    """Means over ``factor`` x ``factor`` cells of ``[..., X, Y]``."""
    if field.shape[-1] % whole("factor", factor, 1) or field.shape[-2] % factor:
        raise ValueError(f"factor must divide the cells of a field {list(field.shape)}; got {factor}")
    means = avg_pool2d(field.reshape(-1, *field.shape[-2:]), factor)
    return means.reshape(*field.shape[:-2], *means.shape[-2:])


def observe(eta: Tensor, noise: float, seed: int = 0) -> Tensor:
    """``eta [K, frames, X, Y]`` with normal errors of ``noise`` times its standard deviation, but for the first frame.

    Errors of wave number k depend on ``seed`` and k alone.
    """
    positive("noise", noise, zero=True)
    errors = np.empty(eta.shape)
    for number, values in enumerate(errors):
        stream = np.random.SeedSequence(whole("seed", seed), spawn_key=(number,))
        np.random.default_rng(stream).standard_normal(out=values)
    errors[:, 0] = 0
    return eta + noise * eta.std() * torch.from_numpy(errors).to(eta)


def generate(
    path: str | Path,
    bottom: str = "B",
    *,
    centres: Sequence[Sequence[float]] = CENTRES,
    frames: int = 97,
    seconds: float = SECONDS,
    cells: int = 32,
    finer: int = 4,
    width: float = 100e3,
    amplitude: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Path:
    """Writes the waves over a ``topography``, solved on cells and steps ``finer`` times smaller and then averaged.

    The NetCDF at ``path`` holds ``eta (sample, time, y, x)`` and ``depth (y, x)`` in float64, every parameter, what
    produced it and a seal; noise as ``observe`` has it. A whole file with these parameters is kept as it is; a file
    with others, and anything that is not such a file, is left alone and raises ValueError. Raises FloatingPointError as
    ``simulate`` does.
    """
    path = Path(path)
    parameters = {
        "bottom": choice("bottom", bottom, TOPOGRAPHIES),
        "centres": json.dumps(_places(centres).tolist()),
        "frames": whole("frames", frames, 2),
        "seconds": positive("seconds", seconds),
        "cells": whole("cells", cells, 2),
        "finer": whole("finer", finer, 1),
        "width": positive("width", width),
        "amplitude": positive("amplitude", amplitude),
        "noise": positive("noise", noise, zero=True),
        "seed": whole("seed", seed),
    }
    return store.cached(path, parameters, partial(_make, path, parameters))


@torch.no_grad()
def _make(path: Path, parameters: dict[str, Any]) -> None:
    cells, finer = parameters["cells"], parameters["finer"]
    eta0 = gaussian(json.loads(parameters["centres"]), cells * finer, parameters["width"], parameters["amplitude"])
    depth = topography(parameters["bottom"], cells * finer)
    _write(path, parameters, _observed(eta0, depth, parameters), coarsen(depth, finer))


def _observed(eta0: Tensor, depth: Tensor, parameters: Mapping[str, Any]) -> Tensor:
    """Elevation on the coarse grid from waves over a bottom of the fine one, with noise."""
    frames, seconds, cells, finer = (parameters[name] for name in ("frames", "seconds", "cells", "finer"))
    each = finer * parameters.get("every", 1)  # steps from a frame to the next
    eta = simulate(eta0, depth, LENGTH / (cells * finer), seconds / finer, each * (frames - 1), each)
    return observe(coarsen(eta, finer), parameters.get("noise", 0.0), parameters["seed"])


def _write(path: Path, parameters: dict[str, Any], eta: Tensor, depth: Tensor) -> None:
    cells, over = parameters["cells"], ("sample", "y", "x")[3 - depth.ndim :]
    seconds = parameters["seconds"] * parameters.get("every", 1)
    centre = LENGTH * ((np.arange(cells) + 0.5) / cells - 0.5)
    dataset = xr.Dataset(
        {
            "eta": (("sample", "time", "y", "x"), eta.mT.numpy(), {"units": "m", "long_name": "elevation"}),
            "depth": (over, depth.mT.numpy(), {"units": "m", "long_name": "still depth"}),
        },
        {
            "sample": ("sample", np.arange(len(eta)), {"units": "1", "long_name": "wave number"}),
            "time": ("time", seconds * np.arange(eta.shape[1]), {"units": "s", "long_name": "time", "axis": "T"}),
            "y": ("y", centre, {"units": "m", "long_name": "y", "axis": "Y"}),
            "x": ("x", centre, {"units": "m", "long_name": "x", "axis": "X"}),
        },
    )
    store.write(path, dataset, ABOUT | parameters)


def drawn(number: int, cells: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth random bottom [cells, cells], m, and a centre (x, y) of a wave, m; of ``seed`` and ``number`` alone.

    The bottom is a sum of plane waves with normal wave vectors, near to a Gaussian random field: its mean is from 95 to
    115 m, its standard deviation from 6 to 14 m, its length from 0.12 to 0.25 of the domain's.
    """
    stream = np.random.default_rng(np.random.SeedSequence(whole("seed", seed), spawn_key=(whole("number", number),)))
    (mean, spread, scale), centre = stream.uniform([95, 6, 0.12], [115, 14, 0.25]), stream.uniform(-0.4, 0.4, 2)
    vectors, phases = stream.standard_normal((2, PLANE_WAVES, 1)) / scale, stream.uniform(0, 2 * np.pi, PLANE_WAVES)
    p = (np.arange(whole("cells", cells, 1)) + 0.5) / cells
    x, y = (np.exp(1j * vector * p) for vector in vectors)  # [waves, cells]
    field = np.einsum("k,kx,ky->xy", np.exp(1j * phases), x, y).real
    depth = mean + spread * math.sqrt(2 / PLANE_WAVES) * field
    return torch.from_numpy(depth), torch.from_numpy(LENGTH * centre)


def generate_drawn(
    path: str | Path,
    samples: int,
    *,
    frames: int = 17,
    every: int = 6,
    seconds: float = SECONDS,
    cells: int = 32,
    finer: int = 4,
    width: float = 100e3,
    seed: int = 0,
) -> Path:
    """Writes waves of 1 m, each over a bottom of its own, both ``drawn``; solved, kept and refused as by ``generate``.

    ``depth`` is (sample, y, x); ``every`` counts steps of ``seconds`` from a frame to the next.
    """
    path = Path(path)
    parameters = {
        "samples": whole("samples", samples, 1),
        "frames": whole("frames", frames, 2),
        "every": whole("every", every, 1),
        "seconds": positive("seconds", seconds),
        "cells": whole("cells", cells, 2),
        "finer": whole("finer", finer, 1),
        "width": positive("width", width),
        "seed": whole("seed", seed),
    }
    return store.cached(path, parameters, partial(_make_drawn, path, parameters))


@torch.no_grad()
def _make_drawn(path: Path, parameters: dict[str, Any]) -> None:
    cells, finer = parameters["cells"], parameters["finer"]
    etas, depths = [], []
    for number in range(parameters["samples"]):
        depth, centre = drawn(number, cells * finer, parameters["seed"])
        eta0 = gaussian(centre[None].tolist(), cells * finer, parameters["width"])
        etas.append(_observed(eta0, depth, parameters))
        depths.append(coarsen(depth, finer))
    _write(path, parameters, torch.cat(etas), torch.stack(depths))


def load(path: str | Path) -> xr.Dataset:
    """``eta (sample, time, x, y)`` and ``depth (x, y)``, or ``(sample, x, y)``, of a file of ``generate``, or
    ``generate_drawn``; raises as ``store.opened``."""
    with store.opened(path, "minconv.data.shallow_water.generate") as dataset:
        return xr.decode_cf(dataset.load(), decode_times=False)[["eta", "depth"]].transpose("sample", "time", "x", "y")
