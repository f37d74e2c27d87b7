"""Every cell: a sequence in one pass = one frame at a time = two halves, in outputs and gradients."""

import pytest
import torch
from helpers import assert_all_near, of_cell, parts, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from minconv import ConvGRU, ConvLSTM, MinConvExpLSTM, MinConvGRU, MinConvLSTM
from minconv.core.cells import CELLS, Cell, MinimalCell, cell_class
from minconv.core.gates import g
from minconv.core.layers import PADDINGS
from minconv.core.scan import usable

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
MINIMAL = [name for name, kind in CELLS.items() if issubclass(kind, MinimalCell)]


@pytest.fixture(params=CELLS)
def name(request) -> str:
    return request.param


def make(name: str, dtype: torch.dtype = torch.float64, padding: str = "circular", **options) -> Cell:
    torch.manual_seed(0)
    return CELLS[name](2, 3, padding=padding, **options).to(dtype)


@pytest.mark.parametrize("given_state, steps, dtype", [(False, 5, torch.float64), (True, 4, torch.float32)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_parallel_is_stepped_is_two_halves(name, padding, given_state, steps, dtype):
    cell, x = make(name, dtype, padding), random(2, steps, 2, 4, 6, dtype=dtype)
    with torch.no_grad():
        state = cell(random(2, 3, 2, 4, 6, dtype=dtype, seed=5))[1] if given_state else None
    whole = of_cell(cell, x, state, [])
    for cuts in (list(range(1, steps)), [steps // 2]):
        assert_all_near(of_cell(cell, x, state, cuts), whole, TOLERANCE[dtype])


@pytest.mark.parametrize("name", MINIMAL)
@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[pytest.mark.slow] * (name == "triton")) for name in usable("cpu")]
)
def test_backends_agree(name, backend):
    x = random(2, 5, 2, 4, 4)
    found, expected = (of_cell(cell, x, None, []) for cell in (make(name, backend=backend), make(name)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_missing_state_is_the_initial_one(name):
    cell, x = make(name), random(2, 3, 2, 4, 4)
    state = cell.init_state(x)
    for part in parts(state):
        assert part.shape == (2, 3, 4, 4) and part.dtype == x.dtype and part.device == x.device
        assert (part == (0.5 if name in MINIMAL else 0.0)).all()
    assert torch.equal(cell(x)[0], cell(x, state)[0])


def test_state_is_that_of_the_last_frame(name):
    y, state = make(name)(random(2, 3, 2, 4, 4))
    assert torch.equal(y[:, -1], parts(state)[0])


@pytest.mark.parametrize("steps", [1, 6])
def test_state_is_its_own_memory(name, steps):
    """What is done to the output in place does not change it, and it keeps no frames but its own."""
    cell = make(name)
    with torch.no_grad():
        y, state = cell(random(2, steps, 2, 4, 4))
        kept = [part.clone() for part in parts(state)]
        y.clamp_(max=0.1)
    for part, before in zip(parts(state), kept, strict=True):
        assert torch.equal(part, before) and part.untyped_storage().nbytes() == before.nbytes


def test_sizes_may_change_between_calls(name):
    """Nothing is stored: batch, T and H x W of one call leave no trace in the next."""
    cell = make(name)
    x = random(2, 5, 2, 4, 6)
    expected, _ = cell(x)
    for other in ((3, 5, 2, 4, 6), (2, 1, 2, 4, 6), (1, 7, 2, 3, 5), (2, 2, 2, 1, 1)):
        y, _ = cell(random(*other))
        assert y.shape == (*other[:2], 3, *other[3:])
        assert torch.equal(cell(x)[0], expected)
    assert not list(cell.buffers())


def test_future_frames_do_not_matter(name):
    cell, x = make(name), random(2, 6, 2, 4, 4)
    changed = torch.cat([x[:, :3], random(2, 3, 2, 4, 4, seed=2)], 1)
    one, other = cell(x)[0], cell(changed)[0]
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_batch_entries_do_not_mix(name):
    cell, x = make(name), random(3, 4, 2, 4, 4)
    together = cell(x)[0]
    torch.testing.assert_close(together, torch.cat([cell(one)[0] for one in x.split(1)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
@given(st.integers(-8, 8), st.integers(-8, 8))
@settings(deadline=None, max_examples=3, derandomize=True)
def test_shifts_of_the_torus_commute_with_the_cell(name, down, right):
    cell, x = make(name), random(1, 3, 2, 5, 6)
    y, _ = cell(x)
    shifted, _ = cell(x.roll((down, right), (-2, -1)))
    torch.testing.assert_close(shifted, y.roll((down, right), (-2, -1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", ["cylinder", "sphere"])
def test_shifts_of_the_globe_in_longitude_only(name, padding):
    cell, x = make(name, padding=padding), random(1, 3, 2, 5, 6)
    y, _ = cell(x)
    torch.testing.assert_close(cell(x.roll(2, -1))[0], y.roll(2, -1), rtol=0, atol=1e-12)
    assert not torch.allclose(cell(x.roll(1, -2))[0], y.roll(1, -2))


@pytest.mark.parametrize("name", MINIMAL)
def test_states_of_minimal_cells_stay_between_what_is_written(name):
    """h_t is a weighted mean of h_{t-1} and g(u_t): a large input cannot blow it up, and it stays positive."""
    cell, x = make(name), 100 * random(1, 50, 2, 4, 4)
    y, _ = cell(x)
    u = torch.stack([F.conv2d(F.pad(x_t, (1,) * 4, mode="circular"), cell.conv.weight, cell.conv.bias) for x_t in x[0]])
    largest = g(u[:, -3:]).amax(0).clamp(min=0.5)
    assert (y > 0).all() and (y <= largest * (1 + 1e-12)).all()


# One step, as the equations are written


def convolve(layer, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.pad(x, (1,) * 4, mode="circular"), layer.weight, layer.bias)


def convgru(cell, x, h):
    z, r = torch.sigmoid(convolve(cell.conv_gates, torch.cat([x, h], 1))).chunk(2, 1)
    return (1 - z) * h + z * torch.tanh(convolve(cell.conv_candidate, torch.cat([x, r * h], 1)))


def convlstm(cell, x, state):
    h, c = state
    g, i, f, o = convolve(cell.conv, torch.cat([x, h], 1)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def minconvgru(cell, x, h):
    z, u = convolve(cell.conv, x).chunk(2, 1)
    return (1 - z.sigmoid()) * h + z.sigmoid() * g(u)


def minconvlstm(cell, x, h):
    f, i, u = convolve(cell.conv, x).chunk(3, 1)
    a = f.sigmoid() / (f.sigmoid() + i.sigmoid())
    return a * h + (1 - a) * g(u)


def minconvexplstm(cell, x, h):
    f, i, u = convolve(cell.conv, x).chunk(3, 1)
    a = f.exp() / (f.exp() + i.exp())
    return a * h + (1 - a) * g(u)


@pytest.mark.parametrize("equations", [convgru, convlstm, minconvgru, minconvlstm, minconvexplstm])
def test_steps_follow_the_equations(equations):
    cell, x = make(equations.__name__), random(2, 4, 2, 5, 5)
    state = cell.init_state(x)
    y, after = cell(x)
    for t in range(4):
        state = equations(cell, x[:, t], state)
        torch.testing.assert_close(y[:, t], parts(state)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts(after), parts(state), rtol=1e-12, atol=1e-12)


def test_under_autocast_states_keep_the_precision_of_the_input(name):
    cell, x = make(name, torch.float32), random(2, 9, 2, 4, 4, dtype=torch.float32)
    expected, _ = cell(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, state = cell(x[:, :5])
        second, state = cell(x[:, 5:], state)
        half, _ = cell(x.bfloat16())
    assert {part.dtype for part in parts(state)} == {torch.float32} and half.dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=0, atol=5e-2)


def test_names_and_classes():
    kinds = {
        "convgru": ConvGRU,
        "convlstm": ConvLSTM,
        "minconvgru": MinConvGRU,
        "minconvlstm": MinConvLSTM,
        "minconvexplstm": MinConvExpLSTM,
    }
    assert kinds == CELLS
    for name, kind in kinds.items():
        assert cell_class(name) is cell_class(kind) is kind


def test_a_new_minimal_cell_is_its_gating():
    class Mine(MinimalCell):
        gating = "explstm"

    torch.manual_seed(0)
    mine, x = Mine(2, 3, padding="circular").double(), random(1, 4, 2, 4, 4)
    assert torch.equal(mine(x)[0], make("minconvexplstm")(x)[0])
    assert cell_class(Mine) is Mine


# Bad input


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x: x.numpy(), TypeError, "x must be a tensor; got ndarray"),
        (lambda x: x.long(), TypeError, "x must be torch.float64 like the weights; got torch.int64"),
        (lambda x: x.float(), TypeError, "x must be torch.float64 like the weights; got torch.float32"),
        (lambda x: x[:, 0], ValueError, r"x must be \[B, T >= 1, 2, H, W\]; got \[2, 2, 4, 6\]"),
        (lambda x: x[:, :0], ValueError, r"x must be \[B, T >= 1, 2, H, W\]; got \[2, 0, 2, 4, 6\]"),
        (lambda x: x[:, :, :1], ValueError, r"x must be \[B, T >= 1, 2, H, W\]; got \[2, 3, 1, 4, 6\]"),
    ],
)
def test_rejects_frames(name, change, error, message):
    with pytest.raises(error, match=message):
        make(name)(change(random(2, 3, 2, 4, 6)))


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h[:1],
        lambda h: h[:, :2],
        lambda h: h[..., :3],
        lambda h: h[0],
        lambda h: h.float(),
        lambda h: h.tolist(),
    ],
)
def test_rejects_states(name, change):
    cell, x = make(name), random(2, 3, 2, 4, 6)
    state = cell.init_state(x)
    wrong = tuple(map(change, state)) if isinstance(state, tuple) else change(state)
    with pytest.raises(ValueError, match=r"state must be .*float64, 2, 3, 4, 6.* to fit x \[2, 3, 2, 4, 6\]; got"):
        cell(x, wrong)


def test_rejects_states_of_other_cells(name):
    cell, x = make(name), random(2, 3, 2, 4, 6)
    h = torch.zeros(2, 3, 4, 6, dtype=torch.float64)
    wrong = ((h,), (h, h, h), h, [h, h]) if name == "convlstm" else ((h,), (h, h), [h])
    for state in wrong:
        with pytest.raises(ValueError, match="state must be"):
            cell(x, state)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1; got 0"),
        ({"channels": 2.5}, TypeError, "channels must be a whole number; got 2.5"),
        ({"channels": True}, TypeError, "channels must be a whole number; got True"),
        ({"kernel_size": 2}, ValueError, "kernel_size must be odd"),
        ({"padding": "torus"}, ValueError, "padding must be one of zeros, .*, sphere, replicate; got 'torus'"),
    ],
)
def test_rejects_settings(name, options, error, message):
    with pytest.raises(error, match=message):
        CELLS[name](**{"in_channels": 2, "channels": 3} | options)


@pytest.mark.parametrize("name", MINIMAL)
def test_rejects_unknown_backends(name):
    with pytest.raises(ValueError, match=r"backend must be one of auto, .*'quick'"):
        make(name, backend="quick")


@pytest.mark.parametrize("wrong, error", [("lstm", ValueError), (None, TypeError), (torch.nn.GRU, TypeError)])
def test_rejects_unknown_cells(wrong, error):
    with pytest.raises(error, match=r"cell must be .*one of convgru, convlstm, minconvgru"):
        cell_class(wrong)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # of functions that PyTorch itself loads for this
def test_forward_mode_derivatives_are_of_the_reference_and_refused_elsewhere():
    torch.manual_seed(0)
    x, along = torch.randn(1, 5, 1, 4, 4, dtype=torch.float64), torch.randn(1, 5, 1, 4, 4, dtype=torch.float64)
    cell = MinConvLSTM(1, 2, backend="reference").double()
    _, found = torch.func.jvp(lambda x: cell(x)[0], (x,), (along,))
    with torch.no_grad():
        expected = (cell(x + 1e-6 * along)[0] - cell(x - 1e-6 * along)[0]) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    fast = MinConvLSTM(1, 2, backend="linear").double()
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: fast(x)[0], (x,), (along,))


def test_a_cell_of_ones_own_may_have_any_parameters():
    class Scaled(Cell):
        def __init__(self, in_channels: int, channels: int):
            super().__init__(in_channels, channels)
            self.bias = torch.nn.Parameter(torch.zeros(1))
            self.weight = torch.nn.Parameter(torch.full((1,), 2.0))

        def forward(self, x, state=None):
            self._check(x, state)
            return self.weight * x + self.bias, x[:, -1]

    assert (Scaled(2, 2)(torch.ones(1, 1, 2, 3, 3))[0] == 2).all()
