"""The README's results are made from the numbers, and known to be out of date when they are."""

import copy
import json

import pytest

from minconv.artifact import readme as report

LABELS = {"convlstm": "ConvLSTM", "minconvlstm": "MinConvLSTM"}


def content(**settings) -> dict:
    """Closed-loop errors by setting and model."""
    rows = [
        {"setting": setting, "model": model, "label": LABELS[model], "values": {"closed_loop": values}}
        for setting, models in settings.items()
        for model, values in models.items()
    ]
    return {
        "about": {"epochs": 6},
        "columns": {"closed_loop": "closed loop"},
        "digits": {"closed_loop": 2},
        "rows": rows,
    }


CONTENT = content(
    published={"convlstm": [19.0, 21.0], "minconvlstm": [30.0, 30.0]},
    decay={"convlstm": [None, 20.0], "minconvlstm": [18.0, 22.0]},
)
REGIONS = ("results", "real_weather", "geopotential", "air_temperature")
BEGIN, END = "<!-- results -->", "<!-- /results -->"
OTHERS = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in REGIONS[1:])
PAPER = {"batch": 1, "grid": 16, "width": 1.0}


def step(model, T, horizon, seconds, speedup, **about) -> dict:
    spreads = {"parameters": 182524, "training": {"median": seconds}, "training_speedup": {"median": speedup}}
    return {"model": model, "T": T, "horizon": horizon, **PAPER, **about, **spreads, "over_convolutions": {"median": 2}}


BENCHMARK = {
    "device": "cpu",
    "default": "cpu",
    "layout": "contiguous",
    "experiment": {"T": 20, "horizon": 5, **PAPER},
    "provenance": {"hardware": "another CPU"},
    "accuracy": [],
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
    "seeds": [],
    "startup": [{"import": {"median": 2.0}, "first_call": {"median": 3.0}}],
}


@pytest.fixture
def files(tmp_path):
    readme, numbers, benchmark = (tmp_path / name for name in ("README.md", "results.json", "benchmark.json"))
    benchmark.write_text(json.dumps(BENCHMARK))
    readme.write_text(f"# Title\n\n{BEGIN}\n{END}\n{OTHERS}\nThe end ×.\n", encoding="utf-8")
    numbers.write_text(json.dumps(CONTENT))
    for name in REGIONS[1:]:
        (tmp_path / f"{name}_results.json").write_text(json.dumps(content(increments={"convlstm": [232.0, 235.0]})))
    return ["--readme", str(readme), "--figures", str(tmp_path)], readme, numbers


def test_flow():
    header, _, first, *_, speed, slower, scan, published, decay = report.flow(CONTENT, BENCHMARK).splitlines()
    assert header == "| Model | Setting | Parameters | ms per step | closed loop |"
    assert first.startswith("| ConvLSTM | published | 182,524 | 42 | 20.00")
    assert "ConvLSTM, another CPU): training on 512 teacher-forced frames MinConvLSTM 1.25 (MinConvLSTM with" in speed
    assert "20 teacher-forced frames and 5 in closed loop, MinConvLSTM 0.50 (" in speed
    assert speed.endswith("(MinConvLSTM with the published log-domain scan 0.42, in bf16-mixed 2.10).")
    assert "in 3 settings" in slower and "MinConvLSTM 0.50 (20 + 5 frames, batch 1, 16 × 16); MinConv" in slower
    assert slower.endswith("MinConvLSTM 0.90 (20 + 5 frames, batch 1, 32 × 32, 2 times the channels).")
    assert "512 frames" in scan and "40.0 times as fast" in scan and "5.1 times the time of copying" in scan
    assert "minimal cell MinConvLSTM with 30.00" in published and "classical cell ConvLSTM with 20.00" in published
    assert "MinConvLSTM with 20.00" in decay and "classical cell none is finite" in decay
    faster = copy.deepcopy(BENCHMARK)
    for row in faster["training"]:
        row["training_speedup"]["median"] = 5.0
    assert ": no minimal cell." in report.flow(CONTENT, faster)


def test_writes_between_the_marks_only_and_once(files):
    arguments, readme, _ = files
    assert report.main([*arguments, "--check"]) == 1
    assert BEGIN + "\n" + END in readme.read_text(encoding="utf-8")
    assert report.main(arguments) == 0
    written = readme.read_text(encoding="utf-8")
    assert written.startswith(f"# Title\n\n{BEGIN}\n| Model |") and written.endswith("\n\nThe end ×.\n")
    assert written.count("| ConvLSTM | increments | 233.50") == len(REGIONS) - 1
    assert report.main(arguments) == 0
    assert readme.read_text(encoding="utf-8") == written
    assert report.main([*arguments, "--check"]) == 0


def test_check_sees_other_numbers_and_edited_tables(files):
    arguments, readme, numbers = files
    report.main(arguments)
    changed = copy.deepcopy(CONTENT)
    changed["rows"][0]["values"]["closed_loop"][0] = 20.0
    numbers.write_text(json.dumps(changed))
    assert report.main([*arguments, "--check"]) == 1
    numbers.write_text(json.dumps(CONTENT))
    readme.write_text(readme.read_text(encoding="utf-8").replace("233.50", "233.60"), encoding="utf-8")
    assert report.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize("lacking", ["experiment", "training", "scan"])
def test_benchmark_without_its_rows(lacking, files, capsys):
    arguments, readme, _ = files
    content = {key: value for key, value in BENCHMARK.items() if key != lacking}
    (readme.parent / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        report.main(arguments)
    assert stopped.value.code == 2
    assert f"benchmark must hold '{lacking}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "readme, numbers, message",
    [
        ("no marks", json.dumps(CONTENT), "once each"),
        (f"{END} {BEGIN}", json.dumps(CONTENT), "once each"),
        (f"{BEGIN}{END}" * 2, json.dumps(CONTENT), "once each"),
        (f"{BEGIN}{END}", '{"rows": [', "not a whole JSON file"),
        (f"{BEGIN}{END}", "{}", "KeyError: 'rows'"),
    ],
)
def test_bad_files_are_left_alone(files, capsys, readme, numbers, message):
    arguments, readme_file, numbers_file = files
    readme_file.write_text(readme)
    numbers_file.write_text(numbers)
    with pytest.raises(SystemExit) as stopped:
        report.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert readme_file.read_text() == readme


def test_missing_numbers(files, capsys):
    arguments, _, numbers = files
    numbers.unlink()
    with pytest.raises(SystemExit):
        report.main(arguments)
    assert "results.json" in capsys.readouterr().err
