"""The closed loop of a forecaster as one operation on the CPU: encoder, layers x = norm(x + cell(x)), decoder, fed back.

Between its frames nothing is left to Python: a ``Program`` has their kernels one after the other. Gradients by weights
are made for all frames at once, at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from minconv.core.gates import GATINGS
from minconv.core.layers import PADDINGS
from minconv.kernels import recurrent_loops
from minconv.kernels import rollout_loops as loops
from minconv.kernels.cpu_loops import scan_backward, scan_forward
from minconv.kernels.program import Program
from minconv.kernels.recurrent import _call, _scan, sequence
from minconv.kernels.winograd import Convolution, _padded, convolution_of, dense, nodes
from minconv.kernels.winograd_loops import NODES

NORMS = ("plane", "frame", "channels")  # as rollout_loops counts them
Memory = Callable[..., Tensor]
Named = dict[str, Tensor]


class Loop(NamedTuple):
    """All that a program depends on.

    Args:
        layers: kind (``convlstm``, ``convgru``, or the gating of a minimal cell), padding and dilation of each.
        keeps: whether what a gradient needs is kept of every frame.
        threads: that share the work.
    """

    steps: int
    batch: int
    size: tuple[int, int]
    channels: int
    known: int
    hidden: int
    layers: tuple[tuple[str, str, int], ...]
    norm: str
    increment: bool
    keeps: bool
    threads: int


def _at(x: Tensor, step: int) -> Tensor:
    """Of a step, in memory that may be that of earlier steps."""
    return x[step % len(x)]


def _rows(kernel: Any, *args: Any) -> None:
    """A kernel on rows [B, P, n], the first those of B, P, n."""
    batch, places, width = args[0].shape
    kernel(torch.float32, batch * places * width, batch, places, width, *args)


# Cells. ``make`` gives memory by name for so many steps, ``x`` and ``y`` are where a step's input and output lie,
# ``grad_x`` where their gradients do: first that by x + y, to which the cell's is added


class _Cell:
    states: ClassVar[int] = 1
    convolutions: ClassVar[int] = 1

    def __init__(self, loop: Loop, kind: str, padding: str, dilation: int):
        self.kind, self.hidden, self.size = kind, loop.hidden, loop.size
        self.frame = loop.batch, loop.size[0] * loop.size[1]
        self.convs = [
            convolution_of(*loop.size, into, out, PADDINGS[padding], dilation) for into, out in self.channels()
        ]

    def channels(self) -> list[tuple[int, int]]:
        """Of every convolution, in and out."""
        raise NotImplementedError

    def spatial(self, rows: Tensor) -> Tensor:
        """[..., P, C] as [..., H, W, C]."""
        return rows.unflatten(-2, self.size)

    def by_weights(self, made: Named, back: Named) -> list[Tensor]:
        """Gradients by weight and bias of every convolution."""
        result = []
        for number, conv in enumerate(self.convs):
            seen, given = made[f"seen{number}"], back[f"by_given{number}"]
            x, grad = (self.spatial(rows[: len(given)]).flatten(0, 1) for rows in (seen, given))
            result += [conv.of_weight(conv.backward(x, None, grad, None)), given.sum((0, 1, 2))]
        return result


class _Minimal(_Cell):
    def channels(self) -> list[tuple[int, int]]:
        return [(self.hidden, GATINGS[self.kind].blocks * self.hidden)]

    def make(self, memory: Memory, steps: int) -> Named:
        return {
            "seen0": memory(steps, *self.frame, self.hidden),
            "gates": memory(steps, *self.frame, self.convs[0].out),
            "h": memory(steps + 1, *self.frame, self.hidden),
        }

    def begin(self, made: Named, h: Tensor) -> None:
        _rows(loops.copy, h, made["h"][0])

    def x(self, made: Named, step: int) -> Tensor:
        return _at(made["seen0"], step)

    def y(self, made: Named, step: int) -> Tensor:
        return _at(made["h"], step + 1)

    def forward(self, made: Named, step: int, u: Tensor, bias: Tensor) -> None:
        gates, h = self.spatial(_at(made["gates"], step)), made["h"]
        self.convs[0].forward(self.spatial(self.x(made, step)), u, gates, bias)
        before, after = (self.spatial(_at(h, t)) for t in (step, step + 1))
        _scan(scan_forward, self.kind, gates.unsqueeze(1), before, after.unsqueeze(1))

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {
            "by_x": memory(steps, *self.frame, self.hidden),
            "by_given0": memory(steps, *self.frame, self.convs[0].out),
            "by_h": memory(*self.frame, self.hidden),
        }
        _rows(loops.clear, back["by_h"])
        return back

    def grad_x(self, back: Named, step: int) -> Tensor:
        return back["by_x"][step]

    def backward(self, made: Named, back: Named, step: int, of_u: Tensor) -> None:
        gates, before, after = (
            self.spatial(x) for x in (made["gates"][step], made["h"][step], made["h"][step + 1])
        )
        grad, by_gates, by_h = (
            self.spatial(x) for x in (back["by_x"][step], back["by_given0"][step], back["by_h"])
        )
        sequences = after.unsqueeze(1), grad.unsqueeze(1), by_h
        _scan(
            scan_backward, self.kind, gates.unsqueeze(1), before, *sequences, by_gates=by_gates.unsqueeze(1)
        )
        self.convs[0].transposed(of_u, by_gates, grad)

    def by_states(self, back: Named) -> list[Tensor]:
        return [back["by_h"]]


class _Classical(_Cell):
    """Input and state lie side by side, as their convolution sees them."""

    def make(self, memory: Memory, steps: int) -> Named:
        return {"seen0": memory(steps + 1, *self.frame, 2 * self.hidden)}

    def begin(self, made: Named, h: Tensor) -> None:
        _rows(loops.copy, h, self.h(made, 0))

    def x(self, made: Named, step: int) -> Tensor:
        return _at(made["seen0"], step)[..., : self.hidden]

    def h(self, made: Named, step: int) -> Tensor:
        return _at(made["seen0"], step)[..., self.hidden :]

    def y(self, made: Named, step: int) -> Tensor:
        return self.h(made, step + 1)

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {"by_x": memory(steps + 1, *self.frame, 2 * self.hidden)}
        _rows(loops.clear, self.by_h(back, steps))
        return back

    def grad_x(self, back: Named, step: int) -> Tensor:
        return back["by_x"][step, ..., : self.hidden]

    def by_h(self, back: Named, step: int) -> Tensor:
        return back["by_x"][step, ..., self.hidden :]


class _LSTM(_Classical):
    states = 2

    def channels(self) -> list[tuple[int, int]]:
        return [(2 * self.hidden, 4 * self.hidden)]

    def make(self, memory: Memory, steps: int) -> Named:
        gates, c = memory(steps, *self.frame, 4 * self.hidden), memory(steps + 1, *self.frame, self.hidden)
        return super().make(memory, steps) | {"gates": gates, "c": c}

    def begin(self, made: Named, h: Tensor, c: Tensor) -> None:
        super().begin(made, h)
        _rows(loops.copy, c, made["c"][0])

    def forward(self, made: Named, step: int, u: Tensor, bias: Tensor) -> None:
        gates, c = _at(made["gates"], step), made["c"]
        self.convs[0].forward(self.spatial(_at(made["seen0"], step)), u, self.spatial(gates), bias)
        _call(recurrent_loops.lstm_forward, gates, _at(c, step), _at(c, step + 1), self.y(made, step))

    def make_back(self, memory: Memory, steps: int) -> Named:
        back = {"by_given0": memory(steps, *self.frame, 4 * self.hidden), "by_c": memory(*self.frame, self.hidden)}
        _rows(loops.clear, back["by_c"])
        return super().make_back(memory, steps) | back

    def backward(self, made: Named, back: Named, step: int, of_u: Tensor) -> None:
        c, by_gates = made["c"], back["by_given0"][step]
        states = self.by_h(back, step + 1), back["by_c"], self.by_h(back, step)
        at = made["gates"][step], c[step], c[step + 1], self.grad_x(back, step), by_gates
        _call(recurrent_loops.lstm_backward, *at, *states)
        self.convs[0].transposed(of_u, self.spatial(by_gates), self.spatial(back["by_x"][step]))

    def by_states(self, back: Named) -> list[Tensor]:
        return [self.by_h(back, 0), back["by_c"]]


class _GRU(_Classical):
    convolutions = 2

    def channels(self) -> list[tuple[int, int]]:
        return [(2 * self.hidden, 2 * self.hidden), (2 * self.hidden, self.hidden)]

    def make(self, memory: Memory, steps: int) -> Named:
        widths = {"seen1": 2, "gates": 2, "news": 1}
        made = {name: memory(steps, *self.frame, width * self.hidden) for name, width in widths.items()}
        return super().make(memory, steps) | made

    def forward(self, made: Named, step: int, u: Tensor, bias: Tensor, of_new: Tensor, more: Tensor) -> None:
        gates, news, reset = (_at(made[name], step) for name in ("gates", "news", "seen1"))
        h = self.h(made, step)
        self.convs[0].forward(self.spatial(_at(made["seen0"], step)), u, self.spatial(gates), bias)
        _rows(loops.copy, self.x(made, step), reset[..., : self.hidden])
        _call(recurrent_loops.gru_reset, gates, h, reset[..., self.hidden :])
        self.convs[1].forward(self.spatial(reset), of_new, self.spatial(news), more)
        _call(recurrent_loops.gru_forward, gates, news, h, self.y(made, step))

    def make_back(self, memory: Memory, steps: int) -> Named:
        widths = {"by_given0": 2, "by_given1": 1}
        back = {name: memory(steps, *self.frame, width * self.hidden) for name, width in widths.items()}
        back["by_reset"] = memory(*self.frame, 2 * self.hidden)
        _rows(loops.clear, back["by_reset"])
        return super().make_back(memory, steps) | back

    def backward(self, made: Named, back: Named, step: int, of_u: Tensor, of_new: Tensor) -> None:
        h, by_h, by_reset = self.h(made, step), self.by_h(back, step), back["by_reset"]
        by_gates, by_news = back["by_given0"][step], back["by_given1"][step]
        at = made["gates"][step], made["news"][step], h, self.grad_x(back, step), by_gates, by_news
        _call(recurrent_loops.gru_backward, *at, self.by_h(back, step + 1), by_h)
        self.convs[1].transposed(of_new, self.spatial(by_news), self.spatial(by_reset))
        _call(recurrent_loops.gru_reset_backward, at[0], h, by_gates, by_reset[..., self.hidden :], by_h)
        _rows(loops.move, by_reset[..., : self.hidden], self.grad_x(back, step))
        self.convs[0].transposed(of_u, self.spatial(by_gates), self.spatial(back["by_x"][step]))

    def by_states(self, back: Named) -> list[Tensor]:
        return [self.by_h(back, 0)]


CLASSICAL = {"convlstm": _LSTM, "convgru": _GRU}


# The loop


def _under(prefix: str, named: Named) -> Named:
    return {f"{prefix}.{name}": x for name, x in named.items()}


def _of(prefix: str, named: Named) -> Named:
    start = f"{prefix}."
    return {name.removeprefix(start): x for name, x in named.items() if name.startswith(start)}


class Rollout:
    """The programs of a loop, forward and back."""

    def __init__(self, loop: Loop):
        self.loop = loop
        self.cells = [CLASSICAL.get(kind, _Minimal)(loop, kind, *rest) for kind, *rest in loop.layers]
        self.frame = loop.batch, loop.size[0] * loop.size[1]
        across = {"plane": loop.hidden, "frame": 1, "channels": self.frame[1]}
        self.deviations, self.affine = across[loop.norm], self.frame[1] if loop.norm == "plane" else loop.hidden
        self.forward = Program(self._forward, self._shapes(False))

    @cached_property
    def backward(self) -> Program:
        """Made when a gradient is asked for."""
        return Program(self._backward, [[self.forward.size], *self._shapes(True)])

    def _shapes(self, back: bool) -> list[tuple[int, ...]]:
        loop, wide = self.loop, self.loop.channels + self.loop.known
        frames = (loop.batch, loop.steps, self.frame[1])
        if back:
            shapes = [(*frames, loop.channels), (wide, loop.hidden), (loop.channels, loop.hidden)]
        else:
            known = [(*frames, loop.known)] if loop.known else []
            states = [(*self.frame, loop.hidden)] * sum(cell.states for cell in self.cells)
            ends = (wide, loop.hidden), (loop.hidden,), (loop.channels, loop.hidden), (loop.channels,)
            shapes = [(*self.frame, loop.channels), *known, *states, *ends]
        for cell in self.cells:
            for conv in cell.convs:
                into, out = (conv.out, conv.into) if back else (conv.into, conv.out)
                shapes.append((NODES * NODES, into, _padded(out)))
                if not back:
                    shapes.append((out,))
            shapes += [(self.affine,)] * 2
        return shapes

    def _norm(self, kernel: Any, made: Named, step: int, weight: Tensor, bias: Tensor, *rows: Tensor) -> None:
        numbers = NORMS.index(self.loop.norm), *self.frame, self.loop.hidden, weight.data_ptr(), bias.data_ptr()
        work = 4 * self.frame[0] * self.frame[1] * self.loop.hidden
        scale, s = _at(made["scale"], step), _at(made["s"], step)
        kernel(torch.float32, work, *numbers, scale.data_ptr(), s, *rows)

    def _forward(self, memory: Memory, start: Tensor, *inputs: Tensor) -> Named:
        loop, rest = self.loop, iter(inputs)
        steps = loop.steps if loop.keeps else 1
        frames = memory(loop.steps + 1, *self.frame, loop.channels + loop.known)
        _rows(loops.copy, start, frames[0, ..., : loop.channels])
        if loop.known:
            for step, ahead in enumerate(next(rest).unbind(1)):
                _rows(loops.copy, ahead, frames[step, ..., loop.channels :])
        states = [tuple(islice(rest, cell.states)) for cell in self.cells]
        encoder, decoder = tuple(islice(rest, 2)), tuple(islice(rest, 2))
        layers, last = [], memory(steps, *self.frame, loop.hidden)
        for cell, before in zip(self.cells, states, strict=True):
            made = cell.make(memory, steps)
            made["s"] = memory(steps, *self.frame, loop.hidden)
            made["scale"] = memory(steps, loop.batch, self.deviations)
            cell.begin(made, *before)
            layers.append((cell, made, tuple(islice(rest, 2 * cell.convolutions)), tuple(islice(rest, 2))))
        for step in range(loop.steps):
            _wide(frames[step], layers[0][0].x(layers[0][1], step), *encoder)
            outs = [cell.x(made, step) for cell, made, *_ in layers[1:]] + [_at(last, step)]
            for (cell, made, weights, norm), out in zip(layers, outs, strict=True):
                cell.forward(made, step, *weights)
                self._norm(loops.norm_forward, made, step, *norm, cell.x(made, step), cell.y(made, step), out)
            before = frames[step, ..., : loop.channels] if loop.increment else None
            _narrow(outs[-1], frames[step + 1, ..., : loop.channels], *decoder, before)
        named = {"frames": frames, "last": last}
        for number, (_, made, *_) in enumerate(layers):
            named |= _under(str(number), made)
        return named

    def _backward(self, memory: Memory, arena: Tensor, grad: Tensor, *inputs: Tensor) -> Named:
        loop, made, rest = self.loop, self.forward.named(arena), iter(inputs)
        encoder, decoder = next(rest), next(rest)
        by_frames = memory(loop.steps + 1, *self.frame, loop.channels)
        named = {"by_frames": by_frames, "by_last": memory(loop.steps, *self.frame, loop.hidden)}
        layers = []
        for number, cell in enumerate(self.cells):
            back = cell.make_back(memory, loop.steps)
            named |= _under(str(number), back)
            weights = tuple(islice(rest, cell.convolutions))
            layers.append((cell, _of(str(number), made), back, weights, tuple(islice(rest, 2))))
        _rows(loops.copy, grad[:, -1], by_frames[-1])
        for step in reversed(range(loop.steps)):
            outs = [cell.grad_x(back, step) for cell, _, back, *_ in layers[1:]] + [named["by_last"][step]]
            _wide(by_frames[step + 1], outs[-1], decoder)
            for (cell, of, back, weights, norm), out in reversed(list(zip(layers, outs, strict=True))):
                self._norm(loops.norm_backward, of, step, *norm, out, cell.grad_x(back, step))
                cell.backward(of, back, step, *weights)
            first = layers[0][0].grad_x(layers[0][2], step)
            added = grad[:, step - 1] if step else None, by_frames[step + 1] if loop.increment else None
            _narrow(first, by_frames[step], encoder, None, *added)
        return named

    def by_weights(self, made: Named, back: Named, encoder: Tensor) -> Iterator[Tensor]:
        """The gradients by all tensors, in their order."""
        loop, (height, width) = self.loop, self.loop.size
        steps, hidden = loop.steps, loop.hidden
        yield _frames(back["by_frames"][0], loop.size)
        first = back["0.by_x"][:steps, ..., :hidden]
        if loop.known:
            yield _frames((first @ encoder.flatten(1)[:, loop.channels :]).movedim(0, 1), loop.size)
        for number, cell in enumerate(self.cells):
            yield from (_frames(state, loop.size) for state in cell.by_states(_of(str(number), back)))
        yield (_flat(first).T @ _flat(made["frames"][:steps])).view_as(encoder)
        yield first.sum((0, 1, 2))
        by_frames = back["by_frames"][1:]
        yield (_flat(by_frames).T @ _flat(made["last"]))[..., None, None]
        yield by_frames.sum((0, 1, 2))
        for number, cell in enumerate(self.cells):
            of, by = _of(str(number), made), _of(str(number), back)
            out = back[f"{number + 1}.by_x"][:steps, ..., :hidden] if number + 1 < len(self.cells) else back["by_last"]
            yield from cell.by_weights(of, by)
            axes = (0, 1, 3) if loop.norm == "plane" else (0, 1, 2)
            for gradient in ((out * of["s"]).sum(axes), out.sum(axes)):
                yield gradient.view(height, width) if loop.norm == "plane" else gradient


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, 2)


def _frames(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., P, C] as [..., C, H, W]."""
    return rows.unflatten(-2, size).movedim(-1, -3)


def _wide(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    batch, places, many = y.shape
    numbers = batch, places, x.shape[-1], many
    loops.widen(torch.float32, batch * places * many, *numbers, x, y, *_addresses(weight, bias))


def _narrow(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, *added: Tensor | None) -> None:
    batch, places, many = x.shape
    numbers = batch, places, y.shape[-1], many
    more = [(0, 0, 0) if rows is None else (rows,) for rows in (*added, None)[:2]]
    loops.narrow(
        torch.float32, batch * places * many, *numbers, x, y, *_addresses(weight, bias), *more[0], *more[1]
    )


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in tensors]


rollout_of = lru_cache(maxsize=16)(Rollout)


# The operation


def _split(option: tuple[Loop, Any], tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What the programs are given: forward, and back, and the weights' transforms that are kept between the two."""
    loop, rest = option[0], iter(tensors)
    forward = [dense(next(rest)).flatten(1, 2)]
    if loop.known:
        forward.append(dense(next(rest)).flatten(2, 3))
    cells = rollout_of(loop).cells
    forward += [dense(next(rest)).flatten(1, 2) for _ in range(sum(cell.states for cell in cells))]
    encoder, bias, decoder, shift = (next(rest) for _ in range(4))
    ends = [encoder.flatten(1).T.contiguous(), decoder.flatten(1).contiguous()]
    forward += [ends[0], bias.contiguous(), ends[1], shift.contiguous()]
    back = []
    for cell in cells:
        for _ in range(cell.convolutions):
            u, of_u = nodes(next(rest))
            forward += [u, next(rest).contiguous()]
            back.append(of_u)
        norm = [next(rest).flatten().contiguous() for _ in range(2)]
        forward, back = forward + norm, back + norm
    return forward, [*ends, *back]


def _run(option: tuple[Loop, Any], *tensors: Tensor) -> Any:
    loop, _ = option
    rollout = rollout_of(loop)
    forward, back = _split(option, tensors)
    arena = rollout.forward(*forward)
    frames = rollout.forward.named(arena)["frames"][1:, ..., : loop.channels]
    return (_frames(frames.movedim(0, 1), loop.size),), (arena, *back)


def _gradient(option: tuple[Loop, Any], grads: Any, tensors: Any, kept: Any) -> Any:
    loop, _ = option
    rollout = rollout_of(loop)
    arena, *back = kept
    grad = dense(grads[0]).flatten(2, 3)
    made = rollout.backward(arena, grad, *back)
    encoder = tensors[1 + bool(loop.known) + sum(cell.states for cell in rollout.cells)]
    return tuple(rollout.by_weights(rollout.forward.named(arena), rollout.backward.named(made), encoder))


rollout = sequence(_run, _gradient, lambda option: option[1])
