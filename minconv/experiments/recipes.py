"""The ways to train that the experiments compare, and the models they are for."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from minconv.core.cells import CELLS
from minconv.experiments.experiment import Setting
from minconv.models import build_model, named
from minconv.training import Training

PUBLISHED = Training(optimizer="adam", lr=5e-4, warmup=0.0, weight_decay=0.01)
NO_DECAY = replace(PUBLISHED, weight_decay=0.0)
RECIPE = Training()
ADAM = replace(RECIPE, optimizer="adam")
SHAPE = {"layers": 6, "dilation": (1, 2, 4, 1, 2, 4), "norm": "frame"}  # of the recipe's models
PAIR = ("convlstm", "minconvlstm")  # where all cells would be too many


def setting(training: Training, seeds: tuple[int, ...], models: Iterable[str] = CELLS, **options: Any) -> Setting:
    """Models of ``minconv.models`` with the same options, as far as they have them."""
    window = training.context, training.horizon
    builds = {name: partial(build_model, named(name), **named(name).options(options, *window)) for name in models}
    return Setting(training, builds, seeds, options)
