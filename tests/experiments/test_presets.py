"""Profiles and the experiments they name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minconv.core.cells import CELLS
from minconv.evaluation import errors as metrics
from minconv.experiments import presets
from minconv.experiments.presets import PROFILES, build_model, get_profile
from minconv.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")


def test_paper_has_the_published_settings():
    paper = PROFILES["paper"]
    assert paper.samples == (1000, 50, 200) and paper.frames == (50, 50, 51)
    assert paper.seeds == (1234, 1235, 1236, 1237, 1238) and paper.test_context == 20
    published = paper.settings["published"].training
    assert (published.context, published.horizon, published.epochs, published.batch) == (20, 5, 30, 1)
    assert (published.lr, published.weight_decay, published.noise, published.clip) == (5e-4, 0.01, 1e-2, None)
    assert replace(published, context=5, horizon=10) in [setting.training for setting in paper.settings.values()]


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_sound(name):
    profile = get_profile(name)
    assert profile.name == name and len(set(profile.seeds)) == len(profile.seeds)
    for setting in [setting.training for setting in profile.all_settings.values()]:
        assert setting.context + setting.horizon < min(profile.frames[:2]) and setting.batch <= profile.samples[0]
    assert profile.test_context < profile.frames[2]
    assert sorted(profile.timing_lengths) == list(profile.timing_lengths)


def test_default_profile(monkeypatch):
    monkeypatch.setenv("MINCONV_PROFILE", "laptop")
    assert get_profile() is PROFILES["laptop"] and get_profile("smoke") is PROFILES["smoke"]
    monkeypatch.delenv("MINCONV_PROFILE")
    for gpu, name in ((True, "paper"), (False, "laptop")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert get_profile().name == name


@pytest.mark.parametrize("name, error", [("large", ValueError), ("", ValueError), (3, TypeError)])
def test_unknown_profiles(name, error, monkeypatch):
    with pytest.raises(error, match=r"profile must be .*one of smoke, laptop, paper; got"):
        get_profile(name)
    monkeypatch.setenv("MINCONV_PROFILE", "large")
    with pytest.raises(ValueError, match="got 'large'"):
        get_profile()


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    profile = PROFILES["smoke"]
    assert presets.home() == tmp_path and profile.figures == tmp_path / "results" / "smoke" / "figures"
    run = presets.runs(profile, "published", "cpu")[0]
    assert run.folder == tmp_path / "results/smoke/runs/published/convgru/1234"
    monkeypatch.delenv("MINCONV_HOME")
    assert presets.home() == Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("cell", [*CELLS, *CELLS.values()])
def test_models_have_about_the_same_size(cell):
    assert set(presets.HIDDEN) == set(CELLS)
    count = sum(weight.numel() for weight in build_model(cell, 0).parameters())
    assert count == pytest.approx(175_000, rel=0.05)


@pytest.mark.parametrize("options", [{"kernel_size": 5}, {"layers": 8}, {"layers": 2, "kernel_size": 5}])
def test_other_shapes_have_other_channels(options):
    for cell in CELLS:
        count = sum(weight.numel() for weight in build_model(cell, 0, **options).parameters())
        assert count == pytest.approx(175_000, rel=0.05)
    assert build_model("convlstm", 0, hidden=7, **options).encoder.weight.shape[0] == 7


def weights(cell: str, seed: int) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in build_model(cell, seed).parameters()])


def test_seeds_decide_initial_weights_and_nothing_else():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights("minconvgru", 1234)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weights("minconvgru", 1234), first)
    assert not torch.equal(weights("minconvgru", 1235), first)


def test_models_rejected():
    with pytest.raises(ValueError, match="cell must be one of"):
        build_model("lstm", 1)
    with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
        build_model("convgru", -1)


@pytest.mark.parametrize("gpu", [False, True])
def test_runs_cover_every_model_and_seed_once(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    profile = PROFILES["smoke"]
    found = presets.runs(profile, "published")
    pairs = [(run.build.args[0], seed) for run in found for seed in run.seeds]
    assert sorted(pairs) == sorted((cell, seed) for cell in CELLS for seed in profile.seeds)
    assert len(found) == (len(CELLS) if gpu else len(pairs))  # seeds train together on a GPU
    assert len({run.folder for run in found}) == len(found)
    assert {run.settings for run in found} == {profile.settings["published"].training}
    with pytest.raises(ValueError, match=r"setting must be one of published.*'best'"):
        presets.runs(profile, "best")


@pytest.mark.parametrize("name", PROFILES)
def test_the_recipe_is_what_training_stands_for_and_ablations_change_one_thing(name):
    profile = get_profile(name)
    recipe = profile.settings["recipe"]
    assert replace(recipe.training, epochs=30) == Training() == presets.RECIPE
    short, *others = profile.ablations.values()
    assert short.options == recipe.options == presets.SHAPE
    assert replace(short.training, epochs=30) == Training()
    adam = profile.settings["recipe with Adam"]
    assert replace(adam.training, optimizer="muon") == recipe.training and adam.options == recipe.options
    for longer in profile.longer.values():
        assert replace(longer.training, epochs=30) == Training() and longer.options == recipe.options
        assert longer.training.epochs > recipe.training.epochs
    for setting in others:
        assert (setting.training == short.training) != (setting.options == short.options)
        for cell in setting.cells:
            count = sum(weight.numel() for weight in build_model(cell, 0, **setting.options).parameters())
            assert count == pytest.approx(175_000, rel=0.05)


def test_the_flow_answers_nearby_first():
    found = presets.flow_influence(samples=1, time=1.0)
    assert found.shape == (9,) and found.argmax() == 0 and (found > 0).all()
    assert found[0] > 10 * found[8]


def test_kernel_changes_are_singular_values_over_the_largest(monkeypatch):
    values = torch.logspace(2, -2, 98)  # of what is added; in the middle a hundredth of the largest

    def after(folder):
        before = build_model("minconvgru", 1234).state_dict()
        added = torch.zeros(98, 49 * 9)
        added.fill_diagonal_(1).mul_(values[:, None])
        kernels = {name: weight + added.view_as(weight) for name, weight in before.items() if "conv.weight" in name}
        return {1234: {name: weight + 7 for name, weight in before.items()} | kernels}

    monkeypatch.setattr(presets, "load_weights", after)
    profile = replace(PROFILES["smoke"], seeds=(1234,))
    found = presets.kernel_changes(profile, "published", "minconvgru", places=5, device="cpu")
    np.testing.assert_allclose(found, [[1, 1e-1, 1e-2, 1e-3, 1e-4]], rtol=1e-2)


@pytest.mark.slow
def test_from_data_to_trained_models(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    smoke = PROFILES["smoke"]
    short = {"short": presets.Setting(replace(presets.PUBLISHED, context=2, horizon=1, epochs=1))}
    tiny = replace(smoke, name="tiny", samples=(2, 1, 2), frames=(5, 5, 6), settings=short, seeds=(5,), test_context=3)
    data = presets.load_data(tiny, "cpu")
    assert {split: tuple(frames.shape) for split, frames in data.items()} == {
        "train": (2, 5, 1, 16, 16),
        "validation": (1, 5, 1, 16, 16),
        "test": (2, 6, 1, 16, 16),
    }
    assert not torch.equal(data["train"][:, 0], data["test"][:, 0])
    assert presets.load_long(replace(tiny, long=(1, 8)), "cpu").shape == (1, 8, 1, 16, 16)
    folders = presets.train_all(tiny, device="cpu")["short"]
    found = list(presets.trained_models(tiny, "short", "cpu"))
    assert len(folders) == len(found) == len(CELLS)
    assert [(cell, seed) for cell, seed, _ in found] == [(cell, 5) for cell in presets.HIDDEN]
    for cell, seed, model in found:
        assert not model.training
        assert not torch.equal(weights(cell, seed), torch.cat([w.flatten() for w in model.parameters()]))
    long = presets.evaluate_all(tiny, "short", "cpu", truth=data["test"][:1], measure=metrics.sample_errors)
    assert dict(long.sizes) == {"model": 1 + len(CELLS), "seed": 1, "sample": 1}
    assert (presets.model_influence(tiny, "short", "convlstm", "cpu") > 0).all()
    changes = presets.kernel_changes(tiny, "short", "convgru", device="cpu")
    assert changes.shape == (1, 33) and changes[0, 0] == 1 and (changes.diff() < 0).all()
    assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("*") if path.is_file()} == {"data", "results"}
    assert not list(tmp_path.rglob(".*"))
