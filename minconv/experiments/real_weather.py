"""Real weather, in small records that anybody may have: Europe, the North Atlantic, and the globe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from minconv.core.cells import CELLS
from minconv.data import public
from minconv.data.grid import Field, coarsen
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.geopotential import geopotential
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.experiments.recipes import PAIR, PUBLISHED
from minconv.experiments.series import SeriesExperiment, series_experiment
from minconv.experiments.tasks import Series
from minconv.models import MODELS, build_model
from minconv.training import Training, load_weights, restore

EUROPE = {"train": ("2000", "2007"), "validation": ("2008", "2008"), "test": ("2009", "2010")}
ATLANTIC = {"train": ("2001", "2007"), "validation": ("2008", "2008"), "test": ("2009", "2010")}
FRAMES = 97  # of the first block to train on; two windows are left to validate
SHORT = Training(context=4, horizon=2, epochs=1, batch=64)  # where nothing is to be learned
TUNED = {"fine-tuned": {"lr": 1e-3, "epochs": 40}, "from scratch": {"epochs": 100}}


def europe(profile: str | Profile | None = None, device: str = "auto") -> SeriesExperiment:
    """Geopotential, temperature and pressure over Europe, daily: eight years to learn from, two to be tested on.

    With the recipe for small records; where there is time, all cells, and two as published but for the frames that they
    see. OSError where there is neither file nor network.
    """
    profile = get_profile(profile)
    series, long = public.era_interim(home() / "data"), profile.name in ("study", "paper")
    study = _study(profile, "europe", series, EUROPE, CELLS if long else PAIR, device)
    if not long:
        return study
    recipe = study.settings["recipe"]
    frames = {"context": recipe.training.context, "horizon": recipe.training.horizon}
    options = {name: recipe.options[name] for name in ("layers", "padding", "size", "channels")}
    builds = {name: partial(build_model, MODELS[name], hidden=MODELS[name].channels[1], **options) for name in PAIR}
    published = Setting(replace(PUBLISHED, lr=1e-3, noise=0.0, epochs=10, **frames), builds, recipe.seeds, options)
    return replace(study, settings=study.settings | {"published": published})


def north_atlantic(profile: str | Profile | None = None, device: str = "auto") -> SeriesExperiment:
    """Pressure at sea level over the North Atlantic, daily, for MinConvLSTM; as ``europe``."""
    profile = get_profile(profile)
    series = public.north_atlantic(home() / "data")
    study = _study(profile, "north_atlantic", series, ATLANTIC, ("minconvlstm",), device)
    if profile.name != "laptop":
        return study
    recipe = study.settings["recipe"]  # four times the cells of Europe: a third of the time
    shorter = replace(recipe, training=replace(recipe.training, epochs=recipe.training.epochs // 3))
    return replace(study, settings={"recipe": shorter})


def _study(
    profile: Profile,
    name: str,
    series: Field,
    periods: Mapping[str, tuple[str, str]],
    models: Iterable[str],
    device: str,
) -> SeriesExperiment:
    folder, seeds, training = profile.folder / "runs" / name, profile.seeds[:2], None
    if not profile.learned:
        seeds, training, periods = seeds[:1], SHORT, periods | {"test": ("2009-01", "2009-02")}
    return series_experiment(series, folder, **periods, models=models, seeds=seeds, training=training, device=device)


@dataclass(frozen=True)
class Globe(Series):
    """Analyses of the globe in the units that models of ``stand_in`` know."""

    stand_in: Series | None = None

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        return self.stand_in._scale


def stand_in(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """Two cells of ``geopotential`` with its recipe, in its folder."""
    return geopotential(profile, device=device).only("recipe", *PAIR)


def globe(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """Geopotential of the globe, 6-hourly, five weeks to learn from and five to be tested on.

    ``fine-tuned`` begins with the weights that models have learned from the stand-in, ``from scratch`` with none. Those
    of the stand-in alone are verified by ``stand_in().evaluate(task=globe().task)``. OSError as ``europe``.
    """
    profile = get_profile(profile)
    before = stand_in(profile, device)
    recipe = before.settings["recipe"]
    known = {name: partial(_learned, profile, device, name) for name in PAIR}
    settings = {}
    for name, models in {"fine-tuned": known, "from scratch": recipe.models}.items():
        training = replace(recipe.training, batch=1, **TUNED[name] if profile.learned else {})
        settings[name] = Setting(training, models, recipe.seeds)
    first, second = (coarsen(block, 2).load() for block in public.gfs(home() / "data"))
    parts = {"train": first[:FRAMES], "validation": first[FRAMES:], "test": second}

    def load(on: torch.device) -> Globe:
        return Globe(parts, recipe.window, every=(0.25,), device=on, ridge=0, stand_in=before.task)

    return Experiment("globe", profile, settings, load, device)


def _learned(profile: Profile, device: str, model: str, seed: int) -> nn.Module:
    run = next(run for run in stand_in(profile, device).runs("recipe")[model] if seed in run.seeds)
    return restore(run.build(seed), load_weights(run.folder)[seed])
