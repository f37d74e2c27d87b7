"""Independent streams of random numbers from one seed: data, initial weights, windows and noise never share one."""

import numpy as np
import torch

from minconv.errors import whole

STREAMS = {"data": 0, "weights": 1, "windows": 2, "noise": 3}


def generator(seed: int, stream: str, *place: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one ``stream`` of ``seed`` at a ``place`` (an epoch, a sample), the same in every process.

    Restarting at a place needs no saved state, so an interrupted run continues with the numbers it would have drawn.
    """
    entropy = np.random.SeedSequence([whole("seed", seed), STREAMS[stream], *place]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
