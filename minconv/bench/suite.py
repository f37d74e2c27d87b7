"""The benchmark: what is measured, on which sizes. It knows the models, through ``minconv.models``.

Everything that is compared takes turns within the same rounds, its floor included, and what is said of a comparison is
the median and the quartiles over the rounds' quotients. ``minconv.bench.results`` reads what comes out.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from minconv.bench import floors
from minconv.bench.measure import Call, forward_pass, measure, peak_memory, training_step
from minconv.bench.published import published_models
from minconv.bench.results import QUARTILES
from minconv.core.gates import INITIAL_STATE
from minconv.core.layers import PaddedConv2d
from minconv.core.scan import GATINGS, gated_scan, usable
from minconv.models import MODELS, PEERS, build_model, count_parameters
from minconv.runtime.device import pick_device
from minconv.runtime.memory import keep_memory
from minconv.runtime.progress import progress
from minconv.runtime.provenance import package_version, provenance
from minconv.training.ensemble import Ensemble

RIVALS = ("convlstm", "convlstm_published")  # speeds are those over the fastest of these
LAYOUTS = ("channels_last", "contiguous")
PASSES = ("forward", "training")
Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A training step: ``length`` frames teacher-forced, then ``horizon`` in closed loop.

    Args:
        batch: sequences.
        grid: frames are grid x grid.
        width: factor on every model's channels.
    """

    length: int
    horizon: int = 0
    batch: int = 1
    grid: int = 16
    width: float = 1.0

    @property
    def about(self) -> Row:
        """What a row says of it."""
        return {"T": self.length} | {key: value for key, value in asdict(self).items() if key != "length"}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        name: ``smoke``, ``short``, ``quick`` or ``full``.
        scans: shapes [B, T, C, H, W] of the states of a scan.
        large_scans: more of them for a GPU, which only these fill.
        gatings: of the scan.
        lengths: T at which the scan's errors are found.
        steps: training steps; the first is that of the experiment.
        seeds: models trained together.
        starts: fresh processes.
        seconds: that the rounds of one setting may take, within ``repeats``.
        repeats: least and most rounds.
    """

    name: str
    scans: tuple[tuple[int, ...], ...]
    large_scans: tuple[tuple[int, ...], ...]
    gatings: tuple[str, ...]
    lengths: tuple[int, ...]
    steps: tuple[Step, ...]
    seeds: int
    starts: int
    seconds: float
    repeats: tuple[int, int]


TAIL = (40, 16, 16)
PAPER = Step(20, 5)
SIZES = {
    sizes.name: sizes
    for sizes in (
        Sizes(
            name="smoke",
            scans=((1, 4, *TAIL), (1, 8, *TAIL)),
            large_scans=(),
            gatings=("lstm",),
            lengths=(4, 8),
            steps=(Step(4, 2), Step(4), Step(8)),
            seeds=2,
            starts=1,
            seconds=0,
            repeats=(2, 2),
        ),
        Sizes(
            name="short",
            scans=((4, 20, *TAIL), *((1, T, *TAIL) for T in (20, 128))),
            large_scans=(),
            gatings=("lstm",),
            lengths=(20, 128, 512),
            steps=(PAPER, Step(5, 10), Step(20), Step(128)),
            seeds=3,
            starts=1,
            seconds=4,
            repeats=(5, 25),
        ),
        Sizes(
            name="quick",
            scans=((4, 20, *TAIL), *((1, T, *TAIL) for T in (20, 128, 512))),
            large_scans=((4, 128, 40, 32, 32), (4, 256, 40, 32, 32)),
            gatings=("lstm",),
            lengths=(20, 128, 512, 2048),
            steps=(
                PAPER,
                Step(5, 10),
                *(Step(T) for T in (20, 128, 512)),
                Step(20, 5, batch=8),
                Step(20, 5, grid=32),
            ),
            seeds=3,
            starts=3,
            seconds=6,
            repeats=(5, 25),
        ),
        Sizes(
            name="full",
            scans=(
                *((1, T, *TAIL) for T in (8, 20, 32, 128, 512, 2048)),
                *((B, 20, *TAIL) for B in (4, 16)),
                *((1, 128, C, 16, 16) for C in (10, 160)),
                *((1, 128, 40, N, N) for N in (8, 32, 64)),
            ),
            large_scans=((4, 128, 40, 32, 32), (4, 256, 40, 32, 32), (16, 256, 40, 32, 32)),
            gatings=tuple(GATINGS),
            lengths=(20, 32, 64, 128, 256, 512, 1024, 2048),
            steps=(
                PAPER,
                Step(5, 10),
                *(Step(T) for T in (5, 10, 20, 32, 64, 128, 256, 512, 1024)),
                *(Step(20, 5, batch=B) for B in (2, 4, 8, 16)),
                *(Step(20, 5, grid=N) for N in (8, 32, 64)),
                *(Step(20, 5, width=factor) for factor in (0.5, 2.0)),
                *(Step(128, width=factor) for factor in (0.5, 2.0)),
            ),
            seeds=3,
            starts=5,
            seconds=20,
            repeats=(5, 50),
        ),
    )
}


def run(sizes: Sizes, device: str | torch.device = "auto") -> dict[str, Any]:
    """Measures everything; the result is plain enough for JSON, and holds rows rather than samples."""
    device = pick_device(device)
    kept = keep_memory()  # as in training
    begun = time.perf_counter()
    # not Triton on the CPU: its interpreter is for tests
    backends = tuple(name for name in usable(device) if name != "triton" or device.type == "cuda")
    one_pass = forward_pass(build_model("minconvlstm", 0, method="direct").to(device), _frames(Step(4), device))
    last_channels = floors.channels_last(floors.record(one_pass))
    result: dict[str, Any] = {
        "size": sizes.name,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "memory_kept": kept,
        "default": backends[-1],
        "layout": LAYOUTS[0] if last_channels else LAYOUTS[1],  # of what the model feeds to its scan
        "experiment": sizes.steps[0].about,
        "versions": {name: package_version(name) for name in ("torch", "numba", "triton")},
        "provenance": provenance(device),
    }
    shapes = sizes.scans + (sizes.large_scans if device.type == "cuda" else ())
    parts: dict[str, list[Callable[[], list[Row]]]] = {
        "accuracy": [lambda g=gating: _accuracy(sizes, g, backends, device) for gating in sizes.gatings],
        "scan": [
            lambda g=gating, s=shape: _scan(sizes, g, s, backends, device)
            for gating in sizes.gatings
            for shape in shapes
        ],
        "training": [lambda s=step: _training(sizes, s, device) for step in sizes.steps],
        "seeds": [lambda c=cell: [_seeds(sizes, c, device)] for cell in ("convlstm", "minconvlstm")],
        "startup": [lambda: [_startup(sizes, backends[-1], device)]],
    }
    with progress(desc="benchmark", total=sum(map(len, parts.values())), unit="part") as bar:
        for name, measurements in parts.items():
            result[name] = []
            for measurement in measurements:
                bar.set_postfix_str(name, refresh=False)
                result[name] += measurement()
                bar.update()
    return result | {"seconds": round(time.perf_counter() - begun, 1)}


def _accuracy(sizes: Sizes, gating: str, backends: tuple[str, ...], device: torch.device) -> list[Row]:
    """Largest error over the largest value, beside a loop in float64, for gates of standard deviation 10."""
    generator = torch.Generator(device).manual_seed(0)
    blocks, shape = GATINGS[gating].blocks, (1, max(sizes.lengths), 8, 8, 8)
    gates = 10 * torch.randn(1, shape[1], blocks * 8, 8, 8, generator=generator, device=device)
    h0, weight = torch.full_like(gates[:, 0, :8], INITIAL_STATE), torch.randn(shape, generator=generator, device=device)
    rows = []
    for T in sizes.lengths:
        inputs = gates[:, :T], h0, weight[:, :T]
        truth = _solve(*(x.double() for x in inputs), gating, "reference")
        for backend in backends:
            found = _solve(*inputs, gating, backend)
            errors = [((x - y).abs().max() / y.abs().max()).item() for x, y in zip(found, truth, strict=True)]
            output, gradient = errors[0], max(errors[1:], key=_rank)
            rows.append(
                {"gating": gating, "backend": backend, "T": T, "output": _number(output), "gradient": _number(gradient)}
            )
    return rows


def _solve(gates: Tensor, h0: Tensor, weight: Tensor, gating: str, backend: str) -> tuple[Tensor, ...]:
    """The states of a scan, and the gradients of gates and h0 of their sum weighted by ``weight``."""
    gates, h0 = gates.detach().requires_grad_(), h0.detach().requires_grad_()
    h = gated_scan(gates, h0, gating, backend)
    return h.detach(), *torch.autograd.grad(h, (gates, h0), weight)


def _scan(
    sizes: Sizes, gating: str, shape: tuple[int, ...], backends: tuple[str, ...], device: torch.device
) -> list[Row]:
    """Every backend on both memory formats, and copies of as many bytes, in the same rounds."""
    batch, length, channels, *grid = shape
    blocks = GATINGS[gating].blocks
    states = torch.Size(shape).numel()
    moved = {kind: floors.scan_bytes(states, blocks, backward=kind == "training") for kind in PASSES}
    calls = {("copy", None, kind): floors.copy(size, device) for kind, size in moved.items()}
    for layout in LAYOUTS:
        gates = _laid_out((batch, length, blocks * channels, *grid), layout, device)
        weight = _laid_out(shape, layout, device)
        h0 = torch.full_like(weight[:, 0], INITIAL_STATE)
        for backend in backends:
            calls[backend, layout, "forward"] = lambda g=gates, h=h0, b=backend: gated_scan(g, h, gating, b)
            calls[backend, layout, "training"] = lambda g=gates, h=h0, w=weight, b=backend: _solve(g, h, w, gating, b)
    seconds = _rounds(calls, sizes, device)
    about = {"gating": gating, "batch": batch, "T": length, "tail": [channels, *grid], "bytes": moved}
    rows = []
    for backend, layout in dict.fromkeys(key[:2] for key in calls):
        taken = {kind: seconds[backend, layout, kind] for kind in PASSES}
        rows.append(
            about
            | {"backend": backend, "layout": layout}
            | {kind: _spread(taken[kind]) for kind in PASSES}
            # over the published scan in the memory format of the published code
            | {f"{kind}_speedup": _spread(seconds["logspace", "contiguous", kind] / taken[kind]) for kind in PASSES}
            | {f"{kind}_over_copy": _spread(taken[kind] / seconds["copy", None, kind]) for kind in PASSES}
        )
    return rows


def _training(sizes: Sizes, step: Step, device: torch.device) -> list[Row]:
    """Every model's forward pass, training step with Adam and convolutions alone, in the same rounds.

    The convolutions are PyTorch's own of the same model, whatever the model computes its with.
    """
    frames = _frames(step, device)
    models, calls, alone, memory = _models(step, device), {}, {}, {}
    plain = _models(step, device, method="direct")
    for name, model in models.items():
        calls[name, "forward"] = forward_pass(model, frames, step.horizon)
        adam = _adam(model)
        calls[name, "training"] = training_step(model, frames, step.horizon, adam)
        training_step(model, frames[:, :2], 0, adam)()  # makes Adam's moments, which are no memory of the step
        memory[name] = peak_memory(calls[name, "training"], device)
        found = floors.record(training_step(plain[name], frames, step.horizon))
        alone[name] = "convolutions", frozenset(found.items())  # models of the same ones share the floor
        if alone[name] not in calls:
            calls[alone[name]] = floors.replay(found, device)
            calls[alone[name]]()
    seconds = _rounds(calls, sizes, device, warmup=0)
    rivals = {kind: min(RIVALS, key=lambda name: _median(seconds, name, kind)) for kind in PASSES}
    rows = []
    for name, model in models.items():
        taken = {kind: seconds[name, kind] for kind in PASSES}
        rows.append(
            step.about
            | {"model": name, "parameters": count_parameters(model)}
            | {kind: _spread(taken[kind]) for kind in PASSES}
            | {f"{kind}_speedup": _spread(seconds[rivals[kind], kind] / taken[kind]) for kind in PASSES}
            | {"rival": rivals["training"]}
            | {"convolutions": _spread(seconds[alone[name]])}
            | {"over_convolutions": _spread(taken["training"] / seconds[alone[name]])}
            | {"memory": memory[name], "rounds": len(taken["training"])}
        )
    return rows


def _seeds(sizes: Sizes, cell: str, device: torch.device) -> Row:
    """The experiment's training step of several seeds of a model, one after another and together."""
    step = sizes.steps[0]
    frames = _frames(step, device)

    def make(model: nn.Module) -> Call:
        return training_step(model, frames, step.horizon, _adam(model))

    models = [build_model(cell, seed).to(device) for seed in range(sizes.seeds)]
    singles = [make(model) for model in models]
    calls = {"apart": lambda: [single() for single in singles], "together": make(_Together(models).to(device))}
    seconds = _rounds(calls, sizes, device)
    row = {name: _spread(taken) for name, taken in seconds.items()}
    return {"model": cell, "seeds": sizes.seeds} | row | {"throughput": _spread(seconds["apart"] / seconds["together"])}


class _Together(nn.Module):
    """An ensemble whose models all see the same frames: [B, T, C, H, W] -> [S, B, T', C, H, W]."""

    def __init__(self, models: list[nn.Module]):
        super().__init__()
        self.ensemble = Ensemble(models)

    def forward(self, frames: Tensor, horizon: int) -> Tensor:
        return self.ensemble(frames.expand(self.ensemble.size, *frames.shape), horizon)


FRESH = """
import sys, time
begun = time.perf_counter()
import minconv
imported = time.perf_counter() - begun
import torch
backend, device = sys.argv[1:]
gates = torch.randn(1, 20, 120, 16, 16, device=device, requires_grad=True)
h0 = torch.full((1, 40, 16, 16), 0.5, device=device)
begun = time.perf_counter()
h = minconv.gated_scan(gates, h0, "lstm", backend)
(grad,) = torch.autograd.grad(h, gates, torch.ones_like(h))
grad.flatten()[0].item()  # a GPU has finished then
print(imported, time.perf_counter() - begun)
"""


def _startup(sizes: Sizes, backend: str, device: torch.device) -> Row:
    """Seconds of the import, and of the first scan with its gradient after it, each time in a process of its own."""
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "MINCONV_QUIET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", FRESH, backend, str(device)]
    # the first process only fills the caches
    printed = [
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        for _ in range(1 + sizes.starts)
    ]
    seconds = np.array(printed[1:], dtype=float).T
    return {"backend": backend, "import": _spread(seconds[0]), "first_call": _spread(seconds[1])}


def _rounds(calls: Mapping[Any, Call], sizes: Sizes, device: torch.device, warmup: int = 1) -> dict[Any, np.ndarray]:
    """Seconds of each call in every round after the warm-up; as many rounds as the time allows."""
    cases = {str(number): call for number, call in enumerate(calls.values())}
    first = measure(cases, 1, warmup, device)
    rounds = [first]
    more = int(np.clip(sizes.seconds / first.sum().item(), *sizes.repeats)) - 1
    if more:
        rounds.append(measure(cases, more, warmup=0, device=device))
    return dict(zip(calls, xr.concat(rounds, "repeat").transpose("case", "repeat").values, strict=True))


def _median(seconds: Mapping[Any, np.ndarray], name: str, kind: str) -> float:
    """Of a model's times; without end where it was not measured."""
    return float(np.median(seconds.get((name, kind), np.inf)))


def _models(step: Step, device: torch.device, method: str = "auto") -> dict[str, nn.Module]:
    """All recurrent models with this method of convolution, MinConvLSTM with the paper's scan (``published``) and in
    ``bf16-mixed`` precision (``half``), and two of the paper's own code where it is at hand."""
    recurrent = MODELS | {name: model for name, model in PEERS.items() if model.recurrent}
    kinds = {name: (name, {}) for name in recurrent}
    kinds |= {"published": ("minconvlstm", {"backend": "logspace"}), "half": ("minconvlstm", {})}
    size = (step.grid, step.grid)
    channels = {cell: round(step.width * model.channels[0]) for cell, model in recurrent.items()}
    models = {
        name: build_model(cell, 0, hidden=channels[cell], size=size, **options).to(device)
        for name, (cell, options) in kinds.items()
    }
    for layer in (layer for model in models.values() for layer in model.modules()):
        if isinstance(layer, PaddedConv2d):
            layer.method = method
    published = {name: model.to(device) for name, model in published_models(channels, size).items()}
    return models | {"half": _Half(models["half"])} | published


class _Half(nn.Module):
    """A model whose convolutions compute in bfloat16, as ``fit`` has it with ``bf16-mixed``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, horizon: int) -> Tensor:
        with torch.autocast(frames.device.type, torch.bfloat16):
            return self.model(frames, horizon)


def _adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)  # as in training


def _frames(step: Step, device: torch.device) -> Tensor:
    return torch.randn(step.batch, step.length + step.horizon + 1, 1, step.grid, step.grid, device=device)


def _laid_out(shape: tuple[int, ...], layout: str, device: torch.device) -> Tensor:
    """Random [B, T, C, H, W] in a memory format of frames."""
    x = torch.randn(shape, device=device)
    return x.movedim(2, -1).contiguous().movedim(-1, 2) if layout == "channels_last" else x


def _spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles to 4 digits."""
    return {name: float(f"{np.quantile(values, q):.4g}") for name, q in QUARTILES.items()}


def _rank(error: float) -> float:
    return np.inf if np.isnan(error) else error


def _number(value: float) -> float | None:
    """As JSON can say it: None where it is not finite."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
