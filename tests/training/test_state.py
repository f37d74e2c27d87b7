"""A run's state: what is saved of it is enough to go on."""

import pytest
import torch
from helpers import SETTINGS, build

from minconv.training.ensemble import Ensemble
from minconv.training.state import State

pytestmark = pytest.mark.usefixtures("one_thread")


def begun(cell: str = "minconvlstm", seeds=(1, 2), stack: bool = True) -> State:
    return State(Ensemble([build(seed, cell) for seed in seeds], stack), list(seeds), SETTINGS)


def step(state: State) -> None:
    frames = torch.randn(len(state.seeds), 2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(state.step))
    state.ensemble.zero_grad()
    state.ensemble(frames).square().mean().backward()
    for optimizer in state.optimizers.values():
        optimizer.step()
    state.losses += torch.tensor([1.0, 2.0])
    state.step, state.seconds = state.step + 1, 1.0


def test_restored_it_goes_on_alike():
    state, other = begun(), begun()
    step(state)
    state.add_epoch(0.1, torch.tensor([3.0, 3.0]), torch.tensor([0.5, 0.7]), 2.0)
    step(state)
    other.restore({name: tensor.clone() for name, tensor in state.tensors().items()}, state.header())
    assert (other.epoch, other.step, other.seconds) == (1, 1, 1.0)
    for one in (state, other):
        step(one)
        one.add_epoch(0.1, torch.tensor([2.0, 2.0]), torch.tensor([0.6, 0.6]), 2.0)
    found, expected = other.tensors(), state.tensors()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert other.header() == state.header() and other.best_losses.tolist() == pytest.approx([0.5, 0.6])
    for name, weight in other.weights().items():  # the second seed became better, the first did not
        assert torch.equal(other.best[name][1], weight[1]) and not torch.equal(other.best[name][0], weight[0])


@pytest.mark.parametrize("stack", [True, False])
def test_what_was_stacked_goes_on_apart_and_back(stack):
    state, other = begun(stack=stack), begun(stack=not stack)
    step(state)
    other.restore(state.tensors(), state.header())
    for one in (state, other):
        step(one)
    torch.testing.assert_close(other.tensors(), state.tensors(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", ["minconvgru", "convgru"])
def test_another_models_is_refused(cell):
    state = begun(cell)
    step(state)
    with pytest.raises((KeyError, RuntimeError)):
        begun().restore(state.tensors(), state.header())
