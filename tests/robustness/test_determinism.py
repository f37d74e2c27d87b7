"""The same seed gives the same bytes: in another process, beside other work, with or without bars; streams are apart.

On one machine with one number of threads: equal to the bit. Another number of threads, or another machine, may sum in
another order: data stay within 1e-5 of their largest value, forecasts within 3e-5, weights after some steps within
1e-4. Scans do not depend on threads at all.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import build as build_model
from helpers import rows, run_script

from minconv import gated_scan
from minconv.data import navier_stokes
from minconv.data.windows import Windows, fixed_windows
from minconv.runtime.seeds import STREAMS, generator
from minconv.training import Run, Training, fit, fit_all, load_weights, pool

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = Training(context=2, horizon=1, epochs=2, batch=2)
CELLS = ("minconvlstm", "convgru")
SMALL = {"samples": 2, "frames": 3, "size": 16, "pool": 2, "seed": 5}


def digest(*parts: bytes | str) -> str:
    return hashlib.sha256(b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)).hexdigest()


def tensor_bytes(weights: dict[str, torch.Tensor]) -> str:
    return digest(*(part for name in sorted(weights) for part in (name, weights[name].numpy().tobytes())))


def build(cell: str, seed: int):
    return build_model(seed, cell, size=(8, 8))


def data(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Trajectories to train and to validate on, [2, 6, 1, 8, 8] each, generated where they are not there."""
    options = SMALL | {"frames": 6}
    paths = [navier_stokes.generate(folder / f"{n}.nc", **options | {"first": 2 * n}) for n in range(2)]
    return tuple(navier_stokes.frames(path) for path in paths)


def jobs(folder: Path) -> list[Run]:
    return [Run(partial(build, cell), (1,), folder / cell, SETTINGS, cell) for cell in CELLS]


def found_in(folder: Path) -> dict[str, str]:
    """What a run has left, without its seconds: by cell, the hash of its weights and its log."""
    found = {}
    for cell in CELLS:
        weights = [tensor_bytes(load_weights(folder / cell, which)[1]) for which in ("best", "last")]
        found[cell] = digest(*weights, json.dumps(rows(folder / cell)))
    return found


def everything(folder: str, processes: int = 1, quiet: bool = True) -> dict[str, str]:
    """Hashes of all that depends on a seed: data, weights, windows, noise, and what training makes of them."""
    torch.set_num_threads(1)
    where = Path(folder)
    pool.WORTH_PROCESSES = 0  # or so little work would stay in this process
    frames = data(where)
    fit_all(jobs(where), *frames, device="cpu", processes=processes, quiet=quiet)
    drawn = {name: digest((where / f"{name}.nc").read_bytes()) for name in "01"}
    windows = Windows(frames[0], 3, 2, 0.1, [1, 2])
    windows.start_epoch(3)
    drawn["windows"] = digest(*(x.numpy().tobytes() for x in windows.cut(0)))
    drawn["initial"] = digest(*(tensor_bytes(build(cell, 7).state_dict()) for cell in CELLS))
    return drawn | found_in(where)


def test_processes_and_bars_change_no_byte(tmp_path):
    """A fresh process with other hashes, in another folder, with two workers and bars: the same data, weights, logs."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys; from test_determinism import everything\n"
        "if __name__ == '__main__': print(json.dumps(everything(sys.argv[1], processes=2, quiet=False)))\n"
    )
    done = run_script([sys.executable, script, tmp_path / "there"], PYTHONHASHSEED="7", MINCONV_QUIET="")
    assert done.returncode == 0, done.stderr
    assert "step" in done.stderr  # the bar's unit
    assert json.loads(done.stdout.splitlines()[-1]) == everything(str(tmp_path / "here"))


# --- streams --------------------------------------------------------------------------------------


@contextmanager
def global_state() -> Iterator[None]:
    """Sees that nothing is drawn from, or put into, the generators that the whole process shares."""

    def state() -> tuple:
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = state()
    yield
    assert state() == before


def test_global_generators_are_neither_asked_nor_moved(tmp_path):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        with global_state():
            frames = data(tmp_path / str(seed))
            fit(jobs(tmp_path / str(seed))[0], *frames, device="cpu", quiet=True)
            found.append(
                (
                    digest(*(x.numpy().tobytes() for x in frames)),
                    tensor_bytes(load_weights(tmp_path / str(seed) / CELLS[0])[1]),
                )
            )
    assert found[0] == found[1]


def drawn(seeds: dict[str, int]) -> dict[str, bytes]:
    """What each stream draws, each with a seed of its own."""
    windows = Windows(torch.zeros(8, 12, 1, 4, 4), 3, 4, 1.0, [seeds["windows"]])
    noises = Windows(torch.zeros(8, 12, 1, 4, 4), 3, 4, 1.0, [seeds["noise"]])
    windows.start_epoch(1)
    noises.start_epoch(1)
    return {
        "data": navier_stokes.initial_vorticity(2, 8, seeds["data"]).numpy().tobytes(),
        "weights": tensor_bytes(build("minconvgru", seeds["weights"]).state_dict()).encode(),
        "windows": windows.order.numpy().tobytes() + windows.offset.numpy().tobytes(),
        "noise": noises.cut(0)[0].numpy().tobytes(),
    }


@pytest.mark.parametrize("changed", ["data", *STREAMS])
def test_a_stream_with_another_seed_leaves_the_others(changed):
    seeds = dict.fromkeys(["data", *STREAMS], 3)
    before, after = drawn(seeds), drawn(seeds | {changed: 4})
    assert {name for name in before if before[name] != after[name]} == {changed}


@pytest.mark.parametrize("changed", STREAMS)
def test_streams_of_one_seed_are_apart(monkeypatch, changed):
    """Were a stream to draw from other numbers, the others would draw the same."""
    seeds = dict.fromkeys(["data", *STREAMS], 3)
    before = drawn(seeds)
    monkeypatch.setitem(STREAMS, changed, 99)
    after = drawn(seeds)
    assert {name for name in before if before[name] != after[name]} == {changed}


def test_no_two_streams_seeds_or_epochs_begin_alike():
    """600 generators begin with 600 numbers, and what they draw is not correlated."""
    cases = list(product(STREAMS, range(20), range(10)))
    generators = [generator(seed, stream, epoch) for stream, seed, epoch in cases]
    assert len({draw.initial_seed() for draw in generators}) == len(cases)
    numbers = torch.stack([torch.randn(4000, generator=draw) for draw in generators])
    correlation = torch.corrcoef(numbers).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / 4000**0.5  # of 180 thousand pairs; the chance of one above is below 1e-3


def test_training_with_other_noise_sees_the_same_windows_and_starts_alike(tmp_path, monkeypatch):
    """The settings of a run do not move its draws: what a cell, its noise or its length changes is nobody else's."""
    seen: dict[str, list] = {}
    cut = Windows.cut

    def record(windows: Windows, step: int):
        seen.setdefault(name, []).append((windows.order.tolist(), windows.offset.tolist()))
        return cut(windows, step)

    monkeypatch.setattr(Windows, "cut", record)
    frames = torch.randn(4, 8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, cell, noise, lr in (
        ("one", *CELLS[:1], 0.0, 1e-3),
        ("noisy", *CELLS[:1], 0.3, 1e-2),
        ("other", CELLS[1], 0.1, 1e-3),
    ):
        settings = Training(context=2, horizon=1, epochs=2, batch=2, noise=noise, lr=lr)
        fit(Run(partial(build, cell), (1,), tmp_path / name, settings), frames, frames, device="cpu", quiet=True)
    assert seen["one"] == seen["noisy"] == seen["other"] and len(seen["one"]) == 4


# --- threads --------------------------------------------------------------------------------------


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def with_threads(function) -> list:
    found = []
    for number in (1, 2):
        with threads(number):
            found.append(function())
    return found


def near(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


@pytest.mark.parametrize("gating, blocks", [("gru", 2), ("lstm", 3), ("explstm", 3)])
def test_scans_do_not_depend_on_threads(gating, blocks):
    """Lanes are shared out, never summed over: equal to the bit, the gradient too."""
    draw = torch.Generator().manual_seed(1)
    gates, h0 = torch.randn(2, 9, 16 * blocks, 16, 16, generator=draw), torch.rand(2, 16, 16, 16, generator=draw)
    assert gates.numel() > 1 << 16  # enough for a second thread

    def run() -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (gates, h0)]
        h = gated_scan(*leaves, gating)
        return [h, *torch.autograd.grad(h.square().sum(), leaves)]

    for one, other in zip(*with_threads(run), strict=True):
        assert torch.equal(one, other)


def test_two_threads_generate_and_forecast_nearly_the_same(tmp_path):
    def run() -> list[torch.Tensor]:
        folder = tmp_path / str(torch.get_num_threads())
        path = navier_stokes.generate(folder / "data.nc", samples=3, frames=4, size=32, pool=2, seed=1)
        frames = navier_stokes.frames(path)
        model = build_model(1, size=(16, 16))
        with torch.no_grad():
            return [frames, model(frames, 3), model(fixed_windows(frames, 2))]

    for one, other, tolerance in zip(*with_threads(run), (1e-5, 3e-5, 3e-5), strict=True):
        assert near(one, other, tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_two_threads_train_nearly_the_same_weights(tmp_path, cell):
    frames = torch.randn(6, 12, 1, 16, 16, generator=torch.Generator().manual_seed(0))

    def run() -> dict[str, torch.Tensor]:
        folder = tmp_path / str(torch.get_num_threads())
        job = Run(
            partial(build_model, cell=cell, size=(16, 16), hidden=8, layers=2),
            (1,),
            folder,
            Training(context=6, horizon=2, epochs=1, batch=2),
        )
        fit(job, frames, frames, device="cpu", quiet=True)
        return load_weights(folder, "last")[1]

    one, other = with_threads(run)
    assert all(near(one[name], other[name], 1e-4) for name in one)
