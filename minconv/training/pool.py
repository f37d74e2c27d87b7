"""Many runs at once, on a pool of processes or on any executor."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minconv.runtime.checks import whole
from minconv.runtime.device import pick_device
from minconv.runtime.processes import without_main
from minconv.runtime.progress import progress
from minconv.runtime.signals import deferred
from minconv.training.fit import fit
from minconv.training.folder import latest, progress_of
from minconv.training.settings import SEVERAL, Run

WORTH_PROCESSES = 500  # steps: to start a process takes as long as some 50
TRIES = 3  # of a run whose workers are lost


def fit_all(
    runs: Sequence[Run],
    train: Any,
    validation: Any,
    *,
    executor: Executor | None = None,
    device: str = "auto",
    processes: int | None = None,
    **options: Any,
) -> list[Path]:
    """Trains every run, or what is left of it, with ``fit``: one after another, or on the CPU one a core.

    Small models leave two threads idle half of the time; two processes of one thread each do about 1.4 times the work.
    The seeds of one run share a process, so that for all cores seeds are best given a run each.
    What cannot be sent to other processes, such as a lambda or a class of a notebook, is trained in this one, with a
    warning.

    Args:
        train, validation: tensors or arrays [N, T, C, H, W], as ``fit`` takes them.
        executor: where to train instead, all runs at once, with ``device`` as it is there: any of
            ``concurrent.futures``, such as Dask's ``client.get_executor()``, whose workers share the disk of the runs'
            folders. It is left running.
        processes: how many at once on the CPU; by default as many as PyTorch has threads.
        options: those of ``fit``, for each run.

    Returns:
        The runs' folders.

    Raises:
        What ``fit`` does, of the first run that fails; ValueError where two runs share a folder; BrokenExecutor where
        a run's worker was lost (killed, or out of memory) three times. A further call goes on with what is left.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)  # a worker, which imports a script without a guard: it is not to begin anew
    if wrong := [run for run in runs if not isinstance(run, Run)]:
        raise TypeError(f"runs must be Runs, as the one in {SEVERAL}; got {type(wrong[0]).__name__}")
    folders = [Path(run.folder) for run in runs]
    if len(set(folders)) < len(runs):
        raise ValueError(f"runs must have a folder each; got {[str(folder) for folder in folders]}")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must have submit(), as those of concurrent.futures; got {executor!r}")
    processes = whole("processes", torch.get_num_threads() if processes is None else processes, 1)
    left = [run for run in runs if latest(run.folder)[1]["epoch"] < run.settings.epochs]
    total = sum(_steps(run, train, run.settings.epochs) for run in left)
    begun = sum(_steps(run, train) for run in left)
    for run in runs:
        if run not in left:  # only checks that the folder is the run's
            fit(run, train, validation, device=device if executor is None else "cpu", **options)
    sent, workers = options | {"device": device, "quiet": True}, executor
    if executor is None and pick_device(device).type == "cpu" and "WORLD_SIZE" not in os.environ:
        count = min(processes, len(left))
        if count > 1 and total - begun >= WORTH_PROCESSES:
            workers = _workers(count, left, sent)
    if workers is None:
        for run in left:
            fit(run, train, validation, device=device, **options)
    elif left:
        with progress(total=total, initial=begun, unit="step", quiet=options.get("quiet", False)) as bar:
            _fit_together(left, train, validation, workers, bar, sent)
    return folders


def _steps(run: Run, train: Any, epochs: int | None = None) -> int:
    """How many steps so many epochs have, by default those that the run's last checkpoint is after."""
    return (progress_of(run.folder)["epoch"] if epochs is None else epochs) * (len(train) // run.settings.batch)


def _fit_together(
    runs: list[Run], train: Any, validation: Any, workers: "Executor | _Workers", bar: tqdm, options: dict[str, Any]
) -> None:
    def submit(run: Run) -> Future:
        return workers.submit(_attempt, run, train, validation, options)

    with deferred() as ending, workers if isinstance(workers, _Workers) else nullcontext():
        waiting, lost = {submit(run): run for run in runs}, Counter()
        try:
            while waiting:
                if ending():
                    raise KeyboardInterrupt
                for future in wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    run = waiting.pop(future)
                    try:
                        error = future.result()
                    except Exception as failure:  # of the executor, a lost worker, say: a run's errors are results
                        lost[run.folder] += 1
                        if lost[run.folder] == TRIES:
                            told = f"workers were lost {TRIES} times while {run.folder} was trained: {failure!r}"
                            raise BrokenExecutor(told) from failure
                        waiting[submit(run)] = run
                        continue
                    if error:
                        raise error
                logs = [(run.name, log) for run in waiting.values() if (log := progress_of(run.folder)["log"])]
                losses = ", ".join(f"{name} {log[-1]['validation_loss']:.1e}" for name, log in logs)
                bar.set_postfix_str(losses, refresh=False)
                bar.update(sum(_steps(run, train) for run in runs) - bar.n)
        finally:
            for future in waiting:
                future.cancel()


def _attempt(run: Run, train: Any, validation: Any, options: dict[str, Any]) -> Exception | None:
    """In a worker: trains a run, and returns what went wrong; so what a future raises is the executor's."""
    try:
        fit(run, train, validation, **options)
    except Exception as error:
        error.add_note(traceback.format_exc())  # which does not travel else
        return error


def _workers(count: int, runs: list[Run], options: dict[str, Any]) -> "_Workers | None":
    """Processes, if these runs can be sent to some; else None, with a warning."""
    workers = None
    try:
        sent = pickle.dumps((runs, options))
        workers = _Workers(count, has_main=b"__main__" in sent)
        if workers.has_main:
            for answer in [workers.submit(_open, sent) for _ in range(count)]:  # all of them begin at once
                answer.result()
        return workers
    except Exception as error:
        if workers:
            workers.pool.shutdown()
        warnings.warn(
            f"runs are trained in this process, one after another, as they cannot be sent to others ({error!r}); they "
            "can where models are in a module, or in a script that trains under if __name__ == '__main__'",
            stacklevel=3,
        )
        return None


def _open(sent: bytes) -> None:
    """In a worker: raises what is wrong with it; a run that cannot be opened there would end the worker."""
    pickle.loads(sent)


class _Workers:
    """Processes of one thread each, which end with the context: at once where it is left by an error.

    Args:
        count: of them.
        has_main: whether they import the script that runs, which a script without a guard does not survive.
    """

    def __init__(self, count: int, has_main: bool):
        self.count, self.has_main, self.pool = count, has_main, self._begun(count)

    @staticmethod
    def _begun(count: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(count, get_context("spawn"), _begin)

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """As an executor's; where a process was lost, which ends a pool, to a new one."""
        with nullcontext() if self.has_main else without_main():
            try:
                return self.pool.submit(function, *arguments)
            except BrokenExecutor:
                self.pool = self._begun(self.count)
                return self.pool.submit(function, *arguments)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind:
            for process in list((self.pool._processes or {}).values()):  # they would finish their run; so they save it
                process.terminate()
        self.pool.shutdown()


def _begin() -> None:
    """In a worker: one thread for arithmetic, another that ends the worker if its parent is killed, and not a word.

    Ctrl-C reaches all processes of a terminal; what it means for a worker is for the parent to say.
    """
    torch.set_num_threads(1)
    os.environ["MINCONV_QUIET"] = "1"  # the parent tells
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
