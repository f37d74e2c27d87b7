"""The harder flow and its memory task: settings, sizes, what is hidden, the solver's grid, and the whole of it once."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from minconv.core.cells import CELLS
from minconv.data import navier_stokes as solver
from minconv.experiments import turbulence as hard
from minconv.experiments.profiles import PROFILES
from minconv.models import Forecaster, count_parameters
from minconv.runtime.names import STYLE
from minconv.training import Training
from minconv.training.loss import relative_l2

pytestmark = pytest.mark.usefixtures("one_thread")

SHOWN = (True, True, False, False, True)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_sound(name):
    size = hard.SIZES[name]
    assert hard.viscosities(name) == [*size.grids] and size.grids.keys() <= hard.FRAMES.keys()
    assert all(grid % size.cells == 0 for grid in size.grids.values())
    for viscosity in size.grids:
        (recipe,) = hard.turbulence(name, "cpu", viscosity).settings.values()
        assert recipe.models.keys() == {*CELLS, "convs5", "simvp", "fno", "fno_usual"} <= STYLE.keys()
        assert replace(recipe.training, epochs=30, context=20) == Training()
        assert recipe.epochs.keys() == {"simvp", "fno", "fno_usual"}
        operators = hard.operators(name, "cpu", viscosity)
        (published,) = operators.settings.values()
        assert published.window + 1 == hard.FRAMES[viscosity] and recipe.window < hard.FRAMES[viscosity]
        assert published.training.batch <= size.samples[0] and published.models.keys() == {"fno", "fno_usual"}
        assert operators.name != hard.turbulence(name, "cpu", viscosity).name and pickle.dumps(operators.runs())
    for pattern, experiment in hard.memory(name, "cpu").items():
        (found,) = experiment.settings.values()
        assert found.window + 1 == 30 and found.models.keys() == {*hard.PAIRS} and [*experiment.settings] == [pattern]
        runs = pickle.loads(pickle.dumps(experiment.runs()))  # they can be trained side by side
        assert runs["convgru"][0].settings.epochs == size.memory


def test_it_is_the_setting_of_the_papers_on_neural_operators():
    paper = hard.SIZES["paper"]
    assert paper.samples[0] == 1000 and paper.cells == 64 and paper.samples[2] == 200
    assert hard.FRAMES == {1e-4: hard.CONTEXT + 20, 1e-5: hard.CONTEXT + 10}
    assert hard.viscosities("paper") == [1e-4, 1e-5] and hard.ALPHA == 2.5
    authors = hard.operators("paper", "cpu").settings["published"].training
    assert (authors.epochs, authors.batch, authors.lr, authors.weight_decay) == (500, 20, 1e-3, 1e-4)
    assert (authors.optimizer, authors.noise, authors.horizon) == ("adam", 0.0, 19)
    with pytest.raises(ValueError, match=r"viscosity must be one of 0\.0001 in profile study; got 1e-05"):
        hard.turbulence("study", "cpu", 1e-5)


def test_models_have_the_parameters_they_are_to_have():
    settings = [hard.turbulence("study", "cpu"), *hard.memory("study", "cpu").values()]
    for setting in [setting for experiment in settings for setting in experiment.settings.values()]:
        for name, build in setting.models.items():
            with torch.device("meta"):
                count = count_parameters(build(0))
            assert count == (1_004_101 if name == "fno_usual" else pytest.approx(175_000, rel=0.03))


@pytest.mark.parametrize("pattern, hidden", [("blackout", range(10, 20)), ("every second", range(1, 29, 2))])
def test_what_is_hidden(pattern, hidden):
    shown = hard.patterns()[pattern]
    assert len(shown) == 29 and shown[0] and {time for time in range(29) if not shown[time]} == {*hidden}


def test_the_last_frame_shown():
    assert hard.last_shown(SHOWN) == [0, 1, 1, 1, 4]


class Seen(nn.Module):
    """A model that keeps what it was given, and forecasts the frame itself plus one."""

    def forward(self, frames: Tensor) -> Tensor:
        self.frames = frames
        return frames[:, :, :1] + 1

    def advance(self, frames: Tensor, states: list | None) -> tuple[Tensor, list]:
        return frames + 1, [*(states or []), frames]


def test_hidden_frames_are_not_seen():
    model = hard.Hidden(seen := Seen(), SHOWN)
    frames = torch.randn(2, 5, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    found = model(frames)
    assert found.shape == frames.shape and seen.frames.shape == (2, 5, 2, 3, 4)
    for time, there in enumerate(SHOWN):
        assert torch.equal(seen.frames[:, time, 0], frames[:, time, 0] * there)
        assert (seen.frames[:, time, 1] == there).all()
    assert torch.equal(model(frames[:, :3]), found[:, :3]) and "shown=11001" in str(model)
    for arguments in ((frames, 1), (torch.zeros(2, 6, 1, 3, 4), 0)):
        with pytest.raises(ValueError, match="frames must be at most 5, with horizon 0; got"):
            model(*arguments)


def test_a_fed_model_has_its_own_frames():
    frames = torch.arange(5.0).mul(10).view(1, 5, 1, 1, 1)  # 0, 10, 20, ...
    found = hard.Fed(Seen(), SHOWN)(frames)
    assert found.flatten().tolist() == [1, 11, 12, 13, 41]


def test_a_fed_model_that_sees_all_is_teacher_forced():
    torch.manual_seed(0)
    model, frames = Forecaster("convgru", hidden=3, layers=2, size=(4, 5)).double(), torch.randn(2, 5, 1, 4, 5).double()
    torch.testing.assert_close(hard.Fed(model, (True,) * 5)(frames), model(frames), rtol=0, atol=1e-12)
    closed = hard.Fed(model, (True,) * 2 + (False,) * 3)(frames)
    torch.testing.assert_close(closed, model(frames[:, :2], 3), rtol=0, atol=1e-12)


def test_errors_know_how_long_ago_a_frame_was_shown():
    frames = torch.arange(6.0).add(1).view(1, 6, 1, 1, 1) * torch.randn(3, 1, 1, 4, 4)  # 1, 2, 3, ... times a field
    task = hard.Sequences(frames, frames, frames, 2, shown=SHOWN)
    found = task.errors(task.baselines["persistence"])
    assert found.lead.values.tolist() == [1, 1, 2, 3, 1] and found.time.values.tolist() == [1, 2, 3, 4, 5]
    expected = [1 / 2, 1 / 3, 2 / 4, 3 / 5, 1 / 6]
    torch.testing.assert_close(torch.from_numpy(found.relative_l2.values), torch.tensor(expected).double())
    assert isinstance(task.forecaster(Seen()), hard.Fed)
    model = hard.Hidden(Seen(), SHOWN)
    assert task.forecaster(model) is model


def test_the_grid_of_smoke_is_near_one_twice_as_fine():
    found = hard.refinement(64, samples=1, frames=6)
    assert found.dims == ("sample", "time") and found.shape == (1, 6) and found.time.values.tolist() == [*range(1, 7)]
    assert found.min() > 1e-5 and found.max() < 2e-3


@pytest.mark.slow
def test_the_grid_of_study_is_fine_enough():
    """For a start: the notebook has the frames of a forecast."""
    found = hard.refinement(hard.SIZES["study"].grids[1e-4], samples=1, frames=5)
    assert found.max() < 1e-5


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, monkeypatch):
    """Two models of each experiment, on the flow of smoke."""
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    whole, rolled = hard.turbulence("smoke", "cpu"), hard.operators("smoke", "cpu")
    (recipe,) = whole.settings.values()
    few = {name: recipe.models[name] for name in (*hard.PAIRS, "fno")}
    whole = replace(whole, settings={"recipe": replace(recipe, models=few)})
    whole.train()
    rolled.train(models=("fno",))
    found = whole.evaluate()
    assert found.forecast_l2.dims == ("model", "seed", "sample") and found.notnull().forecast_l2.all()
    persistence, task = found.sel(model="persistence").isel(seed=0), whole.task
    last, ahead = task.test[:, 9:10], task.test[:, 10:]
    expected = ((last - ahead).flatten(1).norm(dim=1) / ahead.flatten(1).norm(dim=1)).double()
    torch.testing.assert_close(torch.from_numpy(persistence.forecast_l2.values), expected, rtol=1e-6, atol=0)
    assert rolled.task.loss is relative_l2 and task.loss is None and torch.equal(rolled.task.test, task.test)
    path = hard.trajectory_file(hard.SIZES["smoke"], 1e-4, "test", "cpu")
    about = solver.load(path).attrs
    assert about["viscosity"] == 1e-4 and about["alpha"] == 2.5 and about["seed"] == 2
    memory = hard.memory("smoke", "cpu")["blackout"]
    memory.train(models=("convgru", "minconvgru"))
    setting = memory.settings["blackout"]
    two = {name: setting.models[name] for name in ("convgru", "minconvgru")}
    trained = replace(memory, settings={"blackout": replace(setting, models=two)}).evaluate()
    fed = hard.fed(whole, memory.task)
    assert trained.model.values.tolist() == ["persistence", "convgru", "minconvgru"] and trained.sizes["time"] == 29
    assert fed.model.values.tolist() == ["persistence", *hard.PAIRS]
    before = [errors.relative_l2.sel(model="convgru", time=slice(1, 10)).values for errors in (fed, found)]
    torch.testing.assert_close(*map(torch.from_numpy, before), rtol=1e-4, atol=0)  # as long as all frames are shown
