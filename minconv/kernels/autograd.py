"""Operations with kernels of their own, as PyTorch sees them: differentiable any number of times in reverse mode, and
under ``torch.vmap``, ``torch.func``, ``torch.compile`` and checkpointing."""

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def fused(
    run: Callable[..., Tensor],
    gradient: Callable[[Any, Tensor, Sequence[Tensor], Tensor | None], Sequence[Tensor]],
    eager: Callable[..., Tensor],
    *,
    keep_output: bool = False,
    linear: bool = False,
    batched: bool = False,
) -> Callable[..., Tensor]:
    """``operation(option, *tensors)`` from its kernels.

    Args:
        run: ``run(option, *tensors)`` gives the output.
        gradient: ``gradient(option, grad, tensors, output)`` gives the gradient by each tensor.
        eager: ``eager(option, *tensors)`` gives the output by operations with derivatives of their own, which serve
            where the gradient is to be differentiated again.
        keep_output: whether ``gradient`` is given the output.
        linear: the output is linear in its one tensor. So this is not kept; ``gradient`` is given one of zeros.
        batched: the leading axis of every tensor is a batch, so that models stacked by ``torch.vmap`` are more of it;
            else they are left to ``eager``.
    """

    class Operation(torch.autograd.Function):
        @staticmethod
        def forward(option: Any, *tensors: Tensor) -> Tensor:
            return run(option, *tensors)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
            ctx.option, *tensors = inputs
            if linear:
                ctx.shape = tensors[0].shape
            else:
                ctx.save_for_backward(*tensors, *([output] if keep_output else []))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            tensors = [grad.new_zeros(()).expand(ctx.shape)] if linear else list(ctx.saved_tensors)
            output = tensors.pop() if keep_output else None
            if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too
                return None, *torch.func.vjp(lambda *x: eager(ctx.option, *x), *tensors)[1](grad)
            return None, *gradient(ctx.option, grad, tensors, output)

        @staticmethod
        def vmap(info: Any, dims: tuple[int | None, ...], option: Any, *tensors: Tensor) -> tuple[Tensor, int]:
            if not batched:
                return torch.vmap(lambda *x: eager(option, *x), in_dims=dims[1:])(*tensors), 0
            return in_one_batch(lambda *x: operation(option, *x), info.batch_size, dims[1:], tensors), 0

    # Function.apply looks up the signature of forward at every call, which takes longer than a small kernel; its own
    # parent's does not, and serves as long as no transform of torch.func is at work
    direct = super(torch.autograd.Function, Operation).apply

    def operation(option: Any, *tensors: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # asked first, because to import what compiles takes seconds
            return torch.compiler.disable(Operation.apply)(option, *tensors)
        return (Operation.apply if transformed() else direct)(option, *tensors)

    return operation


def in_one_batch(
    function: Callable[..., Tensor], size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]
) -> Tensor:
    """A ``torch.vmap`` rule: models stacked along ``dims`` are more of the batch in each tensor's first axis.

    Returns:
        What ``function`` gives, [size, B, ...].
    """
    stacked = [
        x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims, strict=True)
    ]
    return function(*(x.flatten(0, 1) for x in stacked)).unflatten(0, (size, stacked[0].shape[1]))


def transformed() -> bool:
    """Whether a transform of ``torch.func`` or ``torch.vmap`` is at work."""
    return torch._C._are_functorch_transforms_active()


def cpu_kernels(x: Tensor) -> ModuleType | None:
    """``minconv.kernels.cpu_loops``, if Numba works here and they are made for such a tensor.

    Not under ``torch.compile``, which makes kernels of its own of eager operations; but the scan, a loop to it, is left
    as it is there.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return None
    return numba_kernels()


_found: list[ModuleType | None] = []  # once asked for; Dynamo warns of functools.cache


def numba_kernels() -> ModuleType | None:
    """``minconv.kernels.cpu_loops``, or None where Numba cannot be imported and eager operations serve."""
    if not _found:
        try:
            _found.append(import_module("minconv.kernels.cpu_loops"))
        except ImportError:
            _found.append(None)
    return _found[0]
