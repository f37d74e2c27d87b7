"""A fourth experiment, as a user would write it: blobs that move one cell a frame, and a model of one convolution."""

from functools import partial

import torch
from torch import Tensor, nn

from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import Profile
from minconv.experiments.tasks import Trajectories
from minconv.training import Training

SIZE, FRAMES, CONTEXT = 8, 10, 4
TRAINING = Training(context=3, horizon=2, epochs=20, batch=4, optimizer="adam", lr=0.05, warmup=0.0, noise=0.0)


def blobs(samples: int, seed: int) -> Tensor:
    """Bumps that go round a torus, one cell to the right a frame: [N, T, 1, H, W]."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.randint(SIZE, (samples, 2), generator=draw)
    x = torch.arange(SIZE)
    rows, columns = ((x - place[:, None] + SIZE // 2) % SIZE - SIZE // 2 for place in places.unbind(1))
    first = torch.exp(-(rows[:, :, None] ** 2 + columns[:, None] ** 2) / 2.0)
    return torch.stack([first.roll(t, -1) for t in range(FRAMES)], 1).unsqueeze(2)


class Convolution(nn.Module):
    """x_{t+1} = w * x_t, which can learn the motion exactly."""

    def __init__(self, seed: int, kernel_size: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, kernel_size, padding="same", padding_mode="circular", bias=False)
        with torch.no_grad():
            self.conv.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        predictions = [self.conv(frames.flatten(0, 1)).view_as(frames)]
        for _ in range(horizon):
            predictions.append(self.conv(predictions[-1][:, -1])[:, None])
        return torch.cat(predictions, 1)


def moving_blobs(profile: Profile) -> Experiment:
    models = {"convolution": Convolution, "one cell": partial(Convolution, kernel_size=1)}
    settings = {"short": Setting(TRAINING, models, seeds=(1, 2))}

    def load(device: torch.device) -> Trajectories:
        data = (blobs(samples, seed).to(device) for seed, samples in enumerate((16, 4, 8)))
        return Trajectories(*data, context=CONTEXT)

    return Experiment("moving_blobs", profile, settings, load, device="cpu")
