"""What pages say of the numbers is made from these, and known to be out of date when it is."""

import copy
import json

import pytest

from minconv.artifact import readme as report
from minconv.artifact import tables
from minconv.experiments.report import lead_tables

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
RESULTS = content(
    published={"convlstm": [19.0, 21.0], "minconvlstm": [30.0, 30.0]},
    recipe={"convlstm": [4.0, 6.0], "minconvlstm": [3.0, 3.0]},
)
RESULTS["about"] = {"training trajectories": 64, "epochs": 20}
RESULTS["rows"].append(
    {"setting": "", "model": "persistence", "label": "Persistence", "values": {"closed_loop": [69.1]}}
)
WEATHER = content(recipe={"convlstm": [464.0, 464.0]})
for row in WEATHER["rows"]:
    row["values"] = {"rmse_1": row["values"]["closed_loop"], "ahead_of_persistence": [7.0]}
WEATHER["rows"] += [
    {"setting": "", "model": model, "label": model.title(), "values": {"rmse_1": [value], "ahead_of_persistence": []}}
    for model, value in {"persistence": 611.0, "ridge regression": 448.0, "stack": 439.0}.items()
]
WEATHER |= {"columns": {"rmse_1": "1 day", "ahead_of_persistence": "ahead of persistence"}, "digits": {"rmse_1": 0}}
ANSWER = {
    "rows": [
        {"claim": "lower error", "case": "flow", "setting": setting, "cells": ["MinConvGRU", "ConvLSTM"], "unit": "%"}
        | {"value": value, "low": value - 5, "high": value + 5, "evidence": "05_rollouts", "seeds": 3, "best": best}
        | {"verdict": "of no account: it is found again"}
        for setting, value, best in (
            ("published", 2, True),
            ("recipe", 18, True),
            ("recipe", 40, False),
            ("recipe, 2 epochs", 7, True),
        )
    ],
    "untested": ["a GPU"],
}
TABLES = {  # pages that are made of numbers alone
    "README.md": ("findings", "answer"),
    "figures/README.md": ("results", "real_weather", "geopotential", "air_temperature"),
    "minconv/bench/README.md": ("speed",),
}
PAPER = {"batch": 1, "grid": 16, "width": 1.0}


def step(model, T, horizon, seconds, speedup, **about) -> dict:
    spreads = {
        "parameters": 182524,
        "training": {"median": seconds},
        "training_speedup": {"median": speedup},
        "rival": "convlstm",
    }
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
def root(tmp_path, monkeypatch):
    """A repository of pages with their marks, and of numbers."""
    pages = {page: {name: report.PAGES[page][name] for name in names} for page, names in TABLES.items()}
    monkeypatch.setattr(report, "PAGES", pages)
    for page, names in TABLES.items():
        marks = "\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in names)
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(f"# Title\n\n{marks}\n\nThe end ×.\n", encoding="utf-8")
    numbers = {"results": RESULTS, "benchmark": BENCHMARK, "answer": ANSWER}
    numbers |= {f"{name}_results": WEATHER for name in ("real_weather", "geopotential", "air_temperature")}
    for name, values in numbers.items():
        (tmp_path / "figures" / f"{name}.json").write_text(json.dumps(values))
    return tmp_path


def run(root, *arguments) -> int:
    return report.main(["--root", str(root), *arguments])


def texts(root) -> dict[str, str]:
    return {page: (root / page).read_text(encoding="utf-8") for page in TABLES}


def test_flow():
    header, _, first, *_, published, decay = tables.flow(CONTENT, BENCHMARK).splitlines()
    assert header == "| Model | Setting | Parameters | ms per step | closed loop |"
    assert first.startswith("| ConvLSTM | published | 182,524 | 42 | 20.00")
    assert "minimal cell MinConvLSTM with 30.00" in published and "classical cell ConvLSTM with 20.00" in published
    assert "MinConvLSTM with 20.00" in decay and "classical cell none is finite" in decay


def test_the_answer_links_to_the_evidence():
    header, _, row, _, notes = tables.answer(ANSWER).splitlines()
    assert header == "| Claim | On | as in the paper | both at their best |"
    assert "| lower error | flow | [undecided](notebooks/05_rollouts.ipynb): +2\u00a0%\u00a0[-3,\u00a0+7] |" in row
    behind = "[does not hold](notebooks/05_rollouts.ipynb): "
    assert row.endswith(f"| {behind}+18\u00a0%\u00a0[+13,\u00a0+23]; {behind}+7\u00a0%\u00a0[+2,\u00a0+12], 2 epochs |")
    assert notes.endswith("not tested: a GPU.")


def test_findings():
    speed, recipe, weather = tables.findings(RESULTS, BENCHMARK, WEATHER).splitlines()
    assert "On 512 frames MinConvLSTM trains 1.2 times as fast as ours, the fastest measured (another CPU)." in speed
    assert "4- to 10-fold against the published" in recipe  # 20 / 5 and 30 / 3
    both = BENCHMARK | {"training": [*BENCHMARK["training"], step("convlstm_published", 512, 0, 4.0, 0.2)]}
    assert "trains 5.0 times as fast as the paper's own ConvLSTM, and 1.2" in tables.findings(RESULTS, both, WEATHER)
    assert recipe.index("the best minimal cell is MinConvLSTM with 3.00") < recipe.index(
        "classical one ConvLSTM with 5.0"
    )
    assert weather.endswith(
        "errs by 448 m² s⁻², the best network, ConvLSTM, by 464; all of them stacked with the map, by 439."
    )


def test_speed():
    header, _, first, *_, told, _, scan = tables.speed(BENCHMARK).splitlines()
    assert header == "| Training step | 512 frames | 20 frames, then 5 in closed loop |"
    assert first == "| MinConvLSTM | 1.25 | 0.50 |"
    assert "| MinConvLSTM, published log-domain scan | 1.00 | 0.42 |" in tables.speed(BENCHMARK)
    assert "In 3 settings measured, minimal cells are 0.50 to 1.25 times as fast" in told
    assert "as the fastest ConvLSTM; slower than it: MinConvLSTM in 2." in told
    assert "They gain more the longer the sequence." in told
    assert "a step on 512 frames takes 2.00 to 2.00 times as long" in told and "loop after 20 frames, " in told
    assert told.endswith("MinConvLSTM is slower than the fastest ConvLSTM in 1 of 2 settings.")
    assert "512 frames" in scan and "40.0 times as fast" in scan and "5.1 times as long as copying" in scan
    assert "the fastest ConvLSTM, which is ours;" in tables.speed(BENCHMARK)
    faster = copy.deepcopy(BENCHMARK)
    faster["training"][0]["rival"] = "convlstm_published"
    for row in faster["training"]:
        row["training_speedup"]["median"] = 5.0
    assert "In all 3 settings measured, every minimal cell was faster than the fastest ConvLSTM." in tables.speed(
        faster
    )
    assert "which is ours" not in tables.speed(faster)


def test_weather_has_a_table_of_errors_and_one_of_days():
    errors, notes, days, _ = lead_tables(WEATHER, "K").split("\n\n")
    assert errors.splitlines()[2:] == [
        "| ConvLSTM | recipe | 464\u00a0±\u00a00 |",
        "| Persistence |  | 611 |",
        "| Ridge Regression |  | 448 |",
        "| Stack |  | 439 |",
    ]
    assert notes.startswith("RMSE in K by lead time") and days.splitlines()[2:] == ["| ConvLSTM | recipe | 7 |"]


def test_writes_between_the_marks_only_and_once(root):
    before = texts(root)
    assert run(root, "--check") == 1 and texts(root) == before
    assert run(root) == 0
    written = texts(root)
    for page, names in TABLES.items():
        assert written[page].startswith(f"# Title\n\n<!-- {names[0]} -->\n") and written[page].endswith(
            "\n\nThe end ×.\n"
        )
    assert written["figures/README.md"].count("| ConvLSTM | recipe | 464") == 3
    assert run(root) == 0 and texts(root) == written
    assert run(root, "--check") == 0


def test_check_sees_other_numbers_and_edited_tables(root, capsys):
    run(root)
    changed = copy.deepcopy(RESULTS)
    changed["rows"][0]["values"]["closed_loop"][0] = 40.0
    (root / "figures" / "results.json").write_text(json.dumps(changed))
    assert run(root, "--check") == 1
    told = capsys.readouterr().err
    assert f"{root / 'README.md'} is out of date" in told and "bench" not in told
    (root / "figures" / "results.json").write_text(json.dumps(RESULTS))
    page = root / "figures" / "README.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| 464", "| 465"), encoding="utf-8")
    assert run(root, "--check") == 1


@pytest.mark.parametrize("lacking", ["experiment", "training", "scan"])
def test_benchmark_without_its_rows(lacking, root, capsys):
    content = {key: value for key, value in BENCHMARK.items() if key != lacking}
    (root / "figures" / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        run(root)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "benchmark.json" in told and f"'{lacking}'" in told


@pytest.mark.parametrize(
    "page, numbers, message",
    [
        ("no marks", json.dumps(RESULTS), "once each"),
        ("<!-- /findings --> <!-- findings -->", json.dumps(RESULTS), "once each"),
        ("<!-- findings --><!-- /findings -->" * 2, json.dumps(RESULTS), "once each"),
        ("<!-- findings --><!-- /findings -->", '{"rows": [', "not a whole JSON file"),
        ("<!-- findings --><!-- /findings -->", "{}", "KeyError: 'rows'"),
    ],
)
def test_bad_files_are_left_alone(root, capsys, page, numbers, message):
    (root / "README.md").write_text(page)
    (root / "figures" / "results.json").write_text(numbers)
    before = texts(root)
    with pytest.raises(SystemExit) as stopped:
        run(root)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert texts(root) == before


def test_missing_numbers(root, capsys):
    (root / "figures" / "results.json").unlink()
    with pytest.raises(SystemExit):
        run(root)
    assert "results.json" in capsys.readouterr().err
