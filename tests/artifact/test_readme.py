"""What the README says is so: its example runs, its table is made from the numbers, its links lead somewhere."""

import re

import numpy as np
import torch
import xarray as xr
from helpers import ROOT

from minconv.artifact import readme

README = (ROOT / "README.md").read_text(encoding="utf-8")
FORECAST, CELL = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_examples_are_short():
    assert all(sum(bool(line.strip()) for line in code.splitlines()) <= 10 for code in (FORECAST, CELL))


def test_a_cell_in_a_model_of_your_own():
    names = {}
    exec(CELL, names)
    assert names["y"].shape == (2, 100, 16, 32, 32)


def test_a_file_of_your_own(tmp_path, monkeypatch):
    """Descending latitudes, a calendar without leap years, packed integers."""
    monkeypatch.chdir(tmp_path)
    times = xr.date_range("2013-02-20", periods=60, freq="6h", calendar="noleap", use_cftime=True)
    lat, lon = np.arange(75.0, 15, -5), np.arange(200.0, 330, 10)
    values = np.random.default_rng(0).normal(280, 10, (60, 12, 13)).round(2)
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 270.0, "_FillValue": -32768}
    file = xr.Dataset(
        {"air": (("time", "lat", "lon"), values, {"units": "degK"}, packed)},
        {
            "time": times,
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    )
    file.to_netcdf("my_file.nc", engine="h5netcdf")
    names = {"model": lambda frames, horizon: torch.cat([frames, frames[:, -1:].repeat(1, horizon, 1, 1, 1)], 1)}
    exec(FORECAST, names)
    assert names["week"].sizes == {"init_time": 1, "lead_time": 28, "lat": 12, "lon": 13}
    assert names["week"].units == "degK" and names["week"].lat[0] == 20
    np.testing.assert_allclose(names["week"][0, 27], values[-1, ::-1], atol=1e-3)


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
