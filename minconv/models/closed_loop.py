"""Where a forecaster's closed loop is one operation on the CPU (``minconv.kernels.rollout``), and of which tensors."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from minconv.core.cells import ConvGRU, ConvLSTM, MinimalCell, State
from minconv.core.layers import PaddedConv2d, check_padding, single, winograd
from minconv.core.scan import kernels, transformed
from minconv.models.norms import ChannelNorm, ResidualNorm

CONVOLUTIONS = {ConvLSTM: ("conv",), ConvGRU: ("conv_gates", "conv_candidate")}
NAMES = {ConvLSTM: "convlstm", ConvGRU: "convgru"}


class _Plain(nn.Module):
    """The loop frame by frame, as a module of its own for ``functional_call``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Tensor:
        return self.model.loop(*args)


def as_one(model: nn.Module, prediction: Tensor) -> Callable[..., Tensor] | None:
    """``model.loop`` as one operation, after a prediction [B, T, C, H, W]; None where there is something that it does
    not know, that watches its parts or transforms them."""
    if transformed() or not len(prediction) or not single(prediction) or (model.checkpoint and torch.is_grad_enabled()):
        return None
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()):
        return None
    kinds = [_kind(cell, prediction) for cell in model.cells]
    norms = {_norm(norm) for norm in model.norms}
    if None in kinds or None in norms or len(norms) > 1:
        return None
    names = list(_names(model))
    weights = [model.get_submodule(module)._parameters.get(name) for module, name in names]
    if any(weight is None for weight in weights):
        return None
    fused = kernels("rollout") if single(*weights) else None
    return fused and partial(_loop, fused, model, tuple(kinds), norms.pop(), names, weights)


def _kind(cell: nn.Module, frames: Tensor) -> tuple[str, str, int] | None:
    """Kind, padding and dilation of a cell whose frames can be one another's."""
    kind = next((known for known in (*CONVOLUTIONS, MinimalCell) if type(cell).forward is known.forward), None)
    if kind is None:
        return None
    convs = [getattr(cell, name) for name in CONVOLUTIONS.get(kind, ("conv",))]
    conv, frame = convs[0], frames[:, 0]
    if any(type(conv) is not PaddedConv2d or conv.bias is None for conv in convs):
        return None
    if not all(winograd(frame, conv.weight, conv.dilation, conv.method) for conv in convs):
        return None
    check_padding(frame, conv.padding, conv.width)
    if kind is MinimalCell:
        fused = kernels("recurrent")
        return (cell.gating, *conv.options) if cell.backend == "auto" and cell.gating in fused.GATINGS[1:] else None
    return NAMES[kind], *conv.options


def _norm(norm: nn.Module) -> str | None:
    known = {ResidualNorm: "plane", ChannelNorm: getattr(norm, "over", None)}
    return known.get(type(norm)) if getattr(norm, "eps", None) == 1e-5 else None


def _names(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Module and name of every parameter, in the operation's order."""
    for module in ("encoder", "decoder"):
        yield from ((module, name) for name in ("weight", "bias"))
    for number, cell in enumerate(model.cells):
        for conv in next((names for kind, names in CONVOLUTIONS.items() if isinstance(cell, kind)), ("conv",)):
            yield from ((f"cells.{number}.{conv}", name) for name in ("weight", "bias"))
        yield from ((f"norms.{number}", name) for name in ("weight", "bias"))


def _loop(
    fused: Any,
    model: nn.Module,
    kinds: tuple[tuple[str, str, int], ...],
    norm: str,
    names: list[tuple[str, str]],
    weights: list[Tensor],
    prediction: Tensor,
    states: list[State],
    ahead: Tensor | None,
    horizon: int,
) -> Tensor:
    flat = [part for state in states for part in (state if isinstance(state, tuple) else (state,))]
    tensors = [prediction, *([] if ahead is None else [ahead]), *flat, *weights]
    keeps = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    sizes = model.size, model.channels, model.known, weights[0].shape[0]
    loop = fused.Loop(horizon, len(prediction), *sizes, kinds, norm, model.increment, keeps, torch.get_num_threads())

    def plainly(*tensors: Tensor) -> tuple[Tensor]:
        """The same by operations that can be differentiated again."""
        rest = iter(tensors)
        start, future = next(rest), next(rest) if model.known else None
        before = [tuple(next(rest) for _ in state) if isinstance(state, tuple) else next(rest) for state in states]
        parameters = {f"model.{module}.{name}": x for (module, name), x in zip(names, rest, strict=True)}
        return (functional_call(_Plain(model), parameters, (start, before, future, horizon)),)

    (frames,) = fused.rollout((loop, plainly), *tensors)
    return frames
