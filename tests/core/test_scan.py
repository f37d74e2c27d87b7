"""Every backend of the scan against the loop: output, final state and the gradient of every input."""

from functools import partial
from math import inf

import pytest
import torch
from helpers import assert_all_near, loop, random, values_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from minconv.core import scan
from minconv.core.gates import INITIAL_STATE, Gating, coefficients, g, log_coefficients, log_g
from minconv.core.scan import GATINGS, gated_scan, linear_scan, usable

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned")

# largest error relative to the largest value; the logarithms lose digits with T, and more of them with large gates
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 3e-2}
LOOSER = {"logspace": 200}
assert_near = partial(assert_all_near, least=1e-3, check_dtype=False)
COMPLEX = ("reference", "linear")
HERE = usable("cuda" if torch.cuda.is_available() else "cpu")
SLOW = {"triton"} if not torch.cuda.is_available() else set()  # in Triton's interpreter

LENGTHS = (1, 2, 7, 64, 128)
TAILS = ((), (3, 5, 7))
DEVICES = ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))


BACKENDS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in HERE]


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def bearable(request) -> None:
    """An interpreter sees no long sequences; test_triton.py has some."""
    values = getattr(request.node, "callspec", None) and request.node.callspec.params
    if values and values.get("backend") in SLOW and values.get("steps", 0) > 7:
        pytest.skip("takes an interpreter too long")


def draw_linear(steps: int, tail: tuple[int, ...], dtype: torch.dtype, batch: int = 2, **options) -> list[torch.Tensor]:
    """a in (0, 1), b > 0 and h0 > 0, which every backend takes."""
    a = random(batch, steps, *tail, dtype=dtype, seed=1, **options)
    b = random(batch, steps, *tail, dtype=dtype, seed=2, **options)
    h0 = random(batch, *tail, dtype=dtype, seed=3, **options)
    return [a, b, h0] if dtype.is_complex else [a.sigmoid(), b.exp(), h0.exp()]


def draw_gates(gating: str, steps: int, dtype: torch.dtype, scale: float = 1.0, size=(2, 3, 5, 1), **options):
    """Gates [B, T, kC, H, W] of the given standard deviation and h0 [B, C, H, W]."""
    batch, channels, *frame = size
    gates = random(batch, steps, GATINGS[gating].blocks * channels, *frame, dtype=dtype, seed=1, **options)
    return scale * gates, random(batch, channels, *frame, dtype=dtype, seed=2, **options).exp()


def gated_loop(gates: torch.Tensor, h0: torch.Tensor, gating: str) -> torch.Tensor:
    return loop(*coefficients(gates, gating), h0)


# Against the loop


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_linear_scan_is_the_loop(backend, steps, tail, dtype, device):
    inputs = draw_linear(steps, tail, dtype, device=device)
    found = values_and_gradients(lambda *x: linear_scan(*x, backend=backend), *inputs)
    expected = values_and_gradients(loop, *(x.double() for x in inputs))
    assert found[0].dtype == dtype and found[0].shape == inputs[1].shape
    assert_near(found, expected, TOLERANCE[dtype] * LOOSER.get(backend, 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_gated_scan_is_the_loop(backend, steps, gating, dtype, device):
    inputs = draw_gates(gating, steps, dtype, device=device)
    found = values_and_gradients(lambda *x: gated_scan(*x, gating, backend), *inputs)
    expected = values_and_gradients(lambda *x: gated_loop(*x, gating), *(x.double() for x in inputs))
    assert found[0].dtype == dtype and found[0].shape == (2, steps, 3, 5, 1)
    assert_near(found, expected, TOLERANCE[dtype] * LOOSER.get(backend, 1))


@pytest.mark.parametrize("backend", BACKENDS)
@given(st.integers(1, 40), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3), st.data())
@settings(deadline=None, max_examples=8, derandomize=True)
def test_any_shape_and_any_split(backend, steps, batch, tail, data):
    a, b, h0 = draw_linear(steps, tuple(tail), torch.float64, batch)
    whole = linear_scan(a, b, h0, backend)
    assert_near([whole], [loop(a, b, h0)], 1e-11)
    cut = data.draw(st.integers(0, steps - 1))
    first = linear_scan(a[:, :cut], b[:, :cut], h0, backend) if cut else h0[:, None]
    second = linear_scan(a[:, cut:], b[:, cut:], first[:, -1], backend)
    assert_near([second], [whole[:, cut:]], 1e-11)


@pytest.mark.parametrize("backend", COMPLEX)
@pytest.mark.parametrize("steps", [1, 2, 31])
def test_complex(backend, steps):
    inputs = draw_linear(steps, (3,), torch.complex128)
    inputs[0] = inputs[0] / inputs[0].abs().clamp(min=1)  # |a| <= 1, or the state explodes
    found = values_and_gradients(lambda *x: linear_scan(*x, backend=backend), *inputs)
    assert_near(found, values_and_gradients(loop, *inputs), TOLERANCE[torch.float64])


def test_reference_takes_any_coefficients():
    a, b, h0 = 3 * random(2, 5, 4), random(2, 5, 4, seed=2), torch.zeros(2, 4, dtype=torch.float64)
    assert torch.equal(linear_scan(a, b, h0, "reference"), loop(a, b, h0))


@pytest.mark.parametrize("backend", COMPLEX)
@pytest.mark.parametrize("gating", GATINGS)
def test_bfloat16(backend, gating):
    gates, h0 = draw_gates(gating, 31, torch.bfloat16)
    found = gated_scan(gates, h0, gating, backend)
    assert found.dtype == torch.bfloat16
    assert_near([found], [gated_loop(gates.double(), h0.double(), gating)], TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("steps", [1, 3])
def test_gradcheck(backend, steps):
    inputs = [x.requires_grad_() for x in draw_linear(steps, (2,), torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, backend=backend), inputs)


@pytest.mark.parametrize("gating", GATINGS)
def test_gradcheck_gated(backend, gating):
    inputs = [x.requires_grad_() for x in draw_gates(gating, 2, torch.float64, size=(1, 1, 1, 2))]
    assert torch.autograd.gradcheck(lambda *x: gated_scan(*x, gating, backend), inputs)


@pytest.mark.parametrize("backend", COMPLEX)
def test_gradcheck_complex(backend):
    inputs = [x.requires_grad_() for x in draw_linear(3, (2,), torch.complex128)]
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, backend=backend), inputs)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_some_gradients_asked_for(backend, needed):
    inputs = draw_linear(7, (3,), torch.float64)
    expected = values_and_gradients(loop, *inputs)[2:]
    for index in needed:
        inputs[index].requires_grad_()
    linear_scan(*inputs, backend=backend).backward(random(2, 7, 3, seed=9))
    assert_near([inputs[index].grad for index in needed], [expected[index] for index in needed], 1e-11)
    assert all(x.grad is None for index, x in enumerate(inputs) if index not in needed)


@pytest.mark.parametrize("steps", [1, 3])
def test_second_derivatives(backend, steps):
    inputs = [x.requires_grad_() for x in draw_linear(steps, (2,), torch.float64)]
    assert torch.autograd.gradgradcheck(lambda *x: linear_scan(*x, backend=backend), inputs)


def test_functional_gradients(backend):
    """torch.func.grad, and torch.vmap of it."""

    def loss(scan):
        return lambda a, b, h0: scan(a, b, h0).square().sum()

    def own(*inputs):
        return linear_scan(*inputs, backend=backend)

    inputs = draw_linear(7, (3,), torch.float64)
    found, expected = (torch.func.grad(loss(scan), (0, 1, 2))(*inputs) for scan in (own, loop))
    assert_near(found, expected, 1e-11)
    stacked = [torch.stack([x, x.sqrt()]) for x in inputs]
    found, expected = (torch.vmap(torch.func.grad(loss(scan), (0, 1, 2)))(*stacked) for scan in (own, loop))
    assert_near(found, expected, 1e-11)


@pytest.mark.parametrize("shape", [(2, 3, 0), (0, 3, 4), (2, 1, 0)])
def test_nothing_in_nothing_out(backend, shape):
    a = torch.ones(shape).requires_grad_()
    h = linear_scan(a, torch.ones(shape), torch.ones(shape[:1] + shape[2:]), backend)
    assert h.shape == shape
    h.sum().backward()
    assert a.grad.shape == shape


def test_inputs_are_left_alone(backend):
    for inputs in (draw_linear(7, (3,), torch.float32), list(draw_gates("lstm", 7, torch.float32))):
        before = [x.clone() for x in inputs]
        function = linear_scan if len(inputs) == 3 else lambda *x, backend: gated_scan(*x, "lstm", backend)
        values_and_gradients(lambda *x, function=function: function(*x, backend=backend), *inputs)
        assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_non_contiguous_inputs(backend):
    a, b, h0 = draw_linear(31, (3, 5), torch.float64)
    expected = values_and_gradients(loop, a, b, h0)
    views = [a.transpose(1, 3).contiguous().transpose(1, 3), b.flip(1).contiguous().flip(1), h0.mT.contiguous().mT]
    wide = torch.stack([views[1], views[1]], -1).flatten(-2)[..., ::2]
    assert not views[0].is_contiguous() and not views[2].is_contiguous() and not wide.is_contiguous()
    found = values_and_gradients(lambda *x: linear_scan(*x, backend=backend), views[0], wide, views[2])
    assert_near(found, expected, 1e-11)


def test_expanded_inputs(backend):
    """One coefficient for all steps and places, as a view of stride 0; and a cotangent of stride 0."""
    a = torch.tensor(0.5, dtype=torch.float64).expand(2, 31, 3)
    b = torch.tensor(1.0, dtype=torch.float64).expand(2, 31, 3)
    h0 = torch.tensor(1.0, dtype=torch.float64).expand(2, 3).clone().requires_grad_()
    h = linear_scan(a, b, h0, backend)
    exact = 2 - 0.5 ** torch.arange(1, 32, dtype=torch.float64)
    torch.testing.assert_close(h, exact[:, None].expand_as(h), rtol=1e-12, atol=0)
    h.sum().backward()
    torch.testing.assert_close(h0.grad, torch.full_like(h0, 1 - 0.5**31), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gating", GATINGS)
def test_channels_last_gates(backend, gating):
    gates, h0 = draw_gates(gating, 7, torch.float64, size=(2, 3, 4, 5))
    expected = values_and_gradients(lambda *x: gated_loop(*x, gating), gates, h0)
    last = gates.movedim(2, -1).contiguous().movedim(-1, 2)
    assert not last.is_contiguous()
    assert_near(values_and_gradients(lambda *x: gated_scan(*x, gating, backend), last, h0), expected, 1e-11)


# Large gates


LARGE = {"normal with standard deviation 10": 10.0, "of +-110": inf}


def large_gates(kind: str, gating: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    gates, h0 = draw_gates(gating, steps, torch.float32, size=(2, 4, 8, 8))
    return (110 * gates.sign() if LARGE[kind] == inf else LARGE[kind] * gates), h0


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("steps", [1, 64, pytest.param(512, marks=pytest.mark.slow)])
def test_large_gates_stay_finite(backend, kind, gating, steps):
    found = values_and_gradients(lambda *x: gated_scan(*x, gating, backend), *large_gates(kind, gating, steps))
    assert all(x.isfinite().all() for x in found)


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("steps", [20, pytest.param(2048, marks=pytest.mark.slow)])
def test_linear_stays_accurate_with_large_gates(kind, gating, steps):
    gates, h0 = large_gates(kind, gating, steps)
    exact = gated_loop(gates.double(), h0.double(), gating)
    found = gated_scan(gates, h0, gating, "linear")
    assert (found - exact).norm() <= 1e-6 * exact.norm()
    assert (found - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_quotient_of_sigmoids_is_nan_where_ours_is_exact(backend):
    f = i = torch.full((1, 3, 1, 1, 1), -110.0)
    quotient = f.sigmoid() / (f.sigmoid() + i.sigmoid())
    assert quotient.isnan().all()
    gates = torch.cat([f, i, torch.zeros_like(f)], 2).requires_grad_()
    h = gated_scan(gates, torch.full((1, 1, 1, 1), 1.5), "lstm", backend)
    torch.testing.assert_close(h.flatten(), torch.tensor([1.0, 0.75, 0.625]), rtol=1e-5, atol=0)  # halfway to g(0)
    h.sum().backward()
    assert gates.grad.isfinite().all()


# A gating of one's own


def test_a_gating_that_no_kernel_knows_is_scanned_all_the_same(backend, monkeypatch):
    monkeypatch.setitem(GATINGS, "decay", Gating(2, lambda z: -z.abs()))
    inputs = draw_gates("decay", 5, torch.float64)
    found = values_and_gradients(lambda *x: gated_scan(*x, "decay", backend), *inputs)
    assert_near(found, values_and_gradients(lambda *x: gated_loop(*x, "decay"), *inputs), 1e-11)


# Gates


PAPER = {
    "gru": lambda z: 1 - z.sigmoid(),
    "lstm": lambda f, i: f.sigmoid() / (f.sigmoid() + i.sigmoid()),
    "explstm": lambda f, i: f.exp() / (f.exp() + i.exp()),
}


@pytest.mark.parametrize("gating", GATINGS)
def test_coefficients_are_the_papers(gating):
    gates, _ = draw_gates(gating, 5, torch.float64)
    *inner, u = gates.unflatten(2, (-1, 3)).unbind(2)
    a, b = coefficients(gates, gating)
    expected = PAPER[gating](*inner)
    torch.testing.assert_close(a, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(b, (1 - expected) * torch.where(u < 0, u.sigmoid(), u + 0.5), rtol=1e-11, atol=0)
    found = [log.exp() for log in log_coefficients(gates, gating)]
    torch.testing.assert_close(found, [a, b], rtol=1e-12, atol=0)


def test_g_is_positive_and_continuous():
    u = torch.linspace(-30, 30, 601, dtype=torch.float64).requires_grad_()
    assert (g(u) > 0).all() and (g(u).diff() > 0).all()
    assert g(torch.zeros(1)).item() == INITIAL_STATE == g(torch.tensor([-1e-9])).item()
    torch.testing.assert_close(log_g(u), g(u).log(), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(log_g(u).sum(), u)
    assert gradient.isfinite().all()
    assert log_g(torch.tensor([-200.0])).item() == -200.0  # where g itself is 0 in float32


# The chunked path of ``linear``, which the GPU takes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "steps, chunk", [(1, 1), (2, 1), (7, 7), (7, 2), (9, 3), (31, 5), (32, 5), (63, 7), (64, 8), (10, 9)]
)
def test_chunks_equal_the_loop(steps, chunk, reverse):
    a, b, h0 = draw_linear(steps, (3, 2), torch.float64)
    expected = loop(a.flip(1), b.flip(1), h0).flip(1) if reverse else loop(a, b, h0)
    found = scan._chunked(a, b, h0, torch.empty_like(b), reverse, chunk)
    assert_near([found], [expected], 1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 31, 63, 64])
def test_chunks_carry_gradients(steps, monkeypatch):
    def chunked(a, b, h0, out=None, reverse=False):
        out = torch.empty_like(b) if out is None else out
        chunk = max(int(b.shape[1] ** 0.5), 1)
        return scan._chunked(a, b, h0, out, reverse, chunk) if b.shape[1] else out

    inputs = draw_linear(steps, (3,), torch.float64)
    expected = values_and_gradients(loop, *inputs)
    monkeypatch.setattr(scan, "walk", chunked)
    assert_near(values_and_gradients(scan._Linear.apply, *inputs), expected, 1e-12)


# Models stacked by torch.vmap


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("steps", [1, 7])
def test_vmap_is_a_loop_over_models(backend, gating, steps):
    gates, h0 = draw_gates(gating, steps, torch.float64, size=(6, 3, 2, 2))
    stacked = gates.unflatten(0, (3, 2)), h0.unflatten(0, (3, 2))
    expected = [
        values_and_gradients(lambda *x: gated_scan(*x, gating, backend), *x) for x in zip(*stacked, strict=True)
    ]
    gates, h0 = (x.requires_grad_() for x in stacked)
    h = torch.vmap(lambda *x: gated_scan(*x, gating, backend))(gates, h0)
    cotangent = random(*h.shape[1:], seed=9).expand_as(h)
    gradients = torch.autograd.grad(h, (gates, h0), cotangent)
    assert_near([h, h[:, :, -1], *gradients], [torch.stack(x) for x in zip(*expected, strict=True)], 1e-12)


@pytest.mark.parametrize("dims", [(0, None, None), (2, 0, None), (None, 1, 1), (None, None, 0)])
def test_vmap_over_any_dimension(backend, dims):
    sizes = (2, 31, 4), (2, 31, 4), (2, 4)
    inputs = [
        random(*((*size[:d], 3, *size[d:]) if d is not None else size), seed=n).sigmoid().requires_grad_()
        for n, (size, d) in enumerate(zip(sizes, dims, strict=True))
    ]

    def one(s):
        return [x if d is None else x.select(d, s) for x, d in zip(inputs, dims, strict=True)]

    expected = torch.stack([loop(*one(s)) for s in range(3)])
    found = torch.vmap(lambda *x: linear_scan(*x, backend=backend), in_dims=dims)(*inputs)
    cotangent = random(*expected.shape)
    assert_near(
        [found, *torch.autograd.grad(found, inputs, cotangent)],
        [expected, *torch.autograd.grad(expected, inputs, cotangent)],
        1e-11,
    )


# Bad input


ONES = torch.ones(2, 3, 4)
STATE = torch.ones(2, 4)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((ONES, ONES, STATE, "fast"), ValueError, "backend must be one of auto, reference, logspace, linear.*'fast'"),
        ((ONES, ONES, STATE, None), TypeError, "backend must be a string"),
        ((ONES.tolist(), ONES, STATE), TypeError, "a must be a tensor; got list"),
        ((ONES.long(), ONES, STATE), TypeError, "a must be floating point; got torch.int64"),
        ((ONES, ONES.double(), STATE), TypeError, "one dtype; got a torch.float32, b torch.float64"),
        ((ONES, ONES, STATE.to("meta")), ValueError, "one device; got a cpu, b cpu, h0 meta"),
        ((ONES, ONES[:, :2], STATE), ValueError, r"a and b must have one shape.*\[2, 3, 4\].*\[2, 2, 4\]"),
        ((ONES[0, 0], ONES[0, 0], STATE), ValueError, r"one shape \[B, T, ...\]; got a \[4\]"),
        ((ONES[:, :0], ONES[:, :0], STATE), ValueError, r"b must hold at least one time step; got shape \[2, 0, 4\]"),
        ((ONES, ONES, STATE[:1]), ValueError, r"h0 must be \[2, 4\] to fit b; got \[1, 4\]"),
        ((ONES, ONES, STATE[:, :3]), ValueError, r"h0 must be \[2, 4\] to fit b; got \[2, 3\]"),
        ((ONES, ONES, torch.ones(4)), ValueError, r"h0 must be \[2, 4\]"),  # would broadcast
        ((0 * ONES, ONES, STATE, "logspace"), ValueError, "a must be above 0 for backend logspace.*0.0"),
        ((ONES, -ONES, STATE, "logspace"), ValueError, "b must be at least 0 for backend logspace.*-1.0"),
        ((ONES, ONES, -STATE, "logspace"), ValueError, "h0 must be at least 0 for backend logspace.*-1.0"),
        ((*(x.cfloat() for x in (ONES, ONES, STATE)), "logspace"), TypeError, "must be real.*complex64"),
    ],
)
def test_linear_scan_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        linear_scan(*arguments)


GATES = torch.ones(2, 3, 6, 4, 4)
FRAME = torch.ones(2, 2, 4, 4)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((GATES, FRAME, "rnn"), ValueError, "gating must be one of gru, lstm, explstm; got 'rnn'"),
        ((GATES, FRAME, "lstm", "fast"), ValueError, "backend must be one of"),
        ((GATES[:, 0], FRAME, "lstm"), ValueError, r"gates must be \[B, T, 3C, H, W\].*\[2, 6, 4, 4\]"),
        ((GATES[:, :, :5], FRAME, "lstm"), ValueError, r"gates must be \[B, T, 3C, H, W\] for gating lstm"),
        ((GATES[:, :, :5], FRAME, "gru"), ValueError, r"gates must be \[B, T, 2C, H, W\] for gating gru"),
        ((GATES[:, :0], FRAME, "lstm"), ValueError, "gates must hold at least one time step"),
        ((GATES, FRAME, "gru"), ValueError, r"h0 must be \[2, 3, 4, 4\] to fit gates; got \[2, 2, 4, 4\]"),
        ((GATES, FRAME[..., :3], "lstm"), ValueError, r"h0 must be \[2, 2, 4, 4\]"),
        ((GATES, FRAME.double(), "lstm"), TypeError, "one dtype; got gates torch.float32, h0 torch.float64"),
        ((GATES, None, "lstm"), TypeError, "h0 must be a tensor; got NoneType"),
        ((GATES, -FRAME, "lstm", "logspace"), ValueError, "h0 must be at least 0 for backend logspace.*-1.0"),
        ((GATES.cfloat(), FRAME.cfloat(), "lstm"), TypeError, "gates and h0 must be real; got torch.complex64"),
    ],
)
def test_gated_scan_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        gated_scan(*arguments)
