"""The scan over processes against the scan in one: output and the gradient of every input, whatever the parts."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from helpers import assert_all_near, forecaster, random

from minconv import Forecaster
from minconv.core import scan
from minconv.core.cells import CELLS
from minconv.core.scan import GATINGS, gated_scan, linear_scan
from minconv.kernels import distributed
from minconv.runtime import processes

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {  # frames of each process
    4: [(3, 1, 4, 2), (17, 16, 16, 16), (1, 0, 1, 0), (0, 0, 1, 0), (0, 0, 0, 5)],
}
MINIMAL = ("minconvgru", "minconvlstm", "minconvexplstm")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.complex128: 1e-12}
LIMIT = 240  # seconds for all that a set of processes does


def inputs(kind: str, steps: int, scale: float = 1.0) -> list[torch.Tensor]:
    """In float64: a, b, h0 or gates, h0; last the cotangent of h."""
    if kind in ("linear", "complex"):
        drawn = partial(random, dtype=torch.complex128 if kind == "complex" else torch.float64)
        a, b = (drawn(2, steps, 3, 5, seed=seed) for seed in (1, 2))
        a[:, ::3] = 0 if steps > 3 else a[:, ::3]  # nothing is divided by it
        return [scale * a, b, drawn(2, 3, 5, seed=3), drawn(2, steps, 3, 5, seed=4)]
    gates = scale * random(2, steps, GATINGS[kind].blocks * 3, 2, 5, seed=1)
    return [gates, random(2, 3, 2, 5, seed=2).exp(), random(2, steps, 3, 2, 5, seed=3)]


def operation(kind: str, module: Any, backend: str = "auto") -> Callable[..., torch.Tensor]:
    if kind in ("linear", "complex"):
        return partial(module.linear_scan, backend=backend)
    return partial(module.gated_scan, gating=kind, backend=backend)


def partings(case: str, size: int) -> list[tuple[int, ...]]:
    """Of a case: how the time axis is parted."""
    return PARTS[size] if CASES[case][1].get("all parts", True) else PARTS[size][:1]


def part_of(x: torch.Tensor, parts: tuple[int, ...], rank: int) -> torch.Tensor:
    start, end = list(pairwise((0, *accumulate(parts))))[rank]
    return x[:, start:end]


# In the processes


class Traffic:
    """Counts messages, and the bytes that this process sends to each other one, of the scan."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.messages = []
        gather = dist.all_gather

        def counted(found, x, group=None):
            self.messages.append(x.nbytes)
            gather(found, x, group=group)

        monkeypatch.setattr(dist, "all_gather", counted)

    def take(self) -> list[int]:
        taken, self.messages[:] = list(self.messages), []
        return taken


def scan_part(rank: int, parts: tuple[int, ...], kind: str, traffic: Traffic, **options: Any) -> dict[str, Any]:
    """Output, gradients and messages of this process's part."""
    dtype, scale = options.get("dtype", torch.float64), options.get("scale", 1.0)
    *sequences, h0, cotangent = (x.to(dtype) for x in inputs(kind, sum(parts), scale))
    own = [part_of(x, parts, rank).clone() for x in sequences]
    if options.get("channels_last"):
        own = [x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view_as(x) for x in own]
    if rank:
        h0 = torch.full_like(h0, torch.nan)  # counts on the first only
    leaves = [x.requires_grad_() for x in (*own, h0)]
    traffic.take()
    h = operation(kind, distributed, options.get("backend", "auto"))(*leaves)
    forward = traffic.take()
    gradients = torch.autograd.grad(h, leaves, part_of(cotangent, parts, rank))
    return {"h": h.detach(), "gradients": gradients, "forward": forward, "backward": traffic.take()}


def forecast_part(rank: int, parts: tuple[int, ...], cell: str, **options: Any) -> dict[str, Any]:
    """A teacher-forced pass over this process's frames, and the gradients of the weights summed over all."""
    model = forecaster(cell, size=(4, 4), backend="distributed", **options)
    frames = random(2, sum(parts) + 1, 1, 4, 4, seed=5)
    prediction = model(part_of(frames[:, :-1], parts, rank))
    error = prediction - part_of(frames[:, 1:], parts, rank)
    (error.square().sum() / frames[:, 1:].numel()).backward()
    processes.sum_gradients(model)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    return {"prediction": prediction.detach(), "gradients": gradients}


def refused(function: Callable[[], Any]) -> str:
    try:
        function()
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def differentiate_twice(gates: torch.Tensor, h0: torch.Tensor) -> None:
    gates = gates.clone().requires_grad_()
    torch.autograd.grad(distributed.gated_scan(gates, h0, "gru").sum(), gates, create_graph=True)


def work(rank: int, size: int, folder: Path) -> None:
    """All cases one after another, in one of ``size`` processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    found: dict[Any, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        traffic = Traffic(patch)
        for name, (kind, options) in CASES.items():
            for parts in partings(name, size):
                found[name, parts] = scan_part(rank, parts, kind, traffic, **options)
        for name, (cell, options) in MODELS.items():
            found[name] = forecast_part(rank, PARTS[size][0], cell, **options)
        gates, h0 = random(2, 3, 6, 2, 2), random(2, 3, 2, 2)
        halves = [dist.new_group(half) for half in ([0, 1], [2, 3])] if size == 4 else [None]
        one = partial(distributed.gated_scan, gating="gru")
        found["halves"] = one(gates + rank // 2, h0, group=halves[rank // 2 if size == 4 else 0])
        found["usable"] = "distributed" in scan.usable("cpu")
        found["vmap"] = refused(lambda: torch.vmap(one, (0, None))(gates.expand(3, *gates.shape), h0))
        found["twice"] = refused(lambda: differentiate_twice(gates, h0))
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


# In the test's process


CASES = {
    **{f"{kind} {dtype}": (kind, {"dtype": dtype}) for kind in GATINGS for dtype in (torch.float64, torch.float32)},
    **{f"linear {dtype}": ("linear", {"dtype": dtype}) for dtype in (torch.float64, torch.float32)},
    **{
        f"{kind} {backend}": (kind, {"backend": backend, "all parts": False})
        for kind in ("gru", "linear")
        for backend in ("reference", "linear")
    },
    "complex": ("complex", {"dtype": torch.complex128}),
    "gru logspace": ("gru", {"backend": "logspace", "all parts": False}),
    "lstm channels_last": ("lstm", {"channels_last": True, "all parts": False}),
    "gru bfloat16": ("gru", {"dtype": torch.bfloat16, "all parts": False}),
    **{f"{kind} saturated": (kind, {"scale": 100.0, "dtype": torch.float32}) for kind in GATINGS},
}
MODELS = {
    **{cell: (cell, {}) for cell in MINIMAL},
    "increments, checkpoints": ("minconvlstm", {"increment": True, "checkpoint": True, "padding": "sphere"}),
}


@pytest.fixture(scope="module", params=PARTS)
def ranks(request, tmp_path_factory) -> Iterator[list[dict[Any, Any]]]:
    """What each of 4 processes found; two and two of them are groups, too."""
    size, folder = request.param, tmp_path_factory.mktemp("ranks")
    started = torch.multiprocessing.spawn(work, (size, folder), size, join=False)
    try:
        end = time.monotonic() + LIMIT
        while not started.join(timeout=1):  # raises what a process raised
            assert time.monotonic() < end, f"{size} processes are not done after {LIMIT} s"
    finally:
        for process in started.processes:
            process.kill()
    yield [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert_all_near([found], [expected], tolerance, least=1e-3, check_dtype=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_is_the_scan_of_one_process(ranks, case):
    kind, options = CASES[case]
    dtype = options.get("dtype", torch.float64)
    tolerance = TOLERANCE[dtype] * (200 if "logspace" in case else 1)
    for parts in partings(case, len(ranks)):
        *leaves, cotangent = inputs(kind, sum(parts), options.get("scale", 1.0))
        leaves = [x.to(dtype).to(x.dtype).requires_grad_() for x in leaves]
        h = operation(kind, scan)(*leaves)
        *gradients, gradient_h0 = torch.autograd.grad(h, leaves, cotangent.to(dtype).to(cotangent.dtype))
        found = [rank[case, parts] for rank in ranks]
        assert all(rank["h"].dtype == dtype and rank["h"].isfinite().all() for rank in found)
        assert_near(torch.cat([rank["h"] for rank in found], 1), h.detach(), tolerance)
        for number, gradient in enumerate(gradients):
            assert_near(torch.cat([rank["gradients"][number] for rank in found], 1), gradient, tolerance)
        first, *others = (rank["gradients"][-1] for rank in found)
        assert_near(first, gradient_h0, tolerance)
        assert not any(other.any() for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("case", [f"{kind} torch.float64" for kind in GATINGS])
def test_sends_two_numbers_forward_and_one_back(ranks, case):
    """For each element of a state, whatever the length."""
    state = 2 * 3 * 2 * 5 * 8  # bytes
    for rank in ranks:
        for parts in partings(case, len(ranks)):
            assert (rank[case, parts]["forward"], rank[case, parts]["backward"]) == ([2 * state], [state])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_forecaster_is_that_of_one_process(ranks, name):
    cell, options = MODELS[name]
    parts = PARTS[len(ranks)][0]
    model = forecaster(cell, size=(4, 4), **options | {"checkpoint": False})
    frames = random(2, sum(parts) + 1, 1, 4, 4, seed=5)
    prediction = model(frames[:, :-1])
    (prediction - frames[:, 1:]).square().mean().backward()
    assert_near(torch.cat([rank[name]["prediction"] for rank in ranks], 1), prediction.detach(), 1e-12)
    for rank in ranks:
        for weight, parameter in model.named_parameters():
            assert_near(rank[name]["gradients"][weight], parameter.grad, 1e-11)


@pytest.mark.slow
def test_groups_scan_sequences_of_their_own(ranks):
    gates, h0 = random(2, 3, 6, 2, 2), random(2, 3, 2, 2)
    for first in range(0, len(ranks), 2):
        whole = gated_scan(torch.cat([gates, gates], 1) + first // 2, h0, "gru")
        assert_near(torch.cat([rank["halves"] for rank in ranks[first : first + 2]], 1), whole, 1e-12)


@pytest.mark.slow
def test_what_is_refused_in_processes(ranks):
    for rank in ranks:
        assert rank["usable"]
        assert rank["vmap"].startswith("NotImplementedError: a scan over several processes cannot run under torch.vmap")
        assert rank["twice"].endswith("gradient of a scan over several processes cannot be differentiated again")


# In one process


def test_alone_it_is_the_local_scan():
    assert not dist.is_initialized() and "distributed" not in scan.usable("cpu")
    for kind in (*GATINGS, "linear"):
        *leaves, _ = inputs(kind, 7)
        assert torch.equal(operation(kind, distributed)(*leaves), operation(kind, scan)(*leaves))
    gates, h0, _ = inputs("gru", 7)
    assert torch.equal(gated_scan(gates, h0, "gru", "distributed"), gated_scan(gates, h0, "gru"))
    a, b, h0, _ = inputs("linear", 7)
    assert torch.equal(linear_scan(a, b, h0, "distributed"), linear_scan(a, b, h0))
    assert distributed.linear_scan(a[:, :0], b[:, :0], h0).shape == (2, 0, 3, 5)


@pytest.mark.parametrize("cell", CELLS)
def test_only_minimal_cells_can_be_split(cell):
    if cell in MINIMAL:
        assert Forecaster(cell, hidden=2, layers=1, size=(4, 4), backend="distributed").cells[0].backend
    else:
        with pytest.raises(TypeError, match="backend"):
            Forecaster(cell, hidden=2, layers=1, size=(4, 4), backend="distributed")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((torch.ones(2, 3, 6, 4, 4), torch.ones(2, 3, 4, 4), "gru", "distributed"), ValueError, "backend must be one"),
        ((torch.ones(2, 0, 6, 4, 4), torch.ones(2, 3, 4, 4), "rnn"), ValueError, "gating must be one of gru, lstm"),
        ((torch.ones(2, 3, 5, 4, 4), torch.ones(2, 3, 4, 4), "gru"), ValueError, r"gates must be \[B, T, 2C, H, W\]"),
        ((torch.ones(2, 3, 6, 4, 4), torch.ones(2, 2, 4, 4), "gru"), ValueError, r"h0 must be \[2, 3, 4, 4\]"),
        (([1.0], torch.ones(2, 2, 4, 4), "gru"), TypeError, "gates must be a tensor; got list"),
    ],
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        distributed.gated_scan(*arguments)


def test_environment_of_these_tests_starts_no_processes():
    assert "WORLD_SIZE" not in os.environ and (processes.rank(), processes.size()) == (0, 1)
