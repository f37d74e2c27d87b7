"""Reading the benchmark's result: rows by what was measured, tables by sequence length, and the targets."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr

from minconv.runtime.checks import choice

QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}
PAPER = {"batch": 1, "grid": 16, "width": 1.0}
PASS, MISS, NOT_MEASURED = "PASS", "MISS", "not measured"

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
        table = [[found.get((name, T), {}).get(field) or missing for T in lengths] for name in names]
        if spread:
            return xr.Variable(
                (by, "T", "quartile"), [[[cell[q] for q in QUARTILES] for cell in line] for line in table]
            )
        return xr.Variable((by, "T"), table)

    coordinates = {by: names, "T": ("T", lengths, {"long_name": "sequence length", "units": "frames"})}
    return xr.Dataset({field: values(field) for field in fields}, coordinates | {"quartile": list(QUARTILES.values())})


class Target(NamedTuple):
    """What is wanted of a result.

    Args:
        name: what is measured, with its unit.
        value: finds it in a result; None where it was not measured.
        threshold: the value that is still good enough.
        better: ``higher`` or ``lower``.
        device: where it counts, ``cpu`` or ``cuda``.
    """

    name: str
    value: Callable[[Result], float | None]
    threshold: float
    better: str
    device: str


class Outcome(NamedTuple):
    """A target's name, the value found, what was wanted in words, and PASS, MISS or "not measured"."""

    name: str
    value: float | None
    target: str
    verdict: str


def _scan(*path: str, batch: int, length: int) -> Callable[[Result], float | None]:
    """Of the default backend's scan of one shape, in the memory format that the model feeds."""
    wanted = {"gating": "lstm", "batch": batch, "T": length, "tail": [40, 16, 16]}

    def find(result: Result) -> float | None:
        rows = select(result["scan"], backend=result["default"], layout=result["layout"], **wanted)
        return _entry(rows, *path)

    return find


def _error(result: Result) -> float | None:
    """The larger one of the errors of output and gradients at the longest sequence that counts."""
    rows = select(result["accuracy"], backend=result["default"], gating="lstm", T=2048)
    found = [_entry(rows, name) for name in ("output", "gradient")]
    if not rows:
        return None
    return math.inf if None in found else max(found)  # None: not finite


def _step(*path: str, length: int, horizon: int) -> Callable[[Result], float | None]:
    wanted = PAPER | {"model": "minconvlstm", "T": length, "horizon": horizon}
    return lambda result: _entry(select(result["training"], **wanted), *path)


def _over_published(result: Result) -> float | None:
    """How many times as fast as with the log-domain scan a step of the experiment is."""
    times = [
        _entry(select(result["training"], **PAPER, model=model, T=20, horizon=5), "training", "median")
        for model in ("published", "minconvlstm")
    ]
    return None if None in times else times[0] / times[1]


def _slowest(result: Result) -> float | None:
    rows = select(result["training"], model="minconvlstm")
    return min((_entry([row], "training_speedup", "median") for row in rows), default=None)


def _bandwidth(passes: str) -> Callable[[Result], float | None]:
    """The least fraction of the copy's speed over all shapes whose forward pass moves at least 256 MB."""

    def find(result: Result) -> float | None:
        rows = select(result["scan"], backend=result["default"], layout=result["layout"])
        large = [row for row in rows if row["bytes"]["forward"] >= 256e6]
        return min((1 / _entry([row], f"{passes}_over_copy", "median") for row in large), default=None)

    return find


def _together(result: Result) -> float | None:
    return _entry(select(result["seeds"], model="minconvlstm"), "throughput", "median")


def _start(name: str) -> Callable[[Result], float | None]:
    return lambda result: _entry(result["startup"], name, "median")


def _entry(rows: Sequence[Row], *path: str) -> float | None:
    """One number of the only row; None where there is none."""
    if not rows:
        return None
    found: Any = rows[0]
    for key in path:
        found = found[key]
    return found


SHORT, LONG = {"batch": 4, "length": 20}, {"batch": 1, "length": 512}
SCAN = "gated scan, forward + backward"
STEP = "MinConvLSTM training step"
STEPS = {"20 + 5 frames": {"length": 20, "horizon": 5}, "512 frames": {"length": 512, "horizon": 0}}
SPEEDUP, FLOOR = ("training_speedup", "median"), ("training_over_copy", "median")
LOOP, SEQUENCE = (_step(*SPEEDUP, **at) for at in STEPS.values())
TARGETS = (
    Target(
        f"{SCAN}, [4, 20, 40, 16, 16]: times as fast as the log domain", _scan(*SPEEDUP, **SHORT), 30, "higher", "cpu"
    ),
    Target(
        f"{SCAN}, [1, 512, 40, 16, 16]: times as fast as the log domain", _scan(*SPEEDUP, **LONG), 25, "higher", "cpu"
    ),
    Target(f"{SCAN}, [4, 20, 40, 16, 16]: time over copying as many bytes", _scan(*FLOOR, **SHORT), 3, "lower", "cpu"),
    Target(f"{SCAN}, [1, 512, 40, 16, 16]: time over copying as many bytes", _scan(*FLOOR, **LONG), 3, "lower", "cpu"),
    Target("gated scan, T = 2048, gates of standard deviation 10: relative error", _error, 1e-6, "lower", "cpu"),
    Target(f"{STEP}, 20 + 5 frames: times as fast as ConvLSTM", LOOP, 1.5, "higher", "cpu"),
    Target(f"{STEP}, 512 frames: times as fast as ConvLSTM", SEQUENCE, 4, "higher", "cpu"),
    Target(f"{STEP}, slowest setting: times as fast as ConvLSTM", _slowest, 1, "higher", "cpu"),
    *(
        Target(
            f"{STEP}, {frames}: time over its convolutions",
            _step("over_convolutions", "median", **at),
            1.3,
            "lower",
            "cpu",
        )
        for frames, at in STEPS.items()
    ),
    Target("import minconv: seconds", _start("import"), 2.5, "lower", "cpu"),
    Target("first scan in a fresh process: seconds", _start("first_call"), 1, "lower", "cpu"),
    Target(
        "gated scan, forward, from 256 MB: fraction of copy bandwidth", _bandwidth("forward"), 0.8, "higher", "cuda"
    ),
    Target(f"{SCAN}, from 256 MB: fraction of copy bandwidth", _bandwidth("training"), 0.8, "higher", "cuda"),
    Target(f"{STEP}, 20 + 5 frames: times as fast as with the log-domain scan", _over_published, 5, "higher", "cuda"),
    Target(f"{STEP}, 512 frames: times as fast as ConvLSTM", SEQUENCE, 50, "higher", "cuda"),
    Target("seeds trained together: throughput over one after another", _together, 3, "higher", "cuda"),
)


def targets(result: Result) -> list[Outcome]:
    """Every target as the result has it; "not measured" on another device than the target's, or in a smaller run.

    A miss is a result like any other. Raises ValueError on a device that no target knows.
    """
    device = choice("device", result["device"], ("cpu", "cuda"))
    outcomes = []
    for name, find, threshold, better, where in TARGETS:
        value = find(result) if where == device else None
        met = value is not None and (value >= threshold if better == "higher" else value <= threshold)
        verdict = NOT_MEASURED if value is None else PASS if met else MISS
        words = f"{'at least' if better == 'higher' else 'at most'} {threshold:g}"
        outcomes.append(Outcome(f"{name} ({'CPU' if where == 'cpu' else 'GPU'})", value, words, verdict))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The targets as text, one a line."""
    lines = [("target", "value", "wanted", "verdict")]
    lines += [(o.name, "" if o.value is None else f"{o.value:.3g}", o.target, o.verdict) for o in outcomes]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
