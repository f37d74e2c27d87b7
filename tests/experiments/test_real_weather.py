"""The experiments on real weather, on made-up records of their shape."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data.series import write_series
from minconv.experiments import geopotential, real_weather
from minconv.training import Training, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def waves(first: str, steps: int, hours: int, lat: np.ndarray, lon: np.ndarray, name: str = "z") -> xr.DataArray:
    """Waves that go east, a third of the way round the globe a week, on a mean that depends on latitude."""
    times = np.datetime64(first, "ns") + np.arange(steps) * np.timedelta64(hours, "h")
    phase = np.arange(steps)[:, None, None] * hours / 24 / 3
    values = 5e4 + 50 * lat[:, None] + 1e3 * np.cos(np.radians(lat))[:, None] * np.cos(3 * np.radians(lon) - phase)
    coordinates = {"time": times, "lat": lat, "lon": lon}
    attrs = {"units": "m2 s-2", "source": "waves", "long_name": "waves"}
    return xr.DataArray(values.astype(np.float32), coordinates, tuple(coordinates), name, attrs)


@pytest.fixture
def records(monkeypatch, tmp_path):
    """In place of the public records and of the barotropic model."""
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    europe = np.arange(30, 56, 2.5), np.arange(-15, 16, 2.5)
    globe = np.arange(-87.1875, 90, 5.625), np.arange(0, 360, 5.625)
    three = {name: waves("2000-01-01T12", 4018, 24, *europe, name) for name in ("z", "t", "msl")}
    blocks = waves("2021-02-14T06", 145, 6, *globe), waves("2021-04-08T00", 136, 6, *globe)
    monkeypatch.setattr(real_weather.public, "era_interim", lambda folder: xr.Dataset(three))
    monkeypatch.setattr(real_weather.public, "gfs", lambda folder: blocks)

    def generated(path, first, last, **_):
        return write_series(path, waves(f"{first}-01-01", 1460 * (last - first + 1), 6, *globe))

    monkeypatch.setattr(geopotential.barotropic, "generate", generated)


def test_what_is_trained_in_each_profile(records):
    study, laptop, smoke = (real_weather.europe(name) for name in ("study", "laptop", "smoke"))
    assert list(study.settings) == ["recipe", "published"] and list(laptop.settings) == ["recipe"]
    assert [len(one.settings["recipe"].models) for one in (study, laptop, smoke)] == [5, 2, 2]
    assert len(study.settings["recipe"].seeds) == 2 and smoke.settings["recipe"].training == real_weather.SHORT
    recipe, published = (setting.training for setting in study.settings.values())
    assert (recipe.context, recipe.horizon) == (published.context, published.horizon) == (8, 6)
    assert published.weight_decay == 0.01 and published.optimizer == "adam"
    for model in (setting.models["minconvlstm"](1) for setting in study.settings.values()):
        assert model.channels == 3 and model.size == (11, 13) and model.cells[0].conv.padding == "replicate"
    dates = [np.datetime64(date) for part in ("train", "validation", "test") for date in real_weather.EUROPE[part]]
    assert dates == sorted(dates)


@pytest.mark.slow
def test_the_globe_goes_on_from_the_stand_in(records):
    """Fine-tuned models begin with the weights of the stand-in, and see frames in the units that these know."""
    before = real_weather.stand_in("smoke", device="cpu")
    before = replace(before, settings={"recipe": _one(before.settings["recipe"])})
    before.train()
    globe = real_weather.globe("smoke", device="cpu")
    assert [len(part.time) for part in globe.task.parts.values()] == [97, 48, 136]
    torch.testing.assert_close(globe.task._scale, before.task._scale)
    (run,) = before.runs("recipe")["minconvlstm"]
    begun = globe.settings["fine-tuned"].models["minconvlstm"](run.seeds[0]).state_dict()
    for name, weight in load_weights(run.folder)[run.seeds[0]].items():
        assert torch.equal(begun[name], weight)
    alone = before.evaluate(task=globe.task)
    assert alone.rmse.notnull().all() and alone.attrs["starts"] == len(globe.task.starts)
    training = Training(context=4, horizon=2, epochs=4, batch=1, noise=0.0)
    longer = replace(globe, settings={"fine-tuned": replace(_one(globe.settings["fine-tuned"]), training=training)})
    longer.train()
    tuned, still = (found.rmse.sel(model="minconvlstm").isel(lead_time=0) for found in (longer.evaluate(), alone))
    assert (tuned.values < still.values).all()


def _one(setting):
    return replace(setting, models={"minconvlstm": setting.models["minconvlstm"]})
