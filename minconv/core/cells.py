"""The recurrent cells: three minimal ones, whose gates see only the input, and the two classical ones.

Every cell is ``y, state = cell(x, state)`` with x [B, T, C, H, W] and y [B, T, C', H, W]. T = 1 is a step, T > 1 a
sequence; nothing is stored on the module. ``state = cell.init_state(x)`` is what a missing state stands for.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minconv.core.gates import INITIAL_STATE
from minconv.core.layers import PaddedConv2d, check_dtype, check_padding, on_frames, winograd
from minconv.core.scan import BACKENDS, GATINGS, gated_scan, kernels, transformed
from minconv.runtime.checks import choice, whole

State = Tensor | tuple[Tensor, Tensor]


def as_one(conv: PaddedConv2d, x: Tensor) -> ModuleType | None:
    """``minconv.kernels.recurrent`` where a layer over the frames x [B, T, C, H, W] is one operation there."""
    frame, weight = x[:, 0], conv.weight
    if conv.bias is None or not len(x) or transformed() or not winograd(frame, weight, conv.dilation, conv.method):
        return None
    check_padding(frame, conv.padding, conv.width)
    return kernels("recurrent")


def last_of(h: Tensor) -> Tensor:
    """The last of frames [B, T, C, H, W], in memory of its own: a view would keep all frames, and change with them."""
    last = h.squeeze(1) if h.shape[1] == 1 else h[:, -1]  # the gradient of a squeeze costs nothing
    return last.clone()


class Cell(nn.Module):
    """What all cells share: checks, and the shape of a state [B, channels, H, W].

    Args:
        in_channels: channels of the input frames.
        channels: channels of the hidden state and of the output.
        kernel_size: odd size of the convolutions, which each cell makes for itself.
        padding: of the convolutions: ``zeros``, ``circular``, ``cylinder``, ``sphere`` or ``replicate``.
        options: further ones of the convolutions: ``dilation``, the distance in cells between the points of a kernel,
            ``method`` and, of the classical cells, ``bias``; see ``layers.PaddedConv2d``.

    Raises:
        TypeError, ValueError: an argument is not allowed, or frames or a state do not fit; the message names it.
    """

    initial: ClassVar[float] = 0.0

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.in_channels = whole("in_channels", in_channels, 1)
        self.channels = whole("channels", channels, 1)

    def init_state(self, x: Tensor) -> State:
        """The state before the first frame of x [B, T, C, H, W]: constant, on x's device and in its dtype."""
        return x.new_full(self._state_shape(x), self.initial)

    def _state_shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[0], self.channels, *x.shape[-2:])

    def _check(self, x: Tensor, state: State | None) -> State:
        """``state``, or the initial one; raises TypeError or ValueError on a misfit."""
        check_dtype("x", x, next(self.parameters()))
        if x.dim() != 5 or x.shape[1] == 0 or x.shape[2] != self.in_channels:
            raise ValueError(f"x must be [B, T >= 1, {self.in_channels}, H, W]; got {list(x.shape)}")
        initial = self.init_state(x)
        if state is None:
            return initial
        if _kind(state) != _kind(initial):
            raise ValueError(f"state must be {_kind(initial)} to fit x {list(x.shape)}; got {_kind(state)}")
        return state


def _kind(state: State) -> tuple | type:
    """Dtype and shape of a state, or of its parts."""
    if isinstance(state, tuple):
        return tuple(map(_kind, state))
    return (state.dtype, *state.shape) if isinstance(state, Tensor) else type(state)


class MinimalCell(Cell):
    """h_t = a_t h_{t-1} + b_t with a_t, b_t from one convolution of x_t: a cell is its gating and nothing else.

    Args:
        backend: of the scan, see ``minconv.core.scan.linear_scan``.
    """

    gating: ClassVar[str]
    initial = INITIAL_STATE

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 3,
        padding: str = "zeros",
        backend: str = "auto",
        **options: Any,
    ):
        super().__init__(in_channels, channels)
        self.backend = choice("backend", backend, ("auto", *BACKENDS))
        blocks = GATINGS[self.gating].blocks
        self.conv = PaddedConv2d(in_channels, blocks * channels, kernel_size, padding, **options)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, C, H, W], state [B, C', H, W] -> y [B, T, C', H, W], new state."""
        h0 = self._check(x, state)
        fused = as_one(self.conv, x) if self.backend == "auto" else None
        if fused and self.gating in fused.GATINGS:
            (h,) = fused.minimal((self.gating, *self.conv.options), x, h0, self.conv.weight, self.conv.bias)
        else:
            h = gated_scan(on_frames(self.conv, x), h0, self.gating, self.backend)
        return h, last_of(h)


class MinConvGRU(MinimalCell):
    """z, u = conv(x);  h_t = (1 - sigmoid(z)) h_{t-1} + sigmoid(z) g(u)   (arXiv 2508.03614)."""

    gating = "gru"


class MinConvLSTM(MinimalCell):
    """f, i, u = conv(x);  a = s(f) / (s(f) + s(i));  h_t = a h_{t-1} + (1 - a) g(u)   (arXiv 2508.03614)."""

    gating = "lstm"


class MinConvExpLSTM(MinimalCell):
    """f, i, u = conv(x);  a = e^f / (e^f + e^i);  h_t = a h_{t-1} + (1 - a) g(u)   (arXiv 2508.03614, 2405.04517)."""

    gating = "explstm"


class ConvLSTM(Cell):
    """g, i, f, o = conv([x, h]);  c = s(f) c + s(i) tanh(g);  h = s(o) tanh(c)   (arXiv 1506.04214, no peepholes).

    Its state is the pair (h, c).
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3, padding: str = "zeros", **options: Any):
        super().__init__(in_channels, channels)
        self.conv = PaddedConv2d(in_channels + channels, 4 * channels, kernel_size, padding, **options)

    def init_state(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().init_state(x), super().init_state(x)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, C, H, W], state (h, c), each [B, C', H, W] -> y [B, T, C', H, W], new state."""
        h, c = self._check(x, state)
        if fused := as_one(self.conv, x):
            y, c = fused.classical("convlstm", self.conv.options, x, h, c, self.conv.weight, self.conv.bias)
            return y, (last_of(y), c)
        return self.loop(x, h, c, self.conv)

    @staticmethod
    def loop(x: Tensor, h: Tensor, c: Tensor, conv: Callable[[Tensor], Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The cell with its convolution, frame by frame."""
        channels, frames = h.shape[1], []
        for x_t in x.unbind(1):
            gates = conv(torch.cat([x_t, h], dim=1))
            g, sigmoids = gates.tensor_split([channels], dim=1)
            i, f, o = sigmoids.sigmoid().chunk(3, dim=1)
            c = torch.addcmul(f * c, i, g.tanh())
            h = o * c.tanh()
            frames.append(h)
        return torch.stack(frames, dim=1), (h, c)


class ConvGRU(Cell):
    """z, r = s(conv_gates([x, h]));  n = tanh(conv_candidate([x, r h]));  h = (1 - z) h + z n   (arXiv 1511.06432)."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3, padding: str = "zeros", **options: Any):
        super().__init__(in_channels, channels)
        self.conv_gates = PaddedConv2d(in_channels + channels, 2 * channels, kernel_size, padding, **options)
        self.conv_candidate = PaddedConv2d(in_channels + channels, channels, kernel_size, padding, **options)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, C, H, W], state [B, C', H, W] -> y [B, T, C', H, W], new state."""
        h = self._check(x, state)
        convolutions = self.conv_gates, self.conv_candidate
        if fused := as_one(self.conv_gates, x):
            weights = [p for conv in convolutions for p in (conv.weight, conv.bias)]
            (y,) = fused.classical("convgru", self.conv_gates.options, x, h, *weights)
            return y, last_of(y)
        return self.loop(x, h, *convolutions)

    @staticmethod
    def loop(
        x: Tensor, h: Tensor, gates: Callable[[Tensor], Tensor], candidate: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The cell with its convolutions, frame by frame."""
        frames = []
        for x_t in x.unbind(1):
            z, r = gates(torch.cat([x_t, h], dim=1)).sigmoid().chunk(2, dim=1)
            n = candidate(torch.cat([x_t, r * h], dim=1)).tanh()
            h = torch.lerp(h, n, z)
            frames.append(h)
        return torch.stack(frames, dim=1), h


CELLS: dict[str, type[Cell]] = {
    "convgru": ConvGRU,
    "convlstm": ConvLSTM,
    "minconvgru": MinConvGRU,
    "minconvlstm": MinConvLSTM,
    "minconvexplstm": MinConvExpLSTM,
}
PEERS: dict[str, type[Cell]] = {}  # of other papers, by ``minconv.models``: known by name, in no experiment unasked


def cell_class(cell: str | type[Cell]) -> type[Cell]:
    """A cell's class from its name or itself; raises ValueError or TypeError otherwise."""
    if isinstance(cell, type) and issubclass(cell, Cell):
        return cell
    known = CELLS | PEERS
    return known[choice("cell", cell, known)]
