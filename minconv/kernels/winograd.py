"""A 3 x 3 convolution of frames on the CPU by Winograd's F(4 x 4, 3 x 3), with the loops of ``winograd_loops``.

    U = G g G',    V = B' d B of every tile,    M = V U for each of the 36 nodes,    y = A' M A + bias

and backwards, with A, B, G on the other side,

    dM = A dy A',    dV = dM U',    dU = V' dM,    d += B dV B',    dg = G' dU G

Some tiles at a time go through all of it, so that V and M stay in the cache and are nowhere else.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from minconv.core import layers
from minconv.core.scan import transformed
from minconv.kernels import winograd_loops as loops
from minconv.kernels.compiled import LANES, scratch, threads
from minconv.kernels.winograd_loops import BEYOND, NODES, NOWHERE, SIDE

GROUP = 16  # tiles that go through everything together, so that what is made of them stays in the cache
MANY = 1 << 15  # kernels, whose transforms of 36 numbers still fit into a cache
PLACES = 4  # of a tile's line of the output


def pays(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Whether it is faster than a direct convolution, as measured on 4 x 4 to 64 x 64 with 1 to 64 channels."""
    return _pays(*x.shape[2:], *weight.shape[:2], dilation)


@lru_cache(maxsize=512)
def _pays(height: int, width: int, out: int, into: int, dilation: int) -> bool:
    tiles = _tiles(height, dilation) * _tiles(width, dilation)
    return 8 * tiles <= height * width and min(out, into) >= 4 and out * into <= MANY


def _tiles(size: int, dilation: int) -> int:
    return sum(-(-len(range(first, size, dilation)) // PLACES) for first in range(dilation))


# Where things lie


@lru_cache(maxsize=256)
def _lines(size: int, ends: str, dilation: int) -> list[tuple[list[int], list[int]]]:
    """Of each tile along an axis, the six places it sees and the four it gives. Every dilation-th place is a grid with
    tiles of its own."""
    lines = []
    for grid in range(min(dilation, size)):
        for start in range(grid, size, PLACES * dilation):
            at = [start + dilation * k for k in range(-1, NODES - 1)]
            seen = [_within(place, size, ends) if place < size + dilation else NOWHERE for place in at]
            lines.append((seen, [place if place < size else NOWHERE for place in at[1:]] + [NOWHERE]))
    return lines


def _within(place: int, size: int, ends: str) -> int:
    """The place of the frame that stands for one that may lie outside of it."""
    if 0 <= place < size:
        return place
    if ends == "wrap":
        return place % size
    if ends == "edge":
        return 0 if place < 0 else size - 1
    if ends == "pole":
        return BEYOND + (-1 - place if place < 0 else 2 * size - 1 - place)
    return NOWHERE


def _scaled(table: list[list[int]], step: int) -> Tensor:
    def offset(place: int) -> int:
        if place >= BEYOND:
            return BEYOND + (place - BEYOND) * step
        return place if place == NOWHERE else place * step

    return torch.tensor([[offset(place) for place in line] for line in table], dtype=torch.int64)


class Frames:
    """Frames [N, H, W, C], each dense, as the loops find their tiles, seen by a convolution or given by it."""

    def __init__(self, height: int, width: int, channels: int, ends: tuple[str, str], dilation: int, given: bool):
        rows, columns = _lines(height, ends[0], dilation), _lines(width, ends[1], dilation)
        self.across, self.tiles = len(columns), len(rows) * len(columns)
        across = [line[given] for line in columns]
        turned = [[place if place == NOWHERE else (place + width // 2) % width for place in line] for line in across]
        step = 4 * channels  # bytes
        down = [line[given] for line in rows]
        self.tables = _scaled(down, width * step), _scaled(across, step), _scaled(turned, step)
        self.addresses = tuple(table.data_ptr() for table in self.tables)

    def __call__(self, x: Tensor) -> tuple[int, ...]:
        """A side of the loops' arguments."""
        return (x.data_ptr(), 4 * x.stride(0), *self.addresses, self.across)


class Convolution:
    """What is needed to convolve frames [N, H, W, C] -> [N, H, W, C'] of one size with one kernel, and back."""

    def __init__(self, height: int, width: int, into: int, out: int, ends: tuple[str, str], dilation: int):
        self.seen = Frames(height, width, into, ends, dilation, False)
        self.given = Frames(height, width, out, ends, dilation, True)
        self.into, self.out = into, out
        self.of_v, self.of_m = _padded(into), _padded(out)
        self.rows = -(-out // 4) * 4  # of the gradient of U'

    def _scratch(self, group: int) -> Tensor:
        """Memory for a kernel, a row for each thread."""
        size = (NODES * NODES + 2) * max(self.of_v, self.of_m)
        size += NODES * NODES * (group * (self.of_v + self.of_m) + 2 * LANES)
        return scratch(torch.get_num_threads(), size)

    def _group(self, count: int) -> int:
        """Tiles that go through it together: divided by four, and few enough for all threads to have some."""
        return max(4, min(GROUP, -(-count // (4 * torch.get_num_threads())) * 4))

    def forward(self, x: Tensor, u: Tensor, y: Tensor, bias: Tensor | None = None) -> None:
        """Writes y, with a bias [C'], or adds to what is there."""
        count = len(x) * self.seen.tiles
        group = self._group(count)
        work, of_bias = count * NODES * NODES * self.out, 0 if bias is None else bias.data_ptr()
        numbers = self.seen.tiles, count, group, self.into, self.out, u.data_ptr(), of_bias
        loops.convolve(x.dtype, work, *numbers, self._scratch(group), *self.seen(x), *self.given(y))

    def transposed(self, back: Tensor, grad: Tensor, grad_x: Tensor) -> None:
        """Adds to grad_x, and that is all."""
        count = len(grad) * self.seen.tiles
        group, work = self._group(count), count * NODES * NODES * self.out
        numbers = self.into, self.out, back.data_ptr(), 0, self._scratch(group)
        if len(grad) < threads(work):
            group = min(-(-count // 4) * 4, GROUP * threads(work))
            v, m = (scratch(NODES * NODES * (group * n + LANES)) for n in (self.of_v, self.of_m))
            sides = *self.seen(grad_x), *self.given(grad), v.data_ptr(), m.data_ptr()
            loops.transpose(grad.dtype, work, self.seen.tiles, count, group, *numbers, *sides)
        else:
            sides = *self.seen(grad_x), *self.given(grad), *self.seen(grad_x)
            loops.gradients(grad.dtype, work, self.seen.tiles, len(grad), group, *numbers, *sides, 0, 0)

    def backward(
        self, x: Tensor, back: Tensor | None, grad: Tensor, grad_x: Tensor | None, grad_back: Tensor | None = None
    ) -> Tensor:
        """Adds to grad_x, if there is one, and to the gradient by U', a row for each thread, which it gives."""
        count = len(x) * self.seen.tiles
        group, work = self._group(count), count * NODES * NODES * self.out
        rows = 0
        if grad_back is None:
            rows = min(threads(work), len(x))  # a frame is one thread's
            grad_back = x.new_empty(rows, NODES * NODES * self.rows * self.of_v)
        numbers = self.seen.tiles, len(x), group, self.into, self.out, 0 if back is None else back.data_ptr(), rows
        sides = *self.seen(x), *self.given(grad), *((0,) * SIDE if grad_x is None else self.seen(grad_x))
        loops.gradients(x.dtype, work, *numbers, self._scratch(group), *sides, grad_back)
        return grad_back

    def of_weight(self, grad_back: Tensor) -> Tensor:
        """The gradient by the weight [C', C, 3, 3] of that by U'."""
        total = grad_back[0] if len(grad_back) == 1 else grad_back.sum(0)
        w = total.new_empty(self.out, 3, 3, self.into)
        lines = w.new_empty(torch.get_num_threads(), NODES * NODES * self.of_v)
        numbers = total.data_ptr(), w.data_ptr(), self.rows * self.of_v, self.out, self.into
        loops.weights_gradient(w.dtype, total.numel(), *numbers, lines)
        return w.permute(0, 3, 1, 2)


convolution_of = lru_cache(maxsize=512)(Convolution)


def plan(x: Tensor, weight: Tensor, padding: str, dilation: int) -> Convolution:
    """For dense frames [..., H, W, C]."""
    return convolution_of(*x.shape[-3:-1], weight.shape[-3], weight.shape[-4], layers.PADDINGS[padding], dilation)


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


def shapes_of(conv: Convolution) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of U and U' (``nodes``)."""
    return (NODES**2, conv.into, conv.of_m), (NODES**2, conv.out, conv.of_v)


def nodes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """U [36, C, C'_] and U' [36, C', C_] of a weight [C', C, 3, 3], made once where weights are said not to change."""
    kept = layers.kept.derived
    key = weight.data_ptr(), weight.shape, weight.stride()
    if kept is not None and key in kept:
        return kept[key][1]
    made = _nodes_of(weight.permute(1, 2, 3, 0)), _nodes_of(weight.permute(0, 2, 3, 1))
    if kept is not None:
        kept[key] = weight, made
    return made


def _nodes_of(kernels: Tensor) -> Tensor:
    """[36, K, width_] of kernels [K, 3, 3, width]."""
    kernels = kernels.contiguous()
    count, _, _, width = kernels.shape
    u = kernels.new_empty(NODES * NODES, count, _padded(width))
    lines = u.new_empty(torch.get_num_threads(), NODES * NODES * _padded(width))
    numbers = kernels.data_ptr(), u.data_ptr(), u.stride(0), count, width
    loops.weights(u.dtype, u.numel(), *numbers, lines)
    return u


# The differentiable operation


def dense(x: Tensor) -> Tensor:
    """[..., C, H, W] as [..., H, W, C], without a copy if channels are dense."""
    return x.movedim(-3, -1).contiguous()


def frames_of(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows of places [..., HW, C] as [..., C, H, W]."""
    return rows.unflatten(-2, size).movedim(-1, -3)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: str, dilation: int) -> tuple[Tensor, Tensor]:
    """y, and what the gradient needs of the weights. One more axis in front of all tensors is as many convolutions."""
    x, bias = dense(x), bias.contiguous()
    convolution = plan(x, weight, padding, dilation)
    y = x.new_empty(*x.shape[:-1], convolution.out)
    if x.dim() == 4:
        u, back = nodes(weight)
        convolution.forward(x, u, y, bias)
        return y.movedim(-1, -3), back
    made = [nodes(w) for w in weight]
    for one, (u, _), b, to in zip(x, made, bias, y, strict=True):
        convolution.forward(one, u, to, b)
    return y.movedim(-1, -3), torch.stack([back for _, back in made])


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, back: Tensor, padding: str, dilation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """By x, weight and bias."""
    x, grad = dense(x), dense(grad)
    convolution, grad_x, grad_weight = plan(x, weight, padding, dilation), torch.zeros_like(x), []
    for tensors in [(x, back, grad, grad_x)] if x.dim() == 4 else zip(x, back, grad, grad_x, strict=True):
        grad_weight.append(convolution.of_weight(convolution.backward(*tensors)))
    of_weight = grad_weight[0] if x.dim() == 4 else torch.stack(grad_weight)
    return grad_x.movedim(-1, -3), of_weight, grad.sum((-4, -3, -2))


class _Convolution(torch.autograd.Function):
    """Frames [N, C, H, W] -> [N, C', H, W]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: str, dilation: int) -> Tensor:
        ctx.options = padding, dilation
        y, back = _convolve(x, weight, bias, padding, dilation)
        ctx.save_for_backward(x, weight, bias, back)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, *back = ctx.saved_tensors
        if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too
            return *torch.func.vjp(lambda *x: _directly(*x, *ctx.options), x, weight, bias)[1](grad), None, None
        back = back or [torch.stack([nodes(w)[1] for w in weight]) if x.dim() == 5 else nodes(weight)[1]]
        return *_gradients(grad, x, weight, *back, *ctx.options), None, None


class _Transformed(_Convolution):
    """The same under transforms of ``torch.func``, in the form that they ask for, which costs 50 us more a call."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, padding: str, dilation: int) -> Tensor:
        return _convolve(x, weight, bias, padding, dilation)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, padding, dilation = inputs
        ctx.options = padding, dilation
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        *tensors, padding, dilation = args
        size, apply = info.batch_size, _Transformed.apply
        if dims[1] is None and dims[2] is None and tensors[0].dim() == 5:  # more frames for one convolution
            frames = tensors[0].movedim(dims[0], 0)
            return apply(frames.flatten(0, 1), *tensors[1:], padding, dilation).unflatten(0, (size, -1)), 0
        stacked = [
            x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, dims[:3], strict=True)
        ]
        if stacked[0].dim() == 5:
            return apply(*stacked, padding, dilation), 0
        return apply(*(x.flatten(0, 1) for x in stacked), padding, dilation).unflatten(0, (size, -1)), 0


def _directly(x: Tensor, weight: Tensor, bias: Tensor, padding: str, dilation: int) -> Tensor:
    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layers.padded_conv2d(x, weight, bias, padding, dilation, dilation, "direct")

    return torch.vmap(convolve)(x, weight, bias) if x.dim() == 5 else convolve(x, weight, bias)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: str, dilation: int) -> Tensor:
    """``PaddedConv2d`` of frames [N, C, H, W] in float32 with a kernel [C', C, 3, 3]."""
    if bias is None:
        bias = weight.new_zeros(len(weight))
    form = _Transformed if transformed() else _Convolution
    return form.apply(x, weight, bias, padding, dilation)
