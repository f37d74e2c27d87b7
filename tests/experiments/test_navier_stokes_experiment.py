"""The flow's experiment: its settings, the sizes of its models, its probes."""

from dataclasses import replace

import pytest
import torch

from minconv.core.cells import CELLS
from minconv.experiments import navier_stokes as flow
from minconv.experiments import recipes
from minconv.experiments.probes import flow_influence, influence, multiply_adds, step_seconds, training_minutes
from minconv.experiments.profiles import PROFILES
from minconv.models import MODELS, build_model, count_parameters
from minconv.plots import STYLE
from minconv.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")


def test_paper_has_the_published_settings():
    paper = flow.navier_stokes("paper")
    assert flow.SIZES["paper"].samples == (1000, 50, 200) and tuple(flow.SPLITS.values()) == (50, 50, 51)
    assert paper.profile.seeds == (1234, 1235, 1236, 1237, 1238) and flow.CONTEXT == 20
    published = paper.settings["published"].training
    assert (published.context, published.horizon, published.epochs, published.batch) == (20, 5, 30, 1)
    assert (published.lr, published.weight_decay, published.noise, published.clip) == (5e-4, 0.01, 1e-2, None)
    assert replace(published, context=5, horizon=10) == paper.settings["published, 15 frames"].training


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_sound(name):
    profile, size = PROFILES[name], flow.SIZES[name]
    assert profile.name == name and len(set(profile.seeds)) == len(profile.seeds)
    for make in (flow.navier_stokes, flow.ablations, flow.longer):
        for setting in make(name).settings.values():
            assert setting.window < min(flow.SPLITS.values()) and setting.training.batch <= size.samples[0]
            assert setting.models.keys() <= CELLS.keys() and setting.seeds == profile.seeds


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "smoke"])
def test_the_recipe_is_what_training_stands_for_and_ablations_change_one_thing(name):
    settings = flow.navier_stokes(name).settings
    recipe, adam = settings["recipe"], settings["recipe with Adam"]
    assert replace(recipe.training, epochs=30) == Training() == recipes.RECIPE
    assert replace(adam.training, optimizer="muon") == recipe.training and adam.options == recipe.options
    short, *others = flow.ablations(name).settings.values()
    assert short.options == recipe.options == recipes.SHAPE and replace(short.training, epochs=30) == Training()
    (longer,) = flow.longer(name).settings.values()
    assert replace(longer.training, epochs=30) == Training() and longer.options == recipe.options
    assert longer.training.epochs > recipe.training.epochs
    for setting in others:
        assert (setting.training == short.training) != (setting.options == short.options)


@pytest.mark.slow
def test_ablations_have_the_size_of_all():
    for setting in flow.ablations("study").settings.values():
        for build in setting.models.values():
            assert count_parameters(build(0)) == pytest.approx(175_000, rel=0.05)


def test_models_have_one_identity_and_about_the_same_size():
    assert MODELS.keys() == CELLS.keys() and [name for name in MODELS if MODELS[name].minimal] == [*MODELS][2:]
    for name, model in MODELS.items():
        assert model.label == STYLE[name]["label"] == CELLS[name].__name__
        assert count_parameters(build_model(name, 0)) == pytest.approx(175_000, rel=0.05)


@pytest.mark.parametrize("options", [{"kernel_size": 5}, {"layers": 2, "kernel_size": 5}])
def test_other_shapes_have_other_channels(options):
    for name in ("convlstm", "minconvgru"):
        assert count_parameters(build_model(name, 0, **options)) == pytest.approx(175_000, rel=0.05)
    assert build_model("convlstm", 0, hidden=7, **options).encoder.weight.shape[0] == 7


def test_seeds_decide_initial_weights_and_nothing_else():
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([weight.detach().flatten() for weight in build_model("minconvgru", seed).parameters()])

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights(1234)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weights(1234), first) and not torch.equal(weights(1235), first)


def test_models_rejected():
    with pytest.raises(ValueError, match="name must be one of"):
        build_model("lstm", 1)
    with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
        build_model("convgru", -1)


def test_reach_is_what_the_kernels_see():
    assert flow.reach() == 4 and flow.reach(**recipes.SHAPE) == 14 and flow.reach(kernel_size=5) == 8


def test_the_flow_answers_nearby_first():
    found = flow_influence(samples=1, time=1.0)
    assert found.shape == (9,) and found.argmax() == 0 and (found > 0).all()
    assert found[0] > 10 * found[8]


def test_influence_of_a_shift_is_all_at_its_distance():
    """A field that moves three columns to the right and two rows up, and halves."""
    fields = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = influence(lambda x: 0.5 * x.roll((-2, 3), (-2, -1)), fields, 8)
    expected = torch.zeros(5, dtype=torch.float64)
    expected[3] = 0.5 / 24**0.5  # one of the 24 cells at distance 3 answers
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_influence_of_a_block_on_a_coarser_grid():
    fields = torch.zeros(2, 12, 12, dtype=torch.float64)
    found = influence(lambda x: torch.nn.functional.avg_pool2d(x, 3), fields, 4, cells=5)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_influence_is_the_same_again_and_differs_by_cells():
    fields = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))
    found = [influence(lambda x: x**2, fields, 6, seed=seed)[0] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
def test_steps_are_timed_for_every_model_of_a_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    experiment = flow.navier_stokes("smoke", "cpu")
    taken = step_seconds(experiment, "recipe with Adam", "published", rounds=2)
    assert taken.dims == ("setting", "model") and (taken.sel(setting="published") > 0).all()
    minutes = training_minutes(experiment, "published", rounds=2)
    assert minutes.attrs["units"] == "min" and (minutes > 0).all()
    adam = taken.sel(setting="recipe with Adam")
    assert adam.notnull().values.tolist() == [model == "minconvlstm" for model in taken.model.values]


@pytest.mark.slow
def test_every_weight_multiplies_once_a_cell_and_twice_on_the_way_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    experiment = flow.navier_stokes("smoke", "cpu")
    found, setting = multiply_adds(experiment, "published"), experiment.settings["published"]
    for model, build in setting.models.items():
        expected = 3 * flow.GRID**2 * setting.window * count_parameters(build(0))
        assert 0.9 < found.sel(setting="published", model=model) / expected < 1  # nothing goes back to the input
