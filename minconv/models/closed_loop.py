"""A forecaster's closed loop: frame by frame, or as one operation on the CPU (``minconv.kernels.rollout``)."""

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

KNOWN = {  # kinds of cells: name and convolutions
    ConvLSTM: ("convlstm", ("conv",)),
    ConvGRU: ("convgru", ("conv_gates", "conv_candidate")),
    MinimalCell: (None, ("conv",)),
}


def frame_by_frame(
    model: nn.Module, prediction: Tensor, states: list[State], ahead: Tensor | None, horizon: int
) -> Tensor:
    """The predictions [B, horizon, C, H, W] after one [B, C, H, W], each made of the one before.

    Args:
        states: of the layers, after the frame that the prediction was made of.
        ahead: known channels [B, horizon, K, H, W], or None.
    """
    predictions = []
    for step in range(horizon):
        last = prediction.unsqueeze(1)
        if ahead is not None:
            last = torch.cat([last, ahead[:, step : step + 1]], dim=2)
        last, states = model.advance(last, states)
        prediction = last.squeeze(1)
        predictions.append(prediction)
    return torch.stack(predictions, dim=1)


class _Plain(nn.Module):
    """``frame_by_frame`` as a module, for ``functional_call``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Tensor:
        return frame_by_frame(self.model, *args)


def as_one(model: nn.Module, prediction: Tensor) -> Callable[..., Tensor] | None:
    """``frame_by_frame`` of a model as one operation, after predictions [B, T, C, H, W]; None where there is something
    that it does not know, that watches its parts or transforms them."""
    if not single(prediction) or transformed() or not len(prediction) or (model.checkpoint and torch.is_grad_enabled()):
        return None
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()):
        return None
    frame = prediction[:, 0]
    kinds, norms = [_kind(cell, frame) for cell in model.cells], {_norm(norm) for norm in model.norms}
    if None in kinds or None in norms or len(norms) > 1:
        return None
    weights = {
        f"{path}.{name}": module._parameters.get(name) for path, module in _parts(model) for name in ("weight", "bias")
    }
    if any(weight is None for weight in weights.values()) or not single(*weights.values()):
        return None
    fused = kernels("rollout")
    return fused and partial(_loop, fused, model, tuple(kinds), norms.pop(), weights)


def _kind(cell: nn.Module, frame: Tensor) -> tuple[str, str, int] | None:
    """Kind, padding and dilation of a cell, for frames [B, C, H, W]."""
    known = next((kind for kind in KNOWN if type(cell).forward is kind.forward), None)
    if known is None:
        return None
    name, convs = KNOWN[known][0], [getattr(cell, conv) for conv in KNOWN[known][1]]
    if any(type(conv) is not PaddedConv2d or conv.bias is None for conv in convs):
        return None
    if not all(winograd(frame, conv.weight, conv.dilation, conv.method) for conv in convs):
        return None
    check_padding(frame, convs[0].padding, convs[0].width)
    if name is None:
        name = cell.gating if cell.backend == "auto" and cell.gating in kernels("recurrent").GATINGS[1:] else None
    return name and (name, *convs[0].options)


def _norm(norm: nn.Module) -> str | None:
    known = {ResidualNorm: "plane", ChannelNorm: getattr(norm, "over", None)}
    return known.get(type(norm)) if getattr(norm, "eps", None) == 1e-5 else None


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules with weights, in the operation's order."""
    yield "encoder", model.encoder
    yield "decoder", model.decoder
    for number, (cell, norm) in enumerate(zip(model.cells, model.norms, strict=True)):
        for conv in KNOWN[next(kind for kind in KNOWN if isinstance(cell, kind))][1]:
            yield f"cells.{number}.{conv}", getattr(cell, conv)
        yield f"norms.{number}", norm


def _loop(
    fused: Any,
    model: nn.Module,
    kinds: tuple[tuple[str, str, int], ...],
    norm: str,
    weights: dict[str, Tensor],
    prediction: Tensor,
    states: list[State],
    ahead: Tensor | None,
    horizon: int,
) -> Tensor:
    flat = [part for state in states for part in (state if isinstance(state, tuple) else (state,))]
    tensors = [prediction, *([] if ahead is None else [ahead]), *flat, *weights.values()]
    keeps = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    sizes = model.size, model.channels, model.known, len(model.encoder.weight)
    loop = fused.Loop(horizon, len(prediction), *sizes, kinds, norm, model.increment, keeps, torch.get_num_threads())

    def plainly(*tensors: Tensor) -> tuple[Tensor]:
        """The same by operations that can be differentiated again."""
        rest = iter(tensors)
        start, future = next(rest), next(rest) if model.known else None
        before = [tuple(next(rest) for _ in state) if isinstance(state, tuple) else next(rest) for state in states]
        parameters = {f"model.{name}": x for name, x in zip(weights, rest, strict=True)}
        return (functional_call(_Plain(model), parameters, (start, before, future, horizon)),)

    (frames,) = fused.rollout((loop, plainly), *tensors)
    return frames
