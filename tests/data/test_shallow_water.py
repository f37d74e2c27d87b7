"""The waves: the scheme to the bit, closed forms, what is kept and what is told; files."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import beside

from minconv.data import shallow_water
from minconv.data.shallow_water import (
    CENTRES,
    KERNELS,
    LENGTH,
    SECONDS,
    coarsen,
    drawn,
    gaussian,
    generate,
    generate_drawn,
    load,
    observe,
    simulate,
    step,
    topography,
)

pytestmark = pytest.mark.usefixtures("one_thread")

DX = LENGTH / 32
NAMES = tuple(KERNELS)


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def rough(x: int = 6, y: int = 5, waves: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Elevation and depth that are everywhere different."""
    generator = torch.Generator().manual_seed(0)
    eta = torch.randn(waves, x, y, generator=generator, dtype=torch.float64)
    return eta, 100 + 10 * torch.randn(x, y, generator=generator, dtype=torch.float64)


def loops(eta, u, v, depth, dx, dt, name, g, kick):
    """One step for one wave, as the formulas are written."""
    nx, ny = eta.shape
    w1, w2, m1, m2 = {"two": (1, 0, 1 / 2, 0), "four": (15 / 12, -1 / 12, 7 / 12, -1 / 12), "upwind": (1, 0, 0, 0)}[
        name
    ]

    def at(field, i, j):
        return field[min(max(i, 0), nx - 1), min(max(j, 0), ny - 1)]

    def face(i, j, dirs):
        return [(i + k * dirs[0], j + k * dirs[1]) for k in (-1, 0, 1, 2)]

    u, v, total = u.copy(), v.copy(), depth + eta
    flux = [np.zeros((nx + 1, ny)), np.zeros((nx, ny + 1))]
    for velocity, dirs, out in ((u, (1, 0), flux[0]), (v, (0, 1), flux[1])):
        for i, j in np.ndindex(*velocity.shape):
            e = [at(eta, *place) for place in face(i, j, dirs)]
            h = [at(total, *place) for place in face(i, j, dirs)]
            velocity[i, j] -= kick * g * dt / dx * (w1 * (e[2] - e[1]) + w2 * (e[3] - e[0]))
            mean = m1 * (h[2] + h[1]) + m2 * (h[3] + h[0])
            if name == "upwind":
                mean = h[1] if velocity[i, j] > 0 else h[2]
            out[i + dirs[0], j + dirs[1]] = velocity[i, j] * mean
    return eta - dt / dx * (np.diff(flux[0], axis=0) + np.diff(flux[1], axis=1)), u, v


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_loops_over_cells(name):
    """The first one from rest is half a kick, which makes it second order in time."""
    eta, depth = rough()
    found = simulate(eta, depth, 1000.0, 5.0, 4, kernel=name)
    for wave in range(len(eta)):
        state = eta[wave].numpy(), np.zeros((5, 5)), np.zeros((6, 4))
        for number in range(4):
            state = loops(*state, depth.numpy(), 1000.0, 5.0, name, 9.81, 0.5 if number == 0 else 1.0)
            np.testing.assert_allclose(found[wave, number + 1], state[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_vectors(name):
    data = beside("shallow_water", "swe_discrete.npz")
    place = float(data["dx"]), float(data["dt"])
    states = step(*(data[key][None] for key in ("eta", "u", "v")), data["H"], *place, name, float(data["g"]))
    for key, found in zip(("eta", "u", "v"), states, strict=True):
        torch.testing.assert_close(found[0], data[f"{name}_step_{key}"], rtol=1e-12, atol=1e-14)
    depth = data["H"].clone().requires_grad_()
    eta = simulate(data["eta"][None], depth, *place, 20, kernel=name, gravity=float(data["g"]))[0]
    torch.testing.assert_close(eta[[0, 1, 2, 5, 10, 20]], data[f"{name}_eta20"], rtol=1e-12, atol=1e-14)
    loss = eta[20].square().mean()
    (slope,) = torch.autograd.grad(loss, depth)
    torch.testing.assert_close(slope, data[f"{name}_dloss_dH"], rtol=1e-9, atol=0)
    torch.testing.assert_close(loss.detach(), data[f"{name}_loss20"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("name", ["two", "four"])
def test_standing_waves_turn_with_the_frequency_of_the_scheme(name, boundary):
    """sin(omega dt / 2) = dt / dx sqrt(g H s), s = sum over axes of sin^2(k dx / 2) (1 - 4 a sin^2(k dx / 2)).

    So low that the equations are linear to rounding.
    """
    cells, steps, dt, depth = 24, 960, 300.0, 100.0
    turn, modes, low = math.pi if boundary == "walls" else 2 * math.pi, [(1, 0), (3, 2), (7, 5)], 1e-12
    place = turn * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    shapes = torch.stack([(k * place).cos()[:, None] * (m * place).cos() for k, m in modes])
    found = simulate(low * shapes, torch.full_like(shapes[0], depth), DX, dt, steps, 240, name, boundary=boundary)
    for shape, frames, mode in zip(shapes, found, modes, strict=True):
        parts = [math.sin(turn * number / 2 / cells) ** 2 for number in mode]
        square = sum(part * (1 - 4 * KERNELS[name].a * part) for part in parts)
        omega = 2 / dt * math.asin(dt / DX * math.sqrt(9.81 * depth * square))
        exact = torch.stack([math.cos(omega * dt * number) * shape for number in range(0, steps + 1, 240)])
        assert (frames / low - exact).abs().max() < 1e-11


@pytest.mark.parametrize("name", ["two", "four"])
def test_frequencies_are_those_of_the_vectors(name):
    data = beside("shallow_water", "swe_analytic.npz")
    cells, dt, dx = int(data["N"]), float(data["dt"]), float(data["dx"])
    place = math.pi * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    depth = torch.full((cells, cells), float(data["depth"]), dtype=torch.float64)
    modes = data["modes"].tolist()
    shapes = 1e-12 * torch.stack([(k * place).cos()[:, None] * (m * place).cos() for k, m in modes])
    found = simulate(shapes, depth, dx, dt, 960, 960, name, float(data["g"]))[:, -1]
    for shape, last, (k, m) in zip(shapes, found, modes, strict=True):
        turned = math.cos(float(data[f"mode{k}{m}_omega_{name}"]) * dt * 960)
        assert (last - turned * shape).abs().max() < 1e-12 * shape.abs().max()


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lake_at_rest_stays_to_the_bit(name, boundary, dtype):
    depth = rough(9, 8)[1].to(dtype)
    level = torch.full((1, 9, 8), 0.5, dtype=dtype)
    assert torch.equal(simulate(level, depth, 1000.0, 5.0, 200, 200, name, boundary=boundary)[:, -1], level)


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("name", NAMES)
def test_mass_is_kept(name, boundary):
    """Each flux leaves one cell and enters its neighbour, also where the bottom varies."""
    eta, depth = gaussian(CENTRES[:2], 16), topography("C", 16)
    found = simulate(eta, depth, 2 * DX, 600.0, 100, 100, name, boundary=boundary)
    assert relative(found[:, -1].sum((1, 2)), eta.sum((1, 2))) < 1e-14
    assert relative(found[:, -1], eta) > 0.5


def last(cells: int, name: str, width: float) -> torch.Tensor:
    """One wave after one crossing."""
    eta0, depth, steps = gaussian([(1e5, -5e4)], cells, width), topography("B", cells), 3 * cells
    return simulate(eta0, depth, LENGTH / cells, 30000 / steps, steps, steps, name)[:, -1]


@pytest.mark.slow
def test_error_falls_with_the_square_of_the_cell():
    truth = last(128, "four", 100e3)
    errors = [relative(last(cells, "two", 100e3), coarsen(truth, 128 // cells)) for cells in (32, 64)]
    assert 3.5 < errors[0] / errors[1] < 4.5 and 0.04 < errors[0] < 0.07


@pytest.mark.slow
def test_waves_of_one_and_a_half_cells_are_not_resolved():
    """Which does not show where data and model are one scheme on one grid."""
    assert relative(last(32, "two", 50e3), coarsen(last(128, "four", 50e3), 4)) > 0.25


@pytest.mark.parametrize(
    ("name", "dt", "error"), [("two", 312.5, 0.0360), ("four", 312.5, 0.0053), ("four", 156.25, 0.0042)]
)
def test_forward_errors_are_those_that_were_measured(name, dt, error):
    data = beside("shallow_water", "swe_train.npz")
    torch.testing.assert_close(topography("B"), data["H"], rtol=0, atol=1e-10)
    torch.testing.assert_close(gaussian(data["centres"].tolist()), data["eta0"], rtol=0, atol=1e-14)
    steps = round(30000 / dt)
    found = simulate(data["eta0"], data["H"], DX, dt, steps, steps // 12, name)
    assert relative(found, data["eta"].double()) == pytest.approx(error, abs=6e-5)


def test_two_points_do_not_see_a_checkerboard():
    """No mean of two neighbours changes with it, so no wave tells of it; four points see it near walls."""
    eta, depth = gaussian(CENTRES[:1], 16), topography("B", 16)
    board = (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16))
    change = {
        name: (
            simulate(eta, depth + board, 2 * DX, 600.0, 20, kernel=name)
            - simulate(eta, depth, 2 * DX, 600.0, 20, kernel=name)
        )
        .abs()
        .max()
        for name in NAMES
    }
    assert change["two"] < 1e-12 < 1e-5 < change["four"] and change["upwind"] > 1e-4


def test_low_waves_tell_the_product_of_gravity_and_depth_alone():
    eta, depth = gaussian(CENTRES[:1], 16), topography("B", 16)
    for height, same in ((1e-9, True), (1.0, False)):
        one, other = (
            simulate(height * eta, share * depth, 2 * DX, 600.0, 40, gravity=9.81 / share) for share in (1.0, 0.8)
        )
        assert (relative(one, other) < 1e-9) == same


def test_axes_are_alike():
    eta, depth = rough()
    found = simulate(eta, depth, 1000.0, 5.0, 10)
    assert torch.equal(simulate(eta.mT, depth.mT, 1000.0, 5.0, 10).mT, found)


@pytest.mark.parametrize("name", NAMES)
def test_without_walls_no_place_is_special(name):
    eta, depth = rough()
    found = simulate(eta, depth, 1000.0, 5.0, 10, kernel=name, boundary="periodic")
    rolled = (field.roll((2, -1), (-2, -1)) for field in (eta, depth))
    torch.testing.assert_close(
        simulate(*rolled, 1000.0, 5.0, 10, kernel=name, boundary="periodic"),
        found.roll((2, -1), (-2, -1)),
        rtol=0,
        atol=1e-13,
    )
    assert relative(simulate(eta, depth, 1000.0, 5.0, 10, kernel=name), found) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_waves_are_batched_with_a_depth_of_all_or_of_each(name):
    eta, depth = rough()
    found = simulate(eta, depth, 1000.0, 5.0, 6, 2, name)
    depths = torch.stack([depth, depth + 5])
    each = simulate(eta, depths, 1000.0, 5.0, 6, 2, name)
    for wave in range(2):
        assert torch.equal(simulate(eta[wave : wave + 1], depth, 1000.0, 5.0, 6, 2, name)[0], found[wave])
        assert torch.equal(simulate(eta[wave : wave + 1], depths[wave], 1000.0, 5.0, 6, 2, name)[0], each[wave])


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
def test_gradients_of_every_input(boundary):
    eta, depth = rough(3, 2, 1)
    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (9.81, -0.05, -0.04, 0.3)]

    def run(eta, depth, gravity, a, b, c):
        kernel = SimpleNamespace(a=a, b=b, multiplier=lambda level: 1 + c * level)
        return simulate(eta, depth, 1000.0, 5.0, 3, kernel=kernel, gravity=gravity, boundary=boundary)

    assert torch.autograd.gradcheck(run, (eta.requires_grad_(), depth.requires_grad_(), *numbers))


def test_single_precision_is_near_double():
    eta, depth = gaussian(CENTRES[:1], 16), topography("B", 16)
    found = simulate(eta.float(), depth.float(), 2 * DX, 600.0, 40)
    assert found.dtype == torch.float32
    assert 1e-8 < relative(found.double(), simulate(eta, depth, 2 * DX, 600.0, 40)) < 1e-5


@pytest.mark.parametrize(("name", "factor"), [("two", 1.0), ("four", math.sqrt(3) / 2)])
def test_a_step_that_is_too_large_is_told_with_one_that_would_do(name, factor):
    """dx / sqrt(2 g max(H + eta)), of each wave for itself, and no more than that."""
    eta, depth = gaussian([(0, 0), (0, 0)], 16), topography("A", 16)
    eta[0] = 0
    limit = factor * 2 * DX / math.sqrt(2 * 9.81 * float((depth + eta[1]).max()))
    simulate(eta, depth, 2 * DX, 0.99 * limit, 50, 50, name)
    eta[1] *= 30
    words = f"sample 1 at step 0: dt = {0.99 * limit:g} s is too large .*; use dt = [0-9.]+ s or less"
    with pytest.raises(FloatingPointError, match=words) as told:
        simulate(eta, depth, 2 * DX, 0.99 * limit, 50, 50, name)
    simulate(eta, depth, 2 * DX, float(str(told.value).split()[-4]), 50, 50, name)


def test_kernels_with_which_the_shortest_waves_grow_are_told():
    """From a = 1/4 on a checkerboard of the level has no slope, or one that drives it up."""
    eta, depth = rough(8, 8, 1)
    simulate(eta, depth, 1000.0, 5.0, 200, 200, SimpleNamespace(a=0.24, b=0.0, multiplier=None))
    with pytest.raises(
        FloatingPointError, match=r"kernel\.a must be below 1/4, where the shortest waves grow; got 0\.3"
    ):
        simulate(eta, depth, 1000.0, 5.0, 200, 200, SimpleNamespace(a=torch.tensor(0.3), b=0.0, multiplier=None))


def test_dry_cells_and_what_is_not_finite_are_told_with_sample_and_step():
    still, wave = torch.zeros(16, 16).double(), 5 * gaussian([(0.0, 0.0)], 16, 6e4)[0]
    with pytest.raises(FloatingPointError, match=r"sample 1 at step 0: a cell is dry, H \+ eta = -1"):
        simulate(torch.stack([still, still - 2]), still + 1, 2 * DX, 100.0, 5)
    with pytest.raises(FloatingPointError, match=r"sample 1 at step 247 of dt = 2000 s: a cell fell dry"):
        simulate(torch.stack([still, wave]), still + 0.5, 2 * DX, 2000.0, 300, 300)
    broken = SimpleNamespace(a=0.0, b=0.0, multiplier=lambda level: torch.where(level > 1e-3, level / 0, 1.0))
    with pytest.raises(FloatingPointError, match="sample 1 at step 1 of dt = 100 s: the elevation is not finite"):
        simulate(torch.stack([still, wave]), still + 100, 2 * DX, 100.0, 4, kernel=broken)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"eta0": np.zeros((1, 4, 4))}, TypeError, "eta0 must be a tensor of float32 or float64; got ndarray"),
        ({"eta0": torch.zeros(4, 4).double()}, ValueError, r"eta0 must be \[K, X, Y\]"),
        ({"eta0": torch.zeros(1, 4, 4)}, TypeError, "depth must be torch.float32 as eta0 is"),
        ({"depth": torch.ones(4, 3).double()}, ValueError, r"depth must be \[4, 4\] or \[1, 4, 4\]; got \[4, 3\]"),
        ({"depth": torch.zeros(4, 4).double()}, ValueError, "depth must be above 0 m everywhere; got 0"),
        ({"depth": torch.full((4, 4), torch.nan).double()}, ValueError, "must be finite"),
        ({"dx": 0.0}, ValueError, "dx must be above 0"),
        ({"dt": -1.0}, ValueError, "dt must be above 0"),
        ({"gravity": torch.tensor(-9.81)}, ValueError, "gravity must be above 0"),
        ({"steps": 5}, ValueError, "every must divide steps = 5; got 2"),
        ({"kernel": "three"}, ValueError, "kernel must be one of two, four, upwind; got 'three'"),
        ({"kernel": 4}, TypeError, "kernel must be one of two, four, upwind or have a, b and multiplier; got 4"),
        ({"boundary": "open"}, ValueError, "boundary must be one of walls, periodic"),
    ],
)
def test_bad_input_is_told(change, kind, words):
    good = {"eta0": torch.zeros(1, 4, 4).double(), "depth": torch.full((4, 4), 100.0).double()}
    with pytest.raises(kind, match=words):
        simulate(**{**good, "dx": 1000.0, "dt": 5.0, "steps": 4, "every": 2, **change})


def test_velocities_of_another_shape_are_told():
    eta, depth = rough()
    with pytest.raises(ValueError, match=r"u must be \[2, 5, 5\] for this eta; got \[2, 6, 5\]"):
        step(eta, eta, eta, depth, 1000.0, 5.0)


def test_initial_waves_and_bottoms_are_means_over_cells():
    """Point values are not: data on a finer grid would then start from another wave than the model's."""
    for width in (50e3, 100e3):
        wave = gaussian(CENTRES, 32, width)
        torch.testing.assert_close(coarsen(gaussian(CENTRES, 128, width), 4), wave, rtol=0, atol=1e-14)
        x = LENGTH * ((torch.arange(32, dtype=torch.float64) + 0.5) / 32 - 0.5) - CENTRES[0][0]
        points = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * width**2))
        assert relative(points, wave[0]) > 5e-3
    deepest = {"A": (6.4, 100, 122), "B": (9.8, 71, 119), "C": (13.1, 81, 136)}
    for name, (deviation, low, high) in deepest.items():
        depth = topography(name)
        assert float(depth.std()) == pytest.approx(deviation, abs=0.1)
        assert abs(float(depth.min()) - low) < 1 and abs(float(depth.max()) - high) < 1
        torch.testing.assert_close(coarsen(topography(name, 128), 4), depth, rtol=1e-13, atol=0)
    assert (topography("A").diff(dim=0) == 0).all() and (topography("A").diff(dim=1) > 0).all()


def test_files_hold_waves_of_a_finer_grid(tmp_path):
    small = {"centres": CENTRES[:2], "frames": 5, "seconds": 600.0, "cells": 16, "finer": 2}
    path = generate(tmp_path / "waves.nc", "C", **small)
    data = load(path)
    assert data.eta.dims == ("sample", "time", "x", "y") and data.eta.shape == (2, 5, 16, 16)
    eta, depth = (torch.from_numpy(data[name].values) for name in ("eta", "depth"))
    assert data.time.values.tolist() == [0, 600, 1200, 1800, 2400] and data.eta.units == data.depth.units == "m"
    torch.testing.assert_close(eta[:, 0], gaussian(CENTRES[:2], 16), rtol=0, atol=1e-14)
    torch.testing.assert_close(depth, topography("C", 16), rtol=1e-13, atol=0)
    fine = simulate(gaussian(CENTRES[:2], 32), topography("C", 32), DX, 300.0, 8, 2)
    assert torch.equal(coarsen(fine, 2), eta)
    assert relative(simulate(eta[:, 0], depth, 2 * DX, 600.0, 4), eta) > 1e-4  # not the model's own grid
    before = path.read_bytes()
    assert generate(path, "C", **small).read_bytes() == before
    with pytest.raises(ValueError, match=r"noise is 0\.0, not 0\.01"):
        generate(path, "C", **small, noise=0.01)
    noisy = load(generate(tmp_path / "noisy.nc", "C", **small, noise=0.01, seed=3))
    torch.testing.assert_close(torch.from_numpy(noisy.eta.values), observe(eta, 0.01, 3), rtol=0, atol=1e-15)


def test_random_bottoms_are_smooth_and_of_a_seed_and_a_number_alone():
    depths, centres = zip(*(drawn(number, 32, 5) for number in range(20)), strict=True)
    depths, centres = torch.stack(depths), torch.stack(centres)
    assert centres.abs().max() <= 0.4 * LENGTH and centres.std(0).min() > 0.15 * LENGTH
    assert depths.min() > 40 and depths.max() < 170 and 5 < depths.std((1, 2)).mean() < 13
    assert abs(float(depths.mean()) - 105) < 4 and depths.mean((1, 2)).std() > 2
    assert (depths.diff(dim=1).std((1, 2)) < 0.35 * depths.std((1, 2))).all()
    again, centre = drawn(7, 64, 5)
    torch.testing.assert_close(coarsen(again, 2), depths[7], rtol=5e-3, atol=0)
    assert torch.equal(centre, centres[7]) and not torch.equal(drawn(7, 32, 6)[0], depths[7])


def test_files_of_random_bottoms(tmp_path):
    small = {"frames": 3, "every": 2, "seconds": 600.0, "cells": 16, "finer": 2, "seed": 4}
    data = load(generate_drawn(tmp_path / "drawn.nc", 2, **small))
    assert data.eta.dims == ("sample", "time", "x", "y") and data.depth.dims == ("sample", "x", "y")
    assert data.time.values.tolist() == [0, 1200, 2400]
    for number in range(2):
        depth, centre = drawn(number, 32, 4)
        fine = simulate(gaussian([centre.tolist()], 32), depth, DX, 300.0, 8, 4)
        assert torch.equal(coarsen(fine, 2)[0], torch.from_numpy(data.eta.values[number]))
        assert torch.equal(coarsen(depth, 2), torch.from_numpy(data.depth.values[number]))
    with pytest.raises(ValueError, match="samples is 2, not 3"):
        generate_drawn(tmp_path / "drawn.nc", 3, **small)
    with pytest.raises(ValueError, match="every must be at least 1"):
        generate_drawn(tmp_path / "other.nc", 2, **small | {"every": 0})


def test_noise_is_of_a_seed_and_not_at_the_start():
    eta = gaussian(CENTRES, 16)[:, None].repeat(1, 30, 1, 1)
    noise = observe(eta, 0.01, 5) - eta
    assert (noise[:, 0] == 0).all()
    assert float(noise[:, 1:].std() / eta.std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(noise[:, 1:].mean() / eta.std())) < 2e-4
    assert torch.equal(observe(eta, 0.01, 5) - eta, noise)
    assert not torch.equal(observe(eta, 0.01, 6) - eta, noise)
    fewer = observe(eta[:2] * 7, 0.01, 5) - eta[:2] * 7
    torch.testing.assert_close(fewer / (eta[:2] * 7).std(), noise[:2] / eta.std(), rtol=1e-9, atol=1e-13)
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: topography("D"), "topography must be one of A, B, C"),
        (lambda: topography("A", 24), "cells must divide 1024; got 24"),
        (lambda: gaussian([(0, 0, 0)]), "centres must be finite"),
        (lambda: gaussian([], 8), "centres must be finite"),
        (lambda: coarsen(torch.zeros(1, 6, 6), 4), r"factor must divide the cells of a field \[1, 6, 6\]; got 4"),
        (lambda: observe(torch.zeros(1, 2, 4, 4), -1.0), "noise must be at least 0"),
        (lambda: generate("waves.nc", "D"), "bottom must be one of A, B, C"),
    ],
)
def test_bad_bottoms_and_waves_are_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_default_step_is_stable():
    assert shallow_water._limit(gaussian(CENTRES), topography("C"), DX, KERNELS["four"], 9.81).min() > 1.5 * SECONDS
