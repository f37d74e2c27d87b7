"""The README's table is made from the numbers, and known to be out of date when it is."""

import copy
import json

import numpy as np
import pytest
import xarray as xr

from minconv import report

CONTENT = {
    "profile": "laptop",
    "hardware": "a CPU, 2 threads",
    "facts": {"training trajectories": 64, "epochs": 20},
    "settings": ["published", "no decay"],
    "long_sequence": {"frames": 512, "speedup": {"convlstm": 1.0, "minconvlstm": 1.25}},
    "rows": [
        {
            "model": "convlstm",
            "label": "ConvLSTM",
            "parameters": 182524,
            "seconds_per_step": 0.0421,
            "speedup": 1.0,
            "errors": {
                "published": {"teacher_forced": [0.06, 0.08], "closed_loop": [0.19, 0.21]},
                "no decay": {"teacher_forced": [0.05, 0.05], "closed_loop": [None, 0.2]},
            },
        },
        {
            "model": "minconvlstm",
            "label": "MinConvLSTM",
            "parameters": 175449,
            "seconds_per_step": 0.0842,
            "speedup": 0.5,
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


@pytest.fixture
def files(tmp_path):
    readme, numbers = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(f"# Title\n\n{report.BEGIN}\n{report.END}\n\nThe end ×.\n", encoding="utf-8")
    numbers.write_text(json.dumps(CONTENT))
    return ["--readme", str(readme), "--results", str(numbers)], readme, numbers


def test_table():
    lines = report.table(CONTENT).splitlines()
    expected = "| ConvLSTM | 182,524 | 42 | 7.00 ± 1.41 | 20.00 ± 1.41 | 5.00 ± 0.00 | not finite for 1 of 2 |"
    assert lines[2] == expected
    assert lines[4] == "| Persistence |  |  | 8.50 | 68.80 | 8.50 | 68.80 |"
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert "over 2 seeds" in lines[-1] and "`laptop` on a CPU, 2 threads" in lines[-1]
    assert lines[-1].endswith("training trajectories 64; epochs 20.")


def test_findings():
    speed, published, no_decay = report.findings(CONTENT).splitlines()
    assert "on 512 teacher-forced frames MinConvLSTM 1.25;" in speed and "in closed loop, MinConvLSTM 0.50." in speed
    assert "MinConvLSTM with 30.00 ± 0.00" in published and "ConvLSTM with 20.00 ± 1.41" in published
    assert "MinConvLSTM with 20.00 ± 2.83" in no_decay and "classical cell none that stayed finite" in no_decay


def test_writes_between_the_marks_only_and_once(files):
    arguments, readme, _ = files
    assert report.main([*arguments, "--check"]) == 1
    assert report.BEGIN + "\n" + report.END in readme.read_text(encoding="utf-8")
    assert report.main(arguments) == 0
    written = readme.read_text(encoding="utf-8")
    assert written.startswith(f"# Title\n\n{report.BEGIN}\n| Model |") and written.endswith(
        f"\n{report.END}\n\nThe end ×.\n"
    )
    assert report.main(arguments) == 0
    assert readme.read_text(encoding="utf-8") == written
    assert report.main([*arguments, "--check"]) == 0


def test_check_sees_other_numbers_and_edited_tables(files):
    arguments, readme, numbers = files
    report.main(arguments)
    changed = copy.deepcopy(CONTENT)
    changed["rows"][0]["errors"]["published"]["closed_loop"][0] = 0.2
    numbers.write_text(json.dumps(changed))
    assert report.main([*arguments, "--check"]) == 1
    numbers.write_text(json.dumps(CONTENT))
    readme.write_text(readme.read_text(encoding="utf-8").replace("7.00", "6.00"), encoding="utf-8")
    assert report.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize(
    "readme, numbers, message",
    [
        ("no marks", json.dumps(CONTENT), "once each"),
        (f"{report.END} {report.BEGIN}", json.dumps(CONTENT), "once each"),
        (f"{report.BEGIN}{report.END}" * 2, json.dumps(CONTENT), "once each"),
        (f"{report.BEGIN}{report.END}", '{"rows": [', "not a whole JSON file"),
        (f"{report.BEGIN}{report.END}", "{}", "must hold 'settings'"),
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


def test_results_from_a_summary():
    values = {"teacher_forced": [[0.1, 0.2], [0.3, 0.3]], "closed_loop": [[0.5, np.inf], [0.7, 0.7]]}
    parts = xr.Dataset(
        {name: (("model", "seed"), row) for name, row in values.items()},
        {"model": ["convlstm", "persistence"], "seed": [1, 2]},
    )
    details = {"convlstm": {"label": "ConvLSTM", "parameters": 182524, "seconds_per_step": 0.01, "speedup": 1.0}}
    found = report.results({"published": parts}, details, "smoke", "a CPU", {"epochs": 1}, {"convlstm": 1.0}, 16)
    assert found["rows"][0]["errors"] == {"published": {"teacher_forced": [0.1, 0.2], "closed_loop": [0.5, None]}}
    assert found["persistence"] == {"published": {"teacher_forced": [0.3], "closed_loop": [0.7]}}
    json.dumps(found, allow_nan=False)
    assert "not finite for 1 of 2" in report.table(found)
    with pytest.raises(ValueError, match="details must be given for convlstm of setting published; got none"):
        report.results({"published": parts}, {}, "smoke", "a CPU", {}, {}, 16)
