"""The time step that all spectral solvers share: decay is integrated exactly; the rest is each equation's own."""

from collections.abc import Callable

import torch
from torch import Tensor


class IntegratingFactor:
    """A step of dw/dt = tendency(w) - decay w: classical Runge-Kutta of fourth order for w exp(decay t).

    Args:
        half: exp(-decay step / 2), in the dtype of the state ``w``, whose shape it broadcasts to.
        step: the step's length.
    """

    def __init__(self, half: Tensor, step: float):
        self.half, self.step = half, step
        full = half * half
        self.weights = step / 6 * full, step / 3 * half, step / 2 * half, step * half

    def __call__(self, w: Tensor, tendency: Callable[[Tensor], Tensor]) -> Tensor:
        """The state a step later, in the memory of ``w``. ``tendency`` returns new tensors and leaves its own alone."""
        weights, step = self.weights, self.step
        decayed = self.half * w
        undisturbed = self.half * decayed
        k = tendency(w)
        torch.addcmul(undisturbed, weights[0], k, out=w)
        k = tendency(torch.addcmul(decayed, weights[2], k))
        w.addcmul_(weights[1], k)
        k = tendency(decayed.add_(k, alpha=step / 2))
        w.addcmul_(weights[1], k)
        return w.add_(tendency(undisturbed.addcmul_(weights[3], k)), alpha=step / 6)
