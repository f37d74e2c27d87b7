"""The step against closed forms: its decay is exact, the rest of fourth order."""

import math
from itertools import pairwise

import pytest
import torch

from minconv.data.integrate import IntegratingFactor

pytestmark = pytest.mark.usefixtures("one_thread")


def after(tendency, w: torch.Tensor, decay: float, step: float, steps: int) -> torch.Tensor:
    one_step = IntegratingFactor(torch.tensor(math.exp(-decay * step / 2), dtype=w.dtype), step)
    for _ in range(steps):
        assert one_step(w, tendency) is w  # in its memory
    return w


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_decay_is_exact_at_any_step(dtype):
    found = after(torch.zeros_like, torch.tensor([1.0, -3.0], dtype=dtype), 40.0, 0.5, 2)
    torch.testing.assert_close(found, torch.tensor([1.0, -3.0], dtype=dtype) * math.exp(-40), rtol=1e-13, atol=0)


def test_fourth_order():
    """dw/dt = w - w^2 - w has w = 1 / (1 + t) with the decay 1, and nothing else is exact."""
    errors = [
        abs(after(lambda w: w - w * w, torch.ones(1, dtype=torch.float64), 1.0, 1 / n, n).item() - 0.5)
        for n in (8, 16, 32)
    ]
    for coarse, fine in pairwise(errors):
        assert 3.8 < math.log2(coarse / fine) < 4.3, errors
