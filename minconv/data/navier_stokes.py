"""Trajectories of the two-dimensional Navier-Stokes equation, kept as CF-style NetCDF.

    dw/dt + u . grad w = nu lap w + f,    u = (dpsi/dy, -dpsi/dx),    -lap psi = w,    on the unit torus

w vorticity, u velocity, psi streamfunction, nu viscosity, f forcing; everything is non-dimensional. The problem is
that of Li et al., arXiv 2010.08895, with the settings of arXiv 2508.03614. In memory the two grid axes are (x, y), as
in the published generator; files are (y, x), as maps are drawn.

The solver is pseudo-spectral in space. Advection is taken from the momentum fluxes (Basdevant, J. Comput. Phys. 50,
1983),

    u . grad w = (dxx - dyy) uv - dxy (u^2 - v^2),

which needs two inverse and two forward real FFTs, where u . grad w itself needs five; with the products dealiased by
the 2/3 rule both give the same numbers. In time it is the classical Runge-Kutta scheme of fourth order with viscosity
integrated exactly (integrating factor), in steps that are checked, and if need be refined, against the speed of each
sample's flow.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.fft import fft, fft2, ifft, ifft2, irfft, irfft2, rfft, rfft2

from minconv.data import store
from minconv.data.integrate import IntegratingFactor
from minconv.runtime import processes
from minconv.runtime.checks import choice, positive, whole
from minconv.runtime.device import pick_device
from minconv.runtime.memory import keep_memory
from minconv.runtime.progress import progress

DTYPES = {"float32": torch.float32, "float64": torch.float64}
CHECK = 10  # steps between two looks at the flow's speed
MARGIN = 1.05  # by which the flow may speed up until the next look; spin-up takes some 20 time units
REFINE = 2  # the step is cut at most by this factor before it counts as too large
ABOUT = {
    "title": "Forced two-dimensional Navier-Stokes vorticity on the unit torus",
    "source": "minconv.data.navier_stokes: pseudo-spectral, integrating-factor Runge-Kutta 4",
    "references": "arXiv:2010.08895, arXiv:2508.03614",
    "comment": "Non-dimensional. The step is the largest allowed and was refined where the flow needed it.",
}


def initial_vorticity(
    samples: int, size: int = 64, seed: int = 0, first: int = 0, alpha: float = 2.0, tau: float = 7.0
) -> Tensor:
    """Gaussian random fields, float64 ``[samples, size, size]``, mean zero, standard deviation about 0.35.

    Covariance 2 tau^(2 alpha - 2) (-lap + tau^2)^(-alpha); the factor 2 is in the published generator. Field number
    ``first + i`` depends on ``seed`` and its number alone, so any batching or device sees the same fields.
    """
    _even(size)
    for name, value in {"samples": samples, "seed": seed, "first": first}.items():
        whole(name, value, least=name == "samples")
    for name, value in {"alpha": alpha, "tau": tau}.items():
        positive(name, value)
    noise = np.empty((samples, size, size))
    for number, field in enumerate(noise, first):
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,))).standard_normal(out=field)
    k = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    square = k[:, None] ** 2 + k[None, : size // 2 + 1] ** 2
    deviation = size * math.sqrt(2) * tau ** (alpha - 1) * (square + tau**2) ** (-alpha / 2)
    deviation[0, 0] = 0
    return irfft2(deviation * rfft2(torch.from_numpy(noise)), s=(size, size))


def forcing(size: int = 64, amplitude: float = 0.1) -> Tensor:
    """f = amplitude (sin 2 pi (x + y) + cos 2 pi (x + y)), float64 ``[size, size]``."""
    positive("amplitude", amplitude, zero=True)
    x = torch.arange(_even(size), dtype=torch.float64) / size
    angle = 2 * math.pi * (x[:, None] + x)
    return amplitude * (angle.sin() + angle.cos())


@cache
def speed_limit(step: float, viscosity: float, modes: int) -> float:
    """Largest uniform speed at which no mode up to ``modes`` along each axis grows over one step.

    A flow U turns a mode by z = k U step, which Runge-Kutta 4 amplifies by |R|^2 = 1 + y^3 (y - 8) / 576, y = z^2,
    while viscosity damps it by exp(-viscosity k^2 step). They cancel at the bound (z^2 = 8 without viscosity), which
    is taken for the worst k.
    """
    k = 2 * math.pi * np.arange(1, math.sqrt(2) * modes + 1)
    damped = 576 * np.expm1(np.minimum(2 * viscosity * k**2 * step, 500))
    y = 8 + damped**0.25
    for _ in range(40):  # Newton from above; y^3 (y - 8) is convex there
        y -= (y**3 * (y - 8) - damped) / (4 * y**3 - 24 * y**2)
    return float((np.sqrt(y) / (k * step)).min())


class _Flow:
    """The equation on the kept modes of a batch; a spectrum is complex ``[samples, ky, kx]``, ky = 0 .. ``modes``."""

    def __init__(self, w0: Tensor, viscosity: float, forcing: Tensor | None):
        self.size = w0.shape[-1]
        self.modes = (self.size - 1) // 3  # the highest that products of two cannot alias onto
        kx = 2 * math.pi * torch.fft.fftfreq(self.size, 1 / self.size, dtype=torch.float64, device=w0.device)
        ky = 2 * math.pi * torch.arange(self.modes + 1, dtype=torch.float64, device=w0.device)[:, None]
        square = kx**2 + ky**2
        self.decay = viscosity * square
        kind = w0.dtype.to_complex()
        self.kept = ((kx.abs() < 2 * math.pi * (self.modes + 0.5)) & (ky >= 0)).to(kind)
        inverse = torch.where(square > 0, 1 / square, 0)
        self.curl = (torch.stack([1j * ky * inverse, -1j * kx * inverse]).to(kind) * self.kept)[:, None]
        self.flux = torch.stack([kx**2 - ky**2, -kx * ky]).to(kind) * self.kept
        self.forcing = self.spectrum(torch.zeros_like(w0[0]) if forcing is None else forcing.to(w0))

    def spectrum(self, field: Tensor) -> Tensor:
        return fft(rfft(field)[..., : self.modes + 1].mT) * self.kept

    def field(self, spectrum: Tensor) -> Tensor:
        return irfft(ifft(spectrum).mT, n=self.size)

    def speed(self, w: Tensor) -> Tensor:
        """The fastest flow anywhere in each sample, ``[samples]``."""
        return self.field(self.curl * w).square().sum(0).amax((-2, -1)).sqrt()

    def advance(self, w: Tensor, step: float, steps: int) -> Tensor:
        """``steps`` steps of integrating-factor Runge-Kutta 4; ``w`` is overwritten and returned."""
        padded = w.new_zeros(2, len(w), self.size, self.size // 2 + 1)
        products = torch.empty(2, len(w), self.size, self.size, dtype=w.dtype.to_real(), device=w.device)

        def tendency(w: Tensor) -> Tensor:
            padded[..., : self.modes + 1] = ifft(self.curl * w).mT
            u, v = irfft(padded)
            torch.mul(u, v, out=products[0])
            torch.mul(u, u, out=products[1]).addcmul_(v, v, value=-1)
            uv, difference = fft(rfft(products)[..., : self.modes + 1].mT)
            return torch.addcmul(self.forcing, self.flux[0], uv).addcmul_(self.flux[1], difference)

        one_step = IntegratingFactor(torch.exp(-self.decay * (step / 2)).to(w.dtype), step)
        for _ in range(steps):
            one_step(w, tendency)
        return w


def _states(
    w0: Tensor, times: Sequence[float], viscosity: float, forcing: Tensor | None, step: float, first: int
) -> Iterator[Tensor]:
    """Yields the vorticity ``[samples, size, size]`` at each of ``times``; see ``solve``."""
    if w0.device.type == "cpu":
        keep_memory()  # else each stage has its memory from the system anew, which takes longer than the stage
    flow = _Flow(w0, viscosity, forcing)
    w = flow.spectrum(w0)
    now = 0.0
    for time in times:
        pieces = math.ceil((time - now) / (CHECK * step) - 1e-9)
        for piece in range(pieces):
            length = (time - now) / pieces
            fewest = math.ceil(length / step - 1e-9)
            counts = range(fewest, REFINE * fewest + 1)
            speed = flow.speed(w)
            limits = speed.new_tensor([speed_limit(length / n, viscosity, flow.modes) for n in counts])
            level = torch.bucketize(speed * MARGIN, limits).where(speed.isfinite(), len(counts))
            _refuse(level == len(counts), speed, first, now + piece * length, step, viscosity, flow.modes)
            for chosen in level.unique().tolist():
                rows = level == chosen
                w[rows] = flow.advance(w[rows], length / counts[chosen], counts[chosen])
        now = time
        field = flow.field(w)
        finite = field.isfinite().flatten(1).all(1)
        _refuse(~finite, torch.where(finite, 0.0, math.nan), first, now, step, viscosity, flow.modes)
        yield field


def _refuse(bad: Tensor, speed: Tensor, first: int, time: float, step: float, viscosity: float, modes: int) -> None:
    """Raises FloatingPointError for the first sample that is ``bad``, with a step that would do."""
    if not bad.any():
        return
    row = int(bad.nonzero()[0])
    found, enough = float(speed[row]), step / REFINE
    where = f"sample {first + row} at t = {time:g} with step = {step:g}"
    if not math.isfinite(found):
        raise FloatingPointError(f"{where}: the vorticity is not finite; use a smaller step, or float64 if not yet")
    while speed_limit(enough, viscosity, modes) < 1.5 * found:
        enough /= 2
    raise FloatingPointError(
        f"{where}: the time step is too large for the flow, whose speed {found:.3g} is above what a step refined "
        f"{REFINE}-fold allows, {speed_limit(step / REFINE, viscosity, modes) / MARGIN:.3g}; "
        f"use step = {enough:.3g} or less"
    )


@torch.no_grad()
def solve(
    w0: Tensor,
    times: Sequence[float],
    *,
    viscosity: float = 1e-3,
    forcing: Tensor | None = None,
    step: float = 0.1,
    first: int = 0,
) -> Tensor:
    """Vorticity ``[samples, times, size, size]`` from ``w0 [samples, size, size]``, on its device and in its dtype.

    ``forcing`` is ``[size, size]``; None is no forcing. ``step`` is the largest time step: it divides the time between
    outputs evenly and is refined, up to twofold and for each sample by itself, where the flow is too fast for it
    (``speed_limit``). Modes above the 2/3 rule's are dropped from ``w0``. Raises ValueError or TypeError for bad
    arguments, and FloatingPointError, naming the sample (counted from ``first``), the time and a step that would do,
    when the step is too large for the flow or the field is no longer finite.
    """
    w0, times = _checked(w0, times, forcing)
    positive("viscosity", viscosity)
    positive("step", step)
    whole("first", first)
    return torch.stack(list(_states(w0, times, viscosity, forcing, step, first)), 1)


@torch.no_grad()
def published_scheme(w0: Tensor, times: Sequence[float], viscosity: float, forcing: Tensor, dt: float = 1e-2) -> Tensor:
    """What ``solve`` is compared with: Crank-Nicolson for viscosity, explicit Euler for the rest, complex FFTs.

    Written from the equations of arXiv 2010.08895; first order. Shapes as in ``solve``; each of ``times`` is taken at
    the nearest whole number of steps ``dt``.
    """
    w0, times = _checked(w0, times, forcing)
    positive("viscosity", viscosity)
    positive("dt", dt)
    size = w0.shape[-1]
    k = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=w0.dtype, device=w0.device)
    kx, ky = k[:, None].expand(size, size), k.expand(size, size)
    square = kx**2 + ky**2
    inverse = torch.where(square > 0, 1 / square, 0)
    kept = (kx.abs().maximum(ky.abs()) <= 2 / 3 * math.pi * size).to(w0.dtype)
    crank, nicolson = 1 - dt / 2 * viscosity * square, 1 / (1 + dt / 2 * viscosity * square)
    force, w, done, states = fft2(forcing.to(w0)), fft2(w0), 0, []
    for time in times:
        for _ in range(round(time / dt) - done):
            psi = inverse * w
            u, v = ifft2(1j * ky * psi).real, ifft2(-1j * kx * psi).real
            advection = u * ifft2(1j * kx * w).real + v * ifft2(1j * ky * w).real
            w = nicolson * (crank * w + dt * (force - kept * fft2(advection)))
        done = round(time / dt)
        states.append(ifft2(w).real)
    return torch.stack(states, 1)


def generate(
    path: str | Path,
    samples: int,
    frames: int = 50,
    *,
    size: int = 64,
    pool: int = 4,
    viscosity: float = 1e-3,
    amplitude: float = 0.1,
    alpha: float = 2.0,
    tau: float = 7.0,
    step: float = 0.1,
    seed: int = 0,
    first: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    batch: int | None = None,
) -> Path:
    """Solves ``samples`` trajectories; writes vorticity at t = 1 .. ``frames``, averaged over ``pool`` x ``pool``.

    The NetCDF at ``path`` holds ``vorticity (sample, time, y, x)`` in float32, every parameter, the seed, what produced
    it and a seal. Trajectory ``first + i`` depends on ``seed`` and its number alone: splits of a data set take
    other numbers or another seed. ``batch`` samples are solved at once; it changes the result by rounding only. A
    whole file with these parameters is kept as it is; a file with others, and anything that is not such a file, is
    left alone and raises ValueError. Raises FloatingPointError as ``solve`` does. Under ``torchrun`` every process
    calls this: batches are shared out, and the first process writes the file, to the bit what one process with the
    same ``batch`` writes.
    """
    path = Path(path)
    if _even(size) % whole("pool", pool, 1):
        raise ValueError(f"pool must divide size = {size}; got {pool}")
    precision = choice("dtype", str(dtype).removeprefix("torch."), DTYPES)
    dtype, device = DTYPES[precision], pick_device(device)
    parameters = {
        "samples": whole("samples", samples, 1),
        "frames": whole("frames", frames, 1),
        "size": size,
        "pool": pool,
        "viscosity": positive("viscosity", viscosity),
        "amplitude": positive("amplitude", amplitude, zero=True),
        "alpha": positive("alpha", alpha),
        "tau": positive("tau", tau),
        "step": positive("step", step),
        "seed": whole("seed", seed),
        "first": whole("first", first),
        "precision": precision,
    }
    if batch is None:  # what the cores' caches hold, or what hides the kernel launches of a GPU; and some for everyone
        batch = 16 * torch.get_num_threads() if device.type == "cpu" else 1024
        batch = min(batch, math.ceil(samples / processes.size()))
    whole("batch", batch, 1)
    make = partial(_make, path, parameters, batch, dtype, device)
    return store.cached(path, parameters, make, together=True)


@torch.no_grad()
def _make(path: Path, parameters: dict[str, Any], batch: int, dtype: torch.dtype, device: torch.device) -> None:
    """Solves this process's share of the batches; the first process has those of all, and writes the file."""
    samples, frames, size, pool, first = (parameters[name] for name in ("samples", "frames", "size", "pool", "first"))
    seed, alpha, tau = (parameters[name] for name in ("seed", "alpha", "tau"))
    force = forcing(size, parameters["amplitude"]).to(device, dtype)
    vorticity = np.empty((samples, frames, size // pool, size // pool), np.float32)
    starts = processes.share(range(0, samples, batch))
    with progress(total=len(starts) * frames, desc=path.name, unit="frame", quiet=processes.rank() > 0) as bar:
        for start in starts:
            count = min(batch, samples - start)
            w0 = initial_vorticity(count, size, seed, first + start, alpha, tau).to(device, dtype)
            times = range(1, frames + 1)
            states = _states(w0, times, parameters["viscosity"], force, parameters["step"], first + start)
            for frame, state in enumerate(states):
                pooled = torch.nn.functional.avg_pool2d(state, pool).mT
                vorticity[start : start + count, frame] = pooled.cpu().numpy()
                bar.update()
    for part in processes.gather({start: vorticity[start : start + batch] for start in starts}, to=0):
        for start, values in part.items():
            vorticity[start : start + batch] = values
    if processes.rank() == 0:
        store.write(path, _described(vorticity, parameters), ABOUT | parameters, device)


def load(path: str | Path) -> xr.DataArray:
    """The vorticity ``[sample, time, y, x]`` of a file that ``generate`` wrote, with all of the file's attributes.

    Raises FileNotFoundError, or ValueError where the file is truncated, altered or not one of these.
    """
    return store.load(path, "vorticity", ("sample", "time", "y", "x"), "minconv.data.navier_stokes.generate")


def frames(path: str | Path, device: str | torch.device = "cpu") -> Tensor:
    """The trajectories of ``path`` as float32 ``[samples, frames, 1, y, x]`` on ``device``; raises as ``load`` does."""
    return torch.from_numpy(load(path).values).unsqueeze(2).to(pick_device(device))


def _described(vorticity: np.ndarray, parameters: dict[str, Any]) -> xr.Dataset:
    """The pooled trajectories ``[sample, time, y, x]`` with coordinates, as CF has it."""
    samples, frames, _, width = vorticity.shape
    pool, size = parameters["pool"], parameters["size"]
    centre = (pool * np.arange(width) + (pool - 1) / 2) / size
    numbers, times = parameters["first"] + np.arange(samples), np.arange(1.0, frames + 1)
    about = {"units": "1", "long_name": "vorticity", "cell_methods": "time: point x: y: mean"}
    return xr.Dataset(
        {"vorticity": (("sample", "time", "y", "x"), vorticity, about)},
        {
            "sample": ("sample", numbers, {"units": "1", "long_name": "trajectory number"}),
            "time": ("time", times, {"units": "1", "long_name": "time", "axis": "T"}),
            "y": ("y", centre, {"units": "1", "long_name": "y, in domain lengths", "axis": "Y"}),
            "x": ("x", centre, {"units": "1", "long_name": "x, in domain lengths", "axis": "X"}),
        },
    )


def _even(size: int) -> int:
    if whole("size", size, 8) % 2:
        raise ValueError(f"size must be even; got {size}")
    return size


def _checked(w0: Tensor, times: Sequence[float], forcing: Tensor | None) -> tuple[Tensor, list[float]]:
    """Raises unless ``w0`` is ``[samples, size, size]``, ``forcing`` fits it and ``times`` increase from above 0."""
    for name, field in {"w0": w0, "forcing": forcing}.items():
        if field is not None and (not isinstance(field, Tensor) or field.dtype not in DTYPES.values()):
            kind = field.dtype if isinstance(field, Tensor) else type(field).__name__
            raise TypeError(f"{name} must be a tensor of float32 or float64; got {kind}")
    if w0.ndim != 3 or not len(w0) or w0.shape[1] != w0.shape[2]:
        raise ValueError(f"w0 must be [samples, size, size]; got {list(w0.shape)}")
    size = _even(w0.shape[-1])
    if forcing is not None and forcing.shape != (size, size):
        raise ValueError(f"forcing must be [{size}, {size}] as w0 is; got {list(forcing.shape)}")
    if not w0.isfinite().all() or (forcing is not None and not forcing.isfinite().all()):
        raise ValueError("w0 and forcing must be finite; got nan or inf")
    try:
        times = [float(time) for time in times]
    except TypeError as error:
        raise TypeError(f"times must be a sequence of numbers; got {times!r}") from error
    if not times or not all(a < b < math.inf for a, b in pairwise([0.0, *times])):
        raise ValueError(f"times must be finite, above 0 and increasing; got {times}")
    return w0, times
