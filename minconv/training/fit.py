"""Training a model, or the models of a Run: data are looked at, the folder claimed, the loop run, the best kept.

A second call with the same arguments goes on, or puts the best weights of the finished run into the model. Another
model, loss or precision, other data or settings are refused; only a model may be given more epochs. It goes on from its
last weights then, at the learning rate that the longer schedule has there, and with new moments of the optimizer if it
was finished: so it does not end as if it had had as many from the start. A Run always ends as its settings say.

SIGTERM, SIGHUP and Ctrl-C take effect after the step, when the run has been saved; a second Ctrl-C at once. Under
``torchrun`` each process takes its share of every batch; signals take effect at once there, and what was done of the
epoch is lost. Where the last checkpoint is damaged, the one before it is used, with a warning, and the damaged file
kept under another name. Lightning Fabric appears only here and in ``loop``.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from minconv.data.windows import (
    FixedWindows,
    Stored,
    Windows,
    as_trajectories,
    channel_statistics,
    digest,
    normalised,
)
from minconv.runtime import processes
from minconv.runtime.checks import choice, positive
from minconv.runtime.device import pick_device
from minconv.runtime.memory import keep_memory
from minconv.runtime.progress import progress
from minconv.runtime.signals import deferred
from minconv.training.ensemble import DRAWING, Ensemble, stackable
from minconv.training.folder import LAST, claimed, load_weights, restore
from minconv.training.loop import Extras, Loss, train_epochs
from minconv.training.settings import CALL, SEVERAL, Run, Training
from minconv.training.state import State

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
USUAL = (0.01, 30.0)  # standard deviations that the default noise and learning rate suit


def fit(
    model: nn.Module | Run,
    train: Any,
    validation: Any,
    *,
    folder: str | Path | None = None,
    settings: Training | None = None,
    seed: int = 0,
    normalise: bool = True,
    loss: Loss | None = None,
    time_limit: float | None = None,
    on_epoch: Callable[[dict[str, float]], Any] | None = None,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = False,
) -> Path:
    """Trains a model, or the models of a Run, and keeps the run in a folder, from which a further call goes on.

        fit(model, train, validation, folder="runs/mine", settings=Training(epochs=10))
        model.predict(frames, 20)

    A model, called as ``model(frames, horizon)``, is trained in place. Afterwards, also if interrupted, it has the best
    weights of its run so far (lowest validation loss), is in evaluation mode and on the device it came on. A folder
    whose run has fewer epochs than ``settings`` goes on to those; see ``minconv.training.fit`` for how.

    The models of a Run make each step together: on a GPU as one, where ``torch.vmap`` can run them; on the CPU one
    after another, which takes 0.3 of that time (four seeds, 5 + 10 frames, one thread).

    Args:
        model: a model, or a Run, whose models are left in its folder only.
        train, validation: tensors or arrays [N, T, C, H, W] of any real numbers, or what is larger than memory as
            ``minconv.data.StoredPieces``; T at least context + horizon + 1. The last channels are known ones, if the
            model has some (``known``), and have neither noise nor normalisation.
        folder, settings: of the run of a model, which needs a folder.
        seed: of the windows and noise that a model is trained with, and of what it draws, as dropout does.
        normalise: train a model on (frames - mean) / std of each channel of ``train``, and give it both by
            ``set_normalisation(mean, std)``. Frames of a Run are taken as they are.
        loss: of prediction and target, each [B, T, C, H, W] of one seed; returns a tensor of any shape, whose mean is
            the loss of that seed. By default the mean square error. A run knows its loss by name.
        time_limit: seconds, after which training ends with the epoch; the next call goes on.
        on_epoch: called after each epoch, once that is saved, with each seed's row of the log (see ``read_log``). What
            it raises ends the training; the next call goes on.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``32-true``, ``64-true`` or ``bf16-mixed``; weights are float64 with the second, else float32.
        quiet: without the progress bar.

    Returns:
        The run's folder, for ``load_weights`` and ``read_log``.

    Raises:
        TypeError, ValueError: bad arguments; data of other shapes, not finite, or constant where they are normalised; a
            model that returns other shapes; a folder that holds another run, or damaged checkpoints only.
        FloatingPointError: a loss became infinite or NaN; the last checkpoint is kept.
        BlockingIOError: another process trains this run.
        OSError: the disk is full or the folder read-only; the last checkpoint is kept.
        ConnectionError: another process of ``torchrun`` has ended; the last checkpoint is kept.
    """
    limit = math.inf if time_limit is None else positive("time_limit", time_limit, zero=True)
    extras = Extras(loss, on_epoch, time.monotonic() + limit)
    run = _run_of(model, folder, settings, seed)
    choice("precision", precision, PRECISIONS)
    keep_memory()
    fabric = _fabric(pick_device(device), precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    length = run.settings.context + run.settings.horizon + 1
    data = {"train": train, "validation": validation}
    data = {name: as_trajectories(values, length, name, dtype) for name, values in data.items()}
    about = {"precision": precision, "loss": _name_of(loss), "normalisation": None}
    if model is run:
        _train(run, _used(data, fabric.device, dtype), fabric, about, extras, quiet)
        return Path(run.folder)
    if normalise:
        about["normalisation"] = _normalisation(model, data)
    data = _used(data, fabric.device, dtype, about["normalisation"])
    with _in_place(model):
        if not _train(run, data, fabric, about, extras, quiet, extend=True):
            restore(model.to(dtype), load_weights(run.folder)[seed])
    return Path(run.folder)


def _train(
    run: Run,
    data: dict[str, Tensor | Stored],
    fabric: Fabric,
    about: dict[str, Any],
    extras: Extras,
    quiet: bool,
    extend: bool = False,
) -> bool:
    """Trains what is left of a run, and leaves its models with their best weights; False where nothing was left."""
    settings, seeds, folder = run.settings, [int(seed) for seed in run.seeds], Path(run.folder)
    length = settings.context + settings.horizon
    if settings.batch % fabric.world_size:
        raise ValueError(f"batch must be a multiple of the {fabric.world_size} processes; got {settings.batch}")
    with DRAWING:  # as most do who build a model
        models = [_checked(run.build(seed)) for seed in seeds]
    known = getattr(models[0], "known", 0)
    windows = Windows(data["train"], length, settings.batch, settings.noise, seeds, known)
    about = {
        "settings": asdict(settings),
        "seeds": seeds,
        "model": str(models[0]).splitlines(),
        "parameters": sum(weight.numel() for weight in models[0].parameters()),
        **about,
        "data": {name: digest(values) for name, values in data.items()},
    }
    # several processes need not be at the same step when the signal comes
    with (
        deferred() if fabric.world_size == 1 else nullcontext(bool) as ending,
        claimed(run, about, fabric.device, extend) as (tensors, header),
        processes.connected(),
    ):
        if len(epochs := set(processes.gather(header["epoch"]))) > 1:
            raise ValueError(f"folder {folder} must be one for all processes; they found epochs {epochs} there")
        if about["normalisation"]:
            for model in models:
                model.set_normalisation(*about["normalisation"].values())
        if header["epoch"] >= settings.epochs:
            return False
        models = [model.to(fabric.device, windows.trajectories.dtype) for model in models]
        seen = length if known else settings.context
        # on the CPU kernels of one model at a time are faster, and torch.vmap leaves a bias that autocast should cast
        is_stack = len(models) > 1 and fabric.device.type != "cpu"
        is_stack = is_stack and stackable(models, windows.first(seen), settings.horizon)
        state = State(Ensemble(models, is_stack, seeds), seeds, settings)
        try:
            if tensors:
                state.restore(tensors, header)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{folder / LAST} holds the weights of another model: {error}") from error
        left = (settings.epochs - state.epoch) * windows.steps - state.step
        held = FixedWindows(data["validation"], length + 1)
        try:
            with progress(desc=run.name, total=left, unit="step", quiet=quiet or not fabric.is_global_zero) as bar:
                train_epochs(run, state, windows, held, fabric, bar, extras, ending)
        finally:
            windows.close()
            state.put_best()
    return True


def _fabric(device: torch.device, precision: str) -> Fabric:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    # Fabric's 64-true rounds what a model returns to float32; its 32-true leaves float64 models and data as they are
    precision = "32-true" if precision == "64-true" else precision
    # without torchrun one process, whatever a batch system, of which Fabric would ask more, has set
    plugins = None if "WORLD_SIZE" in os.environ else LightningEnvironment()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the caller knows the precision that it asked for
    fabric = Fabric(accelerator=device.type, devices=local, num_nodes=nodes, precision=precision, plugins=plugins)
    fabric.launch()
    return fabric


def _run_of(model: Any, folder: str | Path | None, settings: Training | None, seed: int) -> Run:
    """What ``fit`` was asked for, as a Run."""
    if isinstance(model, Run):
        if folder is not None or settings is not None or seed != 0:
            raise TypeError("folder, settings and seeds are those of the Run; got one of them twice")
        return model
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be a model, as in {CALL}, or a Run, as in {SEVERAL}; got {found}")
    if folder is None:
        raise TypeError(f"folder must say where the run of the model is kept, as in {CALL}")
    return Run(lambda seed: model, [seed], folder, Training() if settings is None else settings)


def _normalisation(model: nn.Module, data: dict[str, Tensor | Stored]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of ``train``, if the model can keep them."""
    if not callable(getattr(model, "set_normalisation", None)):
        raise TypeError(
            "model must have a method set_normalisation(mean, std), as a minconv.models.pretrained.Pretrained has; "
            f"{type(model).__name__} has none. Give normalise=False, and frames of about mean 0, standard deviation 1"
        )
    mean, std = channel_statistics(data["train"])
    channels = getattr(model, "channels", len(std))
    mean, std = mean[:channels], std[:channels]
    for name, values in data.items():
        if values.shape[2] != (found := channels + getattr(model, "known", 0)):
            raise ValueError(f"{name} must have {found} channels, as the model has; got {values.shape[2]}")
    if constant := [channel for channel, value in enumerate(std) if not value]:
        raise ValueError(
            f"train must not be constant where it is normalised; its channels {constant} are. Leave them out, or "
            "normalise the others yourself and give normalise=False"
        )
    return {"mean": mean, "std": std}


def _used(
    data: dict[str, Tensor | Stored],
    device: torch.device,
    dtype: torch.dtype,
    normalisation: dict[str, list[float]] | None = None,
) -> dict[str, Tensor | Stored]:
    """The data as models see them; with a warning, if they are not normalised though they should be."""
    mean = std = None
    if normalisation:
        known = data["train"].shape[2] - len(normalisation["mean"])  # which are used as they are
        mean, std = normalisation["mean"] + [0.0] * known, normalisation["std"] + [1.0] * known
    else:
        found = channel_statistics(data["train"])[1]
        if any(value and not USUAL[0] <= value <= USUAL[1] for value in found):
            told = ", ".join(f"{value:.2g}" for value in found)
            warnings.warn(
                f"train is not normalised: the standard deviations of its channels are {told}; the default lr and "
                "noise are for about 1",
                stacklevel=3,
            )
    return {name: normalised(values, mean, std, dtype, device) for name, values in data.items()}


def _checked(model: Any) -> nn.Module:
    """The model, if it can be trained and kept in files."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"build must return a model, an nn.Module; got {type(model).__name__}")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"model must have weights that are trained; got {type(model).__name__} without any")
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_complex():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"model must hold real tensors only, to be kept in files; its {name} is {found}")
    return model


@contextmanager
def _in_place(model: nn.Module) -> Iterator[None]:
    """Afterwards the model is in evaluation mode, on its device, without gradients."""
    device = next(_checked(model).parameters()).device
    try:
        yield
    finally:
        model.to(device).eval().zero_grad()


def _name_of(loss: Loss | None) -> str | None:
    if loss is None:
        return None
    return str(loss) if isinstance(loss, nn.Module) else getattr(loss, "__qualname__", type(loss).__qualname__)
