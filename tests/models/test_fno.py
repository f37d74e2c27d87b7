"""The Fourier neural operator: the package's numbers, exact counts, and what it computes told in other words."""

import math

import pytest
import torch
from helpers import assert_all_near, assert_near, random, reference, within

from minconv.evaluation import rollout
from minconv.models import build_model, count_parameters, named
from minconv.models.fno import FNO, SpectralConv, _ours, from_published
from minconv.training import Training, fit, read_log
from minconv.training.ensemble import Ensemble, stackable

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = {"one": {"size": (8, 12)}, "two": {"size": (6, 4), "channels": 2}}


def make(**options) -> FNO:
    torch.manual_seed(0)
    return FNO(**{"hidden": 4, "layers": 2, "size": (8, 6), "modes": 4, "context": 3} | options).double()


# The package's numbers


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case):
    of, options = within(reference("fno"), f"{case}/"), CASES[case]
    model = from_published(within(of, "param/"), **options)
    x = of["x"].requires_grad_()
    frames = x.unflatten(1, (model.context, model.channels))  # [B, T, C, H, W]
    y = model(frames)
    assert y.shape == (2, 1, model.channels, *model.size)
    assert_near(y[:, 0], of["y"])
    weights = dict(model.named_parameters())
    gx, *grads = torch.autograd.grad((y[:, 0] * of["cot"]).sum(), [x, *weights.values()])
    assert_near(gx, of["gx"])
    expected = dict(_ours(name, value) for name, value in within(of, "grad/").items())
    assert expected.keys() == weights.keys()
    assert_all_near(grads, [expected[name] for name in weights], 1e-10)


def test_other_weights_are_refused():
    weights = within(reference("fno"), "one/param/")
    del weights["lifting.fcs.0.bias"]
    with pytest.raises(ValueError, match=r"(?s)state_dict does not hold .* FNO: .*lift\.0\.bias"):
        from_published(weights, (8, 12))
    with pytest.raises(ValueError, match=r"state_dict does not hold .* FNO"):
        from_published({"conv.weight": torch.zeros(1)}, (8, 12))


@pytest.mark.parametrize(
    "options, number",
    [({}, 1_004_101), ({"modes": 12, "hidden": 16}, 175_825), ({"context": 20, "channels": 2}, 1_005_342)],
)
def test_numbers_of_parameters(options, number):
    with torch.device("meta"):
        model = FNO(**options)
    assert count_parameters(model) == number


def test_its_size_for_the_flow():
    options = named("fno").options({"layers": 6, "norm": "frame", "size": (32, 32)}, context=10, horizon=5)
    assert options == {"context": 10, "size": (32, 32)}
    assert count_parameters(build_model("fno", 0, **options)) == 175_825
    assert count_parameters(build_model("fno", 0)) == 176_145


# What it computes


def test_a_spectral_convolution_is_a_sum_over_wavenumbers():
    torch.manual_seed(0)
    conv = SpectralConv(2, 3, (4, 3)).double()
    x, n = random(2, 2, 8, 10), (8, 10)
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in n)
    weight, expected = torch.view_as_complex(conv.weight.detach()), torch.zeros(2, 3, *n, dtype=torch.float64)
    for p, ky in enumerate((-2, -1, 0, 1)):
        for q, kx in enumerate((0, 1, 2)):
            wave = torch.exp(2j * math.pi * (ky * rows[:, None] + kx * columns))
            amplitude = (x * wave.conj()).mean((-2, -1)) @ weight[p, q]
            # each column but the first stands for two, k and -k; of the first the real part is taken as well
            expected += (1 if kx == 0 else 2) * (amplitude[..., None, None] * wave).real
    assert_near(conv(x), expected + conv.bias)


def test_it_is_on_a_torus_but_for_the_grid():
    model = make()
    with torch.no_grad():
        model.lift[0].weight[:, -2:] = 0  # what it is told of places
    x = random(1, 3, 1, 8, 6)
    assert_near(model(x.roll((3, 2), (-2, -1)), 2), model(x, 2).roll((3, 2), (-2, -1)))


def test_it_knows_where_it_is():
    seen, model = [], make()
    model.lift.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(random(2, 3, 1, 8, 6))
    (given,) = seen
    assert given.shape == (2, 5, 8, 6)
    assert torch.equal(given[1, 3, :, 0], torch.arange(8) / 8.0) and given[0, 3].std(1).max() == 0
    assert torch.equal(given[1, 4, 0], torch.arange(6, dtype=torch.float64) / 6) and given[0, 4].std(0).max() == 0


def test_each_frame_is_made_from_the_last_ones():
    model, x = make(channels=2), random(2, 5, 2, 8, 6)
    found = model(x, 4)
    assert found.shape == (2, 5, 2, 8, 6) and torch.equal(found, model(x[:, 2:], 4))
    frames = x
    for _ in range(5):
        frames = torch.cat([frames, model(frames)], 1)
    assert_near(found, frames[:, 5:])
    assert torch.equal(rollout(model, torch.cat([x, found], 1), 5)[:, 4:], found[:, :5])


def test_gradients_pass_through_the_rollout():
    model, x = make(), random(1, 3, 1, 8, 6)
    weight = model.project[0].weight
    (whole,) = torch.autograd.grad(model(x, 2)[:, 2].sum(), weight)
    seen = torch.cat([x, model(x, 1).detach()], 1)
    (last,) = torch.autograd.grad(model(seen).sum(), weight)
    assert (whole - last).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 2)])
def test_small_frames_have_the_wavenumbers_that_they_have(size):
    model = make(size=size, modes=12)
    rows, columns = (side - side % 2 for side in size)
    assert model.blocks[0].conv.weight.shape[:2] == (rows, columns // 2 + 1)
    assert model(random(1, 3, 1, *size), 1).isfinite().all()


def test_it_is_kept_and_forecasts(tmp_path):
    model, x = make(), random(3, 1, 8, 6)
    ahead = model.set_normalisation([1.0], [2.0]).predict(x, 4)
    assert ahead.shape == (4, 1, 8, 6)
    assert_near(ahead, model((x[None] - 1) / 2, 3)[0] * 2 + 1)
    again = FNO.from_pretrained(model.save_pretrained(tmp_path))
    assert torch.equal(again.predict(x, 4), ahead)


def test_several_as_one_and_in_half_precision():
    models = [make(), make().float().double()]
    with torch.no_grad():
        models[1].lift[0].bias += 1
    x = random(2, 2, 3, 1, 8, 6)
    assert stackable(models, x[0], 2)
    found = Ensemble(models)(x, 2)
    for one, frames, expected in zip(models, x, found, strict=True):
        assert_near(one(frames, 2), expected)
    model, frames = models[0].float(), x[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(frames, 2)
    assert found.dtype == torch.float32  # transforms are made in the weights' precision
    torch.testing.assert_close(found, model(frames, 2), rtol=0, atol=0.1)


def test_it_learns_a_shift(tmp_path):
    """Waves that travel a cell a frame."""
    steps = torch.arange(12)
    wave = torch.sin(2 * math.pi * (torch.arange(8) - steps[:, None]) / 8)  # [T, W]
    frames = wave[None, :, None, None, :].expand(8, 12, 1, 6, 8).clone()
    settings = Training(context=3, horizon=2, epochs=8, optimizer="adam", lr=1e-2, noise=0.0)
    options = {"folder": tmp_path / "run", "settings": settings, "device": "cpu", "quiet": True}
    folder = fit(make(size=(6, 8)), frames, frames, **options)
    losses = [row["validation_loss"] for row in read_log(folder)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"modes": 5}, ValueError, "modes must be even; got 5"),
        ({"modes": 0}, ValueError, "modes must be at least 2; got 0"),
        ({"hidden": 1}, ValueError, "hidden must be at least 2; got 1"),
        ({"layers": 2.0}, TypeError, "layers must be a whole number; got 2.0"),
        ({"size": (8,)}, ValueError, r"size must be \(H, W\); got \(8,\)"),
        ({"size": (8, 1)}, ValueError, r"size\[1\] must be at least 2; got 1"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_bad_frames():
    with pytest.raises(ValueError, match=r"frames must be \[B, T >= 3, 1, 8, 6\]; got \[1, 2, 1, 8, 6\]"):
        make()(random(1, 2, 1, 8, 6))
    with pytest.raises(TypeError, match="frames must"):
        make()(random(1, 3, 1, 8, 6).float())
    with pytest.raises(ValueError, match="horizon must be at least 0; got -1"):
        make()(random(1, 3, 1, 8, 6), -1)
