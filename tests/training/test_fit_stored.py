"""Training on a series that is larger than memory gives the weights that one in memory gives."""

import signal

import numpy as np
import pytest
import xarray as xr
from helpers import assert_same, build, raising, stop_at

from minconv.data import StoredPieces, open_series
from minconv.data.series import frames
from minconv.data.windows import pieces
from minconv.training import Run, Training, fit, fit_all

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = Training(context=3, horizon=1, epochs=2, batch=3, lr=1e-2)
LENGTH = 4


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A year by the day, far from zero, and what is left of it to validate."""
    place = {"lat": np.linspace(-60, 60, 4), "lon": np.arange(4) * 90.0}
    times = xr.date_range("2001-01-01", periods=60)
    values = 280 + 20 * np.random.default_rng(0).normal(size=(60, 4, 4))
    store = tmp_path_factory.mktemp("series") / "t.zarr"
    held = xr.Dataset({"t": (("time", "lat", "lon"), values.astype("f4"))}, {"time": times} | place)
    held.to_zarr(store, zarr_format=2, encoding={"t": {"chunks": (8, 4, 4)}})
    found = open_series(store, "t")
    return found[:45], found[45:]


def both(series, workers: int = 0) -> tuple[list, list]:
    """Data to train on and to validate by, stored and in memory."""
    return [StoredPieces(part, LENGTH, workers) for part in series], [pieces(frames(part), LENGTH) for part in series]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_model_learns_what_it_learns_in_memory_also_if_interrupted(series, tmp_path, workers):
    stored, held = both(series, workers)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4, raising(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(build(1), *stored, folder=tmp_path / "stored", settings=SETTINGS, device="cpu")
    models = {name: build(1) for name in ("stored", "held")}
    for (name, model), data in zip(models.items(), (stored, held), strict=True):
        fit(model, *data, folder=tmp_path / name, settings=SETTINGS, device="cpu")
    assert_same(tmp_path / "stored", tmp_path / "held")
    assert models["stored"].normalisation == models["held"].normalisation
    other = StoredPieces(series[1].roll(time=1), LENGTH, workers)
    with pytest.raises(ValueError, match="holds another run: its data is"):
        fit(build(1), stored[0], other, folder=tmp_path / "stored", settings=SETTINGS, device="cpu")


def test_several_seeds_and_float64(series, tmp_path):
    stored, held = both(series)
    for name, data in (("stored", stored), ("held", held)):
        fit(Run(build, [1, 2], tmp_path / name, SETTINGS), *data, device="cpu", precision="64-true")
    assert_same(tmp_path / "stored", tmp_path / "held")


@pytest.mark.robustness
def test_runs_are_shared_out_over_processes(series, tmp_path, monkeypatch):
    stored, held = both(series)
    monkeypatch.setattr("minconv.training.pool.WORTH_PROCESSES", 0)
    fit_all(
        [Run(build, [seed], tmp_path / f"stored_{seed}", SETTINGS) for seed in (1, 2)],
        *stored,
        device="cpu",
        processes=2,
    )
    for seed in (1, 2):
        fit(Run(build, [seed], tmp_path / f"held_{seed}", SETTINGS), *held, device="cpu")
        assert_same(tmp_path / f"stored_{seed}", tmp_path / f"held_{seed}")
