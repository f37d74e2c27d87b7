"""Settings of a process, each in a process of its own; and compiled code that the next process finds."""

import os
import subprocess
import sys
from platform import libc_ver

import pytest

from minconv.core.scan import usable

glibc = pytest.mark.skipif(libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import resource, sys, torch
from minconv.runtime.memory import keep_memory

print(keep_memory() if sys.argv[1] == "keep" else None)
for _ in range(2):  # the heap has found its size after the first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)  # 64 MB, freed at once: 16384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *arguments: str, **variables: str) -> tuple[list[str], str]:
    """Lines of standard output, and standard error, of Python code in a process without settings of malloc."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@glibc
def test_memory_kept_is_not_faulted_in_again():
    (_, before), (took, after) = (run(FAULTS, how)[0] for how in ("leave", "keep"))
    assert took == "True"
    assert int(after) < 0.2 * int(before)


@glibc
def test_what_the_user_set_is_left():
    assert run(FAULTS, "keep", MALLOC_TRIM_THRESHOLD_="131072")[0][0] == "False"


def test_where_malloc_is_another():
    code = "import ctypes, minconv.runtime.memory as s; ctypes.CDLL = lambda name: object(); print(s.keep_memory())"
    assert run(code)[0] == ["False"]


FIRST_CALL = """
import torch
from minconv.core.scan import gated_scan
h = gated_scan(torch.zeros(1, 2, 3, 4, 4), torch.ones(1, 1, 4, 4), "lstm", "cpu")
assert h.flatten().tolist() == [0.75] * 16 + [0.625] * 16
"""


@pytest.mark.slow
@pytest.mark.skipif("cpu" not in usable("cpu"), reason="needs numba")
def test_the_second_process_finds_the_code_compiled(tmp_path):
    variables = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"}
    first, second = ("\n".join(run(FIRST_CALL, **variables)[0]) for _ in range(2))
    assert "data saved" in first and "data loaded" not in first
    assert "data loaded" in second and "data saved" not in second
