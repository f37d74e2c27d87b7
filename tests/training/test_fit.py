"""Training: repeatable, resumable to the bit, the same alone and in company."""

import json
import math
import os
import signal
import sys
import textwrap
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import SETTINGS, assert_same, build, contents, interrupt, rows, run, run_script, stop_at, train_one, waves
from safetensors.torch import load_file, save_file
from torch.nn.functional import mse_loss

from minconv.data.windows import Windows, fixed_windows
from minconv.training import fit as train
from minconv.training.fit import Run, Training, fit, fit_all, load_weights, read_log, restore
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


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, clip=0.1, weight_decay=0.0, noise=0.0)])
@pytest.mark.parametrize("step", [1, 3, 7])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, monkeypatch, seeds, settings, step):
    whole = train_one(tmp_path / "whole", seeds, settings)
    with monkeypatch.context() as patch:
        stop_at(patch, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "parts", seeds, settings)
    assert (tmp_path / "parts" / "last.safetensors").exists() is (step >= 3)
    assert_same(train_one(tmp_path / "parts", seeds, settings), whole)


def test_interrupted_again_and_again(tmp_path, monkeypatch):
    whole = train_one(tmp_path / "whole")
    for epoch in range(2):
        with monkeypatch.context() as patch:
            stop_at(patch, 4, interrupt)  # in the second epoch of what is left
            with pytest.raises(KeyboardInterrupt):
                train_one(tmp_path / "parts")
        assert rows(tmp_path / "parts") == rows(whole)[: epoch + 1]
    assert_same(train_one(tmp_path / "parts"), whole)


def test_a_finished_run_is_left_as_it_is(tmp_path, monkeypatch):
    folder = train_one(tmp_path / "run")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    stop_at(monkeypatch, 0, interrupt)
    train_one(folder)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from helpers import run, waves, fit, torch, Windows

    where, folder = sys.argv[1], Path(sys.argv[2])
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    torch.set_num_threads(1)

    if where == "step":
        cut, done = Windows.cut, iter(range(100))
        Windows.cut = lambda self, n: die() if next(done) == 4 else cut(self, n)
    else:
        write = Path.write_bytes

        def half(path, content):
            second = f".{where}-" in path.name and (folder / "last.safetensors").exists()
            write(path, content[: len(content) // 2] if second else content)
            if second:
                die()

        Path.write_bytes = half
    fit(run(folder, (1, 2)), waves(), waves(3, seed=1), device="cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step", "best", "last"])
def test_killed_in_the_middle_of_an_epoch_or_of_writing(tmp_path, where):
    """A process that SIGKILL ends in the second epoch, or with half of its second checkpoint written."""
    folder = tmp_path / "parts"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), where, str(folder)]
    assert run_script(command).returncode == -signal.SIGKILL
    assert load_weights(folder, "last").keys() == {1, 2}
    left = [name for name in os.listdir(folder) if name.startswith(".") and name != ".lock"]
    assert len(left) == (0 if where == "step" else 1)
    train_one(folder, (1, 2))
    assert_same(folder, train_one(tmp_path / "whole", (1, 2)))
    assert sorted(os.listdir(folder)) == ["best.safetensors", "last.safetensors", "log.csv", "run.json"]


# What a step does


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("cell", ["convlstm", "minconvgru"])
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
    for name, weight in load_weights(folder, "last")[1].items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=1e-12)
    found = [(row["train_loss"], row["validation_loss"]) for row in read_log(folder)]
    for one, other in zip(found, log, strict=True):
        assert one == pytest.approx(other, rel=1e-10)


def test_learning_rate_falls_with_the_cosine_of_the_step(tmp_path):
    folder = train_one(tmp_path / "run")
    expected = [1e-2 * (1 + math.cos(math.pi * step / 9)) / 2 for step in (2, 5, 8)]  # of the epochs' last steps
    assert [row["lr"] for row in read_log(folder)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cell", ["convgru", "convlstm", "minconvlstm"])
def test_seeds_together_are_seeds_alone(tmp_path, cell):
    settings = replace(SETTINGS, clip=0.3)
    together = train_one(tmp_path / "all", (3, 1, 2), settings, cell, precision="64-true")
    for seed in (1, 2, 3):
        alone = train_one(tmp_path / str(seed), (seed,), settings, cell, precision="64-true")
        for which in ("last", "best"):
            found, expected = load_weights(together, which)[seed], load_weights(alone, which)[seed]
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
        losses = [row["validation_loss"] for row in read_log(together) if row["seed"] == seed]
        assert losses == pytest.approx([row["validation_loss"] for row in read_log(alone)], rel=1e-9)


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_clipping_bounds_each_seeds_norm_and_keeps_its_direction(tmp_path, monkeypatch, seeds):
    def gradients(clip: float | None, folder: Path) -> torch.Tensor:
        """Those Adam sees at the first step [S, parameters]."""
        seen = []

        def step(optimizer):
            weights = optimizer.param_groups[0]["params"]
            seen.append(torch.cat([weight.grad.reshape(len(seeds), -1) for weight in weights], 1).clone())
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


def test_learns_to_move_a_field_on(tmp_path):
    settings = replace(SETTINGS, epochs=20, lr=2e-2)
    job = run(tmp_path / "run", (1,), settings, hidden=8)
    folder = fit(job, waves(16), waves(8, seed=1), device="cpu")
    losses = [row["validation_loss"] for row in read_log(folder)]
    assert losses[-1] < 0.6 * losses[0]
    truth = waves(8, seed=1)
    assert losses[-1] < 0.1 * mse_loss(truth[:, 1:], truth[:, :-1]).item()  # persistence


def test_bfloat16_stays_near_float32(tmp_path):
    half, single = (train_one(tmp_path / name, precision=name) for name in ("bf16-mixed", "32-true"))
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


def test_log_counts_every_epoch_of_every_seed_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 7, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "run", (5, 4))
    log = read_log(train_one(tmp_path / "run", (5, 4)))
    assert [(row["epoch"], row["seed"]) for row in log] == [(1, 5), (1, 4), (2, 5), (2, 4), (3, 5), (3, 4)]
    assert tuple(log[0]) == train.LOG_COLUMNS and all(row["seconds"] > 0 for row in log)


def test_folder_says_what_produced_it(tmp_path):
    folder = train_one(tmp_path / "run", (1, 2))
    assert sorted(os.listdir(folder)) == ["best.safetensors", "last.safetensors", "log.csv", "run.json"]
    found = json.loads((folder / "run.json").read_text())
    assert found["settings"] == asdict(SETTINGS) and found["seeds"] == [1, 2]
    assert found["parameters"] == sum(weight.numel() for weight in build(1).parameters())
    assert "MinConvLSTM" in "\n".join(found["model"]) and found["precision"] == "32-true"
    assert {"hardware", "python", "torch", "git_revision"} <= found["provenance"].keys()
    assert len(set(found["data"].values())) == 2


def test_finished_checkpoints_hold_no_moments(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 7, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "run")
    weights = set(build(1).state_dict())
    kernels = {name for name in weights if name.endswith("conv.weight")}
    moments = {f"muon/momentum/{name}" for name in kernels}
    moments |= {f"adam/{key}/{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in weights - kernels}
    last = tmp_path / "run" / "last.safetensors"
    assert set(load_file(last)) == {f"{kind}/{name}" for kind in ("model", "best/model") for name in weights} | moments
    train_one(tmp_path / "run")
    assert set(load_file(last)) == {f"model/{name}" for name in weights}


class Smooth(torch.nn.Module):
    """A model of kernels alone."""

    def __init__(self, seed: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(seed / 9)

    def forward(self, frames: torch.Tensor, horizon: int = 0) -> torch.Tensor:
        last = frames[:, -1:].expand(-1, horizon, -1, -1, -1)
        return self.conv(torch.cat([frames, last], 1).flatten(0, 1)).view(len(frames), -1, *frames.shape[2:])


@pytest.mark.parametrize("build, expected", [(partial(build, kernel_size=1), {"adam"}), (Smooth, {"muon"})])
def test_muon_has_kernels_wider_than_one_cell_and_adam_the_rest(tmp_path, monkeypatch, build, expected):
    job = Run(build, (1,), tmp_path, SETTINGS)
    with monkeypatch.context() as patch:
        stop_at(patch, 4, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(job, waves(), waves(3, seed=1), device="cpu")
    kinds = {name.split("/")[0] for name in load_file(tmp_path / "last.safetensors")}
    assert kinds - {"model", "best", "losses"} == expected
    losses = [row["train_loss"] for row in read_log(fit(job, waves(), waves(3, seed=1), device="cpu"))]
    assert losses[-1] < losses[0]


def test_weights_go_back_into_a_model(tmp_path):
    weights = load_weights(train_one(tmp_path / "run", (1, 2)))
    model = restore(build(9), weights[2])
    assert all(torch.equal(weight, weights[2][name]) for name, weight in model.state_dict().items())
    for other in (build(1, "convgru"), build(1, hidden=4), build(1, layers=2)):
        with pytest.raises(ValueError, match="weights do not fit the model"):
            restore(other, weights[1])


# Damage


def test_a_loss_that_turns_nan_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "run", (7, 8))
    before = contents(tmp_path / "run")
    cut = Windows.cut

    def spoil(windows, n):
        inputs, targets = cut(windows, n)
        targets[1] = math.nan
        return inputs, targets

    with monkeypatch.context() as patch:
        stop_at(patch, 1, spoil)
        with pytest.raises(FloatingPointError, match=r"loss of seed 8 became \[nan.* in epoch 3 of .*run; .*epoch 2"):
            train_one(tmp_path / "run", (7, 8))
    assert contents(tmp_path / "run") == before
    assert_same(train_one(tmp_path / "run", (7, 8)), train_one(tmp_path / "whole", (7, 8)))


def test_a_learning_rate_too_large_is_told(tmp_path):
    with pytest.raises(FloatingPointError, match=r"seed 1 became .*checkpoint is of epoch 0.*lower lr or clip"):
        train_one(tmp_path / "run", (1,), replace(SETTINGS, lr=1e30))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)


def flip_log(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"train_loss") + 16
    path.write_bytes(content[:at] + (b"1" if content[at : at + 1] != b"1" else b"2") + content[at + 1 :])


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def of_another_program(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"run": "{}"})


def no_safetensors(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n")


@pytest.mark.parametrize("damage", [truncate, flip_weight, flip_log, foreign, of_another_program, no_safetensors])
def test_a_damaged_checkpoint_is_named_and_left(tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        stop_at(patch, 4, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "run")
    damage(tmp_path / "run" / "last.safetensors")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run/last\.safetensors is no whole checkpoint.*remove .*run to begin anew"):
        train_one(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run/last\.safetensors is no whole checkpoint"):
        load_weights(tmp_path / "run", "last")
    assert contents(tmp_path / "run") == before


def test_weights_of_another_model_in_the_checkpoint(tmp_path, monkeypatch):
    for cell in ("minconvlstm", "minconvgru"):
        with monkeypatch.context() as patch:
            stop_at(patch, 4, interrupt)
            with pytest.raises(KeyboardInterrupt):
                train_one(tmp_path / cell, (1,), SETTINGS, cell)
    os.replace(tmp_path / "minconvgru" / "last.safetensors", tmp_path / "minconvlstm" / "last.safetensors")
    with pytest.raises(ValueError, match=r"last\.safetensors holds the weights of another model"):
        train_one(tmp_path / "minconvlstm")


@pytest.mark.parametrize(
    "options, key",
    [
        ({"settings": replace(SETTINGS, lr=2e-2)}, "settings"),
        ({"settings": replace(SETTINGS, epochs=5)}, "settings"),
        ({"seeds": (2,)}, "seeds"),
        ({"seeds": (1, 2)}, "seeds"),
        ({"cell": "minconvexplstm"}, "model"),
        ({"padding": "zeros"}, "model"),
        ({"precision": "64-true"}, "precision"),
        ({"precision": "bf16-mixed"}, "precision"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_left(tmp_path, options, key):
    folder = train_one(tmp_path / "run")
    before = contents(folder)
    with pytest.raises(ValueError, match=rf"folder .*run holds another run: its {key} is"):
        train_one(folder, **options)
    assert contents(folder) == before


def test_other_data_in_the_folder_are_refused(tmp_path):
    folder = train_one(tmp_path / "run")
    for data in ((waves(seed=5), waves(3, seed=1)), (waves(), waves(3, seed=5))):
        with pytest.raises(ValueError, match="holds another run: its data is"):
            fit(run(folder), *data, device="cpu")


def test_the_learning_rate_rises_and_falls():
    settings = Training(lr=2e-3, warmup=0.2)
    assert [settings.rate(done) for done in (0, 0.1, 0.2, 1)] == pytest.approx([0, 1e-3, 2e-3, 0])
    assert settings.rate(0.6) == pytest.approx(1e-3)  # half of the cosine
    assert Training(lr=2e-3, warmup=0.0).rate(0) == 2e-3


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """It does not name the settings that came later, which are those of today without them."""
    settings = replace(SETTINGS, **train.LATER)
    folder = train_one(tmp_path / "run", settings=settings)
    about = json.loads((folder / "run.json").read_text())
    about["settings"] = {name: value for name, value in about["settings"].items() if name not in train.LATER}
    (folder / "run.json").write_text(json.dumps(about))
    assert train_one(folder, settings=settings) == folder
    with pytest.raises(ValueError, match="holds another run: its settings is"):
        train_one(folder, settings=replace(settings, warmup=0.5))


def test_a_folder_without_a_checkpoint_takes_a_corrected_run(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 1, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "run", (7,), replace(SETTINGS, lr=1.0))
    assert os.listdir(tmp_path / "run") == ["run.json"]
    folder = train_one(tmp_path / "run")
    assert json.loads((folder / "run.json").read_text())["settings"] == asdict(SETTINGS)
    assert_same(folder, train_one(tmp_path / "other"))


def test_a_checkpoint_without_its_run_json_is_refused_and_left(tmp_path):
    folder = train_one(tmp_path / "run")
    (folder / "run.json").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match="holds another run: its settings is None"):
        train_one(folder)
    assert contents(folder) == before


def test_a_damaged_run_json_is_named(tmp_path):
    folder = train_one(tmp_path / "run")
    (folder / "run.json").write_text('{"settings": ')
    with pytest.raises(ValueError, match=r"run\.json is not a whole JSON file"):
        train_one(folder)


def test_missing_runs(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*none/best\.safetensors"):
        load_weights(tmp_path / "none")
    with pytest.raises(ValueError, match="which must be one of best, last; got 'first'"):
        load_weights(tmp_path, "first")


# Several processes


@pytest.mark.slow
def test_fit_all_in_two_processes_is_one_by_one(tmp_path, monkeypatch):
    def runs(folder: str) -> list[Run]:
        cells = ("minconvgru", "convlstm", "convgru")
        return [run(tmp_path / folder / cell, (1,), SETTINGS, cell) for cell in cells]

    data = waves(), waves(3, seed=1)
    alone = fit_all(runs("one"), *data, device="cpu", processes=2)  # too little work to start processes for
    fit(runs("two")[1], *data, device="cpu")  # one is done before
    with monkeypatch.context() as patch:
        patch.setattr(train, "WORTH_PROCESSES", 0)
        stop_at(patch, 0, interrupt)  # in this process, which trains nothing
        together = fit_all(runs("two"), *data, device="cpu", processes=2)
    assert [folder.name for folder in together] == ["minconvgru", "convlstm", "convgru"]
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_a_run_that_fails_in_a_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "WORTH_PROCESSES", 0)
    bad = run(tmp_path / "bad", (1,), replace(SETTINGS, lr=1e30))
    with pytest.raises(FloatingPointError, match="bad"):
        fit_all([bad, run(tmp_path / "good")], waves(), waves(3, seed=1), device="cpu", processes=2)


RANKS = """
    import sys
    from pathlib import Path
    from helpers import *
    from dataclasses import replace

    torch.set_num_threads(1)
    settings = replace(SETTINGS, batch=4, clip=0.3)
    for seeds in ((1,), (1, 2)):
        folder = Path(sys.argv[1]) / str(len(seeds))
        fit(run(folder, seeds, settings), waves(8), waves(1, seed=1), device="cpu", precision="64-true")
"""


@pytest.mark.slow
def test_two_processes_under_torchrun_are_one(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run_script([sys.executable, *torchrun, str(script), str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr
    done = run_script([sys.executable, str(script), str(tmp_path / "one")])
    assert done.returncode == 0, done.stderr
    for seeds in ((1,), (1, 2)):
        two, one = tmp_path / "two" / str(len(seeds)), tmp_path / "one" / str(len(seeds))
        for seed in seeds:
            found, expected = load_weights(two, "last")[seed], load_weights(one, "last")[seed]
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
        for row, other in zip(rows(two), rows(one), strict=True):
            assert row == pytest.approx(other, rel=1e-5)


# Bad input


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"context": 0}, ValueError, "context must be at least 1; got 0"),
        ({"horizon": -1}, ValueError, "horizon must be at least 0; got -1"),
        ({"horizon": 1.0}, TypeError, "horizon must be a whole number; got 1.0"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1; got 0"),
        ({"batch": "all"}, TypeError, "batch must be a whole number; got 'all'"),
        ({"lr": 0}, ValueError, "lr must be above 0 and finite; got 0"),
        ({"lr": None}, TypeError, "lr must be a number; got None"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be at least 0 and finite; got -0.1"),
        ({"noise": math.nan}, ValueError, "noise must be at least 0 and finite; got nan"),
        ({"clip": 0}, ValueError, "clip must be above 0 and finite; got 0"),
        ({"warmup": 1}, ValueError, "warmup must be below 1, a part of all steps; got 1"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of muon, adam; got 'sgd'"),
    ],
)
def test_settings_rejected(options, error, message):
    with pytest.raises(error, match=message):
        Training(**options)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"seeds": 1}, TypeError, r"seeds must be a sequence of whole numbers; got 1"),
        ({"seeds": ()}, ValueError, r"seeds must be one or more different whole numbers; got \[\]"),
        ({"seeds": (1, 1)}, ValueError, r"seeds must be one or more different whole numbers; got \[1, 1\]"),
        ({"seeds": (-1,)}, ValueError, "seeds must be at least 0; got -1"),
        ({"seeds": (1.5,)}, TypeError, "seeds must be a whole number; got 1.5"),
        ({"train": waves().long()}, TypeError, "train must be a floating-point tensor; got torch.int64"),
        ({"train": waves()[0]}, ValueError, r"train must be \[N, T, C, H, W\].*\[8, 1, 4, 4\]"),
        ({"train": waves(frames=3)}, ValueError, "train must have at least 4 frames; got 3"),
        ({"train": waves(1)}, ValueError, "batch must be at most the number of trajectories, 1; got 2"),
        ({"validation": waves().numpy()}, TypeError, "validation must be a floating-point tensor; got ndarray"),
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
        train.pick_device("cuda")
    assert train.pick_device().type == "cpu"


def test_fit_all_refuses_a_folder_of_another_run_or_a_damaged_one(tmp_path):
    done, left = train_one(tmp_path / "done"), run(tmp_path / "left")
    data = waves(), waves(3, seed=1)
    with pytest.raises(ValueError, match=r"done holds another run: its seeds is \[1\]"):
        fit_all([run(done, (2,)), left], *data, device="cpu")
    truncate(done / "last.safetensors")
    with pytest.raises(ValueError, match=r"done/last\.safetensors is no whole checkpoint"):
        fit_all([left, run(done)], *data, device="cpu")
    assert not left.folder.exists()


def test_fit_all_rejects(tmp_path):
    data = waves(), waves(3, seed=1)
    with pytest.raises(ValueError, match="runs must have a folder each; got"):
        fit_all([run(tmp_path / "a"), run(tmp_path / "a", (2,))], *data)
    with pytest.raises(ValueError, match="processes must be at least 1; got 0"):
        fit_all([run(tmp_path / "a")], *data, processes=0)
    assert not list(tmp_path.iterdir())
