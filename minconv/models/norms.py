"""Norms of a residual layer, of frames x + y [B, T, C, H, W]."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.runtime.checks import choice


class ResidualNorm(nn.LayerNorm):
    """norm(x + y) for x, y [B, T, C, H, W]: over H x W, with an affine map per pixel, shared by the channels."""

    def __init__(self, size: tuple[int, int]):
        super().__init__(size)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class ChannelNorm(nn.Module):
    """norm(x + y) for x, y [B, T, C, H, W] with an affine map per channel, the same at every place.

    Args:
        channels: C.
        over: ``frame``: over C x H x W, so that channels keep their sizes relative to each other (GroupNorm with one
            group); ``channels``: over C at each place.
    """

    def __init__(self, channels: int, over: str = "frame"):
        super().__init__()
        self.over = choice("over", over, ("frame", "channels"))
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = (x + y).flatten(0, 1)
        if self.over == "frame":
            z = F.group_norm(z, 1, self.weight, self.bias, self.eps)
        else:
            z = F.layer_norm(z.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)
        return z.unflatten(0, x.shape[:2])

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, over={self.over}"


NORMS = ("plane", "frame", "channels")


def residual_norm_of(norm: str, channels: int, size: tuple[int, int]) -> nn.Module:
    """The residual norm over H x W (``plane``), C x H x W (``frame``) or C (``channels``)."""
    return ResidualNorm(size) if choice("norm", norm, NORMS) == "plane" else ChannelNorm(channels, norm)
