"""Copies the outputs of executed notebooks into the committed ones, and their figures beside them."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat

from minconv.artifact.times import ROOT, numbered
from minconv.runtime.files import atomic

FIGURE_FILES = (".png", ".pdf", ".json", ".nc")


class NotebookError(Exception):
    """A notebook failed, or cannot be published; the message is for the terminal."""


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at ``path`` in format 4."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    """The cells that have code to run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def modified(folder: Path) -> dict[str, int]:
    """When each figure file of ``folder`` was last written, in ns, by name."""
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix in FIGURE_FILES)
    return {file.name: file.stat().st_mtime_ns for file in files}


def recorded(output: Path) -> dict[str, Any]:
    """What the last whole run into ``output`` left beside it: fingerprint, seconds, figures; {} if there was none."""
    try:
        found = json.loads(output.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def publish(folder: Path, results: Path, figures: Path, hidden: Iterable[Path] = (ROOT,), only: str = "") -> None:
    """Copies the outputs in ``results``/notebooks into ``folder`` and ``results``/figures to ``figures``.

    Sources stay as they are; figures that ``results`` no longer has are deleted; ``hidden`` folders become ``.`` in the
    text of outputs. With the number of a notebook ``only`` that one and its figures are copied, and others are left.
    Raises NotebookError, before anything is changed, where a cell failed, has not run or differs.
    """
    hidden = sorted({str(path) for path in hidden}, key=len, reverse=True)
    paths = [path for path in numbered(folder) if not only or path.name[:2] == only]
    texts = {path: nbformat.writes(with_outputs(path, results / "notebooks", hidden)) for path in paths}
    new = set(modified(results / "figures"))
    if only:
        new &= {name for path in paths for name in recorded(results / "notebooks" / path.name).get("figures", [])}
    if not texts or not new:
        raise NotebookError(f"nothing to publish: no notebooks in {folder}, or no figures in {results / 'figures'}")
    for path, text in texts.items():
        with atomic(path) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n")
    for name in new:
        with atomic(figures / name) as temporary:
            shutil.copyfile(results / "figures" / name, temporary)
    replaced = {Path(name).stem for name in new}  # such as name.json by name.nc
    for name in modified(figures).keys() - new:
        if not only or Path(name).stem in replaced:
            (figures / name).unlink()


def with_outputs(path: Path, executed: Path, hidden: Iterable[str]) -> Any:
    """The notebook at ``path`` with the outputs of its executed copy, matched by cell id and counted 1 to n."""

    def refuse(why: str) -> NotebookError:
        return NotebookError(f"{path.stem} is not published: {why}. Run ./run_all.sh --only {path.name[:2]} first.")

    if not (executed / path.name).exists():
        raise refuse(f"{executed / path.name} does not exist")
    notebook = read_notebook(path)
    ran = {cell.id: cell for cell in code_cells(read_notebook(executed / path.name))}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    for count, cell in enumerate(code_cells(notebook), start=1):
        twin = ran.get(cell.id)
        if twin is None or twin.source != cell.source:
            raise refuse(f"cell {cell.id} has changed since it ran")
        if any(output.output_type == "error" for output in twin.outputs):
            raise refuse(f"cell {cell.id} failed")
        if twin.execution_count is None:
            raise refuse(f"cell {cell.id} has not run")
        cell.outputs, cell.execution_count = tidy(twin.outputs, hidden), count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return notebook


def tidy(outputs: list[Any], hidden: Iterable[str]) -> list[Any]:
    """Outputs as readers want them: no progress bars or widgets, streams in one piece, ``hidden`` as ``.``.

    Bars are on stderr or, in a kernel, on stdout and overwritten there.
    """

    def clean(text: str) -> str:
        text = re.sub(r"^.*\r(?!\n)", "", text, flags=re.MULTILINE)  # what a terminal would have overwritten
        for folder in hidden:
            text = text.replace(folder, ".")
        return text

    tidied: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr" or any("widget-view" in kind for kind in output.get("data", {})):
            continue
        if output.output_type == "stream":
            if tidied and tidied[-1].output_type == "stream":
                output.text = tidied.pop().text + output.text
            output.text = clean(output.text)
            if not output.text:
                continue
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                output.data[kind] = clean(content)
        tidied.append(output)
    return tidied
