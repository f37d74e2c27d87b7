"""Muon: momentum whose matrices are orthogonalised, so that a step moves a kernel in all directions alike."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from minconv.runtime.checks import positive

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a quintic that, applied again and again, leaves (0, 1] near 1
ITERATIONS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """W <- (1 - lr weight_decay) W - 0.2 sqrt(max(rows, columns)) lr O(M), of the momentum M as a matrix.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon; the factor, which gives a step the root mean square of Adam's
    and so Adam's learning rate, is that of arXiv 2502.16982. A gradient of a kernel has few large singular values;
    ``orthogonalised`` makes all of them about one. ``torch.optim.Muon`` does the same to one matrix at a time, in
    bfloat16; here the kernels of all layers, and of all models trained together, are orthogonalised in one product.

    Args:
        kernels: weights [out, in, kH, kW], or [S, out, in, kH, kW] of S models; matrices of out x (in kH kW).
        lr: learning rate.
        weight_decay: decoupled from the gradient.

    Raises:
        TypeError, ValueError: an argument is not allowed; the message names it.
    """

    def __init__(self, kernels: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        settings = {"lr": positive("lr", lr), "weight_decay": positive("weight_decay", weight_decay, zero=True)}
        super().__init__(kernels, settings)
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.dim() not in (4, 5):
                    raise ValueError(
                        f"kernels must be [out, in, kH, kW] or [S, out, in, kH, kW]; got {list(kernel.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step, after ``closure``, which computes the gradients anew, if there is one; returns what it returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            alike = defaultdict(list)  # by the shape of a matrix
            for kernel in kernels:
                if kernel not in self.state:
                    self.state[kernel]["momentum"] = torch.zeros_like(kernel)
                momentum = self.state[kernel]["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
                ahead = kernel.grad.lerp(momentum, MOMENTUM)  # Nesterov's
                rows, columns = kernel.shape[-4], kernel.shape[-3:].numel()
                alike[rows, columns].append((kernel, ahead.reshape(-1, rows, columns)))
            for shape, found in alike.items():
                steps = orthogonalised(torch.cat([matrices for _, matrices in found]))
                parts = steps.split([len(matrices) for _, matrices in found])
                for (kernel, _), part in zip(found, parts, strict=True):
                    kernel.mul_(1 - group["lr"] * group["weight_decay"])
                    kernel.add_(part.reshape(kernel.shape), alpha=-0.2 * max(shape) ** 0.5 * group["lr"])
        return loss


def is_kernel(weight: Tensor) -> bool:
    """Whether a model's weight is one for Muon: of a convolution, [out, in, kH, kW], and wider than one cell."""
    return weight.dim() == 4 and weight.shape[2:].numel() > 1


def orthogonalised(matrices: Tensor) -> Tensor:
    """Nearly U V^T for each matrix U S V^T of [N, rows, columns], without its decomposition.

    A Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X, which changes singular values alone: those above
    2e-3 of the root of the sum of their squares end between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the smaller product
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
