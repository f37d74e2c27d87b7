"""SimVP without its program's numbers: shapes, blocks by hand, what goes wrong silently elsewhere, and the house."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import assert_near, random, waves
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.evaluation import evaluate, forecast, persistence, rollout
from minconv.evaluation.combine import Combination
from minconv.evaluation.compare import collect
from minconv.evaluation.errors import closed_loop_mean, sample_errors, summary
from minconv.experiments import Experiment
from minconv.experiments.recipes import RECIPE, SHAPE, setting
from minconv.experiments.tasks import Trajectories
from minconv.models import build_model
from minconv.models.simvp import ConvSC, GatedBlock, Inception, IncepU, SimVP, gsta
from minconv.training import Run, Training, fit, load_weights, read_log, restore
from minconv.training.ensemble import Ensemble, stackable

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"channels": 2, "context": 4, "size": (8, 12), "hid_s": 4, "hid_t": 16, "n_s": 2, "n_t": 2, "mlp_ratio": 2}
TRANSLATORS = ("gsta", "incepu")


def make(translator: str = "gsta", seed: int = 0, **options) -> SimVP:
    """In float64 with weights that are no initial values, so that every term shows."""
    torch.manual_seed(seed)
    model = SimVP(translator=translator, **SMALL | options).double()
    for name, weight in model.named_parameters():
        if weight.ndim == 4:
            nn.init.kaiming_normal_(weight)
        elif "norm" in name or "scale" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    return model


def frames(*shape: int, seed: int = 1) -> Tensor:
    return random(*shape, 2, 8, 12, seed=seed)


# How many frames


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_frames_below_at_and_above_the_context(translator):
    """T_out = 3, 4, 6, 11 of T = 4: each is a prefix of the next; frames beyond the fourth are of its own output."""
    model, x = make(translator).eval(), frames(2, 4)
    three, four, six, eleven = (model(x, steps - 1) for steps in (3, 4, 6, 11))
    assert [y.shape[1] for y in (three, four, six, eleven)] == [3, 4, 6, 11]
    assert torch.equal(four, model.following(x)) and torch.equal(three, four[:, :3])
    second = model.following(four)
    assert_near(six, torch.cat([four, second[:, :2]], 1))
    assert_near(eleven, torch.cat([four, second, model.following(second)[:, :3]], 1))
    assert model(x).shape[1] == 1  # the next one


def test_gradients_pass_through_the_chain():
    model, x = make().eval(), frames(1, 4).requires_grad_()
    weight = model.readout.weight
    (whole,) = torch.autograd.grad(model(x, 5)[:, 4:].sum(), weight)
    (last,) = torch.autograd.grad(model(model(x, 3).detach(), 1).sum(), weight)
    assert (whole - last).abs().max() > 1e-3
    assert torch.autograd.grad(model(x, 5)[:, 4:].sum(), x)[0].abs().max() > 0


def test_what_goes_ahead_is_what_was_trained():
    """With ``ahead`` below the context the window slides by as much."""
    model, whole, x = make(ahead=3).eval(), make().eval(), frames(2, 4)
    found = model(x, 6)
    assert_near(found[:, :3], whole(x, 2))
    assert_near(found[:, 3:6], whole(torch.cat([x[:, 3:], found[:, :3]], 1), 2))
    assert_near(found[:, 6:], whole(found[:, 2:6], 0))


def test_the_last_frames_are_seen():
    model, x = make().eval(), frames(2, 7)
    assert torch.equal(model(x, 5), model(x[:, 3:], 5))
    other = x.clone()
    other[:, 3] += 1
    assert not torch.equal(model(x), model(other))


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_order_matters(translator):
    model, x = make(translator).eval(), frames(1, 4)
    swapped = model(x[:, [1, 0, 2, 3]], 3)
    assert (swapped - model(x, 3)).abs().amax((0, 2, 3, 4)).min() > 1e-3
    one = model.encoder[0](x.flatten(0, 1))
    assert_near(one[2:3], model.encoder[0](x[0, 2:3]))  # frames are encoded one by one


def test_time_is_the_slow_index_of_the_channels():
    model, x, seen = make().eval(), frames(2, 4), []
    model.translator.register_forward_hook(lambda _, given, output: seen.append(given[0]))
    model.following(x)
    for t in range(4):  # channel t S + s
        latent = model.encoder[1](model.encoder[0](x[:, t]))
        assert_near(seen[0][:, 4 * t : 4 * t + 4], latent)
    model.translator = nn.Identity()  # and back: frames are then decoded one by one
    found = model.following(x)
    for t in range(4):
        skip = model.encoder[0](x[:, t])
        low = model.decoder[0](model.encoder[1](skip))
        assert_near(found[:, t], model.readout(model.decoder[1](low + skip)))


def test_each_frame_has_the_skip_of_the_frame_it_stands_for():
    model, x = make(context=2, n_s=4).eval(), frames(1, 2)
    with torch.no_grad():
        for block in model.decoder[:-1]:  # nothing but the skip is left
            block.norm.weight.zero_()
            block.norm.bias.zero_()
    skips = model.encoder[0](x[0])
    expected = model.readout(model.decoder[-1](skips))
    assert_near(model(x, 1)[0], expected)


# Layers


@pytest.mark.parametrize("kernel", [3, 5])
def test_units_keep_halve_and_double(kernel):
    x = torch.randn(2, 4, 8, 12, dtype=torch.float64)
    shapes = {"plain": (8, 12), "down": (4, 6), "up": (16, 24)}
    for mode, size in shapes.items():
        unit = ConvSC(4, 6, kernel, mode).double()
        nn.init.normal_(unit.conv.weight)
        y = unit(x)
        assert y.shape == (2, 6, *size)
        out = F.conv2d(x, unit.conv.weight, unit.conv.bias, 1 + (mode == "down"), kernel // 2)
        out = F.pixel_shuffle(out, 2) if mode == "up" else out
        assert_near(y, F.silu(F.group_norm(out, 2)))


def test_layers_of_encoder_and_decoder():
    model = SimVP(1, 2, (16, 16), hid_s=4, hid_t=8, n_s=4, n_t=2)
    assert [block.conv.stride[0] for block in model.encoder] == [1, 2, 1, 2]
    assert [block.conv.out_channels for block in model.decoder] == [16, 4, 16, 4]
    assert all(block.norm.num_groups == 2 and block.norm.eps == 1e-5 for block in (*model.encoder, *model.decoder))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.padding_mode == "zeros" and conv.bias is not None for conv in convolutions)


def test_gated_block_by_hand():
    """The inner shortcut is of the normalised input, sigmoid of the second half gates the first, gelu is the exact one,
    and the gate does not multiply what came in."""
    torch.manual_seed(0)
    block = GatedBlock(4, 6, 3, 0.0).double().eval()
    for weight in block.parameters():
        nn.init.normal_(weight, 0.3, 0.5)
    for norm in (block.norm1, block.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    u = torch.randn(2, 4, 20, 21, dtype=torch.float64)

    def normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def conv(x: Tensor, layer: nn.Conv2d, **options) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, **options)

    v = normed(u, block.norm1)
    near = conv(F.gelu(conv(v, block.enter)), block.near, padding=2, groups=4)
    both = conv(conv(near, block.far, padding=9, dilation=3, groups=4), block.gate)
    inner = v + conv(both[:, :4] * torch.sigmoid(both[:, 4:]), block.leave)
    w = u + block.scale1[:, None, None] * inner
    mixed = conv(conv(normed(w, block.norm2), block.widen), block.mix, padding=1, groups=12)
    w = w + block.scale2[:, None, None] * conv(F.gelu(mixed), block.narrow)
    assert block.widen.out_channels == 12
    assert_near(block(u), conv(w, block.reduction))


def test_gradients_of_a_block():
    torch.manual_seed(0)
    block, x = GatedBlock(2, 2, 2, 0.0).double(), torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        block.scale1.fill_(0.7)
        block.scale2.fill_(0.6)
    assert torch.autograd.gradcheck(block, (x,))
    inception = Inception(2, 8, 16).double()
    assert torch.autograd.gradcheck(inception, (x,))


def test_widths_of_the_blocks():
    """Each works at the width that it is given, the first at T S; convolutions between widths alone."""
    blocks = gsta(40, 16, 4, 8, [0.0] * 4)
    assert [block.norm1.num_features for block in blocks] == [40, 16, 16, 16]
    assert [type(block.reduction) for block in blocks] == [nn.Conv2d, nn.Identity, nn.Identity, nn.Conv2d]
    assert blocks[0].widen.out_channels == 320 and blocks[3].reduction.out_channels == 40
    assert all(isinstance(block.reduction, nn.Identity) for block in gsta(16, 16, 3, 8, [0.0] * 3))


@pytest.mark.parametrize("hidden, groups", [(16, 8), (32, 8), (12, 1), (20, 1)])
def test_groups_of_the_inception_block(hidden, groups):
    torch.manual_seed(0)
    block, x = Inception(3, 8, hidden).double(), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    v = F.conv2d(x, block.enter.weight, block.enter.bias)
    expected = torch.zeros(2, 8, 6, 7, dtype=torch.float64)
    for k, (conv, norm, _) in zip((3, 5, 7, 11), block.branches, strict=True):
        y = F.conv2d(v, conv.weight, conv.bias, padding=k // 2, groups=groups)
        expected += F.leaky_relu(F.group_norm(y, groups), 0.2)
        assert norm.num_groups == groups and conv.weight.shape == (8, hidden // 2 // groups, k, k)
    assert_near(block(x), expected)


def test_the_u_joins_in_order():
    """What comes from below first, what was kept second; the last kept joins first."""
    torch.manual_seed(0)
    u, x = IncepU(8, 16, 3).double(), torch.randn(2, 8, 4, 4, dtype=torch.float64)
    e0 = u.down[0](x)
    e1 = u.down[1](e0)
    d0 = u.up[0](u.down[2](e1))
    d1 = u.up[1](torch.cat([d0, e1], 1))
    assert_near(u(x), u.up[2](torch.cat([d1, e0], 1)))


def test_incepu_with_other_groups_runs():
    model = make("incepu", hid_t=12, context=3, hid_s=2).eval()
    assert model(frames(2, 3), 4).shape == (2, 5, 2, 8, 12)


@pytest.mark.parametrize("translator", ["gsta", "incepu"])
def test_no_place_of_a_torus_is_special(translator):
    """However far kernels reach: the widest of gSTA sees ten cells to every side of latents of 4 x 6."""
    x = frames(1, 4)
    for padding, alike in (("circular", True), ("zeros", False)):
        model = make(translator=translator, padding=padding)
        moved, beside = model(x.roll((2, 4), (-2, -1)), 2), model(x, 2).roll((2, 4), (-2, -1))
        assert torch.allclose(moved, beside, rtol=0, atol=1e-12) == alike


def test_initial_values():
    torch.manual_seed(0)
    model = SimVP(1, 10, (16, 16), hid_s=32, hid_t=64, n_s=4, n_t=2)
    block, first = model.translator[0], model.encoder[1]
    assert first.conv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    layers = block.enter, block.gate, block.near, block.far, block.mix
    for conv, outputs in zip(layers, (320, 640, 25, 49, 9), strict=True):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / outputs), rel=0.05)
        assert not conv.bias.any()
    assert not first.conv.bias.any() and (block.scale1 == 0.01).all() and (block.scale2 == 0.01).all()
    assert model.readout.bias.any() and block.reduction.bias.any()  # PyTorch's own


# Stochastic depth


@pytest.mark.parametrize(
    "last, expected", [(0.0, [0.01, 0.0075, 0.005, 0.0025, 0]), (0.1, [0.01, 0.0325, 0.055, 0.0775, 0.1])]
)
def test_rates_begin_at_a_hundredth(last, expected):
    """With 0 as well: that is not off."""
    model = make(n_t=5, drop_path=last)
    assert [block.rate for block in model.translator] == pytest.approx(expected)
    assert [block.rate for block in make(n_t=5, drop_path=None).translator] == [0] * 5
    assert make(n_t=5).config["drop_path"] == 0


def test_stochastic_depth():
    torch.manual_seed(0)
    block, x = GatedBlock(3, 3, 2, 0.25).double(), torch.ones(4000, 3, 2, 2, dtype=torch.float64)
    kept = block._kept(x)
    values = kept.flatten(1)
    assert (values == values[:, :1]).all()  # of a sample as a whole
    assert set(values[:, 0].tolist()) == {0.0, 1 / 0.75}
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert (kept != block._kept(x)).any()
    assert block.eval()._kept(x) is x


def test_depth_is_random_in_training_alone():
    model, x = make(drop_path=0.5), frames(6, 4)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_only_gsta_norms_over_the_batch():
    kinds = {translator: {type(module) for module in make(translator).modules()} for translator in TRANSLATORS}
    assert nn.BatchNorm2d in kinds["gsta"] and nn.BatchNorm2d not in kinds["incepu"]
    x = frames(3, 4)
    for translator in TRANSLATORS:
        model = make(translator, drop_path=None)
        alone, together = model(x[:1], 3), model(x, 3)[:1]
        assert torch.allclose(alone, together, atol=1e-10) == (translator == "incepu")
        model.eval()
        assert_near(model(x[:1], 3), model(x, 3)[:1])
    assert make().translator[0].norm1.momentum == 0.1


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_single_precision(translator):
    model, x = make(translator).eval(), frames(2, 4)
    expected = model(x, 5)
    found = copy.deepcopy(model).float()(x.float(), 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


# What is refused


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"n_s": 3}, ValueError, "n_s must be even; got 3"),
        ({"n_s": 1}, ValueError, "n_s must be at least 2; got 1"),
        ({"hid_s": 5}, ValueError, "hid_s must be even; got 5"),
        ({"k_enc": 4}, ValueError, "k_enc must be odd; got 4"),
        ({"k_dec": 2}, ValueError, "k_dec must be odd; got 2"),
        ({"size": (59, 60), "n_s": 4}, ValueError, r"size must be \(H, W\), multiples of 4 with n_s = 4; got \(59, 60"),
        ({"size": (8, 9)}, ValueError, "multiples of 2 with n_s = 2"),
        ({"size": 8}, ValueError, r"size must be \(H, W\)"),
        ({"context": 0}, ValueError, "context must be at least 1"),
        ({"n_t": 1}, ValueError, "n_t must be at least 2; got 1"),
        ({"ahead": 5}, ValueError, "ahead must be at most context, 4; got 5"),
        ({"drop_path": 1.0}, ValueError, "drop_path must be below 1; got 1"),
        ({"drop_path": -0.1}, ValueError, "drop_path must be above 0"),
        ({"translator": "tau"}, ValueError, "translator must be one of gsta, incepu; got 'tau'"),
        ({"translator": "incepu", "hid_t": 17}, ValueError, "must be multiples of 8 where hid_t // 2 is; got 17"),
        ({"translator": "incepu", "context": 5}, ValueError, "must be multiples of 8 where hid_t // 2 is; got 20"),
        ({"channels": 1.5}, TypeError, "channels must be a whole number"),
        ({"padding": "sphere"}, ValueError, "padding must be one of zeros, circular; got 'sphere'"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        SimVP(**SMALL | options)


@pytest.mark.parametrize(
    "shape", [(2, 3, 2, 8, 12), (2, 4, 1, 8, 12), (2, 4, 2, 8, 11), (2, 4, 2, 12, 8), (4, 2, 8, 12)]
)
def test_frames_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"frames must be \[B, T >= 4, 2, 8, 12\]; got \["):
        make()(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"frames must be torch.float64 like the weights; got torch.float32"):
        make()(torch.zeros(2, 4, 2, 8, 12))
    with pytest.raises(ValueError, match="horizon must be at least 0"):
        make()(frames(1, 4), -1)


# In this house


def test_predicts_and_comes_back_as_it_was(tmp_path):
    mean, std = (torch.tensor(values)[:, None, None] for values in ([10.0, -3], [20, 0.5]))
    for translator in TRANSLATORS:
        model = make(translator, ahead=3).set_normalisation(mean.flatten().tolist(), std.flatten().tolist())
        model(frames(3, 4))  # in training, which changes the norms' statistics
        x = 10 + 20 * frames(2, 6)
        expected = model.eval()((x - mean) / std, 4)
        found = model.train().predict(x, 5)
        assert_near(found, expected * std + mean)
        assert model.training and model.predict(x[0].numpy(), 2).shape == (2, 2, 8, 12)
        again = SimVP.from_pretrained(model.save_pretrained(tmp_path / translator))
        assert torch.equal(again.predict(x, 5), found) and again.config == model.config
        assert str(again) == str(model) and again.normalisation == model.normalisation


def test_a_rollout_has_no_outputs_of_frames_that_were_seen():
    model, truth = make().eval(), frames(3, 11)
    found = rollout(model, truth, 6, batch=2)
    assert found.shape == truth[:, 1:].shape
    assert found[:, :5].isnan().all()
    assert_near(found[:, 5:], model(truth[:, :6], 4))
    with pytest.raises(ValueError, match=r"model must return frames of shape \[3, 10, 2, 8, 12\]; got \[3, 3, 2"):
        rollout(lambda x, horizon: model(x, horizon)[:, 2:], truth, 6)


def test_scores_are_of_the_frames_that_all_predict():
    truth, context = frames(4, 11), 6
    mine, other = (rollout(forecaster, truth, context) for forecaster in (make().eval(), persistence))
    scored = {("simvp", 1): mine, ("persistence", None): other}
    together = collect({key: evaluate(found, truth, context) for key, found in scored.items()})
    ahead = together.rmse.sel(seed=1, time=slice(context, None))  # the new frames
    expected = (mine[:, 5:] - truth[:, 6:]).square().mean((0, 2, 3, 4)).sqrt()
    np.testing.assert_allclose(ahead.sel(model="simvp"), expected, rtol=1e-12)
    assert np.isfinite(ahead).all() and np.isnan(together.rmse.sel(model="simvp", time=slice(1, context - 1))).all()
    parts = summary(together).sel(seed=1)
    assert np.isfinite(parts.closed_loop).all() and np.isfinite(closed_loop_mean(together).rmse).all()
    assert np.isnan(parts.teacher_forced).values.tolist() == [True, False]
    by_sample = sample_errors(mine, truth, context)
    assert np.isfinite(by_sample.closed_loop).all() and np.isnan(by_sample.teacher_forced).all()


def test_forecasts_of_a_series_alone_and_with_others():
    times = np.datetime64("2001-01-01", "ns") + np.arange(9) * np.timedelta64(1, "D")
    shape = {"time": times, "lat": np.linspace(0.0, 70, 8), "lon": np.arange(0.0, 12)}
    model, x = make(channels=1).eval(), frames(1, 9)[:, :, :1]
    history = xr.DataArray(x[0, :, 0], shape, tuple(shape), "z")
    found = forecast(model, history, 6)
    assert found.sizes["lead_time"] == 6
    np.testing.assert_allclose(found.values[0], model(x, 5)[0, :, 0].detach(), rtol=1e-12)
    mine, other = model(x, 5), persistence(x, 5)[:, -6:]
    both = (mine + other) / 2
    for members in ([model, persistence], [persistence, model]):
        assert_near(Combination(members)(x, 5), both)
        np.testing.assert_allclose(forecast(Combination(members), history, 6).values[0], both[0, :, 0].detach())
    weights = np.random.default_rng(1).uniform(size=(2, 6, 1))
    a, b = torch.from_numpy(weights)[:, None, :, :, None, None]
    assert_near(Combination([persistence, model], weights)(x, 5), a * other + b * mine)


def test_experiments_give_it_their_windows_and_no_layers():
    models = setting(RECIPE, (1,), ("minconvlstm", "simvp"), **SHAPE).models
    model = models["simvp"](1)
    assert (model.context, model.ahead, model.size) == (20, 6, (16, 16))
    assert model(torch.randn(2, 20, 1, 16, 16), 30).shape == (2, 31, 1, 16, 16)
    assert models["simvp"](1).state_dict().keys() == model.state_dict().keys()
    assert build_model("simvp", 1, context=8, hidden=16, translator="incepu").config["translator"] == "incepu"
    with pytest.raises(TypeError, match="unexpected keyword argument 'known'"):
        setting(RECIPE, (1,), ("simvp",), known=2).models["simvp"](1)


# Training

SETTINGS = Training(context=4, horizon=2, epochs=2, batch=2, optimizer="adam", lr=2e-3, warmup=0.0, noise=0.0)


def moving(samples: int, length: int = 9, seed: int = 0) -> Tensor:
    return waves(samples, length, seed, size=8)


def build(seed: int, **options) -> SimVP:
    torch.manual_seed(seed)
    return SimVP(**SMALL | {"channels": 1, "size": (8, 8), "ahead": 3} | options)


def data() -> dict:
    return {"train": moving(4), "validation": moving(3, seed=1), "device": "cpu", "quiet": True}


def test_the_loss_is_of_the_new_frames(tmp_path):
    """Of T_out = horizon + 1 frames, none of those seen."""
    held = moving(3, 7, seed=1)
    fit(Run(build, [1], tmp_path, SETTINGS), moving(6), held, device="cpu", quiet=True)
    model = restore(build(1), load_weights(tmp_path)[1]).eval()
    best = min(row["validation_loss"] for row in read_log(tmp_path))
    expected = (model(held[:, :4], 2) - held[:, 4:]).square().mean().item()
    assert best == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_a_model_is_fitted_in_place(translator, tmp_path):
    model, train = build(0, translator=translator), 20 * moving(6) + 280
    fit(model, train.numpy(), train[:3], folder=tmp_path, settings=SETTINGS, device="cpu", quiet=True)
    assert model.normalisation[0] == pytest.approx([280], abs=3) and not model.training
    assert abs(model.predict(train[:, :5], 4).mean().item() - 280) < 20
    short = build(0, context=5)
    with pytest.raises(ValueError, match=r"frames must be \[B, T >= 5, 1, 8, 8\]; got \[2, 4, 1, 8, 8\]"):
        fit(short, train, train[:3], folder=tmp_path / "other", settings=SETTINGS, device="cpu", quiet=True)


@pytest.mark.slow
def test_an_experiment_compares_it_with_a_recurrent_model(tmp_path):
    """Whose test forecasts see more frames than it was trained on."""
    task = Trajectories(moving(4), moving(3, seed=1), moving(3, 12, seed=2), context=6)
    compared = setting(SETTINGS, (1,), ("minconvgru", "simvp"), layers=1, size=(8, 8), hidden=8)
    experiment = Experiment("moving", tmp_path, {"short": compared}, lambda device: task, "cpu")
    experiment.train()
    parts = summary(experiment.evaluate()).sel(seed=1)
    assert parts.model.values.tolist() == ["persistence", "minconvgru", "simvp"]
    assert np.isfinite(parts.closed_loop).all()
    trained = {name: model for name, _, model in experiment.trained()}
    assert (trained["simvp"].context, trained["simvp"].ahead) == (4, 3)
    new = trained["simvp"](task.test[:, 2:6], 5)
    expected = (new[:, 1:] - task.test[:, 7:]).square().mean().sqrt().item()
    assert parts.closed_loop.sel(model="simvp").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("drop_path", [None, 0.0])
def test_seeds_trained_together_are_as_alone(drop_path, tmp_path):
    """Random depth cannot be stacked; the norms' statistics, which are changed in place, can."""
    run = partial(Run, partial(build, drop_path=drop_path), settings=SETTINGS)
    together = load_weights(fit(run([1, 2], tmp_path / "both"), **data()), "last")
    alone = load_weights(fit(run([2], tmp_path / "one"), **data()), "last")[2]
    models = [build(seed, drop_path=drop_path) for seed in (1, 2)]
    assert stackable(models, moving(1)[:, :4], 2) == (drop_path is None)
    torch.testing.assert_close(together[2], alone, rtol=1e-3, atol=1e-4)
    norms = [name for name in alone if name.endswith("running_mean")]
    assert len(norms) == 4 and all(alone[name].any() for name in norms)


def test_stacked_models_in_evaluation():
    models, x = [make(seed=seed, drop_path=None).eval() for seed in (1, 2)], frames(2, 3, 4)
    together = Ensemble(copy.deepcopy(models)).eval()(x, 5)
    for n, model in enumerate(models):
        assert_near(together[n], model(x[n], 5))


@pytest.mark.slow
@pytest.mark.parametrize("translator", TRANSLATORS)
def test_learns_four_sequences_by_heart(translator):
    torch.manual_seed(0)
    model, x = build(0, translator=translator, drop_path=None, ahead=None), moving(4, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = (model(x[:, :4], 3) - x[:, 4:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.slow
def test_half_precision(tmp_path):
    folder = fit(Run(build, [1], tmp_path, SETTINGS), **data(), precision="bf16-mixed")
    assert read_log(folder)[-1]["train_loss"] < read_log(folder)[0]["train_loss"]
