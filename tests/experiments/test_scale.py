"""The flow at several scales: nested sets, as many steps, the flow's own validation and test."""

from dataclasses import replace

import pytest
import torch

from minconv.core.cells import CELLS
from minconv.experiments import navier_stokes as flow
from minconv.experiments import scale
from minconv.experiments.profiles import PROFILES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", PROFILES)
def test_trainings_have_the_steps_they_are_named_by(name):
    experiments, size = scale.scale(name), scale.SIZES[name]
    assert list(size.trajectories) == sorted(size.trajectories) and list(size.steps) == sorted(size.steps)
    assert len({experiment.name for experiment in experiments.values()}) == len(experiments)
    for (count, steps), experiment in experiments.items():
        assert count == size.trajectories[-1] or steps == size.steps[0]
        for setting, found in experiment.settings.items():
            training = flow.navier_stokes(name).settings[setting].training
            assert found.models.keys() == CELLS.keys() and replace(found.training, epochs=training.epochs) == training
            assert count * found.training.epochs == steps and found.training.batch == 1


@pytest.mark.parametrize("name", ["study", "paper"])
def test_the_largest_is_as_the_paper_has_it(name):
    largest, paper = scale.largest(name), flow.navier_stokes("paper")
    assert largest.profile.name == name and flow.SIZES["paper"].samples == (1000, 50, 200)
    assert largest.load.args == paper.load.args  # its trajectories
    for setting, found in largest.settings.items():
        training = paper.settings[setting].training
        assert found.models.keys() == CELLS.keys() and found.training == training and training.epochs == 30


@pytest.mark.parametrize("name", ["smoke", "laptop", "paper"])
def test_the_largest_is_not_trained_again_where_the_flow_is_as_large(name):
    assert scale.largest(name).folder("published") == flow.navier_stokes(name).folder("published")


@pytest.mark.slow
def test_a_smaller_set_is_the_beginning_of_the_larger(tmp_path, monkeypatch):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    experiments = scale.scale("smoke", "cpu")
    sets = {count: experiment.task for (count, _), experiment in experiments.items()}
    small, large = (sets[count] for count in scale.SIZES["smoke"].trajectories)
    assert len(small.train) < len(large.train) and torch.equal(small.train, large.train[: len(small.train)])
    whole = flow.navier_stokes("smoke", "cpu").task
    assert torch.equal(small.validation, whole.validation) and torch.equal(large.test, whole.test)
    torch.testing.assert_close(large.train[: len(whole.train)], whole.train)  # one seed for both
