"""What fused backends share: from their kernels, which form the coefficients and scan them in one pass, to the scans.

A backend brings two kernels on *lanes*: tensors [B, T, P, L] whose last axis is dense while strides of the others are
free, so that frames in either memory format go through without a copy (P = 1, L = CHW if contiguous; P = HW, L = C if
channels_last).

    forward(gating, blocks, h0, h)                               writes h
    backward(gating, blocks, h0, h, grad, grads, grad_h0)        writes grads, one for each block, and grad_h0

``blocks`` are those of the gating (z, u or f, i, u), or a, b for the gating ``linear``; h0 and grad_h0 are [B, P, L].
Only the inputs and h are kept for the backward pass, which forms the coefficients again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minconv.core import linear
from minconv.core.gates import GATINGS
from minconv.kernels.autograd import fused

Pass = Callable[..., None]


def scans(forward: Pass, backward: Pass) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """A backend's ``linear_scan`` and ``gated_scan``."""

    def run(gating: str, h0: Tensor, *inputs: Tensor) -> Tensor:
        lanes = Lanes(inputs[0], gating)
        h = lanes.empty(h0)
        forward(gating, lanes.blocks(inputs), lanes.state(h0), h)
        return lanes.frames(h)

    def gradient(gating: str, grad: Tensor, tensors: Sequence[Tensor], h: Tensor) -> list[Tensor]:
        h0, *inputs = tensors
        lanes = Lanes(inputs[0], gating)
        state = lanes.state(h0)
        grads, grad_h0 = lanes.empty_blocks(h0), torch.empty_like(state)
        backward(gating, lanes.blocks(inputs), state, lanes(h), lanes(grad), grads.unbind(-2), grad_h0)
        return [lanes.frames(grad_h0), *lanes.inputs(grads)]

    def eager(gating: str, h0: Tensor, *inputs: Tensor) -> Tensor:
        return linear.linear_scan(*inputs, h0) if gating == "linear" else linear.gated_scan(*inputs, h0, gating)

    scan = fused(run, gradient, eager, keep_output=True, batched=True)

    def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        """h [B, T, ...] of h_t = a_t h_{t-1} + b_t."""
        return scan("linear", h0, a, b)

    def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
        """h [B, T, C, H, W] from gates [B, T, kC, H, W]."""
        return scan(gating, h0, gates)

    return linear_scan, gated_scan


class Lanes:
    """Between [B, T, ...] and lanes [B, T, P, L], for sequences laid out in memory like ``x``.

    Args:
        x: the gates [B, T, kC, H, W], or for the gating ``linear`` a [B, T, ...].
    """

    def __init__(self, x: Tensor, gating: str):
        self.count = 1 if gating == "linear" else GATINGS[gating].blocks  # blocks in one tensor
        self.batch, self.steps, *tail = x.shape
        self.channels_last = False
        if len(tail) == 3:
            channels, height, width = tail
            tail[0] = channels // self.count
            _, _, of_channel, of_row, of_pixel = x.stride()
            self.channels_last = of_channel == 1 < channels and channels <= of_pixel and of_row == width * of_pixel
        self.tail = tuple(tail)
        self.size = (height * width, tail[0]) if self.channels_last else (1, x.shape[2:].numel() // self.count)

    def __call__(self, x: Tensor) -> Tensor:
        """[B, T, ...] as lanes, without a copy where the layout fits."""
        if self.channels_last:
            x = x.permute(0, 1, 3, 4, 2)
        x = x.resolve_neg().reshape(*x.shape[:2], *self.size)
        return x if x.stride(-1) == 1 or self.size[1] == 1 else x.contiguous()

    def blocks(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Lanes of every block of the inputs."""
        if self.count == 1:
            return [self(x) for x in inputs]
        x = inputs[0]
        if self.channels_last:  # the model's case, by one view a block
            sizes, channels = (self.batch, self.steps, *self.size), self.size[1]
            strides, start = (*x.stride()[:2], x.stride(4), 1), x.storage_offset()
            return [x.as_strided(sizes, strides, start + block * channels) for block in range(self.count)]
        return [self(block) for block in x.chunk(self.count, 2)]

    def state(self, h0: Tensor) -> Tensor:
        """Dense lanes [B, P, L] of a state [B, ...]."""
        return self(h0.unsqueeze(1)).squeeze(1).contiguous()

    def empty(self, like: Tensor) -> Tensor:
        """Dense lanes of a sequence of states."""
        return torch.empty((self.batch, self.steps, *self.size), dtype=like.dtype, device=like.device)

    def empty_blocks(self, like: Tensor) -> Tensor:
        """[B, T, P, k, L] for the gradient of the k blocks, laid out as the gates are; k = 2 for a and b."""
        places, lanes = self.size
        count = self.count if self.count > 1 else 2
        return torch.empty((self.batch, self.steps, places, count, lanes), dtype=like.dtype, device=like.device)

    def frames(self, x: Tensor) -> Tensor:
        """Lanes [B, ..., P, L] back to [B, ..., *tail], as a view."""
        if not self.channels_last:
            return x.view(*x.shape[:-2], *self.tail)
        channels, height, width = self.tail
        return x.view(*x.shape[:-2], height, width, channels).movedim(-1, -3)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of ``empty_blocks``: views shaped as the inputs."""
        if self.count == 1:
            return tuple(self.frames(block) for block in x.unbind(-2))
        channels, *frame = self.tail
        if self.channels_last:
            return (x.view(self.batch, self.steps, *frame, self.count * channels).movedim(-1, 2),)
        return (x.view(self.batch, self.steps, self.count * channels, *frame),)
