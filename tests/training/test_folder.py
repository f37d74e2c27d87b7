"""A run's folder: what is left in it, read back, refused, and kept of what is damaged."""

import csv
import errno
import fcntl
import json
import os
import random
import shutil
import signal
from dataclasses import asdict, replace

import pytest
import torch
from helpers import (
    DAMAGE,
    SETTINGS,
    assert_same,
    build,
    contents,
    empty,
    interrupt,
    raising,
    run,
    state,
    stop_at,
    train_one,
    train_until,
    waves,
)
from safetensors.torch import load_file

from minconv.training import fit, load_weights, read_log, restore
from minconv.training.folder import LAST, latest, progress_of
from minconv.training.state import LOG_COLUMNS

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread):
    """A finished run of ``SEEDS``, which tests leave as it is."""
    return train_one(tmp_path_factory.mktemp("finished") / "run", SEEDS)


@pytest.fixture(scope="module")
def half(tmp_path_factory, one_thread):
    """The same, interrupted in its third epoch."""
    folder = tmp_path_factory.mktemp("half") / "run"
    return train_until(folder, 7, SEEDS, action=raising(signal.SIGINT))


@pytest.fixture
def begun(half, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(half, tmp_path / "run")


# What is left


def test_folder_says_what_produced_it(finished):
    assert sorted(os.listdir(finished)) == ["best.safetensors", "last.safetensors", "log.csv", "run.json"]
    found = json.loads((finished / "run.json").read_text())
    assert found["settings"] == asdict(SETTINGS) and found["seeds"] == [1, 2]
    assert found["parameters"] == sum(weight.numel() for weight in build(1).parameters())
    assert "MinConvLSTM" in "\n".join(found["model"]) and found["precision"] == "32-true"
    assert {"hardware", "python", "torch", "git_revision"} <= found["provenance"].keys()
    assert len(set(found["data"].values())) == 2


def test_log_counts_every_epoch_of_every_seed_once(tmp_path):
    train_until(tmp_path / "run", 7, (5, 4))
    log = read_log(train_one(tmp_path / "run", (5, 4)))
    assert [(row["epoch"], row["seed"]) for row in log] == [(1, 5), (1, 4), (2, 5), (2, 4), (3, 5), (3, 4)]
    table = list(csv.reader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert table == [list(LOG_COLUMNS), *([str(value) for value in row.values()] for row in log)]
    assert tuple(log[0]) == LOG_COLUMNS and all(row["seconds"] > 0 for row in log)


def test_finished_checkpoints_hold_no_moments(tmp_path):
    train_until(tmp_path / "run", 7)
    weights = set(build(1).state_dict())
    kernels = {name for name in weights if name.endswith("conv.weight")}
    moments = {f"muon/momentum/{name}" for name in kernels}
    moments |= {f"adam/{key}/{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in weights - kernels}
    last = tmp_path / "run" / "last.safetensors"
    assert set(load_file(last)) == {f"{kind}/{name}" for kind in ("model", "best/model") for name in weights} | moments
    train_one(tmp_path / "run")
    assert set(load_file(last)) == {f"model/{name}" for name in weights}


def test_weights_go_back_into_a_model(finished):
    weights = load_weights(finished)
    model = restore(build(9), weights[2])
    assert all(torch.equal(weight, weights[2][name]) for name, weight in model.state_dict().items())
    for other in (build(1, "convgru"), build(1, hidden=4), build(1, layers=2)):
        with pytest.raises(ValueError, match="weights do not fit the model"):
            restore(other, weights[1])
    for wrong, found in ((weights, "of seeds 1, 2"), (weights[1].values(), "odict_values|ValuesView|dict_values")):
        with pytest.raises(TypeError, match=rf"weights must be those of one seed, .*\[seed\]; got ({found})"):
            restore(build(1), wrong)


def test_a_finished_run_is_left_as_it_is(tmp_path, monkeypatch):
    folder = train_one(tmp_path / "run")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    stop_at(monkeypatch, 0, interrupt)
    train_one(folder)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_missing_runs(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*none/best\.safetensors"):
        load_weights(tmp_path / "none")
    with pytest.raises(ValueError, match=r"there is no checkpoint .*none/last\.safetensors"):
        read_log(tmp_path / "none")
    with pytest.raises(ValueError, match="which must be one of best, last; got 'first'"):
        load_weights(tmp_path, "first")


def test_how_far_a_run_is_without_its_weights(finished, tmp_path):
    assert progress_of(finished) == latest(finished)[1] and progress_of(finished)["epoch"] == SETTINGS.epochs
    assert progress_of(tmp_path / "none") == {"epoch": 0, "log": []}
    train_until(tmp_path / "run", 6)
    (tmp_path / "run" / LAST).write_bytes(b"damaged")
    assert progress_of(tmp_path / "run") == latest(tmp_path / "run")[1]  # of the one before


# What is refused


def test_weights_of_another_model_in_the_checkpoint(tmp_path):
    for cell in ("minconvlstm", "minconvgru"):
        train_until(tmp_path / cell, 4, (1,), SETTINGS, cell)
    os.replace(tmp_path / "minconvgru" / "last.safetensors", tmp_path / "minconvlstm" / "last.safetensors")
    with pytest.raises(ValueError, match=r"last\.safetensors holds the weights of another model"):
        train_one(tmp_path / "minconvlstm")


@pytest.mark.parametrize(
    "options, key",
    [
        ({"settings": replace(SETTINGS, lr=2e-2)}, "settings"),
        ({"settings": replace(SETTINGS, epochs=5)}, "settings"),
        ({"seeds": (2,)}, "seeds"),
        ({"seeds": (2, 1)}, "seeds"),
        ({"cell": "minconvexplstm"}, "model"),
        ({"padding": "zeros"}, "model"),
        ({"precision": "64-true"}, "precision"),
        ({"precision": "bf16-mixed"}, "precision"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_left(finished, options, key):
    before = contents(finished)
    with pytest.raises(ValueError, match=rf"folder .*run holds another run: its {key} is"):
        train_one(finished, **{"seeds": SEEDS} | options)
    assert contents(finished) == before


def test_other_data_in_the_folder_are_refused(finished):
    for data in ((waves(seed=5), waves(3, seed=1)), (waves(), waves(3, seed=5))):
        with pytest.raises(ValueError, match="holds another run: its data is"):
            fit(run(finished, SEEDS), *data, device="cpu")


def test_a_folder_without_a_checkpoint_takes_a_corrected_run(tmp_path):
    train_until(tmp_path / "run", 1, (7,), replace(SETTINGS, lr=1.0))
    assert os.listdir(tmp_path / "run") == ["run.json"]
    folder = train_one(tmp_path / "run")
    assert json.loads((folder / "run.json").read_text())["settings"] == asdict(SETTINGS)
    assert_same(folder, train_one(tmp_path / "other"))


def test_a_checkpoint_without_a_good_run_json_is_refused_and_left(begun):
    for content in (b"", b'{"settings": ', b"[]", b"3", b"\xff\xfe", b"PK\x03\x04", None):
        (begun / "run.json").unlink() if content is None else (begun / "run.json").write_bytes(content)
        before = contents(begun)
        message = r"run\.json (is not a whole JSON file|does not describe a run)|another run: its settings is None"
        with pytest.raises(ValueError, match=message):
            train_one(begun, SEEDS)
        assert contents(begun) == before


# Damage


KEPT = [*(("last", damage) for damage in DAMAGE), ("best", DAMAGE[0]), ("best", DAMAGE[2])]


@pytest.mark.parametrize("name, damage", KEPT)
def test_a_damaged_file_is_kept_and_the_run_goes_on_from_a_good_one(begun, finished, name, damage):
    path = begun / f"{name}.safetensors"
    damage(path)
    spoilt = path.read_bytes()
    with pytest.raises(ValueError, match=rf"run/{name}\.safetensors is no whole checkpoint"):
        load_weights(begun, name)
    with pytest.warns(UserWarning, match=rf"{name}\.safetensors is no whole .*kept as {name}\.safetensors\.damaged1"):
        train_one(begun, SEEDS)
    aside = begun / f"{name}.safetensors.damaged1"
    assert aside.read_bytes() == spoilt
    aside.unlink()
    assert state(begun) == state(finished)


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_good_checkpoint_a_run_is_refused_and_left(begun, damage):
    for name in ("last", "previous"):
        damage(begun / f"{name}.safetensors")
    before = contents(begun)
    with pytest.raises(ValueError, match=r"run/last\.safetensors is no whole .*; remove .*run to begin anew"):
        train_one(begun, SEEDS)
    assert contents(begun) == before


def test_damage_after_damage_is_all_kept(tmp_path):
    for step, number in ((4, 1), (1, 2)):
        folder = train_until(tmp_path / "run", step, action=raising(signal.SIGINT))
        empty(folder / "last.safetensors")
        with pytest.warns(UserWarning, match=rf"damaged{number}"):
            train_until(folder, 0, action=raising(signal.SIGINT))
    assert {path.name for path in folder.glob("*.damaged*")} == {f"last.safetensors.damaged{n}" for n in (1, 2)}


def test_a_run_whose_last_checkpoint_is_gone_goes_on_from_the_one_before(begun, finished):
    (begun / "last.safetensors").unlink()
    with pytest.raises(ValueError, match="holds another run: its seeds is"):
        train_one(begun, (1,))
    assert_same(train_one(begun, SEEDS), finished)


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(begun):
    path, rng = begun / "last.safetensors", random.Random(0)
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    for part, count in ((range(length), 80), (range(length, len(content)), 40)):  # header and tensors
        for place in rng.sample(part, count):
            spoilt = bytearray(content)
            spoilt[place] ^= 1 << rng.randrange(8)
            path.write_bytes(spoilt)
            with pytest.raises(ValueError, match=r"last\.safetensors is no whole checkpoint"):
                load_weights(begun, "last")


@pytest.mark.parametrize("content", ["", "epoch,seed\n1,", None])
def test_the_table_of_the_log_is_written_again_and_never_read(begun, finished, content):
    (begun / "log.csv").unlink() if content is None else (begun / "log.csv").write_text(content)
    assert [row["epoch"] for row in read_log(begun)] == [1, 1, 2, 2]
    train_one(begun, SEEDS)
    assert_same(begun, finished)
    assert state(begun)["log.csv"] == state(finished)["log.csv"]


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"run cannot be locked; see to it that one process at a time uses it"):
        folder = train_one(tmp_path / "run")
    assert sorted(os.listdir(folder)) == ["best.safetensors", "last.safetensors", "log.csv", "run.json"]
