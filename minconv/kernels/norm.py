"""The residual norm of frames on the CPU as one operation, on frames with dense channels, which nothing turns round."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minconv.kernels import norm_loops as loops
from minconv.kernels.compiled import LANES
from minconv.kernels.norm_loops import EPS
from minconv.kernels.recurrent import sequence
from minconv.kernels.winograd import dense

__all__ = ["EPS", "residual_norm"]


def _flat(x: Tensor) -> Tensor:
    """[B, T, C, H, W] as [BT, HW, C]."""
    return dense(x).flatten(2, 3).flatten(0, 1)


def _wide(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _run(whole: bool, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Any:
    flat = _flat(x)
    frames, places, channels = flat.shape
    z, out = torch.empty_like(flat), torch.empty_like(flat)
    mean, scale = flat.new_empty(2, frames, _wide(channels)).unbind(0)
    numbers = frames, places, channels, int(whole)
    affine = weight.contiguous(), bias.contiguous()
    addresses = (parameter.data_ptr() for parameter in affine)
    loops.norm_forward(flat.dtype, flat.numel(), *numbers, flat, _flat(y), z, out, mean, scale, *addresses)
    return (_frames(out, x),), (z, mean, scale)


def _gradient(whole: bool, grads: Any, tensors: Any, kept: Any) -> Any:
    x, _, weight, _ = tensors
    z, mean, scale = kept
    frames, places, channels = z.shape
    grad, grad_z = _flat(grads[0]), torch.empty_like(z)
    size = _wide(channels) if whole else places * LANES
    sums, parts = z.new_empty(frames, 2 * _wide(channels)), z.new_zeros(torch.get_num_threads(), 2 * size)
    numbers = frames, places, channels, int(whole)
    weight_at = weight.contiguous()
    arrays = z, grad, grad_z, mean, scale, weight_at.data_ptr(), sums, parts, size
    loops.norm_backward(z.dtype, z.numel(), *numbers, *arrays)
    by_affine = parts.sum(0).view(2, -1)[:, :channels] if whole else parts.view(-1, 2, places, LANES).sum((0, 3))
    by_weight, by_bias = (part.reshape(weight.shape) for part in by_affine)
    moved = _frames(grad_z, x)
    return moved, moved, by_weight, by_bias


def _frames(x: Tensor, like: Tensor) -> Tensor:
    batch, steps, _, height, width = like.shape
    return x.view(batch, steps, height, width, -1).movedim(-1, 2)


def _eager(whole: bool) -> Any:
    def run(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
        z = (x + y).flatten(0, 1)
        normed = F.group_norm(z, 1, weight, bias) if whole else F.layer_norm(z, weight.shape, weight, bias)
        return (normed.unflatten(0, x.shape[:2]),)

    return run


_norm = sequence(_run, _gradient, _eager)


def residual_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, whole: bool) -> Tensor:
    """The norm of x + y [B, T, C, H, W] over C x H x W (``whole``; weight and bias [C]) or over H x W ([H, W])."""
    return _norm(whole, x, y, weight, bias)[0]
