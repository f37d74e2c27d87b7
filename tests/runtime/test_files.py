"""Files whole or absent; arguments checked; random numbers apart; what produced a result."""

import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT

from minconv.runtime import checks, provenance, seeds
from minconv.runtime.files import atomic, read_json, write_json
from minconv.runtime.progress import progress

# Files


def test_atomic_writes_all_at_once(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.parent == path.parent and temporary.suffix == ".txt"
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_keeps_what_was_there_when_writing_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_fails_when_the_writer_removed_its_file(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt") as temporary:
        temporary.unlink()
    assert not os.listdir(tmp_path)


def test_atomic_takes_writers_that_rename_over_the_temporary_file(tmp_path):
    with atomic(tmp_path / "a.txt") as temporary:
        (tmp_path / "other").write_text("new")
        os.replace(tmp_path / "other", temporary)
    assert (tmp_path / "a.txt").read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_follows_the_umask_and_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        with atomic("plain") as temporary:
            temporary.write_text("")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("plain").stat().st_mode) == 0o640


def finished_process() -> int:
    return int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True, check=True).stdout)


def test_the_next_to_write_a_file_removes_what_a_killed_process_left(tmp_path):
    node, gone, alive = platform.node(), finished_process(), os.getppid()
    stale = tmp_path / f".a.b-{node}-{gone}-abcd_123.txt"
    others = [
        tmp_path / name
        for name in (
            f".a.b-{node}-{alive}-abcd_123.txt",  # someone is writing it
            f".a.b-{node}.elsewhere-{gone}-abcd_123.txt",  # of another machine: cannot be known
            f".a-{node}-{gone}-abcd_123.txt",  # of another file
            f".a.b-{node}-{gone}-abcd_123.json",
            f".a.b-{node}-{gone}-abcd.txt",
            f"a.b-{node}-{gone}-abcd_123.txt",
        )
    ]
    for file in (stale, *others):
        file.touch()
    with atomic(tmp_path / "a.b.txt") as temporary:
        temporary.touch()
    assert not stale.exists() and all(file.exists() for file in others)


def test_a_process_killed_while_it_writes(tmp_path):
    """What was there stays, and the temporary file goes with the next writer."""
    path = tmp_path / "a.json"
    write_json(path, "old")
    code = """if True:
        import os, signal, sys
        from files import atomic
        with atomic(sys.argv[1]) as temporary:
            temporary.write_text('"half')
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT / "minconv" / "runtime")  # without torch
    assert killed.returncode == -signal.SIGKILL
    assert read_json(path) == "old" and len(os.listdir(tmp_path)) == 2
    write_json(path, "new")
    assert read_json(path) == "new" and os.listdir(tmp_path) == ["a.json"]


def test_json(tmp_path):
    path, content = tmp_path / "a.json", {"a": [1, 2.5, None, "ü"]}
    write_json(path, content)
    assert read_json(path) == content and path.read_text().endswith("}\n")
    for wrong in ({"a": nan}, {"a": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, wrong)
    assert read_json(path) == content and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\x93NUMPY\xff", b"{} {}"])
def test_json_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not a whole JSON file"):
        read_json(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_json(tmp_path / "missing.json")


# Arguments


def test_choice():
    assert checks.choice("which", "a", {"a": 1, "b": 2}) == "a"
    with pytest.raises(ValueError, match="which must be one of a, b; got 'c'"):
        checks.choice("which", "c", iter("ab"))
    with pytest.raises(TypeError, match="which must be a string, one of a, b; got 1"):
        checks.choice("which", 1, ("a", "b"))


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole(value):
    found = checks.whole("n", value, 1)
    assert found == value and type(found) is int


@pytest.mark.parametrize(
    "value, error, message",
    [
        (0, ValueError, "n must be at least 1; got 0"),
        (1.0, TypeError, r"n must be a whole number; got 1.0 \(float\)"),
        (True, TypeError, "n must be a whole number; got True"),
        ("1", TypeError, "n must be a whole number; got '1'"),
        (None, TypeError, "n must be a whole number; got None"),
    ],
)
def test_not_whole(value, error, message):
    with pytest.raises(error, match=message):
        checks.whole("n", value, 1)


@pytest.mark.parametrize("value", [1, 1e-300, np.float32(0.5)])
def test_positive(value):
    found = checks.positive("nu", value)
    assert found == value and type(found) is float
    assert checks.positive("nu", 0, zero=True) == 0.0


@pytest.mark.parametrize(
    "value, error, message",
    [
        (0, ValueError, "nu must be above 0 and finite; got 0"),
        (-1e-3, ValueError, "nu must be above 0 and finite; got -0.001"),
        (inf, ValueError, "nu must be above 0 and finite; got inf"),
        (nan, ValueError, "nu must be above 0 and finite; got nan"),
        ("1", TypeError, r"nu must be a number; got '1' \(str\)"),
        (1j, TypeError, "nu must be a number; got 1j"),
        (False, TypeError, "nu must be a number; got False"),
    ],
)
def test_not_positive(value, error, message):
    with pytest.raises(error, match=message):
        checks.positive("nu", value)
    if value != 0:
        with pytest.raises(error, match="nu must be"):
            checks.positive("nu", value, zero=True)


# Seeds


def draw(*place) -> float:
    return torch.rand((), dtype=torch.float64, generator=seeds.generator(*place)).item()


@pytest.mark.parametrize("places", [[()], [(0,), (1,), (2,)], [(0, 1), (1, 0), (1, 1)]])
def test_streams_never_share_numbers(places):
    every = [(seed, stream, *place) for seed in (0, 1, 1234, 2**40) for stream in seeds.STREAMS for place in places]
    assert len({draw(*place) for place in every}) == len(every)


def test_a_place_gives_the_same_numbers_always():
    """Pinned, as a change of it changes every result."""
    assert draw(1234, "windows", 3) == draw(1234, "windows", 3)
    assert seeds.generator(1234, "weights").initial_seed() == 6227735557706793679


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_seeds_are_whole_numbers(seed, error):
    with pytest.raises(error, match="seed must be"):
        seeds.generator(seed, "weights")


# Provenance and progress


def test_provenance_is_plain_text():
    found = provenance.provenance()
    assert found == json.loads(json.dumps(found)) and all(isinstance(value, str) for value in found.values())
    assert found["torch"] == torch.__version__
    assert {"hardware", "system", "python", "numpy", "git_revision"} <= set(found)
    threads = torch.get_num_threads()
    assert f"{threads} thread{'s' if threads > 1 else ''}" == found["hardware"].rpartition(", ")[2]


def test_provenance_tells_what_rounds_and_what_is_fast(monkeypatch):
    found = provenance.provenance()
    monkeypatch.setenv("GOMP_SPINCOUNT", "3")  # which rounds nothing, and so changes no byte
    assert provenance.provenance() == found
    assert found["hardware"].startswith(found["processor"].rpartition(", ")[0])
    assert found["processor"].endswith(torch.backends.cpu.get_cpu_capability())
    assert re.fullmatch(r"\d+ of \d+", found["cores"]) and re.fullmatch(r"\d+ GB", found["memory"])
    assert re.fullmatch(r"(?!unknown).+ of torch, (?!unknown).+ of numpy", found["blas"])
    assert found["threads"] == f"{torch.get_num_threads()} of torch"


def test_what_the_machine_does_not_tell_is_unknown(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: int("none"))
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(torch.__config__, "show", lambda: "another build")
    provenance._blas.cache_clear()
    found = provenance.provenance()
    provenance._blas.cache_clear()
    assert (found["memory"], found["cores"]) == ("unknown", "unknown of unknown")
    assert found["blas"].startswith("unknown of torch, ")


def test_packages_that_are_missing_are_said_to_be(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.provenance()["no-such-package"] == "not installed"


def test_outside_git_the_revision_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_revision.__wrapped__() == "unknown"


def test_progress_goes_to_stderr_as_text_and_can_be_silenced(capsys, monkeypatch):
    monkeypatch.delenv("MINCONV_QUIET")
    assert list(progress(range(3), desc="steps")) == [0, 1, 2]
    shown = capsys.readouterr()
    assert "steps: 100%" in shown.err and not shown.out
    list(progress(range(3), quiet=True))
    monkeypatch.setenv("MINCONV_QUIET", "1")
    list(progress(range(3)))
    assert capsys.readouterr().err == ""
