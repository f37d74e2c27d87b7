"""Winograd's convolution and the layers made of it, beside the direct ones in double precision."""

import pytest
import torch
from helpers import parts, random
from torch.utils.checkpoint import checkpoint

from minconv.core.cells import CELLS, MinConvGRU, as_one
from minconv.core.layers import PADDINGS, PaddedConv2d, constant_weights, padded_conv2d

pytest.importorskip("numba")
from minconv.kernels import winograd
from minconv.kernels.winograd_loops import POINTS

STATED = 3e-6  # root-mean-square error beside that of the output: ten times that of a direct convolution in float32
# frames, height, width, dilation, channels before and after
SIZES = [(3, 16, 16, 1, 40, 24), (1, 8, 12, 2, 9, 17), (2, 13, 18, 3, 16, 8), (1, 5, 6, 1, 1, 3), (5, 4, 4, 2, 33, 2)]


def problem(frames: int, height: int, width: int, into: int, out: int) -> list[torch.Tensor]:
    """x, weight, bias."""
    weight = random(out, into, 3, 3, seed=2) / (9 * into) ** 0.5
    return [random(frames, into, height, width), weight, random(out, seed=3)]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


def single(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.detach().float().requires_grad_() for x in tensors]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("frames, height, width, dilation, into, out", SIZES)
def test_outputs_and_gradients_are_those_of_the_direct_convolution(
    frames, height, width, dilation, into, out, padding, threads, request
):
    request.getfixturevalue("one_thread")
    torch.set_num_threads(threads)
    tensors = [x.requires_grad_() for x in problem(frames, height, width, into, out)]
    y = padded_conv2d(*tensors, padding, dilation, dilation, "direct")
    along = random(*y.shape, seed=4)
    expected = [y, *torch.autograd.grad(y, tensors, along)]
    singles = single(tensors)
    y = padded_conv2d(*singles, padding, dilation, dilation, "winograd")
    assert "_Convolution" in type(y.grad_fn).__name__
    found = [y, *torch.autograd.grad(y, singles, along.float())]
    assert max(map(error, found, expected)) < STATED


def test_rounds_less_than_half_of_what_the_usual_points_do():
    """In double precision with weights and tiles rounded to float32: the points 0, +-5/8, +-3/2 against 0, +-1, +-2."""

    def toom_cook(a: float, b: float) -> tuple[torch.Tensor, ...]:
        points = torch.tensor([0, a, -a, b, -b], dtype=torch.float64)
        last = torch.eye(6, dtype=torch.float64)[5:]
        apart = (points[:, None] - points + torch.eye(5, dtype=torch.float64)).prod(1)
        powers = points[:, None] ** torch.arange(4)
        evaluate = torch.cat([powers, last[:, 2:]])  # A
        kernel = torch.cat([powers[:, :3] / apart[:, None], last[:, 3:]])  # G
        tile = torch.zeros(6, 6, dtype=torch.float64)
        for row, left in enumerate([[p for k, p in enumerate(points) if k != i] for i in range(5)] + [list(points)]):
            polynomial = torch.ones(1, dtype=torch.float64)
            for root in left:
                up = torch.cat([polynomial.new_zeros(1), polynomial])
                polynomial = up - root * torch.cat([polynomial, polynomial.new_zeros(1)])
            tile[row, : len(polynomial)] = polynomial
        return evaluate, kernel, tile  # y = A' [(G g) * (B' d)]

    def error_of(points: tuple[float, float]) -> float:
        evaluate, kernel, tile = (matrix.float() for matrix in toom_cook(*points))
        d, g = random(400, 32, 6, 6).float(), random(8, 32, 3, 3, seed=2).float()
        v, u = tile @ d @ tile.T, kernel @ g @ kernel.T
        y = evaluate.T @ torch.einsum("pcij,ocij->poij", v, u) @ evaluate
        return error(y, torch.nn.functional.conv2d(d.double(), g.double()))

    assert error_of(POINTS) < 0.6 * error_of((1.0, 2.0))


def test_many_convolutions_at_once():
    x, weight, bias = single([torch.stack([one, 2 * one, -one]) for one in problem(2, 6, 8, 9, 10)])

    def each(method: str, dims: tuple[int | None, ...]) -> tuple[torch.Tensor, ...]:
        some = [t if dim == 0 else t[0] for t, dim in zip((x, weight, bias), dims, strict=True)]
        one = torch.vmap(lambda x, w, b: padded_conv2d(x, w, b, "circular", 1, 1, method), dims)
        return one(*some), *torch.func.grad(lambda *t: one(*t).pow(3).sum(), (0, 1, 2))(*some)

    for dims in ((0, 0, 0), (0, None, None), (None, 0, 0), (None, 0, None)):
        found, expected = each("winograd", dims), each("direct", dims)
        assert max(error(one, other.double()) for one, other in zip(found, expected, strict=True)) < STATED
    twice = torch.vmap(torch.vmap(lambda x, w, b: padded_conv2d(x, w, b, "circular", 1, 1, "winograd")))
    pairs = [torch.stack([t, t.flip(0)]) for t in (x, weight, bias)]
    assert torch.equal(twice(*pairs)[1].flip(0), twice(*pairs)[0])


def test_second_derivatives():
    tensors = single(problem(1, 4, 4, 2, 3))
    grads = []
    for method in ("winograd", "direct"):
        y = padded_conv2d(*tensors, "circular", 1, 1, method)
        (grad,) = torch.autograd.grad(y.pow(3).sum(), tensors[1], create_graph=True)
        grads.append(torch.autograd.grad(grad.square().sum(), tensors[0])[0])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4 * grads[1].abs().max().item())


def test_weights_said_not_to_change_are_transformed_once(monkeypatch):
    made, transform = [], winograd._nodes_of
    monkeypatch.setattr(winograd, "_nodes_of", lambda kernels: made.append(1) or transform(kernels))
    conv, x = PaddedConv2d(8, 8, method="winograd"), random(1, 8, 8, 8).float()
    with constant_weights():
        first, second = conv(x), conv(x)
    assert len(made) == 2 and torch.equal(first, second)  # that for y and that for the gradient
    with torch.no_grad():
        conv.weight.mul_(2)
    changed = conv(x)
    assert len(made) == 4 and torch.allclose(changed - conv.bias[:, None, None], 2 * (first - conv.bias[:, None, None]))


def test_serves_where_it_is_faster_and_where_it_is_asked_for():
    weight = torch.zeros(8, 8, 3, 3)
    fits = {
        (*size, dilation): winograd.pays(torch.zeros(1, 8, *size), weight, dilation)
        for size, dilation in (((16, 16), 1), ((16, 16), 4), ((8, 8), 1), ((5, 5), 1), ((9, 9), 4))
    }
    expected = {(16, 16, 1): True, (16, 16, 4): True, (8, 8, 1): True, (5, 5, 1): False, (9, 9, 4): False}
    assert fits == expected
    assert not winograd.pays(torch.zeros(1, 1, 16, 16), weight[:, :1], 1)  # one channel: nothing to multiply
    x = random(1, 8, 5, 5).float()
    for method, name in (("auto", "Conv"), ("direct", "Conv"), ("winograd", "_Conv")):
        assert type(PaddedConv2d(8, 8, method=method)(x).grad_fn).__name__.startswith(name)
    with pytest.raises(ValueError, match="method must be one of auto, direct, winograd; got 'fast'"):
        PaddedConv2d(8, 8, method="fast")


@pytest.mark.parametrize("cell", CELLS)
def test_no_frames(cell):
    layer = CELLS[cell](8, 8, method="winograd")
    x = torch.zeros(0, 2, 8, 8, 8, requires_grad=True)
    y, _ = layer(x)
    grads = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    assert y.shape == (0, 2, 8, 8, 8) and not any(grad.any() for grad in grads)
    assert padded_conv2d(x[:, 0], torch.zeros(8, 8, 3, 3), None, "zeros", 1, 1, "winograd").shape == (0, 8, 8, 8)


@pytest.mark.parametrize("cell", CELLS)
def test_frames_without_places_are_refused(cell):
    with pytest.raises(ValueError, match=r"x must be frames \[N, \d+, H >= 1, W >= 1\]; got"):
        CELLS[cell](8, 8, method="winograd")(torch.zeros(1, 2, 8, 0, 8))


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_as_one_operation_is_checkpointed(cell):
    layer, x = CELLS[cell](8, 8), random(1, 2, 8, 8, 8).float().requires_grad_()
    grads = []
    for run in (lambda x: layer(x)[0], lambda x: checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)):
        grads.append(torch.autograd.grad(run(x).square().sum(), [x, *layer.parameters()]))
    assert all(map(torch.equal, *grads))


def test_what_is_not_finite_is_seen():
    x = random(1, 8, 8, 8).float()
    x[0, 3, 2, 2] = torch.nan
    y = PaddedConv2d(8, 8, padding="circular", method="winograd")(x)
    direct = PaddedConv2d(8, 8, padding="circular", method="direct")(x)
    assert y.isnan()[direct.isnan()].all() and y.isfinite().any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "padding, dilation, size",
    [("circular", 1, (2, 4, 9, 16, 16)), ("sphere", 2, (1, 1, 12, 8, 16)), ("zeros", 1, (3, 3, 8, 12, 8))],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_layer_as_one_operation_is_the_layer(cell, padding, dilation, size, threads, request):
    request.getfixturevalue("one_thread")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = CELLS[cell](size[2], 11, padding=padding, dilation=dilation, method="winograd")
    reference = CELLS[cell](size[2], 11, padding=padding, dilation=dilation, method="direct").double()
    reference.load_state_dict(layer.state_dict())
    results = []
    for kind, dtype in ((layer, torch.float32), (reference, torch.float64)):
        x = random(*size).to(dtype).requires_grad_()
        state = kind.init_state(x.detach())
        before = [(part + 0.3 * random(*part.shape, seed=5, dtype=dtype)).requires_grad_() for part in parts(state)]
        y, after = kind(x, tuple(before) if isinstance(state, tuple) else before[0])
        loss = (y * random(*y.shape, seed=6, dtype=dtype)).sum() + sum(part.square().sum() for part in parts(after))
        inputs = [x, *before, *kind.parameters()]
        results.append([y, *parts(after), *torch.autograd.grad(loss, inputs)])
        assert (as_one(next(m for m in kind.modules() if isinstance(m, PaddedConv2d)), x) is not None) == (
            kind is layer
        )
    assert max(map(error, *results)) < STATED


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_as_one_operation_has_second_derivatives_and_gives_way_to_transforms(cell):
    torch.manual_seed(0)
    layer, direct = (CELLS[cell](2, 3, padding="circular", method=method) for method in ("winograd", "direct"))
    direct.load_state_dict(layer.state_dict())
    x, seconds = random(1, 2, 2, 4, 4).float().requires_grad_(), []
    for one in (layer, direct):
        (grad,) = torch.autograd.grad(one(x)[0].pow(2).sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(grad.square().sum(), next(one.parameters()))[0])
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-4 * seconds[1].abs().max().item())
    together = torch.vmap(lambda x: layer(x)[0])(torch.stack([x, 2 * x]))
    torch.testing.assert_close(together[1], layer(2 * x)[0], rtol=0, atol=1e-5)


def test_the_layer_of_a_backend_that_is_named_is_not_one_operation():
    x = random(1, 2, 8, 8, 8).float()
    names = [type(MinConvGRU(8, 8, backend=name)(x)[0].grad_fn).__name__ for name in ("auto", "linear")]
    assert names[0] != names[1]


def test_threads_that_do_not_come_leave_nothing_behind(monkeypatch, one_thread):
    """OpenMP may give fewer threads than it is asked for."""
    x, weight, bias = problem(4, 8, 8, 4, 5)
    expected = torch.autograd.grad(
        padded_conv2d(x, weight.requires_grad_(), bias, "zeros", 1, 1, "direct").square().sum(), weight
    )
    monkeypatch.setattr(winograd, "threads", lambda size: 3)
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *size: x.new_full(size, torch.nan))
    weight = weight.detach().float().requires_grad_()
    y = padded_conv2d(x.float(), weight, bias.float(), "zeros", 1, 1, "winograd")
    assert error(torch.autograd.grad(y.square().sum(), weight)[0], expected[0]) < STATED
