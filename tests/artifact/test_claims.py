"""Sentences of the pages are borne by the committed numbers: each is made of them here, and must stand there."""

import json
import re
from functools import cache

import numpy as np
import pytest
import xarray as xr
from helpers import ROOT

from minconv.experiments.claims import error_findings
from minconv.experiments.navier_stokes import SIZES
from minconv.experiments.report import minutes_to
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
    gru, lstm = (100 * (closed["recipe", model] / closed["recipe", "convlstm"] - 1) for model in MINIMAL[:2])
    assert min(MODELS, key=lambda model: closed["recipe", model]) == "convlstm"
    said(f"MinConvLSTM {lstm:.0f} % and MinConvGRU {gru:.0f} % behind")


def test_weight_decay_weighs_more_than_the_cell():
    closed = means("results", "closed_loop")
    published, without = ([closed[name, model] for model in MODELS] for name in ("published", "no weight decay"))
    assert max(without) < min(published)
    said("the worst model without it beats the best with it")


def test_cells_as_published():
    forced, closed = (means("results", part) for part in ("teacher_forced", "closed_loop"))
    minimal = [closed["published", model] for model in MINIMAL]
    assert closed["published", "convgru"] < min(minimal) and max(minimal) < closed["published", "convlstm"]
    classical = min(forced["published", model] for model in ("convgru", "convlstm"))
    assert max(forced["published", model] for model in MINIMAL) < classical


def test_rollouts_of_the_recipe():
    rmse = data("errors").rmse.sel(setting="recipe")
    assert (rmse.drop_sel(model="persistence") < rmse.sel(model="persistence")).all()
    said("All are below persistence from the first frame on")
    long = data("long_rollouts")
    variance = long.variance_ratio.drop_sel(model="persistence").sel(time=slice(long.attrs["context"] + 1, None))
    last = variance.isel(time=slice(-20, None)).mean("time")
    told = f"{gap(variance):.0f} %, and to about {gap(last):.0f} %"
    said(f"rollouts of {variance.time.size} steps keep the flow's variance to {told} in their last 20 frames")


@cache
def tables(name: str) -> str:
    """What a notebook has put out as Markdown."""
    cells = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "\n".join("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)


def span(values, form: str) -> str:
    """``1.2 to 1.5``"""
    return f"{np.min(values):{form}} to {np.max(values):{form}}"


def test_the_solver():
    ours, theirs = (numbers("solver")[name] for name in ("this solver", "published"))
    error, seconds = (
        [scheme[key][scheme["step"].index(scheme["default"])] for scheme in (ours, theirs)]
        for key in ("error", "seconds")
    )
    name = "notebooks/02_navier_stokes.ipynb"
    said(f"its error is a {round(error[1] / error[0], -3):,.0f}th of that", name)
    said(f"it is {seconds[1] / seconds[0]:.0f} times as fast", name)


def test_how_trainings_end_and_how_long_they_take():
    losses, name = data("training"), "notebooks/03_training.ipynb"
    last = losses.validation_loss.isel(epoch=-1).mean("seed")
    ratio = 100 * last.sel(setting="recipe") / last.sel(setting="published")
    said(f"to {ratio.min():.1f} to {ratio.max():.0f} % of that with the published settings", name)
    time = minutes_to(losses, "convlstm").sel(model=["convlstm", *MINIMAL])
    told = [
        f"after {span(found.minutes[1:], '.1f')} of its {found.whole[0]:.1f}"
        for found in (time.sel(setting=setting) for setting in ("published", "no weight decay"))
    ]
    said(f"reach ConvLSTM's last loss {told[0]} minutes, without weight decay {told[1]}.", name)
    assert minutes_to(losses, "convlstm").minutes.sel(setting="recipe").notnull().sum() == 1
    said("With the recipe no cell reaches it in as many epochs", name)


def test_runs_that_persistence_beats():
    rows, name = numbers("results")["rows"], "notebooks/05_rollouts.ipynb"
    still = next(row["values"]["closed_loop"][0] for row in rows if row["model"] == "persistence")
    beaten = [
        (row["setting"], row["model"])
        for row in rows
        for value in row["values"]["closed_loop"]
        if value > still and row["model"] != "persistence"
    ]
    assert beaten == [("published", "convlstm")]
    said("of the single runs, one ConvLSTM under the published settings does not", name)
    without = [row["values"]["closed_loop"] for row in rows if row["setting"] == "no weight decay"]
    assert np.std(np.mean(without, 1), ddof=1) < np.median(np.std(without, axis=1, ddof=1))
    said("Without weight decay the cells differ by no more than seeds do", name)
    errors = data("errors").rmse.sel(setting="published", time=45).mean("seed")
    assert errors.model.values[errors < errors.sel(model="persistence")].tolist() == ["convgru"]
    said("Near frame 45, where persistence is at its best again, only ConvGRU is ahead of it with the published", name)


def test_what_each_part_of_the_recipe_does():
    closed, name = data("ablations").closed_loop.mean("seed"), "notebooks/08_accuracy.ipynb"
    ratio = (closed / closed.sel(setting="recipe, short")).sel(model=["convlstm", "minconvlstm"])
    adam, flat, shallow = (ratio.sel(setting=name).values for name in ("Adam", "no dilation", "4 layers, no dilation"))
    said(f"the closed-loop error is {adam[0]:.1f} and {adam[1]:.1f} times as large", name)
    assert f"{flat[0]:.1f}" == f"{flat[1]:.1f}"
    increments = ratio.sel(setting="increments")
    assert 0.7 < increments[0] < 0.8 and 0.9 < increments[1] < 1.1
    said("**Increments** make the closed-loop error of ConvLSTM a quarter smaller", name)
    said(f"Without dilation it is {flat[0]:.1f} times as large, and with four undilated layers "
         f"{shallow[0]:.1f} and {shallow[1]:.1f} times", name)  # fmt: skip
    assert (ratio.sel(setting=["4 layers", "4 layers, kernel 5"]) < 1.2).all()
    full = means("results", "closed_loop")
    better = [100 * (1 - full["recipe", model] / full["recipe", "convgru"]) for model in MINIMAL]
    said(f"better than ConvGRU, by {span(better, '.0f')} %", name)


def test_why_the_recipe_is_better():
    name = "notebooks/08_accuracy.ipynb"
    changes, losses = (data("directions")[key].mean("seed") for key in ("changes", "validation_loss"))
    middle = changes.sel(rank=0.5)
    said(f"With Adam the middle singular value is {middle.sel(setting='recipe with Adam'):.3f} of the largest", name)
    said(f"With Muon it is {middle.sel(setting='recipe'):.2f}, and the first fifth are above a third", name)
    assert changes.sel(setting="recipe", rank=slice(0, 0.2)).min() > 1 / 3
    half = losses.sel(setting="recipe", epoch=10) / losses.sel(setting="recipe with Adam", epoch=20)
    assert 0.8 < half < 1.2
    said("half-way, with the learning rate still high, the validation loss is where Adam's ends", name)
    truth = data("reach").influence.sel(setting="truth")
    ratio = data("reach").influence / truth
    said(f"at a distance of three cells being {truth[3] / truth[0]:.2f} of that in place", name)
    published, recipe = (ratio.sel(setting=setting) for setting in ("published", "recipe"))
    said(f"answer {published[0]:.1f} times too strongly in place and too weakly at one to five cells", name)
    assert (published[1:6] < 1).all() and published[6] > 1
    said(f"is {recipe[0]:.1f} times the flow's in place and {span(recipe[5:], '.1f')} times from five cells on", name)
    said(f"in between it falls to {recipe[1:5].min():.1f} times", name)
    by_reach = data("reach").closed_loop.mean(("seed", "model"))
    near = by_reach.where(by_reach.reach < 8, drop=True), by_reach.where(by_reach.reach >= 8, drop=True)
    assert near[0].min() > 1.5 * near[1].max()


def test_long_rollouts():
    long, name = data("long_rollouts").drop_sel(model="persistence"), "notebooks/08_accuracy.ipynb"
    correlation = long.correlation.mean("seed")
    assert correlation.sel(time=slice(None, 100)).isel(time=slice(1, None)).min() > 0.95
    said(f"the correlation falls to {span(correlation.isel(time=-1), '.2f')}", name)
    closed = long.sel(time=slice(long.attrs["context"] + 1, None))
    last = closed.isel(time=slice(-20, None)).mean("time")
    told = f"{gap(closed.variance_ratio):.0f} %, in the last 20 frames to about {gap(last.variance_ratio):.0f} %"
    said(f"Every model of every seed keeps the variance to {told}", name)
    said(f"a mean of at most {np.ceil(1e3 * last['mean'].max()) / 1e3:.3f}", name)


def test_the_optimiser_and_the_time():
    """Which are in notebook 8 alone."""
    text = tables("08_accuracy.ipynb")
    pattern = r"^\| (\w+) \| (recipe|recipe with Adam) \| \S+\s±\s\S+ \| (\S+)\s±"
    rows = re.findall(pattern, text, re.MULTILINE)
    closed = {(setting, label): float(value) for label, setting, value in rows}
    ratios = [closed["recipe", label] / closed["recipe with Adam", label] for label in {label for _, label in closed}]
    assert len(ratios) == len(MODELS)
    said(f"cuts the error that remains to {min(ratios):.2f} to {max(ratios):.2f} of it")
    rows = re.findall(r"^\| (\w+) \|.*\| (\+\d+ % \([^)]*\)) \|$", text, re.MULTILINE)
    pairs = dict(reversed(rows))  # of the first table
    gru, lstm = (re.match(r"\+(\d+) % \((.)", pairs[label]).groups() for label in ("MinConvGRU", "MinConvLSTM"))
    assert (gru[1], lstm[1]) == ("+", "-")
    told = f"MinConvGRU is behind by {gru[0]} %, MinConvLSTM by {lstm[0]} %, with an interval that includes zero"
    said(told, "notebooks/08_accuracy.ipynb")
    found = re.findall(r"\| (\w+) \| 27 \|.* ([+-]\d+) % \(-(\d+) to \+(\d+)\) \|$", text, re.MULTILINE)
    names, gains, lows, highs = zip(*found, strict=True)
    words = [f"{abs(gain)} % {'better' if gain < 0 else 'worse'}" for gain in map(int, gains)]
    both = ", ".join(f"{name} {word}" for name, word in sorted(zip(names, words, strict=True), reverse=True))
    said(f"({both}; intervals from {max(map(int, lows))} % better to {max(map(int, highs))} % worse)")
    bounds = f"with intervals from {max(map(int, lows))} % better to {max(map(int, highs))} % worse"
    said(f"{words[0].replace(' worse', ' worse and')} {words[1]} in the mean, {bounds}", "notebooks/08_accuracy.ipynb")


def test_the_answer_follows_from_the_errors_by_trajectory():
    rows, errors = numbers("answer")["rows"], data("errors")
    parts = {"lower error": "teacher_forced", "lower error in closed loop": "closed_loop"}
    compared = sum(row["unit"] == "%" for row in rows)
    small = f"flow, {numbers('results')['about']['training trajectories']} trajectories"
    for setting in errors.setting.values.tolist():
        found = errors.sel(setting=setting)
        for claim, part in parts.items():
            again = error_findings(claim, small, setting, found, part, "05_rollouts", compared)
            key = claim, small, setting
            told = [row for row in rows if (row["claim"], row["case"], row["setting"]) == key]
            for one, row in zip(again, told, strict=True):
                assert (list(one.cells), one.verdict) == (row["cells"], row["verdict"])
                np.testing.assert_allclose([one.value, one.low, one.high], [row[k] for k in ("value", "low", "high")],
                                           atol=1e-3)  # fmt: skip


def scale_errors() -> xr.Dataset:
    return data("scale").isel(seed=0).drop_sel(model="persistence").map(lambda errors: errors.astype(float))


def test_scale():
    errors, name = scale_errors(), "notebooks/15_scale.ipynb"
    data_, steps = errors.by_trajectories, errors.by_steps.sel(steps=[1000, 2000])
    gains = {
        setting: [
            100 * (1 - values.isel({dim: -1}) / values.isel({dim: 0})).sel(setting=setting)
            for dim, values in (("trajectories", data_), ("steps", steps))
        ]
        for setting in ("published", "recipe")
    }
    more, longer = (span(found, ".0f") for found in gains["recipe"])
    said(f"With the recipe a hundred times as many trajectories lower the closed-loop error by {more} %, "
         f"twice as many steps by {longer} %", name)  # fmt: skip
    assert all((found < 0).any() for found in gains["published"])
    assert (gains["published"][0] < 0).sum() == 3
    last = data_.sel(setting="recipe", trajectories=1000) / data_.sel(setting="recipe", trajectories=100)
    low, high = (f"{100 * (end - 1):+.0f}" for end in (last.min(), last.max()))
    said(f"From a hundred to a thousand it does not fall: it changes by {low} to {high} %", name)
    worse = gains["published"][1]
    assert worse.model.values[worse < 0].tolist() == ["minconvgru", "minconvexplstm"]
    for values in (data_, steps):
        assert set(values.sel(setting="recipe").idxmax("model").values.tolist()) == {"convgru"}
    found = numbers("scale_results")["findings"]
    best = [rows[-1]["value"] for key, rows in found.items() if key.startswith("recipe")]
    a, b, c, d = (f"{abs(value):.0f} %" for value in best)
    assert [value < 0 for value in best] == [True, False, True, False]
    said(f"the best minimal cell is {a} better than ConvLSTM, {b} worse, {c} better and {d} worse", name)


def test_the_papers_own_scale():
    name, found = "notebooks/15_scale.ipynb", numbers("scale_results")
    small, paper = found["rmse x 100"].values()
    assert (paper["trajectories"], paper["epochs"], found["test trajectories"]) == (1000, 30, 200)
    closed = {model: (np.mean(small["closed_loop"][model]), *values) for model, values in paper["closed_loop"].items()}
    falls = {MODELS[model].label: f"from {before:.2f} to {after:.2f}" for model, (before, after) in closed.items()}
    classical, *minimal = (f"{label}'s {falls[label]}" for label in list(falls)[1:])
    said(f"ConvGRU's closed-loop error falls {falls['ConvGRU']}, {classical}, and those of the minimal cells fall "
         f"further: {', '.join(minimal)}", name)  # fmt: skip
    for part, first in (("teacher_forced", "minconvgru"), ("closed_loop", "minconvexplstm")):
        order = sorted(paper[part], key=lambda model: paper[part][model][0])
        assert order[0] == first and set(order[:3]) == set(MINIMAL)
    below = [100 * (1 - closed["minconvexplstm"][1] / closed[model][1]) for model in ("convlstm", "convgru")]
    best = found["findings"]["published, 1000 x 30000"][-1]
    said(f"{-best['value']:.0f} % ({-best['high']:.0f} to {-best['low']:.0f} %) on the 32 of the first table", name)
    rows = [row for row in numbers("answer")["rows"] if row["case"] == "flow, 1,000 trajectories" and row["best"]]
    (row,) = (row for row in rows if row["setting"] == "published" and row["claim"].endswith("closed loop"))
    assert row["verdict"] == "holds"
    assert row["value"] == pytest.approx(-below[0], abs=1e-3)
    said(f"error is {below[0]:.0f} % below ConvLSTM's and {below[1]:.0f} % below ConvGRU's", name)
    said(f"{below[0]:.0f} % below that of the best classical cell on these 200 test trajectories", name)
    said(f"the best minimal cell's error is {below[0]:.0f} % smaller, with one seed", "notebooks/17_answer.ipynb")
    steps = scale_errors().by_steps
    ends = steps.sel(setting="published", steps=30_000).min(), steps.sel(setting="recipe", steps=2000).max()
    assert 5 * ends[1] < ends[0] < 6 * ends[1]


def test_moving_mnist():
    name, mse = (
        "notebooks/13_moving_mnist.ipynb",
        {model: value for (_, model), value in means("moving_mnist_results", "mse").items()},
    )
    lstm, minimal, s5, simvp, black = (f"{mse[m]:.0f}" for m in ("convlstm", "minconvlstm", "convs5", "simvp", "black"))
    said(f"with a squared error of {lstm} a frame (summed over its 4,096 pixels); MinConvLSTM has {minimal}, "
         f"ConvS5 {s5} and SimVP {simvp}, where black frames have {black}", name)  # fmt: skip
    minutes = numbers("moving_mnist_results")["about"]["minutes"]
    words = {7: "seven", 9.5: "nine and a half"}
    least, most = (words[round(2 * end(minutes.values())) / 2] for end in (min, max))
    said(f"after {least} to {most} minutes", name)
    assert min(minutes, key=minutes.get) == "convlstm"
    errors = data("moving_mnist_scores").isel(seed=0)
    trained = errors.sel(model=list(minutes))
    assert (trained.mse.idxmin("model") == "convlstm").all()
    assert (trained.mse.sel(lead=slice(4, None)).idxmax("model") == "simvp").all()
    others = [mse[m] for m in ("minconvlstm", "convs5", "simvp")]
    assert max(others) / min(others) < 1.05
    first = errors.sel(lead=1)
    said(f"{first.mse.sel(model='simvp'):.0f} to {first.mse.sel(model='convlstm'):.0f} in squared error, with the best "
         f"structural similarity, {first.ssim.sel(model='simvp'):.2f}", name)  # fmt: skip
    assert first.ssim.idxmax("model") == "simvp"
    for column, better in (("mae", min), ("ssim", max)):
        found = {model: value for (_, model), value in means("moving_mnist_results", column).items()}
        assert better(found, key=found.get) == "black"


def test_long_sequences():
    name, times = "notebooks/14_long_sequences.ipynb", data("long_sequences_timing")
    speed = times.training_speedup.sel(quartile="median")
    said(f"ConvS5 trains {span(speed.sel(model='convs5'), '.2f')} times as fast as our ConvLSTM", name)
    said(f"it trains {span(speed.sel(model='convs5'), '.2f')} times as fast ([", "notebooks/04_timing.ipynb")
    said(f"minimal cells {span(speed.sel(model=MINIMAL), '.1f')} times", name)
    later = speed.sel(model=MINIMAL, T=slice(50, None))
    assert (later.max("T") - later.min("T")).max() < 0.05
    slower = 1 / speed.sel(model="simvp")
    assert (round(float(slower.min())), round(float(slower.max()))) == (3, 5)
    memory = times.memory.isel(T=-1) / times["T"][-1] / 2**20
    low, lstm, s5, simvp = (float(memory.sel(model=m)) for m in ("minconvlstm", "convlstm", "convs5", "simvp"))
    assert f"{float(memory.sel(model=MINIMAL).max()):.1f}" == f"{low:.1f}"
    said(f"{low:.1f} MiB in minimal cells, {lstm:.1f} in ConvLSTM, {s5:.1f} in ConvS5 and {simvp:.1f} in SimVP", name)
    compared = ["convlstm", "minconvlstm", "convs5", "simvp"]
    mse = data("long_sequences_scores").mse.astype(float).isel(seed=0)
    best = mse.sel(model=compared).idxmin("model").values.tolist()
    assert best[:8] == ["convlstm"] * 8 and set(best[8:20]) == {"simvp"}
    above = (mse.sel(model=compared[:2]) > mse.sel(model="black")).argmax("lead") + 1
    said(f"from the {above[0].item()}th and {above[1].item()}th frame on", name)
    beside = mse.sel(model=compared) / mse.sel(model="black")
    ahead = 100 * (1 - beside.sel(lead=slice(21, None)).min("lead"))
    recurrent, blocks = ahead.sel(model=compared[:3]).max(), ahead.sel(model="simvp")
    said(f"after twenty the recurrent models are at most {recurrent:.0f} % ahead of black frames, and SimVP "
         f"{blocks:.0f} %", name)  # fmt: skip
    faded = mse.sel(model=["convs5", "simvp"], lead=slice(200, None)) / mse.sel(model="black")
    assert abs(faded.mean("lead") - 1).max() < 0.03


def test_turbulence():
    name, found = "notebooks/16_turbulence.ipynb", numbers("turbulence_results")
    flow = found["0.0001"]
    l2 = {model: np.mean(values["relative_l2"]) for model, values in flow.items()}
    beside = {model: values["rmse_beside_convlstm"] for model, values in flow.items()}
    level = ["convlstm", *MINIMAL]
    assert all(beside[model]["low"] < 0 < beside[model]["high"] for model in MINIMAL)
    assert sorted(l2, key=l2.get)[:4] == sorted(level, key=l2.get)
    said(f"forecast twenty frames from ten with a relative error of {span([l2[m] for m in level], '.0f')} %", name)
    assert sorted(l2, key=l2.get)[-2:] == ["simvp", "persistence"]
    best = min((model for model in l2 if model.startswith("fno")), key=l2.get)
    assert best == "fno"
    said(f"The Fourier neural operator has {l2[best]:.0f} %, ConvS5 {l2['convs5']:.0f} %, ConvGRU "
         f"{l2['convgru']:.0f} %, SimVP {l2['simvp']:.0f} %", name)  # fmt: skip
    first = {model: np.mean(values["first_frame"]) for model, values in flow.items()}
    assert min(first, key=first.get) == "convlstm"
    said(f"ConvLSTM errs least in the first frame, {first['convlstm']:.1f} %, where minimal cells have "
         f"{span([first[m] for m in MINIMAL], '.1f')} %", name)  # fmt: skip
    told = ("{difference:.0f} % ({low:.0f} to {high:.0f} %)".format(**beside[model]) for model in ("convgru", "fno"))
    behind, operator = told
    said(f"ConvGRU's RMSE is {behind} above ConvLSTM's", name)
    said(f"its RMSE is {operator} above ConvLSTM's", name)
    spectra = {model: np.mean(values["spectrum_error"]) for model, values in flow.items()}
    assert min(spectra, key=spectra.get).startswith("fno")
    assert 2.7 < first["fno"] / first["convlstm"] < 3
    minutes = found["minutes"]
    assert 2.4 < minutes["recipe, convs5"] / minutes["recipe, convlstm"] < 2.6
    said(f"{l2['fno_published']:.0f} % at its authors' size after {minutes['published, fno_usual']:.0f} minutes", name)


def test_hidden_frames():
    name, memory = "notebooks/16_turbulence.ipynb", numbers("turbulence_results")["memory"]
    trained, own = memory["trained for it"], memory["on its own predictions"]

    def both(part: str) -> list[str]:
        pairs = ("minconvgru", "minconvlstm"), ("convgru", "convlstm")
        return [" and ".join(f"{trained[part][cell]:.1f}" for cell in pair) + " %" for pair in pairs]

    said("MinConvGRU and MinConvLSTM err by {} within it, ConvGRU and ConvLSTM by {}".format(*both("within")), name)
    said("for its last frame by {} against {}".format(*both("its last")), name)
    said("After it they are ahead, with {} against {}".format(*both("after")), name)
    for part in ("shown, every second", "hidden, every second"):
        for pair in ("gru", "lstm"):
            assert abs(trained[part][f"minconv{pair}"] - trained[part][f"conv{pair}"]) < 1
    cells = ("convgru", "convlstm", "minconvgru", "minconvlstm")
    within = own["within"]
    said(f"err by {span([within[cell] for cell in cells], '.0f')} % within the blackout, MinConvLSTM by "
         f"{within['minconvlstm']:.1f} % and ConvLSTM by {within['convlstm']:.1f} %", name)  # fmt: skip


def test_the_answer():
    rows = [row for row in numbers("answer")["rows"] if row["best"]]
    verdicts = {(row["claim"], row["case"], row["setting"]): row["verdict"] for row in rows}
    held = {key for key, verdict in verdicts.items() if verdict == "holds" and key[0].startswith("lower error")}
    few, many = "flow, 64 trajectories", "flow, 1,000 trajectories"
    claim, closed = "lower error", "lower error in closed loop"
    assert held == {(claim, few, "published"), (claim, many, "published"), (closed, many, "published")}
    assert verdicts[closed, few, "published"] == verdicts[closed, few, "recipe"] == "undecided"
    (behind,) = (
        r["value"] for r in rows if (r["claim"], r["case"], r["setting"]) == (closed, many, "recipe, 2 epochs")
    )
    said(f"the best minimal cell is behind, by {behind:.0f} %", "notebooks/17_answer.ipynb")
    speeds = {row["setting"]: row for row in rows if row["claim"] == "faster training"}
    own, fastest = (f"{speeds[name]['value']:.{n}f}" for name, n in (("the paper's own", 1), ("the fastest", 2)))
    assert all(row["verdict"] == "holds" for row in speeds.values())
    said(f"Faster training holds: {own} times beside the paper's own ConvLSTM, {fastest} times beside the "
         "fastest", "notebooks/17_answer.ipynb")  # fmt: skip
    pattern = r"^\| (\w+) \| [\d.]+ \| ([\d.]+) \| 20 \| ([\d.]+) \|"  # ms a step, epochs in ConvLSTM's time
    found = re.findall(pattern, tables("17_answer.ipynb"), re.MULTILINE)
    step, epochs = ({label: float(row[at]) for label, *row in found} for at in (0, 1))
    labels = [MODELS[name].label for name in MINIMAL]
    told = f"ConvGRU has {epochs['ConvGRU']:.0f}, the minimal cells {span([epochs[name] for name in labels], '.0f')}"
    said(told, "notebooks/17_answer.ipynb")
    assert 0.95 < step["ConvLSTM"] / step["MinConvLSTM"] < 1.1  # hardly faster with the recipe
    weather = [row["value"] for row in rows if row["case"].startswith("weather")]
    said(f"the best classical cell is ahead in both settings, by {span(weather, '.0f')} %", "notebooks/17_answer.ipynb")


def test_the_size_of_the_study():
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


WEEK, OWN, REAL = (f"notebooks/{name}.ipynb" for name in ("06_geopotential", "07_air_temperature", "09_real_weather"))
DAY = np.timedelta64(1, "D")


def days(scores: xr.Dataset, holds: xr.DataArray) -> dict[str, list[float]]:
    """By model, the lead times in days at which something holds."""
    leads = (scores.lead_time / DAY).values
    return {name: leads[holds.sel(model=name).values].tolist() for name in holds.model.values}


def rmse_by(before: str, after: str, models=("convlstm", "minconvlstm")) -> np.ndarray:
    """How many times the RMSE of ``before`` that of ``after`` is, of models [model, 1, 3, 5 and 7 days]."""
    table = [means("geopotential_results", f"rmse_{day}") for day in (1, 3, 5, 7)]
    return np.array([[column[after, name] / column[before, name] for column in table] for name in models])


def test_the_week_of_notebook_6_with_the_recipe():
    scores, cells = data("geopotential_scores"), list(MODELS)
    over = beside("geopotential_scores", "ridge regression").sel(model=cells)
    first = over.isel(lead_time=0)
    said(f"the five cells' are {percent(first)} larger", WEEK)
    assert (first > 1).all() and (over.isel(lead_time=-1) > 1).all()
    useful = {name: found[-1] for name, found in days(scores, scores.acc.mean("seed") > 0.6).items() if found}
    reach = [useful[name] for name in cells]
    said(f"stay above 0.6 for {min(reach):g} to {max(reach):g} days, persistence's for two and a quarter", WEEK)
    assert useful["persistence"] == 2.25
    steps = rmse_by("no weight decay", "recipe with Adam"), rmse_by("recipe with Adam", "recipe")
    most, rest = (f"by {found.min():.2f} to {found.max():.2f}" for found in steps)
    said(f"they multiply the error {most} at one to seven days", WEEK)
    said(f"does the rest, {rest}.", WEEK)
    assert (steps[0] < steps[1]).all(), "at every lead"
    climate = data("geopotential_climate").deviation
    weaker = (climate.sel(row="minconvlstm") / climate.sel(row="truth")).mean("lat")
    said(f"standard deviations are {percent(weaker)} below the data's", WEEK)
    said(f"spots of up to {abs(data('geopotential_bias').bias).max():.0f} m²", WEEK)


def test_the_week_of_notebook_6_as_published():
    scores = data("geopotential_scores_published")
    rmse, cells = scores.rmse.mean("seed"), list(MODELS)
    ahead = {base: days(scores, rmse < rmse.sel(model=base)) for base in ("persistence", "climatology")}
    assert {ahead["persistence"][name][0] for name in cells} == {0.75}
    assert min(ahead["persistence"][name][-1] for name in cells) == 6
    said("from 18 hours to six days the models are ahead", WEEK)
    last = [ahead["climatology"][name][-1] for name in cells]
    said(f"of climatology for {min(last):g} to {max(last):g} days", WEEK)
    assert (rmse.sel(model=cells) > rmse.sel(model="ridge regression")).all()
    change = rmse_by("published", "no weight decay")
    said(f"Without weight decay MinConvLSTM's error is {percent(change[1])} lower", WEEK)
    said(f"ConvLSTM's {percent(change[0, :1])} at one day and {percent(change[0, -1:])} higher at seven", WEEK)
    for day in (1, 3, 5, 7):
        table = means("geopotential_results", f"rmse_{day}")
        for setting in ("recipe", "published"):
            assert min(cells, key=lambda name: table[setting, name]) not in MINIMAL
    said("No minimal cell is the most accurate, with the recipe or as published.", WEEK)


def test_a_series_of_ones_own():
    ratio = beside("air_temperature_scores", "persistence").sel(model="minconvlstm")
    whole, before = ratio.isel(lead_time=slice(3, None, 4)), ratio.isel(lead_time=slice(2, None, 4))
    said(f"by {percent(whole)} at whole days, when the sun is where it was, and by {percent(before)} six hours", OWN)
    assert (ratio < 1).all() and before.max() < whole.min()


def test_real_weather_in_notebook_9():
    first = beside("real_weather_europe", "ridge regression").isel(lead_time=0)
    classical = (percent(first.sel(model=[name])) for name in ("convgru", "convlstm"))
    said("ConvGRU is {} behind ridge regression at one day, ConvLSTM {} and".format(*classical), REAL)
    said(f"and the minimal cells {percent(first.sel(model=MINIMAL))}", REAL)
    week = data("real_weather_europe").rmse.mean("seed").sel(model=list(MODELS)).isel(lead_time=-1)
    said(f"all five are within {gap(week.max() / week.min()):.1f} % of each other", REAL)
    published = beside("real_weather_published", "persistence").sel(model=["convlstm", "minconvlstm"])
    assert (abs(published.isel(lead_time=0) - 4 / 3) < 0.05).all()
    climate = beside("real_weather_published", "climatology").sel(model=["convlstm", "minconvlstm"])
    assert (climate.isel(lead_time=slice(5)) < 1).all() and (climate.isel(lead_time=slice(5, None)) > 1).all()
    globe = data("real_weather_globe_scores").rmse.mean("seed").sel(lead_time=DAY)
    told = {name: [f"{float(value):.0f}" for value in globe.sel(model=name)] for name in ("convlstm", "minconvlstm")}
    alone, tuned, scratch = told["convlstm"]
    still = f"{float(globe.sel(model='persistence')[0]):.0f}"
    said(f"the stand-in alone has {alone} m² s⁻² at one day where persistence has {still}", REAL)
    said(f"24 days of analyses more make it {tuned}. The same 24 days alone are worth {scratch}", REAL)
    said("MinConvLSTM has {}, {} and {}.".format(*told["minconvlstm"]), REAL)


def test_the_time_of_notebook_4():
    name, settings = "notebooks/04_timing.ipynb", {}
    for row in numbers("benchmark")["training"]:
        about = tuple(row[key] for key in ("T", "horizon", "batch", "grid"))
        settings.setdefault(about, {})[row["model"]] = {
            key: row[key]["median"] for key in ("training", "training_speedup", "over_convolutions")
        }
    ours = {about: rows["minconvlstm"]["training_speedup"] for about, rows in settings.items()}
    paper = {about: rows["convlstm_published"]["training"] for about, rows in settings.items()}
    gains = {about: paper[about] / rows["minconvlstm"]["training"] for about, rows in settings.items()}
    assert round(gains[512, 0, 1, 16]) == 6
    said(f"trains {min(gains.values()):.1f} to {max(gains.values()):.1f} times as fast as the paper's own", name)
    said(f"little of that is left: {min(ours.values()):.1f} to {max(ours.values()):.1f} times.**", name)
    said(f"is {min(gains.values()):.1f} to {max(gains.values()):.1f} times as fast, beside ours", name)
    said(f"beside ours {min(ours.values()):.2f} to {max(ours.values()):.1f} times", name)
    assert all(rows["published"]["training_speedup"] < 1 for rows in settings.values())
    assert all(paper[about] < rows["minconvlstm_published"]["training"] for about, rows in settings.items())
    assert all(paper[about] < rows["published"]["training"] for about, rows in settings.items())
    state_space = {about: rows["convs5"]["training_speedup"] for about, rows in settings.items()}
    forced, closed = ([speed for about, speed in state_space.items() if bool(about[1]) == loop] for loop in (0, 1))
    said(f"ConvS5, whose gates are constant, trains {span(forced, '.2f')} times as fast as ConvLSTM", name)
    said(f"and {span(closed, '.2f')} times with a closed loop", name)
    longest = settings[512, 0, 1, 16]
    assert round(longest["convlstm_published"]["training"] / longest["convs5"]["training"]) == 3
    said("ConvS5 is that on 512 frames", "notebooks/14_long_sequences.ipynb")
    half = {about: rows["half"]["training"] / rows["minconvlstm"]["training"] for about, rows in settings.items()}
    assert 5.5 < min(half[20, 5, 1, 16], half[512, 0, 1, 16]) < max(half[20, 5, 1, 16], half[512, 0, 1, 16]) < 6.5

    def over(closed: bool) -> str:
        found = [rows[cell]["over_convolutions"] for about, rows in settings.items() for cell in MODELS
                 if about[2:] == (1, 16) and bool(about[1]) == closed]  # fmt: skip
        return f"{min(found):.1f} to {max(found):.1f}"

    said(f"a whole teacher-forced step takes {over(False)} of what PyTorch's", name)
    said(f"frame by frame on 16 × 16 at batch 1, {over(True)} times as long", name)


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
    found = f"shown 256 other bottoms instead, find it to {min(errors):.1f} to {max(errors):.1f} m."
    said(found, "notebooks/10_topography.ipynb")
