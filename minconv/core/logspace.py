"""The scan as published: in the log domain, from cumsum and logcumsumexp (arXiv 2410.01201, appendix B).

    log h_t = A_t + logcumsumexp(log b_t - A_t),    A_t = sum_{s <= t} log a_s,    with log h_0 as the first term

Needs no kernel of its own, but rounding errors of A_t grow with T and with |log a|: see the first notebook.
"""

import torch
from torch import Tensor

from minconv.core.gates import log_coefficients


def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...]; real a > 0, b >= 0 and h0 >= 0, as the logarithm asks."""
    return _scan(a.log(), b.log(), h0.log())


def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
    """h [B, T, C, H, W] from gates [B, T, kC, H, W]; h0 >= 0, as states of minimal cells are."""
    return _scan(*log_coefficients(gates, gating), h0.log())


def _scan(log_a: Tensor, log_b: Tensor, log_h0: Tensor) -> Tensor:
    total = log_a.cumsum(dim=1)
    terms = torch.cat([log_h0.unsqueeze(1), log_b - total], dim=1)
    return (total + terms.logcumsumexp(dim=1)[:, 1:]).exp()
