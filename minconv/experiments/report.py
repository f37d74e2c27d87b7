"""The numbers of an experiment as one table, for a notebook, the README and a JSON beside the figures.

``results`` makes a plain dictionary of errors by setting, model and seed, ``table`` Markdown of it, ``lead_tables`` of
errors by lead time; ``losses`` puts the logs of trainings side by side, ``minutes_to`` says how long they take to an
error.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from minconv.runtime.names import STYLE

SPACE = "\N{NO-BREAK SPACE}"


def results(
    errors: Mapping[str, xr.Dataset],
    labels: Mapping[str, str],
    baselines: Sequence[str],
    about: Mapping[str, Any],
    digits: int = 2,
) -> dict[str, Any]:
    """The content of figures/results.json and the like.

    Args:
        errors: by setting; its variables over (model, seed), or (model) where seeds count together, are the columns,
            headed by their long_name; an attribute digits says how many are behind the point.
        labels: of models and baselines.
        baselines: which of the models are that; they stand once, with one value, since seeds do not change them.
        about: what the reader of the table should know, words to numbers; ``profile`` and ``hardware`` among them.
        digits: behind the point, of the others.

    Raises:
        ValueError: settings with other columns, or a model without a label.
    """
    first = next(iter(errors.values()))
    rows = []
    for setting, found in errors.items():
        if set(found.data_vars) != set(first.data_vars):
            raise ValueError(f"errors must have the same variables in all settings; {setting} has {list(found)}")
        for model in found.model.values.tolist():
            base = model in baselines
            if model not in labels:
                raise ValueError(f"labels must have one of {model}; got {', '.join(labels) or 'none'}")
            if base and setting != next(iter(errors)):
                continue
            values = {name: _numbers(column.sel(model=model)) for name, column in found.data_vars.items()}
            values = {name: one[:1] for name, one in values.items()} if base else values
            rows.append({"setting": "" if base else setting, "model": model, "label": labels[model], "values": values})
    columns = {str(name): column.attrs.get("long_name", str(name)) for name, column in first.data_vars.items()}
    places = {str(name): int(column.attrs.get("digits", digits)) for name, column in first.data_vars.items()}
    return {"about": dict(about), "columns": columns, "digits": places, "rows": rows}


def table(
    content: Mapping[str, Any], more: Mapping[str, Mapping[tuple[str, str], str]] | None = None, notes: str = ""
) -> str:
    """Markdown table of :func:`results`' dictionary, mean ± sample standard deviation over seeds.

    Args:
        more: further columns, header to cells by (setting, model), before those of errors.
        notes: first of the words below the table, which go on with ``about``.

    Raises:
        ValueError: an entry is missing.
    """
    more = more or {}
    try:
        header = ["Model", "Setting", *more, *content["columns"].values()]
        rows = [
            [row["label"], row["setting"], *(cells.get((row["setting"], row["model"]), "") for cells in more.values())]
            + [plus_minus(row["values"][name], content["digits"][name]) for name in content["columns"]]
            for row in content["rows"]
        ]
        below = [
            *([notes] if notes else []),
            "mean ± standard deviation where there are several seeds",
            *(f"{name} {value}" for name, value in content["about"].items()),
        ]
    except KeyError as error:
        raise ValueError(f"results must hold {error}; run the notebook that makes them again") from error
    return markdown_table(header, rows, words=2, notes=below)


def lead_tables(content: Mapping[str, Any], units: str) -> str:
    """Markdown tables of forecasts by lead time: errors, and for how many days they are below a baseline's.

    One table of both is wider than a page.

    Args:
        content: of :func:`results` of columns ``by_day``.
        units: of the errors.

    Raises:
        ValueError: an entry is missing.
    """
    errors, days = (
        {key: name for key, name in content["columns"].items() if key.startswith("ahead_") is late}
        for late in (False, True)
    )
    first = table(content | {"columns": errors}, notes=f"RMSE in {units} by lead time")
    rows = [
        [row["label"], row["setting"], *(_days(row["values"][key]) for key in days)]
        for row in content["rows"]
        if any(row["values"][key] for key in days)
    ]
    notes = ["Days up to which the mean over seeds is below the baseline's at every lead time"]
    return f"{first}\n\n{markdown_table(['Model', 'Setting', *days.values()], rows, words=2, notes=notes)}"


def columns_table(
    head: str, columns: Mapping[Any, xr.DataArray], form: str = ".2f", words: int = 1, notes: Sequence[str] = ()
) -> str:
    """Markdown table of columns by their headers: over a common dimension, whose values name the rows, or that and
    seed, of which mean ± sample standard deviation are told. What is no number stands as it is.

    Args:
        head: above the names of rows.
        columns: a dataset is one, too, such as ``array.to_dataset(dim)``.
        form: of a number, such as ``.1e``.
        words: how many columns, that of the names included, hold words.
        notes: below the table.
    """

    def cell(value: xr.DataArray) -> str:
        if "seed" in value.dims:
            return plus_minus(value.values.tolist(), int(form.strip(".ef")))
        return str(value.item()) if value.dtype.kind in "OU" else f"{value.item():{form}}"

    (dim,) = {str(name) for column in columns.values() for name in column.dims if name != "seed"}
    names = next(iter(columns.values()))[dim].values.tolist()
    rows = [
        [
            STYLE[name]["label"] if name in STYLE else str(name),
            *(cell(column.sel({dim: name})) for column in columns.values()),
        ]
        for name in names
    ]
    headers = [f"{name:g}" if isinstance(name, float) else str(name) for name in columns]
    return markdown_table([head, *headers], rows, words, notes)


def losses(logs: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> xr.Dataset:
    """Logs by setting and model, as of ``Experiment.logs``, side by side.

    Returns:
        ``train_loss`` and ``validation_loss`` over (setting, model, seed, epoch), NaN where a setting has no such
        model. The logs' times are not among them: other work may have shared the machine, or an older program trained
        a part; ``probes.step_seconds`` measures.
    """

    def log(rows: Sequence[Mapping[str, float]]) -> xr.Dataset:
        places = {
            "seed": sorted({int(row["seed"]) for row in rows}),
            "epoch": sorted({int(row["epoch"]) for row in rows}),
        }
        found = {name: xr.DataArray(math.nan, places, ("seed", "epoch")) for name in ("train_loss", "validation_loss")}
        for row in rows:
            for name, values in found.items():
                values.loc[{"seed": row["seed"], "epoch": row["epoch"]}] = row[name]
        return xr.Dataset(found)

    def side_by_side(name: str, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
        index = xr.IndexVariable(name, list(found))
        return xr.concat([*found.values()], index, join="outer", coords="minimal", compat="override")

    models = list(dict.fromkeys(model for found in logs.values() for model in found))
    together = side_by_side(
        "setting",
        {name: side_by_side("model", {m: log(rows) for m, rows in found.items()}) for name, found in logs.items()},
    )
    return together.sel(model=models)


def minutes_to(losses: xr.Dataset, reference: str) -> xr.Dataset:
    """How long trainings take until their validation loss, in the mean over seeds, is what ``reference`` ends with.

    Args:
        losses: of :func:`losses`, with ``seconds`` of an epoch over (setting, model).
        reference: one of the models.

    Returns:
        Over (setting, model): ``epoch``, the first after which it is, and ``minutes`` up to then, NaN where it never
        is; ``whole``, minutes of all epochs.
    """
    mean = losses.validation_loss.mean("seed")
    there = mean <= mean.sel(model=reference).isel(epoch=-1)
    epoch = losses.epoch.where(there).min("epoch")
    minutes = losses.seconds / 60
    return xr.Dataset({"epoch": epoch, "minutes": epoch * minutes, "whole": losses.sizes["epoch"] * minutes})


def best(content: Mapping[str, Any], setting: str, column: str, models: Sequence[str]) -> Mapping[str, Any] | None:
    """The row of the model with the lowest mean in a column, of those that are finite for every seed."""
    rows = [row for row in content["rows"] if row["setting"] == setting and row["model"] in models]
    finite = [row for row in rows if None not in row["values"][column]]
    return min(finite, key=lambda row: statistics.mean(row["values"][column]), default=None)


def plus_minus(values: Sequence[float | None], digits: int = 2) -> str:
    """``12.34 ± 0.56``: mean and sample deviation, which one value has not; None, not finite, is counted aloud."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < len(values):
        return f"not finite for {len(values) - len(finite)} of {len(values)}"
    if not values:
        return ""
    spread = f"{SPACE}±{SPACE}{statistics.stdev(finite):.{digits}f}" if len(finite) > 1 else ""
    return f"{statistics.mean(finite):.{digits}f}{spread}"


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1, notes: Sequence[str] = ()
) -> str:
    """A table in Markdown with notes below it; ``words`` columns hold words, the others numbers.

    Raises ValueError where a row does not fit the header, or a cell would break the table.
    """
    for line in (header, *rows):
        if len(line) != len(header) or any("|" in cell or "\n" in cell for cell in line):
            raise ValueError(f"rows must have {len(header)} cells without | or line breaks; got {line}")
    lines = [header, [":--"] * words + ["--:"] * (len(header) - words), *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(["", "; ".join(notes) + "."] if notes else [])])


def _numbers(values: xr.DataArray) -> list[float | None]:
    """One number a seed; None where a rollout was not finite, which JSON cannot say, and nothing where it has none."""
    found = values.values.reshape(-1).tolist()
    if "seed" not in values.dims and not math.isfinite(found[0]):
        return []  # of a baseline, which is ahead of none
    return [value if math.isfinite(value) else None for value in found]


def _days(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):g}" if values else ""
