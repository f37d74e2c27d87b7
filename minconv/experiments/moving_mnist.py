"""Moving MNIST: ten frames from ten, and hundreds from a hundred, by models of a million parameters that are trained
for the same time.

Published tables (OpenSTL, arXiv 2306.11249) are of 60,000 digits, other test sequences and models of 15 to 60 million
parameters that see 2 million sequences: numbers here, of 4,000 digits, are not to be compared with theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from minconv.core.cells import CELLS
from minconv.data import moving_mnist as digits
from minconv.evaluation import images
from minconv.evaluation.forecast import Forecaster
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import Profile, get_profile
from minconv.experiments.recipes import RECIPE
from minconv.experiments.tasks import Trajectories
from minconv.models import build_model, named
from minconv.models.patched import Patched

NAME = "moving_mnist"
CONTEXT = AHEAD = 10  # frames seen, and forecast
TRAINING = replace(RECIPE, context=CONTEXT, horizon=AHEAD - 1, noise=0.0)
# what makes a million parameters: recurrent layers on patches, and SimVP, which has its own way down, on frames
HIDDEN = {"convlstm": 59, "minconvlstm": 96, "convs5": 83}
OTHERS = {"convgru": 68, "minconvgru": 117, "minconvexplstm": 96}  # cells that are timed alone
OPTIONS = {"layers": 4, "padding": "zeros", "norm": "frame"}
SIMVP = {"hidden": 96, "context": CONTEXT, "size": (64, 64), "hid_s": 16, "n_s": 4, "n_t": 6, "mlp_ratio": 4}
# of OpenSTL's table: parameters in use, sequences seen in training, MSE, MAE, SSIM (data range of 2), PSNR
PUBLISHED = {
    "SimVP (gSTA), 200 epochs": (46_769_665, 2_000_000, 26.69, 77.19, 0.9402, 22.78),
    "SimVP (IncepU), 200 epochs": (57_946_113, 2_000_000, 32.15, 89.05, 0.9268, 21.84),
    "ConvLSTM, small, 200 epochs": (11_675_648, 2_000_000, 29.80, 90.64, 0.9288, 22.10),
    "ConvLSTM, large, 200 epochs": (26_115_072, 2_000_000, 27.78, 86.14, 0.9343, 22.44),
    "SimVP (gSTA), 2000 epochs": (46_769_665, 20_000_000, 15.05, 49.80, 0.9675, 25.97),
    "ConvLSTM, small, 2000 epochs": (11_675_648, 20_000_000, 22.41, 73.07, 0.9480, 23.54),
}
SPLITS = ("train", "train", "test")  # digits of the sequences to train, validate and test on


@dataclass(frozen=True)
class Size:
    """How large an experiment is in a profile.

    Args:
        samples: sequences to train, validate and test on.
        epochs: by model, so that each takes about as long.
        frames: of a sequence to train on, from which windows are cut anywhere.
        given, ahead: frames of a test that are seen, and forecast.
        step: of a digit's moves.
        patch: pixels along an axis that recurrent layers see as one.
        batch: windows a step.
        seeds: how many of the profile's; None is all.
    """

    samples: tuple[int, int, int]
    epochs: Mapping[str, int]
    frames: int = 100
    given: int = CONTEXT
    ahead: int = AHEAD
    step: float = digits.STEP
    patch: int = 8
    batch: int = 4
    seeds: int | None = None


def _equal(*epochs: int) -> dict[str, int]:
    return dict(zip((*HIDDEN, "simvp"), epochs, strict=True))


# seconds of a step on a core: 0.25, 0.20, 0.50, 0.42
SIZES = {
    "smoke": Size((8, 4, 4), _equal(1, 2, 1, 1), frames=24),
    "laptop": Size((500, 50, 100), _equal(4, 5, 2, 2)),
    "study": Size((1000, 100, 400), _equal(10, 12, 5, 6), seeds=1),
    "paper": Size((10_000, 1000, 10_000), _equal(200, 240, 100, 120), patch=4, batch=16),
}
# and of a hundred frames at once: 0.29, 0.21, 0.33; of a block of SimVP's 0.12
_long = partial(Size, given=100, step=digits.LONG_STEP, batch=1)
LONG = {
    "smoke": _long((8, 2, 2), _equal(1, 1, 1, 1), frames=24, given=24, ahead=24),
    "laptop": _long((200, 16, 16), _equal(2, 3, 2, 6), ahead=200),
    "study": _long((500, 32, 32), _equal(4, 6, 4, 11), ahead=400, seeds=1),
    "paper": _long((10_000, 100, 1000), _equal(20, 34, 21, 60), frames=300, ahead=1200, patch=4),
}


@dataclass(frozen=True)
class Video(Trajectories):
    """Ten frames from ten; black frames are a harder baseline than persistence."""

    @property
    def baselines(self) -> dict[str, Forecaster]:
        return super().baselines | {"black": _black}


def _black(frames: Tensor, horizon: int = 0) -> Tensor:
    return frames.new_zeros(frames.shape[0], frames.shape[1] + horizon, *frames.shape[2:])


def moving_mnist(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """ConvLSTM, MinConvLSTM and ConvS5 on patches of 64 x 64 frames, and SimVP on the frames, with the recipe."""
    profile = get_profile(profile)
    size = SIZES[profile.name]
    training = replace(TRAINING, epochs=size.epochs["convlstm"], batch=size.batch)
    settings = {"recipe": Setting(training, _builds(size.patch), profile.seeds[: size.seeds], OPTIONS, size.epochs)}
    return Experiment(NAME, profile, settings, partial(_load, size), device)


def long_sequences(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """The same models, trained on whole sequences of a hundred frames with teacher forcing, as ConvS5 has it
    (arXiv 2310.19694), to go on by themselves for hundreds more; SimVP on blocks, ten frames from ten."""
    profile = get_profile(profile)
    size = LONG[profile.name]
    builds, seeds = _builds(size.patch), profile.seeds[: size.seeds]
    blocks = {"simvp": builds.pop("simvp")}
    training = replace(TRAINING, epochs=size.epochs["convlstm"], batch=size.batch)
    whole = replace(training, context=size.frames - 1, horizon=0)
    settings = {
        "whole sequences": Setting(whole, builds, seeds, OPTIONS, size.epochs),
        "blocks": Setting(training, blocks, seeds, epochs=size.epochs),
    }
    return Experiment(f"{NAME}_long", profile, settings, partial(_load, size), device)


class Blocks(nn.Module):
    """Every block of a sequence forecast from the one before it, all at once: [B, T, C, H, W] -> the frames [B, T, C,
    H, W] that follow the blocks of ``model.context`` frames, into which T is to divide."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        length = self.model.context
        blocks = frames.unflatten(1, (-1, length))
        following = self.model(blocks.flatten(0, 1), length - 1)
        return following.unflatten(0, blocks.shape[:2]).flatten(1, 2)


def untrained(profile: str | Profile | None = None) -> dict[str, nn.Module]:
    """What can be timed on sequences of any length, multiples of ten frames: every cell on patches and ConvS5, teacher
    forced, and SimVP by blocks; of a million parameters each."""
    sizes = HIDDEN | OTHERS
    builds = _builds(LONG[get_profile(profile).name].patch, {name: sizes[name] for name in (*CELLS, "convs5")})
    models = {name: build(0) for name, build in builds.items()}
    return models | {"simvp": Blocks(models["simvp"])}


def _builds(patch: int, sizes: Mapping[str, int] = HIDDEN) -> dict[str, Callable[[int], nn.Module]]:
    builds: dict[str, Callable[[int], nn.Module]] = {
        name: partial(
            build_model, replace(named(name), build=partial(Patched, name)), hidden=hidden, patch=patch, **OPTIONS
        )
        for name, hidden in sizes.items()
    }
    return builds | {"simvp": partial(build_model, "simvp", padding="zeros", **SIMVP)}


def sequences(size: Size) -> list[digits.MovingMNIST]:
    """To train, validate and test on; the seed is the place in this list."""
    test = size.given + size.ahead
    sets = enumerate(zip(SPLITS, size.samples, (size.frames, min(size.frames, test), test), strict=True))
    return [
        digits.MovingMNIST(digits.digits(split), *shape, seed=seed, step=size.step) for seed, (split, *shape) in sets
    ]


def _load(size: Size, device: torch.device) -> Video:
    train, validation, test = sequences(size)
    return Video(train, validation, test.all().to(device), size.given, measure=images.evaluate)
