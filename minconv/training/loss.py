"""Losses besides the mean square error."""

import hashlib

from torch import Tensor


def relative_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """||prediction - target|| / ||target|| of every frame, [B, T, C, H, W] each -> [B, T]: the loss of the Fourier
    neural operator's authors (arXiv 2010.08895)."""
    return (prediction - target).flatten(2).norm(dim=-1) / target.flatten(2).norm(dim=-1)


class WeightedSquare:
    """The square error, weighted by channel and cell: w (prediction - target)^2, with a mean weight of 1.

    Args:
        weights: [C, H, W], at least 0.

    Raises:
        ValueError: weights of another shape, negative, not finite or all 0.
    """

    def __init__(self, weights: Tensor):
        if weights.dim() != 3 or not weights.isfinite().all() or (weights < 0).any() or not weights.any():
            raise ValueError(f"weights must be [C, H, W], finite, at least 0 and not all 0; got {list(weights.shape)}")
        self.weights = weights / weights.mean()
        digest = hashlib.sha256(self.weights.float().numpy().tobytes()).hexdigest()[:16]
        self.__qualname__ = f"square error with weights {digest}"  # by which a run's folder knows it

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """[B, T, C, H, W] each, and so is what is returned."""
        return (prediction - target).square() * self.weights.to(prediction)
