"""The spectral model against closed forms, conservation laws and its own order; its climate; files whole or absent."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from grids import random_spectrum

from minconv.data import barotropic
from minconv.data.barotropic import (
    DAY,
    RADIUS,
    ROTATION,
    YEAR,
    Barotropic,
    Settings,
    Stirring,
    generate,
    load,
)
from minconv.data.sphere import Sphere, equiangular, fourier, legendre, slope

pytestmark = pytest.mark.usefixtures("one_thread")

UNDAMPED = {"zonal_days": math.inf, "eddy_days": math.inf, "diffusion_hours": math.inf}
FLAT = {"mountains": 0.0, "stirring": 0.0}
SMALL = {"truncation": 8, "step": 21600.0, "stirring_lowest": 4, "stirring_highest": 7}
FILES = {"truncation": 4, "step": 86400.0, "stirring_lowest": 3, "stirring_highest": 4}
DAYS = 20  # to the northern midwinter, from 1 January


def small(**settings: float) -> Barotropic:
    return Barotropic(Settings(**SMALL | settings))


def rotation(model: Barotropic, rate: float) -> torch.Tensor:
    """The state ``[1, m, part, n]`` of solid rotation at ``rate`` (1/s): psi = -a^2 rate sin(latitude)."""
    psi = torch.zeros(1, *model.rest.shape, dtype=torch.float64)
    psi[0, 0, 0, 1] = -(RADIUS**2) * rate / math.sqrt(3)
    return psi


def turned(psi: torch.Tensor, angle: float) -> torch.Tensor:
    """The state turned eastward by ``angle``: the complex spectrum times exp(-i m angle)."""
    phase = torch.arange(psi.shape[-1], dtype=torch.float64)[:, None] * angle
    real, imaginary = psi.unbind(-2)
    return torch.stack([real * phase.cos() + imaginary * phase.sin(), imaginary * phase.cos() - real * phase.sin()], -2)


def zonal_wind(model: Barotropic, psi: torch.Tensor, latitudes: np.ndarray) -> np.ndarray:
    """Zonal mean wind in m/s, eastward."""
    sines = np.sin(np.deg2rad(latitudes))
    slopes = slope(model.settings.truncation, sines)[0]
    return -(psi[..., 0, 0, :].numpy() @ slopes) / np.sqrt(1 - sines**2) / RADIUS


def weighted(field: np.ndarray) -> float:
    """Root mean square over the area of 32 x 64 cells and whatever comes before."""
    edges = np.sin(np.deg2rad(np.linspace(-90, 90, field.shape[-2] + 1)))
    return float(np.sqrt((field**2 * np.diff(edges)[:, None] / 2).sum(-2).mean()))


def test_laplacian_of_harmonics():
    """By differences in longitude and latitude of Y(3, 5), whose Laplacian is -30 Y / a^2."""
    model, h = Barotropic(Settings(truncation=14)), 1e-2
    spectrum = torch.zeros(15, 2, 15, dtype=torch.float64)
    spectrum[3, 0, 5] = 1

    def value(dy: int, dx: int) -> np.ndarray:
        latitudes, longitudes = np.linspace(-60, 60, 7) + dy * h, np.linspace(10, 300, 8) + dx * h
        return model.sphere.synthesis(spectrum, model.sphere.operators(latitudes, longitudes)).numpy()

    y, step = np.deg2rad(np.linspace(-60, 60, 7))[:, None], math.radians(h)
    centre = value(0, 0)
    along = (value(0, 1) - 2 * centre + value(0, -1)) / (np.cos(y) * step) ** 2
    across = (value(1, 0) - 2 * centre + value(-1, 0)) / step**2
    across -= np.tan(y) * (value(1, 0) - value(-1, 0)) / (2 * step)
    np.testing.assert_allclose((along + across) / RADIUS**2, float(model.laplacian[5]) * centre, atol=1e-17)


# Dynamics


def wave(model: Barotropic, rate: float) -> tuple[torch.Tensor, float]:
    """Solid rotation with waves of degree 5, mostly of order 4, and their phase speed: an exact solution."""
    psi = rotation(model, rate)
    psi[0, 4, :, 5] = torch.tensor([8e6, 3e6])
    psi[0, 1, :, 5] = torch.tensor([-1e6, 2e6])
    psi[0, 0, 0, 5] = 1.5e6
    inverse = model.settings.rossby_radius**-2
    gradient = 2 * ROTATION + 2 * rate + rate * RADIUS**2 * inverse
    return psi, rate - gradient / (RADIUS**2 * (30 / RADIUS**2 + inverse))


@pytest.mark.parametrize("radius", [math.inf, 1.5e6])
def test_rossby_haurwitz_wave_turns_at_its_speed_with_order_four(radius):
    """c = w - (2 W + 2 w + w a^2 / L^2) / (n (n + 1) + a^2 / L^2); infinite L: w - 2 (W + w) / (n (n + 1))."""
    errors = []
    for step in (14400.0, 7200.0, 3600.0):
        model = small(truncation=10, step=step, rossby_radius=radius, **UNDAMPED, **FLAT)
        psi, speed = wave(model, 7.848e-6)
        if radius == math.inf:
            assert speed == pytest.approx(7.848e-6 - 2 * (ROTATION + 7.848e-6) / 30)
        found = model.advance(psi, 0.0, round(4 * DAY / step))
        errors.append(float((found - turned(psi, speed * 4 * DAY)).norm() / psi[:, 1:].norm()))
    assert errors[-1] < 1e-4
    for coarse, fine in pairwise(errors):
        assert 12 < coarse / fine < 22


def test_tendency_is_the_jacobian():
    """- J(psi, q) / a^2 from gradients on a grid of three times the truncation, where the model takes fluxes."""
    model, fine = small(truncation=10), Sphere(30)
    psi = random_spectrum(2, 10)
    functions, slopes = legendre(10, fine.sines), slope(10, fine.sines) / (1 - fine.sines**2)
    waves, orders = fine.tensor(fourier(10, fine.longitudes)), torch.arange(11)[:, None]

    def gradient(spectrum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        along = torch.stack([-orders * spectrum[..., 1, :], orders * spectrum[..., 0, :]], -2)
        return (fine.synthesis(s, (fine.tensor(f), waves)) for s, f in ((along, functions), (spectrum, slopes)))

    (psi_x, psi_y), (q_x, q_y) = gradient(psi), gradient(model.stretching * psi + model.rest)
    exact = fine.analysis((psi_y * q_x - psi_x * q_y) / RADIUS**2)[:, :11, :, :11]
    found = model.stretching * model.tendency(psi)
    assert (found - exact)[..., 1:].norm() < 1e-12 * exact.norm()


def test_tendency_keeps_energy_and_enstrophy():
    model = small(truncation=21, mountains=1.0)
    psi = random_spectrum(2, 21)
    tendency = model.tendency(psi)
    for invariant in (model.energy, model.enstrophy):
        state = psi.clone().requires_grad_()
        invariant(state).sum().backward()
        rate = (state.grad * tendency).sum((1, 2, 3))
        assert (rate.abs() < 1e-12 * (state.grad * tendency).abs().sum((1, 2, 3))).all()


def test_energy_and_enstrophy_of_solid_rotation():
    """u = a w cos(latitude), so that u^2 has mean 2/3 a^2 w^2; q = (2 W + 2 w) sin(latitude)."""
    model, rate = small(rossby_radius=math.inf, **FLAT), 5e-6
    psi = rotation(model, rate)
    assert float(model.energy(psi)) == pytest.approx((RADIUS * rate) ** 2 / 3, rel=1e-12)
    assert float(model.enstrophy(psi)) == pytest.approx((2 * ROTATION + 2 * rate) ** 2 / 6, rel=1e-12)


def test_energy_and_enstrophy_drift_only_by_the_time_step():
    drifts = []
    for step in (7200.0, 3600.0, 1800.0):
        model = small(truncation=15, step=step, **UNDAMPED)
        psi = random_spectrum(2, 15) + rotation(model, 6e-6)
        later = model.advance(psi, 0.0, round(2 * DAY / step))
        assert (later - psi)[:, 1:].norm() > psi[:, 1:].norm()
        drifts.append([float((f(later) / f(psi) - 1).abs().max()) for f in (model.energy, model.enstrophy)])
    for drift in zip(*drifts, strict=True):
        assert drift[-1] < 1e-7
        for coarse, fine in pairwise(drift):
            assert coarse / fine > 14


def test_flow_over_mountains_converges_with_order_four():
    def after(step: float) -> torch.Tensor:
        model = small(truncation=15, step=step, north_season=0.0, south_season=0.0)
        return model.advance(random_spectrum(1, 15) + model.jets(0.0), 0.0, round(DAY / step))

    exact = after(600.0)
    errors = [float((after(step) - exact).norm()) for step in (7200.0, 3600.0, 1800.0)]
    for coarse, fine in pairwise(errors):
        assert 11 < coarse / fine < 25


def test_members_do_not_know_of_each_other():
    model = small()
    psi = random_spectrum(3, 8) + model.jets(0.0)
    together = model.advance(psi, 0.0, 20, Stirring(model, 5, members=3, first=7))
    for i in range(3):
        alone = model.advance(psi[i : i + 1], 0.0, 20, Stirring(model, 5, first=7 + i))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-10 * float(psi.abs().max()))


def test_pieces_are_the_whole():
    model = small()
    whole_stirring, stirring = Stirring(model, 1), Stirring(model, 1)
    psi = start = random_spectrum(1, 8) + model.jets(0.0)
    for number in range(6):
        psi = model.advance(psi, number * model.settings.step, 1, stirring)
    assert torch.equal(psi, model.advance(start, 0.0, 6, whole_stirring))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same():
    on_cpu, on_gpu = (Barotropic(device=device) for device in ("cpu", "cuda"))
    psi = random_spectrum(2, 31) + on_cpu.jets(0.0)
    expected = on_cpu.advance(psi, 0.0, 16, Stirring(on_cpu, 0, 2))
    found = on_gpu.advance(psi.cuda(), 0.0, 16, Stirring(on_gpu, 0, 2)).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(psi.abs().max()))


# Forcing


def test_flow_relaxes_to_the_jets_at_the_given_rate():
    """A zonal flow on a flat sphere only decays: exp(-t (1 / 10 days + del^8 / 6 hours)) of what it is off the jets."""
    model = small(zonal_days=10.0, diffusion_hours=6.0, north_season=0.0, south_season=0.0, step=3600.0, **FLAT)
    off = torch.zeros(1, *model.rest.shape, dtype=torch.float64)
    off[0, 0, 0, 1:] = torch.linspace(3e7, 1e6, 8)
    degree = torch.arange(9)
    rate = 1 / (10 * DAY) + (degree * (degree + 1) / 72) ** 4 / (6 * 3600)
    found = model.advance(model.jets(0.0) + off, 0.0, 5 * 24)
    torch.testing.assert_close(found, model.jets(0.0) + off * torch.exp(-rate * 5 * DAY), rtol=0, atol=1e-5 * 3e7)
    assert (model.advance(model.jets(0.0)[None], 0.0, 24) - model.jets(0.0)).norm() < 1e-5 * model.jets(0.0).norm()


def test_jets_have_their_speed_and_latitude_and_follow_the_seasons():
    model, latitudes = Barotropic(), np.linspace(-89, 89, 179)
    january, july = (zonal_wind(model, model.jets(DAYS * DAY + t), latitudes) for t in (0.0, YEAR / 2))
    s = model.settings
    at = int(s.jet_latitude) + 89
    assert january[at] == pytest.approx(s.north_jet + s.north_season, rel=0.02)
    assert july[at] == pytest.approx(s.north_jet - s.north_season, rel=0.02)
    assert july[::-1][at] == pytest.approx(s.south_jet + s.south_season, rel=0.02)
    assert january[::-1][at] == pytest.approx(s.south_jet - s.south_season, rel=0.02)
    assert np.abs(january[[0, -1]]).max() < 0.5  # no wind at the poles


def test_like_hemispheres_have_like_seasons():
    """With the same jets, one hemisphere is the other's mirror image half a year later."""
    model, latitudes = Barotropic(Settings(south_jet=17.0, south_season=5.5)), np.linspace(-80, 80, 33)
    for time in (0.0, 50 * DAY):
        now, later = (zonal_wind(model, model.jets(t), latitudes) for t in (time, time + YEAR / 2))
        np.testing.assert_allclose(now, later[::-1], atol=1e-10)
    assert zonal_wind(model, model.jets(190 * DAY), latitudes)[:16].max() > 20  # the southern winter's


def test_mountains_and_the_rotation_make_the_vorticity_at_rest():
    flat = small(**FLAT)
    field = flat.sphere.synthesis(flat.rest)
    exact = 2 * ROTATION * flat.sphere.tensor(flat.sphere.sines)[:, None].expand_as(field)
    torch.testing.assert_close(field, exact, rtol=0, atol=1e-15)
    model = Barotropic()
    excess = (
        model.sphere.synthesis(model.rest, model.sphere.operators(np.array([36.0, -30.0]), np.array([90.0, 290])))
        / (2 * ROTATION * torch.tensor([[math.sin(math.radians(36))], [-0.5]]))
    ) - 1
    assert torch.diagonal(excess).tolist() == pytest.approx([0.24, 0.14], abs=0.04)  # smoothed by the truncation


def test_stirring_has_its_strength_place_and_season():
    """From one step of the jets, which do not change by themselves, under many independent patterns."""
    model, count = Barotropic(Settings(mountains=0.0, step=60.0)), 300
    psi = model.jets(DAYS * DAY).expand(count, -1, -1, -1)
    change = model.advance(psi, DAYS * DAY - 30, 1, Stirring(model, 0, members=count)) - psi
    latitudes = np.array([-80.0, -45.0, 0.0, 45.0, 80.0])
    source = model.sphere.synthesis(
        change * model.stretching / 60, model.sphere.operators(latitudes, np.arange(0, 360, 9.0))
    )
    strength = source.square().mean((0, 2)).sqrt().numpy() / model.settings.stirring
    assert strength[3] == pytest.approx(1.3, rel=0.1)
    assert strength[1] == pytest.approx(0.7, rel=0.1)
    assert strength[[0, 2, 4]].max() < 0.15
    assert source.mean((0, 2)).abs().max() < 0.05 * model.settings.stirring


def test_stirring_is_red_noise_with_the_given_decorrelation_time():
    model = small(stirring_days=2.0)
    stirring = Stirring(model, 3, members=200)
    series = torch.stack([stirring.next() for _ in range(33)])
    variance = series.square().mean((1, 2, 3))
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=0.05)
    for lag in (1, 8, 16):  # of 6 hours
        correlation = float((series[lag:] * series[:-lag]).mean())
        assert correlation == pytest.approx(math.exp(-lag / 8), abs=0.03)


def test_a_branch_of_stirring_is_the_same_now_and_another_later():
    model = small()
    stirring = Stirring(model, 0)
    for _ in range(5):
        stirring.next()
    one, two, again = stirring.branch(1), stirring.branch(2), stirring.branch(1)
    first, other = one.next(), two.next()
    assert torch.equal(first, again.next())
    kept = math.exp(-0.25 / 2)
    spread = math.sqrt(2 * (1 - kept**2))
    assert 0.7 * spread < float((first - other).std()) < 1.3 * spread
    assert not torch.equal(stirring.next(), first)


# Geopotential


def test_balance_of_solid_rotation():
    """Phi = W w a^2 (1/3 - sin^2(latitude)) + its mean, from f u = - dPhi/dy."""
    model, rate = small(), 6e-6
    latitudes, longitudes = equiangular(32)
    found = model.sphere.synthesis(rotation(model, rate), model.balance(latitudes, longitudes))[0].numpy()
    exact = ROTATION * rate * RADIUS**2 * (1 / 3 - np.sin(np.deg2rad(latitudes)) ** 2)
    np.testing.assert_allclose(found, np.tile(exact[:, None], 64), rtol=0, atol=1e-9 * np.abs(exact).max())


def test_balance_of_any_flow():
    """lap Phi = f lap psi + 2 W (1 - mu^2) dpsi/dmu / a^2, with Phi analysed to one degree more than psi."""
    model, fine = small(truncation=9), Sphere(10)
    psi = random_spectrum(2, 9)
    phi = fine.analysis(fine.synthesis(psi, model.balance(fine.latitudes, fine.longitudes)))
    degree = torch.arange(11)
    waves, sines = fine.tensor(fourier(9, fine.longitudes)), fine.tensor(fine.sines)[:, None]
    vorticity = fine.synthesis(psi * model.laplacian, (fine.tensor(legendre(9, fine.sines)), waves))
    slopes = fine.synthesis(psi, (fine.tensor(slope(9, fine.sines)), waves))
    exact = 2 * ROTATION * (sines * vorticity + slopes / RADIUS**2)
    found = fine.synthesis(phi * -(degree * (degree + 1)) / RADIUS**2)
    assert (found - exact).norm() < 1e-12 * exact.norm()
    assert phi[:, 0, 0, 0].abs().max() < 1e-12 * phi.norm()


# Settings and files


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"truncation": 31.5}, TypeError, "truncation must be a whole number; got 31.5"),
        ({"step": 0.0}, ValueError, "step must be above 0 and finite; got 0"),
        ({"rossby_radius": -1.0}, ValueError, "rossby_radius must be above 0"),
        ({"eddy_days": "long"}, TypeError, "eddy_days must be a number; got 'long'"),
        ({"north_jet": math.nan}, ValueError, "north_jet must be at least 0 and finite; got nan"),
        ({"stirring_lowest": 15}, ValueError, "stirring_lowest, .* must not decrease; got 15, 14, 31"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        Settings(**settings)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"start": "1979-01"}, TypeError, "start must be a whole number; got '1979-01'"),
        ({"start": 1980, "end": 1979}, ValueError, "end must not be before start; got 1980 to 1979"),
        ({"end": "9999"}, ValueError, "end must be at most 2250; got 9999"),
        ({"hours": 5}, ValueError, "hours must divide 24 and be whole steps of 5400 s; got 5"),
        ({"hours": 1}, ValueError, "hours must divide 24 and be whole steps of 5400 s; got 1"),
        ({"device": "tpu"}, ValueError, "device must be one of"),
    ],
)
def test_bad_arguments(tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        generate(tmp_path / "z.nc", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def hasty():
    """The spin-up is as long as the weather needs it to be; a file is a file without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barotropic, "SPINUP", 5)
        yield


@pytest.fixture(scope="module")
def two_years(tmp_path_factory, hasty):
    return generate(tmp_path_factory.mktemp("two") / "z.nc", "1979", 1980, hours=24, settings=Settings(**FILES))


def test_file_has_every_step_of_its_years_in_cf_terms(two_years):
    z = load(two_years)
    assert z.dims == ("time", "lat", "lon") and z.shape == (365 + 366, 32, 64) and z.dtype == np.float32
    steps = np.arange("1979-01-01", "1981-01-01", np.timedelta64(24, "h"), dtype="datetime64[ns]")
    np.testing.assert_array_equal(z.time, steps)
    assert (z.time.dt.strftime("%m-%d") == "02-29").sum() == 1
    np.testing.assert_allclose(z.lat, equiangular(32)[0])
    np.testing.assert_allclose(z.lon, equiangular(32)[1])
    assert (z.units, z.standard_name, z.source) == ("m2 s-2", "geopotential", "barotropic model, not ERA5")
    assert (z.lat.units, z.lon.units, z.time.standard_name) == ("degrees_north", "degrees_east", "time")
    assert z.attrs["provenance_git_revision"] and z.attrs["truncation"] == 4 and z.attrs["seed"] == 0
    assert z.attrs["Conventions"].startswith("CF-")
    with xr.open_dataset(two_years, engine="h5netcdf", decode_times=False) as raw:
        assert raw.time.units.startswith("days since 1979-01-01") and raw.time.calendar == "proleptic_gregorian"
        assert "not ERA5" in raw.title


def test_a_file_is_kept_and_another_left_alone(two_years, monkeypatch):
    monkeypatch.setattr(Barotropic, "advance", lambda *_: pytest.fail("solved again"))
    assert generate(two_years, 1979, 1980, hours=24, settings=Settings(**FILES)) == two_years
    with pytest.raises(ValueError, match=r"end is 1980, not 1981; hours is 24, not 6; truncation is 4, not 31"):
        generate(two_years, 1979, 1981)


def test_a_seed_is_a_series(two_years, tmp_path):
    """A series that begins with the same years goes on from them."""
    z, days = load(two_years)[:365].values, {"hours": 24, "settings": Settings(**FILES)}
    again = load(generate(tmp_path / "again.nc", 1979, 1979, **days)).values
    np.testing.assert_array_equal(again, z)
    other = load(generate(tmp_path / "other.nc", 1979, 1979, seed=1, **days)).values
    assert weighted(other - z) > 0.5 * weighted(z - z.mean(0))


def test_one_thread_computes_whatever_the_caller_has(tmp_path, monkeypatch, hasty):
    settings, advance, seen = Settings(**FILES), Barotropic.advance, set()

    def noting(*arguments):
        seen.add(torch.get_num_threads())
        return advance(*arguments)

    monkeypatch.setattr(Barotropic, "advance", noting)
    torch.set_num_threads(2)
    try:
        generate(tmp_path / "z.nc", 1979, 1979, hours=24, settings=settings)
        assert seen == {1} and torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="other parameters"):
            generate(tmp_path / "z.nc", 1979, 1980, hours=24, settings=settings)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_flow_too_fast_for_its_step_says_so_and_leaves_no_file(tmp_path, hasty):
    settings = Settings(**SMALL | {"step": 43200.0, "north_jet": 300.0})
    with pytest.raises(FloatingPointError, match=r"not finite in 1979-\d\d; .* step below 43200 s"):
        generate(tmp_path / "z.nc", 1979, 1979, hours=12, settings=settings)
    assert not list(tmp_path.iterdir())


# Climate


@pytest.fixture(scope="module")
def climate(tmp_path_factory):
    """A year of z with the default settings, and its anomalies from two harmonics of the year."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barotropic, "SPINUP", 180)
        z = load(generate(tmp_path_factory.mktemp("climate") / "z.nc", 2001, 2001))
    phase = 2 * math.pi * np.arange(len(z)) / 4 / (YEAR / DAY)
    waves = np.stack([np.ones_like(phase), *(f(k * phase) for k in (1, 2) for f in (np.cos, np.sin))], 1)
    flat = z.values.reshape(len(z), -1).astype(np.float64)
    normal = waves @ np.linalg.lstsq(waves, flat, rcond=None)[0]
    return z, z.copy(data=(flat - normal).reshape(z.shape))


@pytest.mark.slow
def test_climate_is_near_that_of_era5(climate):
    z, anomaly = climate
    assert float(z.mean()) == pytest.approx(54108, abs=100)
    assert float(z.std()) == pytest.approx(3349, rel=0.1)
    zonal = z.mean(("time", "lon"))
    assert float(zonal.sel(lat=slice(-15, 15)).mean()) == pytest.approx(57500, abs=500)
    assert 49000 < float(zonal[0]) < 51500 and 49500 < float(zonal[-1]) < 52000
    assert 700 < weighted(anomaly.values) < 1000
    assert weighted((z.mean("time") - zonal).values[None]) > 100  # stationary waves


@pytest.mark.slow
def test_storm_tracks_are_strongest_in_middle_latitudes_and_in_winter(climate):
    """Storm tracks as the standard deviation of changes within a day."""
    _, anomaly = climate
    change = anomaly[4:] - anomaly[:-4].values
    month = change.time.dt.month
    january, july = (change[month.isin(months)].std(("time", "lon")) for months in ((12, 1, 2), (6, 7, 8)))
    for north, winter, summer in ((1, january, july), (-1, july, january)):
        band = slice(*sorted((20 * north, 90 * north)))
        track = winter.sel(lat=band)
        assert 35 < abs(float(track.idxmax("lat"))) < 60
        assert float(track.max()) > 1.3 * float(summer.sel(lat=band).max())
        assert float(track.max()) > 3 * float(winter.sel(lat=slice(-15, 15)).max())


@pytest.mark.slow
def test_weather_moves_and_persistence_is_beaten_by_climatology_after_three_days(climate):
    z, anomaly = climate
    spread = weighted(anomaly.values)
    error = {h: weighted(z.values[h // 6 :] - z.values[: -h // 6]) for h in (6, 24, 60, 84)}
    assert 80 < error[6] < 300 and error[24] < 0.6 * spread
    assert error[60] < 1.05 * spread < 1.1 * error[84]
    waves = np.fft.rfft(anomaly.sel(lat=-42.1875, method="nearest").values)
    day = (waves[4:] * waves[:-4].conj()).mean(0)
    for order in (6, 7, 8):  # travelling eastward, some degrees a day
        assert 3 < -math.degrees(np.angle(day[order])) / order < 20


@pytest.mark.slow
def test_what_can_be_forecast(climate):
    """Twins with other stirring part within a week or two; with the same stirring a small difference stays small."""
    _, anomaly = climate
    spread, members, model = weighted(anomaly.values), 4, Barotropic()
    stirring, day = Stirring(model, 11, members), 16  # steps
    psi = model.advance(model.jets(0.0).expand(members, -1, -1, -1), 0.0, 60 * day, stirring)
    grid = model.balance(*equiangular(32))
    noise = 1e-3 * torch.randn(psi.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    starts = {"twin": (psi, 1), "other": (psi, 2), "near": (psi * (1 + noise), 1)}
    runs = {name: (start, stirring.branch(seed)) for name, (start, seed) in starts.items()}
    error = {}
    for days, more in ((2, 2), (5, 3)):
        time = (60 + days - more) * DAY
        runs = {name: (model.advance(state, time, more * day, noise), noise) for name, (state, noise) in runs.items()}
        z = {name: model.sphere.synthesis(state, grid).numpy() for name, (state, _) in runs.items()}
        error[days] = {name: weighted(z[name] - z["twin"]) / spread for name in ("other", "near")}
    assert 0.2 < error[2]["other"] < 0.6
    assert error[2]["other"] < error[5]["other"] < 1
    assert error[5]["near"] < 0.02
