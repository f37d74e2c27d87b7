"""A model and arrays: what everybody types first, in the units of the data, again and again on one folder."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SETTINGS, assert_same, build, contents, raising, rows, run, stop_at, train_one, waves
from torch import nn
from torch.nn.functional import l1_loss

from minconv import Forecaster
from minconv.data.windows import Windows
from minconv.training import Run, Training, fit, load_weights, read_log, restore

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, VALIDATION = ((20 * waves(n, seed=n) + 280).numpy() for n in (6, 3))  # temperatures, say


def fitted(folder: Path, model: nn.Module | None = None, train=TRAIN, validation=VALIDATION, **options) -> nn.Module:
    model = build(1) if model is None else model
    found = fit(model, train, validation, **{"folder": folder, "settings": SETTINGS, "device": "cpu"} | options)
    assert found == Path(folder)
    return model


def stopped(folder: Path, step: int, model: nn.Module | None = None, **options) -> nn.Module:
    """Told to end at a step, counted over epochs."""
    model = build(1) if model is None else model
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step, raising(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fitted(folder, model, **options)
    return model


def assert_weights(model: nn.Module, weights: dict) -> None:
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, fitted(folder)


# In the units of the data


def test_a_model_is_trained_on_normalised_frames_and_forecasts_in_their_units(tmp_path, finished):
    folder, model = finished
    mean, std = TRAIN.mean(dtype=float), TRAIN.std(dtype=float)
    assert model.normalisation == ([pytest.approx(mean)], [pytest.approx(std)]) and not model.training
    assert_weights(model, load_weights(folder)[0])
    job = Run(lambda seed: build(1), [0], tmp_path / "run", SETTINGS)  # as normalised by hand
    frames = ((torch.from_numpy(x).double() - np.float32(mean)) / np.float32(std) for x in (TRAIN, VALIDATION))
    assert_same(fit(job, *frames, device="cpu"), folder)
    model.save_pretrained(tmp_path / "kept")
    predicted = model.predict(VALIDATION[:, :3], 2)
    assert predicted.shape == (3, 2, 1, 4, 4) and abs(predicted.mean() - 280) < 20
    assert np.array_equal(Forecaster.from_pretrained(tmp_path / "kept").predict(VALIDATION[:, :3], 2), predicted)


def test_statistics_are_of_each_channel_and_of_train_alone(tmp_path):
    train = torch.cat([waves() * 100, waves(seed=5) / 100 - 7], 2)
    model = fitted(tmp_path / "run", build(1, channels=2), train, train[:2] * 3)
    mean, std = model.normalisation
    assert mean == pytest.approx(train.mean((0, 1, 3, 4)).tolist(), rel=1e-5)
    assert std == pytest.approx(train.std((0, 1, 3, 4), correction=0).tolist(), rel=1e-5)


def test_whole_numbers_train_and_raw_ones_are_warned_of(tmp_path):
    train, validation = (np.uint8(x - x.min()) for x in (TRAIN, VALIDATION))
    model = fitted(tmp_path / "run", train=train, validation=validation)
    assert model.predict(train[0, :3], 2).dtype == np.float32
    jobs = [{"normalise": False}, {"model": run(tmp_path / "job"), "folder": None, "settings": None}]
    for options in jobs:
        options = {"model": build(1), "folder": tmp_path / "raw", "settings": SETTINGS, "device": "cpu"} | options
        with pytest.warns(UserWarning, match=r"train is not normalised: the standard deviations .* are \d\d;"):
            fit(options.pop("model"), 3 * train, 3 * validation, **options)
    assert build(1).normalisation is None


# Again on the same folder


def test_a_finished_run_is_put_into_the_model_untrained(finished, monkeypatch):
    folder, model = finished
    before = contents(folder)
    monkeypatch.setattr(Windows, "cut", None)
    again = fitted(folder, build(2).double())
    assert_weights(again, model.state_dict())
    assert again.normalisation == model.normalisation and contents(folder) == before


@pytest.mark.parametrize("step, best", [(1, None), (4, 1)])
def test_an_interrupted_model_has_its_best_weights_and_goes_on(tmp_path, finished, step, best):
    folder, model = finished
    half = stopped(tmp_path / "run", step)
    assert_weights(half, load_weights(tmp_path / "run")[0] if best else build(1).state_dict())
    assert half.normalisation == model.normalisation and not half.training
    again = fitted(tmp_path / "run", build(2))
    assert_same(tmp_path / "run", folder)
    assert_weights(again, model.state_dict())


@pytest.mark.parametrize(
    "options, key",
    [
        ({"train": TRAIN + 1}, "normalisation"),
        ({"train": TRAIN[::-1]}, "data"),
        ({"validation": TRAIN}, "data"),
        ({"normalise": False}, "normalisation"),
        ({"seed": 1}, "seeds"),
        ({"loss": l1_loss}, "loss"),
        ({"settings": replace(SETTINGS, lr=1.0)}, "settings is {'lr': 0.01}, asked for is {'lr': 1.0}"),
        ({"settings": replace(SETTINGS, epochs=2)}, "settings"),
        ({"model": build(1, "minconvgru")}, "model"),
    ],
)
def test_another_run_is_refused_and_the_model_left(finished, options, key):
    folder, before = finished[0], contents(finished[0])
    model = options.get("model", build(2))
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"holds another run: its {key}"):
        fitted(folder, **{"model": model} | options)
    assert_weights(model, weights)
    assert model.normalisation is None and contents(folder) == before


def test_more_epochs_go_on_from_a_finished_run(tmp_path, finished):
    longer = replace(SETTINGS, epochs=5)
    for name in ("whole", "parts"):
        fitted(tmp_path / name)
    model = fitted(tmp_path / "whole", build(2), settings=longer)  # whatever weights it comes with
    log = rows(tmp_path / "whole")
    assert log[:3] == rows(finished[0]) and [row["epoch"] for row in log] == [1, 2, 3, 4, 5]
    assert log[3]["lr"] == pytest.approx(SETTINGS.lr * (1 + math.cos(math.pi * 11 / 15)) / 2)
    best = min(log, key=lambda row: row["validation_loss"])
    assert best["epoch"] > 3 and log[3]["validation_loss"] < 1.1 * log[2]["validation_loss"]  # it did not begin anew
    assert_weights(model, load_weights(tmp_path / "whole")[0])
    found = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert found["settings"]["epochs"] == 5 and found["extended"] == [3]
    stopped(tmp_path / "parts", 1, settings=longer)  # in the fourth epoch
    fitted(tmp_path / "parts", settings=longer)
    assert_same(tmp_path / "parts", tmp_path / "whole")
    with pytest.raises(ValueError, match=r"holds another run: its settings is \{'epochs': 5\}"):
        fitted(tmp_path / "whole")


def test_where_more_epochs_are_worse_the_best_are_kept(tmp_path):
    model = fitted(tmp_path / "run")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "rate", lambda self, done: 3.0)
        fitted(tmp_path / "run", model, settings=replace(SETTINGS, epochs=4))
    assert_weights(model, before)
    assert load_weights(tmp_path / "run", "last")[0]["encoder.bias"].tolist() != before["encoder.bias"].tolist()


# Loss, time, callback


def test_a_loss_of_ones_own_is_one_for_each_seed(tmp_path):
    losses = [l1_loss, lambda x, y: (x - y).abs(), lambda x, y: (x - y).abs().mean((1, 2, 3, 4))]
    data = {"train": waves(), "validation": waves(3, seed=1), "device": "cpu", "precision": "64-true"}
    folders = [fit(run(tmp_path / str(n), (1, 2)), loss=loss, **data) for n, loss in enumerate(losses)]
    one, *others = ([row["validation_loss"] for row in read_log(folder)] for folder in folders)
    assert all(one == pytest.approx(other, rel=1e-6) for other in others)
    alone = read_log(fit(run(tmp_path / "alone", (2,)), loss=l1_loss, **data))
    assert one[1::2] == pytest.approx([row["validation_loss"] for row in alone], rel=1e-9)
    assert one[0] != pytest.approx(read_log(train_one(tmp_path / "square"))[0]["validation_loss"], rel=0.1)


def test_a_loss_that_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(TypeError, match="loss must return a floating-point tensor; got <class 'float'>"):
        fitted(tmp_path / "run", loss=lambda x, y: l1_loss(x, y).item())


def test_a_time_limit_ends_with_the_epoch_and_the_next_call_goes_on(tmp_path, finished):
    folder = tmp_path / "run"
    for epoch in (1, 2):
        model = fitted(folder, build(1), time_limit=1e-6)
        assert [row["epoch"] for row in read_log(folder)] == list(range(1, epoch + 1))
        assert_weights(model, load_weights(folder)[0])
    fitted(folder, time_limit=1000)
    assert_same(folder, finished[0])


def test_a_callback_gets_each_row_once_it_is_saved(tmp_path):
    seen = []
    job = run(tmp_path / "job", (1, 2))
    fit(job, waves(), waves(3, seed=1), device="cpu", on_epoch=lambda row: seen.append((row, read_log(job.folder))))
    assert [row for row, _ in seen] == read_log(job.folder) and len(seen) == 6
    assert [len(log) for _, log in seen] == [2, 2, 4, 4, 6, 6]


def test_what_a_callback_raises_ends_training_which_goes_on(tmp_path, finished):
    def enough(row: dict) -> None:
        if row["epoch"] == 2:
            raise ValueError("enough")

    model = build(1)
    with pytest.raises(ValueError, match="enough"):
        fitted(tmp_path / "run", model, on_epoch=enough)
    assert_weights(model, load_weights(tmp_path / "run")[0])
    fitted(tmp_path / "run")
    assert_same(tmp_path / "run", finished[0])


def test_a_run_of_one_step_moves_the_weights(tmp_path):
    settings = replace(SETTINGS, epochs=1, batch=6, warmup=0.1)
    model = fitted(tmp_path / "run", settings=settings)
    assert read_log(tmp_path / "run")[0]["lr"] == settings.lr
    weights = load_weights(tmp_path / "run", "last")[0]
    assert all(not torch.equal(weights[name], weight) for name, weight in build(1).state_dict().items())
    assert restore(model, weights) is model


# The wrong call


class Own(nn.Module):
    """A model that knows nothing of normalisation."""

    def __init__(self):
        super().__init__()
        self.inner = build(1)

    def forward(self, frames: torch.Tensor, horizon: int = 0) -> torch.Tensor:
        return self.inner(frames, horizon)


def spoilt(value: float, *places: tuple) -> np.ndarray:
    train = TRAIN.copy()
    for place in places:
        train[place] = value
    return train


RIGHT = r'fit\(model, train, validation, folder="runs/mine"\)'


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"folder": None}, TypeError, f"folder must say where the run of the model is kept, as in {RIGHT}"),
        ({"model": Forecaster}, TypeError, f"model must be a model, as in {RIGHT}, or a Run, .*; got the class Fore"),
        ({"model": build}, TypeError, r"a Run, as in fit\(Run\(lambda seed: Model\(\), .*; got function"),
        ({"model": TRAIN}, TypeError, "model must be a model, .*; got ndarray"),
        (
            {"model": run(Path("x"))},
            TypeError,
            "folder, settings and seeds are those of the Run; got one of them twice",
        ),
        (
            {"model": nn.Flatten(), "normalise": False},
            ValueError,
            "model must have weights that are trained; got Flatten without any",
        ),
        ({"model": Own()}, TypeError, r"a method set_normalisation\(mean, std\).*Own has none. Give normalise=False"),
        ({"settings": {"epochs": 3}}, TypeError, r"settings must be a Training; got \{'epochs': 3\}"),
        ({"train": TRAIN.astype(str)}, TypeError, "train must hold real numbers of at most 64 bits; got ndarray, <U"),
        ({"train": [[1.0], [1.0, 2.0]]}, ValueError, r"train must be an array \[N, T, C, H, W\]; got list"),
        ({"train": TRAIN[0]}, ValueError, r"train must be \[N, T, C, H, W\], none of them 0; got \[8, 1, 4, 4\]"),
        (
            {"train": spoilt(math.nan, (2, 0), (4, 1, 0, 0, 0))},
            ValueError,
            r"train must be finite.*; trajectory 2 has 16 values that are NaN or infinite \(2 of 6 .*, 17 in all\)",
        ),
        (
            {"validation": VALIDATION.astype(float) * 1e38},
            ValueError,
            "validation must be finite, as torch.float32; tr",
        ),
        ({"train": TRAIN * 0 + 7}, ValueError, r"train must not be constant .*; its channels \[0\] are"),
        ({"train": TRAIN.repeat(2, 2)}, ValueError, "train must have 1 channels, as the model has; got 2"),
        (
            {"validation": VALIDATION.repeat(2, 2)},
            ValueError,
            "validation must have 1 channels, as the model has; got 2",
        ),
        ({"loss": "mse"}, TypeError, "loss must be callable, or None; got 'mse'"),
        ({"on_epoch": 3}, TypeError, "on_epoch must be callable, or None; got 3"),
        ({"time_limit": "1h"}, TypeError, "time_limit must be a number; got '1h'"),
        ({"seed": -1}, ValueError, "seeds must be at least 0; got -1"),
    ],
)
def test_the_wrong_call_is_shown_the_right_one(tmp_path, options, error, message):
    options = {"model": build(1), "train": TRAIN, "validation": VALIDATION, "folder": tmp_path / "run"} | options
    with pytest.raises(error, match=message):
        fit(**{"settings": SETTINGS, "device": "cpu"} | options)
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_model_is_shown_the_right_call():
    with pytest.raises(TypeError, match=f"build must make the model of a seed, .*; got Forecaster.*by {RIGHT}"):
        Run(build(1), [0], "x")


def test_a_model_of_ones_own_trains_without_normalisation(tmp_path):
    model = fitted(tmp_path / "run", Own(), waves(), waves(3, seed=1), normalise=False)
    assert_weights(model, load_weights(tmp_path / "run")[0])
