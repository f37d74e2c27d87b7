"""The lines that lead from notebook to notebook, written into copies of the committed ones."""

import json
import re
import shutil

import pytest
from helpers import ROOT

from minconv.artifact import gallery, readme
from minconv.artifact.fingerprint import fingerprint
from minconv.artifact.navigation import with_navigation
from minconv.artifact.publish import code_cells, read_notebook

TOP = re.compile(r"<!-- navigation -->.*?<!-- /navigation -->\n\n", re.DOTALL)


@pytest.fixture
def root(tmp_path):
    """A repository of the committed notebooks, as they were before there was a line in them."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "times.json", tmp_path / "notebooks")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cells"] = [cell for cell in content["cells"] if cell["id"] != "navigation"]
        content["cells"][0]["source"] = TOP.sub("", "".join(content["cells"][0]["source"]))
        (tmp_path / "notebooks" / path.name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def write(root) -> dict[str, list[str]]:
    """Writes the lines; by notebook, the words of its cells."""
    for path, text in with_navigation(root).items():
        path.write_text(text, encoding="utf-8")
    found = sorted((root / "notebooks").glob("*.ipynb"))
    return {path.name: [cell.source for cell in read_notebook(path).cells] for path in found}


def test_the_first_and_the_last_cell_lead_to_the_neighbours(root):
    written = write(root)
    names = list(written)
    for before, name, after in zip([None, *names], names, [*names[1:], None], strict=False):
        heading, opening, line, *_ = filter(None, written[name][0].splitlines())
        assert heading.startswith("# ") and opening == "<!-- navigation -->"
        targets = re.findall(r"\]\(([^)]+)\)", line)
        assert targets == [target for target in (before, "README.md", after) if target]
        assert all((ROOT / "notebooks" / target).exists() for target in targets)
        assert written[name][-1] == f"<!-- navigation -->\n{line.removesuffix(chr(92))}\n<!-- /navigation -->"
    links = "[← 4 · Timing](04_timing.ipynb) · [all notebooks](README.md) · [6 · Geopotential →](06_geopotential.ipynb)"
    assert links in written["05_rollouts.ipynb"][-1]


def test_time_and_needs_are_those_of_the_gallery(root):
    told = write(root)["05_rollouts.ipynb"][0].splitlines()[4]
    assert told.startswith("*Time: smoke ") and told.endswith(
        "s · needs models of 3, which it trains where they are missing*"
    )
    assert f"\n\n{told.strip('*')} · [its figures]" in gallery.notebook_gallery(ROOT)


def test_they_are_written_once_and_changed_in_their_places(root):
    first = write(root)
    assert write(root) == first
    path = root / "notebooks" / "05_rollouts.ipynb"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cells"].append({"cell_type": "markdown", "id": "later", "metadata": {}, "source": ["Written later."]})
    path.write_text(json.dumps(content), encoding="utf-8")
    (root / "notebooks" / "04_timing.ipynb").unlink()
    again = write(root)["05_rollouts.ipynb"]
    assert again[0] == first["05_rollouts.ipynb"][0].replace("4 · Timing](04_timing", "3 · Training](03_training")
    assert again[-2] == "Written later." and "03_training" in again[-1] and len(again) == len(first[path.name]) + 1


@pytest.mark.slow
def test_nothing_else_changes(root):
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    before = {path: read_notebook(path) for path in paths}
    claims = [(found.title, found.claim, found.saved) for found in gallery.read_notebooks(root)]
    write(root)
    for path, old in before.items():
        new = read_notebook(path)
        assert new.metadata == old.metadata and new.cells[1:-1] == old.cells[1:]
        assert TOP.sub("", new.cells[0].source) == old.cells[0].source != new.cells[0].source
        sources = [{cell.id: cell.source for cell in code_cells(notebook)} for notebook in (old, new)]
        assert fingerprint(sources[0], "smoke", {}) == fingerprint(sources[1], "smoke", {})
    assert [(found.title, found.claim, found.saved) for found in gallery.read_notebooks(root)] == claims


def test_they_are_written_with_the_pages(root, monkeypatch, capsys):
    monkeypatch.setattr(readme, "PAGES", {})
    assert readme.main(["--root", str(root), "--check"]) == 1
    assert f"{root / 'notebooks' / '00_start.ipynb'} is out of date" in capsys.readouterr().err
    assert readme.main(["--root", str(root)]) == readme.main(["--root", str(root), "--check"]) == 0
    assert all(path.read_text(encoding="utf-8") == text for path, text in with_navigation(root).items())
