"""The solver against closed forms, its own order and converged trajectories; data sets whole or absent."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import reference

from minconv.data import navier_stokes
from minconv.data.navier_stokes import (
    forcing,
    frames,
    generate,
    initial_vorticity,
    load,
    published_scheme,
    solve,
    speed_limit,
)

pytestmark = pytest.mark.usefixtures("one_thread")

INVISCID = 1e-30
SMALL = {"samples": 3, "frames": 2, "size": 16, "pool": 4}


def relative(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (found - truth).norm(dim=(-2, -1)) / truth.norm(dim=(-2, -1))


def plane(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = 2 * math.pi * torch.arange(size, dtype=torch.float64) / size
    return x[:, None].expand(size, size), x.expand(size, size)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scheme", ["taylor-green", "one shell", "shear"])
def test_flows_without_self_advection_decay_with_viscosity(scheme, dtype, tolerance):
    x, y = plane(32)
    w0, square = {
        "taylor-green": (torch.cos(2 * x) * torch.cos(2 * y), 8),
        "one shell": (torch.sin(3 * x + 4 * y) + torch.cos(5 * x) - 0.5 * torch.sin(4 * x - 3 * y), 25),
        "shear": (torch.cos(x + 2 * y), 5),
    }[scheme]
    times, viscosity = [0.3, 1.0, 2.05], 2e-3
    found = solve(0.2 * w0[None].to(dtype), times, viscosity=viscosity, step=0.05)[0].double()
    for state, t in zip(found, times, strict=True):
        decay = math.exp(-viscosity * 4 * math.pi**2 * square * t)
        assert (state - 0.2 * w0 * decay).abs().max() < tolerance * 0.2 * decay


def test_forced_mode_goes_to_its_steady_state():
    """w = f / (nu k^2) (1 - exp(-nu k^2 t)) from rest, as the forcing is one mode, which does not advect itself."""
    nu, rate = 1e-2, 1e-2 * 8 * math.pi**2
    found = solve(torch.zeros(1, 64, 64, dtype=torch.float64), [0.5, 2.0], viscosity=nu, forcing=forcing(), step=0.01)
    for state, t in zip(found[0], [0.5, 2.0], strict=True):
        assert relative(state, forcing() / rate * (1 - math.exp(-rate * t))) < 1e-9


def test_advection_has_its_sign_and_orientation():
    """Over a short time w changes by -u . grad w, here in closed form: u = dpsi/dy, v = -dpsi/dx, axes (x, y)."""
    x, y = plane(64)
    w0 = torch.cos(x) + torch.sin(2 * y)  # psi = cos(x) / c + sin(2y) / 4c with c = 4 pi^2
    k = 2 * math.pi
    u, v = k * 2 * torch.cos(2 * y) / (4 * k**2), k * torch.sin(x) / k**2
    change = -(u * -k * torch.sin(x) + v * 2 * k * torch.cos(2 * y))
    t = 1e-4
    found = (solve(w0[None], [t], viscosity=INVISCID, step=t)[0, 0] - w0) / t
    assert relative(found, change) < 1e-3


def test_matches_the_converged_reference_at_the_default_step():
    arrays = reference("navier_stokes")
    torch.testing.assert_close(forcing(), arrays["forcing"], rtol=0, atol=1e-15)  # sines of another CPU's library
    arguments = {"viscosity": float(arrays["viscosity"]), "forcing": arrays["forcing"]}
    found = solve(arrays["w0"], arrays["times"].tolist(), **arguments)
    assert relative(found, arrays["vorticity"]).max() < 1e-5
    assert relative(found, arrays["vorticity"])[:, -1].max() < 1e-6
    single = solve(arrays["w0"].float(), arrays["times"].tolist(), **arguments)
    assert relative(single.double(), arrays["vorticity"]).max() < 1e-5


@pytest.mark.slow
def test_the_published_scheme_is_the_published_one_and_far_less_accurate():
    arrays = reference("navier_stokes")
    found = published_scheme(arrays["w0"], arrays["times"].tolist(), 1e-3, arrays["forcing"])
    measured = relative(found, arrays["vorticity"]).mean(0)
    torch.testing.assert_close(measured, arrays["published_scheme_relative_l2"], rtol=1e-3, atol=0)
    assert measured[-1] > 100 * 1e-6  # of which this solver is within, as tested above


def test_fourth_order_in_time():
    w0, times = initial_vorticity(2, 32, seed=3), [2.0]
    truth = solve(w0, times, forcing=forcing(32), step=1 / 160)
    errors = [relative(solve(w0, times, forcing=forcing(32), step=step), truth).max() for step in (0.1, 0.05, 0.025)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(3.8 < order < 4.4 for order in orders), orders


def test_published_scheme_is_first_order():
    w0, times = initial_vorticity(2, 32, seed=3), [1.0]
    truth = solve(w0, times, forcing=forcing(32), step=0.02)
    errors = [relative(published_scheme(w0, times, 1e-3, forcing(32), dt), truth).max() for dt in (0.02, 0.01)]
    assert 0.9 < math.log2(errors[0] / errors[1]) < 1.1


def test_energy_and_enstrophy_are_conserved_without_viscosity_and_forcing():
    """Exactly in space, thanks to dealiasing; in time to the fifth order, the dissipation of Runge-Kutta 4."""
    size = 32
    w0 = initial_vorticity(2, size, seed=5)
    drifts = []
    for step in (0.1, 0.05):
        states = solve(w0, [0.1, 4.1], viscosity=INVISCID, step=step)
        w = torch.fft.fft2(states)
        k = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
        square = k[:, None] ** 2 + k**2
        square[0, 0] = math.inf
        invariants = torch.stack([w.abs().square().sum((-2, -1)), (w.abs().square() / square).sum((-2, -1))])
        drifts.append((invariants[..., 1] / invariants[..., 0] - 1).abs().max(-1).values)
    assert (drifts[0] < 1e-4).all()
    assert (torch.log2(drifts[0] / drifts[1]) > 3.8).all(), drifts


def test_the_mean_is_conserved():
    w0 = initial_vorticity(2, 32) + 0.25
    assert (solve(w0, [3.0], forcing=forcing(32)).mean((-2, -1)) - 0.25).abs().max() < 1e-14


def test_turned_flow_is_the_same_flow():
    """Rotation by 90 degrees leaves the equation without forcing as it is."""
    w0 = solve(initial_vorticity(1, 32), [0.1])[:, 0]  # without the modes that are dropped at the start
    turned = solve(w0.rot90(1, (-2, -1)), [2.0])
    torch.testing.assert_close(turned, solve(w0, [2.0]).rot90(1, (-2, -1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_samples_do_not_depend_on_their_batch(dtype, tolerance):
    w0 = initial_vorticity(5, 32, seed=1).to(dtype)
    w0[2] *= 8  # fast enough for finer steps, which the others must not notice
    together = solve(w0, [1.0, 3.0], forcing=forcing(32))
    alone = torch.cat([solve(sample[None], [1.0, 3.0], forcing=forcing(32)) for sample in w0])
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)
    assert together.dtype == dtype


def test_times_between_outputs_do_not_matter():
    w0 = initial_vorticity(1, 32)
    steps = solve(w0, [0.5, 1.0, 2.5], forcing=forcing(32))
    torch.testing.assert_close(solve(w0, [2.5], forcing=forcing(32))[:, 0], steps[:, -1], rtol=0, atol=1e-6)


def test_initial_fields_have_their_covariance():
    w0 = initial_vorticity(400, 32, seed=2)
    assert w0.mean((-2, -1)).abs().max() < 1e-15
    spectrum = (torch.fft.fft2(w0).abs().square() / 32**4).mean(0)
    k = 2 * math.pi * torch.fft.fftfreq(32, 1 / 32, dtype=torch.float64)
    expected = 2 * 49 / (k[:, None] ** 2 + k**2 + 49) ** 2
    ratio = (spectrum / expected).flatten()[1:]
    assert (
        abs(ratio.mean() - 1) < 0.01 and ratio.std() < 0.08
    )  # the mean of 400 squares has a deviation of 0.05 or 0.07
    assert 0.33 < w0.std() < 0.36


def test_initial_fields_depend_on_seed_and_number_alone():
    fields = initial_vorticity(6, 16, seed=4)
    assert torch.equal(initial_vorticity(2, 16, seed=4, first=3), fields[3:5])
    others = torch.cat([initial_vorticity(6, 16, seed=5), initial_vorticity(6, 16, seed=4, first=6)])
    assert torch.cdist(fields.flatten(1), others.flatten(1)).min() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_too_large_is_refused_with_one_that_works(dtype):
    w0 = initial_vorticity(3, 32, seed=1).to(dtype)
    w0[1] *= 50
    with pytest.raises(FloatingPointError, match=r"sample 11 at t = 0 with step = 0.1: .* use step = ") as refusal:
        solve(w0, [1.0], first=10)
    enough = float(str(refusal.value).split("use step = ")[1].split()[0])
    assert solve(w0, [0.1], step=enough).isfinite().all()


def test_a_field_that_is_no_longer_finite_is_refused(monkeypatch):
    monkeypatch.setattr(navier_stokes, "speed_limit", lambda *_: math.inf)  # as if any step would do
    w0 = torch.cat([initial_vorticity(1, 32), 1e4 * initial_vorticity(1, 32)])
    with pytest.raises(FloatingPointError, match=r"sample 1 at t = 1 with step = 0\.1: .*not finite"):
        solve(w0, [1.0])


@pytest.mark.parametrize("viscosity", [INVISCID, 1e-3])
def test_speed_limit_is_where_a_uniform_flow_starts_to_grow(viscosity):
    """The scheme itself, on a plane wave in a uniform flow of that speed: |R(i k U step)| exp(-viscosity k^2 step)."""
    step, modes = 0.1, 21
    k = 2 * math.pi * np.arange(1, math.sqrt(2) * modes + 1)

    def growth(speed):
        z = 1j * k * speed * step
        return (np.abs(1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) * np.exp(-viscosity * k**2 * step)).max()

    limit = speed_limit(step, viscosity, modes)
    assert growth(0.999 * limit) <= 1 < growth(1.01 * limit)


def test_speed_limit_decreases_with_the_step():
    limits = [speed_limit(step, 1e-3, 21) for step in np.geomspace(1e-4, 10, 60)]
    assert np.all(np.diff(limits) < 0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"viscosity": -1e-3}, ValueError, "viscosity must be above 0 and finite; got -0.001"),
        ({"step": 0}, ValueError, "step must be above 0"),
        ({"times": []}, ValueError, "times must be"),
        ({"times": 1.0}, TypeError, r"times must be a sequence of numbers; got 1.0"),
        ({"times": [1.0, 1.0]}, ValueError, r"times must be .* increasing; got \[1.0, 1.0\]"),
        ({"times": [0.0]}, ValueError, "times must be .* above 0"),
        ({"w0": torch.zeros(16, 16)}, ValueError, r"w0 must be \[samples, size, size\]; got \[16, 16\]"),
        ({"w0": torch.zeros(1, 16, 32)}, ValueError, "w0 must be"),
        ({"w0": torch.zeros(1, 15, 15)}, ValueError, "size must be even; got 15"),
        ({"w0": torch.zeros(1, 4, 4)}, ValueError, "size must be at least 8"),
        ({"w0": torch.full((1, 16, 16), math.nan)}, ValueError, "w0 and forcing must be finite"),
        ({"w0": torch.zeros(1, 16, 16, dtype=torch.float16)}, TypeError, "w0 must be .*float16"),
        ({"w0": np.zeros((1, 16, 16))}, TypeError, "w0 must be a tensor .*ndarray"),
        ({"forcing": torch.zeros(32, 32)}, ValueError, r"forcing must be \[16, 16\] .*\[32, 32\]"),
    ],
)
def test_solve_names_what_is_wrong(change, error, words):
    arguments = {"w0": torch.zeros(1, 16, 16), "times": [1.0]} | change
    with pytest.raises(error, match=words):
        solve(**arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "small.nc", **SMALL, seed=7)


def test_file_holds_the_pooled_trajectories_and_says_what_they_are(made):
    found = load(made)
    assert found.dims == ("sample", "time", "y", "x") and found.shape == (3, 2, 4, 4) and found.dtype == np.float32
    states = solve(initial_vorticity(3, 16, seed=7), [1.0, 2.0], forcing=forcing(16))
    pooled = states.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5)).mT  # files are (y, x)
    np.testing.assert_allclose(found.values, pooled, atol=1e-6)
    np.testing.assert_array_equal(found.time, [1.0, 2.0])
    np.testing.assert_allclose(found.x, (np.arange(4) * 4 + 1.5) / 16)
    tensor = frames(made)
    assert tensor.shape == (3, 2, 1, 4, 4) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor[:, :, 0], found.values)
    with xr.open_dataset(made, engine="h5netcdf") as dataset:
        assert all({"units", "long_name"} <= set(variable.attrs) for variable in dataset.variables.values())
    expected = SMALL | {"seed": 7, "first": 0, "viscosity": 1e-3, "amplitude": 0.1, "alpha": 2, "tau": 7, "step": 0.1}
    assert (expected | {"precision": "float64", "units": "1"}).items() <= found.attrs.items()


def test_data_do_not_depend_on_the_batch_and_continue_under_first(tmp_path, made):
    one = load(generate(tmp_path / "one.nc", **SMALL, seed=7, batch=1))
    np.testing.assert_allclose(one.values, load(made).values, atol=1e-6)
    later = load(generate(tmp_path / "later.nc", **SMALL | {"samples": 1}, seed=7, first=2))
    np.testing.assert_allclose(later.values[0], load(made).values[2], atol=1e-6)
    assert later.sample.item() == 2


def test_a_whole_file_is_kept_and_others_are_left_alone(tmp_path):
    path = generate(tmp_path / "data.nc", **SMALL)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert generate(path, **SMALL, batch=2) == path
    with pytest.raises(ValueError, match=r"other parameters \(viscosity is 0.001, not 0.002; seed is 0, not 1\)"):
        generate(path, **SMALL, viscosity=2e-3, seed=1)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"samples": 0}, ValueError, "samples must be at least 1"),
        ({"frames": 2.5}, TypeError, "frames must be a whole number"),
        ({"pool": 3}, ValueError, "pool must divide size = 16; got 3"),
        ({"viscosity": -1}, ValueError, "viscosity must be"),
        ({"dtype": torch.float16}, ValueError, "dtype must be one of float32, float64; got 'float16'"),
        ({"device": "tpu"}, ValueError, "device must be one of auto, cpu, cuda; got 'tpu'"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"amplitude": 1e4}, FloatingPointError, "sample 0 at t = "),
    ],
)
def test_generate_names_what_is_wrong_and_leaves_nothing(tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        generate(tmp_path / "data.nc", **SMALL | change)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_trajectory_blows_up():
    final = solve(initial_vorticity(32, seed=11).float(), [50.0], forcing=forcing())[:, 0]
    deviation = final.std((-2, -1))
    assert final.isfinite().all() and deviation.min() > 0.6 and deviation.max() < 1.3, deviation


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree():
    w0 = initial_vorticity(4)
    on_gpu = solve(w0.cuda(), [5.0], forcing=forcing().cuda())
    assert relative(on_gpu.cpu(), solve(w0, [5.0], forcing=forcing())).max() < 1e-10
