"""One table of an experiment's results, from numbers to Markdown."""

import json

import numpy as np
import pytest
import xarray as xr

from minconv.evaluation.weather import by_day
from minconv.experiments.report import (
    SPACE,
    best,
    columns_table,
    losses,
    markdown_table,
    minutes_to,
    plus_minus,
    results,
    table,
)

ABOUT = {"profile": "smoke", "epochs": 1}


def errors(**values) -> xr.Dataset:
    variables = {
        name: (("model", "seed"), rows, {"long_name": name.replace("_", " ")}) for name, rows in values.items()
    }
    return xr.Dataset(variables, {"model": ["persistence", "convlstm"], "seed": [1, 2]})


def test_results_and_their_table():
    found = {
        "published": errors(teacher_forced=[[30.0, 30.0], [10.0, 20.0]], closed_loop=[[70.0, 70.0], [50.0, np.inf]]),
        "recipe": errors(teacher_forced=[[30.0, 30.0], [5.0, 6.0]], closed_loop=[[70.0, 70.0], [7.0, 8.0]]),
    }
    content = results(found, {"persistence": "Persistence", "convlstm": "ConvLSTM"}, ["persistence"], ABOUT)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert [(row["model"], row["setting"]) for row in content["rows"]] == [
        ("persistence", ""), ("convlstm", "published"), ("convlstm", "recipe"),
    ]  # fmt: skip
    assert content["rows"][0]["values"] == {"teacher_forced": [30.0], "closed_loop": [70.0]}
    assert content["rows"][1]["values"]["closed_loop"] == [50.0, None]
    lines = table(content, {"Parameters": {("recipe", "convlstm"): "182,524"}}, "RMSE").splitlines()
    assert lines[0] == "| Model | Setting | Parameters | teacher forced | closed loop |"
    assert lines[2] == "| Persistence |  |  | 30.00 | 70.00 |"
    assert lines[3] == f"| ConvLSTM | published |  | 15.00{SPACE}±{SPACE}7.07 | not finite for 1 of 2 |"
    assert lines[4].startswith("| ConvLSTM | recipe | 182,524 | 5.50")
    assert lines[-1].startswith("RMSE; mean ± ") and lines[-1].endswith("profile smoke; epochs 1.")
    assert best(content, "recipe", "closed_loop", ["convlstm"])["values"]["closed_loop"] == [7.0, 8.0]
    assert best(content, "published", "closed_loop", ["convlstm"]) is None
    with pytest.raises(ValueError, match="labels must have one of persistence; got none"):
        results(found, {}, [], ABOUT)
    with pytest.raises(ValueError, match="same variables in all settings; b has"):
        results(
            {"a": found["recipe"], "b": found["recipe"][["closed_loop"]]}, {"persistence": "", "convlstm": ""}, [], {}
        )
    with pytest.raises(ValueError, match="results must hold 'digits'"):
        table({key: value for key, value in content.items() if key != "digits"})


def test_columns_of_a_forecast_by_day():
    leads = np.arange(1, 15).astype("timedelta64[h]") * 12
    rmse = np.stack([np.full((2, 14), 5.0), [np.arange(1.0, 15)] * 2, [np.arange(0.5, 14), np.arange(1.5, 15)]])
    names = ["climatology", "persistence", "convlstm"]
    coordinates = {"model": names, "seed": [1, 2], "lead_time": leads.astype("timedelta64[ns]")}
    scores = xr.Dataset({"rmse": (("model", "seed", "lead_time"), rmse, {"units": "K"})}, coordinates)
    content = results(
        {"a": by_day(scores, names[:2])}, {name: name.title() for name in names}, names[:2], ABOUT, digits=1
    )
    still, model = (row["values"] for row in content["rows"][1:])
    assert [still[f"rmse_{day}"] for day in (1, 3, 5, 7)] == [[2.0], [6.0], [10.0], [14.0]]
    assert [model[f"rmse_{day}"] for day in (1, 7)] == [[1.5, 2.5], [13.5, 14.5]]
    # the mean over seeds is 1, 2, ...: below 5 for four leads, and never below persistence, which is the same
    assert model["ahead_of_climatology"] == [2.0] and model["ahead_of_persistence"] == [0.0]
    header, _, *rows = table(content).splitlines()
    assert header.endswith("| 1 day | 3 days | 5 days | 7 days | ahead of climatology | ahead of persistence |")
    assert rows[1].endswith("| 14.0 |  |  |") and rows[2].endswith(f"| 14.0{SPACE}±{SPACE}0.7 | 2.00 | 0.00 |")


def test_one_seed_has_no_spread_and_cells_no_bars():
    assert plus_minus([1.234]) == "1.23" and plus_minus([]) == "" and plus_minus([1.0, 3.0], 0) == f"2{SPACE}±{SPACE}1"
    with pytest.raises(ValueError, match="cells without"):
        markdown_table(["a"], [["1 | 2"]])


def test_columns_by_the_name_of_their_rows():
    found = errors(closed_loop=[[70.0, 70.0], [1.0, 3.0]]).closed_loop
    words = xr.DataArray(["a", "b"], {"model": found.model})
    made = columns_table("Model", {"said": words, "RMSE": found, "mean": found.mean("seed")}, ".1f", 2, ["notes"])
    assert made.splitlines() == [
        "| Model | said | RMSE | mean |",
        "| :-- | :-- | --: | --: |",
        f"| Persistence | a | 70.0{SPACE}±{SPACE}0.0 | 70.0 |",
        f"| ConvLSTM | b | 2.0{SPACE}±{SPACE}1.4 | 2.0 |",
        "",
        "notes.",
    ]
    small = xr.DataArray([1e-7, 2e-3], {"T": [8, 16]})
    assert columns_table("T", {"error": small}, ".0e").splitlines()[2:] == ["| 8 | 1e-07 |", "| 16 | 2e-03 |"]
    grid = xr.DataArray([[1.0, 2.0]], {"bottom": ["B"], "rate": [1e-3, 0.1]})
    made = columns_table("bottom, by rate", grid.to_dataset("rate"))
    assert made.splitlines()[::2] == ["| bottom, by rate | 0.001 | 0.1 |", "| B | 1.00 | 2.00 |"]


def logged(by_epoch: list[float], seeds=(1, 2)) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "seed": seed, "train_loss": 2 * loss, "validation_loss": loss * seed, "seconds": 1.0}
        for epoch, loss in enumerate(by_epoch, start=1)
        for seed in seeds
    ]


def test_losses_and_the_time_to_that_of_a_reference():
    convlstm, other = logged([8.0, 4.0, 2.0]), logged([4.0, 2.0, 1.0])
    found = losses({"a": {"convlstm": convlstm, "x": other}, "b": {"convlstm": other, "x": convlstm}})
    np.testing.assert_array_equal(found.validation_loss.sel(setting="a", model="x", seed=2), [8, 4, 2])
    np.testing.assert_array_equal(found.train_loss.sel(setting="b", model="x", seed=2), [16, 8, 4])
    seconds = xr.DataArray([[12.0, 6.0], [6.0, 12.0]], {"setting": ["a", "b"], "model": ["convlstm", "x"]})
    time = minutes_to(found.assign(seconds=seconds), "convlstm")
    assert time.epoch.sel(setting="a").values.tolist() == [3, 2]
    np.testing.assert_allclose(time.minutes.sel(setting="a"), [0.6, 0.2])
    assert time.epoch.sel(setting="b", model="convlstm") == 3 and np.isnan(time.minutes.sel(setting="b", model="x"))
    np.testing.assert_allclose(time.whole.sel(setting="b"), [0.3, 0.6])
    some = losses({"a": {"convlstm": convlstm}, "b": {"x": other, "convlstm": convlstm}})
    assert (
        some.model.values.tolist() == ["convlstm", "x"]
        and some.validation_loss.sel(setting="a", model="x").isnull().all()
    )
