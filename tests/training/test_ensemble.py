"""Models stacked = models alone, in outputs and gradients."""

import pytest
import torch
from helpers import assert_all_near, random

from minconv import Forecaster
from minconv.core.cells import CELLS
from minconv.training.ensemble import Ensemble, stackable

pytestmark = pytest.mark.usefixtures("one_thread")


def models(count: int, cell: str = "minconvlstm", **options) -> list[Forecaster]:
    torch.manual_seed(0)
    return [Forecaster(cell, **{"hidden": 3, "layers": 2, "size": (4, 5)} | options).double() for _ in range(count)]


def frames(count: int) -> torch.Tensor:
    return random(count, 2, 4, 1, 4, 5)


@pytest.mark.parametrize("cell, padding", [*((cell, "circular") for cell in CELLS), ("minconvgru", "zeros")])
def test_together_is_alone(cell, padding):
    alone, x = models(3, cell, padding=padding), frames(3)
    ensemble = Ensemble(alone)
    y = ensemble(x, 2)
    assert y.shape == (3, 2, 6, 1, 4, 5)
    found = torch.autograd.grad(y.square().sum(), list(ensemble.parameters()))
    for s, model in enumerate(alone):
        expected = model(x[s], 2)
        torch.testing.assert_close(y[s], expected, rtol=0, atol=1e-12)
        gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
        assert_all_near([ensemble.stacked(together)[s] for together in found], gradients, 1e-10)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{"norm": "frame", "increment": True, "dilation": [1, 2]}, {"checkpoint": True}])
def test_all_forecasters_can_be_stacked(cell, options):
    alone = models(2, cell, **options)
    assert stackable(alone, frames(1)[0], 1)
    alone[1].cells[0].extra = 1.0
    assert not stackable(alone, frames(1)[0], 1)


def test_one_model_is_run_as_it_is():
    (model,) = models(1)
    ensemble, x = Ensemble([model]), frames(1)
    assert ensemble.model is model and torch.equal(ensemble(x)[0], model(x[0]))


def test_models_given_are_copied_when_stacked():
    alone = models(2)
    before = [weight.clone() for model in alone for weight in model.parameters()]
    ensemble = Ensemble(alone)
    with torch.no_grad():
        for weight in ensemble.parameters():
            weight.zero_()
    after = [weight for model in alone for weight in model.parameters()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_names_and_shapes_are_a_models_own():
    alone = models(3)
    ensemble = Ensemble(alone)
    single = dict(alone[0].named_parameters())
    found = dict(ensemble.model.named_parameters())
    assert list(found) == list(single)
    assert all(weight.shape == (3, *single[name].shape) for name, weight in found.items())
    assert len(list(ensemble.parameters())) == len(single)  # the skeleton is not counted
    for name, weight in found.items():
        assert ensemble.stacked(weight) is weight
        assert torch.equal(weight[2], dict(alone[2].named_parameters())[name])


def test_a_step_of_one_leaves_the_others_alone():
    ensemble, x = Ensemble(models(3)), frames(3)
    ensemble(x)[1].square().sum().backward()
    for weight in ensemble.parameters():
        assert weight.grad[[0, 2]].abs().max() == 0 and weight.grad[1].abs().max() > 0


@pytest.mark.parametrize(
    "others",
    [
        [],
        [*models(1), *models(1, hidden=4)],
        [*models(1), *models(1, "minconvexplstm")],  # weights of the same shapes
        [*models(1), *models(1, padding="zeros")],
        [models(1)[0], models(1)[0].float()],
    ],
)
def test_rejects_models_that_differ(others):
    with pytest.raises(ValueError, match=f"models must be one or more of one architecture; got {len(others)}"):
        Ensemble(others)
