"""Lists of notebooks and figures are read from these: a new one has its row by itself."""

import json
import re

import h5py
import pytest
from helpers import ROOT

from minconv.artifact import gallery


def notebook(path, title, claim="", code=()):
    cells = [
        {
            "cell_type": "markdown",
            "source": [f"# {title}\n\n**{claim}**\n\n*How long: 3 s.*" if claim else f"# {title}"],
        }
    ]
    cells += [{"cell_type": "code", "source": lines.splitlines(keepends=True)} for lines in code]
    path.write_text(json.dumps({"cells": cells}))


@pytest.fixture
def root(tmp_path):
    """Two notebooks, three figures, and the times of one profile."""
    figures, notebooks = tmp_path / "figures", tmp_path / "notebooks"
    figures.mkdir()
    notebooks.mkdir()
    for name in ("waves_A", "waves_B", "rmse"):
        (figures / f"{name}.png").write_bytes(b"")
    for name in ("waves_A", "rmse"):
        (figures / f"{name}.json").write_text(json.dumps({"caption": f"The caption of {name}."}))
    with h5py.File(figures / "waves_B.nc", "w") as file:
        file.attrs["caption"] = "Waves over B."
    code = "%matplotlib inline\nfor name in 'AB':\n    show(fig, f'waves_{name}', data)"
    notebook(notebooks / "20_waves.ipynb", "20 · Waves: where they go", "They go on. And on.", [code])
    code = ["rmse = errors['rmse']", 'files = plots.save(\n    fig, "rmse", rmse, caption="no")']
    notebook(notebooks / "21_errors.ipynb", "21 · Errors: small ones", "Errors of [20](20_waves.ipynb) are small", code)
    (notebooks / "times.json").write_text(
        json.dumps({"smoke": {"hardware": "a CPU", "notebooks": {"20_waves": 65.0, "21_errors": 4.0}, "set_up": 51.0}})
    )
    return tmp_path


def test_a_notebook_tells_of_itself(root):
    waves, errors = gallery.read_notebooks(root)
    assert (waves.number, waves.title, waves.claim) == ("20", "Waves: where they go", "They go on. And on.")
    assert waves.short == "where they go" and errors.claim == "Errors of [20](20_waves.ipynb) are small"
    assert waves.figures(root / "figures") == ["waves_A", "waves_B"]
    assert errors.figures(root / "figures") == ["rmse"]  # though 20 might have a variable of that name


def test_lists(root):
    opening, row, closing = gallery.short_list(root).splitlines()
    assert (opening, closing) == ("<table>", "</table>") and row.count("<td") == row.count("</td>") == 2
    picture, told = re.match(r'<tr valign="top"><td width="25%">(.*?)<br>(.*?)</td>', row).groups()
    assert picture == '<img src="figures/waves_A.png" width="180" alt="waves_A">'
    assert told == '<a href="notebooks/20_waves.ipynb">20 · Waves</a>: where they go'
    page = gallery.notebook_gallery(root)
    assert "\n\n**[20 · Waves: where they go](20_waves.ipynb)**\n\nThey go on.\n\nTime: smoke 1" in page
    assert "1\u00a0min\u00a005\u00a0s · needs nothing · [its figures](" in page
    assert "\n\nErrors of [20](20_waves.ipynb) are small\n\n" in page
    assert "figures/README.md#20--waves-where-they-go" in page


def test_figures(root):
    page = gallery.figure_gallery(root)
    assert page.index("### 20 · Waves") < page.index("waves_A.png") < page.index("### 21 · Errors")
    assert "*Figure 20.2. Waves over B.*\\\n[PDF](waves_B.pdf) · [numbers](waves_B.nc) · [notebook](../not" in page


def test_commands(root):
    smoke, laptop, machines = gallery.commands(root).splitlines()[1:-1]
    assert smoke == "./run_all.sh --profile smoke  # 2 min: does everything work?"
    assert "# not measured: " in laptop and machines == "# set-up included, on a CPU"
    times = {"laptop": {"hardware": "a CPU", "notebooks": {"21_errors": 4.0}, "set_up": 51.0}}
    (root / "notebooks" / "times.json").write_text(json.dumps(times))
    assert "# 1 min for 1 of 2 notebooks: " in gallery.commands(root)


def test_costs(root):
    path = root / "notebooks" / "times.json"
    assert gallery.costs(root).splitlines()[2:] == ["| `smoke` | a CPU | 2 of 2 | 1 min | not measured |"]
    times = json.loads(path.read_text())
    times["smoke"]["processor"] = {"20_waves": 115.0, "21_errors": 4.0}
    path.write_text(json.dumps(times))
    assert gallery.costs(root).endswith("| 1 min | 2 min |")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "figures" / "lost.png").write_bytes(b""), "no notebook saves: lost"),
        (lambda root: (root / "figures" / "rmse.json").unlink(), "must have its numbers"),
        (lambda root: (root / "figures" / "rmse.json").write_text("{}"), "rmse.json must have a caption"),
        (lambda root: (root / "figures" / "waves_B.nc").write_bytes(b"no"), "waves_B.nc must have a caption"),
        (lambda root: (root / "notebooks" / "20_waves.ipynb").write_text("{}"), "must begin with a cell"),
        (
            lambda root: notebook(root / "notebooks" / "22_x.ipynb", "22 · X", code=['save(fig, "rmse")']),
            "saved by two notebooks",
        ),
    ],
)
def test_what_does_not_fit_is_told(root, spoil, message):
    spoil(root)
    with pytest.raises(ValueError, match=message):
        gallery.figure_gallery(root)


def test_words_are_of_notebooks_that_exist():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert gallery.ABOUT.keys() <= names
    for found in gallery.read_notebooks(ROOT):
        assert found.claim and found.short
        assert found.face(ROOT / "figures") in ("", *(path.name for path in (ROOT / "figures").iterdir()))
