"""A layer over all its frames as one operation on the CPU: convolutions by Winograd's method, loops of the gates.

Between two frames of a classical cell there is one small convolution and little else, so that what a step costs beside
them, in checks and in autograd's records, is most of it. Here a sequence is one record. The part of a convolution that
sees the input is done for all frames at once; gradients by the weights are summed as they come.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minconv.core.cells import ConvGRU, ConvLSTM
from minconv.core.layers import on_frames, padded_conv2d
from minconv.core.scan import gated_scan
from minconv.kernels import recurrent_loops as loops
from minconv.kernels.autograd import FUSED as GATINGS
from minconv.kernels.compiled import Kernel
from minconv.kernels.cpu_loops import scan_backward, scan_forward
from minconv.kernels.winograd import Convolution, dense, nodes, plan

Options = tuple[str, int]  # padding and dilation
Eager = Callable[..., tuple[Tensor, ...]]


def sequence(
    run: Callable[..., Any], gradient: Callable[..., Any], eager: Callable[[Any], Eager]
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


def _flat(x: Tensor) -> Tensor:
    """[..., C, H, W] as [..., HW, C]."""
    return dense(x).flatten(-3, -2)


def _frames(x: Tensor, height: int, width: int) -> Tensor:
    return x.unflatten(-2, (height, width)).movedim(-1, -3)


def _at(x: Tensor, height: int, width: int) -> Sequence[Tensor]:
    """Of [B, T, HW, C] the frames [B, H, W, C] by time."""
    return x.unflatten(2, (height, width)).unbind(1)


def _call(kernel: Kernel, *tensors: Tensor) -> None:
    """Of rows [B, P, C], the second the state's."""
    batch, places, channels = tensors[1].shape
    kernel(torch.float32, batch * places * channels, batch, places, channels, *tensors)


class _Part:
    """A convolution of one input, with the gradient of its weight as far as it is summed."""

    def __init__(self, x: Tensor, weight: Tensor, options: Options, back: Tensor | None = None):
        self.plan: Convolution = plan(x, weight, *options)
        self.u, self.back = nodes(weight) if back is None else (None, back)
        self.summed: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor, bias: Tensor | None = None) -> None:
        self.plan.forward(x, self.u, y, bias)

    def backward(self, x: Tensor, grad: Tensor, grad_x: Tensor) -> None:
        self.summed = self.plan.backward(x, self.back, grad, grad_x, self.summed)

    def of_weight(self) -> Tensor:
        return self.plan.of_weight(self.summed)


def _parts(x: Tensor, options: Options, *weights: Tensor, backs: Sequence[Tensor] = ()) -> list[_Part]:
    """Of every weight the part that sees x and the part that sees h."""
    into = x.shape[-1]
    kernels = [part for weight in weights for part in (weight[:, :into], weight[:, into:])]
    return [
        _Part(x, kernel, options, *back) for kernel, *back in zip(kernels, *([backs] if backs else []), strict=True)
    ]


# ConvLSTM


def _lstm_run(options: Options, x: Tensor, h0: Tensor, c0: Tensor, weight: Tensor, bias: Tensor) -> Any:
    (*_, height, width), channels = x.shape, h0.shape[1]
    inputs, size = dense(x), (height, width)
    of_x, of_h = _parts(inputs, options, weight)
    gates = x.new_empty(*x.shape[:2], height * width, 4 * channels)
    of_x.forward(inputs.flatten(0, 1), gates.flatten(0, 1).unflatten(1, size), bias)
    h, c = (x.new_empty(*x.shape[:2], height * width, channels) for _ in range(2))
    before_h, before_c = dense(h0), _flat(c0)
    each = zip(_at(gates, *size), gates.unbind(1), _at(h, *size), h.unbind(1), c.unbind(1), strict=True)
    for gates_at, rows, h_at, h_rows, c_rows in each:
        of_h.forward(before_h, gates_at)
        _call(loops.lstm_forward, rows, before_c, c_rows, h_rows)
        before_h, before_c = h_at, c_rows
    return (_frames(h, *size), _frames(c[:, -1].clone(), *size)), (gates, h, c, of_x.back, of_h.back)


def _lstm_gradient(options: Options, grads: Any, tensors: Any, kept: Any) -> Any:
    x, h0, c0, weight, _ = tensors
    gates, h, c, *backs = kept
    size = x.shape[3:]
    inputs = dense(x)
    of_x, of_h = _parts(inputs, options, weight, backs=backs)
    grad = torch.zeros_like(h) if grads[0] is None else _flat(grads[0])
    by_h = torch.zeros_like(h[:, 0])
    by_c = torch.zeros_like(by_h) if grads[1] is None else _flat(grads[1]).clone()
    by_gates = torch.empty_like(gates)
    states = [dense(h0), *_at(h, *size)]
    befores = [_flat(c0), *c.unbind(1)]
    for t in reversed(range(x.shape[1])):
        at = gates[:, t], befores[t], befores[t + 1], grad[:, t], by_gates[:, t]
        _call(loops.lstm_backward, *at, by_h, by_c, by_h)
        of_h.backward(states[t], by_gates[:, t].unflatten(1, size), by_h.unflatten(1, size))
    return _collected(of_x, of_h, inputs, by_gates, size, by_h, by_c)


def _collected(
    of_x: _Part, of_h: _Part, inputs: Tensor, by_gates: Tensor, size: Sequence[int], *by_state: Tensor
) -> Any:
    """The gradients by x, by the states, and by weight and bias of the gates."""
    grad_x = torch.zeros_like(inputs)
    of_x.backward(inputs.flatten(0, 1), by_gates.flatten(0, 1).unflatten(1, size), grad_x.flatten(0, 1))
    by_weight = torch.cat([of_x.of_weight(), of_h.of_weight()], 1)
    states = (_frames(state, *size) for state in by_state)
    return grad_x.movedim(-1, -3), *states, by_weight, by_gates.sum((0, 1, 2))


# ConvGRU


def _gru_run(options: Options, x: Tensor, h0: Tensor, *weights: Tensor) -> Any:
    (*_, height, width), channels = x.shape, h0.shape[1]
    inputs, size = dense(x), (height, width)
    of_x, of_h, new_x, new_h = parts = _parts(inputs, options, weights[0], weights[2])
    gates = x.new_empty(*x.shape[:2], height * width, 2 * channels)
    news, h, resets = (x.new_empty(*x.shape[:2], height * width, channels) for _ in range(3))
    for part, to, bias in ((of_x, gates, weights[1]), (new_x, news, weights[3])):
        part.forward(inputs.flatten(0, 1), to.flatten(0, 1).unflatten(1, size), bias)
    before, rows = dense(h0), _flat(h0)
    for t in range(x.shape[1]):
        of_h.forward(before, gates[:, t].unflatten(1, size))
        _call(loops.gru_reset, gates[:, t], rows, resets[:, t])
        new_h.forward(resets[:, t].unflatten(1, size), news[:, t].unflatten(1, size))
        _call(loops.gru_forward, gates[:, t], news[:, t], rows, h[:, t])
        before, rows = h[:, t].unflatten(1, size), h[:, t]
    return (_frames(h, *size),), (gates, news, resets, h, *(part.back for part in parts))


def _gru_gradient(options: Options, grads: Any, tensors: Any, kept: Any) -> Any:
    x, h0, of_gates, _, of_new, _ = tensors
    gates, news, resets, h, *backs = kept
    size = x.shape[3:]
    inputs = dense(x)
    of_x, of_h, new_x, new_h = _parts(inputs, options, of_gates, of_new, backs=backs)
    grad = torch.zeros_like(h) if grads[0] is None else _flat(grads[0])
    by_h, by_reset = torch.zeros_like(h[:, 0]), torch.zeros_like(h[:, 0])
    by_gates, by_news = torch.empty_like(gates), torch.empty_like(news)
    befores = [_flat(h0), *h.unbind(1)]
    for t in reversed(range(x.shape[1])):
        at = by_gates[:, t], by_news[:, t]
        _call(loops.gru_backward, gates[:, t], news[:, t], befores[t], grad[:, t], *at, by_h, by_h)
        new_h.backward(resets[:, t].unflatten(1, size), at[1].unflatten(1, size), by_reset.unflatten(1, size))
        _call(loops.gru_reset_backward, gates[:, t], befores[t], at[0], by_reset, by_h)
        of_h.backward(befores[t].unflatten(1, size), at[0].unflatten(1, size), by_h.unflatten(1, size))
    by_x, by_h, *by_weight = _collected(of_x, of_h, inputs, by_gates, size, by_h)
    more, *by_new = _collected(new_x, new_h, inputs, by_news, size)
    return by_x + more, by_h, *by_weight, *by_new


# Minimal cells


def _lanes(x: Tensor, block: int, channels: int) -> tuple[int, int, int, int]:
    """A block of channels of dense [B, T, H, W, kC], or all of a state [B, H, W, C], as lanes of the scan's loops: an
    address, and strides of sequence, time and place."""
    wide = x.shape[-1]
    by_time = x.shape[-3] * x.shape[-2] * wide
    return x.data_ptr() + 4 * block * channels, by_time * (x.shape[1] if x.dim() == 5 else 1), by_time, wide


def _scan(
    kernel: Kernel, gating: str, gates: Tensor, h0: Tensor, *more: Tensor, by_gates: Tensor | None = None
) -> None:
    """A kernel of the scan (``cpu_loops``) on dense gates, state and further tensors; the gates' gradient is before
    the last of them."""
    (batch, steps, height, width, _), channels = gates.shape, h0.shape[-1]
    count = gates.shape[-1] // channels

    def blocks(x: Tensor) -> list[int]:
        return [number for block in (0, count - 2, count - 1) for number in _lanes(x, block, channels)]

    *before, last = more if by_gates is not None else (*more, None)
    tensors = [number for x in (h0, *before) for number in _lanes(x, 0, channels)]
    if by_gates is not None:
        tensors += [*blocks(by_gates), *_lanes(last, 0, channels)]
    places = height * width
    size = batch * steps * places * channels
    kernel(torch.float32, size, GATINGS.index(gating), batch, steps, places, channels, *blocks(gates), *tensors)


def _minimal_run(option: tuple, x: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> Any:
    gating, *options = option
    inputs, state = dense(x), dense(h0)
    part = _Part(inputs, weight, options)
    gates = inputs.new_empty(*inputs.shape[:-1], part.plan.out)
    part.forward(inputs.flatten(0, 1), gates.flatten(0, 1), bias)
    h = inputs.new_empty(*inputs.shape[:-1], state.shape[-1])
    _scan(scan_forward, gating, gates, state, h)
    return (h.movedim(-1, 2),), (gates, h, part.back)


def _minimal_gradient(option: tuple, grads: Any, tensors: Any, kept: Any) -> Any:
    gating, *options = option
    x, h0, weight, _ = tensors
    gates, h, back = kept
    inputs, state = dense(x), dense(h0)
    by_state, by_gates, grad_x = torch.zeros_like(state), torch.empty_like(gates), torch.zeros_like(inputs)
    _scan(scan_backward, gating, gates, state, h, dense(grads[0]), by_state, by_gates=by_gates)
    part = _Part(inputs, weight, options, back)
    part.backward(inputs.flatten(0, 1), by_gates.flatten(0, 1), grad_x.flatten(0, 1))
    return grad_x.movedim(-1, 2), by_state.movedim(-1, 1), part.of_weight(), by_gates.sum((0, 1, 2, 3))


# The operations; where they are differentiated twice, the plain ones do it


def _plainly(padding: str, dilation: int) -> Callable[..., Tensor]:
    return lambda x, weight, bias: padded_conv2d(x, weight, bias, padding, dilation, dilation, "direct")


def _lstm_eager(options: Options) -> Eager:
    def run(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        convolve = _plainly(*options)
        y, (_, c) = ConvLSTM.loop(x, h, c, lambda x: convolve(x, weight, bias))
        return y, c

    return run


def _gru_eager(options: Options) -> Eager:
    def run(x: Tensor, h: Tensor, gates: Tensor, bias: Tensor, candidate: Tensor, more: Tensor) -> tuple[Tensor]:
        convolve = _plainly(*options)
        loop = ConvGRU.loop(x, h, lambda x: convolve(x, gates, bias), lambda x: convolve(x, candidate, more))
        return (loop[0],)

    return run


def _minimal_eager(option: tuple) -> Eager:
    gating, *options = option

    def run(x: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
        gates = on_frames(lambda frames: _plainly(*options)(frames, weight, bias), x)
        return (gated_scan(gates, h0, gating, "linear"),)

    return run


lstm = sequence(_lstm_run, _lstm_gradient, _lstm_eager)
gru = sequence(_gru_run, _gru_gradient, _gru_eager)
minimal = sequence(_minimal_run, _minimal_gradient, _minimal_eager)
