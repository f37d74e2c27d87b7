"""The training loop: resumable, and for several seeds at once. Lightning Fabric appears only here.

Random numbers depend on seed and epoch alone, so a run that was ended or killed continues to the weights it would have
reached.
"""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from tqdm import tqdm

from minconv.data.windows import Windows, check_trajectories, fixed_windows
from minconv.runtime import processes
from minconv.runtime.checks import choice
from minconv.runtime.device import pick_device
from minconv.runtime.memory import keep_memory
from minconv.runtime.progress import progress
from minconv.runtime.signals import deferred
from minconv.training.ensemble import Ensemble
from minconv.training.folder import LAST, claimed, save_epoch, save_last
from minconv.training.settings import Run, Training
from minconv.training.state import State

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


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
        TypeError, ValueError: bad settings; a model that returns other shapes; a folder that holds another run, or
            damaged checkpoints only.
        FloatingPointError: a loss became infinite or NaN; the last checkpoint is kept.
        BlockingIOError: another process trains this run.
        OSError: the disk is full or the folder read-only; the last checkpoint is kept.
        ConnectionError: another process of ``torchrun`` has ended; the last checkpoint is kept.
    """
    choice("precision", precision, PRECISIONS)
    keep_memory()
    settings, seeds, folder = run.settings, [int(seed) for seed in run.seeds], Path(run.folder)
    fabric = _fabric(pick_device(device), precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    length = settings.context + settings.horizon
    if settings.batch % fabric.world_size:
        raise ValueError(f"batch must be a multiple of the {fabric.world_size} processes; got {settings.batch}")
    for name, trajectories in (("train", train), ("validation", validation)):
        check_trajectories(trajectories, length + 1, name)
    train, validation = (trajectories.to(fabric.device, dtype) for trajectories in (train, validation))
    windows = Windows(train, length, settings.batch, settings.noise, seeds)
    models = [run.build(seed) for seed in seeds]
    about = {
        "settings": asdict(settings),
        "seeds": seeds,
        "model": str(models[0]).splitlines(),
        "parameters": sum(weight.numel() for weight in models[0].parameters()),
        "precision": precision,
        "data": {"train": _digest(train), "validation": _digest(validation)},
    }
    # several processes need not be at the same step when the signal comes
    with (
        deferred() if fabric.world_size == 1 else nullcontext(bool) as ending,
        claimed(run, about, fabric.device) as (tensors, header),
        processes.connected(),
    ):
        if len(epochs := set(processes.gather(header["epoch"]))) > 1:
            raise ValueError(f"folder {folder} must be one for all processes; they found epochs {epochs} there")
        if header["epoch"] >= settings.epochs:
            return folder
        state = State(Ensemble(models).to(fabric.device, dtype), seeds, settings)
        try:
            if tensors:
                state.restore(tensors, header)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{folder / LAST} holds the weights of another model: {error}") from error
        left = (settings.epochs - state.epoch) * windows.steps - state.step
        with progress(desc=run.name, total=left, unit="step", quiet=quiet or not fabric.is_global_zero) as bar:
            _loop(run, state, windows, fixed_windows(validation, length + 1), fabric, bar, ending)
    return folder


def _loop(
    run: Run, state: State, windows: Windows, validation: Tensor, fabric: Fabric, bar: tqdm, ending: Callable[[], bool]
) -> None:
    """Trains from where ``state`` stands to the end; raises KeyboardInterrupt, after it is saved, once ``ending()``."""
    settings, folder = run.settings, Path(run.folder)
    rank, ranks = fabric.global_rank, fabric.world_size
    total = settings.epochs * windows.steps
    alone_on_cpu = ranks == 1 and fabric.device.type == "cpu"
    model = fabric.setup_module(state.ensemble)
    while state.epoch < settings.epochs:
        started = time.perf_counter() - state.seconds
        windows.start_epoch(state.epoch)
        for step in range(state.step):
            windows.cut(step)  # draws the noise that was drawn before
        model.train()
        step_losses = []  # of the steps from here on, left on the device
        for step in range(state.step, windows.steps):
            lr = settings.rate((state.epoch * windows.steps + step) / total)
            inputs, targets = (x[:, rank::ranks] for x in windows.cut(step))
            model.zero_grad()
            losses = _losses(model, inputs, targets, settings)
            fabric.backward(losses.sum())  # each seed's weights see its own loss only
            if settings.clip is not None:
                _clip(state.ensemble, settings.clip)
            for optimizer in state.optimizers.values():
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
            step_losses.append(losses.detach())
            state.losses += step_losses[-1]
            state.step, state.seconds = step + 1, time.perf_counter() - started
            bar.update()
            if alone_on_cpu and not step_losses[-1].isfinite().all():
                break  # at once; a GPU, or other processes, would have to be waited for at every step
            if state.step < windows.steps and ending():
                if state.losses.isfinite().all():
                    save_last(folder, state)
                raise KeyboardInterrupt

        train_losses = fabric.all_reduce(state.losses / windows.steps, reduce_op="mean")
        validation_losses = _validate(model, validation, len(state.seeds), settings, fabric)
        losses = torch.stack([train_losses, validation_losses], 1)
        if not losses.isfinite().all():
            step_losses = fabric.all_reduce(torch.stack(step_losses), reduce_op="mean")
            raise FloatingPointError(_lost(folder, state, windows, losses, step_losses))
        state.add_epoch(lr, train_losses, validation_losses, time.perf_counter() - started)
        if rank == 0:
            save_epoch(folder, state, finished=state.epoch == settings.epochs)
        fabric.barrier()
        bar.set_postfix_str(f"validation loss {state.log[-1]['validation_loss']:.2e}")
        if ending():
            raise KeyboardInterrupt


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor, settings: Training) -> Tensor:
    """Mean square error of each of S seeds [S], whose windows are [S, B, T, C, H, W]."""
    prediction = model(inputs[:, :, : settings.context], settings.horizon)
    if prediction.shape != targets.shape:
        wanted, found = list(targets.shape[1:]), list(prediction.shape[1:])
        raise ValueError(f"model must return frames of shape {wanted}, horizon included; got {found}")
    return (prediction - targets).square().flatten(1).mean(1)


def _clip(ensemble: Ensemble, clip: float) -> None:
    """Scales each seed's gradient to a norm of at most ``clip``."""
    grads = [weight.grad for weight in ensemble.parameters() if weight.grad is not None]
    rows = [grad.reshape(ensemble.size, -1) for grad in grads]
    norms = torch.stack([row.square().sum(1) for row in rows]).sum(0).sqrt()
    scale = (clip / (norms + 1e-6)).clamp(max=1.0)
    for grad, row in zip(grads, rows, strict=True):
        grad.copy_((row * scale.unsqueeze(1)).view_as(grad))


@torch.no_grad()
def _validate(model: nn.Module, validation: Tensor, seeds: int, settings: Training, fabric: Fabric) -> Tensor:
    """Mean square error [S] over the fixed windows, shared out over the processes."""
    model.eval()
    total = torch.zeros(seeds, device=validation.device, dtype=validation.dtype)
    own = validation[fabric.global_rank :: fabric.world_size]
    for windows in own.split(64) if len(own) else ():  # more processes than windows
        frames = windows.expand(seeds, *windows.shape)
        total += _losses(model, frames[:, :, :-1], frames[:, :, 1:], settings) * windows.shape[0]
    return fabric.all_reduce(total, reduce_op="sum") / validation.shape[0]


def _lost(folder: Path, state: State, windows: Windows, losses: Tensor, step_losses: Tensor) -> str:
    """In words, the first seed with a loss that is not finite, and the first such step of the epoch, with its batch."""
    row = losses.isfinite().all(1).tolist().index(False)
    finite = step_losses[:, row].isfinite().tolist()
    where = "not in training but in validation"
    if not all(finite):
        step = state.step - len(finite) + finite.index(False)
        batch = windows.order[row, step * windows.batch : (step + 1) * windows.batch].tolist()
        where = f"first at step {step + 1} of {windows.steps}, with trajectories {', '.join(map(str, batch))}"
    kept = f", {folder / LAST}" if (folder / LAST).exists() else ""
    return (
        f"the loss of seed {state.seeds[row]} became {losses[row].tolist()} in epoch {state.epoch + 1} of {folder}; "
        f"{where}; its last checkpoint is of epoch {state.epoch}{kept}. Try a lower lr or clip=1.0"
    )


def _fabric(device: torch.device, precision: str) -> Fabric:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    # Fabric's 64-true rounds what a model returns to float32; its 32-true leaves float64 models and data as they are
    precision = "32-true" if precision == "64-true" else precision
    # without torchrun one process, whatever a batch system, of which Fabric would ask more, has set
    plugins = None if "WORLD_SIZE" in os.environ else LightningEnvironment()
    fabric = Fabric(accelerator=device.type, devices=local, num_nodes=nodes, precision=precision, plugins=plugins)
    fabric.launch()
    return fabric


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
