"""A word about what takes long."""

import time

from minconv.runtime.progress import announced


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
