"""ConvS5's operator and cell: what the recurrence says, whatever is computed at once, and where one can go wrong."""

import math
from itertools import product

import pytest
import torch
from helpers import assert_all_near, of_cell, random
from torch.nn import functional as F

from minconv.core.cells import Cell
from minconv.core.layers import PADDINGS
from minconv.core.scan import usable
from minconv.models import convs5_cell
from minconv.models.convs5 import Block, ConvS5, ConvSSM, Stack
from minconv.models.convs5_cell import hippo
from minconv.models.forecaster import Forecaster

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {"operator": ConvSSM, "cell": ConvS5}
BACKENDS = [name for name in ("reference", "linear", "cpu") if name in usable("cpu")]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5}


def make(kind: str = "operator", dtype: torch.dtype = torch.float64, **options) -> Cell:
    """Of 4 channels to 4, with 3 complex states that decay in some frames."""
    torch.manual_seed(0)
    cell = KINDS[kind](4, 4, **{"state_size": 6, "padding": "circular"} | options).to(dtype)
    with torch.no_grad():
        ssm(cell).log_step.add_(3)
        for weight in cell.parameters():
            if weight.dim() == 1 and weight.shape[0] == 4:  # norms and biases
                weight.add_(0.1 * torch.randn_like(weight))
    return cell


def ssm(cell: Cell) -> ConvSSM:
    return cell if isinstance(cell, ConvSSM) else cell.ssm


def weights(cell: ConvSSM) -> tuple[torch.Tensor, torch.Tensor]:
    """B [P, U, k, k] and C [U, P, k, k] as the complex kernels that they stand for."""
    return torch.complex(*cell.B.chunk(2)), torch.complex(*cell.C.chunk(2, 1))


# The recurrence


def as_written(cell: ConvSSM, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Frame by frame with complex convolutions and zero padding."""
    of_b, of_c = weights(cell)
    lam = torch.complex(cell.Lambda_re.clamp(max=-1e-4), cell.Lambda_im)
    a = torch.exp(lam * cell.log_step.exp())
    of_b = ((a - 1) / lam)[:, None, None, None] * of_b
    h, outputs = torch.complex(*state.chunk(2, 1)), []
    for frame in x.unbind(1):
        h = a[:, None, None] * h + F.conv2d(frame.to(h), of_b, padding=of_b.shape[-1] // 2)
        outputs.append(2 * F.conv2d(h, of_c, padding=of_c.shape[-1] // 2).real)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("kernels", [3, (1, 3), (5, 1)])
def test_operator_is_the_recurrence_as_written(kernels):
    cell, x, state = make(padding="zeros", kernel_size=kernels), random(2, 5, 4, 5, 6), random(2, 6, 5, 6, seed=2)
    torch.testing.assert_close(cell(x, state)[0], as_written(cell, x, state), rtol=0, atol=1e-11)
    torch.testing.assert_close(cell(x)[0], as_written(cell, x, 0 * state), rtol=0, atol=1e-11)


def test_the_first_state_counts_in_the_parallel_form():
    """What it adds is that of the recurrence without input, and as large as the output."""
    cell, x, state = make(padding="zeros"), random(2, 7, 4, 5, 6), random(2, 6, 5, 6, seed=2)
    apart = cell(x, state)[0] - cell(x)[0]
    torch.testing.assert_close(apart, as_written(cell, 0 * x, state), rtol=0, atol=1e-11)
    assert apart.std() > 0.1 * cell(x)[0].std()


@pytest.mark.parametrize("kind, padding", [*product(KINDS, PADDINGS)])
def test_parallel_is_stepped_is_two_halves(kind, padding):
    for steps, dtype in ((5, torch.float64), (4, torch.float32)):
        cell, x = make(kind, dtype, padding=padding), random(2, steps, 4, 4, 6, dtype=dtype)
        state = random(2, 6, 4, 6, seed=5, dtype=dtype)
        whole = of_cell(cell, x, state, [])
        for cuts in (list(range(1, steps)), [steps // 2]):
            assert_all_near(of_cell(cell, x, state, cuts), whole, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_backends_and_layouts_agree(backend, layout):
    x, state = random(2, 5, 4, 4, 6), random(2, 6, 4, 6, seed=5)
    expected = of_cell(make("cell"), x, state, [])
    x = x.flatten(0, 1).contiguous(memory_format=layout).unflatten(0, (2, 5))
    assert_all_near(of_cell(make("cell", backend=backend), x, state, []), expected, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_real_and_its_own_memory(kind):
    cell, x = make(kind), random(2, 3, 4, 4, 6)
    initial = cell.init_state(x)
    assert initial.shape == (2, 6, 4, 6) and initial.dtype == x.dtype and not initial.any()
    assert torch.equal(cell(x)[0], cell(x, initial)[0])
    with torch.no_grad():
        y, state = cell(x)
        kept = state.clone()
        y.zero_()
    assert torch.equal(state, kept) and state.untyped_storage().nbytes() == kept.nbytes
    assert not list(cell.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_future_frames_and_other_sequences_do_not_matter(kind):
    cell, x = make(kind), random(3, 6, 4, 4, 6)
    changed = torch.cat([x[:, :3], random(3, 3, 4, 4, 6, seed=2)], 1)
    one, other = cell(x)[0], cell(changed)[0]
    assert torch.equal(one[:, :3], other[:, :3]) and not torch.allclose(one[:, 3], other[:, 3])
    torch.testing.assert_close(one, torch.cat([cell(part)[0] for part in x.split(1)]), rtol=0, atol=1e-12)
    for size in ((3, 5), (1, 1)):  # the sizes of one call leave no trace in the next
        cell(random(2, 1, 4, *size))
    assert torch.equal(cell(x)[0], one)


def test_nothing_is_kept_across_changes_of_the_parameters():
    """Stepping after an update in place is that of the new parameters alone."""
    cell, x = make(), random(1, 4, 4, 4, 6)
    with torch.no_grad():
        _, state = cell(x[:, :2])
        for weight in cell.parameters():
            weight.mul_(0.9)
        fresh = ConvSSM(4, 4, state_size=6, padding="circular").double()
        fresh.load_state_dict(cell.state_dict())
        assert torch.equal(cell(x[:, 2:3], state)[0], fresh(x[:, 2:3], state)[0])


def test_thousands_of_frames_do_not_grow_and_float32_is_float64_rounded():
    torch.manual_seed(0)
    cell = ConvSSM(2, 2, kernel_size=1, state_size=16)
    x = random(1, 4000, 2, 2, 2)
    found, expected = cell(x.float())[0].double(), cell.double()(x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    halves = expected.chunk(2, 1)
    assert halves[1].std() < 2 * halves[0].std()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast(kind):
    cell, x = make(kind, torch.float32), random(2, 6, 4, 4, 6, dtype=torch.float32)
    expected, after = cell(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = cell(x)
    assert y.dtype == state.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=0, atol=0.05 * expected.abs().max().item())
    y, state = cell.bfloat16()(x.bfloat16())
    assert y.dtype == state.dtype == torch.bfloat16
    torch.testing.assert_close(state.float(), after, rtol=0, atol=0.1 * after.abs().max().item())


# Discretisation


def test_float32_weights_have_coefficients_of_float64():
    """At the published size the phases in float32 are off by 1e-4 and more."""
    torch.manual_seed(0)
    cell = ConvSSM(1, 1, 1, state_size=256)
    with torch.no_grad():
        cell.log_step.fill_(math.log(0.1))  # the longest at the start
    found = cell.discretised()
    expected = cell.double().discretised()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    low = torch.complex(cell.Lambda_re.float(), cell.Lambda_im.float()) * cell.log_step.float().exp()
    assert (low.exp() - expected[0]).abs().max() > 1e-5


def test_channels_above_the_clip_have_no_gradient():
    cell = make()
    with torch.no_grad():
        cell.Lambda_re[0] = 0.05
    assert (cell.discretised()[0].abs() < 1).all()
    y, _ = cell(random(1, 5, 4, 4, 6))
    (grad,) = torch.autograd.grad(y.square().sum(), cell.Lambda_re)
    assert grad[0] == 0 and (grad[1:] != 0).all()


def test_without_the_clip_a_may_grow_and_an_eigenvalue_of_zero_is_its_limit():
    cell = make(clip_eigs=False)
    with torch.no_grad():
        cell.Lambda_re[0], cell.Lambda_im[0], cell.Lambda_re[1] = 0.0, 0.0, 0.05
    a, b = cell.discretised()
    assert a[0] == 1 and a[1].abs() > 1
    torch.testing.assert_close(b[0].real, cell.log_step[0].exp())
    y, _ = cell(random(1, 5, 4, 4, 6))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.square().sum(), list(cell.parameters())))


# The start


def normal_hippo(size: int) -> torch.Tensor:
    """The normal part, entry by entry."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for n, m in product(range(size), repeat=2):
        r = math.sqrt(n + 1 / 2) * math.sqrt(m + 1 / 2)
        below = -math.sqrt(2 * n + 1) * math.sqrt(2 * m + 1) if n > m else 0.0
        matrix[n, m] = (-(n + 1) if n == m else below) + r
    return matrix


@pytest.mark.parametrize("size, blocks", [(8, 1), (16, 1), (16, 2)])
def test_hippo_are_half_of_the_eigenvectors(size, blocks):
    lam, v = hippo(size, blocks)
    normal = torch.block_diag(*[normal_hippo(size // blocks)] * blocks).to(v)
    torch.testing.assert_close(normal @ v, v * lam, rtol=0, atol=1e-12)
    torch.testing.assert_close(v.mH @ v, torch.eye(size // 2, dtype=v.dtype), rtol=0, atol=1e-13)
    of_block = lam.imag[: size // blocks // 2]
    assert (lam.imag < 0).all() and (of_block.diff() > 0).all() and torch.equal(of_block.repeat(blocks), lam.imag)
    assert (lam.real == -0.5).all()


@pytest.mark.parametrize(
    "size, least, largest", [(8, 0.427, 19.9), (16, 0.352, 81.0), (128, 0.235, 5215), (256, 0.212, 20860)]
)
def test_hippos_frequencies(size, least, largest):
    frequencies = hippo(size)[0].imag.abs()
    assert frequencies.min().item() == pytest.approx(least, abs=6e-4)
    assert frequencies.max().item() == pytest.approx(largest, rel=2.5e-3)


def test_half_of_the_state_is_the_whole_real_system(monkeypatch):
    """Of which exp(S Delta) is the transition, and what is drawn are its input and output: no factor, no half of the
    spectrum and no order of axes can be wrong."""
    normal, of_b, of_c = normal_hippo(8), random(8, 3, 3, 3, seed=3), random(2, 8, 3, 3, seed=4)
    draws = iter([of_b.flatten(1), of_c.movedim(1, -1).flatten(0, 2)])
    monkeypatch.setattr(convs5_cell, "he_normal", lambda *shape, fan_in: next(draws).view(shape))
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    cell = ConvSSM(3, 2, state_size=8).double()
    with torch.no_grad():
        cell.log_step.fill_(math.log(0.3))
    step = torch.linalg.matrix_exp(0.3 * normal)
    hold = torch.linalg.solve(normal, step - torch.eye(8, dtype=torch.float64))
    x, h, expected = random(1, 6, 3, 5, 4), torch.zeros(1, 8, 5, 4, dtype=torch.float64), []
    for frame in x.unbind(1):
        u = F.conv2d(frame, of_b, padding=1)
        h = torch.einsum("st,bthw->bshw", step, h) + torch.einsum("st,bthw->bshw", hold, u)
        expected.append(F.conv2d(h, of_c, padding=1))
    torch.testing.assert_close(cell(x)[0], torch.stack(expected, 1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_initial_statistics(default):
    """The fan-in of C is that of the whole state, S and not P."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        torch.manual_seed(0)
        cell = ConvSSM(16, 24, kernel_size=(3, 5), state_size=64, blocks=2)
    finally:
        torch.set_default_dtype(before)
    assert {weight.dtype for weight in cell.parameters()} == {default}
    of_b, of_c = weights(cell)
    assert of_b.shape == (32, 16, 3, 3) and of_c.shape == (24, 32, 5, 5)
    assert of_b.abs().square().mean().item() == pytest.approx(2 / (16 * 9), rel=0.05)
    assert of_c.abs().square().mean().item() == pytest.approx(2 / (64 * 25), rel=0.05)
    step = cell.log_step.exp()
    assert (step > 1e-3).all() and (step < 1e-1).all() and cell.log_step.std() > 1
    a, _ = cell.discretised()
    assert a.abs().min() > 0.951 and a.abs().max() < 0.9996
    torch.testing.assert_close(
        torch.complex(cell.Lambda_re, cell.Lambda_im).cdouble(), hippo(64, 2)[0], rtol=1e-6, atol=0
    )


def test_draws_are_cut_at_two_deviations_of_the_normal():
    """B of one state vector and its conjugate: V^H is undone, and what was drawn is there."""
    torch.manual_seed(0)
    cell, (_, v) = ConvSSM(64, 2, kernel_size=1, state_size=64).double(), hippo(64)
    of_b = weights(cell)[0].flatten(1)
    drawn = 2 * (v @ of_b).real
    std = math.sqrt(2 / 64)
    assert drawn.std().item() == pytest.approx(std, rel=0.03)
    assert 1.9 * std < 0.87962566 * drawn.abs().max().item() < 2.0001 * std


def test_other_layers_start_as_published():
    torch.manual_seed(0)
    cell = ConvS5(64, 64)
    for conv in cell.nonlinear.convs:
        assert conv.weight.std().item() == pytest.approx((64 * 9) ** -0.5, rel=0.02) and not conv.bias.any()
    dense = ConvS5(64, 64, C_D="half_glu").nonlinear.dense
    assert dense.weight.std().item() == pytest.approx((0.2 / 64) ** 0.5, rel=0.05) and not dense.bias.any()


# The layers around it


def group_norm(x: torch.Tensor, groups: int, norm: torch.nn.Module) -> torch.Tensor:
    y = x.unflatten(1, (groups, -1))
    mean, var = y.mean((2, 3, 4), keepdim=True), y.var((2, 3, 4), correction=0, keepdim=True)
    y = ((y - mean) / (var + 1e-6).sqrt()).flatten(1, 2)
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def test_block_is_the_published_one():
    """With frames so small that the norms' eps counts; exact GELU and PyTorch's eps would be seen."""
    torch.manual_seed(0)
    block = Block(8, state_size=6, num_groups=2).double()
    for weight in block.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    u = 1e-3 * random(2, 3, 8, 4, 5)
    y = block.cell.ssm(u)[0].flatten(0, 1)
    layers, h = block.cell.nonlinear, y
    for norm, conv in zip(layers.norms, layers.convs, strict=True):
        h = F.conv2d(gelu(group_norm(h, 2, norm)), conv.weight, conv.bias, padding=1)
    z = u + gelu(y + h).unflatten(0, (2, 3))
    mean, var = z.mean(2, keepdim=True), z.var(2, correction=0, keepdim=True)
    weight, bias = (p[:, None, None] for p in (block.norm.weight, block.norm.bias))
    torch.testing.assert_close(block(u)[0], (z - mean) / (var + 1e-6).sqrt() * weight + bias, rtol=0, atol=1e-11)


def test_stack_carries_the_states_of_its_layers():
    torch.manual_seed(0)
    stack, x = Stack(4, 3, num_groups=2).double(), random(2, 6, 4, 4, 4)
    whole, states = stack(x)
    first, between = stack(x[:, :4])
    second, after = stack(x[:, 4:], between)
    assert_all_near([torch.cat([first, second], 1), *after], [whole, *states], 1e-10)
    for wrong in (states[:2], states[0]):
        with pytest.raises(ValueError, match="states must be a list of 3, one a layer; got"):
            stack(x, wrong)


def test_groups_divide_the_channels():
    assert [ConvS5(2, size).nonlinear.norms[0].num_groups for size in (256, 48, 34, 35)] == [32, 16, 2, 1]
    with pytest.raises(ValueError, match="channels must be a multiple of num_groups, 32; got 34"):
        ConvS5(34, 34, num_groups=32)


# Bad input


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"C_D": "diag_resnet"}, ValueError, "C_D must be one of resnet, standard, half_glu; got 'diag_resnet'"),
        ({"activation": "tanh"}, ValueError, "activation must be one of gelu, relu, swish, elu, sugar; got 'tanh'"),
        ({"C_D": "half_glu", "squeeze_excite": True}, ValueError, "squeeze_excite must be False with C_D half_glu"),
        (
            {"C_D": "standard", "in_channels": 3},
            ValueError,
            "in_channels must be channels, 4, with C_D standard; got 3",
        ),
        ({"kernel_size": 2}, ValueError, "kernel_size must be odd"),
        ({"kernel_size": (3, 3)}, ValueError, r"kernel_size must be one number or 3; got \(3, 3\)"),
        ({"kernel_size": 1.5}, TypeError, "kernel_size must be a whole number; got 1.5"),
        ({"state_size": 7}, ValueError, "state_size must be a multiple of 2 x 1 blocks; got 7"),
        ({"state_size": 12, "blocks": 4}, ValueError, "state_size must be a multiple of 2 x 4 blocks; got 12"),
        ({"padding": "torus"}, ValueError, "padding must be one of zeros"),
        ({"backend": "quick"}, ValueError, "backend must be one of auto.*'quick'"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1; got 0"),
        ({"channels": 0}, ValueError, "channels must be at least 1; got 0"),
    ],
)
def test_rejects_settings(options, error, message):
    with pytest.raises(error, match=message):
        ConvS5(**{"in_channels": 4, "channels": 4} | options)


@pytest.mark.parametrize("options", [{"use_norm": False}, {"per_layer_skip": False}])
def test_prenorm_needs_what_it_was_tested_with(options):
    with pytest.raises(ValueError, match="prenorm must be False without use_norm or per_layer_skip"):
        Block(4, prenorm=True, **options)


@pytest.mark.parametrize("change", [lambda h: h[:1], lambda h: h[:, :3], lambda h: h.float(), lambda h: h.tolist()])
@pytest.mark.parametrize("kind", KINDS)
def test_rejects_states(kind, change):
    cell, x = make(kind), random(2, 3, 4, 4, 6)
    with pytest.raises(ValueError, match=r"state must be .*float64, 2, 6, 4, 6.* to fit x \[2, 3, 4, 4, 6\]; got"):
        cell(x, change(cell.init_state(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_rejects_frames(kind):
    cell, x = make(kind), random(2, 3, 4, 4, 6)
    for wrong, error in ((x[:, :, :3], ValueError), (x[:, :0], ValueError), (x[0], ValueError), (x.float(), TypeError)):
        with pytest.raises(error, match="x must be"):
            cell(wrong)
    with pytest.raises(ValueError, match=r"a must have b's shape .* for backend logspace"):
        make(kind, backend="logspace")(x)


def test_kernels_are_made_once_in_a_closed_loop_without_gradients(monkeypatch):
    made, derive = [], ConvSSM._derived
    monkeypatch.setattr(ConvSSM, "_derived", lambda self, wide: made.append(self) or derive(self, wide))
    model = Forecaster("convs5", hidden=4, layers=2, size=(8, 8)).eval()
    frames = random(1, 3, 1, 8, 8, dtype=torch.float32)
    followed = model(frames, 4)
    assert len(made) == 2 * 5
    with torch.no_grad():
        torch.testing.assert_close(model(frames, 4), followed, rtol=0, atol=0)
        assert len(made) == 2 * 5 + 2
        model.cells[0].ssm.B.mul_(2)
        assert not torch.equal(model(frames, 4), followed), "nothing is kept from one call to the next"
