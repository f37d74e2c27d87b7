"""A word about what takes long."""

import io
import re
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


def show(seconds: float = 0) -> None:
    for _ in progress(range(3), desc="bar", unit="step"):
        time.sleep(seconds)


def test_a_terminal_has_its_bar_on_stderr(capsys, monkeypatch):
    monkeypatch.delenv("MINCONV_QUIET", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show()
    told = capsys.readouterr()
    assert "bar: 100%|" in told.err and told.err.count("\n") == 1 and not told.out


def test_a_log_has_a_line_a_minute(capsys, monkeypatch):
    monkeypatch.delenv("MINCONV_QUIET", raising=False)
    show(0.2)
    monkeypatch.setattr("minconv.runtime.progress.MINUTE", 0.3)
    show(0.2)
    first, second = (found.split() for found in re.split("bar: 0%", capsys.readouterr().err)[1:])
    assert first.count("bar:") == 1 and "100%," in first  # begun and done
    assert second.count("bar:") == 2 and second[second.index("100%,") + 1 :][:4] == ["3", "of", "3", "steps,"]
