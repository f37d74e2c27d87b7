"""The one encoder, residual stack and decoder around every cell."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minconv.core.cells import CELLS, PEERS, Cell, State, cell_class
from minconv.core.layers import check_dtype, constant_weights, on_frames
from minconv.core.scan import transformed
from minconv.models.closed_loop import as_one, frame_by_frame
from minconv.models.norms import residual_norm_of
from minconv.models.pretrained import Pretrained
from minconv.runtime.checks import whole


class Forecaster(Pretrained):
    """Forecasts frames: x_{t+1} = decoder(stack(encoder(x_t))), each layer x = norm(x + cell(x)).

    Args:
        cell: ``minconvgru``, ``minconvlstm``, ``minconvexplstm``, ``convgru``, ``convlstm``, ``convs5``, or a class.
        channels: channels C of a frame.
        hidden: channels of the hidden states.
        layers: number of recurrent layers.
        size: (H, W) of a frame.
        padding: ``zeros``, ``circular``, ``cylinder``, ``sphere`` or ``replicate``; see ``layers.PaddedConv2d``.
        dilation: of the convolutions of each layer, or one for all; with 1, 2, 4, 1 a step of four layers sees 17 x 17
            cells instead of 9 x 9.
        norm: over H x W (``plane``, as published), which makes every channel of a frame one size; over C x H x W
            (``frame``), which keeps their sizes relative to each other; or over C at each place (``channels``).
        increment: predict what is added to each frame, x_{t+1} = x_t + decoder(...). The norm takes the mean of a frame
            away, so a model of frames cannot know it; one of increments need not. Its decoder starts at zero, so that
            training begins at persistence.
        known: channels K that are known in the future and not predicted, such as orography or sunlight: the last of a
            frame's C + K.
        checkpoint: keep nothing of a cell but its input for the gradient, and run the cell again: memory for time, for
            long sequences. Without effect on models stacked by ``torch.vmap``.
        options: further arguments of the cell, such as ``kernel_size`` or ``backend``.

    Raises:
        TypeError, ValueError: an argument is not allowed; the message names it.
    """

    def __init__(
        self,
        cell: str | type[Cell],
        channels: int = 1,
        hidden: int = 40,
        layers: int = 4,
        size: tuple[int, int] = (16, 16),
        padding: str = "circular",
        dilation: int | Sequence[int] = 1,
        norm: str = "plane",
        increment: bool = False,
        checkpoint: bool = False,
        known: int = 0,
        **options: Any,
    ):
        super().__init__()
        for name, value in (("increment", increment), ("checkpoint", checkpoint)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False; got {value!r}")
        self.increment, self.checkpoint = increment, checkpoint
        kind = cell_class(cell)
        self.channels, self.known = whole("channels", channels, 1), whole("known", known)
        whole("hidden", hidden, 1)
        whole("layers", layers, 1)
        dilations = [dilation] * layers if isinstance(dilation, int) else dilation
        if not isinstance(dilations, Sequence) or len(dilations) != layers:
            error = ValueError if isinstance(dilations, Sequence) else TypeError
            raise error(f"dilation must be one number or one for each of the {layers} layers; got {dilation!r}")
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise ValueError(f"size must be (H, W); got {size!r}")
        self.size = (whole("size[0]", size[0], 1), whole("size[1]", size[1], 1))
        names = {known: name for name, known in (CELLS | PEERS).items()}
        self.config = options | {
            "cell": names.get(kind, kind),
            "channels": channels,
            "hidden": hidden,
            "layers": layers,
            "size": self.size,
            "padding": padding,
            "dilation": dilations,
            "norm": norm,
            "increment": increment,
            "checkpoint": checkpoint,
            "known": known,
        }
        self.encoder = nn.Conv2d(channels + known, hidden, 1)
        self.cells = nn.ModuleList(
            kind(hidden, hidden, padding=padding, dilation=dilation, **options) for dilation in dilations
        )
        self.norms = nn.ModuleList(residual_norm_of(norm, hidden, self.size) for _ in range(layers))
        self.decoder = nn.Conv2d(hidden, channels, 1)
        if increment:
            nn.init.zeros_(self.decoder.weight)
            nn.init.zeros_(self.decoder.bias)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Teacher forcing on all frames in one pass, then a closed loop that feeds each prediction back.

        Args:
            frames: [B, T, C, H, W]; with known channels [B, T + horizon, C + K, H, W], of whose last ``horizon`` frames
                these alone are used.
            horizon: number of closed-loop steps after the T teacher-forced ones.

        Returns:
            [B, T + horizon, C, H, W]; output t predicts frame t + 1.
        """
        whole("horizon", horizon, 0)
        frames, ahead = self._ahead(frames, horizon)
        with constant_weights():
            prediction, states = self.advance(frames)
            if not horizon:
                return prediction
            known = type(self).advance is Forecaster.advance
            loop = (as_one(self, prediction) if known else None) or partial(frame_by_frame, self)
            return torch.cat([prediction, loop(prediction[:, -1], states, ahead, horizon)], dim=1)

    def _ahead(self, frames: Tensor, horizon: int) -> tuple[Tensor, Tensor | None]:
        """The T frames seen, and the known channels [B, horizon, K, H, W] of those to come."""
        if not self.known:
            return frames, None
        if frames.dim() != 5 or frames.shape[1] <= horizon:
            wanted = f"[B, T + {horizon}, C + {self.known}, H, W], as known channels are of frames to come as well"
            raise ValueError(f"frames must be {wanted}; got {list(frames.shape)}")
        seen = frames.shape[1] - horizon
        return frames[:, :seen], frames[:, seen:, self.channels :]

    def advance(self, frames: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Predictions [B, T, C, H, W] for frames [B, T, C + K, H, W], and the states of all layers after them.

        Passing the states on continues the sequence: two halves give what the whole gives.
        """
        self._check(frames)
        if states is None:
            states = [None] * len(self.cells)
        elif not isinstance(states, (list, tuple)):
            raise TypeError(f"states must be a list of {len(self.cells)}, one a layer; got {type(states).__name__}")
        elif len(states) != len(self.cells):
            raise ValueError(f"states must be a list of {len(self.cells)}, one a layer; got {len(states)}")
        x = on_frames(self.encoder, frames)
        after = []
        for cell, norm, state in zip(self.cells, self.norms, states, strict=True):
            if self.checkpoint and torch.is_grad_enabled() and not transformed():
                y, state = checkpoint(cell, x, state, use_reentrant=False, preserve_rng_state=False)
            else:
                y, state = cell(x, state)
            x = norm(x, y)
            after.append(state)
        prediction = on_frames(self.decoder, x)
        return frames[:, :, : self.channels] + prediction if self.increment else prediction, after

    def extra_repr(self) -> str:
        return "increment=True" if self.increment else ""

    def _check(self, frames: Tensor) -> None:
        weight = self.encoder.weight
        check_dtype("frames", frames, weight)
        if frames.dim() != 5 or frames.shape[1] == 0 or frames.shape[2:] != (self.channels + self.known, *self.size):
            expected = ", ".join(map(str, (self.channels + self.known, *self.size)))
            raise ValueError(f"frames must be [B, T >= 1, {expected}]; got {list(frames.shape)}")
        if frames.device != weight.device:
            raise ValueError(f"frames must be on {weight.device} like the weights; got {frames.device}")
