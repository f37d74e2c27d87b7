"""Fixtures for the tests of the package."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

REFERENCE = Path(__file__).resolve().parent / "reference"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small tensors, on which threads wait for each other, and for sums that are the same in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, np.ndarray]]:
    """``reference("minconvlstm_circular")``: the arrays of a file of tests/reference by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(REFERENCE / f"{name}.npz") as arrays:
            return dict(arrays)

    return load
