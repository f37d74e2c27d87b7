"""Training windows, cut on the device from trajectories that are held there, or read from where they are stored."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from minconv.runtime.checks import positive, whole
from minconv.runtime.seeds import generator


class Stored(ABC):
    """Trajectories [N, T, C, H, W] that are read when they are needed; see ``minconv.data.stored``."""

    shape: tuple[int, ...]
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    dtype = torch.float32
    device = torch.device("cpu")

    @abstractmethod
    def read(self, windows: Iterable[tuple[Tensor, Tensor]], length: int) -> Iterator[Tensor]:
        """Windows [M, length, C, H, W] of trajectories [M] at offsets [M], one such pair after another."""

    @property
    @abstractmethod
    def statistics(self) -> tuple[list[float], list[float]]:
        """What ``channel_statistics`` gives; raises ValueError where values are missing."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of all values."""

    def normalised(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype, device: torch.device | str
    ) -> Self:
        """What the function of this name gives."""
        found = copy(self)
        found.mean, found.std, found.dtype, found.device = mean, std, dtype, torch.device(device)
        return found

    def __len__(self) -> int:
        return self.shape[0]


def check_trajectories(trajectories: Tensor | Stored, length: int, name: str = "trajectories") -> None:
    """Raises TypeError or ValueError unless ``trajectories`` is a float tensor [N, T >= length, C, H, W], or stored."""
    if isinstance(trajectories, Tensor) and not trajectories.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; got {trajectories.dtype}")
    if not isinstance(trajectories, Tensor | Stored):
        raise TypeError(f"{name} must be a floating-point tensor; got {type(trajectories).__name__}")
    if len(trajectories.shape) != 5 or not math.prod(trajectories.shape):
        raise ValueError(f"{name} must be [N, T, C, H, W], none of them 0; got {list(trajectories.shape)}")
    if trajectories.shape[1] < length:
        raise ValueError(f"{name} must have at least {length} frames; got {trajectories.shape[1]}")


def as_trajectories(values: Any, length: int, name: str, dtype: torch.dtype) -> Tensor | Stored:
    """Anybody's trajectories as a tensor [N, T >= length, C, H, W] without a gradient, float64 where they came so.

    Args:
        values: a tensor, or what NumPy makes an array of, of any real numbers; masked ones count as NaN. Or what is
            stored, which stays as it is.
        dtype: the one of what is no float64, in which all of them must be finite.

    Raises:
        TypeError: no real numbers, such as complex ones or text.
        ValueError: another shape; values that are NaN or infinite, with the first trajectory that has some.
    """
    if isinstance(values, Stored):
        check_trajectories(values, length, name)
        return values
    found = values.detach() if isinstance(values, Tensor) else _tensor(values, name)
    if found.is_complex() or found.is_quantized or found.layout != torch.strided:
        raise TypeError(f"{name} must hold real numbers, densely; got {found.dtype}, {found.layout}")
    found = found if found.dtype == torch.float64 else found.to(dtype)
    check_trajectories(found, length, name)
    lost = torch.stack([(~series.to(dtype).isfinite()).sum() for series in found]).tolist()
    if any(lost):
        first = next(number for number, count in enumerate(lost) if count)
        raise ValueError(
            f"{name} must be finite, as {dtype}; trajectory {first} has {lost[first]} values that are NaN or infinite "
            f"({len(lost) - lost.count(0)} of {len(lost)} trajectories have such values, {sum(lost)} in all)"
        )
    return found


def _tensor(values: Any, name: str) -> Tensor:
    if np.ma.is_masked(values):
        values = values.astype(np.float64).filled(math.nan)
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"{name} must be an array [N, T, C, H, W]; got {type(values).__name__}: {error}") from error
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits; got {type(values).__name__}, {array.dtype}")
    # in this machine's order of bytes, with strides that PyTorch has, and writable, or it would warn
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), "CW"))


def channel_statistics(trajectories: Tensor | Stored) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each of the C channels of finite trajectories [N, T, C, H, W].

    Computed in float64 and rounded to float32, so that they are the same however many threads have summed; that of a
    constant channel is 0, to the bit.
    """
    if isinstance(trajectories, Stored):
        return trajectories.statistics
    shift = trajectories[0, 0, :, :1, :1].double()
    count = trajectories[:, :, 0].numel()
    mean = shift + sum((series.double() - shift).sum((0, 2, 3)) for series in trajectories)[:, None, None] / count
    squares = sum((series.double() - mean).square().sum((0, 2, 3)) for series in trajectories)
    return mean.flatten().float().tolist(), (squares / count).sqrt().float().tolist()


def normalised(
    trajectories: Tensor | Stored,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor | Stored:
    """(x - mean) / std of each of C channels of trajectories [N, T, C, H, W], computed in float64, or x for None."""
    if isinstance(trajectories, Stored):
        return trajectories.normalised(mean, std, dtype, device)
    if mean is not None:
        trajectories = torch.stack([standardised(series, mean, std).to(dtype) for series in trajectories])
    return trajectories.to(device, dtype)


def standardised(series: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std of each of C channels of [..., C, H, W], in float64."""
    shift, scale = (torch.tensor(x, dtype=torch.float64, device=series.device)[:, None, None] for x in (mean, std))
    return (series.double() - shift) / scale


def digest(trajectories: Tensor | Stored) -> str:
    """Of all values."""
    if isinstance(trajectories, Stored):
        return trajectories.digest
    return hashlib.sha256(trajectories.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def fixed_windows(trajectories: Tensor, length: int) -> Tensor:
    """One window [N, length, C, H, W] of each trajectory, at offsets spread evenly over the possible ones."""
    starts = _spread(trajectories, length).tolist()
    return torch.stack([series[start : start + length] for series, start in zip(trajectories, starts, strict=True)])


def _spread(trajectories: Tensor | Stored, length: int) -> Tensor:
    check_trajectories(trajectories, whole("length", length, 1))
    samples, frames = trajectories.shape[:2]
    return torch.linspace(0, frames - length, samples).round().long()


class FixedWindows:
    """The ``fixed_windows``, some at a time."""

    def __init__(self, trajectories: Tensor | Stored, length: int):
        self.trajectories, self.length, self.offset = trajectories, length, _spread(trajectories, length)
        self.held = None if isinstance(trajectories, Stored) else fixed_windows(trajectories, length)

    def __len__(self) -> int:
        return len(self.offset)

    def share(self, rank: int = 0, ranks: int = 1, batch: int = 64) -> Iterator[Tensor]:
        """Every ``ranks``-th from ``rank`` on, [at most batch, length, C, H, W] at a time."""
        numbers = torch.arange(rank, len(self), ranks)
        parts = numbers.split(batch) if len(numbers) else ()  # more processes than windows
        if self.held is not None:
            return (self.held[part] for part in parts)
        return self.trajectories.read(((part, self.offset[part]) for part in parts), self.length)


def pieces(series: Tensor, length: int) -> Tensor:
    """One long series [T, C, H, W] as overlapping trajectories [T // length - 1, 2 length, C, H, W], without a copy.

    Each begins ``length`` frames after the one before, so that windows of ``length`` inputs and their targets, cut from
    them at random offsets, begin at any frame of the series with equal chance.

    Raises:
        TypeError, ValueError: not such a series, or one of less than 2 length frames.
    """
    if not isinstance(series, Tensor) or series.dim() != 4:
        found = list(series.shape) if isinstance(series, Tensor) else type(series).__name__
        raise ValueError(f"series must be a tensor [T, C, H, W]; got {found}")
    if len(series) < 2 * whole("length", length, 1):
        raise ValueError(f"series must have at least {2 * length} frames; got {len(series)}")
    return series.unfold(0, 2 * length, length).movedim(-1, 1)


class Windows:
    """Random windows for S models trained together, each seed drawing what it would draw alone.

    An epoch visits every trajectory once, in random order and at a random offset; what does not fill a batch is left
    for another epoch. Noise is added to the inputs only.

    Args:
        trajectories: [N, T, C, H, W] on the device to train on, or stored.
        length: frames of a window's inputs, and of its targets one frame later; T must be at least length + 1.
        batch: windows a step, for each seed.
        noise: standard deviation of the Gaussian noise on the inputs.
        seeds: one for each of the S models.
        known: how many of the channels, the last, have no noise, as they are known and not forecast.
    """

    def __init__(
        self, trajectories: Tensor | Stored, length: int, batch: int, noise: float, seeds: Sequence[int], known: int = 0
    ):
        check_trajectories(trajectories, whole("length", length, 1) + 1)
        samples = trajectories.shape[0]
        if whole("batch", batch, 1) > samples:
            raise ValueError(f"batch must be at most the number of trajectories, {samples}; got {batch}")
        if not isinstance(seeds, Sequence) or not seeds:
            raise TypeError(f"seeds must be a sequence of one or more whole numbers; got {seeds!r}")
        self.trajectories, self.batch, self.seeds = trajectories, batch, [whole("seeds", seed) for seed in seeds]
        self.noise, self.known = positive("noise", noise, zero=True), whole("known", known)
        self.steps = samples // batch
        self.shape = (len(seeds), batch, length, *trajectories.shape[2:])
        self.span = torch.arange(length + 1, device=trajectories.device)
        self._next, self._found = self.steps, None

    def start_epoch(self, epoch: int, step: int = 0) -> None:
        """Draws the epoch's order and offsets; noise and windows then are those of ``step`` and of the steps after."""
        whole("epoch", epoch)
        self._next = whole("step", step)
        samples, frames = self.trajectories.shape[:2]
        orders, offsets = [], []
        for seed in self.seeds:
            draw = generator(seed, "windows", epoch)
            orders.append(torch.randperm(samples, generator=draw))
            offsets.append(torch.randint(frames - len(self.span) + 1, (samples,), generator=draw))
        device = self.trajectories.device
        self.order, self.offset = torch.stack(orders).to(device), torch.stack(offsets).to(device)
        self.noises = [generator(seed, "noise", epoch, device=device) for seed in self.seeds]
        for _ in range(step if self.noise else 0):
            self._drawn()
        self.close()
        self._found = self._windows(step)

    def cut(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the epoch's next step, each [S, batch, length, C, H, W]; or ValueError."""
        if whole("step", step) != self._next or step >= self.steps:
            raise ValueError(f"step must be the next of {self.steps} after start_epoch, {self._next}; got {step}")
        self._next += 1
        window = next(self._found)
        if self._next == self.steps:
            self.close()
        inputs, targets = window[:, :, :-1], window[:, :, 1:]
        return self._drawn().add_(inputs) if self.noise else inputs, targets

    def first(self, length: int) -> Tensor:
        """The first frames of the first trajectory, [1, length, C, H, W]."""
        if isinstance(self.trajectories, Stored):
            return next(self.trajectories.read([(torch.zeros(1).long(),) * 2], length))
        return self.trajectories[:1, :length]

    def close(self) -> None:
        """Ends the processes that read ahead."""
        if self._found is not None:
            self._found.close()

    def _windows(self, step: int) -> Generator[Tensor, None, None]:
        parts = [slice(step * self.batch, (step + 1) * self.batch) for step in range(step, self.steps)]
        pairs = ((self.order[:, part], self.offset[:, part]) for part in parts)
        if not isinstance(self.trajectories, Stored):
            for order, offset in pairs:
                yield self.trajectories[order[..., None], offset[..., None] + self.span]
            return
        for window in self.trajectories.read(((x.flatten(), y.flatten()) for x, y in pairs), len(self.span)):
            yield window.unflatten(0, self.shape[:2])

    def _drawn(self) -> Tensor:
        """Noise of the next step."""
        drawn = torch.empty(self.shape, dtype=self.trajectories.dtype, device=self.trajectories.device)
        for row, draw in zip(drawn, self.noises, strict=True):
            row.normal_(0, self.noise, generator=draw)
        if self.known:
            drawn[:, :, :, -self.known :] = 0
        return drawn
