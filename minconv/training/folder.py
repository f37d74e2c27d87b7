"""A run's folder:

    run.json                what it is: settings, seeds, model, data, normalisation, versions, hardware, git revision;
                            "extended": after which epochs it was given more of them
    last.safetensors        weights, moments of the optimizers, best weights of all seeds, stacked; epoch, log in header
    previous.safetensors    the checkpoint before, until the run is finished, in case the last is damaged
    best.safetensors        each seed's weights at its lowest validation loss
    log.csv                 the log of the last checkpoint, for other programs
    .lock                   held by the process that trains, while it does

``last.safetensors`` is the one file that decides where a run stands: it is replaced whole at the end of an epoch, and
after the step in which a signal to end came.
"""

import csv
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minconv.runtime import processes
from minconv.runtime.checks import choice
from minconv.runtime.files import atomic, keep, lock, read_json, remove_stale_lock, remove_temporaries, write_json
from minconv.runtime.provenance import provenance
from minconv.training.settings import Run
from minconv.training.state import LOG_COLUMNS, State

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
LOCK = ".lock"


def load_weights(folder: str | Path, which: str = "best") -> dict[int, dict[str, Tensor]]:
    """The weights of a run's models by seed, as state dicts, buffers and all, on the CPU.

    Args:
        which: ``best`` (lowest validation loss) or ``last``.

    Raises:
        ValueError: no run, or a damaged one; the message names the file.
    """
    tensors, header = read_checkpoint(Path(folder) / f"{choice('which', which, ('best', 'last'))}.safetensors")
    weights = {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
    return {seed: {name: tensor[s] for name, tensor in weights.items()} for s, seed in enumerate(header["seeds"])}


def restore(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Puts the weights of one seed from ``load_weights`` into a model of the same architecture, and returns it.

    Raises:
        TypeError: not the weights of one seed.
        ValueError: they do not fit the model.
    """
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        found = f"of seeds {', '.join(map(str, weights))}" if isinstance(weights, dict) else type(weights).__name__
        raise TypeError(f"weights must be those of one seed, load_weights(folder)[seed]; got {found}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the model: {error}") from error
    return model


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a run's log: epoch, seed, lr, train_loss, validation_loss, seconds.

    Raises:
        ValueError: no run, or a damaged one; the message names the file.
    """
    return read_checkpoint(Path(folder) / LAST)[1]["log"]


def latest(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The last good checkpoint of a run: of epoch 0 where there is none. Raises ValueError where all are damaged."""
    damage = None
    for path in (Path(folder) / LAST, Path(folder) / PREVIOUS):
        if path.exists():
            try:
                return read_checkpoint(path)
            except ValueError as error:
                damage = damage or error
    if damage:
        raise ValueError(f"{damage}; remove {folder} to begin anew") from damage
    return {}, {"epoch": 0, "log": []}


def progress_of(folder: str | Path) -> dict[str, Any]:
    """What :func:`latest` tells of epoch and log, without reading weights where the checkpoint is in order."""
    try:
        with safe_open(Path(folder) / LAST, "pt") as file:
            return json.loads(file.metadata()["run"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return latest(folder)[1]


@contextmanager
def claimed(
    run: Run, about: dict[str, Any], device: torch.device, extend: bool = False
) -> Iterator[tuple[dict[str, Tensor], dict]]:
    """Holds the folder of a run that is not finished; yields its last good checkpoint, of epoch 0 if there is none.

    Damaged files, which would be overwritten, are kept under other names, with a warning.

    Args:
        about: what tells the run from others, compared with run.json, or written there; without what is None.
        device: on which it is trained, also noted there.
        extend: take a run of fewer epochs, too, and make it one of as many as ``run`` has.

    Raises:
        ValueError: the folder holds another run, or damaged checkpoints only.
        BlockingIOError: another process trains this run.
    """
    folder, first = Path(run.folder), processes.rank() == 0
    with ExitStack() as stack:
        epoch = latest(folder)[1]["epoch"] if first else 0
        unfinished = first and epoch < run.settings.epochs
        if unfinished:
            stack.enter_context(lock(folder / LOCK))
            remove_temporaries(folder)
        elif first:
            remove_stale_lock(folder / LOCK)
        if any((folder / name).exists() for name in (LAST, PREVIOUS)):
            found = _same(folder, about, extend)
            if first and found["settings"] != about["settings"]:  # from now on one of more epochs
                extended = [*found.get("extended", []), epoch]
                write_json(folder / "run.json", found | {"settings": about["settings"], "extended": extended})
        elif first:
            kept = {key: value for key, value in about.items() if value is not None}
            write_json(folder / "run.json", kept | {"name": run.name, "provenance": provenance(device)})
        if unfinished:
            for path in (folder / LAST, folder / BEST):
                _set_aside_if_damaged(path)
        processes.barrier()
        tensors, header = latest(folder)
        if tensors and header["epoch"] < run.settings.epochs and not any(name.startswith("best/") for name in tensors):
            best, _ = read_checkpoint(folder / BEST)  # where alone a finished run keeps them
            tensors |= {f"best/{name}": weight for name, weight in best.items()}
        yield tensors, header


def _same(folder: Path, about: dict[str, Any], extend: bool) -> dict[str, Any]:
    """What run.json holds, if it is the run that is asked for; ValueError if it is another."""
    path = folder / "run.json"
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not describe a run; it holds {found!r}")
    differing = [key for key in about if found.get(key) != about[key]]
    if extend and differing == ["settings"] and isinstance(found.get("settings"), dict):
        epochs = found["settings"].get("epochs", math.inf)
        if epochs < about["settings"]["epochs"] and found["settings"] == about["settings"] | {"epochs": epochs}:
            return found
    if differing:
        one, other = found.get(differing[0]), about[differing[0]]
        if isinstance(one, dict) and isinstance(other, dict):  # what differs of it is enough
            apart = [key for key in one | other if one.get(key) != other.get(key)]
            one, other = ({key: value.get(key) for key in apart} for value in (one, other))
        raise ValueError(
            f"folder {folder} holds another run: its {differing[0]} is {one}, asked for is {other}; choose another "
            "folder or remove this one"
        )
    return found


def _set_aside_if_damaged(path: Path) -> None:
    try:
        if path.exists():
            read_checkpoint(path)
    except ValueError as error:
        names = (path.with_name(f"{path.name}.damaged{number}") for number in count(1))
        aside, epoch = next(name for name in names if not name.exists()), latest(path.parent)[1]["epoch"]
        os.replace(path, aside)
        warnings.warn(f"{error}; it is kept as {aside.name}, and training goes on from epoch {epoch}", stacklevel=5)


def save_epoch(folder: Path, state: State, finished: bool) -> None:
    """Writes best weights, log and checkpoint at the end of an epoch."""
    write_checkpoint(folder / BEST, state.best, state.header())
    with atomic(folder / "log.csv") as temporary, open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, LOG_COLUMNS)
        table.writeheader()
        table.writerows(state.log)
    if not finished:
        return save_last(folder, state)
    (folder / PREVIOUS).unlink(missing_ok=True)  # a finished run needs its moments no more, nor a way back
    write_checkpoint(folder / LAST, state.weights(), state.header())


def save_last(folder: Path, state: State) -> None:
    """Writes the checkpoint from which an unfinished run goes on, and keeps the one before."""
    if (folder / LAST).exists():
        keep(folder / LAST, folder / PREVIOUS)
    write_checkpoint(folder / LAST, state.tensors(), state.header())


def write_checkpoint(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Tensors and header in one safetensors file, with a checksum over both; whole or not at all."""
    with atomic(path) as temporary:
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(header)
        # not save_file, which writes under a temporary name of its own, that stays when the process is killed
        temporary.write_bytes(save(content, {"run": text, "sha256": _checksum(text, content)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint; raises ValueError naming a missing, damaged or foreign file."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _checksum(metadata["run"], tensors):
            raise ValueError("its content does not match its checksum")
        header = json.loads(metadata["run"])
        if missing := {"seeds", "epoch", "log"}.difference(header):
            raise ValueError(f"its header has no {', '.join(sorted(missing))}")
        return tensors, header
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole checkpoint ({error!r})") from error


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """Of all that a checkpoint holds: safetensors itself notices a file cut short, but no flipped bit."""
    checksum = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        checksum.update(name.encode())
        checksum.update(tensors[name].numpy().data)
    return checksum.hexdigest()
