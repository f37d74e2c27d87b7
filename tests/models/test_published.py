"""Weights that were trained with the published code give what it gives."""

import pytest
import torch
from helpers import forecaster as make
from helpers import reference, within

from minconv import Forecaster, from_reference
from minconv.core.cells import CELLS
from minconv.core.layers import PADDINGS

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = {
    "convgru": "convgru_circular",
    "convlstm": "convlstm_circular",
    "minconvgru": "minconvgru_circular",
    "minconvlstm": "minconvlstm_circular",
    "minconvexplstm": "minconvexplstm_cylinder",
}


@pytest.fixture(params=CELLS)
def cell(request) -> str:
    return request.param


def published(cell: str) -> tuple[dict, dict[str, torch.Tensor], torch.Tensor]:
    """The arrays, the weights by their published names, and the frames to feed."""
    arrays = reference(PUBLISHED[cell])
    return arrays, within(arrays, "param/"), arrays["x"][:, : int(arrays["context"])]


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_published_weights_give_published_outputs(cell, prefix):
    arrays, weights, frames = published(cell)
    model = from_reference(cell, {prefix + name: value for name, value in weights.items()}, arrays["padding"])
    expected = arrays["y"]
    with torch.no_grad():
        y = model(frames, expected.shape[1] - frames.shape[1])
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)


def test_published_weights_of_another_padding_differ(cell):
    arrays, weights, frames = published(cell)
    y = from_reference(cell, weights, "zeros")(frames)
    assert not torch.allclose(y, arrays["y"][:, : y.shape[1]], atol=1e-3)


def test_published_arrays_and_float32():
    arrays, weights, frames = published("minconvgru")
    model = from_reference("minconvgru", {name: value.float().numpy() for name, value in weights.items()}, "circular")
    expected = arrays["y"][:, : frames.shape[1]]
    torch.testing.assert_close(model(frames.float()).double(), expected, rtol=0, atol=1e-5)


def old_names(model: Forecaster) -> dict[str, torch.Tensor]:
    """Weights as the published minimal LSTMs name them."""
    names = {"encoder.": "encoder.0.", "cells.": "clstm.", ".conv.": ".conv.0."}
    weights = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        weights[name] = value
    return weights


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_published_names(prefix, padding):
    model, x = make(padding=padding), torch.randn(1, 3, 1, 4, 6).double()
    weights = {prefix + name: value for name, value in old_names(model).items()}
    assert torch.equal(from_reference("minconvlstm", weights, padding)(x, 2), model(x, 2))


@pytest.mark.parametrize("other", ["convgru", "convlstm", "minconvgru"])
def test_weights_of_another_cell(other):
    with pytest.raises(ValueError, match=f"weights of a published {CELLS[other].__name__} model"):
        from_reference(other, old_names(make()), "circular")


def without(weights: dict, end: str) -> dict:
    return {name: value for name, value in weights.items() if not name.endswith(end)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weights: {},
        lambda weights: {"epoch": torch.tensor(3)},
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: without(weights, "decoder.bias"),
        lambda weights: without(weights, "norms.1.weight"),
        lambda weights: without(weights, "encoder.0.weight"),
        lambda weights: weights | {"clstm.0.conv.0.weight": torch.zeros(12, 4, 5, 5, dtype=torch.float64)},
        lambda weights: weights | {"head.weight": torch.zeros(2)},
        lambda weights: weights | {"clstm.0.conv.0.weight": "none"},
    ],
)
def test_incomplete_or_foreign_weights(spoil):
    with pytest.raises(ValueError, match="state_dict does not hold the weights of a published MinConvLSTM model"):
        from_reference("minconvlstm", spoil(old_names(make())), "circular")


@pytest.mark.parametrize(
    "cell, padding, message",
    [
        ("lstm", "circular", "cell must be one of convgru, .*'lstm'"),
        ("minconvlstm", "torus", "padding must be one of.*'torus'"),
    ],
)
def test_from_reference_rejects(cell, padding, message):
    with pytest.raises(ValueError, match=message):
        from_reference(cell, old_names(make()), padding)
