"""Many runs at once are the runs one by one."""

import os
import signal
import sys
import textwrap
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from helpers import SETTINGS, assert_same, build, interrupt, run, run_script, stop_at, train_one, truncate, waves

from minconv.training import Run, fit, fit_all, pool

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_fit_all_in_two_processes_is_one_by_one(tmp_path, monkeypatch):
    def runs(folder: str) -> list[Run]:
        cells = ("minconvgru", "convlstm", "convgru")
        return [run(tmp_path / folder / cell, (1,), SETTINGS, cell) for cell in cells]

    data = waves(), waves(3, seed=1)
    alone = fit_all(runs("one"), *data, device="cpu", processes=2)  # too little work to start processes for
    fit(runs("two")[1], *data, device="cpu")  # one is done before
    with monkeypatch.context() as patch:
        patch.setattr(pool, "WORTH_PROCESSES", 0)
        stop_at(patch, 0, interrupt)  # in this process, which trains nothing
        together = fit_all(runs("two"), *data, device="cpu", processes=2)
    assert [folder.name for folder in together] == ["minconvgru", "convlstm", "convgru"]
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


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
    with pytest.raises(TypeError, match=r"runs must be Runs, as the one in fit\(Run\(lambda seed: .*; got Forecaster"):
        fit_all([build(1)], *data)
    with pytest.raises(ValueError, match="processes must be at least 1; got 0"):
        fit_all([run(tmp_path / "a")], *data, processes=0)
    with pytest.raises(TypeError, match=r"executor must have submit\(\), as those of concurrent\.futures; got 2"):
        fit_all([run(tmp_path / "a")], *data, executor=2)
    assert not list(tmp_path.iterdir())


# On an executor


DATA = waves(), waves(3, seed=1)


class Losing(Executor):
    """Loses its first workers."""

    def __init__(self, lost: int):
        self.lost, self.asked = lost, 0

    def submit(self, function, /, *arguments) -> Future:
        future, self.asked = Future(), self.asked + 1
        if self.asked <= self.lost:
            future.set_exception(BrokenExecutor("a worker was lost"))
        else:
            future.set_result(function(*arguments))
        return future


def test_any_executor_trains_the_runs_and_is_left_running(tmp_path):
    jobs = [run(tmp_path / name) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as threads:
        fit_all(jobs, *(values.numpy() for values in DATA), executor=threads, device="cpu", quiet=True)
        assert threads.submit(len, "left").result() == 4
    for job in jobs:
        assert_same(job.folder, train_one(tmp_path / "alone"))


def test_a_run_whose_worker_is_lost_is_taken_up_again(tmp_path):
    fit_all([run(tmp_path / "run")], *DATA, executor=Losing(2), device="cpu", quiet=True)
    assert_same(tmp_path / "run", train_one(tmp_path / "alone"))
    executor = Losing(3)
    with pytest.raises(
        BrokenExecutor, match=r"workers were lost 3 times while .*other was trained: .*a worker was lost"
    ):
        fit_all([run(tmp_path / "other")], *DATA, executor=executor, device="cpu", quiet=True)
    assert executor.asked == 3


def test_what_a_run_raises_is_told_and_not_tried_again(tmp_path):
    executor = Losing(0)
    with pytest.raises(FloatingPointError, match="lower lr") as told:
        fit_all([run(tmp_path, (1,), replace(SETTINGS, lr=1e30))], *DATA, executor=executor, device="cpu", quiet=True)
    assert executor.asked == 1 and "in _attempt" in told.value.__notes__[0]


def test_what_cannot_be_sent_is_trained_here_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "WORTH_PROCESSES", 0)
    jobs = [Run(lambda seed: build(seed), (1,), tmp_path / name, SETTINGS) for name in ("one", "two")]
    with pytest.warns(
        UserWarning, match=r"runs are trained in this process, .* cannot be sent to others \(.*lambda"
    ) as told:
        fit_all(jobs, *DATA, device="cpu", processes=2, quiet=True)
    assert len(told) == 1
    assert_same(tmp_path / "one", train_one(tmp_path / "alone"))
    assert_same(tmp_path / "one", tmp_path / "two")


def killed_once(seed: int, folder: Path):
    """In a worker: dies as the first one that comes here."""
    try:
        (folder / "killed").mkdir()
    except FileExistsError:
        return build(seed)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "WORTH_PROCESSES", 0)
    jobs = [Run(partial(killed_once, folder=tmp_path), (1,), tmp_path / name, SETTINGS) for name in ("one", "two")]
    fit_all(jobs, *DATA, device="cpu", processes=2, quiet=True)
    assert (tmp_path / "killed").is_dir()
    for job in jobs:
        assert_same(job.folder, train_one(tmp_path / "alone"))


# Without a guard, as people write scripts and cells of notebooks.
SCRIPT = """
    import sys
    from functools import partial
    from pathlib import Path
    from helpers import SETTINGS, Forecaster, Run, build, torch, waves
    from minconv.training import fit_all, pool

    class Own(Forecaster):
        pass

    def own(seed):
        torch.manual_seed(seed)
        return Own("minconvgru", hidden=3, layers=1, size=(4, 4))

    print("begun")
    pool.WORTH_PROCESSES = 0
    runs = [Run({build}, [1], Path(sys.argv[1]) / name, SETTINGS) for name in ("one", "two")]
    fit_all(runs, waves(), waves(3, seed=1), device="cpu", processes=2, quiet=True)
"""


@pytest.mark.parametrize(
    "name", [pytest.param("build", marks=pytest.mark.slow), pytest.param("own", marks=pytest.mark.robustness)]
)
def test_a_script_without_a_guard_trains(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(build=name)))
    done = run_script([sys.executable, str(script), str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "one", tmp_path / "two")
    assert done.stderr.count("runs are trained in this process") == (name == "own")
    if name == "build":
        assert done.stdout.count("begun") == 1
    else:  # how many of two processes come to say so before they end, is a matter of time
        assert 1 <= done.stdout.count("begun") <= 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Dask's own
def test_dask_trains_the_runs(tmp_path):
    pytest.importorskip("distributed")
    from distributed import Client

    jobs = [run(tmp_path / "one"), Run(lambda seed: build(seed), (1,), tmp_path / "two", SETTINGS)]
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        fit_all(jobs, *DATA, executor=client.get_executor(), device="cpu", quiet=True)
    assert_same(tmp_path / "one", tmp_path / "two")
    assert_same(tmp_path / "one", train_one(tmp_path / "alone"))
