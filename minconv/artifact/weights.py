"""The trained models of the package, made from the runs of profile ``study`` with the errors that they have.

    python -m minconv.artifact.weights --home DIR

Runs that are not in DIR/results/study yet are trained first, which takes an hour or two. On Navier-Stokes that is every
cell with the recipe and the first seed; of the weather's models the one with the lowest error in forecasts of the
validation years is kept. Written are minconv/models/weights, with README and errors.json, and for the tests
tests/reference/*_cases.npz, frames of some test forecasts: the barotropic model makes other years on another processor.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minconv.artifact.times import ROOT
from minconv.evaluation import persistence, rollout
from minconv.evaluation.errors import PARTS, sample_errors
from minconv.evaluation.forecast import positions
from minconv.experiments import navier_stokes as flow
from minconv.experiments.air_temperature import air_temperature
from minconv.experiments.experiment import Experiment
from minconv.experiments.geopotential import geopotential
from minconv.experiments.profiles import PROFILES, PUBLISHED_BY
from minconv.experiments.report import markdown_table
from minconv.models import count_parameters
from minconv.models.pretrained import Pretrained
from minconv.models.trained import FOLDER, names
from minconv.runtime.files import atomic, read_json, write_json
from minconv.runtime.names import STYLE
from minconv.runtime.provenance import provenance

SETTING = "recipe"
QUANTITIES = ("geopotential of the 500 hPa surface", "anomalies of air temperature from their climatology")
CASES = 2  # forecasts of each weather whose frames are kept
CASES_FILE = "{}_cases.npz"


def flow_models(experiment: Experiment, folder: Path) -> dict[str, dict[str, Any]]:
    """Saves every model of the flow to ``folder``; returns, by name, errors on each of the test trajectories.

    ``teacher_forced`` and ``closed_loop`` are the RMSE of each trajectory in turn, and ``rmse`` that of all by time.
    """
    task, found = experiment.task, {}
    frames = {"quantity": "vorticity", "units": flow.UNITS, "step": "1 unit time"}
    frames["cells"] = f"{flow.GRID} x {flow.GRID} of the periodic unit square, (y, x)"

    def errors(forecaster: Any) -> dict[str, Any]:
        rolled = rollout(forecaster, task.test, task.context)
        by_sample = sample_errors(rolled, task.test, task.context)
        by_time = (rolled - task.test[:, 1:]).double().square().mean((0, 2, 3, 4)).sqrt()
        parts = {part: _rounded(by_sample[part].values) for part in PARTS}
        return parts | {"rmse": _rounded(by_time.numpy())}

    for cell, seed, model in experiment.trained(SETTING):
        name = f"{experiment.name}/{cell}"
        _save(model, folder / name, frames, task.train)
        found[name] = _about(experiment, cell, seed, model) | errors(model)
    return found | {f"{experiment.name}/persistence": errors(persistence)}


def weather_model(
    experiment: Experiment, frames: Mapping[str, str], folder: Path, cases: Path
) -> dict[str, dict[str, Any]]:
    """Saves the best model of a weather to ``folder``, its frames described by ``frames``, and some cases to ``cases``.

    Returns, by name, ``rmse`` by lead over all test forecasts, and ``cases``, that of the forecasts whose frames are
    kept, anomalies where the model's are.
    """
    task = experiment.task
    held = replace(task, parts={**task.parts, "test": task.parts["validation"]})

    def week(entry: tuple[str, int, Pretrained]) -> float:
        return float(held.errors(held.forecaster(entry[2])).mse.mean())

    cell, seed, model = min(experiment.trained(SETTING), key=week)
    name, scored = f"{experiment.name}/{cell}", task.errors(task.forecaster(model))
    normaliser, train = task.forecaster(model), task.frames("train")
    model.set_normalisation([float(normaliser.mean)], [float(normaliser.std)])
    field = task.parts["test"]
    grid = {dim: field[dim].values.tolist() for dim in ("lat", "lon")}
    cells = f"{len(grid['lat'])} x {len(grid['lon'])}, (lat, lon), from south to north and west to east"
    _save(model, folder / name, {**frames, "cells": cells, **grid}, train)

    starts = task.starts[len(task.starts) // (CASES + 1) :: len(task.starts) // (CASES + 1)][:CASES]
    last = positions(field, starts)[:, None]
    kept = task.frames("test").numpy()[last + np.arange(1 - task.context, task.steps + 1)]
    with atomic(cases / CASES_FILE.format(experiment.name)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, frames=kept, context=task.context)
    about = _about(experiment, cell, seed, model)
    about |= {"starts": len(task.starts), "lead_hours": (scored.lead_time.values / np.timedelta64(1, "h")).tolist()}
    row = {"rmse": _rounded(scored.rmse.values)}
    row["cases"] = [_rounded(np.sqrt(scored.mse.sel(init_time=start).values)) for start in starts.values]
    base = task.errors(persistence)
    return {name: about | row, f"{experiment.name}/persistence": {"rmse": _rounded(base.rmse.values)}}


PAGE = """# Trained models

```python
import minconv
from minconv.experiments.navier_stokes import new_trajectory

model = minconv.load("navier_stokes/minconvlstm")
frames = new_trajectory(7)[:, :20]
ahead = model.predict(frames, steps=30)  # vorticity [B, T, 1, 16, 16] -> [B, 30, 1, 16, 16]
```

A folder holds a model's configuration, normalisation and what its frames are (`config.json`, `model.frames`), and its
weights. Frames far from those of the training are refused; `air_temperature/minconvlstm` takes anomalies, which
`minconv.evaluation.Climatology` makes of temperatures. Weights are from the runs of profile `{profile}`, setting
`{setting}`; [errors.json](errors.json) has their errors by trajectory and lead time, seeds and hardware, and
`tests/models/test_trained.py` finds these again. All of it is made by `python -m minconv.artifact.weights`.

Navier-Stokes, {trajectories} test trajectories, {context} frames teacher-forced, then closed loop (RMSE × 100):

{flow}

The weather, {starts} forecasts of a week (RMSE by lead time; geopotential of the barotropic model in m2 s-2, air
temperature in K). Of those that were trained these have the lowest error in forecasts of the validation years:

{weather}
"""


def page(errors: Mapping[str, Any]) -> str:
    """The README beside the weights, of errors.json's content."""
    rows, tables, days = errors["models"], {"flow": [], "weather": []}, (1, 3, 5, 7)
    leads = next(row["lead_hours"] for row in rows.values() if "lead_hours" in row)
    for name, row in rows.items():
        experiment, model = name.split("/")
        label = f"`{name}`" if "seed" in row else f"{STYLE[model]['label']} ({experiment.replace('_', ' ')})"
        if experiment == flow.NAME:
            parts = (np.sqrt(np.square(row[part]).mean()) for part in PARTS)
            tables["flow"].append([label, *(f"{100 * part:.2f}" for part in parts)])
        else:
            at = (row["rmse"][leads.index(24 * day)] for day in days)
            tables["weather"].append([label, *(f"{value:.0f}" if value >= 100 else f"{value:.2f}" for value in at)])
    headers = {"flow": ["teacher-forced", "closed loop"], "weather": [f"{day} day{'s' * (day > 1)}" for day in days]}
    return PAGE.format(
        profile=errors["profile"],
        setting=errors["setting"],
        trajectories=len(next(iter(rows.values()))[PARTS[0]]),
        context=flow.CONTEXT,
        starts=" and ".join(str(row["starts"]) for row in rows.values() if "starts" in row),
        **{name: markdown_table(["Model", *headers[name]], table) for name, table in tables.items()},
    )


def _about(experiment: Experiment, cell: str, seed: int, model: Pretrained) -> dict[str, Any]:
    """What tells where a model is from."""
    run = next(run for run in experiment.runs(SETTING)[cell] if seed in run.seeds)
    row = min(
        (row for row in experiment.logs(SETTING)[cell] if row["seed"] == seed), key=lambda r: r["validation_loss"]
    )
    origin = read_json(run.folder / "run.json")["provenance"]
    return {
        "seed": seed,
        "epochs": run.settings.epochs,
        "best_epoch": int(row["epoch"]),
        "validation_loss": row["validation_loss"],
        "parameters": count_parameters(model),
        "trained_on": {key: origin[key] for key in ("hardware", "torch", "git_revision")},
    }


def _save(model: Pretrained, folder: Path, frames: Mapping[str, Any], train: torch.Tensor) -> None:
    model.frames = {**frames, "range": [float(train.min()), float(train.max())]}
    model.save_pretrained(folder)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing and writes all files anew."""
    parser = argparse.ArgumentParser(prog="python -m minconv.artifact.weights", description=__doc__)
    parser.add_argument("--home", type=Path, metavar="DIR", help="for data/ and results/; default: this folder")
    options = parser.parse_args(arguments)
    if options.home:
        os.environ["MINCONV_HOME"] = str(options.home.resolve())
    study = PROFILES[PUBLISHED_BY]
    first = replace(study, seeds=study.seeds[:1])
    flows = flow.navier_stokes(first, "cpu")
    weathers = geopotential(study, device="cpu"), air_temperature(study, "cpu")
    for experiment in (flows, *weathers):
        experiment.train(SETTING)
    rows = flow_models(flows, FOLDER)
    for experiment, quantity, units in zip(weathers, QUANTITIES, ("m2 s-2", "K"), strict=True):
        frames = {"quantity": quantity, "units": units, "step": "6 h"}
        rows |= weather_model(experiment, frames, FOLDER, ROOT / "tests" / "reference")
    for name in set(names()) - rows.keys():  # of an earlier time
        shutil.rmtree(FOLDER / name)
    errors = {"profile": study.name, "setting": SETTING, "provenance": provenance(), "models": rows}
    write_json(FOLDER / "errors.json", errors)
    with atomic(FOLDER / "README.md") as temporary:
        temporary.write_text(page(errors), encoding="utf-8")
    print(page(errors))
    return 0


if __name__ == "__main__":
    sys.exit(main())
