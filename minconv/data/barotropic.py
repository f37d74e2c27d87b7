"""An equivalent-barotropic model of the 500 hPa flow on the sphere, a stand-in for ERA5 that needs no download.

    dq/dt + u . grad q = stirring - D (q - q_jets),    q = lap psi - psi / L^2 + f (1 + h),    u = k x grad psi

psi streamfunction, q potential vorticity, f Coriolis parameter, L Rossby radius, h height of the mountains over the
depth of the flow. D relaxes the flow to a zonal jet in either hemisphere, strongest in that hemisphere's winter, and
damps small scales (del^8). Stirring is a random source of vorticity, red in time, of small scales, strongest in
winter and in middle latitudes; it feeds the travelling systems. Geopotential follows from the linear balance
lap Phi = div(f grad psi). Units are SI; the Earth's radius and rotation are real.

Discretisation: spherical harmonics with triangular truncation, products on a Gaussian grid that takes them exactly,
and Runge-Kutta 4 in time with D integrated exactly (integrating factor). Without D and stirring the truncated flow
conserves energy and potential enstrophy as the exact one does.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data import store
from minconv.data.grid import DIMS
from minconv.data.integrate import IntegratingFactor
from minconv.data.series import write_series
from minconv.data.sphere import Sphere, bump, equiangular, fourier, legendre, neighbours, slope
from minconv.runtime.checks import positive, whole
from minconv.runtime.device import pick_device
from minconv.runtime.progress import progress

RADIUS = 6.371e6  # m
ROTATION = 7.292e-5  # 1/s
MEAN = 55480.0  # m2 s-2, by area; unweighted over 32 x 64 cells it is near ERA5's 54108 at 500 hPa
DAY = 86400.0  # s
YEAR = 365.2425 * DAY
MIDWINTER = 20 * DAY  # of the northern hemisphere, after 1 January; the southern one's is half a year later
EPOCH = np.datetime64("1979-01-01", "h")
SPINUP = 180  # days
SOURCE = "barotropic model, not ERA5"
MOUNTAINS = (  # latitude, longitude, radius in degrees; height over depth
    (36, 90, 13, 0.24),  # Tibet
    (45, 248, 11, 0.18),  # Rockies
    (70, 320, 8, 0.14),  # Greenland
    (-30, 290, 9, 0.14),  # Andes
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the model; with the defaults its climate is near that of ERA5 at 500 hPa."""

    truncation: int = 31
    step: float = 5400.0  # s
    rossby_radius: float = 1.5e6  # m; may be infinite, as may the times of relaxation and diffusion
    zonal_days: float = 10.0  # relaxation time of the zonal mean
    eddy_days: float = 25.0  # that of everything else
    diffusion_hours: float = 6.0  # damping time of the highest degree
    north_jet: float = 17.0  # m/s, annual mean of the jet that the flow relaxes to
    north_season: float = 5.5  # m/s, by which that jet is stronger in the hemisphere's winter
    south_jet: float = 21.5
    south_season: float = 2.0
    jet_latitude: float = 42.0  # degrees
    jet_width: float = 20.0
    mountains: float = 1.0  # in units of the heights in MOUNTAINS
    stirring: float = 1.5e-10  # 1/s2, root mean square at the storm tracks' latitude, annual mean
    stirring_season: float = 0.3  # by which it is stronger in the hemisphere's winter, as a fraction
    stirring_days: float = 2.0  # its decorrelation time
    stirring_lowest: int = 8  # its degrees
    stirring_highest: int = 14
    track_latitude: float = 45.0  # degrees
    track_width: float = 15.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("truncation", "stirring_lowest", "stirring_highest"):
                whole(name, value, 1)
            elif value != math.inf or name not in ("rossby_radius", "zonal_days", "eddy_days", "diffusion_hours"):
                positive(name, value, zero=name in ("mountains", "stirring") or name.endswith(("jet", "season")))
        if not self.stirring_lowest <= self.stirring_highest <= self.truncation:
            raise ValueError(
                "stirring_lowest, stirring_highest and truncation must not decrease; "
                f"got {self.stirring_lowest}, {self.stirring_highest}, {self.truncation}"
            )


class _Advection:
    """d psi / dt of the flow that is neither forced nor damped, plus ``force``.

    By matrices: -div(u q) a = -dUq/dlambda / (1 - mu^2) - dVq/dmu with U, V = cos(latitude) times the wind, analysed by
    parts. Spectra are ``[m, part x member, n]``, which matrices multiply without copies, and fields
    ``[longitude, member, latitude]``.
    """

    def __init__(
        self, sphere: Sphere, functions: np.ndarray, slopes: np.ndarray, laplacian: np.ndarray, inverse: np.ndarray
    ):
        tensor, m = sphere.tensor, np.arange(sphere.truncation + 1)[:, None]
        waves = fourier(sphere.truncation, sphere.longitudes)
        turned = np.stack([waves[..., 1], -waves[..., 0]], -1)  # waves of i times the spectrum
        mean = np.where(m > 0, 0.5, 1) / len(waves)
        weights = inverse * sphere.weights / (1 - sphere.sines**2) / RADIUS
        self.vorticity_u = tensor(np.concatenate([laplacian[:, None] * functions, -slopes / RADIUS], 2))
        self.v = tensor(m[..., None] * functions / RADIUS)
        self.waves, self.turned = (tensor(w.reshape(len(w), -1)) for w in (waves, turned))
        self.mean, self.turned_mean = (tensor((w * mean).reshape(len(w), -1).T) for w in (waves, turned))
        self.east = tensor((m[..., None] * functions * weights).swapaxes(1, 2))
        self.north = tensor((slopes * weights).swapaxes(1, 2))

    def __call__(self, psi: Tensor, rest: Tensor, force: Tensor) -> Tensor:
        orders, rows, _ = psi.shape
        u = torch.mm(self.waves, torch.bmm(psi, self.vorticity_u).view(2 * orders, -1))
        v = torch.mm(self.turned, torch.bmm(psi, self.v).view(2 * orders, -1))
        vorticity, u = u.view(len(u), rows // 2, 2, -1).unbind(2)
        q = vorticity + rest
        uq = torch.mm(self.turned_mean, (u * q).view(len(u), -1)).view(orders, rows, -1)
        vq = torch.mm(self.mean, (v.view_as(q) * q).view(len(u), -1)).view(orders, rows, -1)
        return torch.baddbmm(torch.baddbmm(force, uq, self.east), vq, self.north)


class Barotropic:
    """The model; its states are spectra of the streamfunction (m2/s), ``[members, m, part, n]`` in float64.

    Times are in seconds since 1979-01-01 00 UTC.
    """

    def __init__(self, settings: Settings | None = None, device: str | torch.device = "cpu"):
        self.settings = s = settings or Settings()
        self.sphere = sphere = Sphere(s.truncation, device)
        tensor, sines = sphere.tensor, sphere.sines
        m, n = np.ogrid[: s.truncation + 1, : s.truncation + 1]
        laplacian = -n * (n + 1) / RADIUS**2
        stretching = laplacian - s.rossby_radius**-2  # q - f (1 + h) over psi
        used = (n >= m) & (n > 0)  # psi has no global mean
        inverse = np.where(used, 1 / np.where(used, stretching, 1), 0)[..., None]
        relaxation = 1 / (DAY * np.where(m == 0, s.zonal_days, s.eddy_days))
        diffusion = (laplacian / laplacian[0, -1]) ** 4 / (3600 * s.diffusion_hours)
        self.laplacian, self.stretching = tensor(laplacian[0]), tensor(stretching[0])
        self.decay = tensor(np.where(used, relaxation + diffusion, 0))[:, None]

        latitudes = sphere.latitudes[:, None]
        height = sum(h * bump(latitudes, sphere.longitudes, *place) for *place, h in MOUNTAINS)
        self.rest = sphere.analysis(tensor(2 * ROTATION * sines[:, None] * (1 + s.mountains * height)))
        self._rest = sphere.synthesis(self.rest).T[:, None].contiguous()
        functions, slopes = legendre(s.truncation, sines), slope(s.truncation, sines)
        self._advection = _Advection(sphere, functions, slopes, laplacian[0], inverse)
        self._jets = torch.zeros(2, *self.rest.shape, dtype=torch.float64, device=sphere.device)
        vorticity = np.einsum(
            "sk,nk,k->sn", _jet_speeds(s, sphere), slopes[0], sphere.weights / (1 - sines**2) / RADIUS
        )
        self._jets[:, 0, 0, 1:] = tensor(vorticity[:, 1:] / laplacian[0, 1:])
        self._stir = tensor(_stirring(s, sphere, functions, functions * inverse))

    def season(self, time: float) -> float:
        """1 in the northern midwinter, -1 in the southern."""
        return math.cos(2 * math.pi * (time - MIDWINTER) / YEAR)

    def jets(self, time: float) -> Tensor:
        """The state ``[m, part, n]`` that the flow relaxes to."""
        return self._jets[0] + self.season(time) * self._jets[1]

    def energy(self, psi: Tensor) -> Tensor:
        """Mean energy ``[members]`` in m2/s2: (u^2 + psi^2 / L^2) / 2."""
        return -self._sum(self.stretching * psi**2) / 2

    def enstrophy(self, psi: Tensor) -> Tensor:
        """Mean potential enstrophy ``[members]`` in 1/s2: q^2 / 2."""
        return self._sum((self.stretching * psi + self.rest) ** 2) / 2

    def _sum(self, squares: Tensor) -> Tensor:
        return 2 * squares.sum((-3, -2, -1)) - squares[..., 0, :, :].sum((-2, -1))

    def balance(self, latitudes: np.ndarray, longitudes: np.ndarray) -> tuple[Tensor, Tensor]:
        """Operators with which ``sphere.synthesis`` makes Phi - MEAN of psi, on a grid given in degrees."""
        n = np.arange(self.settings.truncation + 1)
        down = np.where(n > 1, (n + 1) / np.maximum(n, 1), 0)  # Phi has degrees n - 1 and n + 1 of psi's n
        operator = 2 * ROTATION * neighbours(np.sin(np.deg2rad(latitudes)), down, n / (n + 1))
        return self.sphere.tensor(operator), self.sphere.tensor(fourier(n[-1], longitudes))

    def tendency(self, psi: Tensor) -> Tensor:
        """d psi / dt of the flow that is neither forced nor damped."""
        inner = self._inner(psi)
        return self._outer(self._advection(inner, self._rest, torch.zeros_like(inner)))

    def _inner(self, psi: Tensor) -> Tensor:
        """A copy, ``[m, part x member, n]``."""
        return psi.permute(1, 2, 0, 3).flatten(1, 2).clone(memory_format=torch.contiguous_format)

    def _outer(self, psi: Tensor) -> Tensor:
        return psi.unflatten(1, (2, -1)).permute(2, 0, 1, 3)

    @torch.no_grad()
    def advance(self, psi: Tensor, time: float, steps: int = 1, stirring: "Stirring | None" = None) -> Tensor:
        """The state ``steps`` steps after ``psi`` at ``time``. Season and stirring are held over each step."""
        step = self.settings.step
        half = torch.exp(-self.decay * (step / 2))[:, :, None].expand(-1, 2, len(psi), -1).flatten(1, 2)
        psi, one_step = self._inner(psi), IntegratingFactor(half, step)
        for number in range(steps):
            now = time + (number + 0.5) * step
            force = (self.decay * self.jets(now))[:, :, None].expand(-1, -1, psi.shape[1] // 2, -1).flatten(1, 2)
            if stirring is not None:
                pattern = stirring.next()
                stir = self._stir[0] + self.season(now) * self._stir[1]
                force[: len(stir)] += torch.bmm(pattern, stir)
            psi = one_step(psi, partial(self._advection, rest=self._rest, force=force))
        return self._outer(psi)


def _jet_speeds(s: Settings, sphere: Sphere) -> np.ndarray:
    """U of each hemisphere's jet ``[2, latitude]``: its annual mean, and what the northern winter adds."""
    north = sphere.sines > 0
    jet = np.exp(-(((np.abs(sphere.latitudes) - s.jet_latitude) / s.jet_width) ** 2))
    jet *= (1 - sphere.sines**2) / math.cos(math.radians(s.jet_latitude))  # of a wind of 1 m/s that ends at the poles
    return jet * [np.where(north, s.north_jet, s.south_jet), np.where(north, s.north_season, -s.south_season)]


def _stirring(s: Settings, sphere: Sphere, functions: np.ndarray, inverted: np.ndarray) -> np.ndarray:
    """``[2, m, degree, n]``, annual mean and northern winter: random patterns to d psi / dt along the storm tracks."""
    track = s.stirring * np.exp(-(((np.abs(sphere.latitudes) - s.track_latitude) / s.track_width) ** 2))
    tracks = track * [np.ones_like(track), np.where(sphere.sines > 0, 1, -1) * s.stirring_season]
    band = functions[: s.stirring_highest + 1, s.stirring_lowest : s.stirring_highest + 1]
    band = band / np.sqrt(4 * (np.abs(band).max(2) > 0)[1:].sum())  # unit noise makes a field of mean square 1
    band[0] = 0  # zonal means are not stirred
    return np.einsum("mbk,sk,mnk->smbn", band, tracks * sphere.weights, inverted[: len(band)])


class Stirring:
    """Random patterns of the stirring, a step at a time; member ``first + i`` depends on ``seed`` and its number."""

    def __init__(self, model: Barotropic, seed: int = 0, members: int = 1, first: int = 0):
        s, self._device = model.settings, model.sphere.device
        self._shape = s.stirring_highest + 1, 2, s.stirring_highest - s.stirring_lowest + 1
        self._kept = math.exp(-s.step / (DAY * s.stirring_days))
        self._reseed(seed, range(first, first + members))
        self._state = self._draw()

    def _reseed(self, seed: int, numbers: range) -> None:
        self._numbers = numbers
        self._streams = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,))) for i in numbers]

    def _draw(self) -> np.ndarray:
        return np.stack([stream.standard_normal(self._shape) for stream in self._streams], 2)

    def next(self) -> Tensor:
        """The pattern ``[m, part x member, degree]`` of the next step."""
        self._state = self._kept * self._state + math.sqrt(1 - self._kept**2) * self._draw()
        return torch.from_numpy(self._state).flatten(1, 2).to(self._device)

    def branch(self, seed: int) -> "Stirring":
        """A stirring that is the same now and goes on with the random numbers of another seed."""
        other = copy(self)
        other._reseed(seed, self._numbers)
        return other


@contextmanager
def _one_thread() -> Iterator[None]:
    """The model's matrices are small: a second thread gains little, and beside other work they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@_one_thread()
def generate(
    path: str | Path,
    start: str | int = "1979",
    end: str | int = "2018",
    *,
    hours: int = 6,
    seed: int = 0,
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
) -> Path:
    """One trajectory of geopotential on 32 x 64 cells, from ``start``-01-01 00 UTC to the end of the year ``end``.

    The NetCDF at ``path`` holds ``z (time, lat, lon)`` every ``hours``, in float32, every parameter, what produced it
    and a seal. The same seed and settings give the same series on the same machine. A whole file with these
    parameters is kept as it is; a file with others, and anything that is not such a file, is left alone and raises
    ValueError. Raises FloatingPointError where the flow is too fast for the settings' step.
    """
    path, settings, device = Path(path), settings or Settings(), pick_device(device)
    first, last = (_year(name, year) for name, year in {"start": start, "end": end}.items())
    if first > last:
        raise ValueError(f"end must not be before start; got {first} to {last}")
    steps = 3600 * whole("hours", hours, 1) / settings.step
    if 24 % hours or steps % 1:
        raise ValueError(f"hours must divide 24 and be whole steps of {settings.step:g} s; got {hours}")
    parameters = {"start": first, "end": last, "hours": hours, "seed": whole("seed", seed), **asdict(settings)}
    return store.cached(path, parameters, partial(_make, path, parameters, settings, device))


def _make(path: Path, parameters: dict[str, Any], settings: Settings, device: torch.device) -> None:
    """Integrates from a spin-up before the first year on, and writes the file."""
    first, last, hours, seed = (parameters[name] for name in ("start", "end", "hours", "seed"))
    model = Barotropic(settings, device)
    stirring = Stirring(model, seed)
    latitudes, longitudes = equiangular(32)
    grid, steps = model.balance(latitudes, longitudes), round(3600 * hours / settings.step)
    months = np.arange(f"{first}-01", f"{last + 1}-02", dtype="datetime64[M]").astype("datetime64[h]")
    times = np.arange(months[0], months[-1], np.timedelta64(hours, "h"))
    z = np.empty((len(times), len(latitudes), len(longitudes)), np.float32)
    time = float((months[0] - EPOCH).astype(int)) * 3600 - SPINUP * DAY
    psi = model.advance(model.jets(time)[None], time, round(SPINUP * DAY / settings.step), stirring)
    time, row = time + SPINUP * DAY, 0
    with progress(total=len(months) - 1, desc=path.name, unit="month") as bar:
        for month, following in pairwise(months):
            states = []
            for _ in range((following - month) // np.timedelta64(hours, "h")):
                states.append(psi)
                psi = model.advance(psi, time, steps, stirring)
                time += 3600 * hours
            field = MEAN + model.sphere.synthesis(torch.cat(states), grid)
            if not field.isfinite().all():
                raise FloatingPointError(
                    f"the flow is not finite in {month.astype('datetime64[M]')}; "
                    f"use settings with a step below {settings.step:g} s"
                )
            z[row : row + len(field)] = field.cpu().numpy()
            row += len(field)
            bar.update()
    attributes = {
        "units": "m2 s-2",
        "standard_name": "geopotential",
        "long_name": "geopotential at 500 hPa",
        "source": SOURCE,
        "cell_methods": "time: lat: lon: point",
    }
    coordinates = {"time": times.astype("datetime64[ns]"), "lat": latitudes, "lon": longitudes}
    about = {
        "title": "500 hPa geopotential of an equivalent-barotropic model; not ERA5",
        "source": "minconv.data.barotropic: spectral, integrating-factor Runge-Kutta 4",
        "comment": "A stand-in for reanalysis data: stirred flow relaxed to a seasonal jet. Dates are the model's own.",
    }
    write_series(path, xr.DataArray(z, coordinates, DIMS, "z", attributes), about | parameters, device)


def load(path: str | Path) -> xr.DataArray:
    """The geopotential ``z [time, lat, lon]`` of a file that ``generate`` wrote, with all of the file's attributes.

    Raises FileNotFoundError, or ValueError where the file is truncated, altered or not one of these.
    """
    return store.load(path, "z", DIMS, "minconv.data.barotropic.generate")


def _year(name: str, year: str | int) -> int:
    """The year as a number; raises TypeError or ValueError unless it is one of 1700 to 2250, which nanoseconds hold."""
    if isinstance(year, str) and year.isdecimal():
        year = int(year)
    if whole(name, year, 1700) > 2250:
        raise ValueError(f"{name} must be at most 2250; got {year}")
    return int(year)
