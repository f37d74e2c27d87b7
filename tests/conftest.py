"""Fixtures for the tests of the package."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference"


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, np.ndarray]]:
    """``reference("minconvlstm_circular")``: arrays of ../shared/reference by name; skips where they are absent."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = REFERENCE / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"{path} is not at hand")
        with np.load(path) as arrays:
            return dict(arrays)

    return load
