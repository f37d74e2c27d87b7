"""SUGAR (Horuz et al., arXiv 2505.22074): a ReLU with the gradient of a smooth surrogate f, so that dead units learn.

    y = max(0, x),    dL/dx = dL/dy f'(x) at every x

Gradients are not those of y, on purpose: finite differences disagree, and what follows from second derivatives (f''
here) does not hold. Where f' is above 1 (B-SiLU's is up to 1.29) they grow with every layer or step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.runtime.checks import choice, positive


def _piecewise(x: Tensor, below: Tensor) -> Tensor:
    return torch.where(x > 0, torch.ones_like(x), below)


def _bsilu(x: Tensor, a: float = 0.0) -> Tensor:  # of (x + a) sigmoid(x) - a / 2
    s = x.sigmoid()
    return s * (1 + (x + a) * (1 - s))


def _nelu(x: Tensor, a: float) -> Tensor:  # negative below 0: not a leak
    return _piecewise(x, 2 * a * x / (1 + x * x) ** 2)


def _gelu(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) + x * (-x * x / 2).exp() / math.sqrt(2 * math.pi)


def _mish(x: Tensor) -> Tensor:
    w = F.softplus(x).tanh()
    return w + x * x.sigmoid() * (1 - w * w)


def _elu(x: Tensor, a: float) -> Tensor:
    return _piecewise(x, a * x.clamp(max=0).exp())


SURROGATES = {  # f', from the left where it jumps, and the constants that are a surrogate's own
    "bsilu": (_bsilu, 1.67),
    "nelu": (_nelu, 0.1),
    "gelu": (_gelu,),
    "silu": (_bsilu,),
    "mish": (_mish,),
    "elu": (_elu, 1.0),
    "selu": (lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543773),),
    "leakyrelu": (lambda x, a: _piecewise(x, torch.full_like(x, a)), 0.01),
}


class _Sugar(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, surrogate: str, constants: tuple[float, ...]) -> Tensor:
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.surrogate, ctx.constants = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x = ctx.saved_tensors[0].to(torch.promote_types(grad.dtype, torch.float32)).nan_to_num(nan=math.nan)
        return (grad * SURROGATES[ctx.surrogate][0](x, *ctx.constants)).to(grad.dtype), None, None


def sugar(x: Tensor, surrogate: str = "bsilu", a: float | None = None) -> Tensor:
    """max(0, x) of any shape, with the gradient of a surrogate f.

    Args:
        surrogate: of ``SURROGATES``: bsilu, nelu, gelu, silu, mish, elu, selu or leakyrelu.
        a: constant of bsilu (1.67), nelu (0.1), elu (1) or leakyrelu (0.01), if it is another.

    Raises:
        TypeError, ValueError: an unknown surrogate, a constant where there is none or that is not above 0.
    """
    _, *constants = SURROGATES[choice("surrogate", surrogate, SURROGATES)]
    if a is not None and not constants:
        raise ValueError(f"a must be None with {surrogate}, which has no constant; got {a}")
    return _Sugar.apply(x, surrogate, tuple(constants) if a is None else (positive("a", a),))


class SUGAR(nn.Module):
    """``sugar`` as a layer, without parameters."""

    def __init__(self, surrogate: str = "bsilu", a: float | None = None):
        super().__init__()
        sugar(torch.zeros(()), surrogate, a)  # checks both
        self.surrogate, self.a = surrogate, a

    def forward(self, x: Tensor) -> Tensor:
        return sugar(x, self.surrogate, self.a)

    def extra_repr(self) -> str:
        return self.surrogate + (f", a={self.a}" if self.a is not None else "")
