"""For tests/ and the notebooks alike: the smoke profile in a scratch home, quiet; further tiers of tests on request."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")
    parser.addoption("--robustness", action="store_true", help="run tests/robustness and what is marked so, in minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Sets the environment before anything is imported, so that kernels and subprocesses inherit it."""
    config.scratch = os.environ.get("MINCONV_SCRATCH") or tempfile.mkdtemp(prefix="minconv-")
    os.environ |= {
        "MINCONV_HOME": config.scratch,
        "MINCONV_PROFILE": "smoke",
        "MINCONV_QUIET": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for a core in use slow a run many times
    import torch  # not before OpenMP's settings

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # the kernels for GPUs run on the CPU, slowly
    # ignored under nohup, or in the background of a script; tests send them to themselves and to what they start
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # still survived, but no longer by what is started from here
    os.environ.pop("MPLBACKEND", None)  # Agg would keep figures out of the notebooks
    patterns = config.getoption("nbval_sanitize_with", None)
    if patterns:  # nbval looks for it in the working directory
        config.option.nbval_sanitize_with = str(config.rootpath / patterns)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not os.environ.get("MINCONV_SCRATCH"):  # CI looks at what the notebooks wrote
        shutil.rmtree(config.scratch, ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    robustness = "robustness" in (collection_path.name, collection_path.parent.name)
    return True if robustness and not config.getoption("--robustness") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for tier in ("slow", "robustness"):
            if item.get_closest_marker(tier) and not config.getoption(f"--{tier}"):
                item.add_marker(pytest.mark.skip(reason=f"{tier}: needs --{tier}"))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Not compared: warnings and progress (stderr), and HTML, which has random ids and a text beside it."""
    if Path(collector.path).suffix == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml", "application/javascript")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    """Notebooks are replayed on the CPU; their kernel starts here."""
    if item.path.suffix != ".ipynb":
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.delenv("TRITON_INTERPRET", raising=False)
        return (yield)
