"""A layer over all its frames as one operation on the CPU: convolutions by Winograd's method, loops of the gates.

Between two frames of a classical cell there is one small convolution and little else, so that what a step costs beside
them, in Python and in autograd's records, would be most of it. So all its frames are one ``Program``. Gradients by
weights are made for all frames at once, at the end; those of a minimal cell are anyway, as is its convolution.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minconv.core.cells import ConvGRU, ConvLSTM
from minconv.core.layers import on_frames, padded_conv2d
from minconv.core.scan import gated_scan
from minconv.kernels import recurrent_loops as loops
from minconv.kernels.autograd import FUSED as GATINGS
from minconv.kernels.autograd import sequence
from minconv.kernels.cpu_loops import scan_backward, scan_forward
from minconv.kernels.program import Memory, Program
from minconv.kernels.steps import Named, at, cell_of, on_rows, scan
from minconv.kernels.winograd import dense, frames_of, nodes, plan, shapes_of

__all__ = ["GATINGS", "classical", "minimal"]

Options = tuple[str, int]  # padding and dilation
Eager = Callable[..., tuple[Tensor, ...]]


# Classical cells


class Sequence(NamedTuple):
    """All that a program depends on.

    Args:
        cell: kind, padding and dilation.
        keeps: whether what a gradient needs is kept of every frame.
        threads: that share the work.
    """

    cell: tuple[str, str, int]
    steps: int
    batch: int
    size: tuple[int, int]
    into: int
    hidden: int
    keeps: bool
    threads: int


class _Layer:
    """The programs of a sequence, forward and back."""

    def __init__(self, sequence: Sequence):
        self.sequence = sequence
        self.cell = cell_of(*sequence.cell, sequence.batch, sequence.size, sequence.into, sequence.hidden)
        batch, places = self.cell.frame
        self.of_x, self.of_y = ((batch, sequence.steps, places, n) for n in (sequence.into, sequence.hidden))
        weights = [shape for conv in self.cell.convs for shape in (shapes_of(conv)[0], (conv.out,))]
        states = [(batch, places, sequence.hidden)] * self.cell.states
        self.forward = Program(self._forward, [self.of_x, *states, *weights])

    @cached_property
    def backward(self) -> Program:
        """Made when a gradient is asked for."""
        backs = [shapes_of(conv)[1] for conv in self.cell.convs]
        by_c = [(*self.cell.frame, self.sequence.hidden)] * (self.cell.states - 1)
        return Program(self._backward, [(self.forward.size,), self.of_y, *by_c, *backs])

    def _forward(self, memory: Memory, x: Tensor, *inputs: Tensor) -> Named:
        cell, steps = self.cell, self.sequence.steps
        made = cell.make(memory, steps if self.sequence.keeps else 1)
        y = memory(*self.of_y)
        cell.begin(made, *inputs[: cell.states])
        for step in range(steps):
            on_rows(loops.copy, x[:, step], cell.x(made, step))
            cell.forward(made, step, *inputs[cell.states :])
            on_rows(loops.copy, cell.y(made, step), y[:, step])
        return made | {"y": y}

    def _backward(self, memory: Memory, arena: Tensor, grad: Tensor, *backs: Tensor) -> Named:
        made, back = self.forward.named(arena), self.cell.make_back(memory, self.sequence.steps)
        if self.cell.states > 1:
            by_c, *backs = backs
            on_rows(loops.copy, by_c, back["by_c"])
        for step in reversed(range(self.sequence.steps)):
            on_rows(loops.clear, self.cell.grad_x(back, step))
            self.cell.backward(made, back, step, grad[:, step], *backs)
        return back


_layer_of = lru_cache(maxsize=32)(_Layer)


def _planned(option: tuple, x: Tensor, h: Tensor) -> _Layer:
    *cell, keeps = option
    (batch, steps, into, *size), hidden = x.shape, h.shape[1]
    return _layer_of(Sequence(tuple(cell), steps, batch, tuple(size), into, hidden, keeps, torch.get_num_threads()))


def _classical_run(option: tuple, x: Tensor, *tensors: Tensor) -> Any:
    layer = _planned(option, x, tensors[0])
    count, size = layer.cell.states, layer.cell.size
    states, weights = tensors[:count], iter(tensors[count:])
    made = [(nodes(weight), bias.contiguous()) for weight, bias in zip(weights, weights, strict=True)]
    inputs = [dense(x).flatten(2, 3), *(dense(state).flatten(1, 2) for state in states)]
    arena = layer.forward(*inputs, *(part for (u, _), bias in made for part in (u, bias)))
    named = layer.forward.named(arena)
    outputs = [frames_of(named["y"], size)]
    if count > 1:
        outputs.append(frames_of(at(named["c"], x.shape[1]).clone(), size))
    return tuple(outputs), (arena, *(back for (_, back), _ in made))


def _classical_gradient(option: tuple, grads: Any, tensors: Any, kept: Any) -> Any:
    arena, *backs = kept
    layer = _planned(option, *tensors[:2])
    cell, steps = layer.cell, layer.sequence.steps
    shapes = [layer.of_y, (*cell.frame, cell.hidden)]
    inputs = [
        arena.new_zeros(shape) if grad is None else dense(grad).view(shape)
        for grad, shape in zip(grads, shapes, strict=False)
    ]
    back = layer.backward.named(layer.backward(arena, *inputs, *backs))
    by_x = back["by_x"][:steps, ..., : cell.into].movedim(0, 1)
    states = [frames_of(state, cell.size) for state in cell.by_states(back)]
    return frames_of(by_x, cell.size), *states, *cell.by_weights(layer.forward.named(arena), back)


# Minimal cells


def _minimal_run(option: tuple, x: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> Any:
    gating, *options = option
    inputs, state = dense(x), dense(h0)
    conv, (u, back) = plan(inputs, weight, *options), nodes(weight)
    gates = inputs.new_empty(*inputs.shape[:-1], conv.out)
    conv.forward(inputs.flatten(0, 1), u, gates.flatten(0, 1), bias)
    h = inputs.new_empty(*inputs.shape[:-1], state.shape[-1])
    scan(scan_forward, gating, gates, state, h)
    return (h.movedim(-1, 2),), (gates, h, back)


def _minimal_gradient(option: tuple, grads: Any, tensors: Any, kept: Any) -> Any:
    gating, *options = option
    x, h0, weight, _ = tensors
    gates, h, back = kept
    inputs, state = dense(x), dense(h0)
    by_state, by_gates, grad_x = torch.zeros_like(state), torch.empty_like(gates), torch.zeros_like(inputs)
    scan(scan_backward, gating, gates, state, h, dense(grads[0]), by_state, by_gates=by_gates)
    conv = plan(inputs, weight, *options)
    summed = conv.backward(inputs.flatten(0, 1), back, by_gates.flatten(0, 1), grad_x.flatten(0, 1))
    return grad_x.movedim(-1, 2), by_state.movedim(-1, 1), conv.of_weight(summed), by_gates.sum((0, 1, 2, 3))


# The operations; where they are differentiated twice, the plain ones do it


def _plainly(padding: str, dilation: int) -> Callable[..., Tensor]:
    return lambda x, weight, bias: padded_conv2d(x, weight, bias, padding, dilation, dilation, "direct")


def _classical_eager(option: tuple) -> Eager:
    kind, *options, _ = option

    def lstm(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        y, (_, c) = ConvLSTM.loop(x, h, c, lambda x: _plainly(*options)(x, weight, bias))
        return y, c

    def gru(x: Tensor, h: Tensor, gates: Tensor, bias: Tensor, candidate: Tensor, more: Tensor) -> tuple[Tensor]:
        convolve = _plainly(*options)
        return (ConvGRU.loop(x, h, lambda x: convolve(x, gates, bias), lambda x: convolve(x, candidate, more))[0],)

    return lstm if kind == "convlstm" else gru


def _minimal_eager(option: tuple) -> Eager:
    gating, *options = option

    def run(x: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
        gates = on_frames(lambda frames: _plainly(*options)(frames, weight, bias), x)
        return (gated_scan(gates, h0, gating, "linear"),)

    return run


_classical = sequence(_classical_run, _classical_gradient, _classical_eager)
minimal = sequence(_minimal_run, _minimal_gradient, _minimal_eager)


def classical(kind: str, options: Options, *tensors: Tensor) -> tuple[Tensor, ...]:
    """y, and of ``convlstm`` the last c, of x, states, and weight and bias of each convolution."""
    keeps = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return _classical((kind, *options, keeps), *tensors)
