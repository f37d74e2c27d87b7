"""Convolution on frames with the padding of the domain; what cells and forecaster share in handling frames."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.errors import choice, whole

# which axes are periodic (height, width); the others are padded with zeros
PADDINGS = {"zeros": (False, False), "circular": (True, True), "cylinder": (False, True)}


class _Wrap(torch.autograd.Function):
    """Circular padding of one axis by ``width``; its gradient folds the margins back. Fewer copies than F.pad's."""

    @staticmethod
    def forward(x: Tensor, axis: int, width: int) -> Tensor:
        size = x.shape[axis]
        return torch.cat([x.narrow(axis, size - width, width), x, x.narrow(axis, 0, width)], dim=axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        _, ctx.axis, ctx.width = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        axis, width = ctx.axis, ctx.width
        size = grad.shape[axis] - 2 * width
        folded = grad.narrow(axis, width, size).clone()
        folded.narrow(axis, size - width, width).add_(grad.narrow(axis, 0, width))
        folded.narrow(axis, 0, width).add_(grad.narrow(axis, size + width, width))
        return folded, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], x: Tensor, axis: int, width: int) -> tuple[Tensor, int]:
        return _Wrap.apply(x.movedim(dims[0], 0), axis, width), 0  # axis counts from the end


class PaddedConv2d(nn.Module):
    """Convolution of frames [N, C, H, W] -> [N, C', H, W] that keeps H x W.

    Args:
        padding: ``zeros``, ``circular`` (a torus) or ``cylinder`` (periodic in width, zeros in height: the globe).

    Raises:
        ValueError: unknown padding, an even kernel, or frames smaller than the padding where they wrap.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, padding: str = "zeros"):
        super().__init__()
        if whole("kernel_size", kernel_size, 1) % 2 == 0:
            raise ValueError(f"kernel_size must be odd, to keep height and width; got {kernel_size}")
        self.padding = choice("padding", padding, PADDINGS)
        conv = nn.Conv2d(whole("in_channels", in_channels, 1), whole("out_channels", out_channels, 1), kernel_size)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        width = self.weight.shape[-1] // 2
        zeros = [width, width]
        for axis, periodic in ((-2, PADDINGS[self.padding][0]), (-1, PADDINGS[self.padding][1])):
            if periodic and width:
                if x.shape[axis] < width:
                    raise ValueError(f"frames must be at least {width} wide where they wrap; got {list(x.shape)}")
                x = _Wrap.apply(x, axis, width)
                zeros[axis] = 0
        # autocast computes in half precision; what follows, a recurrence, keeps the precision of its input
        return F.conv2d(x, self.weight, self.bias, padding=tuple(zeros)).to(x.dtype)

    def extra_repr(self) -> str:
        out, into, kernel, _ = self.weight.shape
        return f"{into}, {out}, kernel_size={kernel}, padding={self.padding}"


def check_dtype(name: str, x: Tensor, weight: Tensor) -> None:
    """Raises TypeError unless ``x`` is a tensor in the weights' dtype; under autocast any floating point will do."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(x).__name__}")
    if x.dtype != weight.dtype and not (x.is_floating_point() and torch.is_autocast_enabled(weight.device.type)):
        raise TypeError(f"{name} must be {weight.dtype} like the weights; got {x.dtype}")


def on_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a layer for [N, C, H, W] to frames [B, T, C, H, W]."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
