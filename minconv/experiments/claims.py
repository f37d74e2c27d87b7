"""The claims of arXiv 2508.03614 beside what was measured: a number, its interval, and whether the claim holds.

A comparison of errors is by trajectories and seeds (``compare.paired_difference``), of weather by months and seeds; of
times by quartiles of interleaved rounds. Where many are made, the interval of each is as wide as Bonferroni asks for,
so that all hold together with 95 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from minconv.bench.results import experiment, select, teacher_forced
from minconv.evaluation.compare import paired_difference
from minconv.evaluation.weather import blocks
from minconv.experiments.report import SPACE, markdown_table
from minconv.models import MODELS, build_model, count_parameters
from minconv.runtime.checks import choice

PAPERS = "convlstm_published"  # the paper's own ConvLSTM in the benchmark
UNITS = ("%", "×")
MINIMAL, CLASSICAL = ([name for name, model in MODELS.items() if model.minimal is kind] for kind in (True, False))
ONE_SEED = "¹"
UNTESTED = ("ERA5", "a GPU")

# columns of the short table: settings as the paper has them, and those in which both sides are at their best
OWN, FASTEST = "the paper's own", "the fastest"
COLUMNS = {"as in the paper": ("published", OWN), "both at their best": ("recipe", FASTEST)}


@dataclass(frozen=True)
class Finding:
    """One comparison of a minimal cell with a classical one.

    Args:
        claim: of the paper, in few words.
        case: on what.
        setting: of the training, with its epochs where they are fewer than elsewhere; or which ConvLSTM it is.
        cells: minimal and classical.
        unit: ``%``, how much larger an error is, or ``×``, times as fast, as small or as steep.
        value, low, high: the number and its interval; without one, as of parameters, all three are the same.
        evidence: the notebook that has it.
        seeds: of each model, where they are trained.
        best: whether the cells are the best of their kind.
    """

    claim: str
    case: str
    setting: str
    cells: tuple[str, str]
    unit: str
    value: float
    low: float
    high: float
    evidence: str
    seeds: int | None = None
    best: bool = True

    def __post_init__(self) -> None:
        choice("unit", self.unit, UNITS)
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value must lie in its interval; got {self.value}, {self.low} to {self.high}")

    @property
    def verdict(self) -> str:
        """By the whole interval: errors below, factors above."""
        none = 0 if self.unit == "%" else 1
        better, worse = (self.high < none, self.low > none) if self.unit == "%" else (self.low > none, self.high < none)
        return "holds" if better else "does not hold" if worse else "undecided"

    @property
    def number(self) -> str:
        """With its interval; not broken over two lines."""
        sign, digits = ("+", 0) if self.unit == "%" else ("", 2)
        value, low, high = (f"{number:{sign}.{digits}f}" for number in (self.value, self.low, self.high))
        return SPACE.join([value, self.unit] + [f"[{low},{SPACE}{high}]"] * (low != high))


def error_findings(
    claim: str,
    case: str,
    setting: str,
    errors: xr.Dataset,
    part: str,
    evidence: str,
    comparisons: int,
    pairs: Sequence[tuple[str, str]] = (("minconvlstm", "convlstm"),),
) -> Iterator[Finding]:
    """Errors of minimal and classical cells that belong together, and of the best of each kind by their means.

    Args:
        claim, case, setting, evidence: of the findings.
        errors: ``part`` over (model, seed, sample), as ``compare.paired_difference`` takes them.
        comparisons: how many are made in all.
        pairs: that belong together; those of which a cell is not in ``errors`` are left out.
    """
    mean = np.sqrt((errors[part] ** 2).mean("sample")).mean("seed")
    kinds = ([name for name in cells if name in mean.model] for cells in (MINIMAL, CLASSICAL))
    best = [str(mean.sel(model=cells).idxmin("model").item()) for cells in kinds]
    there = [pair for pair in pairs if set(pair) <= {*mean.model.values.tolist()}]
    for pair in (*there, best):
        d = paired_difference(errors, *pair, part, level=1 - 0.05 / comparisons)
        value, low, high = (float(d[name]) for name in ("difference", "low", "high"))
        bounds = value, min(low, value), max(high, value)
        cells, seeds = tuple(MODELS[name].label for name in pair), errors.sizes["seed"]
        yield Finding(claim, case, setting, cells, "%", *bounds, evidence, seeds, pair is best)


def weather_findings(
    setting: str, scored: xr.Dataset, days: Sequence[int], evidence: str, comparisons: int
) -> Iterator[Finding]:
    """The same of forecasts of so many days, ``scored`` by ``Experiment.evaluate``; samples are months."""
    for day in days:
        found = blocks(scored.sel(lead_time=np.timedelta64(24 * day, "h")))
        case = f"weather (stand-in), {day} day{'s' if day > 1 else ''}"
        yield from error_findings("lower error", case, setting, found, "rmse", evidence, comparisons)


def speed_findings(benchmark: Mapping[str, Any], evidence: str) -> Iterator[Finding]:
    """A training step of MinConvLSTM beside those of the paper's own and of the fastest ConvLSTM, and how the advantage
    grows with the number of frames, from ``minconv.bench``."""
    forced, loop = teacher_forced(benchmark), experiment(benchmark)
    few, many = min(row["T"] for row in forced), max(row["T"] for row in forced)
    cells = MODELS["minconvlstm"].label, MODELS["convlstm"].label
    rivals = {OWN: PAPERS} if select(loop, model=PAPERS) else {}
    for words, rival in (rivals | {FASTEST: ""}).items():
        case = f"{loop[0]['T']} + {loop[0]['horizon']} frames"
        yield Finding("faster training", case, words, cells, "×", *_faster(loop, rival), evidence)
        (a, a_low, a_high), (b, b_low, b_high) = (_faster(select(forced, T=T), rival) for T in (few, many))
        growth = b / a, b_low / a_high, b_high / a_low
        case = f"{many} frames beside {few}"
        yield Finding("better scalability", case, words, cells, "×", *growth, evidence)


def size_finding(channels: int, evidence: str) -> Finding:
    """How many times as many parameters ConvLSTM has as MinConvLSTM, with as many channels."""
    names = "minconvlstm", "convlstm"
    minimal, classical = (count_parameters(build_model(name, 0, hidden=channels)) for name in names)
    cells, fewer = (MODELS[names[0]].label, MODELS[names[1]].label), classical / minimal
    case = f"{channels} channels: {minimal:,} of {classical:,}"
    return Finding("fewer parameters", case, "published", cells, "×", fewer, fewer, fewer, evidence)


def table(found: Sequence[Finding]) -> str:
    """All findings, in Markdown."""
    rows = [
        [one.claim, one.case, one.setting, " / ".join(one.cells), f"{one.seeds or ''}", one.number, one.verdict]
        for one in found
    ]
    header = ["Claim", "On", "Setting", "Minimal / classical", "Seeds", "Number", "Verdict"]
    return markdown_table(header, rows, words=4)


def short_table(found: Sequence[Finding], link: str, untested: Sequence[str]) -> str:
    """A row for every claim and case, of the best cells alone: as in the paper, and with both sides at their best.

    Args:
        link: where the notebooks are.
        untested: what was not, for the note below.
    """
    cases = dict.fromkeys((one.claim, one.case) for one in found if one.best)

    def words(one: Finding) -> str:
        _, comma, shorter = one.setting.partition(", ")  # for fewer epochs
        number = one.number + ONE_SEED * (one.seeds == 1)
        return f"[{one.verdict}]({link}{one.evidence}.ipynb): {number}{comma}{shorter}"

    def cell(claim: str, case: str, settings: Sequence[str]) -> str:
        told = [one for one in found if one.best and (one.claim, one.case) == (claim, case)]
        return "; ".join(words(one) for one in told if one.setting.partition(", ")[0] in settings)

    rows = [[claim, case, *(cell(claim, case, settings) for settings in COLUMNS.values())] for claim, case in cases]
    notes = [
        "Errors: best minimal beside best classical cell, intervals of 95 % for all together",
        "speed, size: MinConvLSTM beside ConvLSTM in the published shape, bounds from quartiles",
        f"{ONE_SEED} one seed",
        f"not tested: {', '.join(untested)}",
    ]
    return markdown_table(["Claim", "On", *COLUMNS], rows, words=4, notes=notes)


def _faster(rows: Sequence[Mapping[str, Any]], rival: str) -> tuple[float, float, float]:
    """How many times as fast as ``rival`` MinConvLSTM is, or as the fastest: the number, and bounds from quartiles."""
    ours = select(rows, model="minconvlstm")[0]["training_speedup"]
    theirs = select(rows, model=rival)[0]["training_speedup"] if rival else dict.fromkeys(ours, 1)
    return ours["median"] / theirs["median"], ours["low"] / theirs["high"], ours["high"] / theirs["low"]
