"""The committed notebooks: run from top to bottom, and fit to be read and replayed elsewhere."""

import ast
import json
import re
from pathlib import Path

import pytest

from minconv.artifact.times import NOTEBOOKS, numbered

ABSOLUTE = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users|usr|opt|var|mnt|private)/\w")


@pytest.fixture(params=numbered(NOTEBOOKS), ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path) -> dict:
    return json.loads(path.read_text())


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def outputs(notebook: dict) -> list[dict]:
    return [output for cell in code(notebook) for output in cell["outputs"]]


def html(output: dict) -> str:
    return "".join(output.get("data", {}).get("text/html", ""))


def test_there_are_notebooks_numbered_from_zero():
    assert [int(path.name[:2]) for path in numbered(NOTEBOOKS)] == list(range(len(numbered(NOTEBOOKS)))) != []


def test_ran_from_top_to_bottom(notebook):
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert outputs(notebook)
    assert not [output for output in outputs(notebook) if output["output_type"] == "error"]


def test_runs_anywhere(notebook):
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    assert [cell for cell in code(notebook) if "parameters" in tags(cell)]


def test_no_trace_of_the_run(path, notebook):
    assert not [cell for cell in code(notebook) if "injected-parameters" in tags(cell)]
    assert not [cell for cell in notebook["cells"] if "papermill" in cell["metadata"]]
    assert not notebook["metadata"].keys() & {"papermill", "widgets"}
    kinds = {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert not [kind for kind in kinds if "widget" in kind]
    for output in outputs(notebook):
        data = output.get("data", {})
        for text in [output.get("text", ""), *(data[kind] for kind in data if kind.startswith("text/"))]:
            assert not ABSOLUTE.search("".join(text))
    assert path.stat().st_size < 2e6


def test_definitions_are_short(notebook):
    for cell in code(notebook):
        source = re.sub(r"^\s*[%!].*$", "", "".join(cell["source"]), flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 10, f"{node.name} belongs in minconv/"


def test_the_first_cell_says_once_how_long_it_takes(notebook):
    words = "".join(notebook["cells"][0]["source"])
    assert words.count("*Time: ") == 1 and "How long" not in words


def test_code_fits_beside_the_prompts_of_a_page_980_px_wide(notebook):
    for cell in code(notebook):
        assert max(map(len, "".join(cell["source"]).splitlines())) <= 96, cell["id"]


def test_figures_are_numbered_in_order(notebook):
    found = re.findall(r"<em>Figure (\d+)\. ", "".join(map(html, outputs(notebook))))
    assert found == [str(number) for number in range(1, len(found) + 1)]
