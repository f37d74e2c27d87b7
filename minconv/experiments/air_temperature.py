"""Air temperature over North America, a region with edges, a week ahead: the tutorial series of xarray."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import xarray as xr

from minconv.data import barotropic, open_series
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import Profile, get_profile, home
from minconv.experiments.recipes import RECIPE
from minconv.experiments.tasks import Series, split, years
from minconv.models import MODELS, build_model

PERIODS = {
    "train": ("2013-01-01", "2014-03-31"),
    "validation": ("2014-04-01", "2014-05-31"),
    "test": ("2014-06-01", "2014-12-31"),
}
ABOUT = {"source": "NCEP/NCAR Reanalysis 1", "long_name": "air temperature", "units": "K"}


def air_temperature(profile: str | Profile | None = None, device: str = "auto") -> Experiment:
    """MinConvLSTM on anomalies from the climatology, predicting increments; opens the series, see ``series``."""
    profile = get_profile(profile)
    training = replace(RECIPE, context=20, horizon=12, epochs=12, noise=0.0)
    if not profile.learned:
        training = replace(training, context=4, horizon=2, epochs=1, batch=64)
    found = series(fetch=profile.learned)
    options = {"layers": 3, "size": found.shape[1:], "padding": "replicate", "increment": True}
    build = partial(build_model, "minconvlstm", hidden=MODELS["minconvlstm"].channels[1], **options)
    recipe = Setting(training, {"minconvlstm": build}, profile.seeds[:2], options)

    def load(on: torch.device) -> Series:
        parts = split(found, PERIODS, 2 * recipe.window)
        return Series(parts, recipe.window, every=(1.25,), anomalies=True, device=on)

    return Experiment("air_temperature", profile, {"recipe": recipe}, load, device)


def series(fetch: bool = True) -> xr.DataArray:
    """6-hourly air temperature of 2013 and 2014 from data/air_temperature.nc; else xarray's tutorial fetches it, once.

    Where there is no network, or none is to be asked, a stand-in: the same region and years of the barotropic model's
    geopotential, which its ``source`` says.
    """
    path = home() / "data" / "air_temperature.nc"
    if fetch and not path.exists():
        try:
            path = Path(xr.tutorial.open_dataset("air_temperature").encoding["source"])
        except OSError as error:  # of requests, too
            print(f"no air_temperature.nc in {path.parent}, and none could be fetched: {error}")
    if path.exists():
        return open_series(path, "air").assign_attrs(ABOUT)
    first, last = years(PERIODS)
    path = barotropic.generate(home() / "data" / f"barotropic_{first}-{last}.nc", first, last)
    return open_series(path, "z").sel(lat=slice(15, 75), lon=slice(200, 330))
