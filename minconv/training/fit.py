"""The training loop: resumable, and for several seeds at once. Lightning Fabric appears only here.

Random numbers depend on seed, epoch and step alone, so a run that was ended or killed continues to the weights it would
have reached.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from tqdm import tqdm

from minconv.data.windows import Windows, as_trajectories, channel_statistics, fixed_windows, normalised
from minconv.runtime import processes
from minconv.runtime.checks import choice, positive
from minconv.runtime.device import pick_device
from minconv.runtime.memory import keep_memory
from minconv.runtime.progress import progress
from minconv.runtime.signals import deferred
from minconv.training.ensemble import Ensemble, stackable
from minconv.training.folder import LAST, claimed, is_finished, load_weights, restore, save_epoch, save_last
from minconv.training.settings import CALL, Run, Training
from minconv.training.state import State

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Ends:
    """What may end a training before its last epoch: the time, the caller, or a signal."""

    deadline: float = math.inf
    on_epoch: Callable[[dict[str, float]], Any] | None = None
    signalled: Callable[[], bool] = bool

    def late(self) -> bool:
        """Whether the time is up; the first of several processes decides."""
        return self.deadline < math.inf and processes.gather(time.monotonic() > self.deadline)[0]

    def leave(self) -> None:
        """For the way out of the loop: raises KeyboardInterrupt where it was a signal."""
        if self.signalled():
            raise KeyboardInterrupt

    def asked(self, rows: list[dict[str, float]]) -> bool:
        """Whether ``on_epoch``, in the first process, returned True of every seed's row."""
        if self.on_epoch is None:
            return False
        answers = [self.on_epoch(dict(row)) for row in rows] if processes.rank() == 0 else []
        return processes.gather(all(isinstance(answer, (bool, np.bool_)) and answer for answer in answers))[0]


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
    """Trains a model, or the models of a Run; goes on with what ``folder`` holds of it, begun in whatever process.

    A model, called as ``model(frames, horizon)``, is trained in place. After the call, also one that is interrupted, it
    holds the weights of the lowest validation loss of its run so far (before an epoch is done, those of its start), in
    evaluation mode, on the device it came on. A finished run is not trained again, only read. To train on, for more
    epochs, say, give the model another ``folder``: a run with its own schedule then starts from the weights that the
    model holds (with a Run, those that ``build`` makes, which may ``restore`` some).

    SIGTERM, SIGHUP and Ctrl-C take effect after the step, when the run has been saved; a second Ctrl-C at once. Under
    ``torchrun`` each process takes its share of every batch; signals take effect at once there, and what was done of
    the epoch is lost. Where the last checkpoint is damaged, the one before it is used, with a warning, and kept.

    Args:
        train, validation: tensors or arrays [N, T, C, H, W] of any real numbers; T at least context + horizon + 1.
        folder, settings, seed: those of a Run, for a model.
        normalise: train a model on (frames - mean) / std, by channel, of ``train``; the model is given both numbers by
            ``set_normalisation(mean, std)``. A Run's frames are taken as they are.
        loss: of prediction and target [B, T, C, H, W] of one seed, a tensor whose mean is made small; mean square error
            by default. A run knows it by its name.
        time_limit: seconds after which training ends as with a signal, but returns; the next call goes on. At the end
            of an epoch under ``torchrun``.
        on_epoch: called with each seed's row of the log, saved before; where all return True, that epoch is the last.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``32-true``, ``64-true`` or ``bf16-mixed``; weights are float64 with the second, else float32.
        quiet: without the progress bar.

    Returns:
        The run's folder.

    Raises:
        TypeError, ValueError: bad arguments; data that are not finite; a model that returns other shapes; a folder that
            holds another run, or damaged checkpoints only.
        FloatingPointError: a loss became infinite or NaN; the last checkpoint is kept.
        BlockingIOError: another process trains this run.
        OSError: the disk is full or the folder read-only; the last checkpoint is kept.
        ConnectionError: another process of ``torchrun`` has ended; the last checkpoint is kept.
    """
    ends = Ends(time.monotonic() + positive("time_limit", time_limit) if time_limit else math.inf, on_epoch)
    for name, function in (("loss", loss), ("on_epoch", on_epoch)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable, or None; got {function!r}")
    run = _run_of(model, folder, settings, seed)
    choice("precision", precision, PRECISIONS)
    keep_memory()
    fabric = _fabric(pick_device(device), precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    length = run.settings.context + run.settings.horizon + 1
    train = as_trajectories(train, length, "train", dtype)
    validation = as_trajectories(validation, length, "validation", dtype)
    if train.shape[2] != validation.shape[2]:
        raise ValueError(f"validation must have {train.shape[2]} channels, as train has; got {validation.shape[2]}")
    about = {"precision": precision} | ({"loss": _name_of(loss)} if loss else {})
    with _in_place(model) if isinstance(model, nn.Module) else nullcontext():
        if isinstance(model, nn.Module) and normalise:
            mean, std = channel_statistics(train, "train")
            train, validation = (normalised(frames, mean, std, dtype) for frames in (train, validation))
            about["normalisation"] = {"mean": mean, "std": std}
            _normalise(model, mean, std)
        data = [frames.to(fabric.device, dtype) for frames in (train, validation)]
        trained = _train(run, *data, fabric, about, loss, ends, quiet)
        if isinstance(model, nn.Module) and not trained:
            restore(model, load_weights(run.folder)[seed])
    return Path(run.folder)


def _train(
    run: Run,
    train: Tensor,
    validation: Tensor,
    fabric: Fabric,
    about: dict[str, Any],
    loss: Loss | None,
    ends: Ends,
    quiet: bool,
) -> bool:
    """Trains what is left of a run, and leaves its models with their best weights; False where nothing was left."""
    settings, seeds, folder = run.settings, [int(seed) for seed in run.seeds], Path(run.folder)
    length = settings.context + settings.horizon
    if settings.batch % fabric.world_size:
        raise ValueError(f"batch must be a multiple of the {fabric.world_size} processes; got {settings.batch}")
    windows = Windows(train, length, settings.batch, settings.noise, seeds)
    models = [_checked(run.build(seed)) for seed in seeds]
    about = {
        "settings": asdict(settings),
        "seeds": seeds,
        "model": str(models[0]).splitlines(),
        "parameters": sum(weight.numel() for weight in models[0].parameters()),
        **about,
        "data": {"train": _digest(train), "validation": _digest(validation)},
    }
    # several processes need not be at the same step when the signal comes
    with (
        deferred() if fabric.world_size == 1 else nullcontext(bool) as signalled,
        claimed(run, about, fabric.device) as (tensors, header),
        processes.connected(),
    ):
        if len(epochs := set(processes.gather(header["epoch"]))) > 1:
            raise ValueError(f"folder {folder} must be one for all processes; they found epochs {epochs} there")
        if is_finished(header, settings):
            return False
        models = [model.to(fabric.device, train.dtype) for model in models]
        stack = len(models) > 1 and stackable(models, train[:1, : settings.context], settings.horizon)
        state = State(Ensemble(models, stack, seeds), seeds, settings)
        try:
            if tensors:
                state.restore(tensors, header)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{folder / LAST} holds the weights of another model: {error}") from error
        left = (settings.epochs - state.epoch) * windows.steps - state.step
        try:
            with progress(desc=run.name, total=left, unit="step", quiet=quiet or not fabric.is_global_zero) as bar:
                held = fixed_windows(validation, length + 1)
                _loop(run, state, windows, held, fabric, bar, loss, replace(ends, signalled=signalled))
        finally:
            state.put(state.best)
    return True


def _loop(
    run: Run,
    state: State,
    windows: Windows,
    validation: Tensor,
    fabric: Fabric,
    bar: tqdm,
    loss: Loss | None,
    ends: Ends,
) -> None:
    """Trains from where ``state`` stands until it ``ends``, when it is saved; raises KeyboardInterrupt for a signal."""
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
            done = (state.epoch * windows.steps + step) / total
            lr = settings.rate(done) if total > 1 else settings.lr  # a single step would be all of the warm-up
            state.ensemble.place = (state.epoch, step, rank)
            inputs, targets = (x[:, rank::ranks] for x in windows.cut(step))
            model.zero_grad()
            losses = _losses(model, inputs, targets, settings, loss)
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
            if state.step < windows.steps and (ends.signalled() or (ranks == 1 and ends.late())):
                if state.losses.isfinite().all():
                    save_last(folder, state)
                return ends.leave()

        train_losses = fabric.all_reduce(state.losses / windows.steps, reduce_op="mean")
        validation_losses = _validate(model, validation, len(state.seeds), settings, fabric, loss)
        losses = torch.stack([train_losses, validation_losses], 1)
        if not losses.isfinite().all():
            step_losses = fabric.all_reduce(torch.stack(step_losses), reduce_op="mean")
            raise FloatingPointError(_lost(folder, state, windows, losses, step_losses))
        state.add_epoch(lr, train_losses, validation_losses, time.perf_counter() - started)
        if rank == 0:
            save_epoch(folder, state, finished=state.epoch == settings.epochs)
        fabric.barrier()
        bar.set_postfix_str(f"validation loss {state.log[-1]['validation_loss']:.2e}")
        state.ended = ends.asked(state.log[-len(state.seeds) :])
        if state.ended and rank == 0:
            save_epoch(folder, state, finished=True)
        if state.ended or ends.signalled() or ends.late():
            fabric.barrier()
            return ends.leave()


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor, settings: Training, loss: Loss | None) -> Tensor:
    """The loss, by default mean square error, of each of S seeds [S], whose windows are [S, B, T, C, H, W]."""
    prediction = model(inputs[:, :, : settings.context], settings.horizon)
    if prediction.shape != targets.shape:
        wanted, found = list(targets.shape[1:]), list(prediction.shape[1:])
        raise ValueError(f"model must return frames of shape {wanted}, horizon included; got {found}")
    if loss is None:
        return (prediction - targets).square().flatten(1).mean(1)
    found = [loss(*pair) for pair in zip(prediction, targets, strict=True)]
    for value in found:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"loss must return a floating-point tensor; got {getattr(value, 'dtype', type(value))}")
    return torch.stack([value.mean() for value in found])


def _clip(ensemble: Ensemble, clip: float) -> None:
    """Scales each seed's gradient to a norm of at most ``clip``."""
    for member in ensemble.members:
        grads = [weight.grad for weight in member.parameters() if weight.grad is not None]
        rows = [grad.reshape(ensemble.size // len(ensemble.members), -1) for grad in grads]
        norms = torch.stack([row.square().sum(1) for row in rows]).sum(0).sqrt()
        scale = (clip / (norms + 1e-6)).clamp(max=1.0)
        for grad, row in zip(grads, rows, strict=True):
            grad.copy_((row * scale.unsqueeze(1)).view_as(grad))


@torch.no_grad()
def _validate(
    model: nn.Module, validation: Tensor, seeds: int, settings: Training, fabric: Fabric, loss: Loss | None
) -> Tensor:
    """The loss [S] over the fixed windows, 64 at a time, shared out over the processes."""
    model.eval()
    total = torch.zeros(seeds, device=validation.device, dtype=validation.dtype)
    own = validation[fabric.global_rank :: fabric.world_size]
    for windows in own.split(64) if len(own) else ():  # more processes than windows
        frames = windows.expand(seeds, *windows.shape)
        total += _losses(model, frames[:, :, :-1], frames[:, :, 1:], settings, loss) * windows.shape[0]
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


def _run_of(model: Any, folder: str | Path | None, settings: Training | None, seed: int) -> Run:
    """The run that ``fit`` was asked for, in either way."""
    if isinstance(model, Run):
        if folder is not None or settings is not None:
            raise TypeError("folder and settings are those of the Run; got them twice")
        return model
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be a model or a Run, as in {CALL}; got {found}")
    if folder is None:
        raise TypeError(f"folder must say where to keep the run of the model, as in {CALL}")
    return Run(lambda seed: model, [seed], folder, settings if settings is not None else Training())


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


def _normalise(model: nn.Module, mean: list[float], std: list[float]) -> None:
    if not callable(getattr(model, "set_normalisation", None)):
        raise TypeError(
            f"model must have a method set_normalisation(mean, std) where normalise is True; {type(model).__name__} "
            "has none: give normalise=False, and frames of about mean 0 and standard deviation 1"
        )
    model.set_normalisation(mean, std)


@contextmanager
def _in_place(model: nn.Module) -> Iterator[None]:
    """Afterwards the model is in evaluation mode on its device; one that was refused has the weights that it had."""
    device, kept = next(_checked(model).parameters()).device, deepcopy(model.state_dict())
    try:
        yield
    except (TypeError, ValueError):
        model.load_state_dict(kept)
        raise
    finally:
        model.to(device).eval()


def _name_of(loss: Loss) -> str:
    if isinstance(loss, nn.Module):
        return str(loss)
    return f"{loss.__module__}.{getattr(loss, '__qualname__', type(loss).__name__)}"


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
