"""The numbers of figures/*.json as Markdown: tables, and sentences that say what is in them."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minconv.bench.results import experiment, scans, select, teacher_forced
from minconv.experiments import claims
from minconv.experiments.report import best, markdown_table, plus_minus, table
from minconv.models import MODELS, PEERS

Numbers = Mapping[str, Any]
KINDS = {"minimal": claims.MINIMAL, "classical": claims.CLASSICAL}
STEPS = {"published": "MinConvLSTM, published log-domain scan", "half": "MinConvLSTM, bf16-mixed"} | {
    f"{name}_published": f"{MODELS[name].label}, the paper's own code" for name in ("convlstm", "minconvlstm")
}


def findings(results: Numbers, benchmark: Numbers, weather: Numbers) -> str:
    """The README's three findings: speed, accuracy, real weather."""
    with_recipe = {name: best(results, "recipe", "closed_loop", models) for name, models in KINDS.items()}
    first, second = sorted(with_recipe, key=lambda kind: _mean(with_recipe[kind], "closed_loop"))
    before = {row["model"]: row for row in results["rows"] if row["setting"] == "published"}
    after = [row for row in results["rows"] if row["setting"] == "recipe"]
    gains = [_mean(before[row["model"]], "closed_loop") / _mean(row, "closed_loop") for row in after]
    forced = teacher_forced(benchmark)
    longest = max(row["T"] for row in forced)
    ours = select(forced, model="minconvlstm", T=longest)[0]
    speedup, taken = ours["training_speedup"]["median"], ours["training"]["median"]
    papers = [row["training"]["median"] / taken for row in select(forced, model="convlstm_published", T=longest)]
    paper = "".join(f"{times:.1f} times as fast as the paper's own ConvLSTM, and " for times in papers)
    network = best(weather, "recipe", "rmse_1", list(MODELS))
    one_day = _row(weather, "ridge regression"), network, _row(weather, "stack")
    linear, alone, stack = (f"{_mean(row, 'rmse_1'):.0f}" for row in one_day)
    return (
        f"- **Faster to train, mostly by better code.** On {longest} frames MinConvLSTM trains {paper}"
        f"{speedup:.1f} times as fast as ours, the fastest measured ({benchmark['provenance']['hardware']}).\n"
        f"- **The recipe matters more than the cell.** Better settings cut every cell's closed-loop error "
        f"{min(gains):.0f}- to {max(gains):.0f}-fold against the published ones. With them, after equally many steps, "
        f"the best {first} cell is {_told(with_recipe[first])}, the best {second} one {_told(with_recipe[second])} "
        f"(RMSE × 100).\n"
        f"- **Real weather is harder.** One day ahead over Europe, a linear map errs by {linear} m² s⁻², the best "
        f"network, {network['label']}, by {alone}; all of them stacked with the map, by {stack}."
    )


def answer(content: Numbers) -> str:
    """The README's table: the paper's claims beside what was measured, with links to the notebooks."""
    fields = [field.name for field in dataclasses.fields(claims.Finding)]
    found = [claims.Finding(**{name: row[name] for name in fields}) for row in content["rows"]]
    return claims.short_table(found, "notebooks/", content["untested"])


def flow(content: Numbers, benchmark: Numbers) -> str:
    """Table of all errors with size and time of a training step, and the best cells by setting."""
    steps = experiment(benchmark)  # of models as published
    more = {
        "Parameters": {("published", row["model"]): f"{row['parameters']:,}" for row in steps},
        "ms per step": {("published", row["model"]): f"{1e3 * row['training']['median']:.0f}" for row in steps},
    }
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in content["rows"] if row["setting"]):
        rows = {kind: best(content, setting, "closed_loop", names) for kind, names in KINDS.items()}
        words = [f"best {kind} cell {_told(row) if row else 'none is finite'}" for kind, row in rows.items()]
        lines.append(f"- **Closed-loop error, {setting}**: {', '.join(words)} (RMSE × 100).")
    notes = f"RMSE × 100; training step on {benchmark['provenance']['hardware']}"
    return "\n\n".join([table(content, more, notes), "\n".join(lines)])


def speed(benchmark: Numbers) -> str:
    """Table of training steps beside ConvLSTM's by length, what is slower than it, and the scan beside its floor.

    Args:
        benchmark: the result of ``minconv.bench``.
    """
    forced, loop = teacher_forced(benchmark), experiment(benchmark)
    lengths = sorted({row["T"] for row in forced})
    labels = {name: model.label for name, model in (MODELS | PEERS).items()} | STEPS
    found = {(row["model"], row["T"]): row["training_speedup"]["median"] for row in forced}
    found |= {(row["model"], "loop"): row["training_speedup"]["median"] for row in loop}
    names = [row["model"] for row in loop if row["model"] != "convlstm"]
    rows = [
        [labels[name], *(f"{found[name, T]:.2f}" if (name, T) in found else "" for T in (*lengths, "loop"))]
        for name in names
    ]
    header = ["Training step", *(f"{T} frames" for T in lengths)]
    header.append(f"{loop[0]['T']} frames, then {loop[0]['horizon']} in closed loop")
    scan = select(scans(benchmark), backend=benchmark["default"])[-1]
    told = (
        f"The scan alone (backend `{scan['backend']}`, forward + backward, {scan['T']} frames of 40 channels on "
        f"16 × 16) is {scan['training_speedup']['median']:.1f} times as fast as the published log-domain scan, and "
        f"takes {scan['training_over_copy']['median']:.1f} times as long as copying as many bytes."
    )
    ours = all(row["rival"] == "convlstm" for row in (*forced, *loop))
    fastest = f"the fastest ConvLSTM{', which is ours' if ours else ''}"
    sentences = [_slower(benchmark), _growth(forced), _over_convolutions(forced, loop), _published(benchmark)]
    notes = [f"Times as fast as {fastest}; frames teacher-forced; {benchmark['provenance']['hardware']}"]
    return "\n\n".join([markdown_table(header, rows, notes=notes), " ".join(filter(None, sentences)), told])


def _slower(benchmark: Numbers) -> str:
    """How minimal cells compare with the fastest ConvLSTM in all settings measured, slower ones named."""
    every = [row for row in benchmark["training"] if row["model"] in claims.MINIMAL]
    settings = {tuple(row[key] for key in ("T", "horizon", "batch", "grid", "width")) for row in every}
    slower = [row for row in every if row["training_speedup"]["median"] < 1]
    if not slower:
        return f"In all {len(settings)} settings measured, every minimal cell was faster than the fastest ConvLSTM."
    speeds = [row["training_speedup"]["median"] for row in every]
    names = [MODELS[name].label for name in claims.MINIMAL for row in slower if row["model"] == name]
    cases = ", ".join(f"{name} in {names.count(name)}" for name in dict.fromkeys(names))
    return (
        f"In {len(settings)} settings measured, minimal cells are {min(speeds):.2f} to {max(speeds):.2f} times as fast "
        f"as the fastest ConvLSTM; slower than it: {cases}."
    )


def _growth(forced: Sequence[Numbers]) -> str:
    speeds = ([row["training_speedup"]["median"] for row in select(forced, model=model)] for model in claims.MINIMAL)
    grows = all(found == sorted(found) for found in speeds)
    return "They gain more the longer the sequence." if grows else ""


def _over_convolutions(forced: Sequence[Numbers], loop: Sequence[Numbers]) -> str:
    """How much longer a minimal cell's training step takes than its convolutions alone."""
    longest = max(row["T"] for row in forced)

    def told(rows: Sequence[Numbers]) -> str:
        over = [row["over_convolutions"]["median"] for row in rows if row["model"] in claims.MINIMAL]
        return f"{min(over):.2f} to {max(over):.2f} times"

    closed = f"{loop[0]['horizon']} steps of closed loop after {loop[0]['T']} frames"
    return (
        f"Beside PyTorch's convolutions of it alone a step on {longest} frames takes "
        f"{told(select(forced, T=longest))} as long, with {closed}, {told(loop)}."
    )


def _published(benchmark: Numbers) -> str:
    speeds = [row["training_speedup"]["median"] for row in select(benchmark["training"], model="published")]
    slower = sum(speed < 1 for speed in speeds)
    return (
        f"With the published log-domain scan MinConvLSTM is slower than the fastest ConvLSTM in {slower} of "
        f"{len(speeds)} settings."
    )


def _told(row: Numbers) -> str:
    return f"{row['label']} with {plus_minus(row['values']['closed_loop'])}"


def _mean(row: Numbers, column: str) -> float:
    return statistics.mean(row["values"][column])


def _row(content: Numbers, model: str) -> Numbers:
    return select(content["rows"], model=model)[0]
