"""Hostile and odd input: for any shape, strides, dtype and values a right answer, or a refusal that names the argument.

What is right where not all is finite:

    scans        from the first NaN on, a lane is NaN, and from the first inf among a, b, h0 on it is not finite; an
                 infinite gate may give the limit (a sigmoid of 0 or 1); other lanes do not notice
    cells        a NaN makes its pixel NaN from its frame on; inf may saturate a gate; other sequences and earlier
                 frames do not notice
    forecaster   the whole frame that follows a NaN or inf is NaN: the norm is over all pixels; after a NaN all others,
                 too; squares beyond the dtype (frames of 1e19 and more in float32) make it NaN as well
    scores       NaN where a NaN has gone in, at its lead time only
"""

from copy import deepcopy
from math import inf, nan

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import adds_one, loop, padded, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from minconv import Forecaster
from minconv.core.cells import CELLS, MinimalCell
from minconv.core.gates import coefficients, g, log_coefficients
from minconv.core.layers import PADDINGS, PaddedConv2d
from minconv.core.scan import GATINGS, gated_scan, linear_scan, usable
from minconv.data.windows import Windows, fixed_windows, pieces
from minconv.evaluation import Climatology, DampedPersistence, forecast, weather
from minconv.evaluation.forecast import DIMS, verification

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental"),
]

BACKENDS = usable("cpu")
REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "transposed", "wide", "offset", "negated", "expanded")
KINDS = ("normal", "signed zeros", "denormal", "huge", "nan", "inf", "all")


def quickly(examples: int):
    """Settings of a property test: the same examples in every run."""
    return settings(deadline=None, max_examples=examples, derandomize=True, database=None)


def try_scans(check, backend: str, examples: int) -> None:
    """``check(backend, data)`` for drawn data; a few only for Triton, whose interpreter takes its time."""

    @given(st.data())
    @quickly(3 if backend == "triton" else examples)
    def test(data):
        with np.errstate(all="ignore"):  # NumPy's warnings in that interpreter
            check(backend, data)

    test()


def specials(kind: str, dtype: torch.dtype) -> list[float]:
    """The odd values of a kind; huge ones have room for one rounding, where 1e30 is beyond the dtype."""
    limits = torch.finfo(dtype)
    huge = min(1e30, limits.max / 4)
    values = {
        "signed zeros": [0.0, -0.0],
        "denormal": [limits.smallest_normal / 8, -limits.smallest_normal / 4],
        "huge": [huge, -huge],
        "nan": [nan],
        "inf": [inf, -inf],
    }
    return [one for some in values.values() for one in some] if kind == "all" else values.get(kind, [])


def sprinkled(shape, dtype: torch.dtype, kind: str, seed: int) -> torch.Tensor:
    """Normal numbers, about one in six of them an odd value instead."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tuple(shape), generator=draw, dtype=torch.float64).to(dtype)
    odd = specials(kind, dtype)
    if odd:
        which = torch.randint(6 * len(odd), x.shape, generator=draw)
        for number, value in enumerate(odd):
            x[which == number] = value
    return x


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """``x`` with other strides and NaN between its elements; ``expanded`` repeats its first entry along the batch."""
    nan = torch.nan if x.is_floating_point() else 7
    match layout:
        case "channels_last" if x.dim() > 2:
            return x.movedim(2, -1).contiguous().movedim(-1, 2)
        case "transposed":
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        case "wide":
            return torch.stack([x, torch.full_like(x, nan)], -1).flatten(-2)[..., ::2]
        case "offset":
            return torch.cat([x.new_full((3,), nan), x.flatten()])[3:].view(x.shape)
        case "negated" if x.dtype in (torch.float32, torch.float64):
            return torch.complex(torch.full_like(x, nan), -x).conj().imag
        case "expanded" if len(x):
            return x[:1].expand(x.shape)
    return x


def running(x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Whether anything was true until now: flags [B, T, ...] and before them [B, ...]."""
    return torch.cat([first.unsqueeze(1), x], 1).cummax(1).values[:, 1:]


# --- scans ----------------------------------------------------------------------------------------


def draw_length(backend: str, data) -> int:
    return data.draw(
        st.integers(1, 3) if backend == "triton" else st.one_of(st.integers(1, 9), st.sampled_from([33, 70]))
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_scan(backend):
    try_scans(check_linear_scan, backend, 30)


def check_linear_scan(backend, data):
    """Within the rounding of T multiply-adds of the loop in float64, as long as that stays within the dtype."""
    dtype, kind = data.draw(st.sampled_from(REAL)), data.draw(st.sampled_from(KINDS))
    steps, batch = draw_length(backend, data), data.draw(st.integers(0, 3))
    tail = data.draw(st.lists(st.integers(0, 4), max_size=3))
    inputs = []
    for seed, shape in enumerate([(batch, steps, *tail), (batch, steps, *tail), (batch, *tail)]):
        x = sprinkled(shape, dtype, kind, data.draw(st.integers(0, 99)) + 100 * seed)
        if backend == "logspace":
            x = x.abs().nan_to_num(nan=1.0, posinf=inf) + (seed == 0) * torch.finfo(dtype).smallest_normal
        inputs.append(laid_out(x, data.draw(st.sampled_from(LAYOUTS))))
    found = linear_scan(*inputs, backend)
    assert found.shape == inputs[1].shape and found.dtype == dtype

    a, b, h0 = (x.double() for x in inputs)
    exact, size = loop(a, b, h0), loop(a.abs(), b.abs(), h0.abs())
    limits = torch.finfo(dtype)
    rounding = (2 * steps + 6) * limits.eps * torch.ones_like(size)
    if backend == "logspace":
        logs = a.log().cumsum(1).abs() + torch.where(b > 0, b, 1).log().abs()
        rounding = torch.expm1(
            8 * rounding * (1 + logs.cummax(1).values + torch.where(h0 > 0, h0, 1).log().abs()[:, None])
        )
    least = loop(a.abs(), torch.full_like(b, limits.smallest_normal), torch.full_like(h0, limits.smallest_normal))

    lost = running(~(a.isfinite() & b.isfinite()), ~h0.isfinite())
    assert not found[lost].isfinite().any()
    if backend != "logspace":
        assert found[running(a.isnan() | b.isnan(), h0.isnan())].isnan().all()
    sure = ~running((size > limits.max / 4) | (rounding > 0.5), torch.zeros_like(h0, dtype=torch.bool)) & ~lost
    assert ((found.double() - exact).abs() <= rounding * size + least)[sure].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gated_scan(backend):
    try_scans(check_gated_scan, backend, 30)


def check_gated_scan(backend, data):
    """States are weighted means: within rounding of the largest value that was written, whatever the gates."""
    dtype, kind = data.draw(st.sampled_from(REAL)), data.draw(st.sampled_from(KINDS))
    gating, steps = data.draw(st.sampled_from(sorted(GATINGS))), draw_length(backend, data)
    batch, channels, *frame = (data.draw(st.integers(0, 3)) for _ in range(4))
    blocks = GATINGS[gating].blocks
    gates = sprinkled((batch, steps, blocks * channels, *frame), dtype, kind, data.draw(st.integers(0, 99)))
    h0 = sprinkled((batch, channels, *frame), dtype, kind, data.draw(st.integers(100, 199)))
    h0 = h0.abs() if backend == "logspace" else h0
    gates, h0 = (laid_out(x, data.draw(st.sampled_from(LAYOUTS))) for x in (gates, h0))
    found = gated_scan(gates, h0, gating, backend)
    assert found.shape == (batch, steps, channels, *frame) and found.dtype == dtype

    exact = loop(*coefficients(gates.double(), gating), h0.double())
    parts = gates.double().unflatten(2, (blocks, channels))
    size = torch.cat([h0.double().abs().unsqueeze(1), g(parts[:, :, -1]).abs()], 1).cummax(1).values[:, 1:]
    limits = torch.finfo(dtype)
    rounding = 16 * (steps + 4) * limits.eps * torch.ones_like(size)
    if backend == "logspace":  # as published: the logarithms lose what they add up
        logs = sum(x.abs() for x in log_coefficients(gates.double(), gating)).cumsum(1)
        rounding = torch.expm1(rounding * (1 + logs + torch.where(h0 > 0, h0.double(), 1).log().abs()[:, None]))

    missing = running(parts.isnan().any(2), h0.isnan())
    assert found[missing].isnan().all()
    odd = running(~parts.isfinite().all(2), ~h0.isfinite())
    assert not found[~exact.isfinite()].isfinite().any()
    sure = ~running(~(rounding <= 0.5), torch.zeros_like(h0, dtype=torch.bool)) & exact.isfinite()
    sure &= ~odd | found.isfinite()
    assert ((found.double() - exact).abs() <= rounding * size + limits.smallest_normal)[sure].all()


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "logspace"])
def test_gradients_of_scans_in_any_strides(backend):
    try_scans(check_gradients, backend, 15)


def check_gradients(backend, data):
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    gating = data.draw(st.sampled_from(["linear", *sorted(GATINGS)]))
    steps, batch, channels, *frame = (data.draw(st.integers(1, 4)) for _ in range(5))
    shapes = [(batch, steps, channels, *frame)] * 2 + [(batch, channels, *frame)]
    if gating != "linear":
        shapes[:2] = [(batch, steps, GATINGS[gating].blocks * channels, *frame)]
    *inputs, cotangent = (
        laid_out(sprinkled(shape, dtype, "normal", seed), data.draw(st.sampled_from(LAYOUTS)))
        for seed, shape in enumerate([*shapes, (batch, steps, channels, *frame)])
    )

    def gradients(backend: str, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        h = linear_scan(*leaves, backend) if gating == "linear" else gated_scan(*leaves, gating, backend)
        return torch.autograd.grad(h, leaves, cotangent.to(h.dtype))

    found = gradients(backend, *inputs)
    exact = gradients("reference", *(x.double().contiguous() for x in inputs))
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == dtype and one.shape == other.shape
        assert ((one.double() - other).abs() <= 500 * torch.finfo(dtype).eps * other.abs().max()).all()


ODD = (None, 1.5, "x", [1.0], np.ones((1, 2, 3)))
DTYPES = (
    *REAL, torch.complex64, torch.complex128,
    torch.complex32, torch.float8_e4m3fn, torch.int64, torch.uint8, torch.bool,
)  # fmt: skip
shapes = st.lists(st.integers(0, 3), max_size=6).map(tuple)


def anything(shape, dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(shape).to(dtype)


def broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    try:
        return torch.broadcast_shapes(small, large) == large
    except RuntimeError:
        return False


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_linear_scan_takes_what_fits_and_refuses_the_rest(backend):
    try_scans(check_arguments, backend, 50)


def check_arguments(backend, data):
    shape, dtype = data.draw(shapes), data.draw(st.sampled_from(DTYPES))
    expected = {"a": shape, "b": shape, "h0": (*shape[:1], *shape[2:])}
    arguments = {name: anything(size, dtype) for name, size in expected.items()}
    for name in data.draw(st.sets(st.sampled_from(["a", "b", "h0"]), max_size=1)):
        new = st.one_of(st.sampled_from(ODD), st.builds(anything, shapes, st.sampled_from(DTYPES)))
        arguments[name] = data.draw(new)
    real = backend in ("cpu", "logspace", "triton")
    a = arguments["a"]
    if isinstance(a, torch.Tensor) and a.shape != shape and backend in ("auto", "reference", "linear", "cpu"):
        steady = a.is_complex() and ((1,) * (len(shape) - a.dim()) + a.shape)[1:2] == (1,)
        if broadcasts(a.shape, shape) and (backend != "cpu" or steady):
            expected["a"], real = a.shape, False
    fits = all(
        isinstance(x, torch.Tensor) and x.shape == expected[name] and x.dtype == dtype for name, x in arguments.items()
    )
    fits &= dtype in DTYPES[: 4 if real else 6] and len(shape) >= 2 and shape[1] > 0
    if fits:
        assert linear_scan(*arguments.values(), backend).shape == shape
        return
    with pytest.raises((TypeError, ValueError), match=r"\b(a|b|h0)\b"):
        linear_scan(*arguments.values(), backend)


@given(st.data())
@quickly(100)
def test_gated_scan_takes_what_fits_and_refuses_the_rest(data):
    shape, dtype = data.draw(shapes), data.draw(st.sampled_from(DTYPES))
    gating = data.draw(st.sampled_from([*GATINGS, "rnn", None]))
    blocks = GATINGS[gating].blocks if gating in GATINGS else 2
    size = (*shape[:1], *(channels // blocks for channels in shape[2:3]), *shape[3:])
    gates, h0 = anything(shape, dtype), anything(size, dtype)
    if data.draw(st.booleans()):
        h0 = data.draw(st.one_of(st.sampled_from(ODD), st.builds(anything, shapes, st.sampled_from(DTYPES))))
    fits = isinstance(h0, torch.Tensor) and h0.shape == size and h0.dtype == dtype and dtype in REAL
    fits &= gating in GATINGS and len(shape) == 5 and shape[1] > 0 and shape[2] % blocks == 0
    if fits:
        assert gated_scan(gates, h0, gating).shape == (*shape[:2], shape[2] // blocks, *shape[3:])
        return
    with pytest.raises((TypeError, ValueError), match=r"\b(gates|h0|gating)\b"):
        gated_scan(gates, h0, gating)


def test_tensors_that_are_not_dense_are_refused():
    dense, state = torch.eye(3)[None], torch.ones(1, 3)
    with pytest.raises(TypeError, match="a must be dense"):
        linear_scan(dense.to_sparse(), dense, state)


# --- layers, cells, forecaster --------------------------------------------------------------------


def fits_padding(padding: str, width: int, height: int, columns: int) -> bool:
    """Whether frames of height x columns can be padded by ``width``."""
    rows, sides = PADDINGS[padding]
    if not (height and columns) or (rows == "pole" and width and columns % 2):
        return False
    return (rows not in ("wrap", "pole") or width <= height) and (sides != "wrap" or width <= columns)


@pytest.mark.parametrize("padding", PADDINGS)
@given(st.data())
@quickly(20)
def test_padded_convolution(padding, data):
    """Within rounding of the sum as written; what is not finite shows in the pixels that see it, and in no other."""
    dtype, kind = data.draw(st.sampled_from([torch.float64, torch.float32])), data.draw(st.sampled_from(KINDS))
    kernel = data.draw(st.sampled_from([1, 3, 5]))
    batch, height, columns = (data.draw(st.integers(0, top)) for top in (2, 5, 6))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    layer = PaddedConv2d(2, 3, kernel, padding).to(dtype)
    x = sprinkled((batch, 2, height, columns), dtype, kind, data.draw(st.integers(0, 99)))
    x = laid_out(x.unsqueeze(1), data.draw(st.sampled_from(LAYOUTS))).squeeze(1)
    if not fits_padding(padding, kernel // 2, height, columns):
        with pytest.raises(ValueError, match=r"(x|frames) must be|the width of frames must be even"):
            layer(x)
        return
    with torch.no_grad():
        found, weight = layer(x), layer.weight.double()
        wide = padded(x.double(), padding, (kernel // 2,) * 2)
        good = wide.nan_to_num(0, 0, 0)
        exact = F.conv2d(good, weight, layer.bias.double())
        size = F.conv2d(good.abs(), weight.abs(), layer.bias.double().abs())
        seen = F.conv2d((~wide.isfinite()).double(), torch.ones_like(weight)) > 0.5
    assert found.shape == (batch, 3, height, columns) and found.dtype == dtype
    assert not found[seen].isfinite().any()
    limits = torch.finfo(dtype)
    assert ((found.double() - exact).abs() <= 100 * (limits.eps * size + limits.smallest_normal))[~seen].all()


@given(st.data())
@quickly(40)
def test_padded_convolution_refuses_what_does_not_fit(data):
    shape, dtype = data.draw(shapes), data.draw(st.sampled_from(DTYPES))
    x = data.draw(st.one_of(st.just(anything(shape, dtype)), st.sampled_from(ODD)))
    layer = PaddedConv2d(2, 3, 3, data.draw(st.sampled_from(list(PADDINGS))))
    fits = isinstance(x, torch.Tensor) and dtype == torch.float32 and len(shape) == 4 and shape[1] == 2
    if fits and fits_padding(layer.padding, 1, *shape[2:]):
        assert layer(x).shape == (shape[0], 3, *shape[2:])
        return
    with pytest.raises((TypeError, ValueError), match=r"\b(x|frames)\b"):
        layer(x)


@pytest.mark.parametrize("name", CELLS)
@given(st.data())
@quickly(15)
def test_cells(name, data):
    """Any sizes, down to 1 x 1 and no sequence at all: what a loop over frames gives in float64."""
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    padding, kernel = data.draw(st.sampled_from(list(PADDINGS))), data.draw(st.sampled_from([1, 3, 5]))
    batch, steps, height, columns = (
        data.draw(st.integers(least, top)) for least, top in ((0, 2), (1, 3), (0, 5), (0, 5))
    )
    kind = data.draw(st.sampled_from(["normal", "signed zeros", "denormal"]))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    cell = CELLS[name](2, 3, kernel, padding).to(dtype)
    x = sprinkled((batch, steps, 2, height, columns), dtype, kind, data.draw(st.integers(0, 99)))
    x = laid_out(x, data.draw(st.sampled_from(LAYOUTS))).detach().requires_grad_()
    if not fits_padding(padding, kernel // 2, height, columns):
        with pytest.raises(ValueError, match=r"(x|frames) must be|the width of frames must be even"):
            cell(x)
        return
    y, state = cell(x)
    assert y.shape == (batch, steps, 3, height, columns) and y.dtype == dtype
    assert all(part.shape == (batch, 3, height, columns) for part in parts(state))
    exact, after = deepcopy(cell).double(), None
    if isinstance(exact, MinimalCell):
        exact.backend = "reference"
    for t in range(steps):
        frame, after = exact(x[:, t : t + 1].double(), after)
        torch.testing.assert_close(
            y[:, t : t + 1].double(), frame, rtol=0, atol=1e5 * torch.finfo(dtype).eps ** 1.5 + 1e-12
        )
    gradients = torch.autograd.grad(y.sum(), (x, *cell.parameters()))
    assert gradients[0].shape == x.shape and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e30, -1e30])
@pytest.mark.parametrize("name", CELLS)
@given(st.data())
@quickly(8)
def test_cells_show_what_is_missing_where_it_is(name, value, data):
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    padding = data.draw(st.sampled_from(list(PADDINGS)))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    cell, size = CELLS[name](2, 3, 3, padding).to(dtype), (3, 4, 2, 3, 4)
    place = b, t, _, i, j = tuple(data.draw(st.integers(0, top - 1)) for top in size)
    good = sprinkled(size, dtype, "normal", 1)
    bad = good.clone()
    bad[place] = value
    layout = data.draw(st.sampled_from(LAYOUTS[:-1]))
    with torch.no_grad():
        expected, (found, after) = cell(laid_out(good, layout))[0], cell(laid_out(bad, layout))
    others = torch.ones(size[:2], dtype=torch.bool)
    others[b, t:] = False
    assert torch.equal(found[others], expected[others])
    if value != value:
        assert found[b, t:, :, i, j].isnan().all() and all(part[b, :, i, j].isnan().all() for part in parts(after))
    elif abs(value) < inf:
        assert found.isfinite().all()


CELL_OPTIONS = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(list(CELLS)),
        "padding": st.sampled_from(list(PADDINGS)),
        "hidden": st.integers(1, 4),
        "layers": st.integers(1, 2),
        "increment": st.booleans(),
        "checkpoint": st.booleans(),
    }
)


@given(CELL_OPTIONS, st.data())
@quickly(30)
def test_forecaster(options, data):
    """Any size from 1 x 1, any batch from none: the shape, and float64's numbers to the digits of float32."""
    size = tuple(data.draw(st.integers(1, 5)) for _ in range(2))
    channels, batch, steps, horizon = (data.draw(st.integers(*of)) for of in ((1, 2), (0, 2), (1, 3), (0, 2)))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    model = Forecaster(channels=channels, size=size, **options)
    frames = sprinkled((batch, steps, channels, *size), torch.float32, "normal", data.draw(st.integers(0, 99)))
    frames = laid_out(frames, data.draw(st.sampled_from(LAYOUTS)))
    if not fits_padding(options["padding"], 1, *size):
        with pytest.raises(ValueError, match=r"frames must be|the width of frames must be even"):
            model(frames, horizon)
        return
    found = model(frames, horizon)
    assert found.shape == (batch, steps + horizon, channels, *size) and found.isfinite().all()
    exact = deepcopy(model).double()(frames.double(), horizon)
    torch.testing.assert_close(found[:, :1].double(), exact[:, :1], rtol=0, atol=1e-3)
    gradients = torch.autograd.grad(found.sum(), tuple(model.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("value", [nan, inf, -inf])
@given(CELL_OPTIONS, st.data())
@quickly(12)
def test_forecaster_loses_all_pixels_of_a_sequence_to_one_that_is_not_finite(value, options, data):
    size = (2, 4) if data.draw(st.booleans()) else (1, 2)
    torch.manual_seed(data.draw(st.integers(0, 9)))
    model = Forecaster(size=size, **options).eval()
    good = sprinkled((3, 4, 1, *size), torch.float32, "normal", data.draw(st.integers(0, 99)))
    place = b, t, *_ = tuple(data.draw(st.integers(0, top - 1)) for top in good.shape)
    bad = good.clone()
    bad[place] = value
    with torch.no_grad():
        expected, found = model(good, 2), model(bad, 2)
    others = torch.ones(found.shape[:2], dtype=torch.bool)
    others[b, t:] = False
    assert torch.equal(found[others], expected[others])
    assert found[b, t].isnan().all()
    assert found[b, t:].isnan().all() or abs(value) == inf  # an infinite gate is a limit, from which a state goes on


@pytest.mark.parametrize("scale", [1e-40, 1e15, 1e25, 1e30])
@given(CELL_OPTIONS, st.data())
@quickly(8)
def test_forecaster_of_huge_and_denormal_frames(scale, options, data):
    """The norm takes the scale away, where squares are beyond float32, too: float64's numbers, or NaN; never others."""
    torch.manual_seed(data.draw(st.integers(0, 9)))
    model = Forecaster(size=(4, 4), **options | {"increment": False}).eval()
    frames = scale * sprinkled((2, 3, 1, 4, 4), torch.float32, "normal", data.draw(st.integers(0, 99)))
    with torch.no_grad():
        found, exact = model(frames), deepcopy(model).double()(frames.double())
    assert exact.isfinite().all()
    near = (found.double() - exact).abs() <= 1e-2 * exact.abs().amax()
    assert (near | found.isnan()).all()


@given(CELL_OPTIONS, st.data())
@quickly(40)
def test_forecaster_refuses_what_does_not_fit(options, data):
    model = Forecaster(size=(2, 2), **options)
    shape = data.draw(st.one_of(shapes, st.tuples(*[st.integers(0, 2)] * 2, *map(st.just, (1, 2, 2)))))
    dtype = data.draw(st.sampled_from(DTYPES))
    frames = data.draw(st.one_of(st.just(anything(shape, dtype)), st.sampled_from(ODD)))
    horizon = data.draw(st.sampled_from([0, 1, 1, -1, 1.5, True, None, "1"]))
    fits = isinstance(frames, torch.Tensor) and dtype == torch.float32 and type(horizon) is int and horizon >= 0
    if fits and len(shape) == 5 and shape[1] > 0 and shape[2:] == (1, 2, 2):
        assert model(frames, horizon).shape == (shape[0], shape[1] + horizon, 1, 2, 2)
        return
    with pytest.raises((TypeError, ValueError), match=r"\b(frames|horizon)\b"):
        model(frames, horizon)


# --- windows --------------------------------------------------------------------------------------


@given(st.data())
@quickly(50)
def test_windows(data):
    """Stretches of the trajectories to the bit, NaN and all, whatever their strides; or a refusal."""
    dtype = data.draw(st.sampled_from([*REAL, torch.int64]))
    shape = tuple(data.draw(st.integers(0, top)) for top in (4, 6, 2, 2, 2))
    x = sprinkled(shape, torch.float64, "all", data.draw(st.integers(0, 99))).nan_to_num(0).to(dtype)
    if dtype != torch.int64 and x.numel():
        x.view(-1)[0] = nan
    x = laid_out(x, data.draw(st.sampled_from(LAYOUTS)))
    length = data.draw(st.sampled_from([1, 2, 5, 0, -1, 1.0, None]))
    batch = data.draw(st.sampled_from([1, 2, 0, -1, True, 2.0]))
    noise = data.draw(st.sampled_from([0, 0.0, 1e-3, -1.0, nan, inf, "1", None]))
    seeds = data.draw(st.sampled_from([[0], (3, 4), [], [-1], [1.5], None, 7]))
    fits = dtype in REAL and 0 not in shape and type(length) is int and 0 < length < shape[1]
    fits &= type(batch) is int and 0 < batch <= shape[0] and noise in (0, 1e-3) and seeds in ([0], (3, 4))
    if not fits:
        with pytest.raises((TypeError, ValueError), match=r"\b(trajectories|length|batch|noise|seeds)\b"):
            Windows(x, length, batch, noise, seeds)
        return
    windows = Windows(x, length, batch, noise, seeds)
    windows.start_epoch(0)
    for step in range(windows.steps):
        inputs, targets = windows.cut(step)
        assert inputs.shape == targets.shape == (len(seeds), batch, length, *shape[2:]) and inputs.dtype == dtype
        if noise == 0:
            assert torch.equal(inputs[:, :, 1:].nan_to_num(9), targets[:, :, :-1].nan_to_num(9))
        for row, order, offset in zip(targets, windows.order, windows.offset, strict=True):
            chosen = order[step * batch : (step + 1) * batch].tolist()
            for window, sample in zip(row, chosen, strict=True):
                start = int(offset[chosen.index(sample) + step * batch]) + 1
                assert torch.equal(window.nan_to_num(9), x[sample, start : start + length].nan_to_num(9))


def test_steps_that_an_epoch_does_not_have():
    windows = Windows(torch.zeros(5, 3, 1, 1, 1), 2, 2, 0.0, [0])
    with pytest.raises(ValueError, match="start_epoch"):
        windows.cut(0)
    windows.start_epoch(0)
    for step in (1, 2, -1, 7):
        with pytest.raises(ValueError, match=r"step must be the next of 2 .*|step must be at least 0"):
            windows.cut(step)
    for epoch in (-1, 0.5):
        with pytest.raises((TypeError, ValueError), match="epoch must be"):
            windows.start_epoch(epoch)


@given(st.data())
@quickly(50)
def test_pieces_and_fixed_windows(data):
    shape = tuple(data.draw(st.integers(0, top)) for top in (12, 2, 2, 2))
    series = laid_out(sprinkled(shape, torch.float32, "all", 1).nan_to_num(9), data.draw(st.sampled_from(LAYOUTS)))
    length = data.draw(st.sampled_from([1, 2, 3, 6, 0, -1, 2.0, None, True]))
    good = type(length) is int and length > 0
    if good and shape[0] >= 2 * length:
        found = pieces(series, length)
        assert found.shape == (shape[0] // length - 1, 2 * length, *shape[1:])
        for number, piece in enumerate(found):
            assert torch.equal(piece, series[number * length : (number + 2) * length])
    else:
        with pytest.raises((TypeError, ValueError), match=r"\b(series|length)\b"):
            pieces(series, length)
    if good and 0 not in shape and length <= shape[0]:
        (found,) = fixed_windows(series[None], length)
        assert torch.equal(found, series[:length])
    else:
        with pytest.raises((TypeError, ValueError), match=r"\b(trajectories|length)\b"):
            fixed_windows(series[None], length)


# --- weather --------------------------------------------------------------------------------------


def grid(height: int, columns: int) -> dict[str, np.ndarray]:
    return {"lat": np.linspace(-60, 60, height) if height > 1 else np.array([10.0]), "lon": 20.0 * np.arange(columns)}


def as_series(values: np.ndarray, hours: int = 6, start: str = "2001-01-01") -> xr.DataArray:
    times = np.datetime64(start, "ns") + hours * np.arange(len(values)) * np.timedelta64(1, "h")
    return xr.DataArray(values, {"time": times, **grid(*values.shape[1:])}, ("time", "lat", "lon"), "z", {"units": "K"})


@given(st.data())
@quickly(40)
def test_forecasts(data):
    """From any numbers in any memory layout on any grid from 1 x 1; what is not finite or no number is refused."""
    shape = tuple(data.draw(st.integers(least, 4)) for least in (1, 1, 1))
    kind = data.draw(st.sampled_from(["f4", "f8", ">f4", ">f8", "i4", "u1", "?", "c8", "O", "U3"]))
    odd = data.draw(st.sampled_from(KINDS))
    layout = data.draw(st.sampled_from(["plain", "transposed", "reversed", "broadcast"]))
    values = sprinkled(shape, torch.float32, odd, data.draw(st.integers(0, 99))).numpy()
    floats = np.dtype(kind).kind == "f"
    values = values if floats else np.nan_to_num(values, nan=1, posinf=1, neginf=1).clip(0, 99)
    values = values.astype(kind)
    match layout:
        case "transposed":
            values = np.asfortranarray(values)
        case "reversed":
            values = values[::-1, :, ::-1]
        case "broadcast":
            values = np.broadcast_to(values[:1], shape)
    steps = data.draw(st.integers(1, 3))
    if not floats or shape[0] < 2 or not np.isfinite(values).all():
        with pytest.raises((TypeError, ValueError), match="series must"):
            forecast(adds_one, as_series(values), steps)
        return
    found = forecast(adds_one, as_series(values), steps)
    assert found.dims == DIMS and found.shape == (1, steps, *shape[1:])
    for lead in range(steps):
        np.testing.assert_allclose(found.values[0, lead], values[-1] + np.float32(lead + 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda series: series.assign_coords(time=np.arange(4)),
        lambda series: series.assign_coords(time=np.arange(4) / 7),
        lambda series: series.assign_coords(time=list("abcd")),
        lambda series: series.assign_coords(time=np.arange(4).astype("timedelta64[h]").astype("timedelta64[ns]")),
        lambda series: series.assign_coords(time=[np.datetime64("NaT", "ns")] * 4),
        lambda series: series.assign_coords(time=series.time[[0, 1, 1, 2]].values),
        lambda series: series.drop_vars("lat"),
        lambda series: series.drop_vars(["lat", "lon"]),
        lambda series: series.drop_vars("time"),
        lambda series: series.to_dataset()[[]],
        lambda series: series.transpose("lat", "lon", "time"),
        lambda series: series.expand_dims("member"),
        lambda series: series.values,
        lambda series: None,
    ],
)  # fmt: skip
def test_what_is_no_series_is_refused(spoil):
    wrong = spoil(as_series(np.zeros((4, 2, 3), np.float32)))
    with pytest.raises((TypeError, ValueError), match="series must"):
        forecast(adds_one, wrong, 1)
    with pytest.raises((TypeError, ValueError), match="series must"):
        Climatology(wrong, annual=0)


@pytest.fixture(scope="module")
def case() -> tuple[xr.DataArray, xr.DataArray, Climatology]:
    """A forecast of 4 starts and 3 leads, what came true, and a climatology."""
    rng = np.random.default_rng(3)
    whole = as_series(rng.normal(size=(40, 3, 4)).astype(np.float32), hours=24)
    starts = whole.time[[3, 9, 20, 30]]
    truth = verification(whole, starts, 3)
    predicted = truth + rng.normal(size=truth.shape).astype(np.float32)
    return predicted.astype(np.float32), truth, Climatology(whole, annual=0)


@given(st.data())
@quickly(30)
def test_scores_lose_no_value(case, data):
    """A NaN in the forecast or the truth is one at its lead, and its row; other leads and rows have their numbers."""
    fields, climatology = [field.copy() for field in case[:2]], case[2]
    which, value = data.draw(st.integers(0, 1)), data.draw(st.sampled_from([nan, inf, -inf, 1e30, 1e-40]))
    place = _, lead, row, _ = tuple(data.draw(st.integers(0, size - 1)) for size in fields[0].shape)
    fields[which].values[place] = value
    expected, found = weather.scores(*case), weather.scores(*fields, climatology)
    others = np.arange(3) != lead
    for name in ("rmse", "bias", "acc", "zonal_rmse"):
        np.testing.assert_array_equal(found[name][others], expected[name][others])
    rows = np.arange(3) != row
    np.testing.assert_array_equal(found.zonal_rmse[lead, rows], expected.zonal_rmse[lead, rows])
    if np.isfinite(value):
        error = (fields[0] - fields[1]).astype(np.float64)
        np.testing.assert_allclose(found.zonal_rmse, np.sqrt((error**2).mean(("init_time", "lon"))), rtol=1e-9)
        assert (abs(found.acc) <= 1 + 1e-9).all() and np.isfinite(found.bias).all()
    else:
        for name in ("rmse", "bias", "acc"):
            assert not np.isfinite(found[name][lead]), name
        assert not np.isfinite(found.zonal_rmse[lead, row])
        south, north = abs(found.lat.values[row]) - 1, abs(found.lat.values[row]) + 1
        band = weather.band_rmse(found, south, north)
        assert np.isfinite(band.values).tolist() == others.tolist()
        elsewhere = weather.band_rmse(found, 50, 90) if row == 1 else weather.band_rmse(found, 0, 1)
        assert np.isfinite(elsewhere.values).all()


@given(st.data())
@quickly(10)
def test_scores_on_any_grid(data):
    starts, leads, height, columns = (data.draw(st.integers(1, 3)) for _ in range(4))
    whole = as_series(np.random.default_rng(1).normal(size=(20, height, columns)).astype(np.float32), hours=24)
    truth = verification(whole, whole.time[[3, 5, 9][:starts]], leads)
    climatology = Climatology(whole, annual=0)
    if height == 1:  # a row alone has no area
        with pytest.raises(ValueError, match="lat must be two latitudes or more"):
            weather.scores(truth + 1, truth, climatology)
        return
    found = weather.scores(truth + 1, truth, climatology)
    assert found.rmse.shape == (leads,) and found.zonal_rmse.shape == (leads, height)
    np.testing.assert_allclose(found.rmse, 1, rtol=1e-6)
    np.testing.assert_allclose(found.bias, 1, rtol=1e-6)


def test_a_climatology_of_another_grid_is_refused(case):
    predicted, truth, _ = case
    other = as_series(np.ones((20, 3, 4), np.float32), hours=24)
    for wrong in (other.assign_coords(lon=other.lon + 1), other[:, :2], other[:, :, :1]):
        climatology = Climatology(wrong, annual=0)
        with pytest.raises(ValueError, match="climatology must be"):
            weather.scores(predicted, truth, climatology)
        with pytest.raises(ValueError, match="climatology must be"):
            forecast(climatology, other, 1)
        with pytest.raises(ValueError, match="climatology must be"):
            DampedPersistence(other, climatology, 2)


@pytest.mark.parametrize("days", [365, 180, 73])
def test_a_climatology_needs_as_many_dates_as_it_has_waves(days):
    """Two years of a few dates: what five unknowns cannot be told from is refused, not made up."""
    few = as_series(np.random.default_rng(2).normal(size=(1 + 730 // days, 2, 3)).astype(np.float32), hours=24 * days)
    if days == 73:
        assert np.isfinite(Climatology(few, annual=1).at(few.time)).all()
    else:
        with pytest.raises(ValueError, match="series must"):
            Climatology(few, annual=2)
