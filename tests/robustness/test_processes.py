"""Training, generating data and evaluating under ``torchrun``: what one process makes, each file written once, and an
end with an error when a process dies."""

import faulthandler
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray as xr
from helpers import SETTINGS, interrupt, rows, run, script_environment, stop_at, torchrun, waves

from minconv import Forecaster
from minconv.data import navier_stokes
from minconv.experiments import Experiment, recipes
from minconv.experiments.profiles import PROFILES, home
from minconv.experiments.tasks import Trajectories
from minconv.runtime import processes
from minconv.training import fit, load_weights
from minconv.training.folder import read_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = replace(SETTINGS, batch=4, clip=0.3)  # two steps an epoch
RUNS = [((1,), "32-true"), ((1, 2), "64-true")]
LONG = replace(TRAINING, epochs=4)
LIMIT = 240  # seconds, after which processes end by themselves
TOLERANCE = {"32-true": 1e-5, "64-true": 1e-10}
FLOW = {"samples": 5, "frames": 2, "size": 16, "pool": 2, "seed": 3}
SETTING = recipes.setting(replace(SETTINGS, epochs=1), (5, 6), ("convlstm", "minconvgru"), hidden=2)


def tiny() -> Experiment:
    """The flow on a few trajectories."""

    def load(device: torch.device) -> Trajectories:
        samples = zip(("train", "validation", "test"), (2, 1, 3), (5, 5, 6), strict=True)
        paths = [
            navier_stokes.generate(home() / "data" / f"{split}.nc", count, frames, seed=seed)
            for seed, (split, count, frames) in enumerate(samples)
        ]
        return Trajectories(*(navier_stokes.frames(path, device) for path in paths), context=3)

    return Experiment("tiny", PROFILES["smoke"], {"short": SETTING}, load, "cpu")


def name_of(seeds: tuple[int, ...], precision: str) -> str:
    return f"{len(seeds)} {precision}"


def train_one(folder: Path, seeds=(1,), precision: str = "32-true", settings=TRAINING) -> Path:
    data = waves(8), waves(3, seed=1)
    return fit(run(folder, seeds, settings), *data, device="cpu", precision=precision)


def errors(home: Path, into: Path) -> None:
    """Evaluates the models trained under ``home``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINCONV_HOME", str(home))
        tiny().evaluate("short").to_netcdf(into, engine="h5netcdf")


def until(step: int, folder: Path, settings=TRAINING) -> None:
    """Trains to a step and is interrupted there."""
    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        stop_at(patch, step, interrupt)
        train_one(folder, settings=settings)


# Under torchrun


def note_writes(folder: Path) -> None:
    """Every file that is renamed to its place in ``folder`` is noted in writes.txt, with the rank."""
    move = os.replace

    def noted(source, target):
        if folder in Path(target).parents:
            with open(folder / "writes.txt", "a") as file:
                file.write(f"{processes.rank()} {Path(target).relative_to(folder)}\n")
        move(source, target)

    os.replace = noted


def job(*places: str) -> None:
    """What all processes make in a folder, with models trained in a home; and they continue a run."""
    folder, home, moving = map(Path, places)
    torch.set_num_threads(1)
    rank, size = processes.rank(), processes.size()
    assert list(processes.share(range(9))) == list(range(rank, 9, size))
    assert processes.gather(rank) == list(range(size))
    assert processes.gather({"rank": rank}, to=1) == ([{"rank": n} for n in range(size)] if rank == 1 else [])
    for count in (0, 1, 7):
        assert processes.each(lambda n: (n * n, rank), range(count)) == [(n * n, n % size) for n in range(count)]
    started = time.monotonic()
    time.sleep(0.3 * rank)
    processes.barrier()
    assert time.monotonic() - started > 0.25 * (size - 1)

    if size == 2:
        until(3, moving, LONG)
    else:
        train_one(moving, settings=LONG)
    note_writes(folder)
    for seeds, precision in RUNS:
        train_one(folder / name_of(seeds, precision), seeds, precision)
    navier_stokes.generate(folder / "flow.nc", **FLOW, batch=1)
    navier_stokes.generate(folder / "default.nc", **FLOW)
    navier_stokes.generate(folder / "flow.nc", **FLOW, batch=1)  # is there: kept
    errors(home, folder / f"errors {rank}.nc")


def dying(place: str, where: str) -> None:
    """SIGKILL ends rank 1 in a step or while it solves, or rank 0 with half of its second checkpoint written; or
    SIGTERM ends the launcher."""
    folder = Path(place)
    torch.set_num_threads(1)

    def die(*_):
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def stop(*_):
        (folder / "died").touch()
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(5)
        raise KeyboardInterrupt

    if where == "last" and processes.rank() == 0:
        write = Path.write_bytes

        def half(path, content):
            second = ".last-" in path.name and (folder / "run" / "last.safetensors").exists()
            write(path, content[: len(content) // 2] if second else content)
            if second:
                die()

        Path.write_bytes = half
    with pytest.MonkeyPatch.context() as patch:
        if processes.rank() == 1 and where == "step":
            stop_at(patch, 3, die)
        if processes.rank() == 1 and where == "launcher":
            stop_at(patch, 3, stop)
        if processes.rank() == 1 and where == "flow":
            patch.setattr(navier_stokes, "_states", die)
        train_one(folder / "run") if where != "flow" else navier_stokes.generate(folder / "flow.nc", **FLOW)


# From the tests


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[int, Path]:
    """What 1, 2 and 4 processes made, and "moved": a run begun by 2, continued by 1 and ended by 4 of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("processes")
    home, moving = folder / "home", folder / "moving"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINCONV_HOME", str(home))
        tiny().train()
    for count in (2, 1, 4):
        place = folder / str(count)
        place.mkdir()
        if count > 1:
            done = torchrun(count, __file__, "job", place, home, moving)
            assert done.returncode == 0, done.stderr
            continue
        until(2, moving, LONG)  # an epoch further
        for seeds, precision in RUNS:
            train_one(place / name_of(seeds, precision), seeds, precision)
        navier_stokes.generate(place / "flow.nc", **FLOW, batch=1)
        navier_stokes.generate(place / "default.nc", **FLOW)
        errors(home, place / "errors 0.nc")
        train_one(place / "moved", settings=LONG)
    torch.set_num_threads(threads)
    return {count: folder / str(count) for count in (1, 2, 4)} | {0: moving}


several = pytest.mark.parametrize("count", [2, 4])


def assert_close(found: Path, expected: Path, seeds: tuple[int, ...], tolerance: float) -> None:
    for which in ("last", "best"):
        one, other = load_weights(found, which), load_weights(expected, which)
        assert tuple(one) == tuple(other) == seeds
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
    for row, other in zip(rows(found), rows(expected), strict=True):
        assert row == pytest.approx(other, rel=10 * tolerance)


@several
@pytest.mark.parametrize("seeds, precision", RUNS)
def test_training_is_that_of_one_process(places, count, seeds, precision):
    found, expected = (places[n] / name_of(seeds, precision) for n in (count, 1))
    assert_close(found, expected, seeds, TOLERANCE[precision])


def test_a_run_moves_from_2_to_1_to_4_processes(places):
    assert [row["epoch"] for row in rows(places[0])] == [1, 2, 3, 4]
    assert_close(places[0], places[1] / "moved", (1,), TOLERANCE["32-true"])


@several
def test_each_file_is_written_once_by_the_first(places, count):
    lines = (places[count] / "writes.txt").read_text().splitlines()
    written = [line.split(" ", 1)[1] for line in lines]
    assert {line.split()[0] for line in lines} == {"0"}
    once = {"flow.nc", "default.nc", *(f"{name_of(*run)}/run.json" for run in RUNS)}
    each_epoch = {
        f"{name_of(*run)}/{file}" for run in RUNS for file in ("best.safetensors", "last.safetensors", "log.csv")
    }
    way_back = {f"{name_of(*run)}/previous.safetensors" for run in RUNS}
    assert set(written) == once | each_epoch | way_back
    assert {written.count(name) for name in once} == {1}
    assert {written.count(name) for name in each_epoch} == {TRAINING.epochs}
    assert {written.count(name) for name in way_back} == {TRAINING.epochs - 2}
    assert not list(places[count].rglob(".*"))


@several
def test_data_are_those_of_one_process(places, count):
    found, expected = (navier_stokes.load(places[n] / "flow.nc") for n in (count, 1))
    for data in (found, expected):  # the git revision may change while tests run
        data.attrs = {name: value for name, value in data.attrs.items() if not name.startswith("provenance_")}
    assert found.identical(expected)  # to the bit, with all other attributes and so the checksum
    found, expected = (navier_stokes.load(places[n] / "default.nc") for n in (count, 1))
    assert abs(found - expected).max() < 1e-6 * abs(expected).max()


@several
def test_every_process_has_the_errors_that_one_finds(places, count):
    expected = xr.load_dataset(places[1] / "errors 0.nc", engine="h5netcdf")
    assert expected.sizes["model"] == 1 + len(SETTING.models) and expected.sizes["seed"] == 2
    for rank in range(count):
        assert xr.load_dataset(places[count] / f"errors {rank}.nc", engine="h5netcdf").identical(expected)


@pytest.mark.parametrize("where", ["last", "flow"])
def test_a_process_that_dies_ends_all_with_an_error(tmp_path, where):
    done = torchrun(2, __file__, "dying", tmp_path, where)
    assert done.returncode == 1 and seconds_since_death(tmp_path) < 30
    assert re.search(r"Root Cause.*rank +: [01] .*Signal 9 \(SIGKILL\)", done.stderr, re.DOTALL)
    if where == "flow":
        assert os.listdir(tmp_path) == ["died"]
    else:
        assert_continues(tmp_path)


def test_a_launcher_told_to_stop_stops_all(tmp_path):
    """As a batch system does at the time limit."""
    done = torchrun(2, __file__, "dying", tmp_path, "launcher")
    assert done.returncode == 1 and seconds_since_death(tmp_path) < 30
    assert_continues(tmp_path)


def test_processes_on_other_nodes_end_by_themselves_with_an_error(tmp_path):
    """Two processes as on two nodes: none has a launcher that would end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    words |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    command = [sys.executable, __file__, "dying", str(tmp_path), "step"]
    nodes = [
        subprocess.Popen(
            command, env=script_environment(RANK=rank, GROUP_RANK=rank, **words), stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    try:
        told = nodes[0].communicate(timeout=LIMIT + 60)[1]
        assert seconds_since_death(tmp_path) < 30
        assert [node.wait(timeout=LIMIT) for node in nodes] == [1, -signal.SIGKILL]
    finally:
        for node in nodes:
            node.kill()
            node.communicate()
    assert "ConnectionError: process 0 of 2 lost the connection to another one, which has ended" in told
    assert_continues(tmp_path)


def seconds_since_death(folder: Path) -> float:
    return time.time() - (folder / "died").stat().st_mtime


def assert_continues(folder: Path) -> None:
    """One process makes of the run in ``folder``, which two began, what it makes alone."""
    assert read_checkpoint(folder / "run" / "last.safetensors")[1]["epoch"] == 1
    for name in ("alone", "run"):
        train_one(folder / name)
    assert_close(folder / "run", folder / "alone", (1,), TOLERANCE["32-true"])
    assert not list(folder.rglob(".*"))


# Alone


def test_alone_everything_is_this_process(monkeypatch):
    assert (processes.rank(), processes.size()) == (0, 1)
    assert processes.share("abc") == "abc" and processes.gather(3) == processes.gather(3, to=0) == [3]
    assert processes.each(str, range(3)) == ["0", "1", "2"]
    model = Forecaster("minconvgru", hidden=2, layers=1, size=(4, 4))
    model(torch.ones(1, 2, 1, 4, 4)).sum().backward()
    before = [weight.grad.clone() for weight in model.parameters()]
    processes.barrier()
    processes.sum_gradients(model)
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(model.parameters(), before, strict=True))
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)  # of a PyTorch built without
    assert (processes.rank(), processes.size()) == (0, 1)


def test_a_folder_that_is_not_shared_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "gather", lambda value: [value, 2])
    with pytest.raises(ValueError, match=r"run must be one for all processes; they found epochs \{0, 2\} there"):
        train_one(tmp_path / "run")


@pytest.mark.parametrize("error", [RuntimeError("gloo/transport: closed"), torch.distributed.DistBackendError("NCCL")])
def test_a_lost_connection_is_told_where_there_are_others(error, monkeypatch):
    with pytest.raises(type(error)), processes.connected():
        raise error
    monkeypatch.setattr(processes, "size", lambda: 2)
    with (
        pytest.raises(ConnectionError, match="process 0 of 2 lost the connection to another one"),
        processes.connected(),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), processes.connected():
        raise RuntimeError("shapes do not fit")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    {"job": job, "dying": dying}[sys.argv[1]](*sys.argv[2:])
