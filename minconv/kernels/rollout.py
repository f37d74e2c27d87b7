"""A forecaster's closed loop as one operation on the CPU: encoder, layers x = norm(x + cell(x)), decoder, fed back.

Between its frames nothing is left to Python: a ``Program`` has their kernels one after the other. Gradients by weights
are made for all frames at once, at the end.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minconv.kernels import recurrent_loops
from minconv.kernels import rollout_loops as loops
from minconv.kernels.autograd import sequence
from minconv.kernels.program import Memory, Program
from minconv.kernels.steps import Named, at, cell_of, on_rows
from minconv.kernels.winograd import dense, frames_of, nodes, shapes_of

NORMS = ("plane", "frame", "channels")  # as rollout_loops counts them


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
        sizes = loop.batch, loop.size, loop.hidden, loop.hidden
        self.cells = [cell_of(*layer, *sizes) for layer in loop.layers]
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
                shapes += [shapes_of(conv)[1]] if back else [shapes_of(conv)[0], (conv.out,)]
            shapes += [(self.affine,)] * 2
        return shapes

    def _norm(self, kernel: Any, made: Named, step: int, weight: Tensor, bias: Tensor, *rows: Tensor) -> None:
        numbers = NORMS.index(self.loop.norm), *self.frame, self.loop.hidden, weight.data_ptr(), bias.data_ptr()
        work = 4 * self.frame[0] * self.frame[1] * self.loop.hidden
        scale, s = at(made["scale"], step), at(made["s"], step)
        kernel(torch.float32, work, *numbers, scale.data_ptr(), s, *rows)

    def _forward(self, memory: Memory, start: Tensor, *inputs: Tensor) -> Named:
        loop, rest = self.loop, iter(inputs)
        steps = loop.steps if loop.keeps else 1
        frames = memory(loop.steps + 1, *self.frame, loop.channels + loop.known)
        on_rows(recurrent_loops.copy, start, frames[0, ..., : loop.channels])
        if loop.known:
            for step, ahead in enumerate(next(rest).unbind(1)):
                on_rows(recurrent_loops.copy, ahead, frames[step, ..., loop.channels :])
        states = [tuple(islice(rest, cell.states)) for cell in self.cells]
        encoder, decoder = tuple(islice(rest, 2)), tuple(islice(rest, 2))
        layers, last = [], memory(steps, *self.frame, loop.hidden)
        for cell, before in zip(self.cells, states, strict=True):
            made = cell.make(memory, steps)
            made["s"] = memory(steps, *self.frame, loop.hidden)
            made["scale"] = memory(steps, loop.batch, self.deviations)
            cell.begin(made, *before)
            layers.append((cell, made, tuple(islice(rest, 2 * len(cell.convs))), tuple(islice(rest, 2))))
        for step in range(loop.steps):
            _wide(frames[step], layers[0][0].x(layers[0][1], step), *encoder)
            outs = [cell.x(made, step) for cell, made, *_ in layers[1:]] + [at(last, step)]
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
            weights = tuple(islice(rest, len(cell.convs)))
            layers.append((cell, _of(str(number), made), back, weights, tuple(islice(rest, 2))))
        on_rows(recurrent_loops.copy, grad[:, -1], by_frames[-1])
        for step in reversed(range(loop.steps)):
            outs = [cell.grad_x(back, step) for cell, _, back, *_ in layers[1:]] + [named["by_last"][step]]
            _wide(by_frames[step + 1], outs[-1], decoder)
            for (cell, of, back, weights, norm), out in reversed(list(zip(layers, outs, strict=True))):
                self._norm(loops.norm_backward, of, step, *norm, out, cell.grad_x(back, step))
                cell.backward(of, back, step, cell.grad_x(back, step), *weights)
            first = layers[0][0].grad_x(layers[0][2], step)
            added = grad[:, step - 1] if step else None, by_frames[step + 1] if loop.increment else None
            _narrow(first, by_frames[step], encoder, None, *added)
        return named

    def by_weights(self, made: Named, back: Named, encoder: Tensor) -> Iterator[Tensor]:
        """The gradients by all tensors, in their order."""
        loop, (height, width) = self.loop, self.loop.size
        steps, hidden = loop.steps, loop.hidden
        yield frames_of(back["by_frames"][0], loop.size)
        first = back["0.by_x"][:steps, ..., :hidden]
        if loop.known:
            yield frames_of((first @ encoder.flatten(1)[:, loop.channels :]).movedim(0, 1), loop.size)
        for number, cell in enumerate(self.cells):
            yield from (frames_of(state, loop.size) for state in cell.by_states(_of(str(number), back)))
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


def _wide(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    batch, places, many = y.shape
    numbers = batch, places, x.shape[-1], many
    loops.widen(torch.float32, batch * places * many, *numbers, x, y, *_addresses(weight, bias))


def _narrow(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, *added: Tensor | None) -> None:
    batch, places, many = x.shape
    numbers = batch, places, y.shape[-1], many
    more = [(0, 0, 0) if rows is None else (rows,) for rows in (*added, None)[:2]]
    loops.narrow(torch.float32, batch * places * many, *numbers, x, y, *_addresses(weight, bias), *more[0], *more[1])


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
        for _ in cell.convs:
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
    return (frames_of(frames.movedim(0, 1), loop.size),), (arena, *back)


def _gradient(option: tuple[Loop, Any], grads: Any, tensors: Any, kept: Any) -> Any:
    loop, _ = option
    rollout = rollout_of(loop)
    arena, *back = kept
    grad = dense(grads[0]).flatten(2, 3)
    made = rollout.backward(arena, grad, *back)
    encoder = tensors[1 + bool(loop.known) + sum(cell.states for cell in rollout.cells)]
    return tuple(rollout.by_weights(rollout.forward.named(arena), rollout.backward.named(made), encoder))


rollout = sequence(_run, _gradient, lambda option: option[1])
