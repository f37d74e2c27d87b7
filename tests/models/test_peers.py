"""Models of other papers: built, trained, traced and drawn as the others, in experiments that name them alone."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import assert_all_near, assert_near, forecaster, random, read_log, train_one

from minconv import Forecaster
from minconv.core.cells import CELLS, cell_class
from minconv.experiments.navier_stokes import navier_stokes
from minconv.experiments.recipes import RECIPE, setting
from minconv.experiments.series import series_experiment
from minconv.models import MODELS, PEERS, build_model, count_parameters, named
from minconv.models.convs5 import ConvS5
from minconv.models.fno import FNO
from minconv.models.simvp import SimVP
from minconv.runtime.names import STYLE
from minconv.training.ensemble import Ensemble

pytestmark = pytest.mark.usefixtures("one_thread")


RECURRENT = [name for name, model in PEERS.items() if model.recurrent]
OTHERS = {"simvp": (SimVP, "hid_t"), "fno": (FNO, "hidden")}  # and their channels' names


@pytest.fixture(params=PEERS)
def peer(request) -> str:
    return request.param


@pytest.fixture(params=RECURRENT)
def recurrent(request) -> str:
    return request.param


def is_one(model: torch.nn.Module, peer: str) -> bool:
    return isinstance(model.cells[0], cell_class(peer)) if peer in RECURRENT else isinstance(model, OTHERS[peer][0])


def make(cell: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    if cell == "simvp":
        return SimVP(1, 5, (4, 6), hid_s=4, hid_t=16, n_s=2, n_t=2).double()
    if cell == "fno":
        return FNO(hidden=4, layers=2, size=(4, 6), modes=4, context=5).double()
    return forecaster(cell, **options)


def test_no_experiment_has_them_unasked(peer):
    assert peer not in MODELS and peer not in CELLS
    assert all(peer not in one.models for one in navier_stokes("study").settings.values())
    assert peer not in setting(RECIPE, (1,)).models


def test_an_experiment_that_names_them_has_them(peer):
    assert is_one(setting(RECIPE, (1,), ("minconvlstm", peer), layers=1, hidden=4).models[peer](1), peer)


def test_a_series_experiment_that_names_them_has_them(peer, tmp_path):
    shape = {"time": np.datetime64("2000-01-01", "ns") + np.arange(900) * np.timedelta64(1, "D")}
    shape |= {"lat": np.arange(30.0, 38, 2), "lon": np.arange(0.0, 12, 2)}
    series = xr.DataArray(np.random.default_rng(0).normal(size=(900, 4, 6)), shape, tuple(shape), "z")
    parts = {"train": ("2000", "2000"), "validation": ("2001-01", "2001-06"), "test": ("2001-07", "2002-06")}
    built = series_experiment(series, tmp_path, **parts, models=(peer,)).settings["recipe"].models[peer](1)
    assert is_one(built, peer)
    assert built.config["hidden" if peer in RECURRENT else OTHERS[peer][1]] == PEERS[peer].channels[1]


def test_they_have_one_identity_and_the_size_of_all(peer):
    assert (
        STYLE[peer]["label"] == PEERS[peer].label and named(peer) is PEERS[peer] and named("convgru").label == "ConvGRU"
    )
    assert count_parameters(build_model(peer, 0)) == pytest.approx(175_000, rel=0.02)
    options = named(peer).options({"layers": 3}, context=12, horizon=5)
    assert count_parameters(build_model(peer, 0, **options)) == pytest.approx(175_000, rel=0.05)
    options = {"hidden": PEERS[peer].channels[1], "layers": 3, "size": (16, 32)}
    small = build_model(peer, 0, **named(peer).options(options, context=8, horizon=5))
    assert count_parameters(small) == pytest.approx(35_000, rel=0.05)
    assert [STYLE[peer]["color"], STYLE[peer]["marker"]] not in [
        [s["color"], s["marker"]] for n, s in STYLE.items() if n != peer
    ]


def test_unknown_names_are_told_of_them(peer):
    cells = [lambda name: Forecaster(name)] if peer in RECURRENT else []
    for function in (named, lambda name: build_model(name, 0), *cells):
        with pytest.raises(ValueError, match=rf"must be one of convgru, .*{peer}.*; got 'convs6'"):
            function("convs6")


@pytest.mark.parametrize("padding", ["circular", "sphere", "replicate"])
def test_forecaster(recurrent, padding, tmp_path):
    model, x = make(recurrent, padding=padding, dilation=(1, 2)), random(2, 5, 1, 4, 6)
    y = model(x, 3)
    assert y.shape == (2, 8, 1, 4, 6)
    torch.testing.assert_close(model(torch.cat([x, y[:, 4:-1]], 1)), y, rtol=0, atol=1e-10)
    first, states = model.advance(x[:, :2])
    second, _ = model.advance(x[:, 2:], states)
    torch.testing.assert_close(torch.cat([first, second], 1), y[:, :5], rtol=0, atol=1e-10)
    again = Forecaster.from_pretrained(model.save_pretrained(tmp_path))
    assert torch.equal(again(x, 3), y) and again.config["cell"] == recurrent


def test_same_seed_same_weights(peer):
    one, other, third = (build_model(peer, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(x, third[name]) for name, x in one.items() if x.ndim > 2)


def test_models_trained_together_are_each_by_itself(recurrent):
    models, x = (
        [build_model(recurrent, seed, hidden=4, layers=2, size=(4, 6)).double() for seed in (1, 2)],
        random(2, 2, 4, 1, 4, 6),
    )
    together, alone = Ensemble(copy.deepcopy(models)), models
    y = together(x, 2)
    y.square().sum().backward()
    for n, model in enumerate(alone):
        expected = model(x[n], 2)
        assert_near(y[n], expected, 1e-11)
        expected.square().sum().backward()
        found = [weight.grad[n] for weight in together.parameters()]
        assert_all_near(found, [weight.grad for weight in model.parameters()], 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains(recurrent, precision, tmp_path):
    seeds = (1, 2) if precision == "32-true" else (1,)
    losses = [row["train_loss"] for row in read_log(train_one(tmp_path, seeds, cell=recurrent, precision=precision))]
    assert len(losses) == 3 * len(seeds) and max(losses[-len(seeds) :]) < min(losses[: len(seeds)])


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute", "ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning"
)
@pytest.mark.slow
@pytest.mark.parametrize("how", ["compile", "export", "trace"])
def test_traced(peer, how):
    model, x = make(peer).eval().float(), random(2, 5, 1, 4, 6).float()
    expected = model(x)
    if how == "compile":
        torch._dynamo.reset()
        function = torch.compile(model, fullgraph=True, backend="aot_eager")
    else:
        function = torch.export.export(model, (x,)).module() if how == "export" else torch.jit.trace(model, x)
    found = function(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    if how != "export":
        weights = list(model.parameters())
        assert_all_near(*(torch.autograd.grad(y.square().sum(), weights) for y in (found, expected)), 1e-4)


def test_convs5_is_the_published_layer_with_a_norm_over_channels():
    """norm(u + z): but for the eps of the norm, which is 1e-6 there."""
    from minconv.models.convs5 import Block

    model, x = make("convs5", norm="channels", layers=1, padding="zeros"), random(2, 3, 1, 4, 6)
    block = Block(4).double()
    block.cell.load_state_dict(model.cells[0].state_dict())
    assert isinstance(model.cells[0], ConvS5)
    u = model.encoder(x.flatten(0, 1)).unflatten(0, (2, 3))
    expected = model.decoder(block(u)[0].flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-3)
