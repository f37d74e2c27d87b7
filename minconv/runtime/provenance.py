"""What produced a result: versions, hardware, git revision. Kept beside every data set, run and figure."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from minconv.runtime.device import pick_device

PACKAGES = ("minconv", "torch", "numpy", "xarray", "lightning-fabric")


@cache
def git_revision() -> str:
    """Short hash of the checkout's commit, with ``+`` behind it where the package differs from it; or ``unknown``."""
    folder = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def hardware(device: str | torch.device = "cpu") -> str:
    """The device's name in words, such as ``NVIDIA H200`` or ``Intel Xeon, 2 threads``."""
    if pick_device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def provenance(device: str | torch.device = "cpu") -> dict[str, str]:
    """Versions, hardware, system and git revision as plain strings, ready for JSON or file attributes.

    Of ``cores``, those that this process may use of those that there are; of ``threads``, those that PyTorch uses, by
    whatever it was told. What the machine does not tell is "unknown".
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "hardware": hardware(device),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": f"{usable or 'unknown'} of {os.cpu_count() or 'unknown'}",
        "memory": _memory(),
        "blas": _blas(),
        "threads": f"{torch.get_num_threads()} of torch",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    found |= {package: package_version(package) for package in PACKAGES}
    return found | {"git_revision": git_revision()}


def package_version(name: str) -> str:
    """The installed version of a package, of torch with its build (``2.13.0+cu130``); or ``not installed``."""
    if name == "torch":
        return str(torch.__version__)  # not every wheel's metadata name the build
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The name of the processor, as the system has it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "unknown"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (AttributeError, OSError, ValueError):
        return "unknown"


@cache
def _blas() -> str:
    """The libraries of linear algebra that torch and NumPy were built with."""
    built = torch.__config__.show()
    library = re.search(r"BLAS_INFO=(\w+)", built)
    version = re.search(r"Math Kernel Library Version ([\w.]+)", built)
    words = [found[1] for found in (library, version) if found]
    numpys = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    others = [str(numpys[key]) for key in ("name", "version") if key in numpys]
    return f"{' '.join(words) or 'unknown'} of torch, {' '.join(others) or 'unknown'} of numpy"
