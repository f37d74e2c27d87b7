"""The one encoder, stack and decoder: sizes, causality, closed loop."""

from copy import deepcopy

import pytest
import torch
from helpers import assert_all_near, random
from helpers import forecaster as make
from torch.nn import functional as F

from minconv import Forecaster, MinConvLSTM
from minconv.bench.measure import peak_memory
from minconv.core.cells import CELLS
from minconv.training.ensemble import Ensemble

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = {
    "Navier-Stokes": (
        {"layers": 4, "size": (16, 16), "padding": "circular"},
        {
            "convgru": (28, 171_813),
            "convlstm": (25, 182_524),
            "minconvgru": (49, 175_460),
            "minconvlstm": (40, 175_449),
            "minconvexplstm": (40, 175_449),
        },
    ),
    "geopotential": (
        {"layers": 3, "size": (16, 32), "padding": "cylinder"},
        {
            "convgru": (14, 34_993),
            "convlstm": (12, 34_357),
            "minconvgru": (24, 34_393),
            "minconvlstm": (20, 35_713),
            "minconvexplstm": (20, 35_713),
        },
    ),
}


@pytest.fixture(params=CELLS)
def cell(request) -> str:
    return request.param


@pytest.mark.parametrize("experiment", COUNTS)
def test_parameter_counts(cell, experiment):
    options, counts = COUNTS[experiment]
    hidden, expected = counts[cell]
    model = Forecaster(cell, channels=1, hidden=hidden, **options)
    assert sum(weight.numel() for weight in model.parameters()) == expected


def test_defaults_are_the_papers():
    assert sum(weight.numel() for weight in Forecaster("minconvlstm").parameters()) == 175_449


def test_output_is_context_and_horizon(cell):
    model, x = make(cell, channels=2), random(3, 4, 2, 4, 6)
    assert model(x).shape == (3, 4, 2, 4, 6)
    assert model(x, 3).shape == (3, 7, 2, 4, 6)
    assert torch.equal(model(x, horizon=3)[:, :4], model(x))


def test_is_the_stack_of_the_design():
    model, x = make(), random(2, 3, 1, 4, 6)
    expected = torch.stack([model.encoder(x[:, t]) for t in range(3)], 1)
    for cell, norm in zip(model.cells, model.norms, strict=True):
        expected = expected + cell(expected)[0]
        expected = F.layer_norm(expected, (4, 6), norm.weight, norm.bias)
    expected = torch.stack([model.decoder(expected[:, t]) for t in range(3)], 1)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_increments_are_added_to_frames_in_closed_loop_too(cell):
    model, plain, x = make(cell, increment=True), make(cell), random(2, 3, 1, 4, 6)
    assert torch.equal(model(x), x)  # a model that has learned nothing is persistence
    assert torch.equal(model(x, 2)[:, 2:], x[:, 2:].expand(-1, 3, -1, -1, -1))
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model(x), x + plain(x), rtol=0, atol=1e-12)
    y = model(x, 3)
    torch.testing.assert_close(model(torch.cat([x, y[:, 2:-1]], 1)), y, rtol=0, atol=1e-10)
    assert "increment=True" in str(model) and "increment" not in str(plain)  # a run is recognised by it


def test_increments_carry_the_mean_of_a_frame_that_the_norm_takes_away():
    """An encoder without bias of a frame that is 0 but for its mean: only the increments know of it."""
    means = {}
    for increment in (False, True):
        model = make("minconvlstm", padding="circular", increment=increment)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "bias" in name:
                    weight.zero_()
        level = torch.full((1, 1, 1, 4, 6), 3.0, dtype=torch.float64)
        means[increment] = (model(level) - model(0 * level)).mean().item()
    assert means[False] == pytest.approx(0, abs=1e-9) and means[True] == pytest.approx(3, abs=1e-9)


def test_future_frames_leave_past_outputs_unchanged(cell):
    model, x = make(cell), random(2, 6, 1, 4, 6)
    for first in (1, 3, 5):
        changed = torch.cat([x[:, :first], random(2, 6 - first, 1, 4, 6, seed=2)], 1)
        one, other = model(x), model(changed)
        assert torch.equal(one[:, :first], other[:, :first])
        assert not torch.allclose(one[:, first], other[:, first])


def test_closed_loop_feeds_predictions_back(cell):
    """Frames after the context are never seen: the loop gives what teacher forcing on its own predictions gives."""
    model, x = make(cell), random(2, 3, 1, 4, 6)
    y = model(x, 4)
    seen = torch.cat([x, y[:, 2:-1]], 1)
    torch.testing.assert_close(model(seen), y, rtol=0, atol=1e-10)


def test_gradients_flow_through_the_closed_loop(cell):
    model, x = make(cell), random(1, 2, 1, 4, 6).requires_grad_()
    y = model(x, 2)
    (through,) = torch.autograd.grad(y[:, -1].square().sum(), x)
    assert through.abs().max() > 0
    direction, step = random(1, 2, 1, 4, 6, seed=3), 1e-6
    with torch.no_grad():
        ahead, behind = (model(x + sign * step * direction, 2)[:, -1].square().sum() for sign in (1, -1))
    torch.testing.assert_close((through * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.slow] * (c != "minconvlstm")) for c in CELLS])
def test_checkpoints_save_memory_and_change_nothing(cell):
    model, lean = (make(cell, hidden=8, layers=4, checkpoint=checkpoint) for checkpoint in (False, True))
    lean.load_state_dict(model.state_dict())
    x = random(1, 24, 1, 4, 6)
    found, memory = [], []
    for one in (model, lean):
        y = one(x, 2)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(one.parameters()))])
        memory.append(peak_memory(lambda one=one: one(x).sum().backward()))
    assert_all_near(*found, 1e-12)
    assert memory[1] < 0.7 * memory[0]


def test_checkpoints_leave_stacked_models_alone():
    models = [make(checkpoint=True) for _ in range(2)]
    x = random(2, 1, 3, 1, 4, 6)
    together = Ensemble(models)
    together(x, 1).sum().backward()
    expected = models[0](x[0], 1)
    torch.testing.assert_close(together(x, 1)[0], expected, rtol=0, atol=1e-12)


def test_advance_continues_a_sequence(cell):
    model, x = make(cell), random(2, 7, 1, 4, 6)
    first, states = model.advance(x[:, :3])
    second, _ = model.advance(x[:, 3:], states)
    torch.testing.assert_close(torch.cat([first, second], 1), model(x), rtol=0, atol=1e-10)


def test_calls_leave_no_trace(cell):
    model, x = make(cell), random(2, 4, 1, 4, 6)
    weights, expected = deepcopy(model.state_dict()), model(x, 2)
    model(random(5, 1, 1, 4, 6), 1)
    assert torch.equal(model(x, 2), expected)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_cell_by_name_or_class_and_its_options():
    x = random(1, 3, 1, 4, 6)
    assert torch.equal(make(MinConvLSTM)(x), make("minconvlstm")(x))
    torch.testing.assert_close(make("minconvlstm", backend="reference")(x), make()(x), rtol=0, atol=1e-12)
    assert make("convgru", kernel_size=5).cells[0].conv_gates.weight.shape[-2:] == (5, 5)


@pytest.mark.parametrize("dilation, width", [(1, 9), (2, 17), ((1, 2, 4, 1), 17)])
def test_what_a_step_sees(cell, dilation, width):
    """The cells of a frame on which the centre of the next one depends, of 21."""
    model = make(cell, hidden=2, layers=4, size=(1, 21), padding="zeros", dilation=dilation)
    model.norms = torch.nn.ModuleList(Sum() for _ in model.norms)  # the norm sees the whole frame
    x = random(1, 1, 1, 1, 21).requires_grad_()
    model(x)[0, 0, 0, 0, 10].backward()
    seen = x.grad.flatten().nonzero().flatten()
    # the classical cells' gates see the state, which is 0 before the first frame
    assert (seen.min(), seen.max()) == (10 - width // 2, 10 + width // 2)


class Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def test_float32_is_float64_rounded(cell):
    model, x = make(cell), random(2, 6, 1, 4, 6)
    expected = model(x, 3)
    torch.testing.assert_close(model.float()(x.float(), 3).double(), expected, rtol=0, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"cell": "gru"}, ValueError, "cell must be one of convgru, convlstm, minconvgru.*'gru'"),
        ({"cell": None}, TypeError, "cell must be a string"),
        ({"increment": "yes"}, TypeError, "increment must be True or False; got 'yes'"),
        ({"checkpoint": 1}, TypeError, "checkpoint must be True or False; got 1"),
        ({"padding": "torus"}, ValueError, "padding must be one of zeros, .*, sphere, replicate; got 'torus'"),
        ({"backend": "quick"}, ValueError, "backend must be one of.*'quick'"),
        ({"channels": 0}, ValueError, "channels must be at least 1; got 0"),
        ({"hidden": -4}, ValueError, "hidden must be at least 1; got -4"),
        ({"layers": 0}, ValueError, "layers must be at least 1; got 0"),
        ({"layers": 1.5}, TypeError, "layers must be a whole number; got 1.5"),
        ({"size": 16}, ValueError, r"size must be \(H, W\); got 16"),
        ({"size": (4, 4, 4)}, ValueError, r"size must be \(H, W\); got \(4, 4, 4\)"),
        ({"size": (4, 0)}, ValueError, r"size\[1\] must be at least 1; got 0"),
        ({"size": (4.0, 4)}, TypeError, r"size\[0\] must be a whole number; got 4.0"),
        ({"kernel_size": 4}, ValueError, "kernel_size must be odd"),
        ({"norm": "batch"}, ValueError, "norm must be one of plane, frame, channels; got 'batch'"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1; got 0"),
        ({"dilation": (1, 2, 4)}, ValueError, r"dilation must be one number or one for each of the 4 layers"),
        ({"dilation": 1.5}, TypeError, "dilation must be one number or one for each of the 4 layers; got 1.5"),
    ],
)
def test_rejects_settings(options, error, message):
    with pytest.raises(error, match=message):
        Forecaster(**{"cell": "minconvlstm"} | options)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x: x.numpy(), TypeError, "frames must be a tensor; got ndarray"),
        (lambda x: x.float(), TypeError, "frames must be torch.float64 like the weights; got torch.float32"),
        (lambda x: x.long(), TypeError, "frames must be torch.float64 like the weights; got torch.int64"),
        (lambda x: x[0], ValueError, r"frames must be \[B, T >= 1, 1, 4, 6\]; got \[3, 1, 4, 6\]"),
        (lambda x: x[:, :0], ValueError, r"frames must be \[B, T >= 1, 1, 4, 6\]; got \[2, 0, 1, 4, 6\]"),
        (lambda x: x.repeat(1, 1, 2, 1, 1), ValueError, r"got \[2, 3, 2, 4, 6\]"),
        (lambda x: x[..., :5], ValueError, r"got \[2, 3, 1, 4, 5\]"),
        (lambda x: x.mT, ValueError, r"got \[2, 3, 1, 6, 4\]"),
        (lambda x: x.to("meta"), ValueError, "frames must be on cpu like the weights; got meta"),
    ],
)
def test_rejects_frames(change, error, message):
    with pytest.raises(error, match=message):
        make()(change(random(2, 3, 1, 4, 6)))


@pytest.mark.parametrize(
    "horizon, error, message",
    [
        (-1, ValueError, "horizon must be at least 0; got -1"),
        (1.0, TypeError, "horizon must be a whole number; got 1.0"),
    ],
)
def test_rejects_horizons(horizon, error, message):
    with pytest.raises(error, match=message):
        make()(random(2, 3, 1, 4, 6), horizon)


def test_rejects_states():
    model, x = make(), random(2, 3, 1, 4, 6)
    _, states = model.advance(x)
    with pytest.raises(ValueError, match="states must be a list of 2, one a layer; got 1"):
        model.advance(x, states[:1])
    with pytest.raises(TypeError, match="states must be a list of 2, one a layer; got Tensor"):
        model.advance(x, states[0])
    with pytest.raises(ValueError, match="state must be"):
        model.advance(x[:1], states)
