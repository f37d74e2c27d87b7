"""The recurrence as it is written: a loop over time, for any dtype; what every other backend is tested against."""

import torch
from torch import Tensor

from minconv.core.gates import coefficients


def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] of h_t = a_t h_{t-1} + b_t."""
    h, frames = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        frames.append(h)
    return torch.stack(frames, dim=1)


def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
    """h [B, T, C, H, W] from gates [B, T, kC, H, W]."""
    return linear_scan(*coefficients(gates, gating), h0)
