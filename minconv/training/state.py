"""Where a run stands: one state, which is saved and restored."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minconv.training.ensemble import Ensemble
from minconv.training.muon import Muon, is_kernel
from minconv.training.settings import Training

LOG_COLUMNS = ("epoch", "seed", "lr", "train_loss", "validation_loss", "seconds")
MOMENTS = {"muon": ("momentum",), "adam": ("step", "exp_avg", "exp_avg_sq")}  # state of each optimizer, by weight


class State:
    """All that is kept of a run of S seeds.

    Attributes:
        ensemble, optimizers: the weights as they are trained, and by name what trains them, with its moments.
        epoch, step: epochs done, and steps done of the epoch after them.
        seconds, losses: how long those steps took, and the sum of their losses [S].
        log: a row of ``LOG_COLUMNS`` for each epoch and seed.
        best, best_losses: each seed's weights at its lowest validation loss, by name [S, ...], and that loss [S].

    Weights are all that a model's ``state_dict()`` holds: buffers too, and what is tied by each of its names.
    """

    def __init__(self, ensemble: Ensemble, seeds: list[int], settings: Training):
        self.ensemble, self.seeds = ensemble, seeds
        self.optimizers = optimizers(ensemble, settings)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.losses = next(ensemble.parameters()).detach().new_zeros(len(seeds))
        self.log: list[dict[str, float]] = []
        self.best, self.best_losses = self.weights(), torch.full_like(self.losses, math.inf)

    def weights(self) -> dict[str, Tensor]:
        """Copies of all models' weights [S, ...], by names that ``load_weights`` reads."""
        return {f"model/{name}": weight for name, weight in self.ensemble.weights().items()}

    def add_epoch(self, lr: float, train_losses: Tensor, validation_losses: Tensor, seconds: float) -> None:
        """Counts an epoch: rows of the log, and the weights of those seeds that are better than before."""
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.losses.zero_()
        for seed, *losses in zip(self.seeds, train_losses.tolist(), validation_losses.tolist(), strict=True):
            self.log.append(dict(zip(LOG_COLUMNS, (self.epoch, seed, lr, *losses, seconds), strict=True)))
        better = validation_losses < self.best_losses
        self.best_losses = torch.where(better, validation_losses, self.best_losses)
        for name, weight in self.weights().items():
            self.best[name][better] = weight[better]

    def header(self) -> dict[str, Any]:
        """What is no tensor."""
        header = {"seeds": self.seeds, "epoch": self.epoch, "log": self.log}
        return header | {"step": self.step, "seconds": self.seconds} if self.step else header

    def tensors(self) -> dict[str, Tensor]:
        """What, with ``header``, is enough to go on."""
        found = self.weights() | {f"best/{name}": weight for name, weight in self.best.items()}
        for name, weights in self._parameters():
            for kind, optimizer in self.optimizers.items():
                states = [optimizer.state.get(weight, {}) for weight in weights]
                for key, value in states[0].items():
                    several = len(states) > 1 and value.dim()
                    value = torch.stack([state[key] for state in states]) if several else value
                    found[f"{kind}/{key}/{name}"] = value
        return found | {"losses": self.losses} if self.step else found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Goes to where ``tensors()`` and ``header()`` were; KeyError or RuntimeError if they are another model's."""
        self.epoch, self.log = header["epoch"], header["log"]
        self.step, self.seconds = header.get("step", 0), header.get("seconds", 0.0)
        for row in self.log:
            self.best_losses[self.seeds.index(row["seed"])].clamp_(max=row["validation_loss"])
        for kind in ("best/model/", "model/"):
            found = {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}
            self.ensemble.load(found)
            if kind == "best/model/":
                self.best = self.weights()
        used = 0
        for name, weights in self._parameters():
            for kind, optimizer in self.optimizers.items():
                for key in MOMENTS[kind]:
                    moment = tensors.get(f"{kind}/{key}/{name}")
                    if moment is not None:  # there is none of a weight without a gradient
                        used += 1
                        for s, weight in enumerate(weights):
                            own = moment[s] if len(weights) > 1 and moment.dim() else moment
                            # laid out as the weight: the optimizer goes along both at once
                            optimizer.state[weight][key] = (
                                torch.empty_like(weight).copy_(own) if own.dim() else own.to(weight.device, copy=True)
                            )
        if used != sum(name.split("/")[0] in MOMENTS for name in tensors):
            raise KeyError("moments of other weights")
        if self.step:
            self.losses.copy_(tensors["losses"])

    def _parameters(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Every parameter's name in a single model, and those that are it: one, or one of each seed."""
        for found in zip(*(member.named_parameters() for member in self.ensemble.members), strict=True):
            yield found[0][0], [weight for _, weight in found]

    def put_best(self) -> None:
        """Puts the best weights into the models."""
        self.ensemble.load({name.removeprefix("model/"): weight for name, weight in self.best.items()})


def optimizers(ensemble: Ensemble, settings: Training) -> dict[str, torch.optim.Optimizer]:
    """By name, each with its share of the weights."""
    if settings.optimizer == "adam":
        weights, decay = ensemble.parameters(), settings.weight_decay
        return {"adam": torch.optim.Adam(weights, settings.lr, weight_decay=decay, fused=True)}
    kernels, others = [], []
    for weight in ensemble.parameters():
        (kernels if is_kernel(ensemble.stacked(weight)[0]) else others).append(weight)
    found = {}
    if kernels:
        found["muon"] = Muon(kernels, settings.lr, settings.weight_decay)
    if others:
        found["adam"] = torch.optim.Adam(others, settings.lr, fused=True)
    return found
