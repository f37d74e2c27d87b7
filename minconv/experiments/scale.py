"""The flow with few and many trajectories, for few and many steps: does the order of the cells depend on scale?"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from minconv.data import navier_stokes as solver
from minconv.experiments import navier_stokes as flow
from minconv.experiments.experiment import Experiment
from minconv.experiments.profiles import Profile, get_profile
from minconv.experiments.tasks import Trajectories

SETTINGS = ("published", "recipe")


@dataclass(frozen=True)
class Size:
    """How large the comparison is in a profile.

    Args:
        trajectories: to train on for the first of ``steps``, in rising order.
        steps: of a training; the further ones with most trajectories alone.
        largest: the profile whose flow is the largest here.
        settings: in which that is trained.
        seeds: how many of the profile's.
    """

    trajectories: tuple[int, ...]
    steps: tuple[int, ...]
    largest: str
    settings: tuple[str, ...] = SETTINGS
    seeds: int | None = None


SIZES = {
    "smoke": Size((2, 4), (4, 8), "smoke", seeds=1),
    "laptop": Size((10, 100), (200, 400), "laptop"),
    "study": Size((10, 100, 1000), (1000, 2000), "paper", ("published",), 1),
    "paper": Size((10, 100, 1000), (1000, 6000), "paper"),
}


def scale(profile: str | Profile | None = None, device: str = "auto") -> dict[tuple[int, int], Experiment]:
    """The cells as published and with the recipe, by the number of trajectories and of steps.

    Those of a smaller set are the first of the larger; validation and test trajectories are those of the flow.
    """
    profile = get_profile(profile)
    size, whole = SIZES[profile.name], flow.navier_stokes(profile, device)
    most = size.trajectories[-1]
    pairs = [(count, size.steps[0]) for count in size.trajectories] + [(most, steps) for steps in size.steps[1:]]

    def experiment(count: int, steps: int) -> Experiment:
        settings = {
            name: replace(
                whole.settings[name],
                training=replace(whole.settings[name].training, epochs=steps // count),
                seeds=profile.seeds[: size.seeds],
            )
            for name in SETTINGS
        }
        name = f"{flow.NAME}_{count}x{steps}"
        return replace(whole, name=name, settings=settings, load=partial(_load, whole, most, count))

    return {pair: experiment(*pair) for pair in pairs}


def largest(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """The flow at the paper's own scale in every respect, 1000 / 50 / 200 trajectories and 30 epochs, as far as the
    profile has minutes for it."""
    profile = get_profile(profile)
    size = SIZES[profile.name]
    whole = flow.navier_stokes(size.largest, device)
    settings = {name: replace(whole.settings[name], seeds=profile.seeds[: size.seeds]) for name in size.settings}
    name = whole.name if size.largest == profile.name else f"{whole.name}_{size.largest}"
    return replace(whole, name=name, profile=profile, settings=settings)


def _load(whole: Experiment, most: int, count: int, device: torch.device) -> Trajectories:
    path = flow.trajectory_file("train", most, flow.SPLITS["train"], seed=0, device=device)
    return replace(whole.load(device), train=solver.frames(path, device)[:count])
