"""Forecasters of images that are large for recurrent layers at every pixel."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from minconv.core.cells import Cell
from minconv.models.forecaster import Forecaster
from minconv.models.pretrained import Pretrained
from minconv.runtime.checks import whole


class Patched(Pretrained):
    """A ``Forecaster`` on patches, whose p x p pixels are channels to it: [B, T, p p C, H / p, W / p] instead of
    [B, T, C, H, W], as the ConvLSTM of the tables of Moving MNIST has them.

    Args:
        cell: as of ``Forecaster``.
        channels: C.
        size: (H, W), multiples of ``patch``.
        patch: p.
        options: of ``Forecaster``, but for ``known``.

    Raises:
        TypeError, ValueError: an argument is not allowed; the message names it.
    """

    def __init__(
        self,
        cell: str | type[Cell],
        channels: int = 1,
        size: tuple[int, int] = (64, 64),
        patch: int = 4,
        **options: Any,
    ):
        super().__init__()
        if "known" in options:
            raise TypeError("known must be left out: channels that are known have no patches here")
        self.channels, self.patch = whole("channels", channels, 1), whole("patch", patch, 1)
        if not isinstance(size, (tuple, list)) or len(size) != 2 or any(whole("size", n, 1) % patch for n in size):
            raise ValueError(f"size must be (H, W), multiples of patch = {patch}; got {size!r}")
        self.size = tuple(size)
        cells = tuple(side // patch for side in size)
        self.model = Forecaster(cell, channels * patch**2, size=cells, **options)
        self.config = self.model.config | {"channels": channels, "size": self.size, "patch": patch}
        del self.config["known"]

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Frames [B, T, C, H, W] -> [B, T + horizon, C, H, W]; output t predicts frame t + 1."""
        if frames.dim() != 5 or frames.shape[2:] != (self.channels, *self.size):
            wanted = ", ".join(map(str, (self.channels, *self.size)))
            raise ValueError(f"frames must be [B, T >= 1, {wanted}]; got {list(frames.shape)}")
        return F.pixel_shuffle(self.model(F.pixel_unshuffle(frames, self.patch), horizon), self.patch)

    def extra_repr(self) -> str:
        return f"patch={self.patch}"
