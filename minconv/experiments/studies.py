"""The experiments on weather: 500 hPa geopotential on the globe, and a regional series of air temperature.

A study says which models are trained on which part of a series, and how forecasts from it are verified. Its runs are
made and kept as those of :mod:`minconv.experiments.presets` are. Notebooks call these functions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from minconv.data import barotropic
from minconv.data import series as gridded
from minconv.data.windows import pieces
from minconv.evaluation import weather
from minconv.evaluation.errors import ModelSeed, collect
from minconv.experiments import presets
from minconv.experiments.presets import Profile, build_model, get_profile, home, runs_of, trained
from minconv.runtime import processes
from minconv.runtime.checks import choice
from minconv.runtime.device import pick_device
from minconv.training.fit import Run, Training, fit_all

# hidden channels that give every model about 35,000 parameters
HIDDEN = {"convgru": 14, "convlstm": 12, "minconvgru": 24, "minconvlstm": 20, "minconvexplstm": 20}

PUBLISHED = replace(presets.PUBLISHED, horizon=4, epochs=20, lr=1e-3, noise=0.0)
ADAM = replace(PUBLISHED, weight_decay=0.0, context=16, horizon=8)
RECIPE = replace(presets.RECIPE, context=16, horizon=8, epochs=20, noise=0.0)
BASELINES = ("persistence", "damped persistence", "climatology")
DAYS = 7  # of a forecast


@dataclass(frozen=True)
class Setting:
    """A way to train, and what is trained so.

    Args:
        models: cell and padding by name.
        increment: whether models predict what is added to a frame, or the frame.
    """

    training: Training
    models: dict[str, tuple[str, str]]
    seeds: tuple[int, ...]
    increment: bool = False


@dataclass(frozen=True)
class Study:
    """An experiment on a gridded series.

    Args:
        name: the folder of its runs.
        profile: what it is a part of.
        periods: first and last date of ``train``, ``validation`` and ``test``, as xarray selects by: ("1979", "2014").
        settings: by name, all with windows of the same length.
        context: frames that a test forecast is made from.
        every: days from one test forecast to the next, in turn.
        coarsen: cells of the source, in each direction, that make one of the models'.
        anomalies: whether the models' frames are anomalies from the climatology of ``train``, or the fields themselves.
    """

    name: str
    profile: Profile
    periods: dict[str, tuple[str, str]]
    settings: dict[str, Setting]
    context: int = 20
    every: tuple[float, ...] = (3, 4)
    coarsen: int = 1
    anomalies: bool = False

    @property
    def years(self) -> tuple[int, int]:
        """The first and the last one of all periods."""
        dates = [date for period in self.periods.values() for date in period]
        return int(min(dates)[:4]), int(max(dates)[:4])

    def split(self, series: xr.DataArray) -> dict[str, xr.DataArray]:
        """The periods of a series over (time, lat, lon), on the models' grid and in memory.

        Raises:
            ValueError: a period has too few frames for a window of training or a forecast.
        """
        step = series.time.values[1] - series.time.values[0]
        needed = {"train": 2 * self.window, "validation": 2 * self.window, "test": self.context + self.steps(step)}
        parts = {}
        for part, (first, last) in self.periods.items():
            found = series.sel(time=slice(first, last))
            if found.sizes["time"] < needed[part]:
                raise ValueError(
                    f"series must have at least {needed[part]} frames from {first} to {last} ({part}); "
                    f"got {found.sizes['time']}"
                )
            parts[part] = (gridded.coarsen(found, self.coarsen) if self.coarsen > 1 else found).load()
        return parts

    @property
    def window(self) -> int:
        """Frames that a model is trained on at once."""
        training = next(iter(self.settings.values())).training
        return training.context + training.horizon

    @staticmethod
    def steps(step: np.timedelta64) -> int:
        """Frames of a forecast, a ``step`` apart."""
        return round(DAYS * weather.DAY / step)

    def climatology(self, data: dict[str, xr.DataArray]) -> weather.Climatology | None:
        """What the models' frames are anomalies from, if they are."""
        return weather.Climatology(data["train"]) if self.anomalies else None

    def frames(self, data: dict[str, xr.DataArray], part: str) -> torch.Tensor:
        """The models' frames [T, 1, H, W] of a period, in the units of the series."""
        climatology = self.climatology(data)
        found = data[part] if climatology is None else data[part] - climatology.at(data[part].time)
        return gridded.frames(found)

    def scaled(self, model: torch.nn.Module, data: dict[str, xr.DataArray]) -> weather.Scaled:
        """A model of frames normalised with the mean and deviation of ``train``, as one of frames as they are."""
        train = self.frames(data, "train").double()
        return weather.Scaled(model, train.mean(), train.std())

    def runs(self, data: dict[str, xr.DataArray], setting: str, device: str = "auto") -> list[Run]:
        """Every model and seed to train for a setting."""
        chosen = self.settings[choice("setting", setting, self.settings)]
        options = {"layers": 3, "size": data["train"].shape[1:], "increment": chosen.increment}
        builds = {
            name: partial(build_model, cell, hidden=HIDDEN[cell], padding=padding, **options)
            for name, (cell, padding) in chosen.models.items()
        }
        folder = self.profile.folder / "runs" / self.name / setting
        return runs_of(builds, chosen.seeds, chosen.training, folder, device)

    def train(self, data: dict[str, xr.DataArray], device: str = "auto") -> dict[str, list[Path]]:
        """Trains every setting, model and seed, or what is left of it; the folders of the runs by setting."""
        normalise = self.scaled(torch.nn.Identity(), data).normalise
        frames = (normalise(self.frames(data, part)) for part in ("train", "validation"))
        train, validation = (pieces(x, self.window).to(pick_device(device)) for x in frames)
        runs = {setting: self.runs(data, setting, device) for setting in self.settings}
        fit_all([run for wanted in runs.values() for run in wanted], train, validation, device=device)
        return {setting: [run.folder for run in wanted] for setting, wanted in runs.items()}

    def trained(
        self, data: dict[str, xr.DataArray], setting: str, device: str = "auto"
    ) -> Iterator[tuple[str, int, weather.Scaled]]:
        """Model, seed and trained forecaster in the units of the series, one after another."""
        scale = self.scaled(torch.nn.Identity(), data)  # once for all models
        for name, seed, model in trained(self.runs(data, setting, device), device):
            yield name, seed, weather.Scaled(model, scale.mean, scale.std).to(pick_device(device))

    def starts(self, test: xr.DataArray) -> tuple[xr.DataArray, int]:
        """When test forecasts begin, and how many frames they have: two a week, ``DAYS`` long."""
        steps = self.steps(test.time.values[1] - test.time.values[0])
        return weather.init_times(test, self.context, steps, self.every), steps

    def evaluate(self, data: dict[str, xr.DataArray], setting: str, device: str = "auto") -> xr.Dataset:
        """Scores (``weather.scores``) of every model, seed and baseline on the test period; dims model, seed, ...

        Under ``torchrun`` every process calls this, forecasts with its share of the models, and has the whole result.
        """
        test = data["test"]
        starts, steps = self.starts(test)
        climatology = weather.Climatology(data["train"])
        truth = weather.verification(test, starts, steps)
        base = climatology if self.anomalies else None
        baselines = (
            lambda: weather.persistence(test, starts, steps),
            lambda: weather.DampedPersistence(data["train"], climatology, steps).forecast(test, starts),
            lambda: climatology.at(truth.valid_time),
        )
        forecasts = [((name, None), make) for name, make in zip(BASELINES, baselines, strict=True)]
        forecasts += [
            ((name, seed), partial(weather.forecasts, model, test, starts, self.context, steps, base))
            for name, seed, model in self.trained(data, setting, device)
        ]

        def scores(entry: tuple[ModelSeed, Callable[[], xr.DataArray]]) -> tuple[ModelSeed, xr.Dataset]:
            model, forecast = entry
            return model, weather.scores(forecast(), truth, climatology)

        return collect(processes.each(scores, forecasts))


def geopotential(profile: str | None = None) -> Study:
    """500 hPa geopotential, forecast a week ahead on 16 x 32; on a profile as ``presets.get_profile`` takes it.

    The setting ``published`` is the paper's, and ``no weight decay`` the same without it, for two of the cells. In
    ``recipe`` models predict what is added to a frame, more of the same window is in closed loop, without which a
    week's forecast may drift away, and the optimiser is that of ``Training()``; ``recipe with Adam`` is the same with
    Adam at the published learning rate, for the two cells.
    """
    profile = get_profile(profile)
    cells = {cell: (cell, "cylinder") for cell in HIDDEN}
    pair = {cell: cells[cell] for cell in ("convlstm", "minconvlstm")}
    seeds = profile.seeds
    settings = {
        "recipe": Setting(RECIPE, cells | {"sphere": ("minconvlstm", "sphere")}, seeds, increment=True),
        "recipe with Adam": Setting(ADAM, pair, seeds, increment=True),
        "published": Setting(PUBLISHED, cells, seeds),
        "no weight decay": Setting(replace(PUBLISHED, weight_decay=0.0), pair, seeds),
    }
    periods = {"train": ("1979", "2014"), "validation": ("2015", "2016"), "test": ("2017", "2018")}
    less: dict[str, Any] = {}
    if profile.name == "laptop":
        periods["train"] = ("2011", "2014")
        less = {"epochs": 4}
    if profile.name == "smoke":
        periods = {
            "train": ("2017-01-01", "2017-12-31"),
            "validation": ("2018-01-01", "2018-01-31"),
            "test": ("2018-02-01", "2018-03-15"),
        }
        less = {"epochs": 1, "batch": 8, "context": 8, "horizon": 4}
    for name, setting in settings.items() if less else ():
        fewer = seeds[: 2 if setting.increment else 1]
        settings[name] = replace(setting, training=replace(setting.training, **less), seeds=fewer)
    return Study("geopotential", profile, periods, settings, coarsen=2)


def geopotential_series(study: Study, source: str | Path | None = None, device: str = "auto") -> xr.DataArray:
    """The series of a study's years, opened lazily.

    Args:
        source: None for the offline stand-in, the barotropic model, generated first where it is not there yet; else
            where ERA5 is: a folder of WeatherBench 1 files, or the path or URL of a WeatherBench 2 Zarr store, from
            which the years are fetched once.
    """
    first, last = study.years
    if source is None:
        path = home() / "data" / f"barotropic_{first}-{last}.nc"
        return gridded.open_series(barotropic.generate(path, first, last, device=device), "z")
    if not str(source).rstrip("/").endswith(".zarr"):
        return gridded.weatherbench1(source, years=study.years)
    path = home() / "data" / f"era5_z500_{first}-{last}.nc"
    return gridded.open_series(gridded.weatherbench2(source, path, years=study.years), "z")


def air_temperature(profile: str | None = None) -> Study:
    """Air temperature over North America, a region with edges, forecast a week ahead: the tutorial series of xarray."""
    profile = get_profile(profile)
    training = replace(RECIPE, context=20, horizon=12, epochs=12)
    if profile.name == "smoke":
        training = replace(training, context=8, horizon=4, epochs=1, batch=8)
    models = {"minconvlstm": ("minconvlstm", "replicate")}
    periods = {
        "train": ("2013-01-01", "2014-03-31"),
        "validation": ("2014-04-01", "2014-05-31"),
        "test": ("2014-06-01", "2014-12-31"),
    }
    settings = {"recipe": Setting(training, models, profile.seeds[:2], increment=True)}
    return Study("air_temperature", profile, periods, settings, every=(1.25,), anomalies=True)


def air_temperature_series(study: Study) -> xr.DataArray:
    """The tutorial series ``air_temperature``: 6-hourly, 2013 and 2014, from data/air_temperature.nc if it is there.

    Else xarray's tutorial fetches it, once; the smoke profile asks no network. Where there is none, a stand-in: the
    same region and years of the barotropic model's geopotential, which its ``source`` says.
    """
    path = home() / "data" / "air_temperature.nc"
    if not path.exists() and study.profile.name != "smoke":
        try:
            path = Path(xr.tutorial.open_dataset("air_temperature").encoding["source"])
        except OSError as error:  # of requests, too
            print(f"no air_temperature.nc in {path.parent}, and none could be fetched: {error}")
    if path.exists():
        about = {"source": "NCEP/NCAR Reanalysis 1", "long_name": "air temperature", "units": "K"}
        return gridded.open_series(path, "air").assign_attrs(about)
    first, last = study.years
    path = barotropic.generate(home() / "data" / f"barotropic_{first}-{last}.nc", first, last)
    return gridded.open_series(path, "z").sel(lat=slice(15, 75), lon=slice(200, 330))
