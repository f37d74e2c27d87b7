"""From a convolution's output to the coefficients of the recurrence.

Every gating is one logit d(x) of "write" against "keep" and one candidate u:

    a_t = sigmoid(-d_t),    b_t = sigmoid(d_t) g(u_t),    g(u) = u + 1/2 if u >= 0, sigmoid(u) otherwise

with the blocks of the convolution's output, in this order, and

    gru      z, u        d = z                                       MinConvGRU
    lstm     f, i, u     d = log sigmoid(i) - log sigmoid(f)         MinConvLSTM:    a = s(f) / (s(f) + s(i))
    explstm  f, i, u     d = i - f                                   MinConvExpLSTM: a = e^f / (e^f + e^i)

The logit form is the quotients of the papers (arXiv 2410.01201, eq. 7 ff.; arXiv 2405.04517) without their 0/0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

INITIAL_STATE = 0.5  # g(0), what an untrained cell writes


class Gating(NamedTuple):
    """How a cell gates: number of channel blocks, and the logit from all blocks but the last."""

    blocks: int
    logit: Callable[..., Tensor]


GATINGS = {
    "gru": Gating(2, lambda z: z),
    "lstm": Gating(3, lambda f, i: logsigmoid(i) - logsigmoid(f)),
    "explstm": Gating(3, lambda f, i: i - f),
}


def logit_and_candidate(gates: Tensor, gating: str) -> tuple[Tensor, Tensor]:
    """d and u, each [B, T, C, H, W], from gates [B, T, kC, H, W]."""
    blocks, logit = GATINGS[gating]
    *inner, u = gates.chunk(blocks, dim=2)
    return logit(*inner), u


def g(u: Tensor) -> Tensor:
    """The positive, continuous activation of the candidate (arXiv 2410.01201, appendix B.2)."""
    return torch.where(u >= 0, u + 0.5, torch.sigmoid(u))


def log_g(u: Tensor) -> Tensor:
    """log g(u), finite for any u."""
    return torch.where(u >= 0, (u.relu() + 0.5).log(), logsigmoid(u))


def coefficients(gates: Tensor, gating: str) -> tuple[Tensor, Tensor]:
    """a and b of h_t = a_t h_{t-1} + b_t, each [B, T, C, H, W]."""
    d, u = logit_and_candidate(gates, gating)
    return torch.sigmoid(-d), torch.sigmoid(d) * g(u)


def log_coefficients(gates: Tensor, gating: str) -> tuple[Tensor, Tensor]:
    """log a and log b, each [B, T, C, H, W]."""
    d, u = logit_and_candidate(gates, gating)
    return logsigmoid(-d), logsigmoid(d) + log_g(u)
