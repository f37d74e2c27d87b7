"""What models without recurrence share, which see a fixed number of frames."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from minconv.core.layers import check_dtype
from minconv.models.pretrained import Pretrained
from minconv.runtime.checks import whole


class Windowed(Pretrained, ABC):
    """Forecasts the frames after the last T of those given, and from its own forecasts the frames after these.

    It has no predictions of frames that it has seen: ``model(frames, horizon)`` gives the horizon + 1 new frames alone,
    which are the last ones that a recurrent model gives. ``fit`` has them in the loss; ``predict``, ``rollout`` and
    ``forecast`` take them as they do those of others.

    Args:
        channels: C of a frame.
        context: T, the frames that it sees; weights are for that number alone.
        size: (H, W).
        ahead: how many frames of an application of ``following`` are used, the first.
    """

    def __init__(self, channels: int, context: int, size: tuple[int, int], ahead: int):
        super().__init__()
        self.channels, self.context, self.size, self.ahead = channels, context, tuple(size), ahead

    @abstractmethod
    def following(self, frames: Tensor) -> Tensor:
        """T frames [B, T, C, H, W] -> at least ``ahead`` of those that follow."""

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """The frames after those seen; gradients pass through all of them.

        Args:
            frames: [B, T', C, H, W] with T' >= T, of which the last T are seen.
            horizon: how many to forecast besides the next one.

        Returns:
            [B, horizon + 1, C, H, W].

        Raises:
            TypeError, ValueError: ``frames`` do not fit.
        """
        check_dtype("frames", frames, next(self.parameters()))
        shape = self.channels, *self.size
        if frames.dim() != 5 or frames.shape[1] < self.context or frames.shape[2:] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"frames must be [B, T >= {self.context}, {expected}]; got {list(frames.shape)}")
        steps, found = whole("horizon", horizon, 0) + 1, frames[:, -self.context :]
        for _ in range(0, steps, self.ahead):
            found = torch.cat([found, self.following(found[:, -self.context :])[:, : self.ahead]], 1)
        return found[:, self.context :][:, :steps]
