"""A word about what takes long."""

import io
import sys
import time

from minconv.runtime.progress import announced, progress


def wait(what: str, seconds: float) -> None:
    with announced(what, after=0.05):
        time.sleep(seconds)


def test_what_takes_long_is_told_once(capsys, monkeypatch):
    monkeypatch.delenv("MINCONV_QUIET", raising=False)
    wait("short work", 0)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        wait("long work", 0.5)
    assert capsys.readouterr().err == "minconv: long work\n"


def test_nothing_is_told_where_it_is_to_be_quiet(capsys, monkeypatch):
    monkeypatch.setenv("MINCONV_QUIET", "1")
    wait("quiet work", 0.5)
    assert capsys.readouterr().err == ""


def test_a_notebook_shows_what_is_waited_for_as_long_as_it_is(capsys, monkeypatch):
    monkeypatch.delenv("MINCONV_QUIET", raising=False)
    painted = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()  # like a warning
    monkeypatch.setattr(sys, "stderr", painted)
    wait("work in a kernel", 0.5)
    for _ in progress(range(2), desc="bar"):
        pass
    told = capsys.readouterr().out
    assert told.startswith("\rminconv: work in a kernel\r") and "bar: " in told
    assert told.rsplit("\r", 2)[1].isspace() and told.endswith("\r") and "\n" not in told
    assert painted.getvalue() == ""


def test_a_terminal_has_its_bar_on_stderr(capsys, monkeypatch):
    monkeypatch.delenv("MINCONV_QUIET", raising=False)
    for _ in progress(range(2), desc="bar"):
        pass
    told = capsys.readouterr()
    assert "bar: 100%" in told.err and not told.out
