"""Memory that the process keeps; and compiled code that the next process finds."""

import os
from platform import libc_ver

import pytest
from helpers import printed

from minconv.core.scan import usable
from minconv.runtime import memory

FAULTS = """
import resource, torch
from minconv.runtime.memory import keep_memory

def faults():
    for _ in range(2):  # the heap has found its size after the first
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(16 << 20)  # 64 MB, freed at once: 16384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_memory(), faults())
"""


def run(code: str, **variables: str) -> str:
    """What Python code prints in a process without settings of malloc."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    return printed(code, "-W", "error", env=environment)


@pytest.mark.slow
@pytest.mark.skipif(libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_kept_is_not_faulted_in_again():
    before, took, after = run(FAULTS).split()
    assert took == "True" and int(after) < 0.2 * int(before)


@pytest.mark.parametrize(
    "variables", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=1"}]
)
def test_what_the_user_set_is_left(monkeypatch, variables):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("asked for mallopt"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert memory.keep_memory.__wrapped__() is False


def test_where_malloc_is_another(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    for name in memory.SAID:
        monkeypatch.delenv(name, raising=False)
    assert memory.keep_memory.__wrapped__() is False


FIRST_CALL = """
import torch
from minconv.core.scan import gated_scan
h = gated_scan(torch.zeros(1, 2, 3, 4, 4), torch.ones(1, 1, 4, 4), "lstm", "cpu")
assert h.flatten().tolist() == [0.75] * 16 + [0.625] * 16
"""


@pytest.mark.robustness
@pytest.mark.skipif("cpu" not in usable("cpu"), reason="needs numba")
def test_the_second_process_finds_the_code_compiled(tmp_path):
    variables = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"}
    first, second = (run(FIRST_CALL, **variables) for _ in range(2))
    assert "data saved" in first and "data loaded" not in first
    assert "data loaded" in second and "data saved" not in second
