"""What several tests share: small runs and fields, and what must come out of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
SHARED = ROOT.parent / "shared"  # which need not be there

SETTINGS = Training(context=2, horizon=1, epochs=3, batch=2, lr=1e-2, warmup=0.0)
SAMPLES = 6  # three steps an epoch


def build(seed: int, cell: str = "minconvlstm", **options) -> Forecaster:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return Forecaster(cell, **{"hidden": 3, "layers": 1, "size": (4, 4)} | options)


def forecaster(cell: str = "minconvlstm", **options) -> Forecaster:
    """Of two layers in float64, with the same weights at each call."""
    torch.manual_seed(0)
    return Forecaster(cell, **{"hidden": 4, "layers": 2, "size": (4, 6)} | options).double()


def adds_one(frames: torch.Tensor, horizon: int = 0) -> torch.Tensor:
    """A model whose prediction is its last frame plus one, in closed loop too."""
    steps = torch.arange(1, horizon + 1, dtype=frames.dtype).view(-1, 1, 1, 1)
    return torch.cat([frames + 1, frames[:, -1:] + 1 + steps], 1)


def waves(samples: int = SAMPLES, frames: int = 8, seed: int = 0, size: int = 4) -> torch.Tensor:
    """Random fields that move on by one pixel a frame [N, T, 1, H, H]: a 3 x 3 convolution can learn that."""
    first = torch.randn(samples, 1, size, size, generator=torch.Generator().manual_seed(seed))
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


def contents(path: Path) -> dict[str, bytes]:
    """Of a file, or of every file below a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


def rows(folder: Path) -> list[dict]:
    """The log without its seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(folder)]


def assert_same(one: Path, other: Path) -> None:
    """The same weights, best and last, to the bit, and the same log."""
    for which in ("last", "best"):
        torch.testing.assert_close(load_weights(one, which), load_weights(other, which), rtol=0, atol=0)
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


def torchrun(count: int, *words: Path | str) -> subprocess.CompletedProcess:
    """Runs a file with its arguments in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return run_script([*command, *map(str, words)])


def printed(code: str, *options: str, env: dict[str, str] | None = None) -> str:
    """What Python code prints in a process of its own."""
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


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


# Numbers


def random(*size: int, seed: int = 1, dtype: torch.dtype = torch.float64, device: str = "cpu") -> torch.Tensor:
    """Normal numbers, drawn in double precision so that every dtype sees the same ones, rounded."""
    double = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(size, dtype=double, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_near(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_all_near(found, expected, tolerance: float, least: float = 1.0, **options) -> None:
    """Of each tensor: to ``tolerance`` times the largest value expected, or times ``least`` where that is more."""
    for one, other in zip(found, expected, strict=True):
        scale = max(other.abs().max().item(), least) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale, **options)


def arrays(path: Path) -> dict[str, torch.Tensor | str]:
    """What an NPZ file holds: numbers, and words."""
    with np.load(path) as found:
        return {name: str(x) if x.dtype.kind == "U" else torch.from_numpy(x) for name, x in found.items()}


def reference(name: str) -> dict[str, torch.Tensor | str]:
    """``reference("minconvlstm_circular")``: the arrays of a file of tests/reference by name."""
    return arrays(REFERENCE / f"{name}.npz")


def beside(*path: str) -> dict[str, torch.Tensor | str]:
    """The arrays of a reference file in ``shared/reference`` beside the repository; skips where it is not there."""
    file = SHARED.joinpath("reference", *path)
    if not file.is_file():
        pytest.skip(f"needs {'/'.join(path)}")
    return arrays(file)


def within(of: dict, group: str) -> dict:
    """What has names that begin with ``group``, by the rest of these."""
    return {name.removeprefix(group): value for name, value in of.items() if name.startswith(group)}


# Scans, layers and cells


def loop(a: torch.Tensor, b: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """h_t = a_t h_{t-1} + b_t as it is written."""
    frames = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        frames.append(h)
    return torch.stack(frames, 1)


def values_and_gradients(function, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Output h, final state and the gradient of every input, for one random cotangent."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    h = function(*inputs)
    gradients = torch.autograd.grad(h, inputs, random(*h.shape, dtype=h.dtype, seed=9, device=h.device))
    return [h.detach(), h[:, -1].detach(), *gradients]


def padded(x: torch.Tensor, padding: str, margins: tuple[int, int]) -> torch.Tensor:
    """x [N, C, H, W] with margins (rows, columns), place by place."""
    height, width = x.shape[-2:]

    def value(r: int, c: int) -> torch.Tensor:
        if padding == "replicate":
            r, c = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
        if padding == "sphere" and r < 0:
            r, c = -1 - r, c + width // 2
        if padding == "sphere" and r >= height:
            r, c = 2 * height - 1 - r, c + width // 2
        if padding == "circular":
            r %= height
        if padding in ("circular", "cylinder", "sphere"):
            c %= width
        inside = 0 <= r < height and 0 <= c < width
        return x[..., r, c] if inside else torch.zeros_like(x[..., 0, 0])

    rows, columns = (range(-margin, size + margin) for margin, size in zip(margins, (height, width), strict=True))
    return torch.stack([torch.stack([value(r, c) for c in columns], -1) for r in rows], -2)


def parts(state) -> tuple[torch.Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def of_cell(cell, x: torch.Tensor, state, cuts: list[int]) -> list[torch.Tensor]:
    """Output, final state, gradients of input and initial state and of all weights, of a loss in output and state.

    x is cut along time into pieces, each of which is given the state after the one before.
    """
    x, outputs = x.clone().requires_grad_(), []
    leaves = () if state is None else tuple(h.clone().requires_grad_() for h in parts(state))
    after = leaves if isinstance(state, tuple) else leaves[0] if leaves else None
    for piece in x.tensor_split(cuts, dim=1):
        y, after = cell(piece, after)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    loss = (y * random(*y.shape, dtype=y.dtype, seed=8)).sum() + sum(h.square().sum() for h in parts(after))
    return [y, *parts(after), *torch.autograd.grad(loss, (x, *leaves, *cell.parameters()))]
