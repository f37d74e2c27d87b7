"""The README's results, made from the committed numbers: ``python -m minconv.artifact.readme [--check]``."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minconv.artifact.times import ROOT
from minconv.bench.results import experiment, scans, select, teacher_forced
from minconv.experiments.report import best, plus_minus, table
from minconv.models import MODELS
from minconv.runtime.files import atomic, read_json


def flow(content: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    """Table of errors with size and time of a training step, and the paper's two claims as measured.

    Raises:
        ValueError: an entry is missing.
    """
    try:
        steps = experiment(benchmark)  # of models as published
        more = {
            "Parameters": {("published", row["model"]): f"{row['parameters']:,}" for row in steps},
            "ms per step": {("published", row["model"]): f"{1e3 * row['training']['median']:.0f}" for row in steps},
        }
        lines = speed(benchmark)
    except (IndexError, KeyError) as error:
        raise ValueError(f"results and benchmark must hold {error}; run notebooks 04 and 05 again") from error
    for setting in dict.fromkeys(row["setting"] for row in content["rows"] if row["setting"]):
        words = []
        for kind in (True, False):
            names = [name for name, model in MODELS.items() if model.minimal is kind]
            row = best(content, setting, "closed_loop", names)
            words.append(f"{row['label']} with {plus_minus(row['values']['closed_loop'])}" if row else "none is finite")
        lines.append(
            f"- **Closed-loop error, {setting}**: best minimal cell {words[0]}, best classical cell {words[1]} "
            "(RMSE × 100)."
        )
    notes = f"RMSE × 100; training step on {benchmark['provenance']['hardware']}"
    return "\n\n".join([table(content, more, notes), "\n".join(lines)])


def weather(units: str) -> Any:
    """Makes the table of forecasts by lead time."""
    return lambda content: table(content, notes=f"RMSE in {units} by lead time; ahead of a baseline: days")


def speed(benchmark: Mapping[str, Any]) -> list[str]:
    """Markdown list of what the benchmark found: minimal cells beside ConvLSTM, the scan beside its floor.

    Args:
        benchmark: the result of ``minconv.bench``.
    """
    loop, forced = experiment(benchmark), teacher_forced(benchmark)
    there = {row["model"] for row in loop}
    labels = {name: model.label for name, model in MODELS.items() if model.minimal and name in there}
    longest = max(row["T"] for row in forced)

    def listed(rows: Sequence[Mapping[str, Any]]) -> str:
        found = {row["model"]: row["training_speedup"]["median"] for row in rows}
        speeds = ", ".join(f"{label} {found[model]:.2f}" for model, label in labels.items())
        published, half = found["published"], found["half"]
        return f"{speeds} (MinConvLSTM with the published log-domain scan {published:.2f}, in bf16-mixed {half:.2f})"

    every = [row for row in benchmark["training"] if row["model"] in labels]
    slower = [row for row in every if row["training_speedup"]["median"] < 1]
    scan = select(scans(benchmark), backend=benchmark["default"])[-1]
    return [
        f"- **Speed** (times as fast as ConvLSTM, {benchmark['provenance']['hardware']}): training on {longest} "
        f"teacher-forced frames {listed(select(forced, T=longest))}; a training step of the experiment, "
        f"{loop[0]['T']} teacher-forced frames and {loop[0]['horizon']} in closed loop, {listed(loop)}.",
        f"- **Slower than ConvLSTM** in {len(every) // len(labels)} settings of length, batch, grid and channels: "
        + ("; ".join(f"{labels[row['model']]} {_setting(row)}" for row in slower) or "no minimal cell")
        + ".",
        f"- **Scan** (backend `{scan['backend']}`, forward + backward, {scan['T']} frames of 40 channels on 16 × 16): "
        f"{scan['training_speedup']['median']:.1f} times as fast as the published log-domain scan, "
        f"{scan['training_over_copy']['median']:.1f} times the time of copying as many bytes.",
    ]


# by region of the README: the files in figures/ that it is made from, and how
REGIONS = {
    "results": (("results", "benchmark"), flow),
    "real_weather": (("real_weather_results",), weather("m2 s-2")),
    "geopotential": (("geopotential_results",), weather("m2 s-2")),
    "air_temperature": (("air_temperature_results",), weather("K")),
}


def updated(readme: str, regions: Mapping[str, str]) -> str:
    """``readme`` with the text between ``<!-- name -->`` and ``<!-- /name -->`` replaced, by name in ``regions``.

    Raises:
        ValueError: the marks of a region are not there once each.
    """
    for name, text in regions.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, begin, rest = readme.partition(opening)
        _, end, after = rest.partition(closing)
        if not (begin and end) or opening in rest or closing in before + after:
            raise ValueError(f"README must hold {opening} and {closing} once each, in this order")
        readme = f"{before}{opening}\n{text}\n{closing}{after}"
    return readme


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the README, or with ``--check`` returns 1 where it is out of date; exits 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m minconv.artifact.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the table is out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--figures", type=Path, default=ROOT / "figures", metavar="FOLDER", help="with the numbers")
    options = parser.parse_args(arguments)
    try:
        with _named(options.readme):
            old = options.readme.read_text(encoding="utf-8")
        regions = {}
        for region, (names, text) in REGIONS.items():
            paths = [options.figures / f"{name}.json" for name in names]
            contents = [read_json(path) for path in paths]
            with _named(*paths):
                regions[region] = text(*contents)
        with _named(options.readme):
            new = updated(old, regions)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if new == old:
        return 0
    if options.check:
        print(f"{options.readme}: results are out of date; run python -m minconv.artifact.readme", file=sys.stderr)
        return 1
    with atomic(options.readme) as temporary:
        temporary.write_text(new, encoding="utf-8")
    return 0


@contextmanager
def _named(*paths: Path) -> Iterator[None]:
    """Tells of whatever is wrong with the content of files, of any shape, by their names, as a ValueError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, ValueError) else f"not what was written there, {type(error).__name__}: "
        raise ValueError(f"{' and '.join(map(str, paths))}: {kind}{error}") from error


def _setting(row: Mapping[str, Any]) -> str:
    """A row's speed-up and what it was measured with."""
    frames = f"{row['T']} + {row['horizon']} frames, batch {row['batch']}, {row['grid']} × {row['grid']}"
    channels = "" if row["width"] == 1 else f", {row['width']:g} times the channels"
    return f"{row['training_speedup']['median']:.2f} ({frames}{channels})"


if __name__ == "__main__":
    sys.exit(main())
