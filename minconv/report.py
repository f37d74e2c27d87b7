"""The README's results, made from the committed numbers: ``python -m minconv.report [--check]``."""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from minconv.files import atomic, read_json

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results -->", "<!-- /results -->"
PARTS = {"teacher_forced": "teacher-forced", "closed_loop": "closed loop"}


def results(
    parts: Mapping[str, xr.Dataset],
    details: Mapping[str, Mapping[str, Any]],
    profile: str,
    hardware: str,
    facts: Mapping[str, Any],
    speedup: Mapping[str, float],
    frames: int,
) -> dict[str, Any]:
    """The content of figures/results.json.

    Args:
        parts: by training setting, ``teacher_forced`` and ``closed_loop`` over (model, seed), from
            :func:`minconv.metrics.summary`.
        details: for each model ``label``, ``parameters`` and ``seconds_per_step`` of training and
            ``speedup``, how many times as fast as ConvLSTM's a step is.
        profile, hardware: what ran, and where.
        facts: what the reader of the table should know of the experiment, words to numbers.
        speedup: how many times as fast as ConvLSTM each model trains on ``frames`` teacher-forced frames.

    Raises:
        ValueError: details for other models than those of ``parts`` (persistence needs none).
    """
    for setting, found in parts.items():
        models = [model for model in found.model.values.tolist() if model != "persistence"]
        if set(models) != set(details):
            expected = f"{', '.join(models)} of setting {setting}"
            raise ValueError(f"details must be given for {expected}; got {', '.join(details) or 'none'}")

    def errors(model: str) -> dict[str, dict[str, list[float | None]]]:
        return {
            setting: {part: _row(found[part].sel(model=model)) for part in PARTS} for setting, found in parts.items()
        }

    content = {"profile": profile, "hardware": hardware, "facts": dict(facts), "settings": list(parts)}
    content["long_sequence"] = {"frames": frames, "speedup": dict(speedup)}
    content["rows"] = [{"model": model, **details[model], "errors": errors(model)} for model in details]
    if all("persistence" in found.model for found in parts.values()):
        content["persistence"] = {
            setting: {part: row[:1] for part, row in found.items()}  # the same for every seed
            for setting, found in errors("persistence").items()
        }
    return content


def table(content: Mapping[str, Any]) -> str:
    """Markdown table of :func:`results`' dictionary: mean ± sample standard deviation over seeds.

    Raises:
        ValueError: an entry is missing.
    """
    try:
        columns = [(setting, part) for setting in content["settings"] for part in PARTS]
        header = ["Model", "Parameters", "ms per training step"]
        header += [f"{setting}: {PARTS[part]}" for setting, part in columns]
        rows = [
            [row["label"], f"{row['parameters']:,}", f"{1e3 * row['seconds_per_step']:.0f}"]
            + [_percent(row["errors"][setting][part]) for setting, part in columns]
            for row in content["rows"]
        ]
        if "persistence" in content:
            errors = [_percent(content["persistence"][setting][part]) for setting, part in columns]
            rows.append(["Persistence", "", "", *errors])
        seeds = {len(row["errors"][setting][part]) for row in content["rows"] for setting, part in columns}
        notes = [
            f"RMSE × 100, mean ± standard deviation over {' or '.join(map(str, sorted(seeds)))} seeds",
            f"profile `{content['profile']}` on {content['hardware']}",
            *(f"{name} {value}" for name, value in content["facts"].items()),
        ]
    except KeyError as error:
        raise ValueError(f"results must hold {error}; run notebook 05 again") from error
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", "; ".join(notes) + "."])


def findings(content: Mapping[str, Any]) -> str:
    """Markdown list: the paper's two claims as measured, best minimal cell against best classical one."""
    rows = {row["model"]: row for row in content["rows"]}
    minimal = [model for model in rows if model.startswith("min")]
    frames, speedup = content["long_sequence"]["frames"], content["long_sequence"]["speedup"]

    def listed(values: Mapping[str, float]) -> str:
        return ", ".join(f"{rows[model]['label']} {values[model]:.2f}" for model in minimal)

    steps = {model: row["speedup"] for model, row in rows.items()}
    lines = [
        f"- **Speed** (times as fast as ConvLSTM, {content['hardware']}): training on {frames} teacher-forced frames "
        f"{listed(speedup)}; a training step of the experiment, 20 teacher-forced frames and 5 in closed loop, "
        f"{listed(steps)}."
    ]
    for setting in content["settings"]:
        best = {}
        for kind, models in (("minimal", minimal), ("classical", [model for model in rows if model not in minimal])):
            found = {model: rows[model]["errors"][setting]["closed_loop"] for model in models}
            finite = {model: row for model, row in found.items() if None not in row}
            model = min(finite, key=lambda model: statistics.mean(finite[model]), default=None)
            best[kind] = (
                f"{rows[model]['label']} with {_percent(finite[model])}" if model else "none that stayed finite"
            )
        lines.append(
            f"- **Closed-loop error, {setting}**: best minimal cell {best['minimal']}, "
            f"best classical cell {best['classical']} (RMSE × 100)."
        )
    return "\n".join(lines)


def updated(readme: str, content: Mapping[str, Any]) -> str:
    """``readme`` with the region between the marks rewritten; raises ValueError where there is not one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"README must hold {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{table(content)}\n\n{findings(content)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the README, or with ``--check`` returns 1 where it is out of date; exits 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m minconv.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the table is out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--results", type=Path, default=ROOT / "figures" / "results.json", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = updated(old, read_json(options.results))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if new == old:
        return 0
    if options.check:
        print(f"{options.readme}: results are out of date; run python -m minconv.report", file=sys.stderr)
        return 1
    with atomic(options.readme) as temporary:
        temporary.write_text(new, encoding="utf-8")
    return 0


def _row(values: xr.DataArray) -> list[float | None]:
    """One number a seed; None where a rollout was not finite, which JSON cannot say."""
    return [value if math.isfinite(value) else None for value in values.values.tolist()]


def _percent(errors: Sequence[float | None]) -> str:
    """``12.34 ± 0.56`` of errors 0.1234 and so on; None, a rollout that blew up, is counted aloud."""
    finite = [100 * error for error in errors if error is not None]
    if len(finite) < len(errors) or not errors:
        return f"not finite for {len(errors) - len(finite)} of {len(errors)}"
    spread = f" ± {statistics.stdev(finite):.2f}" if len(finite) > 1 else ""
    return f"{statistics.mean(finite):.2f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
