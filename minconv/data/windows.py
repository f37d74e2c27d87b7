"""Training windows, cut on the device from trajectories that are held there."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minconv.runtime.checks import positive, whole
from minconv.runtime.seeds import generator


def check_trajectories(trajectories: Tensor, length: int, name: str = "trajectories") -> None:
    """Raises TypeError or ValueError unless ``trajectories`` is a float tensor [N, T >= length, C, H, W]."""
    if not isinstance(trajectories, Tensor) or not trajectories.is_floating_point():
        found = trajectories.dtype if isinstance(trajectories, Tensor) else type(trajectories).__name__
        raise TypeError(f"{name} must be a floating-point tensor; got {found}")
    if trajectories.dim() != 5 or not trajectories.numel():
        raise ValueError(f"{name} must be [N, T, C, H, W], none of them 0; got {list(trajectories.shape)}")
    if trajectories.shape[1] < length:
        raise ValueError(f"{name} must have at least {length} frames; got {trajectories.shape[1]}")


def as_trajectories(values: Any, length: int, name: str, dtype: torch.dtype) -> Tensor:
    """Anybody's trajectories as a tensor [N, T >= length, C, H, W] without a gradient, float64 where they came so.

    Args:
        values: a tensor, or what NumPy makes an array of, of any real numbers; masked ones count as NaN.
        dtype: the one of what is no float64, in which all of them must be finite.

    Raises:
        TypeError: no real numbers, such as complex ones or text.
        ValueError: another shape; values that are NaN or infinite, with the first trajectory that has some.
    """
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


def channel_statistics(trajectories: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each of the C channels of finite trajectories [N, T, C, H, W].

    Computed in float64 and rounded to float32, so that they are the same however many threads have summed; that of a
    constant channel is 0, to the bit.
    """
    shift = trajectories[0, 0, :, :1, :1].double()
    count = trajectories[:, :, 0].numel()
    mean = shift + sum((series.double() - shift).sum((0, 2, 3)) for series in trajectories)[:, None, None] / count
    squares = sum((series.double() - mean).square().sum((0, 2, 3)) for series in trajectories)
    return mean.flatten().float().tolist(), (squares / count).sqrt().float().tolist()


def normalised(trajectories: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """(x - mean) / std of each of C channels of trajectories [N, T, C, H, W], computed in float64."""
    shift, scale = (trajectories.new_tensor(x, dtype=torch.float64)[:, None, None] for x in (mean, std))
    return torch.stack([((series.double() - shift) / scale).to(dtype) for series in trajectories])


def fixed_windows(trajectories: Tensor, length: int) -> Tensor:
    """One window [N, length, C, H, W] of each trajectory, at offsets spread evenly over the possible ones."""
    check_trajectories(trajectories, whole("length", length, 1))
    samples, frames = trajectories.shape[:2]
    offsets = torch.linspace(0, frames - length, samples).round().long().tolist()
    return torch.stack([series[start : start + length] for series, start in zip(trajectories, offsets, strict=True)])


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
        trajectories: [N, T, C, H, W] on the device to train on.
        length: frames of a window's inputs, and of its targets one frame later; T must be at least length + 1.
        batch: windows a step, for each seed.
        noise: standard deviation of the Gaussian noise on the inputs.
        seeds: one for each of the S models.
        known: how many of the channels, the last, have no noise, as they are known and not forecast.
    """

    def __init__(
        self, trajectories: Tensor, length: int, batch: int, noise: float, seeds: Sequence[int], known: int = 0
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
        self.span = torch.arange(length + 1, device=trajectories.device)

    def start_epoch(self, epoch: int) -> None:
        """Draws the epoch's order and offsets, and sets the noise to the epoch's start."""
        whole("epoch", epoch)
        samples, frames = self.trajectories.shape[:2]
        orders, offsets = [], []
        for seed in self.seeds:
            draw = generator(seed, "windows", epoch)
            orders.append(torch.randperm(samples, generator=draw))
            offsets.append(torch.randint(frames - len(self.span) + 1, (samples,), generator=draw))
        device = self.trajectories.device
        self.order, self.offset = torch.stack(orders).to(device), torch.stack(offsets).to(device)
        self.noises = [generator(seed, "noise", epoch, device=device) for seed in self.seeds]

    def cut(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step of the epoch, each [S, batch, length, C, H, W]. Call in the order of steps."""
        if whole("step", step) >= self.steps or not hasattr(self, "order"):
            raise ValueError(f"step must be below {self.steps}, after start_epoch; got {step}")
        part = slice(step * self.batch, (step + 1) * self.batch)
        window = self.trajectories[self.order[:, part, None], self.offset[:, part, None] + self.span]
        inputs, targets = window[:, :, :-1], window[:, :, 1:]
        if self.noise:
            drawn = torch.empty_like(inputs, memory_format=torch.contiguous_format)
            for row, draw in zip(drawn, self.noises, strict=True):
                row.normal_(0, self.noise, generator=draw)
            if self.known:
                drawn[:, :, :, -self.known :] = 0
            inputs = drawn.add_(inputs)
        return inputs, targets
