"""The README's table is made from the numbers, and known to be out of date when it is."""

import copy
import json

import numpy as np
import pytest
import xarray as xr

from minconv.artifact import readme

CONTENT = {
    "profile": "laptop",
    "hardware": "a CPU, 2 threads",
    "facts": {"training trajectories": 64, "epochs": 20},
    "settings": ["published", "no decay"],
    "rows": [
        {
            "model": "convlstm",
            "label": "ConvLSTM",
            "parameters": 182524,
            "errors": {
                "published": {"teacher_forced": [0.06, 0.08], "closed_loop": [0.19, 0.21]},
                "no decay": {"teacher_forced": [0.05, 0.05], "closed_loop": [None, 0.2]},
            },
        },
        {
            "model": "minconvlstm",
            "label": "MinConvLSTM",
            "parameters": 175449,
            "errors": {
                "published": {"teacher_forced": [0.06, 0.06], "closed_loop": [0.3, 0.3]},
                "no decay": {"teacher_forced": [0.05, 0.05], "closed_loop": [0.18, 0.22]},
            },
        },
    ],
    "persistence": {
        "published": {"teacher_forced": [0.085], "closed_loop": [0.688]},
        "no decay": {"teacher_forced": [0.085], "closed_loop": [0.688]},
    },
}
REGIONS = ("results", "geopotential", "air_temperature")
BEGIN, END = "<!-- results -->", "<!-- /results -->"
OTHERS = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in REGIONS[1:])
WEATHER = {
    "source": "a model, not ERA5",
    "units": "m2 s-2",
    "starts": 206,
    "profile": "laptop",
    "hardware": "a CPU, 2 threads",
    "facts": {"epochs": 6},
    "baselines": ["Persistence", "Climatology"],
    "days": [1, 3],
    "rows": [
        {"setting": "", "model": "persistence", "label": "Persistence", "rmse": [[377.4], [860.0]]},
        {
            "setting": "increments",
            "model": "convlstm",
            "label": "ConvLSTM",
            "rmse": [[230.0, 234.0], [640.0, 640.0]],
            "ahead": [7.0, 4.75],
        },
    ],
}
PAPER = {"batch": 1, "grid": 16, "width": 1.0}


def step(model, T, horizon, seconds, speedup, **about) -> dict:
    spreads = {"training": {"median": seconds}, "training_speedup": {"median": speedup}}
    return {"model": model, "T": T, "horizon": horizon, **PAPER, **about, **spreads}


BENCHMARK = {
    "default": "cpu",
    "layout": "contiguous",
    "experiment": {"T": 20, "horizon": 5, **PAPER},
    "provenance": {"hardware": "another CPU"},
    "scan": [
        {"gating": "lstm", "backend": "cpu", "layout": "contiguous", "batch": 1, "T": T, "tail": [40, 16, 16]}
        | {"training_speedup": {"median": 40.0}, "training_over_copy": {"median": T / 100}}
        for T in (20, 512)
    ],
    "training": [
        step("convlstm", 20, 5, 0.0421, 1.0),
        step("minconvlstm", 20, 5, 0.0842, 0.5),
        step("published", 20, 5, 0.1, 0.42),
        step("half", 20, 5, 0.02, 2.1),
        step("convlstm", 512, 0, 1.0, 1.0),
        step("minconvlstm", 512, 0, 0.8, 1.25),
        step("published", 512, 0, 1.0, 1.0),
        step("half", 512, 0, 0.5, 2.0),
        step("minconvlstm", 20, 5, 0.5, 0.9, grid=32, width=2.0),
    ],
}


@pytest.fixture
def files(tmp_path):
    text, numbers, benchmark = (tmp_path / name for name in ("README.md", "results.json", "benchmark.json"))
    benchmark.write_text(json.dumps(BENCHMARK))
    text.write_text(f"# Title\n\n{BEGIN}\n{END}\n{OTHERS}\nThe end ×.\n", encoding="utf-8")
    numbers.write_text(json.dumps(CONTENT))
    for name in REGIONS[1:]:
        (tmp_path / f"{name}_results.json").write_text(json.dumps(WEATHER))
    arguments = ["--readme", str(text), "--figures", str(tmp_path)]
    return arguments, text, numbers


def test_table():
    lines = readme.table(CONTENT, BENCHMARK).splitlines()
    expected = "| ConvLSTM | 182,524 | 42 | 7.00 ± 1.41 | 20.00 ± 1.41 | 5.00 ± 0.00 | not finite for 1 of 2 |"
    assert lines[2] == expected
    assert lines[4] == "| Persistence |  |  | 8.50 | 68.80 | 8.50 | 68.80 |"
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert "over 2 seeds" in lines[-1] and "`laptop` on a CPU, 2 threads" in lines[-1]
    assert lines[-1].endswith("training step on another CPU; training trajectories 64; epochs 20.")


def test_findings():
    speed, slower, scan, published, no_decay = readme.findings(CONTENT, BENCHMARK).splitlines()
    assert "ConvLSTM, another CPU): training on 512 teacher-forced frames MinConvLSTM 1.25 (MinConvLSTM with" in speed
    assert "20 teacher-forced frames and 5 in closed loop, MinConvLSTM 0.50 (" in speed
    assert speed.endswith("(MinConvLSTM with the published log-domain scan 0.42, in bf16-mixed 2.10).")
    assert "in 3 settings" in slower and "MinConvLSTM 0.50 (20 + 5 frames, batch 1, 16 × 16); MinConv" in slower
    assert slower.endswith("MinConvLSTM 0.90 (20 + 5 frames, batch 1, 32 × 32, 2 times the channels).")
    assert "512 frames" in scan and "40.0 times as fast" in scan and "5.1 times the time of copying" in scan
    assert "MinConvLSTM with 30.00 ± 0.00" in published and "ConvLSTM with 20.00 ± 1.41" in published
    assert "MinConvLSTM with 20.00 ± 2.83" in no_decay and "classical cell none that stayed finite" in no_decay


def test_writes_between_the_marks_only_and_once(files):
    arguments, text, _ = files
    assert readme.main([*arguments, "--check"]) == 1
    assert BEGIN + "\n" + END in text.read_text(encoding="utf-8")
    assert readme.main(arguments) == 0
    written = text.read_text(encoding="utf-8")
    assert written.startswith(f"# Title\n\n{BEGIN}\n| Model |") and written.endswith("\n\nThe end ×.\n")
    assert written.count("| ConvLSTM | increments | 232 ± 3 | 640 ± 0 | 7.00 | 4.75 |") == 2
    assert readme.main(arguments) == 0
    assert text.read_text(encoding="utf-8") == written
    assert readme.main([*arguments, "--check"]) == 0


def test_check_sees_other_numbers_and_edited_tables(files):
    arguments, text, numbers = files
    readme.main(arguments)
    changed = copy.deepcopy(CONTENT)
    changed["rows"][0]["errors"]["published"]["closed_loop"][0] = 0.2
    numbers.write_text(json.dumps(changed))
    assert readme.main([*arguments, "--check"]) == 1
    numbers.write_text(json.dumps(CONTENT))
    text.write_text(text.read_text(encoding="utf-8").replace("7.00", "6.00"), encoding="utf-8")
    assert readme.main([*arguments, "--check"]) == 1


def test_no_slower_setting_is_said_so():
    benchmark = copy.deepcopy(BENCHMARK)
    for row in benchmark["training"]:
        row["training_speedup"]["median"] = 5.0
    assert readme.findings(CONTENT, benchmark).splitlines()[1].endswith(": no minimal cell.")


@pytest.mark.parametrize("lacking", ["experiment", "training", "scan"])
def test_benchmark_without_its_rows(lacking, files, capsys):
    arguments, text, _ = files
    content = {key: value for key, value in BENCHMARK.items() if key != lacking}
    (text.parent / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        readme.main(arguments)
    assert stopped.value.code == 2
    assert f"benchmark must hold '{lacking}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, numbers, message",
    [
        ("no marks", json.dumps(CONTENT), "once each"),
        (f"{END} {BEGIN}", json.dumps(CONTENT), "once each"),
        (f"{BEGIN}{END}" * 2, json.dumps(CONTENT), "once each"),
        (f"{BEGIN}{END}", '{"rows": [', "not a whole JSON file"),
        (f"{BEGIN}{END}", "{}", "must hold 'settings'"),
    ],
)
def test_bad_files_are_left_alone(files, capsys, words, numbers, message):
    arguments, text, numbers_file = files
    text.write_text(words)
    numbers_file.write_text(numbers)
    with pytest.raises(SystemExit) as stopped:
        readme.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert text.read_text() == words


def test_missing_numbers(files, capsys):
    arguments, _, numbers = files
    numbers.unlink()
    with pytest.raises(SystemExit):
        readme.main(arguments)
    assert "results.json" in capsys.readouterr().err


def test_weather_table():
    lines = readme.weather_table(WEATHER).splitlines()
    assert lines[0] == "| Model | Setting | 1 day | 3 days | ahead of persistence | ahead of climatology |"
    assert lines[2:4] == [
        "| Persistence |  | 377 | 860 |  |  |",
        "| ConvLSTM | increments | 232 ± 3 | 640 ± 0 | 7.00 | 4.75 |",
    ]
    for words in ("m2 s-2", "a model, not ERA5", "206 forecasts", "`laptop` on a CPU, 2 threads", "epochs 6"):
        assert words in lines[-1]
    with pytest.raises(ValueError, match="results must hold 'days'"):
        readme.weather_table({key: value for key, value in WEATHER.items() if key != "days"})


def test_weather_results_from_scores():
    leads = np.arange(1, 15).astype("timedelta64[h]") * 12
    rmse = np.stack([np.full((2, 14), 5.0), [np.arange(1.0, 15)] * 2, [np.arange(0.5, 14), np.arange(1.5, 15)]])
    names = ["climatology", "persistence", "convlstm"]
    scores = xr.Dataset(
        {"rmse": (("model", "seed", "lead_time"), rmse, {"units": "K"})},
        {"model": names, "seed": [1, 2], "lead_time": leads},
        {"starts": 3, "source": "somewhere"},
    )
    labels = {name: name.title() for name in names}
    both = {"a": scores, "b": scores}
    found = readme.weather_results(both, labels, names[:2], "smoke", "a CPU", {"epochs": 1})
    assert [(row["model"], row["setting"]) for row in found["rows"]] == [
        ("climatology", ""), ("persistence", ""), ("convlstm", "a"), ("convlstm", "b"),
    ]  # fmt: skip
    assert found["rows"][1]["rmse"] == [[2.0], [6.0], [10.0], [14.0]]
    assert found["rows"][2]["rmse"] == [[1.5, 2.5], [5.5, 6.5], [9.5, 10.5], [13.5, 14.5]]
    # the mean over seeds is 1, 2, ...: below 5 for four leads, and never below persistence, which is the same
    assert found["rows"][2]["ahead"] == [2.0, 0.0]
    json.dumps(found, allow_nan=False)
    assert "| 2.00 ± 0.71 |" in readme.weather_table(found)


def test_results_from_a_summary():
    values = {"teacher_forced": [[0.1, 0.2], [0.3, 0.3]], "closed_loop": [[0.5, np.inf], [0.7, 0.7]]}
    parts = xr.Dataset(
        {name: (("model", "seed"), row) for name, row in values.items()},
        {"model": ["convlstm", "persistence"], "seed": [1, 2]},
    )
    details = {"convlstm": {"label": "ConvLSTM", "parameters": 182524}}
    found = readme.results({"published": parts}, details, "smoke", "a CPU", {"epochs": 1})
    assert found["rows"][0]["errors"] == {"published": {"teacher_forced": [0.1, 0.2], "closed_loop": [0.5, None]}}
    assert found["persistence"] == {"published": {"teacher_forced": [0.3], "closed_loop": [0.7]}}
    json.dumps(found, allow_nan=False)
    assert "not finite for 1 of 2" in readme.table(found, BENCHMARK)
    with pytest.raises(ValueError, match="details must be given for convlstm of setting published; got none"):
        readme.results({"published": parts}, {}, "smoke", "a CPU", {})
