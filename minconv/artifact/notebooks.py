"""Runs the numbered notebooks in order with papermill and publishes their outputs: what is behind ./run_all.sh.

At the top only the standard library is imported: run_all.sh checks its options here before anything is installed.
"""

import argparse
import difflib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = ("smoke", "laptop", "paper")
FIGURE_FILES = (".png", ".pdf", ".json", ".nc")


class NotebookError(Exception):
    """A notebook failed, or cannot be published; the message is for the terminal."""


def numbered(folder: Path) -> list[Path]:
    """The notebooks NN_*.ipynb of ``folder`` in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def parse(arguments: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> argparse.Namespace:
    """Reads the options of ./run_all.sh; exits with status 2 and a hint where they are wrong."""
    numbers = [path.name[:2] for path in numbered(folder)]

    def number(text: str) -> str:
        match = re.match(r"(\d{1,2})(_|$)", text)
        if not match or match[1].zfill(2) not in numbers:
            raise argparse.ArgumentTypeError(f"no notebook {text!r}; there are {', '.join(numbers) or 'none'}")
        return match[1].zfill(2)

    parser = argparse.ArgumentParser(
        prog="./run_all.sh",
        allow_abbrev=False,
        description="Runs the notebooks in order, skipping what is up to date, and lists the figures.",
        epilog="./run_all.sh test [options of pytest] makes the same environment and runs pytest --nbval.",
    )
    parser.add_argument("--profile", choices=PROFILES, help="default: paper where there is a GPU, else laptop")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--from", dest="first", metavar="NN", type=number, help="begin at this notebook")
    some.add_argument("--only", metavar="NN", type=number, help="run this notebook alone")
    parser.add_argument("--force", action="store_true", help="run what is up to date, too")
    parser.add_argument("--publish", action="store_true", help="then copy outputs to notebooks/, figures to figures/")
    parser.add_argument("--home", metavar="DIR", type=Path, help="for data/ and results/; default: this folder")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = ["test", *(name for action in parser._actions for name in action.option_strings)]
        meant = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {meant[0]}?" if meant else "--help lists the options"
        parser.error(f"unknown: {' '.join(unknown)}; {hint}")
    return options


# --- running --------------------------------------------------------------------------------------


def read_notebook(path: Path) -> Any:
    """The notebook at ``path`` as nbformat's NotebookNode, in format 4."""
    import nbformat

    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    """The cells that have code to run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, each with its length, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(part) + part)
    return total.hexdigest()


def package_digest(package: Path = ROOT / "minconv") -> str:
    """SHA-256 of the package's Python files, this one left out: it runs notebooks, and changes no number in them."""
    files = sorted(path for path in package.rglob("*.py") if path != Path(__file__).resolve())
    return digest(*(part for path in files for part in (str(path.relative_to(package)), path.read_bytes())))


def recorded(output: Path) -> dict[str, Any]:
    """What the last whole run into ``output`` left beside it: fingerprint, seconds, figures; {} if there was none."""
    try:
        found = json.loads(output.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run(
    folder: Path, results: Path, profile: str, first: str = "", only: str = "", force: bool = False, resume: str = ""
) -> None:
    """Runs the notebooks of ``folder`` in order; executed copies go to ``results``/notebooks.

    One is skipped when its code, the package, the profile and what its predecessors ran as are all unchanged and the
    files it wrote are there. Raises NotebookError at the first that fails; ``resume`` is the command for its message.
    """
    package, before = package_digest(), []
    for path in numbered(folder):
        output = results / "notebooks" / path.name
        cells = [(cell.get("id"), cell.source) for cell in code_cells(read_notebook(path))]
        fingerprint = digest(json.dumps(cells), package, profile, *before)
        if path.name[:2] == only or (not only and path.name[:2] >= first):
            old = recorded(output)
            needed = [output, *(results / "figures" / name for name in old.get("figures", []))]
            if not force and old.get("fingerprint") == fingerprint and all(file.exists() for file in needed):
                print(f"{path.stem}: up to date", flush=True)
            else:
                run_one(path, output, profile, fingerprint, resume)
        before.append(recorded(output).get("fingerprint", "never ran"))


def run_one(path: Path, output: Path, profile: str, fingerprint: str, resume: str = "") -> None:
    """Executes one notebook and records it; figures that its last run wrote and this one did not are removed."""
    import papermill

    from minconv.runtime.files import write_json

    figures, record = output.parent.parent / "figures", output.with_suffix(".json")
    old, earlier = recorded(output), modified(figures)
    record.unlink(missing_ok=True)  # from here on until it is whole, it is not up to date
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"{path.stem}: running", flush=True)
    begun = time.monotonic()
    try:
        papermill.execute_notebook(
            path, output, parameters={"profile": profile}, kernel_name="python3", cwd=path.parent, progress_bar=False,
            stdout_file=sys.stdout, stderr_file=sys.stderr, autosave_cell_every=60,
            extra_arguments=["--log-level=ERROR"],  # ipykernel warns at each start that TCP is not encrypted
        )  # fmt: skip
    except Exception as error:  # whatever it was, the reader is told which notebook, where to look and how to go on
        command = f"{resume or './run_all.sh'} --from {path.name[:2]}"
        raise NotebookError(
            f"{error}\n{path.stem} failed ({type(error).__name__}).\n"
            f"  where to look: {output}\n  to resume:     {command}"
        ) from error
    seconds = time.monotonic() - begun
    written = [name for name, when in modified(figures).items() if earlier.get(name) != when]
    for name in set(old.get("figures", [])).difference(written):
        (figures / name).unlink(missing_ok=True)
    write_json(record, {"fingerprint": fingerprint, "seconds": round(seconds, 1), "figures": written})
    print(f"{path.stem}: done in {clock(seconds)}", flush=True)


def modified(folder: Path) -> dict[str, int]:
    """When each figure file of ``folder`` was last written, in ns, by name."""
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix in FIGURE_FILES)
    return {file.name: file.stat().st_mtime_ns for file in files}


def clock(seconds: float) -> str:
    """``7 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


# --- publishing -----------------------------------------------------------------------------------


def publish(folder: Path, results: Path, figures: Path, hidden: Iterable[Path] = (ROOT,)) -> None:
    """Copies the outputs in ``results``/notebooks into ``folder`` and ``results``/figures to ``figures``.

    Sources stay as they are; figures that ``results`` no longer has are deleted; ``hidden`` folders become ``.`` in the
    text of outputs. Raises NotebookError, before anything is changed, where a cell failed, has not run or differs.
    """
    import nbformat

    from minconv.runtime.files import atomic

    hidden = sorted({str(path) for path in hidden}, key=len, reverse=True)
    texts = {path: nbformat.writes(with_outputs(path, results / "notebooks", hidden)) for path in numbered(folder)}
    new = modified(results / "figures")
    if not texts or not new:
        raise NotebookError(f"nothing to publish: no notebooks in {folder}, or no figures in {results / 'figures'}")
    for path, text in texts.items():
        with atomic(path) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n")
    for name in new:
        with atomic(figures / name) as temporary:
            shutil.copyfile(results / "figures" / name, temporary)
    for name in modified(figures).keys() - new.keys():
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
    """Outputs as readers want them: no progress bars (stderr) or widgets, streams in one piece, ``hidden`` as ``.``."""

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
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                output.data[kind] = clean(content)
        tidied.append(output)
    return tidied


# --- the command ----------------------------------------------------------------------------------


def reason(given: str | None) -> str:
    """Why the profile is what it is, in words."""
    if given:
        return "as asked"
    if os.environ.get("MINCONV_PROFILE"):
        return "from $MINCONV_PROFILE"
    import torch

    return f"found {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU found"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and publishes as the options ask. Returns 0, 1 (a notebook failed), 2 (bad options) or 130 (interrupted)."""
    options = parse(arguments, NOTEBOOKS)

    from minconv.experiments.presets import get_profile, home
    from minconv.runtime.files import lock

    if options.home:
        os.environ["MINCONV_HOME"] = str(options.home)
    try:
        profile = get_profile(options.profile).name
    except ValueError as error:
        print(f"./run_all.sh: {error}", file=sys.stderr)
        return 2
    folder = home().resolve()
    results = folder / "results" / profile
    print(f"Profile {profile} ({reason(options.profile)}); results in {results}", flush=True)

    os.environ |= {"MINCONV_HOME": str(folder), "MINCONV_PROFILE": profile, "JUPYTER_PREFER_ENV_PATH": "1"}
    if "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads wait for each other by spinning, for milliseconds: as fast if they have the cores to
        # themselves, and many times slower if they do not. This is some ten microseconds, and then they sleep.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.pop("MPLBACKEND", None)  # Agg would keep figures out of the notebooks
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C: papermill then shuts the kernel down on its way out
        signal.signal(getattr(signal, name), signal.default_int_handler)
    resume = f"./run_all.sh --profile {profile}" + (f" --home {folder}" if options.home else "")
    try:
        with lock(results / ".lock"):
            run(NOTEBOOKS, results, profile, options.first or "", options.only or "", options.force, resume)
            if options.publish:
                publish(NOTEBOOKS, results, ROOT / "figures", hidden=(ROOT, folder))
    except (NotebookError, BlockingIOError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on: {resume}", file=sys.stderr)
        return 130
    shown = results / "figures"
    drawn = [name for name in modified(shown) if name.endswith((".png", ".pdf"))]
    print(f"\n{len(drawn)} figure files in {shown}:", *drawn, sep="\n  ")
    if options.publish:
        print(f"Published to {NOTEBOOKS} and {ROOT / 'figures'}.")
    return 0


if __name__ == "__main__":
    if __package__:
        sys.exit(main())
    parse()  # run as a plain file, as run_all.sh does before the set-up: only checks the options
