"""The README's results, made from the committed numbers: ``python -m minconv.artifact.readme [--check]``."""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from minconv.bench.results import experiment, scans, select, teacher_forced
from minconv.evaluation.weather import DAY, lead_of_skill
from minconv.runtime.files import atomic, read_json

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"teacher_forced": "teacher-forced", "closed_loop": "closed loop"}
LEADS = (1, 3, 5, 7)  # days


def results(
    parts: Mapping[str, xr.Dataset],
    details: Mapping[str, Mapping[str, Any]],
    profile: str,
    hardware: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of figures/results.json.

    Args:
        parts: by training setting, ``teacher_forced`` and ``closed_loop`` over (model, seed), from
            :func:`minconv.evaluation.errors.summary`.
        details: for each model ``label`` and ``parameters``.
        profile, hardware: what ran, and where.
        facts: what the reader of the table should know of the experiment, words to numbers.

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
    content["rows"] = [{"model": model, **details[model], "errors": errors(model)} for model in details]
    if all("persistence" in found.model for found in parts.values()):
        content["persistence"] = {
            setting: {part: row[:1] for part, row in found.items()}  # the same for every seed
            for setting, found in errors("persistence").items()
        }
    return content


def table(content: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    """Markdown table of :func:`results`' dictionary, mean ± sample standard deviation over seeds, with the times of a
    training step from the benchmark.

    Raises:
        ValueError: an entry is missing.
    """
    try:
        seconds = {row["model"]: row["training"]["median"] for row in experiment(benchmark)}
        columns = [(setting, part) for setting in content["settings"] for part in PARTS]
        header = ["Model", "Parameters", "ms per training step"]
        header += [f"{setting}: {PARTS[part]}" for setting, part in columns]
        rows = [
            [row["label"], f"{row['parameters']:,}", f"{1e3 * seconds[row['model']]:.0f}"]
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
            f"training step on {benchmark['provenance']['hardware']}",
            *(f"{name} {value}" for name, value in content["facts"].items()),
        ]
    except KeyError as error:
        raise ValueError(f"results and benchmark must hold {error}; run notebooks 04 and 05 again") from error
    return markdown_table(header, rows, notes=notes)


def findings(content: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    """Markdown list: the paper's two claims as measured, best minimal cell against best classical one.

    Raises:
        ValueError: the benchmark lacks what a sentence needs.
    """
    rows = {row["model"]: row for row in content["rows"]}
    minimal = [model for model in rows if model.startswith("min")]
    try:
        lines = speed({model: rows[model]["label"] for model in minimal}, benchmark)
    except (IndexError, KeyError) as error:
        raise ValueError(f"benchmark must hold {error}; run notebook 04 again") from error
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


def speed(labels: Mapping[str, str], benchmark: Mapping[str, Any]) -> list[str]:
    """Markdown list of what the benchmark found: minimal cells beside ConvLSTM, the scan beside its floor.

    Args:
        labels: of the minimal cells, by name.
        benchmark: the result of ``minconv.bench``.
    """
    loop, forced = experiment(benchmark), teacher_forced(benchmark)
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


def weather_results(
    scores: Mapping[str, xr.Dataset],
    labels: Mapping[str, str],
    baselines: Sequence[str],
    profile: str,
    hardware: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of figures/geopotential_results.json and the like.

    Args:
        scores: by training setting, ``rmse`` over (model, seed, lead_time), from ``Study.evaluate``.
        labels: of the models and baselines.
        baselines: which of the models are that; each is compared with them, and they stand once.
        profile, hardware: what ran, and where.
        facts: what the reader of the table should know of the experiment, words to numbers.
    """
    rows, days = [], [np.timedelta64(24 * lead, "h") for lead in LEADS]
    for setting, found in scores.items():
        mean = found.rmse.mean("seed")
        for model in found.model.values.tolist():
            base = model in baselines
            if base and setting != next(iter(scores)):
                continue
            at = found.rmse.sel(model=model, lead_time=days).transpose("lead_time", "seed").values.tolist()
            row = {"setting": "" if base else setting, "model": model, "label": labels[model]}
            row["rmse"] = [values[:1] if base else values for values in at]
            if not base:
                ahead = (lead_of_skill(mean.sel(model=model), mean.sel(model=name)) for name in baselines)
                row["ahead"] = [float(lead / DAY) for lead in ahead]
            rows.append(row)
    first = next(iter(scores.values()))
    about = {"source": first.attrs["source"], "units": first.rmse.attrs["units"], "starts": first.attrs["starts"]}
    return about | {
        "profile": profile,
        "hardware": hardware,
        "facts": dict(facts),
        "baselines": [labels[name] for name in baselines],
        "days": list(LEADS),
        "rows": rows,
    }


def weather_table(content: Mapping[str, Any]) -> str:
    """Markdown table of :func:`weather_results`' dictionary: RMSE by lead, and the days a model is ahead of baselines.

    Raises:
        ValueError: an entry is missing.
    """
    try:
        header = ["Model", "Setting", *(f"{day} day{'s' * (day > 1)}" for day in content["days"])]
        header += [f"ahead of {name.lower()}" for name in content["baselines"]]
        digits = 0 if max(max(values) for row in content["rows"] for values in row["rmse"]) > 100 else 2
        rows = [
            [row["label"], row["setting"], *(_mean(values, digits) for values in row["rmse"])]
            + [f"{lead:.2f}" for lead in row.get("ahead", [])]
            for row in content["rows"]
        ]
        notes = [
            f"RMSE in {content['units']} by lead time, mean ± standard deviation over seeds where there are several",
            "ahead: days up to which the mean over seeds is below the baseline's at every lead",
            f"data: {content['source']}",
            f"{content['starts']} forecasts",
            f"profile `{content['profile']}` on {content['hardware']}",
            *(f"{name} {value}" for name, value in content["facts"].items()),
        ]
    except KeyError as error:
        raise ValueError(f"results must hold {error}; run notebooks 06 and 07 again") from error
    blank = [""] * len(content["baselines"])  # what is a baseline itself is ahead of none
    rows = [line if "ahead" in row else line + blank for line, row in zip(rows, content["rows"], strict=True)]
    return markdown_table(header, rows, words=2, notes=notes)


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
        paths = [options.figures / f"{name}.json" for name in ("results", "benchmark")]
        content, benchmark = map(read_json, paths)
        with _named(*paths):
            regions = {"results": f"{table(content, benchmark)}\n\n{findings(content, benchmark)}"}
        for name in ("geopotential", "air_temperature"):
            path = options.figures / f"{name}_results.json"
            content = read_json(path)
            with _named(path):
                regions[name] = weather_table(content)
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


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1, notes: Sequence[str] = ()
) -> str:
    """A table in Markdown with notes below it; ``words`` columns hold words, the others numbers.

    Raises ValueError where a row does not fit the header, or a cell would break the table.
    """
    for line in (header, *rows):
        if len(line) != len(header) or any("|" in cell or "\n" in cell for cell in line):
            raise ValueError(f"rows must have {len(header)} cells without | or line breaks; got {line}")
    lines = [header, [*[":--"] * words, *["--:"] * (len(header) - words)], *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(["", "; ".join(notes) + "."] if notes else [])])


def _row(values: xr.DataArray) -> list[float | None]:
    """One number a seed; None where a rollout was not finite, which JSON cannot say."""
    return [value if math.isfinite(value) else None for value in values.values.tolist()]


def _setting(row: Mapping[str, Any]) -> str:
    """A row's speed-up and what it was measured with."""
    frames = f"{row['T']} + {row['horizon']} frames, batch {row['batch']}, {row['grid']} × {row['grid']}"
    channels = "" if row["width"] == 1 else f", {row['width']:g} times the channels"
    return f"{row['training_speedup']['median']:.2f} ({frames}{channels})"


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _percent(errors: Sequence[float | None]) -> str:
    """``12.34 ± 0.56`` of errors 0.1234 and so on; None, a rollout that blew up, is counted aloud."""
    finite = [100 * error for error in errors if error is not None]
    if len(finite) < len(errors) or not errors:
        return f"not finite for {len(errors) - len(finite)} of {len(errors)}"
    return _mean(finite, 2)


if __name__ == "__main__":
    sys.exit(main())
