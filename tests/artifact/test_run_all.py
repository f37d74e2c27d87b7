"""./run_all.sh as a script: its options, and the environment that it makes."""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from helpers import ROOT

from minconv.artifact import options, times
from minconv.experiments import profiles

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
    *"import sys, ensurepip"* | *artifact/options.py*) ;;
    -V) echo Python 3.11 ;;
    "-c import hashlib"*) echo hash ;;
    "-m venv "*) mkdir -p "$3/bin" && sleep 0.05 && cp "$0" "$3/bin/python" ;;
    "-m pip "*" torch=="*) installing torch ;;
    "-m pip "*" -r "*) installing lock ;;
    "-m pip "*" -e "*) installing minconv ;;
    -) cat > /dev/null; [[ $(find "$venv" -name "* done" | wc -l) == 3 ]] ;;
    "-P -m minconv.artifact.run"*) echo it runs ;;
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


@pytest.mark.robustness
@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_set_up_killed_at_any_moment_is_done_again_and_never_twice_at_once(fresh):
    """An installation that a killed ./run_all.sh has left running is waited for."""
    rng = random.Random(0)
    for number in range(6):
        process = set_up(fresh, PIP_SECONDS="0.2" if number % 3 else "1")
        time.sleep(rng.uniform(0.1, 1.0))
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
    for option in (
        "--profile",
        "--from",
        "--only",
        "--force",
        "--publish",
        "--home",
        "--record-times",
        "test",
        "01_scan ",
    ):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["--forse"], "did you mean --force?"),
        (["tests"], "did you mean test?"),
        (["--zzz"], "--help lists"),
        (["--profile", "huge"], "laptop"),
        (["--only", "77"], "no notebook '77'"),
        (["--from", "01", "--only", "01"], "not allowed"),
        (["--record-times", "--only", "01"], "not allowed"),
        (["--home"], "expected one argument"),
    ],
)
def test_wrong_options_exit_2_with_a_hint(line, hint, capsys):
    with pytest.raises(SystemExit) as stopped:
        options.parse(line)
    assert stopped.value.code == 2 and hint in capsys.readouterr().err


def test_wrong_options_are_told_before_the_set_up():
    result = script("--forse")
    assert result.returncode == 2 and "did you mean --force?" in result.stderr


def test_missing_python_says_what_to_install(tmp_path):
    for tool in ("bash", "dirname", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = script("--profile", "smoke", PATH=str(tmp_path))
    assert result.returncode == 1
    assert "Python 3.11" in result.stderr and "install" in result.stderr


def test_profiles_are_those_of_the_experiments():
    assert tuple(profiles.PROFILES) == times.PROFILES
