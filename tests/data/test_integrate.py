"""The step that the solvers share, on an equation with a closed form."""

import math
from itertools import pairwise

import torch

from minconv.data.integrate import IntegratingFactor


def test_fourth_order_with_an_exact_decay():
    """dw/dt = (w - w^2) - w: w = 1 / (1 + t). Without the bracket any step is exact."""
    errors = []
    for steps in (8, 16, 32):
        one_step = IntegratingFactor(torch.tensor(math.exp(-0.5 / steps), dtype=torch.float64), 1 / steps)
        w, free = torch.ones(2, 1, dtype=torch.float64)
        for _ in range(steps):
            assert one_step(w, lambda w: w - w * w) is w  # in its memory
            one_step(free, torch.zeros_like)
        errors.append(abs(w.item() - 0.5))
        assert abs(free.item() - math.exp(-1)) < 1e-14
    assert all(3.8 < math.log2(coarse / fine) < 4.3 for coarse, fine in pairwise(errors)), errors
