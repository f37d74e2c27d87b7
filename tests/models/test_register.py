"""A cell of one's own, registered by one call, on every backend and in every comparison."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from minconv import ConvGRU, Forecaster, MinConvLSTM
from minconv.core.cells import CELLS, MinimalCell
from minconv.core.gates import GATINGS, Gating
from minconv.core.scan import usable
from minconv.experiments.navier_stokes import navier_stokes
from minconv.models import MODELS, build_model, count_parameters, register
from minconv.runtime.names import STYLE

pytestmark = pytest.mark.usefixtures("one_thread")


class Decay(MinimalCell):
    """One gate: what is written and what is kept add up to one on a logarithmic scale."""

    gating = "decay"


@pytest.fixture
def decay():
    GATINGS["decay"] = Gating(2, lambda z: -logsigmoid(z).exp() * 3)
    register("decay", Decay, label="Decay", color="#882255")
    yield "decay"
    for registry in (CELLS, MODELS, STYLE, GATINGS):
        registry.pop("decay", None)


def test_runs_on_every_backend(decay):
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, 4, 5, dtype=torch.float64)
    cell, grads = Decay(3, 4, backend="reference").double(), {}
    for backend in ("auto", *(name for name in usable("cpu") if name != "distributed")):
        other = Decay(3, 4, backend=backend).double()
        other.load_state_dict(cell.state_dict())
        y, _ = other(x)
        y.square().sum().backward()
        torch.testing.assert_close(y, cell(x)[0], rtol=1e-9, atol=1e-9)
        grads[backend] = other.conv.weight.grad
    for grad in grads.values():
        torch.testing.assert_close(grad, grads["reference"], rtol=1e-7, atol=1e-9)


def test_is_a_model_like_the_others(decay, tmp_path):
    model = build_model(decay, seed=1)
    assert abs(count_parameters(model) / 175_000 - 1) < 0.03 and MODELS[decay].minimal
    assert STYLE[decay]["label"] == MODELS[decay].label == "Decay" and STYLE[decay]["color"] == "#882255"
    found = Forecaster.from_pretrained(model.save_pretrained(tmp_path))
    assert isinstance(found.cells[0], Decay) and found.config["cell"] == "decay"
    assert decay in navier_stokes("smoke").settings["recipe"].models


def test_refuses_names_and_classes(decay):
    for name in ("minconvlstm", "decay", "persistence"):
        with pytest.raises(ValueError, match="name must be one that is not taken"):
            register(name, Decay, label="Again", color="red")
    for cell in (torch.nn.GRU, MinConvLSTM(1, 2), "convgru"):
        with pytest.raises(TypeError, match="cell must be a class"):
            register("mine", cell, label="Mine", color="red")
    assert "mine" not in MODELS and "mine" not in CELLS
    register("mine", ConvGRU, label="Mine", color="red")
    try:
        assert not MODELS["mine"].minimal
    finally:
        for registry in (CELLS, MODELS, STYLE):
            del registry["mine"]
