"""Cells frame by frame, as calls of kernels: what a ``Program`` takes down, of a sequence or of a closed loop.

A cell names its memory: ``make`` for the way forward, ``make_back`` for the gradients. ``x`` and ``y`` are where a
step's input and output lie; ``grad_x`` is where the gradient by the input is added to what is there. Without a gradient
the memory of a step is that of an earlier one (``at``). All are rows [B, P, C] of places.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from minconv.core.gates import GATINGS as KNOWN
from minconv.core.layers import PADDINGS
from minconv.kernels import recurrent_loops as loops
from minconv.kernels.autograd import FUSED as GATINGS
from minconv.kernels.compiled import Kernel
from minconv.kernels.cpu_loops import scan_backward, scan_forward
from minconv.kernels.program import Memory
from minconv.kernels.winograd import convolution_of

Named = dict[str, Tensor]


def at(x: Tensor, step: int) -> Tensor:
    """Of a step, in memory that may be that of earlier steps."""
    return x[step % len(x)]


def on_rows(kernel: Kernel, *args: Tensor) -> None:
    """A kernel on rows [B, P, n], the first those of B, P, n."""
    batch, places, width = args[0].shape
    kernel(torch.float32, batch * places * width, batch, places, width, *args)


def _gates(kernel: Kernel, *args: Tensor) -> None:
    """The same; the second those of B, P, n, as the first are gates."""
    batch, places, channels = args[1].shape
    kernel(torch.float32, batch * places * channels, batch, places, channels, *args)


class Cell(ABC):
    """A cell on frames of one size.

    Args:
        kind: ``convlstm``, ``convgru``, or the gating of a minimal cell.
        batch: B.
        size: (H, W) of a frame.
        into, hidden: channels of input and state.
    """

    states: ClassVar[int] = 1

    def __init__(
        self, kind: str, padding: str, dilation: int, batch: int, size: tuple[int, int], into: int, hidden: int
    ):
        self.kind, self.size, self.into, self.hidden = kind, size, into, hidden
        self.frame = batch, size[0] * size[1]
        self.convs = [convolution_of(*size, *channels, PADDINGS[padding], dilation) for channels in self.channels()]

    @abstractmethod
    def channels(self) -> list[tuple[int, int]]:
        """Of every convolution, in and out."""

    def spatial(self, rows: Tensor) -> Tensor:
        """[..., P, C] as [..., H, W, C]."""
        return rows.unflatten(-2, self.size)

    def by_weights(self, made: Named, back: Named) -> list[Tensor]:
        """Gradients by weight and bias of every convolution, of all steps at once."""
        result = []
        for number, conv in enumerate(self.convs):
            seen, given = made[f"seen{number}"], back[f"by_given{number}"]
            x, grad = (self.spatial(rows[: len(given)]).flatten(0, 1) for rows in (seen, given))
            result += [conv.of_weight(conv.backward(x, None, grad, None)), given.sum((0, 1, 2))]
        return result


class Minimal(Cell):
    """Of gates that see the input alone."""

    def channels(self) -> list[tuple[int, int]]:
        return [(self.into, KNOWN[self.kind].blocks * self.hidden)]

    def make(self, memory: Memory, steps: int) -> Named:
        return {
            "seen0": memory(steps, *self.frame, self.into),
            "gates": memory(steps, *self.frame, self.convs[0].out),
            "h": memory(steps + 1, *self.frame, self.hidden),
        }

    def begin(self, made: Named, h: Tensor) -> None:
        on_rows(loops.copy, h, made["h"][0])

    def x(self, made: Named, step: int) -> Tensor:
        return at(made["seen0"], step)

    def y(self, made: Named, step: int) -> Tensor:
        return at(made["h"], step + 1)

    def forward(self, made: Named, step: int, u: Tensor, bias: Tensor) -> None:
        gates = self.spatial(at(made["gates"], step))
        self.convs[0].forward(self.spatial(self.x(made, step)), u, gates, bias)
        before, after = (self.spatial(at(made["h"], t)) for t in (step, step + 1))
        scan(scan_forward, self.kind, gates.unsqueeze(1), before, after.unsqueeze(1))

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {
            "by_x": memory(steps, *self.frame, self.into),
            "by_given0": memory(steps, *self.frame, self.convs[0].out),
            "by_h": memory(*self.frame, self.hidden),
        }
        on_rows(loops.clear, back["by_h"])
        return back

    def grad_x(self, back: Named, step: int) -> Tensor:
        return back["by_x"][step]

    def backward(self, made: Named, back: Named, step: int, grad: Tensor, of_u: Tensor) -> None:
        h, by_gates = made["h"], self.spatial(back["by_given0"][step])
        rows = made["gates"][step], h[step], h[step + 1], grad, back["by_h"]
        gates, before, after, grad, by_h = map(self.spatial, rows)
        sequences = gates.unsqueeze(1), before, after.unsqueeze(1), grad.unsqueeze(1), by_h
        scan(scan_backward, self.kind, *sequences, by_gates=by_gates.unsqueeze(1))
        self.convs[0].transposed(of_u, by_gates, self.spatial(self.grad_x(back, step)))

    def by_states(self, back: Named) -> list[Tensor]:
        return [back["by_h"]]


class _Classical(Cell):
    """Input and state lie side by side, as their convolution sees them."""

    def make(self, memory: Memory, steps: int) -> Named:
        return {"seen0": memory(steps + 1, *self.frame, self.into + self.hidden)}

    def begin(self, made: Named, h: Tensor) -> None:
        on_rows(loops.copy, h, self.h(made, 0))

    def x(self, made: Named, step: int) -> Tensor:
        return at(made["seen0"], step)[..., : self.into]

    def h(self, made: Named, step: int) -> Tensor:
        """The state before a step."""
        return at(made["seen0"], step)[..., self.into :]

    def y(self, made: Named, step: int) -> Tensor:
        return self.h(made, step + 1)

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {"by_x": memory(steps + 1, *self.frame, self.into + self.hidden)}
        on_rows(loops.clear, self.by_h(back, steps))
        return back

    def grad_x(self, back: Named, step: int) -> Tensor:
        return back["by_x"][step, ..., : self.into]

    def by_h(self, back: Named, step: int) -> Tensor:
        """The gradient by the state before a step."""
        return back["by_x"][step, ..., self.into :]


class LSTM(_Classical):
    """ConvLSTM, with states (h, c)."""

    states = 2

    def channels(self) -> list[tuple[int, int]]:
        return [(self.into + self.hidden, 4 * self.hidden)]

    def make(self, memory: Memory, steps: int) -> Named:
        gates, c = memory(steps, *self.frame, 4 * self.hidden), memory(steps + 1, *self.frame, self.hidden)
        return super().make(memory, steps) | {"gates": gates, "c": c}

    def begin(self, made: Named, h: Tensor, c: Tensor) -> None:
        super().begin(made, h)
        on_rows(loops.copy, c, made["c"][0])

    def forward(self, made: Named, step: int, u: Tensor, bias: Tensor) -> None:
        gates, c = at(made["gates"], step), made["c"]
        self.convs[0].forward(self.spatial(at(made["seen0"], step)), u, self.spatial(gates), bias)
        _gates(loops.lstm_forward, gates, at(c, step), at(c, step + 1), self.y(made, step))

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {"by_given0": memory(steps, *self.frame, 4 * self.hidden), "by_c": memory(*self.frame, self.hidden)}
        on_rows(loops.clear, back["by_c"])
        return super().make_back(memory, steps) | back

    def backward(self, made: Named, back: Named, step: int, grad: Tensor, of_u: Tensor) -> None:
        c, by_gates = made["c"], back["by_given0"][step]
        states = self.by_h(back, step + 1), back["by_c"], self.by_h(back, step)
        _gates(loops.lstm_backward, made["gates"][step], c[step], c[step + 1], grad, by_gates, *states)
        self.convs[0].transposed(of_u, self.spatial(by_gates), self.spatial(back["by_x"][step]))

    def by_states(self, back: Named) -> list[Tensor]:
        return [self.by_h(back, 0), back["by_c"]]


class GRU(_Classical):
    """ConvGRU."""

    def channels(self) -> list[tuple[int, int]]:
        return [(self.into + self.hidden, blocks * self.hidden) for blocks in (2, 1)]

    def make(self, memory: Memory, steps: int) -> Named:
        made = {"seen1": memory(steps, *self.frame, self.into + self.hidden)}
        for name, blocks in (("gates", 2), ("news", 1)):
            made[name] = memory(steps, *self.frame, blocks * self.hidden)
        return super().make(memory, steps) | made

    def forward(self, made: Named, step: int, u: Tensor, bias: Tensor, of_new: Tensor, more: Tensor) -> None:
        gates, news, reset = (at(made[name], step) for name in ("gates", "news", "seen1"))
        h = self.h(made, step)
        self.convs[0].forward(self.spatial(at(made["seen0"], step)), u, self.spatial(gates), bias)
        on_rows(loops.copy, self.x(made, step), reset[..., : self.into])
        _gates(loops.gru_reset, gates, h, reset[..., self.into :])
        self.convs[1].forward(self.spatial(reset), of_new, self.spatial(news), more)
        _gates(loops.gru_forward, gates, news, h, self.y(made, step))

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {"by_reset": memory(*self.frame, self.into + self.hidden)}
        on_rows(loops.clear, back["by_reset"])
        for number, conv in enumerate(self.convs):
            back[f"by_given{number}"] = memory(steps, *self.frame, conv.out)
        return super().make_back(memory, steps) | back

    def backward(self, made: Named, back: Named, step: int, grad: Tensor, of_u: Tensor, of_new: Tensor) -> None:
        gates, h, by_h, by_reset = made["gates"][step], self.h(made, step), self.by_h(back, step), back["by_reset"]
        by_gates, by_news = back["by_given0"][step], back["by_given1"][step]
        rows = made["news"][step], h, grad, by_gates, by_news, self.by_h(back, step + 1), by_h
        _gates(loops.gru_backward, gates, *rows)
        self.convs[1].transposed(of_new, self.spatial(by_news), self.spatial(by_reset))
        _gates(loops.gru_reset_backward, gates, h, by_gates, by_reset[..., self.into :], by_h)
        on_rows(loops.move, by_reset[..., : self.into], self.grad_x(back, step))
        self.convs[0].transposed(of_u, self.spatial(by_gates), self.spatial(back["by_x"][step]))

    def by_states(self, back: Named) -> list[Tensor]:
        return [self.by_h(back, 0)]


def cell_of(kind: str, *args: Any) -> Cell:
    return {"convlstm": LSTM, "convgru": GRU}.get(kind, Minimal)(kind, *args)


# The scan of minimal cells


def _lanes(x: Tensor, block: int, channels: int) -> tuple[int, int, int, int]:
    """A block of channels of dense [B, T, H, W, kC], or all of a state [B, H, W, C], as lanes of the scan's loops: an
    address, and strides of sequence, time and place."""
    wide = x.shape[-1]
    by_time = x.shape[-3] * x.shape[-2] * wide
    return x.data_ptr() + 4 * block * channels, by_time * (x.shape[1] if x.dim() == 5 else 1), by_time, wide


def scan(kernel: Kernel, gating: str, gates: Tensor, h0: Tensor, *more: Tensor, by_gates: Tensor | None = None) -> None:
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
