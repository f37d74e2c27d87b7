"""Training: resumable, and for several seeds at once. Lightning Fabric appears only here.

A run is one or more seeds of one model, in a folder of its own:

    run.json                what it is: settings, seeds, model, data, versions, hardware, git revision
    last.safetensors        weights, moments of the optimizers, best weights of all seeds, stacked; epoch, log in header
    previous.safetensors    the checkpoint before, until the run is finished, in case the last is damaged
    best.safetensors        each seed's weights at its lowest validation loss
    log.csv                 epoch, seed, learning rate, losses, seconds
    .lock                   held by the process that trains, while it does

``last.safetensors`` is the one file that decides where a run stands: it is replaced whole at the end of an epoch, and
after the step in which a signal to end came. Random numbers depend on seed and epoch alone, so a run that was ended or
killed continues to the weights it would have reached.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minconv.data.windows import Windows, check_trajectories, fixed_windows
from minconv.runtime import processes
from minconv.runtime.checks import choice, positive, whole
from minconv.runtime.device import pick_device
from minconv.runtime.files import atomic, keep, lock, read_json, remove_stale_lock, remove_temporaries, write_json
from minconv.runtime.memory import keep_memory
from minconv.runtime.progress import progress
from minconv.runtime.provenance import provenance
from minconv.runtime.signals import deferred
from minconv.training.ensemble import Ensemble
from minconv.training.muon import Muon, is_kernel

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
LOCK = ".lock"
WORTH_PROCESSES = 500  # steps: to start a process takes as long as some 50
PRECISIONS = ("32-true", "64-true", "bf16-mixed")
LATER = {"warmup": 0.0, "optimizer": "adam"}  # settings that runs of earlier versions do not name, and what they had
MOMENTS = {"muon": ("momentum",), "adam": ("step", "exp_avg", "exp_avg_sq")}  # state of each optimizer, by weight
LOG_COLUMNS = ("epoch", "seed", "lr", "train_loss", "validation_loss", "seconds")


@dataclass(frozen=True)
class Training:
    """Settings of a run; the defaults are the recipe that notebook 8 arrives at, ``presets.PUBLISHED`` the paper's.

    Args:
        context: teacher-forced frames of a window.
        horizon: closed-loop steps after them; the loss is the mean square error over all context + horizon predictions.
        epochs, batch: passes over the trajectories, windows a step.
        optimizer: ``adam``, or ``muon`` for the kernels of convolutions wider than one cell and Adam for all else.
        lr: learning rate, falling to 0 with the cosine of the step.
        warmup: part of all steps in which it rises to that first, linearly.
        weight_decay: Adam's L2 term; with ``muon`` of its kernels alone, and decoupled from the gradient.
        clip: largest norm of the gradient, or None.
        noise: standard deviation of the noise on the inputs while training.
    """

    context: int = 20
    horizon: int = 5
    epochs: int = 30
    batch: int = 1
    optimizer: str = "muon"
    lr: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float | None = None
    noise: float = 1e-2

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("horizon", 0), ("epochs", 1), ("batch", 1)):
            whole(name, getattr(self, name), least)
        choice("optimizer", self.optimizer, MOMENTS)
        positive("lr", self.lr)
        for name in ("weight_decay", "noise"):
            positive(name, getattr(self, name), zero=True)
        if positive("warmup", self.warmup, zero=True) >= 1:
            raise ValueError(f"warmup must be below 1, a part of all steps; got {self.warmup}")
        if self.clip is not None:
            positive("clip", self.clip)

    def rate(self, done: float) -> float:
        """Learning rate when ``done``, from 0 to 1, of all steps are."""
        if done < self.warmup:
            return self.lr * done / self.warmup
        return 0.5 * self.lr * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


@dataclass(frozen=True)
class Run:
    """One model to train, for one or more seeds together.

    Args:
        build: makes the untrained model of a seed; called as ``model(frames, horizon)``.
        seeds: one for each model; seed s draws the same weights, windows and noise in whatever company.
        folder: where the run is kept and continued.
        settings: how to train.
        name: for the progress bar.
    """

    build: Callable[[int], nn.Module]
    seeds: Sequence[int]
    folder: Path
    settings: Training = field(default_factory=Training)
    name: str = ""


def fit(
    run: Run,
    train: Tensor,
    validation: Tensor,
    *,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = False,
) -> Path:
    """Trains one run, or what is left of it. Under ``torchrun`` each process takes its share of every batch.

    SIGTERM, SIGHUP and Ctrl-C take effect after the step, when the run has been saved; a second Ctrl-C at once. Under
    ``torchrun`` they take effect at once, and what was done of the epoch is lost. Where the last checkpoint is damaged,
    the one before it is used, with a warning, and the damaged file kept under another name.

    Args:
        train, validation: trajectories [N, T, C, H, W]; T at least context + horizon + 1.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``32-true``, ``64-true`` or ``bf16-mixed``.
        quiet: without the progress bar.

    Returns:
        The run's folder.

    Raises:
        TypeError, ValueError: bad settings; a folder that holds another run, or damaged checkpoints only.
        FloatingPointError: a loss became infinite or NaN; the last checkpoint is kept.
        BlockingIOError: another process trains this run.
        OSError: the disk is full or the folder read-only; the last checkpoint is kept.
        ConnectionError: another process of ``torchrun`` has ended; the last checkpoint is kept.
    """
    choice("precision", precision, PRECISIONS)
    keep_memory()
    fabric = _fabric(pick_device(device), precision)
    alone = fabric.world_size == 1  # else processes need not be at the same step when the signal comes
    with deferred() if alone else nullcontext(bool) as ending, ExitStack() as held:
        this = _Fit(run, train, validation, fabric, precision, held)
        hidden = quiet or this.done or not this.fabric.is_global_zero
        bar = held.enter_context(progress(desc=run.name, total=this.steps_left, unit="step", quiet=hidden))
        held.enter_context(processes.connected())
        for news in this.steps():
            bar.update()
            if news:
                bar.set_postfix_str(news)
            if ending():
                this.save_step()
                raise KeyboardInterrupt
    return this.folder


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

    Returns:
        The runs' folders.
    """
    if len({Path(run.folder) for run in runs}) < len(runs):
        raise ValueError(f"runs must have a folder each; got {[str(run.folder) for run in runs]}")
    check_trajectories(train, 2, "train")
    processes = whole("processes", torch.get_num_threads() if processes is None else processes, 1)
    steps = {run.folder: len(train) // run.settings.batch for run in runs}  # of an epoch
    before = {run.folder: _epochs_done(run) for run in runs}
    left = [run for run in runs if before[run.folder] < run.settings.epochs]
    total = sum((run.settings.epochs - before[run.folder]) * steps[run.folder] for run in left)
    if (
        pick_device(device).type != "cpu"
        or min(processes, len(left)) < 2
        or total < WORTH_PROCESSES
        or "WORLD_SIZE" in os.environ
    ):
        return [fit(run, train, validation, device=device, **options) for run in runs]
    quiet = options.pop("quiet", False)
    options |= {"device": device, "quiet": True}
    for run in runs:
        if run not in left:
            fit(run, train, validation, **options)  # only checks that the folder is the run's
    with (
        deferred() as ending,
        progress(total=total, unit="step", quiet=quiet) as bar,
        ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool,
    ):
        waiting = {pool.submit(fit, run, train, validation, **options): run for run in left}
        try:
            while waiting:
                if ending():
                    raise KeyboardInterrupt
                done, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    del waiting[future]
                logs = [(run, log) for run in left if (log := _saved_log(run.folder))]
                now = sum((log[-1]["epoch"] - before[run.folder]) * steps[run.folder] for run, log in logs)
                bar.update(now - bar.n)
                active = [
                    f"{run.name} {log[-1]['validation_loss']:.1e}" for run, log in logs if run in waiting.values()
                ]
                bar.set_postfix_str(", ".join(active[:processes]))
        except BaseException:
            for process in list(pool._processes.values()):  # they would finish their run first; so they save it
                process.terminate()
            raise
    return [Path(run.folder) for run in runs]


def _epochs_done(run: Run) -> int:
    return _latest(Path(run.folder))[1]["epoch"]


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


def load_weights(folder: str | Path, which: str = "best") -> dict[int, dict[str, Tensor]]:
    """The weights of a run's models by seed, as state dicts on the CPU.

    Args:
        which: ``best`` (lowest validation loss) or ``last``.

    Raises:
        ValueError: no run, or a damaged one; the message names the file.
    """
    path = Path(folder) / f"{choice('which', which, ('best', 'last'))}.safetensors"
    tensors, header = _read(path)
    weights = _with_prefix(tensors, "model/")
    return {seed: {name: tensor[s] for name, tensor in weights.items()} for s, seed in enumerate(header["seeds"])}


def restore(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Puts weights from ``load_weights`` into a model of the same architecture; raises ValueError on a misfit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the model: {error}") from error
    return model


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a run's log: epoch, seed, lr, train_loss, validation_loss, seconds.

    Raises:
        ValueError: log.csv is damaged, or differs from the log that the checkpoint holds.
    """
    path = Path(folder) / "log.csv"
    saved = _saved_log(folder)  # before the table, which is written first
    try:
        with open(path, newline="") as file:
            table = [
                {name: (int if name in ("epoch", "seed") else float)(value) for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
        if any(tuple(row) != LOG_COLUMNS for row in table) or table[: len(saved)] != saved:
            raise ValueError(f"its rows are not those in the header of {LAST}")
    except (TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no whole log ({error}); remove {path.parent} to train anew") from error
    return table


def _saved_log(folder: str | Path) -> list[dict[str, float]]:
    """The log in the header of the last checkpoint, unchecked; empty where there is none to read."""
    try:
        with safe_open(Path(folder) / LAST, "pt") as file:
            return json.loads(file.metadata()["run"])["log"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return []


class _Fit:
    """A run on its way: what is on the device, and where it stands."""

    def __init__(self, run: Run, train: Tensor, validation: Tensor, fabric: Fabric, precision: str, held: ExitStack):
        self.run, self.settings, self.fabric, self.precision = run, run.settings, fabric, precision
        dtype = torch.float64 if precision == "64-true" else torch.float32
        if not isinstance(run.seeds, Sequence):
            raise TypeError(f"seeds must be a sequence of whole numbers; got {run.seeds!r}")
        self.seeds = [whole("seeds", seed) for seed in run.seeds]
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different whole numbers; got {self.seeds}")
        length = self.settings.context + self.settings.horizon
        for name, trajectories in (("train", train), ("validation", validation)):
            check_trajectories(trajectories, length + 1, name)
        train, validation = (x.to(fabric.device, dtype) for x in (train, validation))
        self.windows = Windows(train, length, self.settings.batch, self.settings.noise, self.seeds)
        if self.settings.batch % fabric.world_size:
            raise ValueError(
                f"batch must be a multiple of the {fabric.world_size} processes; got {self.settings.batch}"
            )
        self.validation = fixed_windows(validation, length + 1)
        self.folder = Path(run.folder)
        self.alone_on_cpu = fabric.world_size == 1 and fabric.device.type == "cpu"
        models = [run.build(seed) for seed in self.seeds]
        if fabric.is_global_zero:
            if _epochs_done(run) < self.settings.epochs:
                held.enter_context(lock(self.folder / LOCK))
                remove_temporaries(self.folder)
            else:
                remove_stale_lock(self.folder / LOCK)
        self._claim_folder(models[0], {"train": _digest(train), "validation": _digest(validation)})
        tensors, header = _latest(self.folder)
        self.epoch, self.log = header["epoch"], header["log"]
        self.step, self.seconds = header.get("step", 0), header.get("seconds", 0.0)  # of an epoch that was interrupted
        if len(epochs := set(processes.gather(self.epoch))) > 1:
            raise ValueError(f"folder {self.folder} must be one for all processes; they found epochs {epochs} there")
        self.done = self.epoch >= self.settings.epochs
        if self.done:
            return
        self.ensemble = Ensemble(models).to(fabric.device, dtype)
        self.optimizers = self._optimizers()
        self.model = fabric.setup_module(self.ensemble)
        self.losses = torch.zeros(len(self.seeds), device=fabric.device, dtype=dtype)  # summed over the epoch's steps
        self._load(tensors)
        self.best_loss = self._best_losses()
        self.best = self._weights()
        if self.epoch:
            kept = _with_prefix(tensors, "best/") or _read(self.folder / BEST)[0]  # earlier versions kept it there only
            self.best = {name: kept[name].to(fabric.device) for name in self.best}
        if fabric.is_global_zero:
            for path in (self.last, self.folder / BEST):
                self._set_aside_if_damaged(path)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name, each with its share of the weights."""
        settings = self.settings
        if settings.optimizer == "adam":
            weights = self.ensemble.parameters()
            return {"adam": torch.optim.Adam(weights, settings.lr, weight_decay=settings.weight_decay, fused=True)}
        kernels, others = [], []
        for weight in self.ensemble.parameters():
            (kernels if is_kernel(self.ensemble.stacked(weight)[0]) else others).append(weight)
        made = {
            "muon": kernels and Muon(kernels, settings.lr, settings.weight_decay),
            "adam": others and torch.optim.Adam(others, settings.lr, fused=True),
        }
        return {name: optimizer for name, optimizer in made.items() if optimizer}

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def steps_left(self) -> int:
        return (self.settings.epochs - self.epoch) * self.windows.steps - self.step

    def steps(self) -> Iterator[str]:
        """Trains to the end, yielding after every step: a line for the progress bar, mostly empty."""
        rank, ranks = self.fabric.global_rank, self.fabric.world_size
        total = self.settings.epochs * self.windows.steps
        while self.epoch < self.settings.epochs:
            started = time.perf_counter() - self.seconds
            self.windows.start_epoch(self.epoch)
            for step in range(self.step):
                self.windows.cut(step)  # draws the noise that was drawn before
            self.model.train()
            each = []  # losses of the steps from here on, left on the device
            for step in range(self.step, self.windows.steps):
                lr = self.settings.rate((self.epoch * self.windows.steps + step) / total)
                for optimizer in self.optimizers.values():
                    optimizer.param_groups[0]["lr"] = lr
                inputs, targets = (x[:, rank::ranks] for x in self.windows.cut(step))
                each.append(self._step(inputs, targets))
                self.losses += each[-1]
                self.step, self.seconds = step + 1, time.perf_counter() - started
                if self.alone_on_cpu and not each[-1].isfinite().all():
                    break  # at once; a GPU, or other processes, would have to be waited for at every step
                if self.step < self.windows.steps:
                    yield ""
            self._end_epoch(lr, self.losses / self.windows.steps, each, started)
            yield f"validation loss {self.log[-1]['validation_loss']:.2e}"

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step for all seeds; returns their losses [S]."""
        self.ensemble.zero_grad()
        losses = self._losses(inputs, targets)
        self.fabric.backward(losses.sum())  # each seed's weights see its own loss only
        if self.settings.clip is not None:
            self._clip()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return losses.detach()

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        prediction = self.model(inputs[:, :, : self.settings.context], self.settings.horizon)
        return (prediction - targets).square().flatten(1).mean(1)

    def _clip(self) -> None:
        """Scales each seed's gradient to a norm of at most ``clip``."""
        grads = [weight.grad for weight in self.ensemble.parameters()]
        rows = [grad.reshape(self.ensemble.size, -1) for grad in grads]
        norms = torch.stack([row.square().sum(1) for row in rows]).sum(0).sqrt()
        scale = (self.settings.clip / (norms + 1e-6)).clamp(max=1.0)
        for grad, row in zip(grads, rows, strict=True):
            grad.copy_((row * scale.unsqueeze(1)).view_as(grad))

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Mean square error [S] over the fixed windows, shared out over the processes."""
        self.model.eval()
        total = torch.zeros(len(self.seeds), device=self.fabric.device, dtype=self.validation.dtype)
        own = self.validation[self.fabric.global_rank :: self.fabric.world_size]
        for windows in own.split(64) if len(own) else ():  # more processes than windows
            frames = windows.expand(len(self.seeds), *windows.shape)
            total += self._losses(frames[:, :, :-1], frames[:, :, 1:]) * windows.shape[0]
        return self.fabric.all_reduce(total, reduce_op="sum") / self.validation.shape[0]

    def _end_epoch(self, lr: float, train_losses: Tensor, each: list[Tensor], started: float) -> None:
        validation = self._validate()
        train_losses = self.fabric.all_reduce(train_losses, reduce_op="mean")
        seconds = time.perf_counter() - started
        done = self.step
        self.epoch += 1
        self.step, self.seconds = 0, 0.0
        self.losses.zero_()
        for seed, *losses in zip(self.seeds, train_losses.tolist(), validation.tolist(), strict=True):
            if not all(map(math.isfinite, losses)):
                raise FloatingPointError(
                    f"the loss of seed {seed} became {losses} in epoch {self.epoch} of {self.folder}; "
                    f"{self._first_lost(self.seeds.index(seed), each, done)}; its last checkpoint is of epoch "
                    f"{self.epoch - 1}" + f", {self.last}" * self.last.exists() + ". Try a lower lr or clip=1.0"
                )
            self.log.append(dict(zip(LOG_COLUMNS, (self.epoch, seed, lr, *losses, seconds), strict=True)))
        better = validation < self.best_loss
        self.best_loss = torch.where(better, validation, self.best_loss)
        for name, weight in self._weights().items():
            self.best[name][better] = weight[better]
        if self.fabric.is_global_zero:
            self._save()
        self.fabric.barrier()

    def _first_lost(self, row: int, each: list[Tensor], done: int) -> str:
        """In words, the first step of the epoch whose loss was not finite for a seed, and its batch; of ``done``."""
        found = self.fabric.all_reduce(torch.stack(each), reduce_op="mean")[:, row].isfinite().tolist()
        if all(found):
            return "not in training but in validation"
        step, batch = done - len(found) + found.index(False), self.windows.batch
        chosen = self.windows.order[row, step * batch : (step + 1) * batch].tolist()
        return f"first at step {step + 1} of {self.windows.steps}, with trajectories {', '.join(map(str, chosen))}"

    def save_step(self) -> None:
        """Saves the run in the middle of an epoch, unless it is lost; at its end it is saved already."""
        if self.step and self.losses.isfinite().all():
            self._save_last()

    def _save(self) -> None:
        _write(self.folder / BEST, self.best, self._header())
        with atomic(self.folder / "log.csv") as temporary, open(temporary, "w", newline="") as file:
            table = csv.DictWriter(file, LOG_COLUMNS)
            table.writeheader()
            table.writerows(self.log)
        self._save_last()

    def _save_last(self) -> None:
        tensors, previous = self._weights(), self.folder / PREVIOUS
        if self.epoch == self.settings.epochs:  # a finished run needs its moments no more, nor a way back
            previous.unlink(missing_ok=True)
        else:
            tensors |= self._moments() | {f"best/{name}": weight for name, weight in self.best.items()}
            if self.last.exists():
                keep(self.last, previous)
        if self.step:
            tensors["losses"] = self.losses
        _write(self.last, tensors, self._header())

    def _header(self) -> dict[str, Any]:
        header = {"seeds": self.seeds, "epoch": self.epoch, "log": self.log}
        return header | {"step": self.step, "seconds": self.seconds} if self.step else header

    def _weights(self) -> dict[str, Tensor]:
        """All models' weights [S, ...], by names that ``load_weights`` reads. Copies."""
        named = self.ensemble.model.named_parameters()
        return {f"model/{name}": self.ensemble.stacked(weight.detach()).clone() for name, weight in named}

    def _moments(self) -> dict[str, Tensor]:
        """The optimizers' state, by optimizer and parameter."""
        return {
            f"{kind}/{key}/{name}": value
            for name, weight in self.ensemble.model.named_parameters()
            for kind, optimizer in self.optimizers.items()
            for key, value in optimizer.state.get(weight, {}).items()
        }

    @torch.no_grad()
    def _load(self, tensors: dict[str, Tensor]) -> None:
        if not tensors:
            return
        try:
            for name, weight in self.ensemble.model.named_parameters():
                self.ensemble.stacked(weight).copy_(tensors[f"model/{name}"])
            names = {weight: name for name, weight in self.ensemble.model.named_parameters()}
            for kind, optimizer in self.optimizers.items():
                for weight in optimizer.param_groups[0]["params"]:
                    for key in MOMENTS[kind]:
                        value = tensors[f"{kind}/{key}/{names[weight]}"].to(weight.device)
                        # laid out as the weight: the optimizer goes along both at once
                        optimizer.state[weight][key] = torch.empty_like(weight).copy_(value) if value.dim() else value
            if self.step:
                self.losses.copy_(tensors["losses"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{self.last} holds the weights of another model: {error}") from error

    def _best_losses(self) -> Tensor:
        """Each seed's lowest validation loss so far [S]."""
        best = dict.fromkeys(self.seeds, math.inf)
        for row in self.log:
            best[row["seed"]] = min(best[row["seed"]], row["validation_loss"])
        return torch.tensor(list(best.values()), device=self.fabric.device, dtype=self.validation.dtype)

    def _set_aside_if_damaged(self, path: Path) -> None:
        """Renames a damaged file, which would be overwritten, and says so."""
        try:
            if path.exists():
                _read(path)
        except ValueError as error:
            number = 1
            while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
                number += 1
            os.replace(path, aside)
            warnings.warn(
                f"{error}; it is kept as {aside.name}, and training goes on from epoch {self.epoch}", stacklevel=4
            )

    def _claim_folder(self, model: nn.Module, data: dict[str, str]) -> None:
        """Checks that the folder's checkpoint is of this very run; where there is none yet, writes run.json."""
        what = {
            "settings": asdict(self.settings),
            "seeds": self.seeds,
            "model": str(model).splitlines(),
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "precision": self.precision,
            "data": data,
        }
        path = self.folder / "run.json"
        if any((self.folder / name).exists() for name in (LAST, PREVIOUS)):
            found = read_json(path) if path.exists() else {}
            if not isinstance(found, dict):
                raise ValueError(f"{path} does not describe a run; it holds {found!r}")
            if isinstance(found.get("settings"), dict):
                found["settings"] = LATER | found["settings"]
            differing = [key for key in what if found.get(key) != what[key]]
            if differing:
                key = differing[0]
                raise ValueError(
                    f"folder {self.folder} holds another run: its {key} is {found.get(key)}, asked for is {what[key]}; "
                    "choose another folder or remove this one"
                )
        elif self.fabric.is_global_zero:
            write_json(path, what | {"name": self.run.name, "provenance": provenance(self.fabric.device)})
        self.fabric.barrier()


def _fabric(device: torch.device, precision: str) -> Fabric:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    # Fabric's 64-true rounds what a model returns to float32; its 32-true leaves float64 models and data as they are
    precision = "32-true" if precision == "64-true" else precision
    fabric = Fabric(accelerator=device.type, devices=local, num_nodes=nodes, precision=precision)
    fabric.launch()
    return fabric


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    with atomic(path) as temporary:
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(header)
        # not save_file, which writes under a temporary name of its own, that stays when the process is killed
        temporary.write_bytes(save(content, {"run": text, "sha256": _checksum(text, content)}))


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """Of all that a checkpoint holds: safetensors itself notices a file cut short, but no flipped bit."""
    checksum = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        checksum.update(name.encode())
        checksum.update(tensors[name].numpy().data)
    return checksum.hexdigest()


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The last good checkpoint of a run: of epoch 0 where there is none. Raises ValueError where all are damaged."""
    damage = None
    for path in (folder / LAST, folder / PREVIOUS):
        if path.exists():
            try:
                return _read(path)
            except ValueError as error:
                damage = damage or error
    if damage:
        raise ValueError(f"{damage}; remove {folder} to begin anew") from damage
    return {}, {"epoch": 0, "log": []}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint; raises ValueError naming a missing, damaged or foreign file."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = _checksum(metadata["run"], tensors)
        if metadata["sha256"] != found:
            raise ValueError("its content does not match its checksum")
        header = json.loads(metadata["run"])
        if missing := {"seeds", "epoch", "log"}.difference(header):
            raise ValueError(f"its header has no {', '.join(sorted(missing))}")
        return tensors, header
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole checkpoint ({error!r})") from error
