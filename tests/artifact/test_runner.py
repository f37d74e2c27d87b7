"""./run_all.sh and what runs notebooks: order, skipping, failure, interruption and publishing, on tiny notebooks."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from minconv.artifact import notebooks
from minconv.artifact.notebooks import NotebookError, publish, run
from minconv.experiments import presets
from minconv.runtime import files

ROOT = Path(__file__).resolve().parents[2]
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
    assert project.run() == ["01_first", "02_second", "10_last"]  # 02 had run before 01 had


def test_changed_code_runs_again_with_what_follows(project):
    project.run()
    write(project.folder / "02_second.ipynb", "2 + 2", FIGURE.format("second"))
    assert project.run() == ALL[1:]


def test_changed_words_do_not_run_again(project):
    project.run()
    path = project.folder / "02_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("That was two."))
    nbformat.write(notebook, path)
    assert project.run() == []


def test_changed_package_runs_again(project, monkeypatch):
    project.run()
    monkeypatch.setattr(notebooks, "package_digest", lambda: "another")
    assert project.run() == ALL


def test_package_digest_sees_code_but_not_the_runner(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "minconv", tmp_path / "minconv")
    package = tmp_path / "minconv"
    monkeypatch.setattr(notebooks, "__file__", str(package / "notebooks.py"))
    before = notebooks.package_digest(package)
    (package / "notebooks.py").write_text("pass")
    assert notebooks.package_digest(package) == before
    (package / "cells.py").write_text("pass")
    assert notebooks.package_digest(package) != before


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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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
    ]
    text, figure = notebooks.tidy(outputs, [str(tmp_path)])
    assert text.text == "in ./data\n2 of 2\nend\r\n"
    assert figure.data == {"image/png": str(tmp_path), "text/plain": "<.>"}


# --- with real kernels and the real command -------------------------------------------------------

DRIVER = (
    "import sys, pathlib; from minconv.artifact import notebooks; notebooks.NOTEBOOKS = pathlib.Path(sys.argv[1]); \
sys.exit(notebooks.main(sys.argv[2:]))"
)


def command(folder: Path, *options: str, **how) -> subprocess.Popen:
    """The runner as a process of its own on the notebooks in ``folder``/notebooks."""
    arguments = [sys.executable, "-c", DRIVER, folder / "notebooks", "--profile", "smoke", "--home", folder, *options]
    return subprocess.Popen(
        arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **how
    )


@pytest.mark.slow
def test_papermill_runs_and_what_it_wrote_is_published(tmp_path):
    body = "import os\nassert os.environ['MINCONV_HOME'] and os.getcwd()[-9:] == 'notebooks'\nprint(profile, 'here')"
    write(tmp_path / "notebooks" / "01_only.ipynb", body, "6 * 7", FIGURE.format("drawn"))
    process = command(tmp_path)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    for part in ("Profile smoke (as asked)", "01_only: done in", "smoke here", "drawn.pdf", "drawn.png"):
        assert part in shown
    publish(tmp_path / "notebooks", tmp_path / "results" / "smoke", tmp_path / "figures", hidden=[tmp_path])
    cells = json.loads((tmp_path / "notebooks" / "01_only.ipynb").read_text())["cells"]
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, 4]  # papermill's own cell is not there
    assert cells[2]["outputs"][0]["data"]["text/plain"] == ["42"] and cells[2]["outputs"][0]["execution_count"] == 3


@pytest.mark.slow
def test_papermill_failure_exits_1(tmp_path):
    write(tmp_path / "notebooks" / "01_only.ipynb", "raise RuntimeError('no luck')")
    process = command(tmp_path)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    for part in ("no luck", "01_only failed", f"./run_all.sh --profile smoke --home {tmp_path} --from 01"):
        assert part in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_kernel_is_left_behind(tmp_path, name):
    waiting = "import os, pathlib, time\npathlib.Path('../pid').write_text(str(os.getpid()))\ntime.sleep(300)"
    write(tmp_path / "notebooks" / "01_only.ipynb", waiting)
    process = command(tmp_path)

    def wait_for(condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s"
            time.sleep(0.1)

    pid = tmp_path / "pid"
    wait_for(lambda: pid.exists() and pid.read_text(), 60)
    os.kill(process.pid, getattr(signal, name))
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130)
    assert name == "SIGKILL" or "To go on: ./run_all.sh" in shown

    def gone():
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{pid.read_text()}/stat").read_text().split()[2] == "Z"

    wait_for(gone, 10)
    assert not (tmp_path / "results" / "smoke" / "notebooks" / "01_only.json").exists()


STEPS = """\
import time
for step in range(20):
    time.sleep(0.02)
print("done")"""


@pytest.mark.slow
def test_killed_at_any_moment_the_next_call_completes(tmp_path):
    """SIGKILL, as a rule while a kernel is at work; then two at once, of which the second waits."""
    for home in ("killed", "whole"):
        for name in ("01_first", "02_second"):
            write(tmp_path / home / "notebooks" / f"{name}.ipynb", STEPS, FIGURE.format(name))
    begun = time.monotonic()
    assert ended(command(tmp_path / "whole")) == 0
    seconds, rng = time.monotonic() - begun, random.Random(0)
    for _ in range(3):
        process = command(tmp_path / "killed")
        time.sleep(rng.uniform(0.2, 0.9) * seconds)
        process.kill()
        assert ended(process) in (0, -signal.SIGKILL)
    both = [command(tmp_path / "killed") for _ in range(2)]
    assert [ended(process) for process in both] == [0, 0]
    results = [tmp_path / home / "results" / "smoke" for home in ("killed", "whole")]
    killed, whole = (contents(folder) for folder in results)
    assert killed.keys() == whole.keys()
    for name in whole:
        if name.startswith("figures"):
            assert killed[name] == whole[name]
        elif name.endswith(".json"):
            fingerprints = [json.loads(found[name])["fingerprint"] for found in (killed, whole)]
            assert fingerprints[0] == fingerprints[1]
        else:
            outputs = [
                [cell.outputs for cell in notebooks.code_cells(nbformat.reads(found[name], 4))]
                for found in (killed, whole)
            ]
            assert outputs[0] == outputs[1]


def ended(process: subprocess.Popen) -> int:
    process.communicate(timeout=120)
    return process.returncode


def test_two_at_once_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    monkeypatch.setattr(notebooks, "run", lambda *_: notebooks.main(["--profile", "smoke", "--home", str(tmp_path)]))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    for name in ("MINCONV_HOME", "MINCONV_PROFILE", "JUPYTER_PREFER_ENV_PATH", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert notebooks.main(["--profile", "smoke", "--home", str(tmp_path)]) == 0
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    assert f"results/smoke is in use by process {os.getpid()} on" in capsys.readouterr().err


PYTHON = """\
#!/usr/bin/env bash
# Stands for Python in the set-up: each of its installations writes two files, a while apart, and tells of a second one.
venv=$(cd -- "$(dirname -- "$0")/.." && pwd -P)
root=$(cd -- "$venv/.." && pwd -P)
installing() {
    mkdir "$root/busy" 2> /dev/null || touch "$root/two at once"
    touch "$venv/$1 begun" && sleep "${PIP_SECONDS:-0}" && touch "$venv/$1 done"
    rmdir "$root/busy" 2> /dev/null
}
case "$*" in
    *"import sys, ensurepip"* | *minconv/notebooks.py*) ;;
    -V) echo Python 3.11 ;;
    "-c import hashlib"*) echo hash ;;
    "-m venv "*) mkdir -p "$3/bin" && sleep 0.05 && cp "$0" "$3/bin/python" ;;
    "-m pip "*" torch=="*) installing torch ;;
    "-m pip "*" -r "*) installing lock ;;
    "-m pip "*" -e "*) installing minconv ;;
    -) cat > /dev/null; [[ $(find "$venv" -name "* done" | wc -l) == 3 ]] ;;
    "-P -m minconv.artifact.notebooks"*) echo it runs ;;
    *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A clone without an environment, beside a stand-in for Python."""
    root = tmp_path / "clone"
    for folder in ("bin", "clone/notebooks", "clone/minconv"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "run_all.sh", root)
    (root / "requirements.lock").write_text("torch==2\n")
    (root / "pyproject.toml").touch()
    for name in ("python3.11", "python3", "python"):
        (tmp_path / "bin" / name).write_text(PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return root


def set_up(root: Path, **environment: str) -> subprocess.Popen:
    environment = os.environ | {"PATH": f"{root.parent / 'bin'}:{os.environ['PATH']}"} | environment
    return subprocess.Popen(
        ["bash", root / "run_all.sh"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_set_up_once(fresh):
    shown, _ = set_up(fresh).communicate(timeout=60)
    assert "Set up in" in shown and shown.endswith("it runs\n")
    shown, _ = set_up(fresh).communicate(timeout=60)
    assert shown == "it runs\n"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_set_up_killed_at_any_moment_is_done_again_and_never_twice_at_once(fresh):
    """An installation that a killed ./run_all.sh has left running is waited for."""
    rng = random.Random(0)
    for number in range(8):
        process = set_up(fresh, PIP_SECONDS="0.2" if number % 4 else "2")
        time.sleep(rng.uniform(0.1, 1.5))
        process.kill()
        process.wait()  # its children may run on
        process.stdout.close()
    both = [set_up(fresh), set_up(fresh)]
    for process in both:
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and shown.endswith("it runs\n")
    assert not (fresh / "two at once").exists() and not (fresh / "busy").exists()
    assert len(list((fresh / ".venv").glob("* done"))) == 3


def script(*options: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """./run_all.sh with wrong or harmless options, which it answers before any set-up."""
    return subprocess.run(
        ["bash", ROOT / "run_all.sh", *options], cwd=cwd, env=os.environ | environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def test_script_is_sound_bash():
    for name in ("run_all.sh", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / name], check=True)
    assert os.access(ROOT / "run_all.sh", os.X_OK)


def test_help_from_anywhere(tmp_path):
    result = script("--help", cwd=tmp_path)
    assert result.returncode == 0
    for option in ("--profile", "--from", "--only", "--force", "--publish", "--home", "test"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--forse"], "did you mean --force?"),
        (["tests"], "did you mean test?"),
        (["--zzz"], "--help lists"),
        (["--profile", "huge"], "laptop"),
        (["--only", "77"], "no notebook '77'"),
        (["--from", "01", "--only", "01"], "not allowed"),
        (["--home"], "expected one argument"),
    ],
)
def test_wrong_options_exit_2_with_a_hint(options, hint):
    result = script(*options)
    assert result.returncode == 2
    assert hint in result.stderr


def test_missing_python_says_what_to_install(tmp_path):
    for tool in ("bash", "dirname", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = script("--profile", "smoke", PATH=str(tmp_path))
    assert result.returncode == 1
    assert "Python 3.11" in result.stderr and "install" in result.stderr


def test_an_unknown_profile_in_the_environment_is_told_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MINCONV_PROFILE", "large")
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    monkeypatch.setattr(notebooks, "run", None)
    assert notebooks.main([]) == 2
    assert "profile must be one of smoke, laptop, paper; got 'large'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_profiles_are_those_of_presets():
    assert tuple(presets.PROFILES) == notebooks.PROFILES
