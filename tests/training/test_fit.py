"""Training: repeatable, resumable to the bit, the same alone and in company."""

import math
import signal
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import (
    SETTINGS,
    assert_same,
    build,
    contents,
    interrupt,
    raising,
    rows,
    run,
    state,
    stop_at,
    torchrun,
    train_one,
    train_until,
    waves,
)
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import mse_loss

from minconv.data.windows import Windows, fixed_windows
from minconv.runtime.device import pick_device
from minconv.training import Run, fit, load_weights, read_log, restore
from minconv.training.ensemble import Ensemble
from minconv.training.folder import read_checkpoint
from minconv.training.muon import Muon

pytestmark = pytest.mark.usefixtures("one_thread")

# Repeatable and resumable


def test_same_seed_same_weights_another_seed_others(tmp_path):
    torch.manual_seed(5)
    one = train_one(tmp_path / "one")
    torch.manual_seed(6)
    assert_same(one, train_one(tmp_path / "two"))
    other = load_weights(train_one(tmp_path / "three", (2,)))[2]
    assert not any(
        torch.equal(weight, other[name]) for name, weight in load_weights(one)[1].items() if weight.dim() > 1
    )


def test_on_the_cpu_seeds_are_not_stacked(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        sys.modules["minconv.training.fit"], "Ensemble", lambda *args: made.append(Ensemble(*args)) or made[-1]
    )
    train_one(tmp_path, (1, 2))
    assert [ensemble.is_stacked for ensemble in made] == [False]


@pytest.mark.parametrize(
    "seeds, changed, step",
    [((1,), {"optimizer": "adam", "noise": 0.0}, 7), ((1, 2), {"clip": 0.1}, 4), ((1, 2), {}, 1)],
)
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, seeds, changed, step):
    settings = replace(SETTINGS, **changed)
    whole = train_one(tmp_path / "whole", seeds, settings)
    train_until(tmp_path / "parts", step, seeds, settings)
    assert (tmp_path / "parts" / "last.safetensors").exists() is (step >= 3)
    assert_same(train_one(tmp_path / "parts", seeds, settings), whole)


# Told to end


SEEDS = (1, 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread):
    """By seeds, the folder of a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return {seeds: train_one(folder / str(len(seeds)), seeds) for seeds in ((1,), SEEDS)}


@pytest.mark.parametrize(
    "step, epoch, done, seeds", [(0, 0, 1, SEEDS), (2, 1, 0, (1,)), (4, 1, 2, SEEDS), (7, 2, 2, (1,))]
)
def test_ctrl_c_finishes_the_step_and_the_run_goes_on_from_it(tmp_path, monkeypatch, whole, seeds, step, epoch, done):
    folder = train_until(tmp_path / "run", step, seeds, action=raising(signal.SIGINT))
    _, header = read_checkpoint(folder / "last.safetensors")
    assert (header["epoch"], header.get("step", 0)) == (epoch, done)
    assert not list(tmp_path.rglob(".*"))
    counted, cut = [], Windows.cut
    monkeypatch.setattr(Windows, "cut", lambda self, n: counted.append(n) or cut(self, n))
    train_one(folder, seeds)
    assert counted == [step % 3 for step in range(3 * epoch + done, 9)]
    assert state(folder) == state(whole[seeds])


def test_interrupted_at_every_step(tmp_path, whole):
    for _ in range(5):
        folder = train_until(tmp_path / "run", 0, SEEDS, action=raising(signal.SIGINT))
    assert [row["epoch"] for row in read_log(folder)] == [1, 1]
    train_one(folder, SEEDS)
    assert state(folder) == state(whole[SEEDS])


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    folder = train_until(tmp_path / "run", 4, action=raising(signal.SIGINT, signal.SIGINT))
    assert "step" not in read_checkpoint(folder / "last.safetensors")[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def handler():
    """Sets what a signal does, until the test is over."""
    before = {}
    yield lambda number, action: before.setdefault(number, signal.signal(number, action))
    for number, action in before.items():
        signal.signal(number, action)


def test_the_callers_handler_is_called_and_training_ends(tmp_path, handler):
    called = []
    handler(signal.SIGTERM, lambda number, frame: called.append(number))
    folder = train_until(tmp_path / "run", 4, action=raising(signal.SIGTERM, signal.SIGTERM))
    assert called == [signal.SIGTERM] and read_checkpoint(folder / "last.safetensors")[1]["step"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(tmp_path, monkeypatch, handler, number):
    handler(number, signal.SIG_IGN)  # as nohup and scripts have it
    stop_at(monkeypatch, 4, raising(number))
    assert len(read_log(train_one(tmp_path / "run"))) == 3
    assert signal.getsignal(number) == signal.SIG_IGN


def test_training_in_a_thread_leaves_signals_alone(tmp_path):
    thread = threading.Thread(target=train_one, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert len(read_log(tmp_path / "run")) == 3


# What a step does


@pytest.mark.parametrize(
    "optimizer, weight_decay, cell", [("adam", 0.1, "convlstm"), ("muon", 0.0, "convlstm"), ("muon", 0.1, "minconvgru")]
)
def test_is_a_plain_loop_with_an_optimizer_and_a_cosine(tmp_path, optimizer, weight_decay, cell):
    settings = replace(SETTINGS, weight_decay=weight_decay, optimizer=optimizer)
    folder = train_one(tmp_path / "run", (1,), settings, cell, precision="64-true")

    model = build(1, cell).double()
    if optimizer == "adam":
        optimizers = [torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=weight_decay)]
    else:  # of all weights the cells' kernels only
        kernels = [
            weight for name, weight in model.named_parameters() if name.startswith("cells") and weight.dim() == 4
        ]
        others = [weight for weight in model.parameters() if all(weight is not kernel for kernel in kernels)]
        optimizers = [Muon(kernels, settings.lr, weight_decay), torch.optim.Adam(others, lr=settings.lr)]
    windows = Windows(waves().double(), 3, settings.batch, settings.noise, [1])
    validation = fixed_windows(waves(3, seed=1).double(), 4)
    step, log = 0, []
    for epoch in range(settings.epochs):
        windows.start_epoch(epoch)
        losses = []
        for n in range(3):
            inputs, targets = (x[0] for x in windows.cut(n))
            model.zero_grad()
            loss = mse_loss(model(inputs[:, :2], 1), targets)
            loss.backward()
            for each in optimizers:
                each.param_groups[0]["lr"] = settings.lr * (1 + math.cos(math.pi * step / 9)) / 2
                each.step()
            losses.append(loss.item())
            step += 1
        with torch.no_grad():
            log.append((sum(losses) / 3, mse_loss(model(validation[:, :2], 1), validation[:, 1:]).item()))
    torch.testing.assert_close(load_weights(folder, "last")[1], model.state_dict(), rtol=0, atol=1e-12)
    found = [(row["train_loss"], row["validation_loss"]) for row in read_log(folder)]
    for one, other in zip(found, log, strict=True):
        assert one == pytest.approx(other, rel=1e-10)


def test_learning_rate_falls_with_the_cosine_of_the_step(tmp_path):
    folder = train_one(tmp_path / "run")
    expected = [1e-2 * (1 + math.cos(math.pi * step / 9)) / 2 for step in (2, 5, 8)]  # of the epochs' last steps
    assert [row["lr"] for row in read_log(folder)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cell", [pytest.param("convgru", marks=pytest.mark.slow), "minconvlstm"])
def test_seeds_together_are_seeds_alone(tmp_path, cell):
    settings = replace(SETTINGS, clip=0.3)
    together = train_one(tmp_path / "all", (3, 1), settings, cell, precision="64-true")
    for seed in (1, 3):
        alone = train_one(tmp_path / str(seed), (seed,), settings, cell, precision="64-true")
        for which in ("last", "best"):
            found, expected = (load_weights(folder, which)[seed] for folder in (together, alone))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        losses = [row["validation_loss"] for row in read_log(together) if row["seed"] == seed]
        assert losses == pytest.approx([row["validation_loss"] for row in read_log(alone)], rel=1e-9)


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_clipping_bounds_each_seeds_norm_and_keeps_its_direction(tmp_path, monkeypatch, seeds):
    def gradients(clip: float | None, folder: Path) -> torch.Tensor:
        """Those Adam sees at the first step [S, parameters]."""
        seen = []

        def step(optimizer):
            weights = optimizer.param_groups[0]["params"]
            seen.append(torch.cat([weight.grad.flatten() for weight in weights]).view(len(seeds), -1))  # one by one
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", lambda self, *_: step(self))
            with pytest.raises(KeyboardInterrupt):
                train_one(folder, seeds, replace(SETTINGS, optimizer="adam", clip=clip), precision="64-true")
        return seen[0]

    free = gradients(None, tmp_path / "free")
    bound = free.norm(dim=1).mean().item() if len(seeds) > 1 else free.norm().item() / 2
    clipped = gradients(bound, tmp_path / "clipped")
    expected = free * (bound / free.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(clipped, expected, rtol=1e-4, atol=0)
    assert (clipped.norm(dim=1) <= bound * (1 + 1e-12)).all()
    if len(seeds) > 1:  # some are above the mean and some below
        assert 0 < (free.norm(dim=1) > bound).sum() < len(seeds)


@pytest.mark.slow
def test_learns_to_move_a_field_on(tmp_path):
    settings = replace(SETTINGS, epochs=20, lr=2e-2)
    job = run(tmp_path / "run", (1,), settings, hidden=8)
    folder = fit(job, waves(16), waves(8, seed=1), device="cpu")
    losses = [row["validation_loss"] for row in read_log(folder)]
    assert losses[-1] < 0.6 * losses[0]
    truth = waves(8, seed=1)
    assert losses[-1] < 0.1 * mse_loss(truth[:, 1:], truth[:, :-1]).item()  # persistence


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_bfloat16_stays_near_float32(tmp_path, seeds):
    half, single = (train_one(tmp_path / name, seeds, precision=name) for name in ("bf16-mixed", "32-true"))
    losses = [[row["validation_loss"] for row in read_log(folder)] for folder in (half, single)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)
    assert all(weight.dtype == torch.float32 for weight in load_weights(half)[1].values())


# What a run leaves


def test_best_weights_are_those_of_the_lowest_validation_loss(tmp_path):
    settings = replace(SETTINGS, epochs=6, lr=0.3)  # too large, so that the last is not the best
    folder = train_one(tmp_path / "run", (1, 2, 3), settings, precision="64-true")
    windows = fixed_windows(waves(3, seed=1).double(), 4)
    differ = 0
    for seed in (1, 2, 3):
        losses = [row["validation_loss"] for row in read_log(folder) if row["seed"] == seed]
        for which, expected in (("best", min(losses)), ("last", losses[-1])):
            model = restore(build(seed).double(), load_weights(folder, which)[seed])
            with torch.no_grad():
                assert mse_loss(model(windows[:, :2], 1), windows[:, 1:]).item() == pytest.approx(expected, rel=1e-9)
        differ += losses[-1] != min(losses)
    assert differ


class Smooth(nn.Module):
    """A model of kernels alone."""

    def __init__(self, seed: int):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(seed / 9)

    def forward(self, frames: torch.Tensor, horizon: int = 0) -> torch.Tensor:
        last = frames[:, -1:].expand(-1, horizon, -1, -1, -1)
        return self.conv(torch.cat([frames, last], 1).flatten(0, 1)).view(len(frames), -1, *frames.shape[2:])


@pytest.mark.parametrize("build, expected", [(partial(build, kernel_size=1), {"adam"}), (Smooth, {"muon"})])
def test_muon_has_kernels_wider_than_one_cell_and_adam_the_rest(tmp_path, monkeypatch, build, expected):
    job = Run(build, (1,), tmp_path, SETTINGS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 4, interrupt)
        fit(job, waves(), waves(3, seed=1), device="cpu")
    kinds = {name.split("/")[0] for name in load_file(tmp_path / "last.safetensors")}
    assert kinds - {"model", "best", "losses"} == expected
    losses = [row["train_loss"] for row in read_log(fit(job, waves(), waves(3, seed=1), device="cpu"))]
    assert losses[-1] < losses[0]


class Spare(nn.Module):
    """A model one of whose weights is frozen, and one never used."""

    def __init__(self, seed: int):
        super().__init__()
        self.inner, self.spare = build(seed), nn.Linear(2, 2)
        self.inner.encoder.requires_grad_(False)

    def forward(self, frames: torch.Tensor, horizon: int = 0) -> torch.Tensor:
        return self.inner(frames, horizon)


@pytest.mark.parametrize("seeds", [(1,), SEEDS])
def test_weights_without_a_gradient_stay_and_the_run_goes_on(tmp_path, monkeypatch, seeds):
    jobs = [Run(Spare, seeds, tmp_path / name, replace(SETTINGS, clip=0.1)) for name in ("whole", "parts")]
    data = waves(), waves(3, seed=1)
    torch.manual_seed(0)  # of the spare weights
    fit(jobs[0], *data, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 4, raising(signal.SIGINT))
        torch.manual_seed(0)
        fit(jobs[1], *data, device="cpu")
    assert_same(fit(jobs[1], *data, device="cpu"), jobs[0].folder)
    for seed, weights in load_weights(jobs[0].folder, "last").items():
        assert torch.equal(weights["inner.encoder.weight"], build(seed).encoder.weight)
        assert not torch.equal(weights["inner.decoder.weight"], build(seed).decoder.weight)


class Short(Spare):
    """A model that returns the last frame only."""

    def forward(self, frames: torch.Tensor, horizon: int = 0) -> torch.Tensor:
        return self.inner(frames, horizon)[:, -1:]


@pytest.mark.parametrize("seeds", [(1,), SEEDS])
def test_a_model_that_returns_other_shapes_is_refused_at_the_first_step(tmp_path, seeds):
    wanted = r"model must return frames of shape \[2, 3, 1, 4, 4\], horizon included; got \[2, 1, 1, 4, 4\]"
    with pytest.raises(ValueError, match=wanted):
        fit(Run(Short, seeds, tmp_path, SETTINGS), waves(), waves(3, seed=1), device="cpu")


def test_one_process_in_an_allocation_of_several(tmp_path, monkeypatch):
    """SLURM's words for a job of 4 tasks, without srun or torchrun."""
    for name, value in {"JOB_ID": 1, "JOB_NAME": "x", "NTASKS": 4, "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert len(read_log(train_one(tmp_path / "run"))) == 3


# Damage


def test_a_loss_that_turns_nan_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    train_until(tmp_path / "run", 6, (7, 8))
    before = contents(tmp_path / "run")
    cut, batch, steps = Windows.cut, [], []

    def spoil(windows, n):
        inputs, targets = cut(windows, n)
        targets[1] = math.nan
        batch.extend(windows.order[1, 2:4].tolist())
        windows.cut = lambda step: steps.append(step) or cut(windows, step)
        return inputs, targets

    with monkeypatch.context() as patch:
        stop_at(patch, 1, spoil)
        with pytest.raises(FloatingPointError, match=r"loss of seed 8 became \[nan.* in epoch 3 of .*run; ") as told:
            train_one(tmp_path / "run", (7, 8))
    assert f"first at step 2 of 3, with trajectories {batch[0]}, {batch[1]}; its" in str(told.value)
    assert f"epoch 2, {tmp_path / 'run' / 'last.safetensors'}" in str(told.value) and not steps  # it stopped there
    assert contents(tmp_path / "run") == before
    assert_same(train_one(tmp_path / "run", (7, 8)), train_one(tmp_path / "whole", (7, 8)))


def test_a_learning_rate_too_large_is_told(tmp_path):
    with pytest.raises(FloatingPointError, match=r"seed 1 became .*checkpoint is of epoch 0.*lower lr or clip"):
        train_one(tmp_path / "run", (1,), replace(SETTINGS, lr=1e30))


# Several processes


def train_both(folder: Path) -> None:
    settings = replace(SETTINGS, batch=4, clip=0.3)
    for seeds in ((1,), SEEDS):
        job = run(folder / str(len(seeds)), seeds, settings)
        fit(job, waves(8), waves(1, seed=1), device="cpu", precision="64-true")


@pytest.mark.slow
def test_two_processes_under_torchrun_are_one(tmp_path):
    done = torchrun(2, __file__, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    train_both(tmp_path / "one")
    for seeds in ((1,), (1, 2)):
        two, one = tmp_path / "two" / str(len(seeds)), tmp_path / "one" / str(len(seeds))
        assert tuple(load_weights(two, "last")) == seeds
        torch.testing.assert_close(load_weights(two, "last"), load_weights(one, "last"), rtol=0, atol=1e-10)
        for row, other in zip(rows(two), rows(one), strict=True):
            assert row == pytest.approx(other, rel=1e-5)


# Bad input


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"seeds": 1}, TypeError, r"seeds must be a sequence of whole numbers; got 1"),
        ({"seeds": ()}, ValueError, r"seeds must be one or more different whole numbers; got \[\]"),
        ({"seeds": (1, 1)}, ValueError, r"seeds must be one or more different whole numbers; got \[1, 1\]"),
        ({"seeds": (-1,)}, ValueError, "seeds must be at least 0; got -1"),
        ({"seeds": (1.5,)}, TypeError, "seeds must be a whole number; got 1.5"),
        ({"train": waves().cfloat()}, TypeError, "train must hold real numbers, densely; got torch.complex64"),
        ({"train": waves()[0]}, ValueError, r"train must be \[N, T, C, H, W\].*\[8, 1, 4, 4\]"),
        ({"train": waves(frames=3)}, ValueError, "train must have at least 4 frames; got 3"),
        ({"train": waves(1)}, ValueError, "batch must be at most the number of trajectories, 1; got 2"),
        ({"validation": "waves"}, TypeError, "validation must hold real numbers of at most 64 bits; got str, <U5"),
        ({"validation": waves(frames=3)}, ValueError, "validation must have at least 4 frames; got 3"),
        ({"train": waves().expand(-1, -1, 2, -1, -1)}, ValueError, r"frames must be \[B, T >= 1, 1, 4, 4\]"),
        ({"device": "gpu"}, ValueError, "device must be one of auto, cpu, cuda; got 'gpu'"),
        ({"device": None}, TypeError, "device must be a string"),
        ({"precision": "16"}, ValueError, "precision must be one of 32-true, 64-true, bf16-mixed; got '16'"),
    ],
)
def test_fit_rejects(tmp_path, options, error, message):
    options = {"train": waves(), "validation": waves(), "device": "cpu", "seeds": (1,)} | options
    with pytest.raises(error, match=message):
        fit(run(tmp_path / "run", options.pop("seeds")), **options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be auto or cpu where there is no CUDA GPU; got cuda"):
        pick_device("cuda")
    assert pick_device().type == "cpu"


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_both(Path(sys.argv[1]))
