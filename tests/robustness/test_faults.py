"""Faults: processes killed, told to end, out of disk, without permission, two at once, on damaged or hostile files.

The processes are real. They are forked from a server that has loaded what they need, so that a start takes moments.
"""

import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import (
    SETTINGS,
    contents,
    raising,
    reference,
    run,
    run_script,
    script_environment,
    state,
    train_one,
    train_until,
    wait_for,
    waves,
    within,
)

from minconv import from_reference
from minconv.data import barotropic, navier_stokes, weatherbench
from minconv.data import series as gridded
from minconv.data.windows import Windows
from minconv.runtime import files
from minconv.runtime.files import lock
from minconv.runtime.provenance import git_revision
from minconv.training import fit, fit_all, load_weights, pool, read_log
from minconv.training.folder import latest, read_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = {"training": 8, "navier_stokes": 4, "barotropic": 4, "download": 4}  # at random moments: 20
WRITTEN = {"training": 11, "navier_stokes": 1, "barotropic": 1, "download": 3}  # files; killed twice with each: 32
MOMENTS = ("half", "named")
SEEDS = (1, 2)
LIMIT = 120  # seconds for a process to end
SERVER = "MINCONV_TEST_SERVER"  # in the environment of the process that others are forked from

git_revision()  # once, for all processes: it is written into every dataset


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.context.BaseContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in script_environment().items():  # of the server, to preload this
            patch.setenv(name, value)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv(SERVER, "1")
        context.Process(target=int).start()
        yield context


def start(processes: Any, job: Callable, *arguments: Any) -> BaseProcess:
    process = processes.Process(target=job, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """The exit status of a process, negative where a signal ended it."""
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{process.name} did not end within {LIMIT} s")
    return process.exitcode


def training(folder: Path) -> None:
    torch.set_num_threads(1)
    fit(run(folder / "run", SEEDS), waves(), waves(3, seed=1), device="cpu", quiet=True)


def solving(folder: Path) -> None:
    torch.set_num_threads(1)
    navier_stokes.generate(folder / "data.nc", 8, 6, size=16, batch=2)


def forecasting(folder: Path) -> None:
    torch.set_num_threads(1)
    coarse = barotropic.Settings(truncation=4, step=86400.0, stirring_lowest=3, stirring_highest=4)
    barotropic.generate(folder / "data.nc", 1979, 1979, hours=24, settings=coarse)


def downloading(folder: Path) -> None:
    weatherbench.weatherbench2(folder.parent / "store.zarr", folder / "data.nc", years=(1978, 1979))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A Zarr in WeatherBench 2's layout, of two years."""
    times = np.arange("1978-01-01", "1980-01-01", 24, dtype="datetime64[h]").astype("datetime64[ns]")
    lat, lon, level = -75.0 + 30 * np.arange(6), 30.0 * np.arange(12), np.array([500, 850])
    z = np.random.default_rng(0).normal(5e4, 3e3, (len(times), 2, 12, 6)).astype(np.float32)
    dataset = xr.Dataset(
        {"geopotential": (("time", "level", "longitude", "latitude"), z, {"units": "m**2 s**-2"})},
        {"time": times, "level": level, "longitude": lon, "latitude": lat},
    )
    path = tmp_path_factory.mktemp("store") / "store.zarr"
    dataset.to_zarr(path, zarr_format=2, consolidated=True)
    return path


JOBS = {"training": training, "navier_stokes": solving, "barotropic": forecasting, "download": downloading}


if os.environ.pop(SERVER, None):  # once for all: imports, and kernels from their cache
    with tempfile.TemporaryDirectory() as _folder:
        training(Path(_folder))
        solving(Path(_folder))


def dying(moment: str, count: int, job: Callable[[Path], None], folder: Path) -> None:
    """Does ``job`` up to the ``count``-th file it writes; SIGKILL comes with it half written or just named."""
    fsync, replace, left = os.fsync, os.replace, iter(range(count - 1))

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(handle: int) -> None:
        if next(left, None) is None:
            if os.fstat(handle).st_nlink == 1:  # else it is the second name of a file that was whole before
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        fsync(handle)

    def named(*paths: Path) -> None:
        replace(*paths)
        if next(left, None) is None:
            die()

    if moment == "named":
        os.replace = named
    else:
        os.fsync = half
    job(folder)


# --- what must come out ---------------------------------------------------------------------------


def stands(folder: Path) -> int:
    """The epoch that a run stands at; all that has its final name is whole."""
    for path in folder.rglob("*.safetensors"):
        if not path.name.startswith("."):
            read_checkpoint(path)
    for path in folder.rglob("*.nc"):
        if not path.name.startswith("."):
            gridded.read_series(path) if "parts" in str(path) else xr.load_dataset(path)
    return latest(folder / "run")[1]["epoch"]


@pytest.fixture(scope="module")
def whole(processes, store, tmp_path_factory) -> Callable[[str], tuple[dict[str, Any], float]]:
    """What a job makes undisturbed, and the seconds it takes."""

    @cache
    def made(name: str) -> tuple[dict[str, Any], float]:
        folder = tmp_path_factory.mktemp(name)
        (folder / "store.zarr").symlink_to(store)
        for attempt in ("first", "whole"):  # the first imports and compiles what it needs
            begun = time.monotonic()
            assert ended(start(processes, JOBS[name], folder / attempt)) == 0
            seconds = time.monotonic() - begun
        assert state(folder / "first") == state(folder / "whole")
        return state(folder / "whole"), seconds

    return made


@pytest.mark.parametrize("name", KILLS)
def test_killed_at_random_moments_the_next_start_goes_on(tmp_path, processes, store, whole, name):
    (expected, seconds), rng = whole(name), random.Random(name)
    (tmp_path / "store.zarr").symlink_to(store)
    killed = finished = epoch = 0
    while True:
        enough, folder = killed == KILLS[name], tmp_path / str(finished)
        process = start(processes, JOBS[name], folder)
        if not enough:
            process.join(rng.uniform(0.0, seconds))
            process.kill()
        if status := ended(process):
            assert status == -signal.SIGKILL and not enough
            killed, before, epoch = killed + 1, epoch, stands(folder)
            assert epoch >= before
        else:
            assert state(folder) == expected
            finished, epoch, seconds = finished + 1, 0, 0.7 * seconds  # the machine is less busy than it was
            if enough:
                return


@pytest.mark.parametrize("name", WRITTEN)
def test_killed_while_any_of_its_files_is_written_the_next_start_goes_on(tmp_path, processes, store, whole, name):
    expected, _ = whole(name)
    (tmp_path / "store.zarr").symlink_to(store)
    for moment in MOMENTS:
        for number in range(1, WRITTEN[name] + 1):
            folder = tmp_path / f"{moment} {number}"
            assert ended(start(processes, dying, moment, number, JOBS[name], folder)) == -signal.SIGKILL
            stands(folder)
            assert ended(start(processes, JOBS[name], folder)) == 0
            assert state(folder) == expected
        folder = tmp_path / f"{moment} and that is all"
        assert ended(start(processes, dying, moment, WRITTEN[name] + 1, JOBS[name], folder)) == 0


# Two runs of 20 steps an epoch, which take their time where the environment says so. A script of its own: workers
# import what it imports, which is less than this file does.
ALL_AT_ONCE = """
    import os, sys, time
    from functools import partial
    from pathlib import Path
    from helpers import SETTINGS, Forecaster, Run, torch, waves
    from minconv.training import fit_all, pool

    class Waiting(Forecaster):
        def forward(self, *arguments):
            time.sleep(float(os.environ.get("WAIT", 0)))
            return super().forward(*arguments)

    def waiting(seed, cell):
        torch.manual_seed(seed)
        return Waiting(cell, hidden=3, layers=1, size=(4, 4))

    def train_two(folder, workers):
        torch.set_num_threads(1)
        cells = ("minconvgru", "minconvlstm")
        runs = [Run(partial(waiting, cell=cell), (1,), folder / cell, SETTINGS) for cell in cells]
        fit_all(runs, waves(40), waves(3, seed=1), device="cpu", processes=workers, quiet=True)

    if __name__ == "__main__":
        pool.WORTH_PROCESSES = 0
        train_two(Path(sys.argv[1]), 2)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_workers_end_with_their_parent_and_the_next_start_goes_on(tmp_path, name):
    """SIGINT comes to all of them, as from a terminal. Only with SIGKILL what was done of the epoch is lost."""
    script, number = tmp_path / "script.py", getattr(signal, name)
    script.write_text(textwrap.dedent(ALL_AT_ONCE))
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "parts")],
        env=script_environment(WAIT="0.05"),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: len(list(tmp_path.rglob("last.safetensors"))) == 2, LIMIT)
    os.kill(process.pid, number) if name != "SIGINT" else os.killpg(process.pid, number)
    assert process.wait(LIMIT) == -number
    headers = [latest(folder)[1] for folder in (tmp_path / "parts").iterdir()]
    assert all(1 <= header["epoch"] < 3 for header in headers)
    if name == "SIGKILL":
        assert not any("step" in header for header in headers)
    else:
        assert any("step" in header for header in headers)
        assert not list(tmp_path.rglob(".*"))
    train_two = runpy.run_path(str(script))["train_two"]
    for folder in ("parts", "whole"):
        train_two(tmp_path / folder, 1)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")


def test_a_run_that_fails_in_a_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "WORTH_PROCESSES", 0)
    bad = run(tmp_path / "bad", (1,), replace(SETTINGS, lr=1e30))
    with pytest.raises(FloatingPointError, match="bad"):
        fit_all([bad, run(tmp_path / "good")], waves(), waves(3, seed=1), device="cpu", processes=2)


# --- told to end ----------------------------------------------------------------------------------


SIGNALLED = """
    import os, signal, sys
    from pathlib import Path
    from helpers import pytest, raising, stop_at, torch, train_one

    torch.set_num_threads(1)
    stop_at(pytest.MonkeyPatch(), 4, raising(int(sys.argv[1])))
    train_one(Path(sys.argv[2]), (1, 2))
"""


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGHUP", 129)])
def test_told_to_end_a_process_does_so_with_the_usual_status(tmp_path, name, status):
    folder = tmp_path / "parts"
    command = [sys.executable, "-c", textwrap.dedent(SIGNALLED), str(int(getattr(signal, name))), str(folder)]
    done = run_script(["bash", "-c", '"$@"; exit $?', "bash", *command])
    assert done.returncode == status
    assert read_checkpoint(folder / "last.safetensors")[1]["step"] == 2
    train_one(folder, SEEDS)
    assert state(folder) == state(train_one(tmp_path / "whole", SEEDS))


WORKING = {  # what each calls when it has done a part of its work
    "navier_stokes": (navier_stokes, "initial_vorticity"),
    "barotropic": (barotropic.Stirring, "next"),
    "download": (weatherbench, "read_values"),
}


def told(name: str, number: int, moment: str, folder: Path) -> None:
    """Does a job; a signal comes in the midst of its work, or with the first file half written."""
    place, what = WORKING[name] if moment == "working" else (os, "fsync")
    function, left = getattr(place, what), iter(range(moment == "working"))

    def signalled(*arguments: Any) -> Any:
        if next(left, None) is None:
            signal.raise_signal(number)
        return function(*arguments)

    setattr(place, what, signalled)
    JOBS[name](folder)


@pytest.mark.parametrize("number, moment", [("SIGTERM", "working"), ("SIGINT", "working"), ("SIGINT", "writing")])
@pytest.mark.parametrize("name", WORKING)
def test_data_that_are_told_to_end_leave_whole_files_only(tmp_path, processes, store, whole, name, number, moment):
    (tmp_path / "store.zarr").symlink_to(store)
    folder, number = tmp_path / "parts", getattr(signal, number)
    status = -number if number == signal.SIGTERM else 1  # multiprocessing's where KeyboardInterrupt leaves the job
    assert ended(start(processes, told, name, number, moment, folder)) == status
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    kept = {"1978.nc"} if name == "download" and moment == "working" else set()
    assert left - {".data.nc.lock"} == kept and (number == signal.SIGTERM or ".data.nc.lock" not in left)
    assert ended(start(processes, JOBS[name], folder)) == 0
    assert state(folder) == whole(name)[0]


# --- no room, no permission -----------------------------------------------------------------------


def said(job: Callable[[Path], None], folder: Path, before: Callable[[Path], None], pipe: Any) -> None:
    """In a process of its own: the error of ``job`` after ``before``, as (kind, message)."""
    before(folder)
    try:
        job(folder)
        pipe.send(None)
    except Exception as error:
        pipe.send((type(error).__name__, str(error)))


def outcome(processes, job: Callable, folder: Path, before: Callable = Path) -> tuple[str, str] | None:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=said, args=(job, folder, before, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    assert ended(process) == 0
    return found


def no_large_files(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


def full_in_the_second_epoch(folder: Path) -> None:
    cut, done = Windows.cut, iter(range(100))
    Windows.cut = lambda self, n: (next(done) == 4 and fill(folder), cut(self, n))[1]


def fill(folder: Path) -> None:
    """Takes all the room there is, or all that this process may have in one file."""
    if os.path.ismount(folder):
        with (folder / "ballast").open("wb", 0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
    else:
        no_large_files(folder)


@pytest.fixture(params=["a limit", "a full disk"])
def small(request, tmp_path) -> Iterator[Path]:
    """A folder in which room can run out."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "a limit":
        yield folder
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user cannot mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_training_on_a_full_disk_says_so_and_keeps_the_last_checkpoint(tmp_path, processes, small):
    kind, message = outcome(processes, training, small, full_in_the_second_epoch)
    assert kind == "OSError"
    assert re.search(
        r"small/run/\w+\.\w+ could not be written \((no space|file too large).*; make room for it", message
    )
    assert stands(small) == 1 and not list((small / "run").glob(".*"))
    (small / "ballast").unlink(missing_ok=True)
    assert outcome(processes, training, small) is None
    assert outcome(processes, training, tmp_path / "whole") is None
    assert state(small) == state(tmp_path / "whole")


@pytest.mark.parametrize("name", ["navier_stokes", "barotropic", "download"])
def test_data_on_a_full_disk(tmp_path, processes, store, small, name):
    (tmp_path / "store.zarr").symlink_to(store)
    job = JOBS[name]
    kind, message = outcome(processes, job, small, fill)
    assert kind == "OSError"
    assert re.search(r"small/\S+ could not be written \((no space|file too large).*; make room for it", message)
    (small / "ballast").unlink(missing_ok=True)
    assert not [path for path in small.rglob("*") if path.is_file()]
    assert outcome(processes, job, small) is None


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def without_privileges(folder: Path) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


@pytest.mark.parametrize("name", JOBS)
def test_a_folder_that_is_read_only(processes, store, shared, name):
    shutil.copytree(store, shared / "store.zarr")  # which every user can read
    folder = shared / "locked"
    folder.mkdir(0o555)
    kind, message = outcome(processes, JOBS[name], folder, without_privileges)
    assert kind == "PermissionError"
    assert re.search(r"locked/\S+ could not be written \(permission denied\); make its folder writable", message)
    assert not list(folder.iterdir())


def test_a_run_in_a_read_only_folder(processes, shared):
    """Begun, it is left as it is; finished, it is recognised."""
    train_until(shared / "run", 4, SEEDS, action=raising(signal.SIGINT))
    before = contents(shared / "run")
    (shared / "run").chmod(0o555)
    kind, message = outcome(processes, training, shared, without_privileges)
    assert kind == "PermissionError" and "run/.lock could not be written (permission denied)" in message
    assert contents(shared / "run") == before
    (shared / "run").chmod(0o755)
    train_one(shared / "run", SEEDS)
    (shared / "run").chmod(0o555)
    assert outcome(processes, training, shared, without_privileges) is None


# --- two at once ----------------------------------------------------------------------------------


def test_a_run_that_is_being_trained_is_refused_to_others(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    holder = processes.Process(target=holding, args=(tmp_path / "run",))
    holder.start()
    wait_for(lambda: (tmp_path / "run" / ".lock").exists() and (tmp_path / "run" / ".lock").read_text(), LIMIT)
    with pytest.raises(BlockingIOError, match=rf"run is in use by process {holder.pid} on .*wait for it to end"):
        train_one(tmp_path / "run")
    assert os.listdir(tmp_path / "run") == [".lock"]
    holder.kill()
    assert ended(holder) == -signal.SIGKILL
    folder = train_one(tmp_path / "run")  # the lock has died with its process
    assert sorted(os.listdir(folder)) == ["best.safetensors", "last.safetensors", "log.csv", "run.json"]


def holding(folder: Path) -> None:
    with lock(folder / ".lock"):
        time.sleep(LIMIT)


def test_a_finished_run_needs_no_lock(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    train_one(tmp_path / "run")
    holder = processes.Process(target=holding, args=(tmp_path / "run",))
    holder.start()
    wait_for((tmp_path / "run" / ".lock").exists, LIMIT)
    train_one(tmp_path / "run")
    holder.kill()
    ended(holder)


def patiently(job: Callable[[Path], None], folder: Path) -> None:
    files.PATIENCE = LIMIT
    job(folder)


@pytest.mark.parametrize("name", JOBS)
def test_two_at_once_make_what_one_makes(tmp_path, processes, store, whole, name):
    (tmp_path / "store.zarr").symlink_to(store)
    started = [start(processes, patiently, JOBS[name], tmp_path / "shared") for _ in range(2)]
    assert [ended(process) for process in started] == [0, 0]
    assert state(tmp_path / "shared") == whole(name)[0]


def counting(path: Path, times: int) -> None:
    for _ in range(times):
        with lock(path.with_name(".lock")):
            number = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(number + 1))


def test_a_lock_is_held_by_one_at_a_time_though_its_file_comes_and_goes(tmp_path, processes, monkeypatch):
    path = tmp_path / "count"
    path.write_text("0")
    started = [processes.Process(target=counting, args=(path, 5)) for _ in range(3)]
    for process in started:
        process.start()
    assert [ended(process) for process in started] == [0, 0, 0]
    assert path.read_text() == "15" and os.listdir(tmp_path) == ["count"]


# --- hostile files --------------------------------------------------------------------------------


class Malice:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def crime(tmp_path) -> Iterator[Path]:
    """What a hostile file would make; it is not there afterwards."""
    folder = tmp_path / "crime"
    pickle.loads(pickle.dumps(Malice(folder)))
    assert folder.exists()  # it would
    folder.rmdir()
    yield folder
    assert not folder.exists()


def hostile(path: Path, kind: str, crime: Path) -> Path:
    """A file that does harm when it is unpickled, or unpacked without care."""
    weights = {"model_state_dict": {"encoder.0.weight": torch.zeros(3, 1, 1, 1)}, "epoch": Malice(crime)}
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Malice(crime)))
        case "zip of a pickle":
            torch.save(weights, path)
        case "old format of torch":
            torch.save(weights, path, _use_new_zipfile_serialization=False)
        case "archive that leaves its folder":
            with zipfile.ZipFile(path, "w") as archive:
                for name in (f"{'../' * 12}{crime}/file", f"{crime}/file", "../crime/file", "archive/data.pkl"):
                    archive.writestr(name, pickle.dumps({}))
        case "array of objects":
            with path.open("wb") as file:
                np.save(file, np.array([Malice(crime)]), allow_pickle=True)
    return path


HOSTILE = ["pickle", "zip of a pickle", "old format of torch", "archive that leaves its folder", "array of objects"]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of old formats
def test_hostile_files_do_nothing_wherever_a_file_is_loaded(tmp_path, crime, kind):
    for name, load in {
        "weights.ckpt": lambda path: from_reference("minconvlstm", path, "circular"),
        "best.safetensors": lambda path: load_weights(path.parent),
        "run.json": files.read_json,
        "last.safetensors": lambda path: read_log(path.parent),
        "ns.nc": navier_stokes.load,
        "barotropic.nc": barotropic.load,
        "series.nc": gridded.read_series,
        "user.nc": lambda path: gridded.open_series(path, "z"),
        "zarr.zip": lambda path: gridded.open_series(path, "z"),
    }.items():
        path = hostile(tmp_path / "files" / name, kind, crime)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            load(path)
    folder = train_until(tmp_path / "run", 4, SEEDS, action=raising(signal.SIGINT))
    for name in ("last", "previous"):
        hostile(folder / f"{name}.safetensors", kind, crime)
    with pytest.raises(ValueError, match=r"last\.safetensors is no whole checkpoint"):
        train_one(folder, SEEDS)


@pytest.mark.parametrize("name", ["time", "z"])
@pytest.mark.parametrize("place", ["compressor", "first filter", "second filter", "filter of objects"])
def test_a_zarr_with_pickled_chunks_is_refused(tmp_path, crime, name, place):
    times = np.arange("2000-01-01", "2000-01-03", 6, dtype="datetime64[h]").astype("datetime64[ns]")
    coords = {"time": times, "lat": [-45.0, 45.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    z = xr.DataArray(np.zeros((8, 2, 4), np.float32), coords, ("time", "lat", "lon"), "z")
    path = tmp_path / "store.zarr"
    z.to_dataset().to_zarr(path, zarr_format=2, consolidated=False)
    about = json.loads((path / name / ".zarray").read_text())
    if place == "compressor":
        about["compressor"] = {"id": "pickle"}
    else:
        shuffle = [{"id": "shuffle", "elementsize": 4}] if place == "second filter" else []
        about |= {"compressor": None, "filters": [*shuffle, {"id": "pickle"}]}
    if place == "filter of objects":
        about |= {"dtype": "|O", "fill_value": None}
    (path / name / ".zarray").write_text(json.dumps(about))
    for chunk in (path / name).glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Malice(crime)))
    with pytest.raises(ValueError, match=r"store\.zarr cannot be read as Zarr.*pickle"):
        gridded.frames(gridded.open_series(path, "z"))


def published_checkpoint(weights: dict[str, torch.Tensor], path: Path, error: Any) -> Path:
    """As the published code's ``write_checkpoint`` makes it."""
    model = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=30)
    checkpoint = {
        "model_state_dict": weights,
        "optimizer_state_dict": adam.state_dict(),
        "scheduler_state_dict": cosine.state_dict(),
        "epoch": 30,
        "iteration": 30000,
        "best_val_error": error,
    }
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("error", [np.inf, torch.tensor(0.1).numpy(), np.float32(0.1), np.float64(0.1)])
def test_published_checkpoints_load(tmp_path, error):
    arrays = reference("minconvlstm_circular")
    weights = {f"_orig_mod.{name}": value for name, value in within(arrays, "param/").items()}
    frames = arrays["x"][:, : int(arrays["context"])]
    for path in (published_checkpoint(weights, tmp_path / "best.ckpt", error), tmp_path / "weights.pt"):
        if not path.exists():
            torch.save(weights, path)
        model = from_reference("minconvlstm", path, "circular")
        assert torch.equal(model(frames), from_reference("minconvlstm", weights, "circular")(frames))


def test_published_checkpoints_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        from_reference("minconvlstm", tmp_path / "none.ckpt", "circular")
    path = published_checkpoint({"encoder.0.weight": torch.zeros(1000)}, tmp_path / "best.ckpt", 0.1)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-100], whole[len(whole) // 2 :], b"epoch,seed\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"best\.ckpt is no whole checkpoint of weights alone"):
            from_reference("minconvlstm", str(path), "circular")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="does not hold the weights of a published MinConvLSTM model"):
        from_reference("minconvlstm", path, "circular")
