"""Models of other kinds than a Forecaster: buffers, tied weights, modes, random numbers, what cannot be stacked."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import SETTINGS, assert_same, raising, stop_at, waves
from torch import Tensor, nn
from torch.nn.functional import dropout

from minconv.training import Run, fit, load_weights, read_log, restore
from minconv.training.ensemble import Ensemble, stackable

pytestmark = pytest.mark.usefixtures("one_thread")


class Loop(nn.Conv2d):
    """A convolution that goes on from its own predictions."""

    def __init__(self, seed: int):
        super().__init__(1, 1, 3, padding=1)
        draw = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            weight.data.normal_(0, 0.3, generator=draw)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        found = [super().forward(frames.flatten(0, 1)).view_as(frames)]
        for _ in range(horizon):
            found.append(super().forward(found[-1][:, -1]).unsqueeze(1))
        return torch.cat(found, 1)


class Kind(nn.Module):
    """A simple model, and something else."""

    def __init__(self, seed: int):
        super().__init__()
        self.inner = Loop(seed)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(frames, horizon)


class Normed(Kind):
    """Batch statistics, which are no weights."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.norm = nn.BatchNorm3d(1)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(self.norm(frames.transpose(1, 2)).transpose(1, 2), horizon)


class Static(Kind):
    """A field that is not trained, of each seed its own."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.register_buffer("field", torch.full((4, 4), float(seed)))

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(frames + self.field, horizon)


class Counting(Kind):
    """A buffer that training changes, one in place and one anew."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        if self.training:
            self.count += 1
            self.last = frames.detach().mean()
        return self.inner(frames, horizon) + self.last / (1 + self.count)


class Tied(Kind):
    """One weight in two modules, and one module in two places."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        for n, weight in enumerate(self.one.parameters()):
            weight.data = torch.linspace(-seed / 9, seed / 8, weight.numel()).view_as(weight) + n
        self.two.weight, self.three = self.one.weight, self.one
        self.two.bias.data.fill_(0.1)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(self.three(self.two(self.one(frames))), horizon)


class Dropping(Kind):
    """Random numbers, in training alone."""

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(dropout(frames, 0.3, self.training), horizon)


class Branching(Kind):
    """A way that depends on the numbers."""

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(frames if frames.mean() > 0 else 2 * frames, horizon)


class Scaled(Kind):
    """Something of each seed's own that is neither weight nor buffer."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.options = {"scale": [lambda frames: frames * seed]}

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        return self.inner(self.options["scale"][0](frames), horizon)


class Mode(Kind):
    """Another function in evaluation mode."""

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        found = self.inner(frames, horizon)
        return found if self.training else torch.full_like(found, 10.0)


class Frozen(Kind):
    """A weight that stays."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.inner.bias.requires_grad_(False)


CANNOT_BE_STACKED = (Dropping, Branching, Scaled)
KINDS = (Kind, Normed, Static, Counting, Tied, Mode, Frozen, *CANNOT_BE_STACKED)


def trained(folder: Path, kind: type, seeds: tuple[int, ...], until: int | None = None, **options) -> Path:
    job = Run(kind, seeds, folder, replace(SETTINGS, epochs=2, clip=0.3))
    with pytest.MonkeyPatch.context() as patch:
        if until is None:
            return fit(job, waves(), waves(3, seed=1), device="cpu", **options)
        stop_at(patch, until, raising(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(job, waves(), waves(3, seed=1), device="cpu", **options)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_of_any_kind_together_are_seeds_alone(tmp_path, kind):
    x = waves()[:1, :2]
    assert stackable([kind(1), kind(2)], x, 1) is (kind not in CANNOT_BE_STACKED)
    together = trained(tmp_path / "both", kind, (1, 2), precision="64-true")
    for seed in (1, 2):
        alone = trained(tmp_path / str(seed), kind, (seed,), precision="64-true")
        for which in ("best", "last"):
            found, expected = (load_weights(folder, which)[seed] for folder in (together, alone))
            assert found.keys() == kind(seed).state_dict().keys()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        logs = [[row for row in read_log(folder) if row["seed"] == seed] for folder in (together, alone)]
        for one, other in zip(*logs, strict=True):
            assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-9)
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (Kind, Mode, Frozen, Branching)])
def test_a_run_of_any_kind_goes_on_to_the_same_bytes(tmp_path, kind):
    whole = trained(tmp_path / "whole", kind, (1, 2))
    torch.rand(3)  # of PyTorch's own generator, on which nothing depends
    trained(tmp_path / "parts", kind, (1, 2), until=4)
    assert_same(trained(tmp_path / "parts", kind, (1, 2)), whole)
    model = restore(kind(3), load_weights(whole)[2])
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in load_weights(whole)[2].items()
    }


def test_what_a_kind_is_about_happens(tmp_path):
    """Else the tests above would say nothing."""
    last = {kind: load_weights(trained(tmp_path / kind.__name__, kind, (1, 2)), "last") for kind in KINDS}
    assert last[Normed][1]["norm.num_batches_tracked"] == last[Counting][2]["count"] == 6
    assert last[Normed][1]["norm.running_mean"] != 0 != last[Counting][1]["last"]
    assert [last[Static][seed]["field"].unique().tolist() for seed in (1, 2)] == [[1.0], [2.0]]
    for seed in (1, 2):
        for name in ("two.weight", "three.weight"):
            assert torch.equal(last[Tied][seed][name], last[Tied][seed]["one.weight"])
        assert not torch.equal(last[Tied][seed]["one.weight"], Tied(seed).one.weight)
        for weight in ("weight", "bias"):
            found = last[Frozen][seed][f"inner.{weight}"]
            assert torch.equal(found, Loop(seed).state_dict()[weight]) is (weight == "bias")
        plain, *others = (last[kind][seed]["inner.weight"] for kind in (Kind, *CANNOT_BE_STACKED))
        alike = [torch.allclose(other, plain, rtol=0, atol=1e-5) for other in others]
        assert alike == [False, False, seed == 1]
    assert all(row["validation_loss"] > 50 for row in read_log(tmp_path / "Mode"))


def test_dropout_draws_from_its_seed_alone(tmp_path):
    logs = [read_log(trained(tmp_path / name, Dropping, (1, 2))) for name in ("one", "two")]
    assert [row["train_loss"] for row in logs[0]] == [row["train_loss"] for row in logs[1]]
    ensemble, x = Ensemble([Dropping(1), Dropping(1)], False, [1, 2]), waves()[:1].expand(2, 1, -1, -1, -1, -1)
    torch.manual_seed(0)
    first = ensemble(x)
    assert not torch.equal(first[0], first[1]) and torch.equal(ensemble(x), first)
    ensemble.place = (0, 1, 0)
    assert not torch.equal(ensemble(x), first)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)


def test_what_cannot_be_kept_is_refused(tmp_path):
    class Complex(Kind):
        def __init__(self, seed: int):
            super().__init__(seed)
            self.register_buffer("phase", torch.zeros(2, dtype=torch.cfloat))

    only = Kind(1)
    for make, error, message in (
        (Complex, TypeError, r"model must hold real tensors only, to be kept in files; its phase is torch\.complex64"),
        (lambda seed: 3, TypeError, r"build must return a model, an nn\.Module; got int"),
        (lambda seed: only, ValueError, "models must be 2 different ones; got one of them twice"),
    ):
        with pytest.raises(error, match=message):
            trained(tmp_path / "run", make, (1, 2))
