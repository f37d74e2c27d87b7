"""The one differentiable operation around a kernel's forward and backward pass, and the lanes on which both work.

A backend of the scan brings two passes on *lanes*: tensors [B, T, P, L] whose last axis is dense while strides of the
others are free, so that frames in either memory format go through without a copy (P = 1, L = CHW if contiguous; P = HW,
L = C if channels_last).

    forward(gating, blocks, h0, h)                               writes h
    backward(gating, blocks, h0, h, grad, grads, grad_h0)        writes grads, one for each block, and grad_h0

``blocks`` are those of the gating (z, u or f, i, u), or a, b for the gating ``linear``; h0 and grad_h0 are [B, P, L].
Only the inputs and h are kept for the backward pass, which forms the coefficients again.

Eagerly the operation is an ``autograd.Function``, which costs a third of a registered operation; where PyTorch traces
(``torch.compile``, ``torch.export``, ``torch.jit.trace``), it is one of ``torch.library``, whose inside is not traced.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from minconv.core import scan
from minconv.core.gates import GATINGS, coefficients

Pass = Callable[..., None]
FUSED = ("linear", "gru", "lstm", "explstm")  # the gatings that kernels know


def differentiable(
    run: Callable[..., Tensor],
    gradient: Callable[[Any, Tensor, Sequence[Tensor], Tensor | None], Sequence[Tensor]],
    eager: Callable[..., Tensor],
    *,
    linear: bool = False,
) -> Callable[..., Tensor]:
    """``operation(option, *tensors)`` from its kernels: any number of times in reverse mode, under ``torch.vmap``,
    ``torch.func`` and checkpointing.

    Args:
        run: ``run(option, *tensors)`` gives the output. The leading axis of every tensor is a batch, so that models
            stacked by ``torch.vmap`` are more of it.
        gradient: ``gradient(option, grad, tensors, output)`` gives the gradient by each tensor.
        eager: ``eager(option, *tensors)`` gives the output by operations with derivatives of their own, which serve
            where the gradient is to be differentiated again.
        linear: the output is linear in its one tensor. So nothing is kept; ``gradient`` is given a tensor of zeros.
    """

    class Operation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, option: Any, *tensors: Tensor) -> Tensor:
            output = run(option, *tensors)
            Transformed.setup_context(ctx, (option, *tensors), output)
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            if linear:
                tensors, output = [grad.new_zeros(()).expand(ctx.shape)], None
            else:
                *tensors, output = ctx.saved_tensors
            if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too
                return None, *torch.func.vjp(lambda *x: eager(ctx.option, *x), *tensors)[1](grad)
            return None, *gradient(ctx.option, grad, tensors, output)

    class Transformed(Operation):  # the form that transforms of torch.func ask for, which costs 50 us more a call
        @staticmethod
        def forward(option: Any, *tensors: Tensor) -> Tensor:
            return run(option, *tensors)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
            ctx.option, *tensors = inputs
            if linear:
                ctx.shape = tensors[0].shape
            else:
                ctx.save_for_backward(*tensors, output)

        @staticmethod
        def vmap(info: Any, dims: tuple[int | None, ...], option: Any, *tensors: Tensor) -> tuple[Tensor, int]:
            return scan.in_one_batch(lambda *x: Transformed.apply(option, *x), info.batch_size, dims[1:], tensors), 0

    return lambda *args: (Transformed if scan.transformed() else Operation).apply(*args)


def sequence(
    run: Callable[..., Any], gradient: Callable[..., Any], eager: Callable[[Any], Callable[..., tuple[Tensor, ...]]]
) -> Callable[..., Any]:
    """``operation(option, *tensors)`` with several outputs.

    Args:
        run: ``run(option, *tensors)`` gives the outputs, and what is kept for the gradient.
        gradient: ``gradient(option, grads, tensors, kept)`` gives the gradient by each tensor; a gradient of an output
            may be None.
        eager: ``eager(option)`` gives the function of the tensors whose operations can be differentiated again.
    """

    class Operation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, option: Any, *tensors: Tensor) -> Any:
            outputs, kept = run(option, *tensors)
            ctx.option, ctx.count = option, len(tensors)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, *kept)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors  # once: a checkpoint gives them once
            tensors, kept = saved[: ctx.count], saved[ctx.count :]
            if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too
                outputs, back = torch.func.vjp(eager(ctx.option), *tensors)
                filled = (torch.zeros_like(y) if g is None else g for y, g in zip(outputs, grads, strict=True))
                return None, *back(tuple(filled))
            return None, *gradient(ctx.option, grads, tensors, kept)

    def operation(option: Any, *tensors: Tensor) -> Any:
        return Operation.apply(option, *tensors) if torch.is_grad_enabled() else run(option, *tensors)[0]

    return operation


def scans(forward: Pass, backward: Pass, name: str = "") -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """A backend's ``linear_scan`` and ``gated_scan``; with a name, by which it is registered, they can be traced."""

    def run(gating: str, h0: Tensor, *inputs: Tensor) -> Tensor:
        lanes = Lanes(inputs[0], gating)
        h = lanes.empty(h0)
        forward(gating, lanes.blocks(inputs), lanes.state(h0), h)
        return lanes.frames(h)

    def gradient(gating: str, grad: Tensor, tensors: Sequence[Tensor], h: Tensor) -> list[Tensor]:
        h0, *inputs = tensors
        lanes = Lanes(inputs[0], gating)
        state = lanes.state(h0)
        grad_h0, (blocks, grads) = torch.empty_like(state), lanes.empty_gradients(h0)
        backward(gating, lanes.blocks(inputs), state, lanes(h), lanes(grad), blocks, grad_h0)
        return [lanes.frames(grad_h0), *grads]

    def eager(gating: str, h0: Tensor, *inputs: Tensor) -> Tensor:
        return scan.linear(*(inputs if gating == "linear" else coefficients(*inputs, gating)), h0)

    plain = differentiable(run, gradient, eager)
    recorded = _registered(name, run, gradient) if name else None

    def operation(gating: str, h0: Tensor, *inputs: Tensor) -> Tensor:
        if recorded and scan.traced():
            return recorded(gating, h0, list(inputs))
        return plain(gating, h0, *inputs)

    def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        """h [B, T, ...] of h_t = a_t h_{t-1} + b_t."""
        return operation("linear", h0, a, b)

    def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
        """h [B, T, C, H, W] from gates [B, T, kC, H, W]; of a gating that no kernel knows, a and b are formed first."""
        return operation(gating, h0, gates) if gating in FUSED else linear_scan(*coefficients(gates, gating), h0)

    return linear_scan, gated_scan


def _registered(name: str, run: Callable[..., Tensor], gradient: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """``torch.ops.minconv.<name>`` and its gradient ``<name>_backward``, which cannot be differentiated again."""

    @torch.library.custom_op(f"minconv::{name}", mutates_args=())
    def forward(gating: str, h0: Tensor, inputs: list[Tensor]) -> Tensor:
        return run(gating, h0, *inputs)

    @torch.library.custom_op(f"minconv::{name}_backward", mutates_args=())
    def backward(gating: str, grad: Tensor, h0: Tensor, inputs: list[Tensor], h: Tensor) -> list[Tensor]:
        return gradient(gating, grad, [h0, *inputs], h)

    @forward.register_fake
    def _(gating: str, h0: Tensor, inputs: list[Tensor]) -> Tensor:
        lanes = Lanes(inputs[0], gating)
        return lanes.frames(lanes.empty(h0))

    @backward.register_fake
    def _(gating: str, grad: Tensor, h0: Tensor, inputs: list[Tensor], h: Tensor) -> list[Tensor]:
        lanes = Lanes(inputs[0], gating)
        return [lanes.frames(torch.empty_like(lanes.state(h0))), *lanes.empty_gradients(h0)[1]]

    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.gating, h0, tensors = inputs
        ctx.save_for_backward(h0, *tensors, output)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[None, Tensor, list[Tensor]]:
        h0, *inputs, h = ctx.saved_tensors
        grad_h0, *grads = backward(ctx.gating, grad, h0, inputs, h)
        return None, grad_h0, grads

    forward.register_autograd(differentiate, setup_context=setup_context)

    @forward.register_vmap
    def _(info: Any, dims: tuple, gating: str, h0: Tensor, inputs: list[Tensor]) -> tuple[Tensor, int]:
        stacked = (dims[1], *dims[2]), (h0, *inputs)
        return scan.in_one_batch(lambda h0, *x: forward(gating, h0, list(x)), info.batch_size, *stacked), 0

    return forward


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
        self.size = (height * width, tail[0]) if self.channels_last else (1, prod(tail))

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

    def empty(self, like: Tensor, *blocks: int) -> Tensor:
        """Dense lanes [B, T, P, *blocks, L] of a sequence."""
        places, lanes = self.size
        return torch.empty((self.batch, self.steps, places, *blocks, lanes), dtype=like.dtype, device=like.device)

    def empty_gradients(self, like: Tensor) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Lanes of every block for its gradient, and the same memory shaped as the inputs and laid out like them."""
        if self.count == 1:
            blocks = [self.empty(like), self.empty(like)]  # of a and of b
            return blocks, [self.frames(block) for block in blocks]
        x, (channels, *frame) = self.empty(like, self.count), self.tail
        if self.channels_last:
            shaped = x.view(self.batch, self.steps, *frame, self.count * channels).movedim(-1, 2)
        else:
            shaped = x.view(self.batch, self.steps, self.count * channels, *frame)
        return x.unbind(-2), [shaped]

    def frames(self, x: Tensor) -> Tensor:
        """Lanes [B, ..., P, L] back to [B, ..., *tail], as a view."""
        if not self.channels_last:
            return x.view(*x.shape[:-2], *self.tail)
        channels, height, width = self.tail
        return x.view(*x.shape[:-2], height, width, channels).movedim(-1, -3)
