"""Geopotential of the 500 hPa surface, forecast a week ahead on 16 x 32: arXiv 2508.03614, section 4.2."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from minconv.core.cells import CELLS
from minconv.data import barotropic, open_series
from minconv.data.weatherbench import weatherbench1, weatherbench2
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.experiments.recipes import PAIR, PUBLISHED, RECIPE
from minconv.experiments.tasks import Series, split, years
from minconv.models import MODELS, build_model
from minconv.training import Training

SIZE = (16, 32)
GEOPOTENTIAL = replace(PUBLISHED, horizon=4, epochs=20, lr=1e-3, noise=0.0)
TRAINING = {
    "recipe": replace(RECIPE, context=16, horizon=8, epochs=20, noise=0.0),
    "recipe with Adam": replace(GEOPOTENTIAL, optimizer="adam", weight_decay=0.0, context=16, horizon=8),
    "published": GEOPOTENTIAL,
    "no weight decay": replace(GEOPOTENTIAL, weight_decay=0.0),
}
PERIODS = {"train": ("1979", "2014"), "validation": ("2015", "2016"), "test": ("2017", "2018")}
FOUR_YEARS = PERIODS | {"train": ("2011", "2014")}
FEW_MONTHS = {  # years that air temperature has as well
    "train": ("2013-01-01", "2013-12-31"),
    "validation": ("2014-01-01", "2014-01-31"),
    "test": ("2014-02-01", "2014-03-15"),
}
# by profile: periods, what of the training differs, and models by setting
SMALLER = {
    "smoke": (FEW_MONTHS, {"epochs": 1, "batch": 64, "context": 4, "horizon": 2}),
    "laptop": (FOUR_YEARS, {"epochs": 2}),
    "study": (FOUR_YEARS, {"epochs": 4}),
    "paper": (PERIODS, {}),
}


def geopotential(
    profile: str | Profile | None = None, source: str | Path | None = None, device: str = "auto"
) -> Experiment:
    """All cells with the recipe and as published.

    With ``recipe`` models predict what is added to a frame, more of the same window is in closed loop, without which a
    week's forecast may drift away, and the optimiser is that of ``Training()``; ``recipe with Adam`` is the same with
    Adam at the published learning rate, and ``no weight decay`` the published setting without it, for two cells.

    Args:
        source: None for the offline stand-in, the barotropic model, generated first where it is not there yet; else
            where ERA5 is: a folder of WeatherBench 1 files, or the path or URL of a WeatherBench 2 Zarr store, from
            which the years are fetched once.
    """
    profile = get_profile(profile)
    periods, less = SMALLER[profile.name]
    every = {name: (name, "cylinder") for name in CELLS}
    pair = {name: every[name] for name in PAIR}
    models = {
        "recipe": every | {"sphere": ("minconvlstm", "sphere")},
        "recipe with Adam": pair,
        "published": every if profile.name in ("study", "paper") else pair,
        "no weight decay": pair,
    }
    seeds = profile.seeds if profile.learned else profile.seeds[:1]
    settings = {
        name: _setting(replace(training, **less), models[name], seeds, len(less) > 0, "recipe" in name)
        for name, training in TRAINING.items()
    }
    window = settings["recipe"].window

    def load(on: torch.device) -> Series:
        parts = split(series(periods, source, device), periods, 2 * window, factor=2)
        return Series(parts, window, device=on)

    return Experiment("geopotential", profile, settings, load, device)


def _setting(
    training: Training, models: dict[str, tuple[str, str]], seeds: tuple[int, ...], few: bool, increment: bool
) -> Setting:
    """Three layers at about 35,000 parameters, by name of cell and padding; ``few`` seeds below the paper's scale."""
    options: dict[str, Any] = {"layers": 3, "size": SIZE, "increment": increment}
    builds = {
        name: partial(build_model, MODELS[cell], hidden=MODELS[cell].channels[1], padding=padding, **options)
        for name, (cell, padding) in models.items()
    }
    return Setting(training, builds, seeds[: 2 if increment else 1] if few else seeds, options)


def series(periods: dict[str, tuple[str, str]], source: str | Path | None = None, device: str = "auto") -> xr.DataArray:
    """Geopotential of the periods' years, lazily opened; ``source`` as in ``geopotential``."""
    first, last = years(periods)
    if source is None:
        path = home() / "data" / f"barotropic_{first}-{last}.nc"
        return open_series(barotropic.generate(path, first, last, device=device), "z")
    if not str(source).rstrip("/").endswith(".zarr"):
        return weatherbench1(source, years=(first, last))
    path = home() / "data" / f"era5_z500_{first}-{last}.nc"
    return open_series(weatherbench2(source, path, years=(first, last)), "z")
