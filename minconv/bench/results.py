"""Reading the benchmark's result: rows by what was measured, tables by sequence length, and its main numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}
PAPER = {"batch": 1, "grid": 16, "width": 1.0}

Result = Mapping[str, Any]
Row = Mapping[str, Any]


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows whose entries are as wanted."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def experiment(result: Result) -> list[Row]:
    """Rows of the training step as in the paper: teacher-forced, then closed loop, one row a model."""
    return select(result["training"], **result["experiment"])


def teacher_forced(result: Result) -> list[Row]:
    """Rows of training steps without a closed loop, by model and length, on the paper's grid with its channels."""
    return select(result["training"], horizon=0, **PAPER)


def scans(result: Result, gating: str = "lstm") -> list[Row]:
    """Rows of the scan by backend and length, one sequence of 40 channels on 16 x 16 as the model feeds it."""
    layouts = (result["layout"], None)  # None: the copy, which has none
    return [
        row for row in select(result["scan"], gating=gating, tail=[40, 16, 16], batch=1) if row["layout"] in layouts
    ]


def by_length(rows: Sequence[Row], by: str, fields: Sequence[str]) -> xr.Dataset:
    """Entries of rows over (``by``, T), those with quartiles over (``by``, T, quartile); NaN where a row is missing."""
    if not rows:
        raise ValueError(f"rows must hold at least one {by}; got none")
    names, lengths = list(dict.fromkeys(row[by] for row in rows)), sorted({row["T"] for row in rows})
    found = {(row[by], row["T"]): row for row in rows}

    def values(field: str) -> xr.Variable:
        spread = any(isinstance(row[field], Mapping) for row in rows)
        missing = dict.fromkeys(QUARTILES, math.nan) if spread else math.nan
        table = [[found.get((name, T), {}).get(field) for T in lengths] for name in names]
        table = [[missing if cell is None else cell for cell in line] for line in table]
        if spread:
            return xr.Variable(
                (by, "T", "quartile"), [[[cell[q] for q in QUARTILES] for cell in line] for line in table]
            )
        return xr.Variable((by, "T"), table)

    coordinates = {by: names, "T": ("T", lengths, {"long_name": "sequence length", "units": "frames"})}
    return xr.Dataset({field: values(field) for field in fields}, coordinates | {"quartile": list(QUARTILES.values())})


def headlines(result: Result) -> dict[str, float | None]:
    """The numbers that say most of a result, by what they are; None where one was not finite.

    Scans are those of the default backend, in the memory format that the model feeds it; steps those of MinConvLSTM on
    the paper's grid, with its channels, one sequence a batch.
    """
    found = {}
    for row in select(result["scan"], backend=result["default"], layout=result["layout"], gating="lstm"):
        about = f"scan, forward + backward, {[row['batch'], row['T'], *row['tail']]}"
        found[f"{about}: times as fast as the log domain"] = row["training_speedup"]["median"]
        found[f"{about}: time over copying as many bytes"] = row["training_over_copy"]["median"]
    for row in select(result["accuracy"], backend=result["default"], gating="lstm")[-1:]:
        errors = row["output"], row["gradient"]
        found[f"scan, T = {row['T']}: relative error of output or gradients"] = None if None in errors else max(errors)
    for row in select(result["training"], model="minconvlstm", **PAPER):
        about = f"training step, {row['T']} + {row['horizon']} frames"
        found[f"{about}: times as fast as the fastest ConvLSTM"] = row["training_speedup"]["median"]
        found[f"{about}: time over its convolutions"] = row["over_convolutions"]["median"]
    for row in select(result["seeds"], model="minconvlstm"):
        found[f"{row['seeds']} seeds together: throughput over one by one"] = row["throughput"]["median"]
    for row in result["startup"]:
        found["import minconv: seconds"] = row["import"]["median"]
        found["first scan in a fresh process: seconds"] = row["first_call"]["median"]
    return found
