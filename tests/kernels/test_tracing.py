"""``torch.compile``, ``torch.export`` and ``torch.jit.trace`` give what is computed eagerly."""

from collections.abc import Callable

import pytest
import torch
from helpers import assert_all_near

from minconv import Forecaster
from minconv.core import scan
from minconv.core.cells import CELLS
from minconv.core.scan import kernels

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(  # the tracers' own
        "ignore:The .grad attribute", "ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning"
    ),
]
QUICK = [pytest.param(name, marks=[pytest.mark.slow] * (name != "minconvlstm")) for name in CELLS]
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] * ((name, kind) != ("minconvlstm", "cell")))
    for name, kind in [*((name, "cell") for name in CELLS), ("minconvlstm", "forecaster"), ("convlstm", "forecaster")]
]


def make(name: str, kind: str) -> tuple[torch.nn.Module, torch.Tensor, dict[str, int]]:
    """A cell or a forecaster, its input and options."""
    torch.manual_seed(0)
    if kind == "cell":
        return CELLS[name](2, 3, padding="circular"), torch.randn(2, 5, 2, 4, 6), {}
    return Forecaster(name, hidden=4, layers=2, size=(4, 6)), torch.randn(2, 5, 1, 4, 6), {"horizon": 2}


def outputs(found) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else [x for part in found for x in outputs(part)]


def values_and_gradients(function: Callable, model: torch.nn.Module, x: torch.Tensor, **options) -> list[torch.Tensor]:
    found = outputs(function(x, **options))
    return [*found, *torch.autograd.grad(sum(y.square().sum() for y in found), list(model.parameters()))]


@pytest.mark.parametrize("name, kind", CASES)
def test_compile_without_a_break(name, kind, monkeypatch):
    """Also before any eager call has asked for the kernels."""
    monkeypatch.setattr(scan, "_loaded", {})
    model, x, options = make(name, kind)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = values_and_gradients(compiled, model, x, **options)
    assert_all_near(found, values_and_gradients(model, model, x, **options), 1e-5)


@pytest.mark.robustness
@pytest.mark.skipif(" " in torch.__file__, reason="Inductor's compiler commands end at a space in PyTorch's own path")
def test_compile_by_inductor():
    model, x, _ = make("minconvlstm", "cell")
    torch._dynamo.reset()
    found = values_and_gradients(torch.compile(model, fullgraph=True), model, x)
    assert_all_near(found, values_and_gradients(model, model, x), 1e-5)


@pytest.mark.parametrize("name, kind", CASES)
def test_export(name, kind):
    model, x, options = make(name, kind)
    exported = torch.export.export(model, (x,), options).module()
    assert_all_near(outputs(exported(x, **options)), outputs(model(x, **options)), 1e-5)


@pytest.mark.parametrize("kind", ["cell", "forecaster"])
@pytest.mark.parametrize("name", QUICK)
def test_jit_trace(name, kind):
    model, x, _ = make(name, kind)
    found = values_and_gradients(torch.jit.trace(model, x), model, x)
    assert_all_near(found, values_and_gradients(model, model, x), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("gating, shape", [("linear", (2, 3, 4)), ("lstm", (2, 3, 6, 2, 2))])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_registered_operations_keep_pytorchs_rules(backend, gating, shape):
    module = kernels(backend)
    if module is None or not module.available("cpu"):
        pytest.skip(f"{backend} cannot run here")
    forward, backward = (getattr(torch.ops.minconv, f"{backend}_scan{end}") for end in ("", "_backward"))
    sequence = torch.rand(shape)
    if gating == "linear":
        inputs, h0 = [sequence, torch.rand(shape)], torch.rand(2, 4)
    else:
        last = sequence.movedim(2, -1).contiguous().movedim(-1, 2)  # channels_last
        inputs, h0 = [last], torch.rand(2, 2, 2, 2)
    wanted = [x.clone().requires_grad_() for x in inputs]
    torch.library.opcheck(forward.default, (gating, h0.clone().requires_grad_(), wanted))
    h = forward(gating, h0, inputs)
    tests = ("test_schema", "test_faketensor")  # it has no gradient of its own
    torch.library.opcheck(backward.default, (gating, torch.rand(h.shape), h0, inputs, h), test_utils=tests)
