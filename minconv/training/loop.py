"""The training loop. It runs models of any kind, by an ``Ensemble``, and saves where it stands by ``folder``.

Random numbers depend on seed, epoch and step alone, so a run that was ended or killed continues to the weights it would
have reached.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from minconv.data.windows import FixedWindows, Windows
from minconv.runtime import processes
from minconv.training.ensemble import Ensemble
from minconv.training.folder import LAST, save_epoch, save_last
from minconv.training.settings import Run, Training
from minconv.training.state import State

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Extras:
    """What a caller may add to a training; see ``fit``.

    Args:
        loss: of one seed's prediction and target, instead of the mean square error.
        on_epoch: is called with each row of the log.
        deadline: of ``time.monotonic()``, after which no epoch begins.
    """

    loss: Loss | None = None
    on_epoch: Callable[[dict[str, float]], Any] | None = None
    deadline: float = math.inf

    def __post_init__(self) -> None:
        for name in ("loss", "on_epoch"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                raise TypeError(f"{name} must be callable, or None; got {getattr(self, name)!r}")

    def after_epoch(self, rows: list[dict[str, float]]) -> bool:
        """Hands on the rows of an epoch; says whether the time is up. The first of several processes does both."""
        if self.on_epoch and processes.rank() == 0:
            for row in rows:
                self.on_epoch(dict(row))
        return self.deadline < math.inf and processes.gather(time.monotonic() >= self.deadline)[0]


def train_epochs(
    run: Run,
    state: State,
    windows: Windows,
    validation: FixedWindows,
    fabric: Fabric,
    bar: tqdm,
    extras: Extras,
    ending: Callable[[], bool],
) -> None:
    """Trains from where ``state`` stands to the end; raises KeyboardInterrupt, after it is saved, once ``ending()``."""
    settings, folder = run.settings, Path(run.folder)
    rank, ranks = fabric.global_rank, fabric.world_size
    total = settings.epochs * windows.steps
    alone_on_cpu = ranks == 1 and fabric.device.type == "cpu"
    model = fabric.setup_module(state.ensemble)
    while state.epoch < settings.epochs:
        started = time.perf_counter() - state.seconds
        windows.start_epoch(state.epoch, state.step)
        model.train()
        step_losses = []  # of the steps from here on, left on the device
        for step in range(state.step, windows.steps):
            lr = settings.rate((state.epoch * windows.steps + step) / total)
            if total == 1:  # all of the warm-up, which begins at 0
                lr = settings.lr
            state.ensemble.place = (state.epoch, step, rank)
            inputs, targets = (x[:, rank::ranks] for x in windows.cut(step))
            model.zero_grad()
            losses = _losses(model, inputs, targets, settings, extras.loss)
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
        validation_losses = _validate(model, validation, len(state.seeds), settings, fabric, extras.loss)
        losses = torch.stack([train_losses, validation_losses], 1)
        if not losses.isfinite().all():
            step_losses = fabric.all_reduce(torch.stack(step_losses), reduce_op="mean")
            raise FloatingPointError(_lost(folder, state, windows, losses, step_losses))
        state.add_epoch(lr, train_losses, validation_losses, time.perf_counter() - started)
        if rank == 0:
            save_epoch(folder, state, finished=state.epoch == settings.epochs)
        fabric.barrier()
        bar.set_postfix_str(f"validation loss {state.log[-1]['validation_loss']:.2e}", refresh=False)
        is_late = extras.after_epoch(state.log[-len(state.seeds) :])
        if ending():
            raise KeyboardInterrupt
        if is_late:
            return


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor, settings: Training, loss: Loss | None) -> Tensor:
    """The loss, by default mean square error, of each of S seeds [S], whose windows are [S, B, T, C, H, W]."""
    if known := model.known:  # those of frames to come are, too
        targets = targets[:, :, :, :-known]
    prediction = model(inputs if known else inputs[:, :, : settings.context], settings.horizon)
    if prediction.shape[2:3] == (settings.horizon + 1,):  # of a model that gives the new frames alone
        targets = targets[:, :, -settings.horizon - 1 :]
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
    model: nn.Module, validation: FixedWindows, seeds: int, settings: Training, fabric: Fabric, loss: Loss | None
) -> Tensor:
    """The loss [S] over the fixed windows, shared out over the processes."""
    model.eval()
    total = torch.zeros(seeds, device=validation.trajectories.device, dtype=validation.trajectories.dtype)
    for windows in validation.share(fabric.global_rank, fabric.world_size):
        frames = windows.expand(seeds, *windows.shape)
        total += _losses(model, frames[:, :, :-1], frames[:, :, 1:], settings, loss) * windows.shape[0]
    return fabric.all_reduce(total, reduce_op="sum") / len(validation)


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
