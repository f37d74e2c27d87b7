"""Operations with kernels of their own, as PyTorch sees them: differentiable any number of times, and under
``torch.vmap``, ``torch.func``, ``torch.compile`` and checkpointing."""

from collections.abc import Callable, Sequence
from functools import cache
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
            tensors = [grad.new_empty(ctx.shape)] if linear else list(ctx.saved_tensors)
            output = tensors.pop() if keep_output else None
            if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too
                return None, *differentiable(ctx.option, grad, tensors)
            return None, *gradient(ctx.option, grad, tensors, output)

        @staticmethod
        def vmap(info: Any, dims: tuple[int | None, ...], option: Any, *tensors: Tensor) -> tuple[Tensor, int]:
            if not batched:
                return torch.vmap(lambda *x: eager(option, *x), in_dims=dims[1:])(*tensors), 0
            size = info.batch_size
            stacked = [
                x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
                for x, dim in zip(tensors, dims[1:], strict=True)
            ]
            return operation(option, *(x.flatten(0, 1) for x in stacked)).unflatten(0, (size, -1)), 0

    def differentiable(option: Any, grad: Tensor, tensors: list[Tensor]) -> list[Tensor | None]:
        with torch.enable_grad():
            tensors = [x.requires_grad_() for x in tensors] if linear else tensors
            wanted = [x for x in tensors if x.requires_grad]
            found = iter(torch.autograd.grad(eager(option, *tensors), wanted, grad, create_graph=True))
        return [next(found) if x.requires_grad else None for x in tensors]

    # Function.apply looks up the signature of forward at every call, which takes longer than a small kernel; its own
    # parent's does not, and serves as long as no transform of torch.func is at work
    direct = super(torch.autograd.Function, Operation).apply

    def operation(option: Any, *tensors: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # asked first, because to import what compiles takes seconds
            return torch.compiler.disable(Operation.apply)(option, *tensors)
        return (Operation.apply if torch._C._are_functorch_transforms_active() else direct)(option, *tensors)

    return operation


def cpu_kernels(x: Tensor) -> ModuleType | None:
    """``minconv.kernels``, if Numba is installed and they are made for such a tensor.

    Not under ``torch.compile``, which makes kernels of its own from eager operations.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return None
    return _kernels()


@cache
def _kernels() -> ModuleType | None:
    try:
        return import_module("minconv.kernels")
    except ImportError:  # without Numba, eager operations serve
        return None
