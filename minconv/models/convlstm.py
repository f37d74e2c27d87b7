"""The ConvLSTM of SimVP's tables (arXiv 1506.04214, as trained in PredRNN's programs, arXiv 2103.09504): layers of the
classical cell on patches of frames, without encoder, norm or bias, trained with scheduled sampling (arXiv 1506.03099).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minconv.core.cells import ConvLSTM, State
from minconv.core.layers import check_dtype, on_frames
from minconv.models.pretrained import Pretrained
from minconv.runtime.checks import whole

DECAY = 2e-5  # by which the probability of a true frame falls with each step of a published training


class PatchedConvLSTM(Pretrained):
    """Patches of p x p cells as channels, a ConvLSTM a layer, a 1 x 1 convolution to the patches of the next frame.

    The published program has in each layer of n channels two kernels besides, [n, 2n, 5, 5] and [n, 2n, 1, 1], that
    nothing uses; the parameters in its tables count them: 15,083,520 for Moving MNIST, where 11,675,648 are used.

    Args:
        channels: C of a frame.
        hidden: channels of each layer; 128 of four as published (S), or 192 (L).
        patch: p; height and width are multiples of it.
        kernel_size: of the cells.

    Raises:
        TypeError, ValueError: an argument is not allowed, or frames, states or a mask do not fit; the message names it.
    """

    def __init__(
        self, channels: int = 1, hidden: Sequence[int] = (128, 128, 128, 128), patch: int = 4, kernel_size: int = 5
    ):
        super().__init__()
        self.channels, self.patch = whole("channels", channels, 1), whole("patch", patch, 1)
        if not isinstance(hidden, (tuple, list)) or not hidden:
            raise TypeError(f"hidden must be the channels of each layer; got {hidden!r}")
        self.config = {"channels": channels, "hidden": list(hidden), "patch": patch, "kernel_size": kernel_size}
        inputs = [patch * patch * channels, *hidden[:-1]]
        self.cells = nn.ModuleList(
            ConvLSTM(into, out, kernel_size, bias=False) for into, out in zip(inputs, hidden, strict=True)
        )
        self.readout = nn.Conv2d(hidden[-1], inputs[0], 1, bias=False)

    def forward(self, frames: Tensor, horizon: int = 0, mask: Tensor | None = None) -> Tensor:
        """True frames, then a closed loop, or one that sees a true frame here and there.

        Args:
            frames: [B, T, C, H, W]; with a mask [B, T + horizon, C, H, W].
            horizon: number of steps after the T true frames.
            mask: [B, horizon]: 1 where a step after them sees the true frame, 0 where the prediction before it; all 0
                where it is not given. See ``sampling_mask``.

        Returns:
            [B, T + horizon, C, H, W]; output t predicts frame t + 1.
        """
        whole("horizon", horizon, 0)
        true = None
        if mask is not None:
            if mask.shape != (len(frames), horizon) or frames.shape[1] <= horizon:
                raise ValueError(
                    f"mask must be [B, {horizon}] for frames [B, T + {horizon}, C, H, W]; got {list(mask.shape)} for "
                    f"{list(frames.shape)}"
                )
            frames, true = frames.tensor_split([frames.shape[1] - horizon], 1)
        prediction, states = self.advance(frames)
        predictions = [prediction]
        for step in range(horizon):
            last = prediction[:, -1:]
            if true is not None:
                last = torch.where(mask[:, step, None, None, None, None] > 0, true[:, step : step + 1], last)
            prediction, states = self.advance(last, states)
            predictions.append(prediction)
        return torch.cat(predictions, 1)

    def advance(self, frames: Tensor, states: Sequence[State] | None = None) -> tuple[Tensor, list[State]]:
        """Predictions [B, T, C, H, W] for frames [B, T, C, H, W], and the states (h, c) of all layers after them."""
        check_dtype("frames", frames, self.readout.weight)
        fits = frames.dim() == 5 and 0 not in frames.shape and frames.shape[2] == self.channels
        if not fits or any(side % self.patch for side in frames.shape[-2:]):
            wanted = f"[B, T >= 1, {self.channels}, H, W], H and W multiples of {self.patch}"
            raise ValueError(f"frames must be {wanted}; got {list(frames.shape)}")
        if states is not None and len(states) != len(self.cells):
            raise ValueError(f"states must be {len(self.cells)}, one a layer; got {len(states)}")
        x, after = patches(frames, self.patch), []
        for cell, state in zip(self.cells, states or [None] * len(self.cells), strict=True):
            x, state = cell(x, state)
            after.append(state)
        return unpatched(on_frames(self.readout, x), self.patch), after


def patches(frames: Tensor, p: int) -> Tensor:
    """[B, T, C, H, W] -> [B, T, p p C, H / p, W / p], channel (dy p + dx) C + c."""
    height, width = (side // p for side in frames.shape[-2:])
    cut = frames.unflatten(4, (width, p)).unflatten(3, (height, p))  # [B, T, C, h, dy, w, dx]
    return cut.permute(0, 1, 4, 6, 2, 3, 5).flatten(2, 4)


def unpatched(x: Tensor, p: int) -> Tensor:
    """What ``patches`` was given."""
    cut = x.unflatten(2, (p, p, -1))  # [B, T, dy, dx, C, h, w]
    return cut.permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)


def sampling_mask(step: int, batch: int, horizon: int, generator: torch.Generator | None = None) -> Tensor:
    """The mask [batch, horizon] of a published training's step, counted from 0: true frames with a probability that
    falls by 2e-5 a step, and is 0 after 50,000."""
    eta = max(0.0, 1 - DECAY * (whole("step", step) + 1))
    return (torch.rand(batch, horizon, generator=generator) < eta).float()


def from_published(config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray | Tensor]) -> PatchedConvLSTM:
    """A model with published weights, in their dtype.

    Args:
        config: of the published program: ``C``, ``num_hidden`` and ``patch_size``.
        state_dict: by its names, ``cell_list.0.conv_x.0.weight`` [4n, ., k, k] with blocks i, f, g, o and so on; what
            is never used is left out.

    Raises:
        ValueError: weights of another model, or incomplete.
    """
    try:
        found = {name: torch.as_tensor(value) for name, value in state_dict.items()}
        hidden = [int(number) for number in config["num_hidden"]]
        kernels = {}
        for n in range(len(hidden)):
            both = torch.cat([found[f"cell_list.{n}.conv_{which}.0.weight"] for which in "xh"], 1)
            i, f, g, o = both.chunk(4)
            kernels[f"cells.{n}.conv.weight"] = torch.cat([g, i, f, o])
        model = PatchedConvLSTM(config["C"], hidden, config["patch_size"], both.shape[-1]).to(both.dtype)
        model.load_state_dict(kernels | {"readout.weight": found["conv_last.weight"]})
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"state_dict does not hold the weights of a published ConvLSTM: {error}") from error
    return model
