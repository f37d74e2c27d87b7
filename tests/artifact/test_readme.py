"""What the pages say is so: their code runs, their tables are made from the numbers, their links lead somewhere."""

import json
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

from minconv.artifact import gallery, options, readme
from minconv.core.cells import CELLS
from minconv.core.gates import GATINGS
from minconv.evaluation.errors import summary
from minconv.experiments import series
from minconv.experiments.navier_stokes import navier_stokes
from minconv.models import MODELS
from minconv.runtime.names import STYLE

PAGES = sorted(path for path in ROOT.rglob("README.md") if not {"data", "results", ".venv"} & {*path.parts[:-1]})
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS["README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str, kind: str = "python") -> list[str]:
    """The code on a page, of that kind."""
    return [code for found, code in FENCE.findall(TEXTS[page]) if found == kind]


START, CELL, ROAD = blocks("README.md")
CLIPS, AHEAD = blocks("minconv/training/README.md")
FILM, NUMBERS, INTERVALS, ONE = blocks("figures/README.md")
# by the tests below
RUN = {"README.md": 3, "minconv/README.md": 3, "minconv/training/README.md": 2, "figures/README.md": 4}
# by tests/models/test_trained.py on frames of a test, and not at all, as it needs a file of the npm package
OTHERS = {"minconv/models/weights/README.md", "minconv/plots/natural_earth/README.md"}


def test_all_code_runs():
    assert {page: len(blocks(page)) for page in TEXTS if blocks(page) and page not in OTHERS} == RUN


@pytest.mark.parametrize("page", TEXTS)
def test_other_code_is_sound(page):
    for code in blocks(page, "py"):  # which needs more than one process
        compile(code, page, "exec")
    for code in blocks(page, "sh"):
        assert subprocess.run(["bash", "-n"], input=code, text=True).returncode == 0


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130 and len(README.split()) <= 1300
    for words in gallery.WORDS:
        assert f"> **{words}**: " in README


@pytest.mark.parametrize("page", TEXTS.keys() - {"minconv/plots/natural_earth/README.md"})
def test_no_line_of_code_is_cut(page):
    assert [line for _, code in FENCE.findall(TEXTS[page]) for line in code.splitlines() if len(line) > 98] == []


def test_examples_are_short():
    examples = START, CELL, ROAD, CLIPS, AHEAD, FILM, NUMBERS, INTERVALS, ONE
    assert all(sum(bool(line.strip()) for line in code.splitlines()) <= 10 for code in examples)


def test_a_forecast_with_trained_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(START, names)
    still = (names["flow"][:, 19:20] - names["flow"][:, 20:]).square().mean().sqrt()
    assert names["ahead"].shape == (1, 31, 1, 16, 16)
    assert names["error"] < 0.1 * still


@pytest.mark.slow
def test_the_moving_picture_is_of_that_forecast(tmp_path, monkeypatch):
    """To the eye: another processor rounds otherwise, and another version of Matplotlib draws letters otherwise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    exec(FILM, {})
    with Image.open(ROOT / "figures" / "forecast.gif") as committed, Image.open("figures/forecast.gif") as made:
        assert committed.n_frames == made.n_frames == 50 and committed.size == made.size
        for place in (0, 20, 49):
            committed.seek(place)
            made.seek(place)
            pictures = [np.asarray(gif.convert("RGB"), float) for gif in (committed, made)]
            assert np.abs(pictures[1] - pictures[0]).mean() < 3  # of 255
    assert (ROOT / "figures" / "forecast.gif").stat().st_size < 2e6


def test_numbers_are_read_in_three_lines(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(NUMBERS, names)
    assert names["last"].sizes == {"seed": 3} and (names["last"] < 0.1).all()
    assert "threads" in names["made_on"]


def test_intervals_are_computed_again(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(NUMBERS, names)
    exec(INTERVALS, names)
    shown = xr.load_dataset("figures/real_weather_europe.nc").rmse.isel(lead_time=0).mean("seed")
    low, difference, high = names["weather"].values.squeeze()
    assert low < difference < high < 0
    ratio = float(shown.sel(model="stack") / shown.sel(model="ridge regression"))
    np.testing.assert_allclose(difference, 100 * (ratio - 1), atol=1e-2)  # months differ by a forecast in length
    rows = json.loads((ROOT / "figures" / "results.json").read_text())["rows"]
    closed = {row["model"]: np.mean(row["values"]["closed_loop"]) for row in rows if row["setting"] == "recipe"}
    np.testing.assert_allclose(
        names["flow"].difference, 100 * (closed["minconvgru"] / closed["convlstm"] - 1), atol=1e-3
    )
    assert names["flow"].low < names["flow"].difference < names["flow"].high


@pytest.mark.slow
def test_one_number_is_trained_again(tmp_path, monkeypatch, one_thread):
    """In smoke size: what is kept is what the whole experiment finds."""
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    names = {}
    exec(ONE.replace('"study"', '"smoke"'), names)
    again = names["again"].sel(model="minconvlstm")
    assert again.seed.values.tolist() == [1234] and again.rmse.sizes["time"] == 50
    np.testing.assert_allclose(np.sqrt((again.closed_loop**2).mean("sample")), summary(again).closed_loop, rtol=1e-6)
    whole = navier_stokes("smoke").runs("recipe")["minconvlstm"]
    assert [run.folder.is_dir() for run in whole] == [True, False]


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
    names = {}
    try:
        exec("".join(blocks("minconv/README.md")), names)
    finally:
        for registry, name in ((CELLS, "slowgru"), (MODELS, "slowgru"), (STYLE, "slowgru"), (GATINGS, "slow")):
            registry.pop(name, None)
    rmse = names["errors"].rmse.mean("time").squeeze()
    assert rmse.model.values.tolist() == ["persistence", "advection", "slowgru"]
    assert rmse.sel(model="advection") < 0.1 * rmse.sel(model="persistence")  # which it can be exactly
    assert rmse.sel(model="slowgru") < 0.8 * rmse.sel(model="persistence")


def test_pages_are_of_the_committed_numbers():
    assert readme.main(["--check"]) == 0


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", FENCE.sub("", TEXTS[page]))
    for target, _, heading in ((one or other).partition("#") for one, other in links):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if heading:
            assert heading in anchors(path.read_text(encoding="utf-8")), f"{target}#{heading}"


@pytest.mark.parametrize("page", TEXTS)
def test_tests_that_are_named_exist(page):
    for name in re.findall(r"`(tests/[\w/.]+)`", TEXTS[page]):
        assert (ROOT / name).exists(), name


def anchors(text: str) -> set[str]:
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    words = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in words}


def test_commands_are_those_of_the_script():
    commands = re.findall(r"^(\./run_all\.sh[^#\n]*)", README + TEXTS["tests/README.md"], re.MULTILINE)
    assert {command.strip() for command in commands} == {
        "./run_all.sh --profile smoke",
        "./run_all.sh",
        "./run_all.sh test",
    }
    for command in commands:
        if "test" not in command:
            options.parse(command.split()[1:])
