"""What makes the trained models of the package, on small ones."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import build, waves

from minconv import Forecaster
from minconv.artifact.weights import CASES, CASES_FILE, flow_models, weather_model
from minconv.evaluation.errors import summary
from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.tasks import Series, Trajectories, split
from minconv.training import Training

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

TRAINING = Training(context=2, horizon=1, epochs=2, batch=2)


def experiment(name, folder, load, seeds=(1,), **options) -> Experiment:
    models = {"minconvlstm": partial(build, **options), "convgru": partial(build, cell="convgru", **options)}
    made = Experiment(name, folder, {"recipe": Setting(TRAINING, models, seeds)}, load, "cpu")
    made.train()
    return made


def test_every_model_of_the_flow_is_kept_with_errors_by_trajectory(tmp_path):
    data = waves(6), waves(3, seed=1), waves(4, seed=2)
    flow = experiment("navier_stokes", tmp_path / "runs", lambda device: Trajectories(*data, context=3))
    rows, committed = flow_models(flow, tmp_path / "weights"), summary(flow.evaluate())
    assert list(rows) == [f"navier_stokes/{name}" for name in ("minconvlstm", "convgru", "persistence")]
    for name, row in rows.items():
        for part, values in committed.sel(model=name.split("/")[1]).items():
            assert len(row[part]) == 4 and np.sqrt(np.square(row[part]).mean()) == pytest.approx(
                values.item(), rel=1e-5
            )
    row, model = rows["navier_stokes/convgru"], Forecaster.from_pretrained(tmp_path / "weights/navier_stokes/convgru")
    assert row["seed"] == 1 and row["epochs"] == 2 and row["best_epoch"] in (1, 2) and row["trained_on"]["torch"]
    assert model.frames["range"] == [data[0].min().item(), data[0].max().item()] and model.normalisation is None
    json.dumps(rows)


def test_the_weather_is_kept_by_its_validation(tmp_path):
    times = np.datetime64("2000-01-01", "ns") + np.timedelta64(6, "h") * np.arange(400)
    coordinates = {"time": times, "lat": [0.0, 10, 20, 30], "lon": [0.0, 10, 20, 30]}
    values = 100 + 5 * np.sin(np.arange(400)[:, None, None] / 3 + np.arange(4)[:, None] + np.arange(4)).astype(
        "float32"
    )
    series = xr.DataArray(values, coordinates, ("time", "lat", "lon"), "z", {"units": "K"})
    periods = {
        "train": ("2000-01", "2000-02"),
        "validation": ("2000-03-01", "2000-03-15"),
        "test": ("2000-03-16", "2000"),
    }

    def load(device: torch.device) -> Series:
        return Series(split(series, periods, 6), 3, context=4, every=(1,), days=1, ridge=0)

    air = experiment("air", tmp_path / "runs", load, seeds=(1, 2), increment=True)
    rows = weather_model(air, {"quantity": "q", "units": "K", "step": "6 h"}, tmp_path / "weights", tmp_path)
    (name, row), _ = rows.items()
    held = Series({**air.task.parts, "test": air.task.parts["validation"]}, 3, context=4, every=(1,), days=1, ridge=0)
    errors = {
        (f"air/{cell}", seed): float(held.errors(held.forecaster(model)).mse.mean())
        for cell, seed, model in air.trained()
    }
    assert min(errors, key=errors.get) == (name, row["seed"]) and len(errors) == 4
    model = Forecaster.from_pretrained(tmp_path / "weights" / name)
    with np.load(tmp_path / CASES_FILE.format("air")) as cases:
        frames = torch.from_numpy(cases["frames"])
    assert frames.shape == (CASES, 8, 1, 4, 4) and model.frames["lat"] == coordinates["lat"]
    assert abs(frames.mean() - 100) < 3 and row["lead_hours"] == [6, 12, 18, 24]
    error = model.predict(frames[:, :4], 4) - frames[:, 4:]
    area = np.cos(np.radians(coordinates["lat"]))[:, None]
    np.testing.assert_allclose(
        np.sqrt((area * error.numpy() ** 2).sum((2, 3, 4)) / area.sum() / 4), row["cases"], rtol=0.02
    )
    json.dumps(rows)
