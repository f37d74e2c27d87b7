"""Many runs at once, on a pool of processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minconv.data.windows import check_trajectories
from minconv.runtime.checks import whole
from minconv.runtime.device import pick_device
from minconv.runtime.progress import progress
from minconv.runtime.signals import deferred
from minconv.training.fit import fit
from minconv.training.folder import latest
from minconv.training.settings import Run

WORTH_PROCESSES = 500  # steps: to start a process takes as long as some 50


def fit_all(
    runs: Sequence[Run],
    train: Tensor,
    validation: Tensor,
    *,
    device: str = "auto",
    processes: int | None = None,
    **options: Any,
) -> list[Path]:
    """Trains every run, or what is left of it, with ``fit``: one after another, or on the CPU one a core.

    Small models leave two threads idle half of the time; two processes of one thread each do about 1.4 times the work.

    Args:
        processes: how many at once on the CPU; by default as many as PyTorch has threads.
        options: those of ``fit``.

    Returns:
        The runs' folders.

    Raises:
        What ``fit`` does, and ValueError where two runs share a folder.
    """
    folders = [Path(run.folder) for run in runs]
    if len(set(folders)) < len(runs):
        raise ValueError(f"runs must have a folder each; got {[str(folder) for folder in folders]}")
    check_trajectories(train, 2, "train")
    processes = whole("processes", torch.get_num_threads() if processes is None else processes, 1)
    left = [run for run in runs if latest(run.folder)[1]["epoch"] < run.settings.epochs]
    total = sum(_steps(run, train, run.settings.epochs) for run in left)
    begun = sum(_steps(run, train) for run in left)
    on_cpu = pick_device(device).type == "cpu" and "WORLD_SIZE" not in os.environ
    together = on_cpu and min(processes, len(left)) > 1 and total - begun >= WORTH_PROCESSES
    for run in runs:
        if not together or run not in left:  # of a finished one, only checks that the folder is the run's
            fit(run, train, validation, device=device, **options)
    if together:
        with progress(total=total, initial=begun, unit="step", quiet=options.pop("quiet", False)) as bar:
            _fit_together(left, train, validation, processes, bar, device=device, quiet=True, **options)
    return folders


def _steps(run: Run, train: Tensor, epochs: int | None = None) -> int:
    """How many steps so many epochs have, by default those that the run's last checkpoint is after."""
    return (latest(run.folder)[1]["epoch"] if epochs is None else epochs) * (len(train) // run.settings.batch)


def _fit_together(runs: list[Run], train: Tensor, validation: Tensor, processes: int, bar: tqdm, **options) -> None:
    with deferred() as ending, ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
        waiting = {pool.submit(fit, run, train, validation, **options): run for run in runs}
        try:
            while waiting:
                if ending():
                    raise KeyboardInterrupt
                for future in wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    future.result()
                    del waiting[future]
                bar.update(sum(_steps(run, train) for run in runs) - bar.n)
                logs = [(run.name, log) for run in waiting.values() if (log := latest(run.folder)[1]["log"])]
                bar.set_postfix_str(", ".join(f"{name} {log[-1]['validation_loss']:.1e}" for name, log in logs))
        except BaseException:
            for process in list(pool._processes.values()):  # they would finish their run first; so they save it
                process.terminate()
            raise


def _end_with_parent() -> None:
    """In a worker: one thread for arithmetic, another that ends the worker if its parent is killed.

    Ctrl-C reaches all processes of a terminal; what it means for a worker is for the parent to say.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
