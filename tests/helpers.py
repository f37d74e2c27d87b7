"""What several tests share: small runs and fields, and what must come out of them."""

import os
import subprocess
from functools import partial
from pathlib import Path

import torch

from minconv import Forecaster
from minconv.data.windows import Windows
from minconv.runtime.seeds import generator
from minconv.training import Run, Training, fit, load_weights, read_log

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
REFERENCE = TESTS / "reference"

SETTINGS = Training(context=2, horizon=1, epochs=3, batch=2, lr=1e-2, warmup=0.0)
SAMPLES = 6  # three steps an epoch


def build(seed: int, cell: str = "minconvlstm", **options) -> Forecaster:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return Forecaster(cell, **{"hidden": 3, "layers": 1, "size": (4, 4)} | options)


def waves(samples: int = SAMPLES, frames: int = 8, seed: int = 0) -> torch.Tensor:
    """Random fields that move on by one pixel a frame [N, T, 1, 4, 4]: a 3 x 3 convolution can learn that."""
    first = torch.randn(samples, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.stack([first.roll(t, -1) for t in range(frames)], 1)


def run(folder: Path, seeds=(1,), settings: Training = SETTINGS, cell: str = "minconvlstm", **options) -> Run:
    return Run(partial(build, cell=cell, **options), seeds, folder, settings)


def train_one(folder: Path, *arguments, precision: str = "32-true", **options) -> Path:
    return fit(run(folder, *arguments, **options), waves(), waves(3, seed=1), device="cpu", precision=precision)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def rows(folder: Path) -> list[dict]:
    """The log without its seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(folder)]


def assert_same(one: Path, other: Path) -> None:
    """The same weights, best and last, to the bit, and the same log."""
    for which in ("last", "best"):
        found, expected = load_weights(one, which), load_weights(other, which)
        assert found.keys() == expected.keys()
        for seed in expected:
            assert found[seed].keys() == expected[seed].keys()
            assert all(torch.equal(found[seed][name], expected[seed][name]) for name in expected[seed])
    assert rows(one) == rows(other)


def stop_at(monkeypatch, step: int, action) -> None:
    """Calls ``action`` instead of cutting the windows of the given step, counted over epochs."""
    cut, done = Windows.cut, iter(range(10**6))
    monkeypatch.setattr(Windows, "cut", lambda self, n: action(self, n) if next(done) == step else cut(self, n))


def interrupt(*_):
    raise KeyboardInterrupt


def run_script(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(TESTS), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def loop(a: torch.Tensor, b: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """h_t = a_t h_{t-1} + b_t as it is written."""
    frames = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        frames.append(h)
    return torch.stack(frames, 1)
