"""Independent streams of random numbers from a model's seed: initial weights, windows and noise never share one."""

import numpy as np
import torch

from minconv.runtime.checks import choice, whole

STREAMS = {"weights": 1, "windows": 2, "noise": 3}  # changing a number changes every result


def generator(seed: int, stream: str, *place: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one ``stream`` of ``seed`` at a ``place`` (an epoch), the same in every process.

    Restarting at a place needs no saved state, so an interrupted run continues with the numbers it would have drawn.
    Raises TypeError or ValueError for a seed that is no whole number from 0 up, and for an unknown stream.
    """
    key = [whole("seed", seed), STREAMS[choice("stream", stream, STREAMS)], *place]
    entropy = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
