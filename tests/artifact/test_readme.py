"""What the README says is so: its example runs, its table is made from the numbers, its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import ROOT
from PIL import Image

from minconv.artifact import readme
from minconv.core.cells import CELLS
from minconv.core.gates import GATINGS
from minconv.experiments import series
from minconv.models import MODELS
from minconv.runtime.names import STYLE

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROAD, CLIPS, AHEAD, CELL = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_examples_are_short():
    assert all(sum(bool(line.strip()) for line in code.splitlines()) <= 10 for code in (ROAD, CLIPS, AHEAD, CELL))


def test_a_cell_in_a_model_of_your_own():
    names = {}
    exec(CELL, names)
    assert names["y"].shape == (2, 100, 16, 32, 32)


@pytest.mark.slow
def test_a_file_of_your_own(tmp_path, monkeypatch, one_thread):
    """Descending latitudes, a calendar without leap years, packed integers; a shorter training than by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(series, "UPDATES", 20)
    times = xr.date_range("2000-01-01", periods=11 * 365, freq="D", calendar="noleap", use_cftime=True)
    lat, lon = np.arange(55.0, 30, -5), np.arange(-15.0, 15, 5)
    values = np.random.default_rng(0).normal(280, 10, (len(times), len(lat), len(lon))).round(2)
    values[1:] += values[:-1] - 280
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 270.0, "_FillValue": -32768}
    dims = ("time", "latitude", "longitude")
    fields = {
        "z": (dims, 200 * values, {"units": "m**2 s**-2"}),
        "t": (dims, values, {"units": "K"}, packed),
        "msl": (dims, 1e5 + values, {"units": "Pa"}),
    }
    file = xr.Dataset(
        fields,
        {
            "time": times,
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        },
    )
    file.to_netcdf("europe.nc", engine="h5netcdf")
    names = {}
    exec(ROAD, names)
    assert names["week"].sizes == {"init_time": 1, "lead_time": 7, "lat": 5, "lon": 6}
    assert names["week"].z.units == "m2 s-2" and names["week"].lat[0] == 35 and abs(names["week"].t.mean() - 280) < 20
    compared = {"persistence", "damped persistence", "climatology", "ridge regression", "minconvlstm", "convlstm"}
    assert {*names["scores"].model.values.tolist()} == compared | {"stack"}
    # half of an anomaly is that of the day before
    rmse = names["scores"].rmse.sel(variable="t").isel(seed=0, lead_time=0)
    assert rmse.sel(model="stack") < 0.9 * rmse.sel(model="climatology")


@pytest.mark.slow
def test_clips_of_your_own(tmp_path, monkeypatch, one_thread):
    """A square that goes one cell to the right a frame, and another process that lets it go on."""
    monkeypatch.chdir(tmp_path)
    clips = np.zeros((36, 20, 1, 8, 8), np.uint8)
    for number, clip in enumerate(clips):
        for t, frame in enumerate(clip):
            columns = (number % 8 + t + np.arange(3)) % 8
            frame[0, number % 5 : number % 5 + 3, columns] = 255
    np.save("clips.npy", clips)
    exec(CLIPS, {})
    assert "normalisation" in Path("clips_model", "config.json").read_text()
    subprocess.run([sys.executable, "-c", AHEAD], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    with Image.open("ahead.gif") as gif:
        assert gif.n_frames == 10 and gif.size == (8, 8)
    with xr.open_dataset("ahead.nc") as found:
        ahead = found.video.values
    assert ahead.shape == (10, 1, 8, 8) and ahead.min() >= 0 and ahead.max() <= 255
    error = np.abs(ahead - clips[-1, 10:]).mean()
    still = np.abs(clips[-1, 9:10].astype(float) - clips[-1, 10:]).mean()
    assert error < 0.5 * still


@pytest.mark.slow
def test_one_of_each_outside_the_package(tmp_path, monkeypatch, one_thread):
    """The page that says how to add a cell, a model, a data set; what it registers is taken back."""
    monkeypatch.chdir(tmp_path)
    page, names = (ROOT / "minconv" / "README.md").read_text(encoding="utf-8"), {}
    try:
        exec("".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), names)
    finally:
        for registry, name in ((CELLS, "slowgru"), (MODELS, "slowgru"), (STYLE, "slowgru"), (GATINGS, "slow")):
            registry.pop(name, None)
    rmse = names["errors"].rmse.mean("time").squeeze()
    assert rmse.model.values.tolist() == ["persistence", "advection", "slowgru"]
    assert rmse.sel(model="advection") < 0.1 * rmse.sel(model="persistence")  # which it can be exactly
    assert rmse.sel(model="slowgru") < 0.8 * rmse.sel(model="persistence")


def test_table_is_of_the_committed_numbers():
    assert readme.main(["--check"]) == 0


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) >= 8
    for link in links:
        assert (ROOT / link).exists(), link


def test_commands_are_those_of_the_script():
    commands = re.findall(r"^(\./run_all\.sh[^#\n]*)", README, re.MULTILINE)
    assert [command.strip() for command in commands] == ["./run_all.sh", "./run_all.sh test"]
