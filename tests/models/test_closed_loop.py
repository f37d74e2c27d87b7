"""The closed loop as one operation against the loop frame by frame, in float64."""

import itertools

import pytest
import torch
from torch import nn

from minconv import Forecaster
from minconv.core.cells import CELLS, MinConvGRU
from minconv.kernels import program
from minconv.models import forecaster
from minconv.models.closed_loop import as_one

STATED = 2e-5  # of the size of each result: several steps of Winograd's error, and sums that cancel


def made(cell, **options) -> Forecaster:
    torch.manual_seed(1)
    model = Forecaster(cell, **{"hidden": 9, "layers": 2, "size": (8, 12)} | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def frames_for(model: Forecaster, batch: int, horizon: int) -> torch.Tensor:
    steps = 3 + horizon * bool(model.known)
    return torch.randn(batch, steps, 1 + model.known, *model.size, generator=torch.Generator().manual_seed(2))


def results(model: Forecaster, x: torch.Tensor, horizon: int) -> list[torch.Tensor]:
    """Predictions, and gradients by frames and weights."""
    x = x.to(next(model.parameters()).dtype).requires_grad_()
    y = model(x, horizon)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    with torch.no_grad():
        again = model(x, horizon)
    return [y, again, *torch.autograd.grad((y * weights).sum(), [x, *model.parameters()])]


def error(x: torch.Tensor, expected: torch.Tensor) -> float:
    return ((x - expected).abs().max() / expected.abs().max()).item()


CASES = [
    *(({"cell": cell}, 1) for cell in CELLS),
    *(({"cell": cell, "norm": "frame", "padding": "zeros", "hidden": 18}, 3) for cell in ("convgru", "minconvlstm")),
    ({"cell": "convlstm", "norm": "channels", "padding": "replicate", "dilation": (1, 2)}, 2),
    ({"cell": "minconvgru", "norm": "channels", "padding": "sphere", "known": 2, "increment": True}, 3),
    ({"cell": "minconvexplstm", "norm": "frame", "padding": "cylinder", "channels": 3, "size": (6, 10)}, 2),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options, batch", CASES)
def test_it_is_the_loop(options, batch, threads, monkeypatch, one_thread):
    torch.set_num_threads(threads)
    channels = options.get("channels", 1)
    model = made(**options, method="winograd")
    reference = made(**options, method="direct").double()
    reference.load_state_dict(model.state_dict())
    x, used = frames_for(model, batch, 4).repeat(1, 1, channels, 1, 1), []
    monkeypatch.setattr(forecaster, "as_one", lambda *args: used.append(as_one(*args)) or used[-1])
    monkeypatch.setattr(program, "empty", lambda size: torch.full((size,), torch.nan))
    found, expected = results(model, x, 4), results(reference, x, 4)
    assert [one is not None for one in used] == [True, True, False, False]
    assert max(map(error, found, expected)) < STATED


def test_weights_may_change_between_steps_and_two_losses_share_a_model():
    model, x = made("minconvlstm"), frames_for(made("minconvlstm"), 1, 4)
    first, second = model(x, 4), model(2 * x, 4)
    grads = torch.autograd.grad(first.sum() + second.square().sum(), list(model.parameters()))
    apart = [torch.autograd.grad(model(k * x, 4).pow(k).sum(), list(model.parameters())) for k in (1, 2)]
    for grad, *parts in zip(grads, *apart, strict=True):
        torch.testing.assert_close(grad, sum(parts), rtol=1e-4, atol=1e-4 * grad.abs().max().item())
    with torch.no_grad():
        before = model(x, 4)
        model.decoder.weight.mul_(2)
        assert not torch.equal(model(x, 4), before)


@pytest.mark.parametrize("cell", ["convlstm", "minconvlstm"])
def test_second_derivatives_and_transforms(cell):
    model, x = made(cell, hidden=4, layers=1), frames_for(made(cell), 1, 2).requires_grad_()
    reference, seconds = made(cell, hidden=4, layers=1, method="direct").double(), []
    for one, inputs in ((model, x), (reference, x.detach().double().requires_grad_())):
        (grad,) = torch.autograd.grad(one(inputs, 2).square().sum(), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(grad.square().sum(), one.encoder.weight)[0])
    assert error(*seconds) < 1e-3
    together = torch.vmap(lambda x: model(x, 2))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(together[1], model(2 * x, 2), rtol=0, atol=1e-4)


class OwnNorm(nn.Module):
    def forward(self, x, y):
        return (x + y).tanh()


class OwnCell(MinConvGRU):
    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return 2 * y, state


def own_norm(model):
    model.norms[1] = OwnNorm()


def other_eps(model):
    model.norms[0].eps = 1e-3


def hook(model):
    model.cells[0].register_forward_hook(lambda cell, args, output: (2 * output[0], output[1]))


def own_cell(model):
    model.cells[1] = OwnCell(9, 9, padding="circular")


def named_backend(model):
    model.cells[0].backend = "linear"


@pytest.mark.parametrize("change", [own_norm, other_eps, hook, own_cell, named_backend, nn.Module.double])
def test_what_it_does_not_know_goes_frame_by_frame(change):
    model = made("minconvgru")
    x = frames_for(model, 1, 3)
    whole = as_one(model, model(x))
    change(model)
    x = x.to(model.encoder.weight.dtype)
    assert whole is not None and as_one(model, model(x)) is None
    predicted, states = model.advance(x)
    for _ in range(3):
        prediction, states = model.advance(predicted[:, -1:], states)
        predicted = torch.cat([predicted, prediction], 1)
    torch.testing.assert_close(model(x, 3), predicted, rtol=1e-5, atol=1e-6)


class Louder(Forecaster):
    def advance(self, frames, states=None):
        prediction, states = super().advance(frames, states)
        return 2 * prediction, states


def test_another_step_of_ones_own_is_taken():
    torch.manual_seed(1)
    model = Louder("minconvgru", hidden=9, layers=2, size=(8, 12))
    x = frames_for(model, 1, 1)
    once, states = model.advance(x)
    torch.testing.assert_close(model(x, 1)[:, -1:], model.advance(once[:, -1:], states)[0], rtol=1e-5, atol=1e-6)


def test_a_checkpointed_model_keeps_little():
    model = made("minconvlstm", checkpoint=True)
    prediction = model(frames_for(model, 1, 1))
    assert as_one(model, prediction) is None
    with torch.no_grad():
        assert as_one(model, prediction) is not None


def test_no_trajectories():
    assert made("convlstm")(torch.zeros(0, 3, 1, 8, 12), 2).shape == (0, 5, 1, 8, 12)


def test_a_horizon_is_the_beginning_of_a_longer_one(one_thread):
    model = made("convgru")
    x = frames_for(model, 2, 1)
    with torch.no_grad():
        long = model(x, 7)
        for horizon, kept in itertools.product((1, 2, 6), (False, True)):
            with torch.set_grad_enabled(kept):
                assert torch.equal(model(x, horizon), long[:, : 3 + horizon])
