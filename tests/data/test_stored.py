"""A series on disk, larger than memory: the windows, numbers and errors of one in memory, read by other processes."""

import os
import subprocess
import sys
from pathlib import Path

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data import StoredPieces, open_series
from minconv.data.series import frames
from minconv.data.windows import (
    FixedWindows,
    Windows,
    as_trajectories,
    channel_statistics,
    digest,
    normalised,
    pieces,
)

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 7


def dataset(steps: int = 103) -> xr.Dataset:
    """Two variables, one far from zero."""
    drawn, shape = np.random.default_rng(0), (steps, 3, 4)
    grid = {"lat": [-60.0, 0, 60], "lon": [0.0, 90, 180, 270]}
    found = {"z": 5e4 + 1e3 * drawn.normal(size=shape), "t": 280 + drawn.normal(size=shape)}
    times = {"time": xr.date_range("2001-01-01", periods=steps, freq="6h")}
    return xr.Dataset({name: (("time", "lat", "lon"), x.astype("f4")) for name, x in found.items()}, times | grid)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    store = tmp_path_factory.mktemp("stored") / "two.zarr"
    dataset().to_zarr(store, zarr_format=2, encoding={name: {"chunks": (10, 3, 4)} for name in "zt"})
    return open_series(store, ["z", "t"])


def same(stored: Windows, held: Windows, epoch: int, step: int) -> None:
    stored.start_epoch(epoch, step)
    held.start_epoch(epoch, step)
    for number in range(step, held.steps):
        for mine, theirs in zip(stored.cut(number), held.cut(number), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_windows_are_those_of_a_series_in_memory(series, workers):
    stored, held = StoredPieces(series, LENGTH, workers), pieces(frames(series), LENGTH)
    assert stored.shape == held.shape and len(stored) == len(held) == 13
    mean, std = channel_statistics(held)
    assert channel_statistics(stored) == (mean, std)
    stored, held = (normalised(x, mean, std, torch.float64) for x in (stored, held))
    both = [Windows(x, LENGTH, 3, 0.1, [1, 2]) for x in (stored, held)]
    assert torch.equal(*(windows.first(4) for windows in both))
    same(*both, epoch=0, step=0)
    same(*both, epoch=1, step=2)  # as a run goes on
    both = [FixedWindows(x, LENGTH + 1) for x in (stored, held)]
    for mine, theirs in zip(*(list(windows.share(1, 2, batch=4)) for windows in both), strict=True):
        assert torch.equal(mine, theirs)


def test_going_on_in_an_epoch_is_what_would_have_come(series):
    windows = Windows(StoredPieces(series, LENGTH, workers=0), LENGTH, 3, 0.1, [1, 2])
    windows.start_epoch(3)
    all_of_it = [windows.cut(step) for step in range(windows.steps)]
    windows.start_epoch(3, 2)
    assert all(torch.equal(x, y) for x, y in zip(windows.cut(2), all_of_it[2], strict=True))
    with pytest.raises(ValueError, match="step must be the next of 4 after start_epoch, 3; got 2"):
        windows.cut(2)


def test_statistics_are_those_of_frames_in_pieces_by_however_many_blocks(series, monkeypatch):
    whole = StoredPieces(series, LENGTH, workers=0)
    monkeypatch.setattr("minconv.data.stored.BLOCK", 4 * 24 * 5)  # five frames
    parts = StoredPieces(series, LENGTH, workers=0)
    assert parts.statistics == whole.statistics == channel_statistics(pieces(frames(series), LENGTH))
    constant = dataset().assign(t=lambda held: held.t * 0 + np.float32(0.1))
    assert StoredPieces(constant, LENGTH, workers=0).statistics[1][1] == 0.0


def test_a_digest_tells_series_and_normalisation_apart(series):
    stored = StoredPieces(series, LENGTH, workers=0)
    other = dataset()
    other.z[50, 0, 0] += 1
    scaled = normalised(stored, [0.0, 0.0], [1.0, 2.0], torch.float32)
    assert len({digest(x) for x in (stored, StoredPieces(other, LENGTH, workers=0), scaled)}) == 3
    assert digest(stored) == digest(StoredPieces(dataset(), LENGTH, workers=0))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_frames_are_what_prepare_makes_of_them(series, workers):
    def prepare(stretch):  # such as no process could import
        return torch.cat([frames(stretch) / 100, torch.ones(stretch.sizes["time"], 1, 3, 4)], 1)

    stored = StoredPieces(series.chunk(time=20), LENGTH, workers, prepare)
    windows = Windows(stored, LENGTH, 3, 0.0, [0])
    same(windows, Windows(pieces(prepare(series), LENGTH), LENGTH, 3, 0.0, [0]), epoch=0, step=1)


@pytest.mark.slow
def test_workers_leave_random_numbers_and_end_with_the_windows(series):
    before = torch.get_rng_state()
    windows = Windows(StoredPieces(series, LENGTH, workers=1), LENGTH, 1, 0.0, [0])
    windows.start_epoch(0)
    windows.cut(0)
    assert children() and torch.equal(torch.get_rng_state(), before)
    windows.close()
    assert not children()


def children() -> list[str]:
    """Processes that read."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if _alive(path)]
    return [stat for stat in stats if "pt_data" in stat and stat.rsplit(")", 1)[1].split()[1] == str(os.getpid())]


def _alive(path: Path) -> bool:
    try:
        return bool(path.read_text())
    except OSError:
        return False


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_missing_values_are_told_by_date(tmp_path, workers):
    holed = dataset()
    holed.t[60, 1, 2] = np.nan
    holed.to_zarr(tmp_path / "holed.zarr", zarr_format=2)
    stored = StoredPieces(open_series(tmp_path / "holed.zarr", ["z", "t"]), LENGTH, workers)
    message = r"^t has 1 missing values, the first on 2001-01-16 00:00 in .*holed.zarr"
    with pytest.raises(ValueError, match=message):
        _ = stored.statistics
    windows = Windows(stored, LENGTH, 3, 0.0, [0])
    with pytest.raises(ValueError, match=message):
        for epoch in range(20):  # in some of which a window has the hole
            windows.start_epoch(epoch)
            for step in range(windows.steps):
                windows.cut(step)


def test_rejects(series):
    with pytest.raises(ValueError, match="series must have at least 14 frames; got 13"):
        StoredPieces(series.isel(time=slice(13)), LENGTH)
    with pytest.raises(ValueError, match="length must be at least 1; got 0"):
        StoredPieces(series, 0)
    with pytest.raises(TypeError, match=r"workers must be a whole number; got 1\.5"):
        StoredPieces(series, LENGTH, 1.5)
    with pytest.raises(TypeError, match="prepare must be a function of a stretch of the series; got 3"):
        StoredPieces(series, LENGTH, prepare=3)
    with pytest.raises(TypeError, match="series must be"):
        StoredPieces(torch.zeros(30, 1, 3, 4), LENGTH)
    with pytest.raises(ValueError, match="train must have at least 15 frames; got 14"):
        as_trajectories(StoredPieces(series, LENGTH), 15, "train", torch.float32)


READING = """
import sys
from pathlib import Path
import torch
from minconv.data import StoredPieces, open_series
from minconv.data.windows import Windows

def used():  # MB of this process and of those that read, what they share counted once
    own = Path("/proc/self/stat").read_text().split()[0]
    readers = [path.parent for path in Path("/proc").glob("[0-9]*/stat") if path.read_text().split()[3] == own]
    lines = [line for path in [Path("/proc/self"), *readers] for line in (path / "smaps_rollup").open()]
    return len(readers), sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3

series = open_series(sys.argv[1], "z")
windows = Windows(StoredPieces(series, 25, workers=2), 25, 4, 0.0, [0])
windows.start_epoch(0)  # there is no guard: those that read do not import this
most = 0
for step in range(60):
    inputs, targets = windows.cut(step)
    frame = (windows.order[0] * 25 + windows.offset[0])[4 * step : 4 * step + 4, None] + torch.arange(25)
    assert (inputs[0, :, :, 0].mean((2, 3)) == frame // 100 % 8 * 100 + frame % 100).all()
    readers, now = used()
    most = max(most, now)
print(series.nbytes / 1e9, readers, most)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")
def test_twenty_gigabytes_take_less_than_one(tmp_path):
    """Of a store that has eight chunks, linked many times; read by a script without a guard."""
    frames, store = 610_300, tmp_path / "large.zarr"
    grid = {"lat": np.linspace(-88, 88, 64), "lon": np.arange(128) * 2.8125}
    empty = dask.array.zeros((frames, 64, 128), dtype="f4", chunks=(100, 64, 128))
    times = {"time": xr.date_range("1900-01-01", periods=frames, freq="h")}
    large = xr.Dataset({"z": (("time", "lat", "lon"), empty)}, times | grid)
    large.to_zarr(store, zarr_format=2, compute=False, encoding={"z": {"compressors": None, "_FillValue": None}})
    for number in range(frames // 100):
        chunk = store / "z" / f"{number}.0.0"
        if number < 8:
            values = np.arange(100, dtype="<f4") + 100 * number
            chunk.write_bytes(np.broadcast_to(values[:, None, None], (100, 64, 128)).tobytes())
        else:
            os.link(store / "z" / f"{number % 8}.0.0", chunk)
    shown = subprocess.run([sys.executable, "-c", READING, store], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    size, readers, most = map(float, shown.stdout.split())
    assert size > 19.9 and readers >= 2 and most < 1000
