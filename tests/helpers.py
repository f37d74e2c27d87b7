"""What several tests share: small runs and fields, and what must come out of them."""

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from minconv import Forecaster
from minconv.data.windows import Windows
from minconv.runtime.seeds import generator
from minconv.training import Run, Training, fit, load_weights, read_log
from minconv.training.folder import read_checkpoint

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


def train_until(folder: Path, step: int, *arguments, action=None, **options) -> Path:
    """Trains up to a step, counted over epochs, at which it is interrupted, or ``action`` ends it."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step, action or interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(folder, *arguments, **options)
    return Path(folder)


def raising(*numbers: int):
    """An action for ``stop_at``: signals come while a step is on its way."""

    def signalled(windows: Windows, step: int, cut=Windows.cut):
        for number in numbers:
            signal.raise_signal(number)
        return cut(windows, step)

    return signalled


def state(folder: Path) -> dict:
    """Every file below ``folder``: bytes, but logs and checkpoints without the seconds they took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            tensors, header = read_checkpoint(path)
            log = [{key: value for key, value in row.items() if key != "seconds"} for row in header.pop("log")]
            tensors = {key: (value.dtype, value.numpy().tobytes()) for key, value in tensors.items()}
            found[name] = header, log, tensors
        elif path.name == "log.csv":
            found[name] = [row.rpartition(",")[0] for row in path.read_text().splitlines()]
        elif path.name == "run.json":  # but for the revision of the code, which may change while tests run
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "provenance"}
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


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


def script_environment(**words: str) -> dict[str, str]:
    """For a process that imports what the tests do, with one thread."""
    paths = os.pathsep.join([str(TESTS), str(TESTS / "robustness"), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | words


def run_script(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    environment = script_environment(**environment)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


# Damage to a file


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def unsigned(path: Path) -> None:
    """A whole checkpoint, but for its checksum."""
    tensors, header = read_checkpoint(path)
    save_file(tensors, path, {"run": json.dumps(header)})


DAMAGE = [empty, truncate, flip_weight, foreign, unsigned]


def loop(a: torch.Tensor, b: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """h_t = a_t h_{t-1} + b_t as it is written."""
    frames = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        frames.append(h)
    return torch.stack(frames, 1)


def beside(*path: str) -> dict[str, torch.Tensor]:
    """The arrays of a reference file in ``shared/reference`` beside the repository; skips where it is not there."""
    file = ROOT.parent.joinpath("shared", "reference", *path)
    if not file.is_file():
        pytest.skip(f"needs {'/'.join(path)}")
    with np.load(file) as arrays:
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
