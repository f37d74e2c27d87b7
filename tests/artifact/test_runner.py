"""./run_all.sh and what runs notebooks: order, skipping, failure, interruption and publishing, on tiny notebooks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, contents, wait_for

from minconv.artifact import run as runner
from minconv.artifact.fingerprint import fingerprint, modules
from minconv.artifact.publish import NotebookError, code_cells, publish, tidy
from minconv.artifact.run import run
from minconv.artifact.times import durations
from minconv.runtime import files

FIGURE = """\
from pathlib import Path
folder = Path("../results/smoke/figures"); folder.mkdir(parents=True, exist_ok=True)
(folder / "{0}.png").write_text("{0}"); (folder / "{0}.pdf").write_text("{0}")"""


def write(path: Path, *sources: str, metadata: dict | None = None) -> Path:
    """A notebook with a ``parameters`` cell and one code cell, c0, c1, ..., for each of ``sources``."""
    parameters = nbformat.v4.new_code_cell("profile = None", id="parameters", metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_code_cell(source, id=f"c{index}") for index, source in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[parameters, *cells], metadata={"kernelspec": kernel})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


class Project:
    """Notebooks in a scratch folder, their results, and what papermill was asked to run."""

    def __init__(self, folder: Path):
        self.folder, self.results, self.figures = folder / "notebooks", folder / "results" / "smoke", folder / "figures"
        self.ran: list[str] = []

    def run(self, **options) -> list[str]:
        """Runs, and returns which notebooks really ran."""
        self.ran.clear()
        run(self.folder, self.results, "smoke", **options)
        return list(self.ran)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """Three notebooks and a stand-in for papermill that runs their cells in this process: quick, no kernel."""
    project = Project(tmp_path)
    write(project.folder / "01_first.ipynb", "print(1)", FIGURE.format("first"))
    write(project.folder / "02_second.ipynb", "2", FIGURE.format("second"))
    write(project.folder / "10_last.ipynb", "print(f'in {profile}')", FIGURE.format("last"))
    write(project.folder / "notes.ipynb", "raise SystemError('only numbered notebooks are run')")

    def execute_notebook(path, output, parameters, cwd, **options):
        project.ran.append(path.stem)
        notebook, scope = nbformat.read(path, as_version=4), {}
        monkeypatch.chdir(cwd)
        try:
            for count, cell in enumerate(notebook.cells, start=2):
                cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="out\n")], count
                exec(cell.source, scope)
                scope |= parameters
        except Exception as error:
            cell.outputs = [nbformat.v4.new_output("error", ename=type(error).__name__, evalue=str(error))]
            raise
        finally:
            nbformat.write(notebook, output)

    monkeypatch.setattr("papermill.execute_notebook", execute_notebook)
    return project


ALL = ["01_first", "02_second", "10_last"]


def test_runs_in_order_and_once(project):
    assert project.run() == ALL
    assert project.run() == []


def test_force_runs_again(project):
    project.run()
    assert project.run(force=True) == ALL
    assert project.run(force=True, first="02") == ALL[1:]


def test_from_and_only(project):
    assert project.run(only="02") == ["02_second"]
    assert project.run(first="02") == ["10_last"]
    assert project.run() == ["01_first"]


def test_changed_code_runs_again_with_what_reads_its_files(project):
    write(project.folder / "10_last.ipynb", FIGURE.format("last"), "print((folder / 'first.png').read_text())")
    assert project.run() == ALL
    write(project.folder / "01_first.ipynb", "print(2)", FIGURE.format("first"))
    assert project.run() == ["01_first"]  # the file is the same
    write(project.folder / "01_first.ipynb", FIGURE.format("first"), "(folder / 'first.png').write_text('other')")
    assert project.run() == ["01_first", "10_last"]
    assert project.run() == []


def test_changed_words_do_not_run_again(project):
    project.run()
    path = project.folder / "02_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("That was two."))
    nbformat.write(notebook, path)
    assert project.run() == []


@pytest.fixture
def package(tmp_path) -> Path:
    """A small package, of which ``from tiny.a import f`` needs all but ``unused``."""
    sources = {
        "__init__": "",
        "a": '"""Words."""\nfrom tiny import b\ndef f(name):\n    from . import c\n    load(f"tiny.fast.{name}")',
        "b": "import tiny.sub.d",
        "c": "x = 1",
        "unused": "x = 1",
        "sub/__init__": "",
        "sub/d": "from ..e import x",
        "e": "x = 1",
        "fast/__init__": "",
        "fast/one": "x = 1",
    }
    for name, source in sources.items():
        path = tmp_path / "tiny" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "tiny"


def test_a_notebook_depends_on_what_it_imports(package):
    cells = {"magic": "%matplotlib inline", "broken": "1 +", "imports": "from tiny.a import f"}
    needed = {"", ".a", ".b", ".c", ".sub", ".sub.d", ".e", ".fast", ".fast.one"}
    assert modules(cells.values(), package).keys() == {f"tiny{name}" for name in needed}
    before = fingerprint(cells, "smoke", {}, package)
    (package / "unused.py").write_text("x = 2")
    (package / "a.py").write_text((package / "a.py").read_text().replace("Words", "Other words") + "  # and more")
    assert fingerprint(cells, "smoke", {}, package) == before
    seen = {before, fingerprint(cells, "laptop", {}, package), fingerprint(cells | {"more": "1"}, "smoke", {}, package)}
    for path in sorted(package.rglob("*.py")):
        if path.stem != "unused":
            path.write_text(path.read_text() + "\ny = 2")
            seen.add(fingerprint(cells, "smoke", {}, package))
    assert len(seen) == 3 + len(needed)


@pytest.mark.parametrize(("code", "depends"), [('load(f"flow/{cell}")', True), ('load("air/a")', False), ("1", False)])
def test_a_notebook_depends_on_the_trained_models_that_it_names(code, depends, package):
    config = package / "models" / "weights" / "flow" / "small" / "config.json"
    config.parent.mkdir(parents=True)
    seen = set()
    for content in ("{}", '{"sha256": 1}'):
        config.write_text(content)
        seen.add(fingerprint({"cell": code}, "smoke", {}, package))
    assert len(seen) == 1 + depends


def test_kernels_count_though_they_are_loaded_by_name():
    found = modules(["from minconv import MinConvGRU"])
    assert {f"minconv.kernels.{path.stem}" for path in (ROOT / "minconv" / "kernels").glob("[!_]*.py")} <= found.keys()
    assert not [name for name in found if name.startswith("minconv.artifact")]


def test_missing_figure_or_output_runs_again(project):
    project.run()
    (project.results / "figures" / "last.pdf").unlink()
    assert project.run() == ["10_last"]
    (project.results / "notebooks" / "10_last.ipynb").unlink()
    assert project.run() == ["10_last"]


@pytest.mark.parametrize("content", [b"", b'{"fing', b"[]", b"3", b"\xff\xfe\x00", b'{"fingerprint": 1}'])
def test_a_damaged_record_runs_again(project, content):
    project.run()
    (project.results / "notebooks" / "10_last.json").write_bytes(content)
    assert project.run() == ["10_last"]
    assert project.run() == []


def test_renamed_figure_leaves_no_old_one(project):
    project.run()
    write(project.folder / "10_last.ipynb", FIGURE.format("renamed"))
    project.run()
    assert {file.stem for file in (project.results / "figures").iterdir()} == {"first", "second", "renamed"}


def test_failure_names_the_notebook_and_how_to_go_on(project):
    project.run()
    write(project.folder / "02_second.ipynb", "raise RuntimeError('no luck')")
    with pytest.raises(NotebookError) as caught:
        project.run(resume="./run_all.sh --profile smoke")
    assert project.ran == ["02_second"]
    for part in ("no luck", "02_second failed", str(project.results), "./run_all.sh --profile smoke --from 02"):
        assert part in str(caught.value)
    with pytest.raises(NotebookError):
        project.run()  # a failed notebook is never up to date


# --- publishing -----------------------------------------------------------------------------------


def test_publish_copies_outputs_and_mirrors_figures(project):
    project.run()
    project.figures.mkdir()
    (project.figures / "gone.pdf").write_text("old")
    (project.figures / "README.md").write_text("kept")
    before = nbformat.read(project.folder / "01_first.ipynb", as_version=4)
    publish(project.folder, project.results, project.figures)
    after = nbformat.read(project.folder / "01_first.ipynb", as_version=4)
    assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
    assert [cell.metadata for cell in after.cells] == [cell.metadata for cell in before.cells]
    assert [cell.execution_count for cell in after.cells] == [1, 2, 3]
    assert after.cells[1].outputs[0].text == "out\n"
    figures = [f"{name}.{kind}" for name in ("first", "last", "second") for kind in ("pdf", "png")]
    assert sorted(contents(project.figures)) == ["README.md", *figures]
    assert project.run() == []  # publishing changes no code


def test_one_notebook_is_published_with_its_figures_alone(project):
    project.run(only="02")
    project.figures.mkdir()
    (project.figures / "first.pdf").write_text("of another")
    (project.figures / "second.json").write_text("which it no longer writes")
    before = (project.folder / "01_first.ipynb").read_bytes()
    publish(project.folder, project.results, project.figures, only="02")
    assert contents(project.figures) == {"first.pdf": b"of another", "second.pdf": b"second", "second.png": b"second"}
    assert nbformat.read(project.folder / "02_second.ipynb", as_version=4).cells[1].execution_count == 2
    assert (project.folder / "01_first.ipynb").read_bytes() == before


@pytest.mark.parametrize("spoil", ["failed", "unrun", "changed", "new", "absent"])
def test_publish_refuses_and_changes_nothing(project, spoil):
    project.run()
    path, output = project.folder / "10_last.ipynb", project.results / "notebooks" / "10_last.ipynb"
    notebook = nbformat.read(output, as_version=4)
    if spoil == "failed":
        notebook.cells[1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    elif spoil == "unrun":
        notebook.cells[2].execution_count = None
    nbformat.write(notebook, output)
    if spoil == "changed":
        write(path, "print('other')", FIGURE.format("last"))
    elif spoil == "new":
        write(path, "print(f'in {profile}')", FIGURE.format("last"), "3")
    elif spoil == "absent":
        output.unlink()
    before = contents(project.folder)
    with pytest.raises(NotebookError, match="10_last is not published"):
        publish(project.folder, project.results, project.figures)
    assert contents(project.folder) == before and not project.figures.exists()


def test_tidy_outputs(tmp_path):
    new = nbformat.v4.new_output
    outputs = [
        new("stream", name="stdout", text=f"in {tmp_path}/data\n"),
        new("stream", name="stderr", text="50%|#####"),
        new("stream", name="stdout", text="1 of 2\r2 of 2\nend\r\n"),
        new("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}),
        new("display_data", {"image/png": str(tmp_path), "text/plain": f"<{tmp_path}>"}),
        new("stream", name="stdout", text="\r50%|#####\r          \r"),  # a bar that is done
    ]
    text, figure = tidy(outputs, [str(tmp_path)])
    assert text.text == "in ./data\n2 of 2\nend\r\n"
    assert figure.data == {"image/png": str(tmp_path), "text/plain": "<.>"}


# --- with real kernels and the real command -------------------------------------------------------

DRIVER = """
import pathlib, signal, sys
from minconv.artifact import run
from minconv.runtime import files
files.PATIENCE = 60
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests run in the background
run.NOTEBOOKS = pathlib.Path(sys.argv[1])
sys.exit(run.main(sys.argv[2:]))
"""


def command(folder: Path, *options: str) -> subprocess.Popen:
    """The runner as a process of its own on the notebooks in ``folder``/notebooks."""
    arguments = [sys.executable, "-c", DRIVER, folder / "notebooks", "--profile", "smoke", "--home", folder, *options]
    return subprocess.Popen(
        arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def ended(process: subprocess.Popen) -> int:
    process.communicate(timeout=120)
    return process.returncode


@pytest.mark.slow
def test_papermill_runs_fails_and_what_it_wrote_is_published(tmp_path):
    body = "import os\nassert os.environ['MINCONV_HOME'] and os.getcwd()[-9:] == 'notebooks'\nprint(profile, 'here')"
    write(tmp_path / "notebooks" / "01_first.ipynb", body, "6 * 7", FIGURE.format("drawn"))
    write(tmp_path / "notebooks" / "02_bad.ipynb", "raise RuntimeError('no luck')")
    process = command(tmp_path)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    for part in (
        "Profile smoke (as asked)", "01_first: done in", "smoke here",
        "no luck", "02_bad failed", f"./run_all.sh --profile smoke --home {tmp_path} --from 02",
    ):  # fmt: skip
        assert part in shown
    (tmp_path / "notebooks" / "02_bad.ipynb").unlink()
    publish(tmp_path / "notebooks", tmp_path / "results" / "smoke", tmp_path / "figures", hidden=[tmp_path])
    cells = json.loads((tmp_path / "notebooks" / "01_first.ipynb").read_text())["cells"]
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, 4]  # papermill's own cell is not there
    assert cells[2]["outputs"][0]["data"]["text/plain"] == ["42"] and cells[2]["outputs"][0]["execution_count"] == 3
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"drawn.pdf", "drawn.png"}


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"


@pytest.mark.robustness
def test_no_kernel_is_left_behind(tmp_path):
    """After SIGINT, SIGTERM and SIGKILL, each to a runner of its own."""
    waiting = "import os, pathlib, time\npathlib.Path('../pid').write_text(str(os.getpid()))\ntime.sleep(300)"
    runs = {}
    for name in ("SIGINT", "SIGTERM", "SIGKILL"):
        write(tmp_path / name / "notebooks" / "01_only.ipynb", waiting)
        runs[name] = command(tmp_path / name)
    for name, process in runs.items():
        pid = tmp_path / name / "pid"
        wait_for(lambda pid=pid: pid.exists() and pid.read_text(), 90)
        process.send_signal(getattr(signal, name))
        shown, _ = process.communicate(timeout=30)
        assert process.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130)
        assert name == "SIGKILL" or "To go on: ./run_all.sh" in shown
        wait_for(lambda pid=pid: gone(int(pid.read_text())), 10)
        assert not (tmp_path / name / "results" / "smoke" / "notebooks" / "01_only.json").exists()


STEPS = """\
import pathlib, time
pathlib.Path("../begun").touch()
for step in range(20):
    time.sleep(0.02)
print("done")"""


@pytest.mark.robustness
def test_killed_at_any_moment_the_next_call_completes(tmp_path):
    """SIGKILL while a kernel is at work; then two at once, of which the second waits."""
    results = tmp_path / "results" / "smoke"
    for name in (names := ("first", "second")):
        write(tmp_path / "notebooks" / f"0{len(name)}_{name}.ipynb", STEPS, FIGURE.format(name))
    process = command(tmp_path)
    wait_for((tmp_path / "begun").exists, 90)
    time.sleep(random.random())
    process.kill()
    assert ended(process) in (0, -signal.SIGKILL)
    both = [command(tmp_path) for _ in range(2)]
    assert [ended(process) for process in both] == [0, 0]
    assert contents(results / "figures") == {f"{n}.{kind}": n.encode() for n in names for kind in ("pdf", "png")}
    for path in sorted((tmp_path / "notebooks").iterdir()):
        cells = {cell.id: cell for cell in code_cells(nbformat.read(results / "notebooks" / path.name, 4))}
        assert cells["c0"].outputs[0].text == "done\n"
        sources = {cell.id: cell.source for cell in code_cells(nbformat.read(path, 4))}
        assert runner.recorded(results / "notebooks" / path.name)["fingerprint"] == fingerprint(sources, "smoke", {})


@pytest.fixture
def main(project, tmp_path, monkeypatch):
    """The command on the project in this process, whose environment and signals it leaves as they were."""
    monkeypatch.setattr(runner, "NOTEBOOKS", project.folder)
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    for name in ("MINCONV_HOME", "MINCONV_PROFILE", "JUPYTER_PREFER_ENV_PATH", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield lambda *options: runner.main(["--profile", "smoke", "--home", str(tmp_path), *options])
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_kernel_is_of_the_python_that_runs(main, project, monkeypatch):
    """Jupyter looks for it in the environment first, not among the user's own of that name, of whatever Python."""
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert main() == 0
    assert project.ran == ALL and os.environ["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_two_at_once_are_refused(main, monkeypatch, capsys):
    monkeypatch.setattr(runner, "run", lambda *_: main())
    assert main() == 0
    assert f"results/smoke is in use by process {os.getpid()} on" in capsys.readouterr().err


def test_an_unknown_profile_in_the_environment_is_told_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MINCONV_PROFILE", "large")
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    monkeypatch.setattr(runner, "run", None)
    assert runner.main([]) == 2
    assert "profile must be one of smoke, laptop" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_times_are_recorded_of_a_first_run(main, project, tmp_path, monkeypatch, capsys):
    times = project.folder / "times.json"
    times.write_text(json.dumps({"paper": {"hardware": "a GPU", "notebooks": {"01_first": 3721.4}, "set_up": 5}}))
    monkeypatch.setenv("MINCONV_SET_UP", "80")
    monkeypatch.setattr(runner, "run_one", lambda path, output, *rest: write_record(output))
    assert main("--record-times") == 0
    found = json.loads(times.read_text())
    assert found["smoke"]["notebooks"] == dict.fromkeys(ALL, 62.0) and found["smoke"]["set_up"] == 80
    assert found["smoke"]["processor"] == dict.fromkeys(ALL, 99.5)
    some = {"smoke": "1 min 02 s", "laptop": "not measured", "study": "not measured", "paper": "1 h 02 min"}
    assert durations(1, project.folder) == durations("01", project.folder) == some
    assert durations("10_last", project.folder)["paper"] == "not measured"
    assert durations(None, project.folder)["smoke"] == "4 min 26 s"
    assert main("--record-times") == 2 and "needs a --home without data/" in capsys.readouterr().err
    with pytest.raises(ValueError, match="notebook must be one of 01_first, 02_second, 10_last, or its number; got 3"):
        durations(3, project.folder)


def write_record(output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text('{"seconds": 62.0, "processor": 99.5}')
