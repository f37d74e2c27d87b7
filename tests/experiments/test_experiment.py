"""What every experiment does, shown with one that is written in a file of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray as xr
from moving_blobs import moving_blobs

from minconv.evaluation.errors import sample_errors, summary
from minconv.experiments.profiles import PROFILES, get_profile, home
from minconv.training import read_log

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    return moving_blobs(PROFILES["smoke"])


def test_a_further_experiment_is_one_short_file(experiment):
    assert len((Path(__file__).parent / "moving_blobs.py").read_text().splitlines()) < 100
    experiment.train()
    logs = experiment.logs("short")
    assert list(logs) == ["convolution", "one cell"] and {row["seed"] for row in logs["convolution"]} == {1, 2}
    parts = summary(experiment.evaluate("short"))
    assert parts.model.values.tolist() == ["persistence", "convolution", "one cell"]
    assert parts.seed.values.tolist() == [1, 2]
    still, learned, narrow = (parts.closed_loop.sel(model=name).values for name in parts.model.values)
    assert (learned < 0.3 * still).all() and (narrow > 0.5 * still).all()  # one cell cannot move anything
    # runs are kept, and another measure is another task
    before = [run.folder.stat().st_mtime_ns for run in experiment.runs("short")["convolution"]]
    moving_blobs(PROFILES["smoke"]).train("short")
    assert before == [run.folder.stat().st_mtime_ns for run in experiment.runs("short")["convolution"]]
    by_sample = experiment.evaluate("short", replace(experiment.task, measure=sample_errors))
    assert by_sample.closed_loop.dims == ("model", "seed", "sample")


def test_runs_are_kept_by_setting_model_and_seed(experiment):
    runs = experiment.runs("short")
    assert {model: [run.seeds for run in found] for model, found in runs.items()} == {key: [(1,), (2,)] for key in runs}
    where = home() / "results/smoke/runs/moving_blobs/short"
    assert runs["one cell"][1].folder == where / "one cell" / "2" and runs["one cell"][1].name == "short, one cell 2"
    assert experiment.runs("short", "bf16-mixed")["convolution"][0].folder == where / "convolution" / "bf16-mixed" / "1"
    with pytest.raises(ValueError, match="setting must be one of short; got 'long'"):
        experiment.runs("long")


def test_seeds_train_together_on_a_gpu(experiment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (run,) = replace(experiment, device="auto").runs("short")["convolution"]
    assert run.seeds == (1, 2) and run.folder.name == "1-2" and run.name == "short, convolution 1-2"


def test_one_model_alone_and_no_logs_of_what_is_not_trained(experiment):
    with pytest.raises(ValueError, match="model must be one of convolution, one cell; got 'two cells'"):
        experiment.train("short", models=("two cells",))
    for run in experiment.runs("short")["convolution"]:
        run.folder.mkdir(parents=True)  # begun, and without a checkpoint
    experiment.train("short", models=("one cell",))
    assert list(experiment.logs("short")) == ["one cell"]
    (rows,) = [read_log(run.folder) for run in experiment.runs("short")["one cell"] if run.seeds == (1,)]
    assert len(rows) == 20


def test_default_profile(monkeypatch):
    monkeypatch.setenv("MINCONV_PROFILE", "study")
    assert get_profile() is PROFILES["study"] and get_profile("smoke") is PROFILES["smoke"]
    monkeypatch.delenv("MINCONV_PROFILE")
    for gpu, name in ((True, "paper"), (False, "laptop")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert get_profile().name == name


@pytest.mark.parametrize("name, error", [("large", ValueError), ("", ValueError), (3, TypeError)])
def test_unknown_profiles(name, error, monkeypatch):
    with pytest.raises(error, match=r"profile must be .*one of smoke, laptop, study, paper; got"):
        get_profile(name)
    monkeypatch.setenv("MINCONV_PROFILE", "large")
    with pytest.raises(ValueError, match="got 'large'"):
        get_profile()


def test_home_and_what_a_profile_says_of_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    assert PROFILES["smoke"].figures == tmp_path / "results" / "smoke" / "figures"
    monkeypatch.delenv("MINCONV_HOME")
    assert home() == Path(__file__).resolve().parents[2]
    installed = tmp_path / "site-packages/minconv/experiments/profiles.py"
    monkeypatch.setattr("minconv.experiments.profiles.__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path
    assert str(PROFILES["study"]) == "profile study, which the text describes"
    assert "too short to learn" in str(PROFILES["smoke"]) and "the text describes study" in str(PROFILES["laptop"])


def test_what_takes_long_is_found_once_for_what_it_was_made_with(monkeypatch, tmp_path):
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    made = []

    def make():
        made.append(1)
        units = {"units": "%"}
        return xr.Dataset({"error": ("name", [0.1, 1 / 3], units)}, {"name": ["a, b", "c"], "rate": 1e-3})

    first, again = (PROFILES["smoke"].kept("few/errors", make, size="Size(3)", steps=2) for _ in range(2))
    xr.testing.assert_identical(first, make())
    xr.testing.assert_identical(again, first)
    assert len(made) == 2  # one of them here
    assert [*tmp_path.rglob("*.nc")] == [tmp_path / "results/smoke/runs/few/errors.nc"]
    with pytest.raises(ValueError, match=r"errors.nc has other parameters \(steps is 2, not 3\)"):
        PROFILES["smoke"].kept("few/errors", make, size="Size(3)", steps=3)


def test_one_setting_model_and_seed_alone(experiment):
    one = experiment.only("short", "one cell", seed=2)
    one.train()
    (run,) = one.runs()["one cell"]
    assert (
        run == experiment.runs("short")["one cell"][1] and not experiment.runs("short")["one cell"][0].folder.exists()
    )
    found = one.evaluate()
    assert found.model.values.tolist() == ["persistence", "one cell"] and found.seed.values.tolist() == [2]
    (whole,) = experiment.only("short").settings.values()
    assert whole == experiment.settings["short"]
    for (setting, model, seed), message in {
        ("long", "one cell", 2): "setting must be one of short; got 'long'",
        ("short", "two cells", 2): "model must be one of convolution, one cell; got 'two cells'",
        ("short", "one cell", 3): "seed must be one of 1, 2; got 3",
    }.items():
        with pytest.raises(ValueError, match=message):
            experiment.only(setting, model, seed=seed)
