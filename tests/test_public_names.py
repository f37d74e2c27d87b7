"""``import minconv`` is light, and gives the public names."""

import subprocess
import sys
from pathlib import Path

import minconv

HEAVY = {
    "cartopy",
    "lightning_fabric",
    "matplotlib",
    "numba",
    "pandas",
    "papermill",
    "scipy",
    "triton",
    "xarray",
}
NAMES = {
    "ConvGRU",
    "ConvLSTM",
    "Forecaster",
    "MinConvExpLSTM",
    "MinConvGRU",
    "MinConvLSTM",
    "from_reference",
    "gated_scan",
    "linear_scan",
}


def fresh(code: str) -> str:
    """What ``code`` prints in a process of its own."""
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


def test_import_loads_nothing_heavy():
    assert fresh(f"import sys, minconv; print(*({HEAVY!r} & sys.modules.keys()))").split() == []


def test_public_names():
    assert set(minconv.__all__) == NAMES
    assert all(getattr(minconv, name).__doc__ for name in NAMES)
