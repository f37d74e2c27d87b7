"""Finite volume neural networks (FINN): equations with the unknown in them learned, and what that tells of a place.

A finite-volume scheme says what flows between cells; networks of few weights stand in it for what is not known, such as
a velocity that depends on the concentration (Karlbauer et al., ICML 2022, arXiv 2111.11798). ``RightHandSide`` is that
for the published equations. For shallow-water waves (arXiv 2408.10649) ``Learned`` is the stencil of the scheme,
learned over a known bottom by ``fit_kernel``; then ``infer_depth`` finds the depth below other waves, and
``depth_covariance`` how well it is known.

A scheme comes as an argument: ``simulate(eta0, depth, dx, dt, steps, every, kernel, gravity)``, as
``minconv.data.shallow_water.simulate`` has it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from minconv.runtime.checks import choice, positive, whole
from minconv.runtime.seeds import generator

GRAVITY = 9.81  # m s-2; known, since elevation tells the product of gravity and depth alone
SPREAD = 0.05  # of a and b at the start
UNIT = 10.0  # m, of what is sought beside a flat bottom
LARGE = 1e6  # times the first loss: what a line search sees where the scheme breaks off
Simulate = Callable[..., Tensor]
History = dict[str, list[float]]
Ghosts = Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]]  # of u, an axis and D


def perceptron(sizes: Sequence[int], bias: bool = False, bounded: bool = True) -> nn.Sequential:
    """tanh layers over the last axis, in float64.

    Args:
        sizes: of input, hidden layers and output.
        bias: whether layers have one.
        bounded: whether the last layer has a tanh as well.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*(layers if bounded else layers[:-1]))


def periodic(u: Tensor, axis: int, diffusion: Tensor) -> tuple[Tensor, Tensor]:
    """The cells before the first and after the last are the last and the first."""
    return u.narrow(axis, u.shape[axis] - 1, 1), u.narrow(axis, 0, 1)


def closed(u: Tensor, axis: int, diffusion: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing flows through the edges."""
    return u.narrow(axis, 0, 1), u.narrow(axis, u.shape[axis] - 1, 1)


def fixed(before: float, after: float) -> Ghosts:
    """Dirichlet values beyond the edges."""

    def ghosts(u: Tensor, axis: int, diffusion: Tensor) -> tuple[Tensor, Tensor]:
        edge = u.narrow(axis, 0, 1)
        return torch.full_like(edge, before), torch.full_like(edge, after)

    return ghosts


def outflow(before: float, dx: float) -> Ghosts:
    """A value before the first cell; after the last the first D times dx times the fall over the last two (Cauchy)."""

    def ghosts(u: Tensor, axis: int, diffusion: Tensor) -> tuple[Tensor, Tensor]:
        fall = u.narrow(axis, u.shape[axis] - 2, 1) - u.narrow(axis, u.shape[axis] - 1, 1)
        return torch.full_like(fall, before), diffusion[0] * dx * fall

    return ghosts


class RightHandSide(nn.Module):
    """du/dt of the published FINN on cells along one or two axes, to be integrated by any solver.

    With l and r the differences to the neighbours, s_0 u + s_1 u_neighbour, and f what the network makes of u:

        velocity     D (l + r) + max(f, 0)/dx l - min(f, 0)/dx r    (Burgers: against the flow)
        retardation  D 10^p sigmoid(f) (l + r) of the first variable, D (l + r) of the first for the others
                                                                    (diffusion-sorption)
        source       D (l + r) + p f, l and r of both axes          (diffusion-reaction, Allen-Cahn)

    Args:
        role: ``velocity``, ``retardation`` or ``source``.
        network: of the variables ``[..., V]``, or of the first alone where it retards.
        diffusion: D of each variable ``[V]``, over dx^2 where it is a diffusivity; learned.
        ghosts: what lies beyond the edges: ``periodic``, ``closed``, ``fixed(...)`` or ``outflow(...)``.
        dx: edge of a cell, which ``velocity`` alone asks for.
        scale: p, learned; None leaves it out.
        stencil: whether s_0 and s_1 are learned; else -1 and 1.
    """

    def __init__(
        self,
        role: str,
        network: nn.Module,
        diffusion: Tensor,
        ghosts: Ghosts,
        dx: float = 1.0,
        scale: float | None = None,
        stencil: bool = False,
    ):
        super().__init__()
        self.role = choice("role", role, ("velocity", "retardation", "source"))
        self.network, self.ghosts, self.dx = network, ghosts, positive("dx", dx)
        self.diffusion = nn.Parameter(torch.as_tensor(diffusion))
        pair = torch.tensor([-1.0, 1.0]).to(self.diffusion)
        self.scale = None if scale is None else nn.Parameter(pair.new_tensor(scale))
        self.stencil = nn.Parameter(pair + 0.1 * torch.randn_like(pair)) if stencil else pair

    def forward(self, u: Tensor) -> Tensor:
        """``[X, V]`` or ``[X, Y, V]``, the same."""
        driver = u[..., :1] if self.role == "retardation" else u
        found = self.network(driver)
        sides = [self._differences(driver, axis) for axis in range(u.ndim - 1)]
        spread = self.diffusion * sum(left + right for left, right in sides)
        if self.role == "velocity":
            (left, right), *_ = sides
            return spread + (found.clamp(min=0) * left - found.clamp(max=0) * right) / self.dx
        if self.role == "source":
            return spread + (found if self.scale is None else self.scale * found)
        factor = found.sigmoid() if self.scale is None else 10**self.scale * found.sigmoid()
        return spread * torch.cat([factor, torch.ones_like(u[..., 1:])], -1)

    def _differences(self, u: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        before, after = self.ghosts(u, axis, self.diffusion)
        wide, size = torch.cat([before, u, after], axis), u.shape[axis]
        own, other = self.stencil
        return own * u + other * wide.narrow(axis, 0, size), own * u + other * wide.narrow(axis, 2, size)


class Learned(nn.Module):
    """The stencil of shallow-water waves with its two numbers learned; consistent whatever they are.

    A slope is (1 - 3 a) and a times the inner and outer differences, a depth at a face 1/2 - b and b times the inner
    and outer sums; with free weights their product with depth is all that waves tell, and depth comes out wrong.

    Args:
        seed: of the start, a and b from N(0, 0.05^2), in units of which they are kept, as depth is in its own.
        constitutive: whether slopes are multiplied by 1 + a network of the elevation at the face; it has to find 1.
    """

    def __init__(self, seed: int = 0, constitutive: bool = False):
        super().__init__()
        stream = generator(seed, "weights")
        self.numbers = nn.Parameter(torch.randn(2, generator=stream, dtype=torch.float64))
        self.network = None
        if constitutive:
            self.network = perceptron((1, 10, 20, 10, 1))
            with torch.no_grad():
                for weight in self.network.parameters():
                    limit = 1 / math.sqrt(weight.shape[1])
                    weight.uniform_(-limit, limit, generator=stream)
                weight.mul_(0.1)

    @property
    def a(self) -> Tensor:
        """Of the slope; 0 is second order, -1/12 fourth."""
        return SPREAD * self.numbers[0]

    @property
    def b(self) -> Tensor:
        """Of the depth; the same."""
        return SPREAD * self.numbers[1]

    @property
    def multiplier(self) -> Callable[[Tensor], Tensor] | None:
        """Of the elevation at a face, or None."""
        network = self.network
        return None if network is None else lambda eta: 1 + network(eta[..., None])[..., 0]


def misfit(
    simulate: Simulate,
    eta: Tensor,
    times: Sequence[float],
    eta0: Tensor,
    depth: Tensor,
    dx: float,
    dt: float,
    kernel: Any = "four",
    gravity: float | Tensor = GRAVITY,
) -> Tensor:
    """Mean square of what waves over ``depth`` differ from ``eta`` by, over the variance of ``eta``.

    At the true depth that is the error of the scheme and the noise, not 0; a fit that goes below it fits them.

    Args:
        simulate: the scheme.
        eta: elevation observed ``[K, T, X, Y]``, m.
        times: of its frames, s, increasing, whole steps; one at 0 is not compared, as ``eta0`` is known.
        eta0: elevation at t = 0 ``[K, X, Y]``, m, at rest.
        depth: ``[X, Y]``, m.
        dx, dt: edge of a cell, m, and step, s.
        kernel, gravity: as ``simulate`` takes them.

    Raises:
        ValueError: shapes, or times that are no steps.
        FloatingPointError: as ``simulate`` does.
    """
    eta, numbers = _observed(eta, times, eta0, dt)
    found = _frames(simulate, numbers, eta0, depth, dx, dt, kernel, gravity)
    return (found - eta).square().mean() / eta.var(correction=0)


def fit_kernel(
    simulate: Simulate,
    eta: Tensor,
    times: Sequence[float],
    eta0: Tensor,
    depth: Tensor,
    dx: float,
    dt: float,
    kernel: Learned | None = None,
    *,
    iterations: int = 20,
) -> tuple[Learned, History]:
    """The kernel that explains waves over a known ``depth`` best, and its ``loss`` by evaluation, by L-BFGS.

    Arguments as in ``misfit``; a ``kernel`` is changed in place, None is a new one. The bottom must have structure:
    over an even slope means at faces cannot be told apart, and b means nothing.
    """
    kernel = Learned() if kernel is None else kernel

    def losses() -> dict[str, Tensor]:
        return {"loss": misfit(simulate, eta, times, eta0, depth, dx, dt, kernel)}

    return kernel, minimise(list(kernel.parameters()), losses, iterations)


def infer_depth(
    simulate: Simulate,
    eta: Tensor,
    times: Sequence[float],
    eta0: Tensor,
    dx: float,
    dt: float,
    kernel: Any = "learned",
    smoothing: float = 1e-3,
    *,
    start: float = 100.0,
    iterations: int = 40,
) -> tuple[Tensor, History]:
    """The depth ``[X, Y]`` below waves, m, from their elevation, by L-BFGS from a flat bottom.

    What is minimised is ``misfit`` plus ``smoothing`` times the mean square differences of neighbours along x and
    along y, in units of 10 m. Without smoothing the fit first finds the depth and then fits the scheme's error with it.

    Args:
        kernel: one of the scheme's by name; a ``Learned`` one from ``fit_kernel``, which stays as it is; or
            ``learned``, to find one along with the depth.
        smoothing: 1e-3 does for noise from 0 to 10 %.
        start: depth to start at, m.
        iterations: of L-BFGS.
        simulate, eta, times, eta0, dx, dt: as in ``misfit``.

    Returns:
        The depth with the lowest loss on the way, and by evaluation ``loss`` and ``misfit``, beside ``a`` and ``b``
        where they are found as well; nan where the scheme broke off.

    Raises:
        TypeError, ValueError: bad arguments.
        FloatingPointError: waves cannot be followed even at the start; the message is the scheme's.
    """
    positive("smoothing", smoothing, zero=True)
    positive("start", start)
    _observed(eta, times, eta0, dt)
    theta = torch.zeros_like(eta0[0]).requires_grad_()
    parameters, joint = [theta], isinstance(kernel, str) and kernel == "learned"
    if joint:
        kernel = Learned()
        parameters += kernel.parameters()

    def losses() -> dict[str, Tensor]:
        depth = start + UNIT * theta
        if not (depth > 0).all():  # a line search that went too far
            raise FloatingPointError("the depth is not above 0")
        found = {"misfit": misfit(simulate, eta, times, eta0, depth, dx, dt, kernel)}
        rough = sum(theta.diff(dim=axis).square().mean() for axis in (0, 1))
        return {"loss": found["misfit"] + smoothing * rough} | found | ({"a": kernel.a, "b": kernel.b} if joint else {})

    history = minimise(parameters, losses, iterations)
    return (start + UNIT * theta).detach(), history


def depth_covariance(
    simulate: Simulate,
    eta: Tensor,
    times: Sequence[float],
    eta0: Tensor,
    depth: Tensor,
    dx: float,
    dt: float,
    noise: float,
    kernel: Any = "four",
    smoothing: float = 0.0,
    *,
    prior: float = 30.0,
    batch: int = 32,
) -> Tensor:
    """How well waves tell the depth: the covariance of all cells ``[X Y, X Y]``, m2; see ``deviation``.

    The inverse of the Gauss-Newton Hessian of the negative logarithm of the posterior at ``depth``,

        J^T J / noise^2 + S + 1 / prior^2,

    J what elevation changes by with the depth of a cell, from a Jacobian-vector product for each, and S the smoothing
    that ``infer_depth`` was told, read as a prior of differences. It knows nothing of the scheme's own error. J is in
    memory as a whole, cells times observations: a few frames will do.

    Args:
        noise: standard deviation of independent errors of ``eta``, m.
        prior: standard deviation of the depth of a cell before anything was observed, m.
        batch: cells that are looked at at once.
        simulate, eta, times, eta0, depth, dx, dt, kernel, smoothing: as in ``misfit`` and ``infer_depth``.
    """
    positive("noise", noise)
    positive("prior", prior)
    eta, numbers = _observed(eta, times, eta0, dt)
    size, shape = depth.numel(), depth.shape

    def change(direction: Tensor) -> Tensor:
        def frames(place: Tensor) -> Tensor:
            return _frames(simulate, numbers, eta0, place, dx, dt, kernel, GRAVITY)

        return jvp(frames, (depth,), (direction,))[1].flatten()

    with torch.no_grad():
        unit = torch.eye(size).to(depth).view(size, *shape)
        jacobian = vmap(change, chunk_size=whole("batch", batch, 1))(unit)  # waves are followed once a chunk
        precision = jacobian @ jacobian.T / noise**2 + torch.eye(size).to(depth) / prior**2
        for axis in (1, 2):
            slopes = unit.diff(dim=axis).flatten(1)
            weight = smoothing / slopes.shape[1] / UNIT**2  # of a difference in the loss, per m2
            precision += weight * eta.numel() * eta.var(correction=0) / noise**2 * (slopes @ slopes.T)
        return torch.cholesky_inverse(torch.linalg.cholesky(precision))


def deviation(covariance: Tensor, shape: Sequence[int]) -> Tensor:
    """The standard deviation of each cell, ``[X, Y]``, m."""
    return covariance.diagonal().sqrt().view(*shape)


def minimise(parameters: Sequence[Tensor], losses: Callable[[], Mapping[str, Tensor]], iterations: int) -> History:
    """L-BFGS with a strong Wolfe line search on ``losses()["loss"]``; leaves the best parameters met, in place.

    Where a loss is not finite or raises FloatingPointError, but for the first, the line search sees a large one and
    goes back. Returns all that ``losses`` tells, by evaluation.
    """
    history: History = {}
    best, kept = math.inf, [parameter.detach().clone() for parameter in parameters]

    def closure() -> float:
        nonlocal best, kept
        try:
            found = losses()
            loss = found["loss"].item()
            if not math.isfinite(loss):
                raise FloatingPointError("the loss is not finite at the start")
            gradients = torch.autograd.grad(found["loss"], parameters)
            if not all(gradient.isfinite().all() for gradient in gradients):
                raise FloatingPointError("the gradient of the loss is not finite at the start")
        except FloatingPointError:
            if not history:
                raise
            for values in history.values():
                values.append(math.nan)
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            return LARGE * history["loss"][0]
        for name, value in found.items():
            history.setdefault(name, []).append(value.item())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if loss < best:
            best, kept = loss, [parameter.detach().clone() for parameter in parameters]
        return loss

    count = whole("iterations", iterations, 1)
    search = {"history_size": 20, "line_search_fn": "strong_wolfe", "max_eval": 2 * count}
    # with PyTorch's tolerances it may end after three evaluations
    torch.optim.LBFGS(parameters, 1.0, count, tolerance_grad=0.0, tolerance_change=0.0, **search).step(closure)
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    return history


def _observed(eta: Tensor, times: Sequence[float], eta0: Tensor, dt: float) -> tuple[Tensor, list[int]]:
    """The frames after the start, and the numbers of their steps."""
    for name, field in {"eta": eta, "eta0": eta0}.items():
        if not isinstance(field, Tensor) or field.dtype != torch.float64:
            kind = field.dtype if isinstance(field, Tensor) else type(field).__name__
            raise TypeError(f"{name} must be a tensor of float64, as the loss stalls in float32; got {kind}")
    if eta.ndim != 4 or eta0.shape != (len(eta), *eta.shape[2:]):
        raise ValueError(f"eta must be [K, T, X, Y] and eta0 [K, X, Y]; got {list(eta.shape)} and {list(eta0.shape)}")
    numbers = [round(float(time) / positive("dt", dt)) for time in times]
    steps = all(abs(number * dt - float(time)) < 1e-6 * dt for number, time in zip(numbers, times, strict=True))
    if len(numbers) != eta.shape[1] or not steps or not all(a < b for a, b in pairwise([-1, *numbers])):
        raise ValueError(
            f"times must be increasing multiples of dt = {dt:g} s, one for each of the {eta.shape[1]} frames; "
            f"got {[float(time) for time in times]}"
        )
    first = numbers[0] == 0
    if not eta[:, first:].numel():
        raise ValueError("eta must have frames after t = 0")
    return eta[:, first:], numbers[first:]


def _frames(
    simulate: Simulate,
    numbers: Sequence[int],
    eta0: Tensor,
    depth: Tensor,
    dx: float,
    dt: float,
    kernel: Any,
    gravity: float | Tensor,
) -> Tensor:
    """Elevation after the steps with these ``numbers``."""
    every = math.gcd(*numbers)
    found = simulate(eta0, depth, dx, dt, numbers[-1], every, kernel, gravity)
    return found[:, [number // every for number in numbers]]
