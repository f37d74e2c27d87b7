"""What produced a result: versions, hardware, git revision. Kept beside every data set, run and figure."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def provenance(device: str | torch.device = "cpu") -> dict[str, str]:
    """Versions, hardware, system and git revision as plain strings, ready for JSON or file attributes."""
    found = {
        "hardware": hardware(device),
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
