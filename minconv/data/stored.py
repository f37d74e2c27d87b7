"""Windows of a series that is larger than memory, read ahead from where it is stored by processes of their own."""

import hashlib
import math
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from multiprocessing.util import Finalize
from typing import Any, Self

import cloudpickle
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minconv.data.grid import BLOCK, Field
from minconv.data.series import fields_of, frames
from minconv.data.windows import Stored, standardised
from minconv.runtime.checks import whole
from minconv.runtime.processes import without_main
from minconv.runtime.progress import progress

WORTH_WORKERS = 8  # blocks to read


class StoredPieces(Stored):
    """What ``windows.pieces`` makes of a series in memory, [N, 2 length, C, H, W], of one that stays where it is.

        series = open_series("era5.zarr", "z", level=500)
        parts = [StoredPieces(series.sel(time=slice(*years)), 25) for years in (("1979", "2014"), ("2015", "2016"))]
        fit(Forecaster("minconvlstm", size=(64, 128), padding="sphere"), *parts, folder="runs/era5")

    A training sees the windows that it would see with everything in memory, and holds a few batches of them. Before it,
    the series is gone through once, for missing values, mean and standard deviation. Chunks of a store that are much
    longer in time than a window are read, in whole, for each.

    Args:
        series: over (time, lat, lon), or a Dataset of C such, lazily opened by ``open_series``, or backed by Dask.
        length: context and horizon of a training.
        workers: processes that read ahead; with 0 the training reads itself.
        prepare: makes frames [T, C, H, W] for a model of a stretch of the series, the same in whatever stretch a time
            is; by default those of ``minconv.data.series.frames``.

    Raises:
        TypeError, ValueError: no such series, or one of less than 2 length frames.
    """

    def __init__(
        self, series: Field, length: int, workers: int = 1, prepare: Callable[[Field], Tensor] = frames
    ) -> None:
        steps = len(fields_of(series)[0])
        if steps < 2 * whole("length", length, 1):
            raise ValueError(f"series must have at least {2 * length} frames; got {steps}")
        if not callable(prepare):
            raise TypeError(f"prepare must be a function of a stretch of the series; got {prepare!r}")
        self.series, self.length, self.workers, self.prepare = series, length, whole("workers", workers), prepare
        self.shape = (steps // length - 1, 2 * length, *self._stretch(0, 1).shape[1:])
        self._last = steps // length * length  # further frames are in no piece

    def read(self, windows: Iterable[tuple[Tensor, Tensor]], length: int) -> Iterator[Tensor]:
        stretches = ([(start, length) for start in (self.length * n + at).tolist()] for n, at in windows)
        for found in self._ahead("_stretch", stretches, self.workers):
            batch = torch.from_numpy(np.stack(found))
            if self.mean is not None:
                batch = standardised(batch, self.mean, self.std)
            yield batch.to(self.device, self.dtype)

    def normalised(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype, device: torch.device | str
    ) -> Self:
        _ = self._looked_at  # once for all copies
        return super().normalised(mean, std, dtype, device)

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        return self._looked_at[:2]

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self._looked_at} {self.mean} {self.std}".encode()).hexdigest()[:16]

    @cached_property
    def _looked_at(self) -> tuple[list[float], list[float], str]:
        """Mean and standard deviation of each channel, and a digest of all frames."""
        last, rows = self._last, max(1, BLOCK // (4 * math.prod(self.shape[2:])))
        blocks = [(start, min(rows, last - start)) for start in range(0, last, rows)]
        workers = self.workers if len(blocks) >= WORTH_WORKERS else 0
        digest, count, mean, squares = hashlib.sha256(), 0.0, 0.0, 0.0
        name = ", ".join(str(field.name) for field in fields_of(self.series))
        with progress(total=last, desc=f"all of {name}", unit="frame", quiet=not workers) as bar:
            found = self._ahead("_moments", ([block] for block in blocks), workers)
            for (_, size), [(hashed, new, middle, apart)] in zip(blocks, found, strict=True):
                digest.update(hashed)
                # moments of two samples together, as Chan, Golub and LeVeque (1979) have them
                squares = squares + apart + (middle - mean) ** 2 * (count * new / (count + new))
                mean, count = mean + (middle - mean) * (new / (count + new)), count + new
                bar.update(size)
        mean, std = (x.astype(np.float32).tolist() for x in (mean, np.sqrt(squares / count)))
        return mean, std, digest.hexdigest()

    def _moments(self, start: int, size: int) -> tuple[bytes, float, np.ndarray, np.ndarray]:
        """Of a stretch: a digest; in float64 the weight of its frames, mean and sum of squares from it by channel."""
        values = self._stretch(start, size)
        digest = hashlib.sha256(values.tobytes()).digest()
        weight = np.full((size, 1, 1, 1), 2.0)  # pieces overlap, but for the two ends
        weight[: max(0, self.length - start)] = 1
        weight[max(0, self._last - self.length - start) :] = 1
        values, count = values.astype(np.float64), weight.sum() * math.prod(self.shape[3:])
        first = values[:1, :, :1, :1]  # so that what is constant has a deviation of 0
        mean = first + ((values - first) * weight).sum((0, 2, 3), keepdims=True) / count
        apart = ((values - mean) ** 2 * weight).sum((0, 2, 3))
        return digest, count, mean.ravel(), apart

    def _stretch(self, start: int, size: int) -> np.ndarray:
        """Frames [size, C, H, W] from ``start`` on."""
        return self.prepare(self.series.isel(time=slice(start, start + size))).numpy()

    def _ahead(self, what: str, batches: Iterable[list[tuple[int, int]]], workers: int) -> Iterator[list[Any]]:
        """What the method ``what`` gives of the stretches of a batch after another."""
        batches = iter(batches)
        head = list(islice(batches, 2))
        batches = chain(head, batches)
        if not workers or len(head) < 2:  # to start a process takes seconds
            yield from ([getattr(self, what)(*stretch) for stretch in batch] for batch in batches)
            return
        loader = DataLoader(
            _Stretches(cloudpickle.dumps(self), what),
            batch_sampler=batches,
            num_workers=workers,
            multiprocessing_context="spawn",
            collate_fn=_as_it_is,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # else it would draw from the one that models draw from
        )
        with without_main():  # a script without a guard does not survive to be imported
            found = iter(loader)
        try:
            for batch in found:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            del found  # and with it the processes, also where an error is looked at later


class _Stretches(Dataset):
    """What workers do. As bytes it reaches them whatever it is made of, and does not ask for the script."""

    def __init__(self, pieces: bytes, what: str):
        self.pieces, self.what = pieces, what

    def __getitems__(self, batch: list[tuple[int, int]]) -> Any:
        try:
            if isinstance(self.pieces, bytes):
                self.pieces = pickle.loads(self.pieces)
            return [getattr(self.pieces, self.what)(*stretch) for stretch in batch]
        except Exception as error:  # a value, as the loader would raise it with another message
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(_: int) -> None:
    """In a worker: what Ctrl-C means, which reaches all processes of a terminal, is for the training to say.

    It ends when its work does. In the end of an interpreter it may abort, as a library's thread is still there, and the
    loader would take that for a failure.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Finalize(None, os._exit, args=(0,), exitpriority=-100)  # after all others
