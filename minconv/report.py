"""The README's table of results, made from the committed numbers: ``python -m minconv.report [--check]``."""

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
PARTS = ("teacher_forced", "closed_loop")
HEADER = (
    "Model",
    "Parameters",
    "RMSE × 100, teacher-forced",
    "RMSE × 100, closed loop",
    "ms per training step",
    "Seeds",
)


def results(
    parts: xr.Dataset,
    details: Mapping[str, Mapping[str, Any]],
    profile: str,
    hardware: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of figures/results.json.

    Args:
        parts: ``teacher_forced`` and ``closed_loop`` over (model, seed), from
            :func:`minconv.metrics.summary`.
        details: for each model ``label``, ``parameters`` and ``seconds_per_step`` (of training; None
            where not measured).
        profile, hardware: what ran, and where.
        settings: what the reader of the table should know of the experiment, words to numbers.

    Raises:
        ValueError: details for other models than those of ``parts`` (persistence needs none).
    """
    models = [model for model in parts.model.values.tolist() if model != "persistence"]
    if set(models) != set(details):
        raise ValueError(f"details must be given for {', '.join(models)}; got {', '.join(details) or 'none'}")

    def errors(model: str) -> dict[str, list[float | None]]:
        values = {part: parts[part].sel(model=model).values.tolist() for part in PARTS}
        return {part: [value if math.isfinite(value) else None for value in row] for part, row in values.items()}

    found = {"profile": profile, "hardware": hardware, "settings": dict(settings)}
    found["rows"] = [{"model": model, **details[model], **errors(model)} for model in models]
    if "persistence" in parts.model:
        found["persistence"] = {
            part: values[:1] for part, values in errors("persistence").items()
        }  # the same for every seed
    return found


def table(content: Mapping[str, Any]) -> str:
    """Markdown table of :func:`results`' dictionary: mean ± sample standard deviation over seeds.

    Raises:
        ValueError: an entry is missing.
    """
    try:
        rows = [
            (
                row["label"],
                f"{row['parameters']:,}",
                *(_percent(row[part]) for part in PARTS),
                "" if row["seconds_per_step"] is None else f"{1e3 * row['seconds_per_step']:,.1f}",
                str(len(row["closed_loop"])),
            )
            for row in content["rows"]
        ]
        if "persistence" in content:
            rows.append(("Persistence", "", *(_percent(content["persistence"][part]) for part in PARTS), "", ""))
        notes = [
            f"Profile `{content['profile']}` on {content['hardware']}",
            "mean ± standard deviation over seeds",
        ]
        notes += [f"{name} {value}" for name, value in content["settings"].items()]
    except KeyError as error:
        raise ValueError(f"results must hold {error}; run notebook 05 again") from error
    lines = [HEADER, (":--", *["--:"] * (len(HEADER) - 1)), *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", "; ".join(notes) + "."])


def updated(readme: str, content: Mapping[str, Any]) -> str:
    """``readme`` with the region between the marks rewritten; raises ValueError where there is not one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"README must hold {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{table(content)}\n{END}{after}"


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


def _percent(errors: Sequence[float | None]) -> str:
    """``12.34 ± 0.56`` of errors 0.1234 and so on; None, a rollout that blew up, is counted aloud."""
    finite = [100 * error for error in errors if error is not None]
    if len(finite) < len(errors) or not errors:
        return f"not finite for {len(errors) - len(finite)} of {len(errors)}"
    spread = f" ± {statistics.stdev(finite):.2f}" if len(finite) > 1 else ""
    return f"{statistics.mean(finite):.2f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
