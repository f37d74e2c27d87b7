"""Sentences of the pages are borne by the committed numbers: each is made of them here, and must stand there."""

import json
import re
from functools import cache

import numpy as np
import pytest
import xarray as xr
from helpers import ROOT

from minconv.experiments.navier_stokes import SIZES
from minconv.models import MODELS

MINIMAL = [name for name, model in MODELS.items() if model.minimal]


@cache
def page(name: str) -> str:
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def said(text: str, name: str = "figures/README.md") -> None:
    assert text in page(name)


@cache
def numbers(name: str) -> dict:
    return json.loads((ROOT / "figures" / f"{name}.json").read_text())


@cache
def data(name: str) -> xr.Dataset:
    path = ROOT / "figures" / f"{name}.nc"
    if not path.exists():
        return xr.Dataset.from_dict(numbers(name))
    with xr.open_dataset(path) as found:
        return found.load()


@cache
def means(name: str, column: str) -> dict[tuple[str, str], float]:
    """By setting and model."""
    return {(row["setting"], row["model"]): np.mean(row["values"][column]) for row in numbers(name)["rows"]}


def percent(ratios, digits: int = 0) -> str:
    """``4 to 9 %``: how far ratios are from 1."""
    low, high = (f"{value:.{digits}f}" for value in (np.abs(100 * (np.asarray(ratios) - 1)).min(), gap(ratios)))
    return f"{low} to {high} %" if low != high else f"{low} %"


def gap(ratios) -> float:
    return np.abs(100 * (np.asarray(ratios) - 1)).max()


def by_setting(before: str, after: str) -> np.ndarray:
    closed = means("results", "closed_loop")
    return np.array([closed[before, model] / closed[after, model] for model in MODELS])


def test_the_recipe_and_the_cell():
    folds = {name: by_setting(name, "recipe") for name in ("no weight decay", "published")}
    words = [f"{found.min():.0f}- to {found.max():.0f}-fold against *{name}*" for name, found in folds.items()]
    said(f"The recipe cuts every cell's closed-loop error {' and '.join(words)}.")
    said(f"one recipe cuts every cell's closed-loop error {' and '.join(words)};", "notebooks/08_accuracy.ipynb")
    closed = means("results", "closed_loop")
    behind = {f"{100 * (closed['recipe', model] / closed['recipe', 'convlstm'] - 1):.0f}" for model in MINIMAL[:2]}
    assert behind == {"13"} and min(MODELS, key=lambda model: closed["recipe", model]) == "convlstm"
    said("MinConvGRU and MinConvLSTM 13 % behind")


def test_weight_decay_weighs_more_than_the_cell():
    closed = means("results", "closed_loop")
    published, without = ([closed[name, model] for model in MODELS] for name in ("published", "no weight decay"))
    assert max(without) < min(published)
    said("the worst model without it beats the best with it")
    said("The worst model without weight decay beats the best with it", "README.md")


def test_cells_as_published():
    forced, closed = (means("results", part) for part in ("teacher_forced", "closed_loop"))
    minimal = [closed["published", model] for model in MINIMAL]
    assert closed["published", "convgru"] < min(minimal) and max(minimal) < closed["published", "convlstm"]
    classical = min(forced["published", model] for model in ("convgru", "convlstm"))
    assert max(forced["published", model] for model in MINIMAL) < classical


def test_rollouts_of_the_recipe():
    rmse = data("errors_recipe").rmse
    assert (rmse.drop_sel(model="persistence") < rmse.sel(model="persistence")).all()
    said("All are below persistence from the first frame on")
    long = data("long_rollouts")
    variance = long.variance_ratio.drop_sel(model="persistence").sel(time=slice(long.attrs["context"] + 1, None))
    last = variance.isel(time=slice(-20, None)).mean("time")
    told = f"{gap(variance):.0f} %, and to about {gap(last):.0f} %"
    said(f"rollouts of {variance.time.size} steps keep the flow's variance to {told} in their last 20 frames")


def test_the_optimiser_and_the_time():
    """Which are in notebook 8 alone."""
    cells = json.loads((ROOT / "notebooks" / "08_accuracy.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    text = "\n".join("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)
    pattern = r"^\| (\w+) \| (recipe|recipe with Adam) \| \S+\s±\s\S+ \| (\S+)\s±"
    rows = re.findall(pattern, text, re.MULTILINE)
    closed = {(setting, label): float(value) for label, setting, value in rows}
    ratios = [closed["recipe", label] / closed["recipe with Adam", label] for label in {label for _, label in closed}]
    assert len(ratios) == len(MODELS)
    said(f"cuts the error that remains to {min(ratios):.2f} to {max(ratios):.2f} of it")
    found = re.findall(r"-(\d) % \(-(\d+) to \+(\d+)\) \|$", text, re.MULTILINE)
    gains, lows, highs = zip(*(map(int, numbers) for numbers in found), strict=True)
    told = rf"\({gains[0]} and {gains[1]} % better[;,] intervals from {max(lows)} % better to {max(highs)} % worse\)"
    assert all(re.search(told, page(name)) for name in ("README.md", "figures/README.md"))


def test_the_scale():
    study, paper = SIZES["study"], SIZES["paper"]
    said(f"{study.samples[0]} of the paper's {paper.samples[0]} trajectories", "README.md")
    said(f"{study.epochs} of its {paper.epochs} epochs", "README.md")


def beside(name: str, base: str, **where) -> xr.DataArray:
    """RMSE of all models over that of ``base``, means over seeds."""
    rmse = data(name).rmse.sel(where).mean("seed")
    return rmse / rmse.sel(model=base)


@pytest.mark.parametrize("name, others", [("real_weather_europe", list(MODELS)), ("real_weather_atlantic", [])])
def test_real_weather(name, others):
    ratio = beside(name, "ridge regression")
    said(percent(ratio.sel(model="stack"), 1))
    if others:
        first = ratio.isel(lead_time=0)
        said(f"ConvGRU is {percent([first.sel(model='convgru')])} behind it, the minimal cells "
             f"{percent(first.sel(model=MINIMAL))}")  # fmt: skip
        assert (ratio.sel(model=others).isel(lead_time=slice(3)) > 1).all(), "none ahead before four days"


def test_the_globe():
    ratio = beside("real_weather_globe_scores", "persistence", setting="stand-in alone")
    models = ratio.sel(model=["minconvlstm", "convlstm"])
    assert (models < 1).all()
    found = models.sel(lead_time=np.timedelta64(1, "D")).values
    said("at one day by {:.0f} % (MinConvLSTM) and {:.0f} % (ConvLSTM)".format(*(100 * (1 - found))))


def test_the_stand_in():
    scores = data("geopotential_scores")
    rmse = scores.rmse.mean("seed")
    days = scores.lead_time / np.timedelta64(1, "D")
    models = rmse.sel(model=list(MODELS))

    def ahead(base, first, last):
        return bool((models < rmse.sel(model=base)).where((days >= first) & (days <= last), True).all())

    assert ahead("persistence", 0, 7) and ahead("climatology", 0, 6.5) and ahead("damped persistence", 0, 6)
    assert ahead("ridge regression", 1, 5.5) and not ahead("ridge regression", 0, 5.5)
    ratio = beside("geopotential_scores", "convlstm").sel(model=MINIMAL)
    first, later = ratio.sel(lead_time=np.timedelta64(1, "D")), ratio.sel(lead_time=scores.lead_time[[11, 19, 27]])
    said(f"the minimal cells are {percent(first)} behind it at one day and {percent(later)} from three days on")
    adam = [
        means("geopotential_results", f"rmse_{day}")["recipe with Adam", model]
        / means("geopotential_results", f"rmse_{day}")["recipe", model]
        for model in ("convlstm", "minconvlstm")
        for day in (1, 3, 5, 7)
    ]
    said(f"with Adam, errors are {percent(adam).removesuffix(' %')} % higher")
    published = data("geopotential_scores_published").rmse.mean("seed")
    better = published.sel(model=list(MODELS)) < published.sel(model="persistence")
    assert not better.isel(lead_time=slice(2)).any() and better.isel(lead_time=slice(2, 24)).all()
    said("Under the published settings every model loses to persistence at 6 and at 12 hours")
    said("and is ahead from 18 hours to six days")
    pole = data("geopotential_pole").zonal_rmse
    near = np.square(pole.where(abs(pole.lat) > 75, drop=True)).mean(("lat", "seed")) ** 0.5
    change = (near.sel(model="sphere") / near.sel(model="cylinder")).values
    said(f"poleward of 75° by {percent(change[:1])} at one day, and raises it by {percent(change[2:])} from five")


def test_air_temperature():
    ratio = beside("air_temperature_scores", "damped persistence").sel(model="minconvlstm")
    to_three = ratio.where(ratio.lead_time <= np.timedelta64(3, "D"), drop=True)
    assert (to_three < 1).all()
    said(f"the model's error is {percent(to_three)} lower up to three days")
    linear = beside("air_temperature_scores", "ridge regression").sel(model="minconvlstm")
    assert (linear.where(linear.lead_time <= np.timedelta64(6, "D"), drop=True) < 1).all()


def test_the_bottom():
    found = {name: data(f"topography_{name}").depth for name in "BC"}
    varies = [float(depth.sel(row="truth").max() - depth.sel(row="truth").min()) for depth in found.values()]
    errors = {
        row: [float(np.sqrt(np.square(depth.sel(row=row) - depth.sel(row="truth")).mean())) for depth in found.values()]
        for row in ("FINN", "four", "two")
    }
    said("to {:.2f} and {:.2f} m where depth varies by {:.0f} and {:.0f} m".format(*errors["FINN"], *varies))
    said("A fixed stencil of fourth order finds it to {:.2f} and {:.2f} m".format(*errors["four"]))
    said("one of second order ({:.1f} and {:.1f} m)".format(*errors["two"]))


def test_the_bottom_by_networks():
    errors = []
    for bottom in "BC":
        depth = data(f"topography_networks_{bottom}").depth
        rmse = np.sqrt(np.square(depth - depth.sel(row="truth")).mean(("x", "y")))
        errors += rmse.drop_sel(row=["truth", "FINN"]).values.tolist()
        assert errors[-1] > 2 * rmse.sel(row="FINN")
    said(f"shown 256 other bottoms instead, find it to {min(errors):.1f} to {max(errors):.1f} m.")
