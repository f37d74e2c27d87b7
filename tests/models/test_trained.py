"""The trained models that come with the package: whole, described, with the errors that are committed beside them."""

import json
import tomllib

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import REFERENCE, ROOT, arrays

import minconv
from minconv.artifact.weights import CASES_FILE, page
from minconv.data import navier_stokes as solver
from minconv.data.grid import area_weights
from minconv.evaluation import forecast, rollout
from minconv.evaluation.errors import PARTS, sample_errors
from minconv.experiments.navier_stokes import CONTEXT, SPLITS, new_trajectory
from minconv.models import MODELS
from minconv.models.trained import FOLDER, names

pytestmark = pytest.mark.usefixtures("one_thread")

ERRORS = json.loads((FOLDER / "errors.json").read_text())
FLOW = [name for name in names() if name.startswith("navier_stokes/")]
WEATHER = [name for name in names() if name not in FLOW]


def test_every_cell_and_both_weathers_are_there_and_small():
    assert sorted(f"navier_stokes/{cell}" for cell in MODELS) == FLOW
    assert [name.split("/")[0] for name in WEATHER] == ["air_temperature", "geopotential"]
    assert {name for name, row in ERRORS["models"].items() if "seed" in row} == set(names())
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 8e6


def test_an_installed_package_has_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["minconv"]
    installed = {path for pattern in patterns for path in (ROOT / "minconv").glob(pattern)}
    assert {path for path in FOLDER.rglob("*") if path.is_file()} <= installed


def test_the_page_beside_them_is_up_to_date():
    assert (FOLDER / "README.md").read_text() == page(ERRORS)


def test_another_name_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"air_temperature/minconvlstm, .*navier_stokes/convgru"):
        minconv.load("minconvlstm")


@pytest.mark.parametrize(("name", "factor"), [(WEATHER[0], 50), (WEATHER[1], 0.1), (FLOW[0], 20)])
def test_frames_in_other_units_are_refused(name, factor):
    model = minconv.load(name)
    frames = torch.full((3, 1, *model.size), float(model.frames["range"][1]))
    assert model.predict(frames, 2).isfinite().all()
    with pytest.raises(ValueError, match=f"frames must be {model.frames['quantity']} in {model.frames['units']}, "):
        model.predict(factor * frames, 2)


def cases(name: str) -> dict[str, torch.Tensor]:
    """The committed test forecasts."""
    return arrays(REFERENCE / CASES_FILE.format(name.split("/")[0]))


def series(name: str, hours: int = 6, shift: float = 0, factor: float = 1) -> xr.DataArray:
    """The frames of a test forecast with dates, on the model's grid or one that is shifted."""
    frames = minconv.load(name).frames
    values = factor * cases(name)["frames"][0, :, 0].numpy()
    times = np.datetime64("2020-01-01", "ns") + np.timedelta64(hours, "h") * np.arange(len(values))
    coordinates = {"time": times, "lat": np.array(frames["lat"]) + shift, "lon": frames["lon"]}
    return xr.DataArray(values, coordinates, tuple(coordinates), "z", {"units": frames["units"]})


@pytest.mark.parametrize("name", WEATHER)
def test_a_series_that_is_not_the_models_is_refused(name):
    model = minconv.load(name)
    ahead = forecast(model, series(name)[:20], 2)
    frames = torch.from_numpy(series(name)[:20].values).unsqueeze(1)
    np.testing.assert_allclose(ahead[0], model.predict(frames, 2)[:, 0], rtol=1e-5)
    for other, words in (
        (series(name, hours=12), "a frame every 6 h, as the model was trained; got one every 12 h"),
        (series(name, shift=0.5), f"the model's grid, lat {len(model.frames['lat'])} from "),
        (series(name, factor=100), f"frames must be {model.frames['quantity']}"),
    ):
        with pytest.raises(ValueError, match=words):
            forecast(model, other, 2)


def flow_errors(name: str, samples: int) -> np.ndarray:
    """Teacher-forced and closed-loop RMSE of the first test trajectories, solved again."""
    seed = list(SPLITS).index("test")
    truth = torch.cat([new_trajectory(number, SPLITS["test"], seed) for number in range(samples)])
    found = sample_errors(rollout(minconv.load(name), truth, CONTEXT), truth, CONTEXT)
    return np.array([found[part].values for part in PARTS])


@pytest.mark.parametrize("name", FLOW[:1])
def test_one_trajectory_of_the_flow_has_the_committed_errors(name):
    committed = [ERRORS["models"][name][part][:1] for part in PARTS]
    np.testing.assert_allclose(flow_errors(name, 1), committed, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOW)
def test_trajectories_of_the_flow_have_the_committed_errors(name):
    committed = [ERRORS["models"][name][part][:3] for part in PARTS]
    np.testing.assert_allclose(flow_errors(name, 3), committed, rtol=1e-3)


@pytest.mark.parametrize("name", WEATHER)
def test_forecasts_of_the_weather_have_the_committed_errors(name):
    model, row = minconv.load(name), ERRORS["models"][name]
    frames, context = cases(name)["frames"], int(cases(name)["context"])
    steps = frames.shape[1] - context
    error = (model.predict(frames[:, :context], steps) - frames[:, context:]).double().numpy()
    area = area_weights(np.array(model.frames["lat"]))[:, None]
    rmse = np.sqrt((area * error**2).mean((2, 3, 4)))
    np.testing.assert_allclose(rmse, row["cases"], rtol=1e-3)
    assert row["lead_hours"] == [6 * step for step in range(1, steps + 1)]


def test_a_new_trajectory_is_what_the_generator_writes(tmp_path):
    path = solver.generate(tmp_path / "one.nc", 1, 3, seed=4, first=5)
    assert torch.equal(new_trajectory(5, 3), solver.frames(path))
    assert not torch.equal(new_trajectory(5, 3), new_trajectory(6, 3))
