"""FINN: the published right-hand sides; kernels and depth from waves, guarded; what is known of the depth."""

import math

import pytest
import torch
from helpers import beside

from minconv.data.shallow_water import CENTRES, LENGTH, gaussian, generate, load, observe, simulate, topography
from minconv.models import count_parameters
from minconv.models.finn import (
    Learned,
    RightHandSide,
    closed,
    depth_covariance,
    deviation,
    fit_kernel,
    fixed,
    infer_depth,
    minimise,
    misfit,
    outflow,
    perceptron,
    periodic,
)

pytestmark = pytest.mark.usefixtures("one_thread")

DX, DT = LENGTH / 32, 312.5
jvp = pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # of functions that PyTorch itself loads for this


def filled(network: torch.nn.Sequential, data: dict[str, torch.Tensor], case: str) -> torch.nn.Sequential:
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for number, layer in enumerate(linear):
            layer.weight.copy_(data[f"{case}_w{number}"])
            if layer.bias is not None:
                layer.bias.copy_(data[f"{case}_b{number}"])
    return network


SCALAR = (1, 10, 20, 10, 1)


@pytest.mark.parametrize("case", ["burger0", "burger1"])
def test_burgers_is_the_published_one(case):
    data = beside("shallow_water", "finn_rhs.npz")
    network = filled(perceptron(SCALAR), data, case)
    before, after = data[f"{case}_bc"].tolist()
    module = RightHandSide(
        "velocity", network, data[f"{case}_D_over_dx2"], fixed(before, after), float(data[f"{case}_dx"])
    )
    assert count_parameters(module) == 421
    u = data[f"{case}_u"][:, None].requires_grad_()
    torch.testing.assert_close(network(u)[:, 0].detach(), data[f"{case}_multiplier"], rtol=0, atol=1e-12)
    found = module(u)
    torch.testing.assert_close(found[:, 0].detach(), data[f"{case}_rhs"], rtol=1e-12, atol=1e-12)
    found.square().mean().backward()
    gradients = {"u": u.grad[:, 0], "D": module.diffusion.grad}
    gradients |= {f"w{number}": layer.weight.grad for number, layer in enumerate(network[::2])}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, data[f"{case}_dloss_d{name}"], rtol=1e-11, atol=1e-12)


def test_diffusion_sorption_is_the_published_one():
    data = beside("shallow_water", "finn_rhs.npz")
    network = filled(perceptron(SCALAR, bias=True, bounded=False), data, "sorption")
    ghosts = outflow(float(data["sorption_left"]), float(data["sorption_dx"]))
    scale = float(data["sorption_p_exp"])
    module = RightHandSide("retardation", network, data["sorption_D"], ghosts, scale=scale)
    assert count_parameters(module) == 464
    factor = 10**scale * network(data["sorption_u"][:, :1]).sigmoid()
    torch.testing.assert_close(factor[:, 0].detach(), data["sorption_multiplier"], rtol=1e-12, atol=0)
    torch.testing.assert_close(module(data["sorption_u"]).detach(), data["sorption_rhs"], rtol=1e-12, atol=1e-12)


def test_diffusion_reaction_is_the_published_one():
    data = beside("shallow_water", "finn_rhs.npz")
    network = filled(perceptron((2, 20, 20, 20, 2)), data, "reaction")
    module = RightHandSide("source", network, data["reaction_D_over_dx2"], closed)
    assert count_parameters(module) == 882
    torch.testing.assert_close(module(data["reaction_u"]).detach(), data["reaction_rhs"], rtol=1e-12, atol=1e-12)


def test_allen_cahn_is_the_published_one():
    data = beside("shallow_water", "finn_rhs.npz")
    network = filled(perceptron(SCALAR), data, "allencahn")
    scale = float(data["allencahn_p_mult"])
    module = RightHandSide("source", network, data["allencahn_D"] / 10, periodic, scale=scale)
    assert count_parameters(module) == 422
    found = module(data["allencahn_u"][:, None])[:, 0]
    torch.testing.assert_close(found.detach(), data["allencahn_rhs"], rtol=1e-12, atol=1e-12)


def test_the_flow_of_burgers_takes_from_where_it_comes():
    """f > 0 takes from the left, f < 0 from the right: a step moves at one of its edges alone."""
    for sign, changed in ((1.0, [2, 4]), (-1.0, [1, 3])):
        constant = torch.nn.Linear(1, 1, dtype=torch.float64)
        with torch.no_grad():
            constant.weight.zero_()
            constant.bias.fill_(sign)
        module = RightHandSide("velocity", constant, torch.zeros(1).double(), fixed(0.0, 0.0), 0.5)
        u = torch.tensor([0.0, 0, 1, 1, 0, 0], dtype=torch.float64)[:, None]
        found = module(u).detach()[:, 0]
        assert found.nonzero()[:, 0].tolist() == changed
        assert found[changed].tolist() == [-2 * sign, 2 * sign]


def test_a_learned_stencil_starts_near_minus_one_and_one():
    torch.manual_seed(0)
    module = RightHandSide("source", perceptron(SCALAR), torch.ones(1).double(), periodic, stencil=True)
    assert count_parameters(module) == 423
    assert 0 < (module.stencil - torch.tensor([-1.0, 1.0])).abs().max() < 0.5
    module(torch.rand(8, 1).double()).square().mean().backward()
    assert module.stencil.grad.abs().min() > 0
    with pytest.raises(ValueError, match="role must be one of velocity, retardation, source"):
        RightHandSide("flux", perceptron(SCALAR), torch.ones(1), periodic)


@pytest.mark.parametrize("constitutive", [False, True])
def test_learned_kernels_are_consistent(constitutive):
    """A lake at rest stays to the bit whatever the weights, mass is kept, and the multiplier starts near 1."""
    kernel = Learned(3, constitutive)
    assert count_parameters(kernel) == 2 + 420 * constitutive
    assert 0 < kernel.a.abs() < 0.25 and 0 < kernel.b.abs() < 0.25
    depth, level = topography("C", 16), torch.full((1, 16, 16), 0.5, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(simulate(level, depth, 2 * DX, 2 * DT, 100, 100, kernel)[:, -1], level)
        eta = gaussian(CENTRES[:1], 16)
        found = simulate(eta, depth, 2 * DX, 2 * DT, 50, 50, kernel)
        assert (found.sum((2, 3)) / eta.sum() - 1).abs().max() < 1e-14
        if constitutive:
            assert 0 < (kernel.multiplier(eta) - 1).abs().max() < 0.1
    again = Learned(3, constitutive)
    assert all(torch.equal(one, other) for one, other in zip(kernel.parameters(), again.parameters(), strict=True))
    assert not torch.equal(kernel.a, Learned(4).a)


def waves(cells: int = 8, steps: int = 16, bottom: str = "B"):
    """Waves that the scheme itself made, on few cells: simulate, eta, times, eta0, and the depth."""
    dx, dt = LENGTH / cells, 32 / cells * DT
    eta0, depth = gaussian(CENTRES, cells, 150e3), topography(bottom, cells)
    return (simulate, simulate(eta0, depth, dx, dt, steps), [dt * n for n in range(steps + 1)], eta0), depth, (dx, dt)


def rmse(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).square().mean().sqrt())


def test_depth_is_found_where_scheme_and_data_are_one():
    data, depth, grid = waves()
    found, history = infer_depth(*data, *grid, "four", 0.0, iterations=30)
    assert rmse(found, depth) < 0.5 < 5 < rmse(torch.full_like(depth, 100), depth)
    assert history["loss"] == history["misfit"] and history["loss"][-1] < 1e-4 * history["loss"][0]
    assert min(history["loss"]) == pytest.approx(float(misfit(*data, found, *grid, "four")), rel=1e-9)
    (once, short), (again, same) = (infer_depth(*data, *grid, "four", 0.0, iterations=3) for _ in range(2))
    assert torch.equal(again, once) and same == short


@pytest.mark.slow
@pytest.mark.parametrize(("start", "height"), [(80.0, 1.0), (150.0, 1.0), (100.0, 1e-4)])
def test_start_and_height_of_the_waves_do_not_matter(start, height):
    """The misfit is over the variance of elevation: else low waves would end the search before it begins."""
    (scheme, eta, times, eta0), _, grid = waves()
    flat, _ = infer_depth(scheme, eta, times, eta0, *grid, "four", iterations=30)
    low = scheme(height * eta0, topography("B", 8), *grid, 16)
    found, _ = infer_depth(scheme, low, times, height * eta0, *grid, "four", start=start, iterations=40)
    assert rmse(found, flat) < 0.5


@pytest.mark.slow
def test_a_search_that_would_dry_the_sea_comes_back():
    (scheme, _, times, eta0), depth, grid = waves(8, 24)
    shallow = depth / 30
    low = scheme(0.01 * eta0, shallow, *grid, 24)
    found, history = infer_depth(scheme, low, times, 0.01 * eta0, *grid, "four", 0.0, start=8.0, iterations=30)
    assert any(math.isnan(loss) for loss in history["loss"]) and any(math.isnan(loss) for loss in history["misfit"])
    assert rmse(found, shallow) < 0.1


def test_frames_are_compared_at_their_times_and_the_start_is_not():
    (scheme, eta, times, eta0), depth, grid = waves()
    few = [0, 3, 9, 15]
    for chosen in (few, few[1:]):
        part = (scheme, eta[:, chosen], [times[number] for number in chosen], eta0)
        assert float(misfit(*part, depth, *grid, "four")) < 1e-25
        expected = (simulate(eta0, depth, *grid, 16, kernel="two") - eta)[:, few[1:]].square().mean()
        expected = expected / eta[:, few[1:]].var(correction=0)
        assert float(misfit(*part, depth, *grid, "two")) == pytest.approx(float(expected), rel=1e-12)


def test_a_kernel_that_was_fitted_stays_as_it_is_and_one_that_is_sought_is_told():
    data, _, grid = waves()
    kernel = Learned(1)
    before = {name: value.clone() for name, value in kernel.state_dict().items()}
    infer_depth(*data, *grid, kernel, iterations=3)
    assert all(torch.equal(before[name], value) for name, value in kernel.state_dict().items())
    assert kernel.numbers.grad is None
    _, history = infer_depth(*data, *grid, iterations=3)
    assert set(history) == {"loss", "misfit", "a", "b"} and len(set(history["a"])) > 1


def test_gravity_must_be_known():
    """4/5 of the depth with 5/4 of gravity is nearly as good a fit as the truth, and far better than with g."""
    data, depth, grid = waves(16, 24)
    one, both, wrong = (
        float(misfit(*data, share * depth, *grid, gravity=g)) for share, g in ((1, 9.81), (0.8, 12.2625), (0.8, 9.81))
    )
    assert one < 1e-25 < both < 1e-3 and wrong > 100 * both


def test_a_search_that_goes_too_far_comes_back():
    """-log x + 3 x is not finite left of 0, where the first step leads."""
    x = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
    history = minimise([x], lambda: {"loss": (3 * x - x.log()).sum()}, 20)
    assert any(math.isnan(loss) for loss in history["loss"])
    assert x.item() == pytest.approx(1 / 3, abs=1e-6) and x.grad is None

    def broken() -> dict[str, torch.Tensor]:
        if x.item() < 0:
            raise FloatingPointError("too far")
        return {"loss": (3 * x - x.log()).sum()}

    with torch.no_grad():
        x.fill_(0.9)
    assert math.nan is not minimise([x], broken, 20)["loss"][-1] and x.item() == pytest.approx(1 / 3, abs=1e-6)
    with torch.no_grad():
        x.fill_(-1.0)
    with pytest.raises(FloatingPointError, match="too far"):
        minimise([x], broken, 20)
    with pytest.raises(FloatingPointError, match="the loss is not finite at the start"):
        minimise([x], lambda: {"loss": x.log().sum()}, 20)


def test_the_best_that_was_met_is_kept():
    """Though the search ends elsewhere: here the last evaluations are made worse."""
    x, count = torch.tensor([4.0], dtype=torch.float64, requires_grad=True), iter(range(100))
    history = minimise([x], lambda: {"loss": (x**4).sum() + (100.0 if next(count) > 5 else 0.0)}, 20)
    assert float(x.detach() ** 4) == min(history["loss"]) < history["loss"][-1]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"eta": torch.zeros(4, 17, 8, 8)},
            TypeError,
            "eta must be a tensor of float64, as the loss stalls in float32",
        ),
        ({"eta0": torch.zeros(4, 8, 8)}, TypeError, "eta0 must be a tensor of float64"),
        ({"eta0": torch.zeros(3, 8, 8).double()}, ValueError, r"eta must be \[K, T, X, Y\] and eta0 \[K, X, Y\]"),
        ({"times": [1250.0 * number + 10 for number in range(17)]}, ValueError, "times must be increasing multiples"),
        ({"times": [0.0]}, ValueError, "one for each of the 17 frames"),
        ({"smoothing": -1.0}, ValueError, "smoothing must be at least 0"),
        ({"start": 0.0}, ValueError, "start must be above 0"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
        ({"kernel": "three"}, ValueError, "kernel must be one of two, four, upwind"),
        ({"start": 3000.0}, FloatingPointError, "is too large for the fastest wave"),
    ],
)
def test_bad_input_is_told(change, kind, words):
    (_, eta, times, eta0), _, (dx, dt) = waves()
    good = {"simulate": simulate, "eta": eta, "times": times, "eta0": eta0, "dx": dx, "dt": dt, "kernel": "four"}
    with pytest.raises(kind, match=words):
        infer_depth(**good | change)


@jvp
@pytest.mark.parametrize("smoothing", [0.0, 1e-3])
def test_covariance_is_that_of_central_differences(smoothing):
    data, depth, grid = waves(4, 6)
    scheme, eta, times, eta0 = data
    noise, prior = 0.01, 20.0
    found = depth_covariance(*data, depth, *grid, noise, "four", smoothing, prior=prior, batch=5)
    columns = []
    for cell in range(16):
        bump = torch.zeros(16, dtype=torch.float64).index_fill(0, torch.tensor([cell]), 1e-3).view(4, 4)
        high, low = (scheme(eta0, depth + sign * bump, *grid, len(times) - 1) for sign in (1, -1))
        columns.append(((high - low) / 2e-3)[:, 1:].flatten())
    jacobian = torch.stack(columns, 1)
    precision = jacobian.T @ jacobian / noise**2 + torch.eye(16) / prior**2
    theta = torch.zeros(16, dtype=torch.float64)

    def rough(theta):
        field = theta.view(4, 4) / 10
        return sum(field.diff(dim=axis).square().mean() for axis in (0, 1))

    seen = eta[:, 1:]
    scale = seen.numel() * seen.var(correction=0) / (2 * noise**2)  # from the loss to -log of the likelihood
    precision += smoothing * scale * torch.autograd.functional.hessian(rough, theta)
    torch.testing.assert_close(found, torch.linalg.inv(precision), rtol=1e-5, atol=1e-8)
    assert torch.equal(deviation(found, (4, 4)).flatten(), found.diagonal().sqrt())


@jvp
def test_the_checkerboard_stays_as_unknown_as_it_was():
    """To two points; four know something of it, near walls."""
    data, depth, grid = waves(8, 16)
    board = ((-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))).flatten().double()
    known = {}
    for name in ("two", "four"):
        covariance = depth_covariance(*data, depth, *grid, 1e-3, name)
        known[name] = float(board @ covariance @ board / (board @ board)) ** 0.5
    assert known["two"] == pytest.approx(30.0, rel=1e-9) and known["four"] < 29.9


@jvp
@pytest.mark.slow
def test_deviations_are_calibrated_where_scheme_and_data_are_one():
    """Bottoms from the prior that smoothing is, and noise: 68 and 95 % within one and two deviations."""
    (_, clean, times, eta0), _, grid = waves(8, 24)
    cells, step = clean.shape[-1], 2.0  # m, between neighbours
    unit = torch.eye(cells**2, dtype=torch.float64).view(-1, cells, cells)
    slopes = torch.cat([unit.diff(dim=axis).flatten(1) for axis in (1, 2)], 1)
    prior = torch.linalg.inv(slopes @ slopes.T / step**2 + torch.eye(cells**2) / 10**2)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for seed in range(8):
        draw = torch.linalg.cholesky(prior) @ torch.randn(cells**2, generator=generator, dtype=torch.float64)
        depth = 100 + draw.view(cells, cells)
        eta = observe(simulate(eta0, depth, *grid, 24), 0.02, seed)
        noise = 0.02 * float(eta.std())
        seen = eta[:, 1:]
        smoothing = 100 * cells * (cells - 1) / step**2 * noise**2 / float(seen.numel() * seen.var())
        found, _ = infer_depth(simulate, eta, times, eta0, *grid, "four", smoothing, iterations=60)
        covariance = depth_covariance(simulate, eta, times, eta0, found, *grid, noise, "four", smoothing)
        error = (found - depth).abs() / deviation(covariance, depth.shape)
        shares.append([float((error < limit).double().mean()) for limit in (1, 2)])
    one, two = torch.tensor(shares).mean(0).tolist()
    assert 0.6 < one < 0.76 and 0.91 < two < 0.985


# As measured, on data of a finer grid


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """By topography: eta, times, eta0 and depth."""
    folder, found = tmp_path_factory.mktemp("waves"), {}
    for name in "ABC":
        waves = load(generate(folder / f"{name}.nc", name))
        eta, depth = (torch.from_numpy(waves[key].values) for key in ("eta", "depth"))
        found[name] = eta, waves.time.values, eta[:, 0], depth
    return found


@pytest.fixture(scope="module")
def kernels(data):
    """By topography, from 48 steps."""
    return {
        name: fit_kernel(simulate, eta[:, :49], times[:49], eta0, depth, DX, DT)
        for name, (eta, times, eta0, depth) in data.items()
    }


def acceptance(kernel: str, smoothing: float = 1e-3, **options):
    file = beside("shallow_water", "swe_train.npz")
    eta, depth = file["eta"].double(), file["H"]
    found, history = infer_depth(simulate, eta, file["t"].tolist(), file["eta0"], DX, DT, kernel, smoothing, **options)
    true = float(misfit(simulate, eta, file["t"].tolist(), file["eta0"], depth, DX, DT, kernel))
    return found - depth, history, true


@pytest.mark.slow
def test_acceptance_on_converged_waves():
    error, history, true = acceptance("four")
    assert rmse(error, 0 * error) < 0.4 and len(history["loss"]) > 30
    assert true == pytest.approx(4.1e-5, rel=0.05)  # of the scheme's own error, with which the fit is to be compared
    assert min(history["misfit"]) < true


@pytest.mark.slow
def test_the_error_of_two_points_goes_into_the_depth():
    """Short waves are too slow with them, which deeper water mends; four points are not so."""
    error, *_ = acceptance("two")
    assert rmse(error, 0 * error) > 1.2 and float(error.mean()) > 0.5


@pytest.mark.slow
def test_without_smoothing_the_error_of_the_scheme_is_fitted():
    error, history, true = acceptance("four", 0.0, iterations=60)
    assert rmse(error, 0 * error) > 0.6 and min(history["misfit"]) < true / 2


@pytest.mark.slow
def test_kernels_come_near_the_fourth_order(kernels):
    for name in "BC":
        kernel, history = kernels[name]
        assert -0.09 < kernel.a < -0.06 and -0.12 < kernel.b < 0
        assert len(history["loss"]) > 10 and min(history["loss"]) < 2e-5


@pytest.mark.slow
def test_a_slope_does_not_tell_the_mean_at_faces(kernels):
    kernel, _ = kernels["A"]
    assert -0.09 < kernel.a < -0.06 and kernel.b > 0.2


@pytest.mark.slow
def test_a_constitutive_network_finds_that_there_is_nothing_to_find(data):
    eta, times, eta0, depth = data["C"]
    kernel, history = fit_kernel(
        simulate, eta[:, :49], times[:49], eta0, depth, DX, DT, Learned(constitutive=True), iterations=30
    )
    levels = torch.linspace(-0.2, 0.8, 50, dtype=torch.float64)
    assert (kernel.multiplier(levels) - 1).abs().max() < 0.02 and min(history["loss"]) < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize(("known", "sought", "limit"), [("C", "B", 0.03), ("B", "C", 0.04)])
def test_depth_from_noisy_waves_by_a_kernel_of_another_bottom(data, kernels, known, sought, limit):
    eta, times, eta0, depth = data[sought]
    kernel, _ = kernels[known]
    found, _ = infer_depth(simulate, observe(eta, 0.01, 1), times, eta0, DX, DT, kernel)
    assert float((found - depth).norm() / (depth - depth.mean()).norm()) < limit
    assert abs(float((found - depth).mean())) < 0.12


@pytest.mark.slow
def test_depth_and_kernel_from_the_same_waves(data):
    eta, times, eta0, depth = data["B"]
    found, history = infer_depth(simulate, eta, times, eta0, DX, DT)
    assert rmse(found, depth) < 0.4 and -0.12 < history["a"][-1] < -0.04
