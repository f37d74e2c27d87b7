"""Windows: each trajectory once an epoch, cut where it should be, and drawn by each seed as if it were alone."""

import numpy as np
import pytest
import torch
import xarray as xr

from minconv.data.windows import (
    Windows,
    as_trajectories,
    channel_statistics,
    check_trajectories,
    fixed_windows,
    normalised,
    pieces,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def numbered(samples: int = 6, frames: int = 9) -> torch.Tensor:
    """Trajectories whose value is 100 * sample + frame."""
    values = 100 * torch.arange(samples)[:, None] + torch.arange(frames)
    return values.double().view(samples, frames, 1, 1, 1).expand(-1, -1, 1, 2, 3).contiguous()


def epoch(windows: Windows, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    windows.start_epoch(number)
    return [windows.cut(step) for step in range(windows.steps)]


@pytest.mark.parametrize("batch, steps", [(1, 6), (2, 3), (4, 1), (6, 1)])
def test_windows_are_stretches_of_trajectories_each_once(batch, steps):
    windows = Windows(numbered(), 4, batch, 0.0, [3, 4])
    assert windows.steps == steps
    for number in range(5):
        seen = []
        for inputs, targets in epoch(windows, number):
            assert inputs.shape == targets.shape == (2, batch, 4, 1, 2, 3)
            starts = inputs[:, :, :1]
            steps_on = torch.arange(4).view(4, 1, 1, 1)
            assert torch.equal(inputs, starts + steps_on) and torch.equal(targets, inputs + 1)
            assert (starts % 100 <= 4).all()
            seen.append(starts[..., 0, 0, 0, 0].long() // 100)
        samples = torch.cat(seen, 1)
        assert all(len(set(row)) == len(row) == steps * batch for row in samples.tolist())


def test_all_offsets_occur_and_the_longest_window_has_one():
    windows = Windows(numbered(), 4, 6, 0.0, [3])
    starts = torch.cat([epoch(windows, number)[0][0][0, :, 0, 0, 0, 0] for number in range(50)]) % 100
    assert set(starts.tolist()) == {0, 1, 2, 3, 4}
    whole = Windows(numbered(), 8, 6, 0.0, [3])
    assert all((epoch(whole, number)[0][0][0, :, 0] % 100 == 0).all() for number in range(3))


def test_epochs_and_seeds_draw_apart_and_repeatably():
    def first(seed: int, number: int) -> torch.Tensor:
        return epoch(Windows(numbered(), 4, 2, 0.1, [seed]), number)[0][0]

    assert torch.equal(first(3, 0), first(3, 0))
    assert not torch.equal(first(3, 0), first(3, 1))
    assert not torch.equal(first(3, 0), first(4, 0))


def test_a_seed_draws_the_same_in_any_company_and_from_any_epoch():
    together = Windows(numbered(), 4, 2, 0.1, [7, 8, 9])
    alone = Windows(numbered(), 4, 2, 0.1, [8])
    epoch(alone, 0)  # what came before does not matter
    for (x, y), (x_alone, y_alone) in zip(epoch(together, 5), epoch(alone, 5), strict=True):
        assert torch.equal(x[1], x_alone[0]) and torch.equal(y[1], y_alone[0])


def test_noise_is_on_the_inputs_only_with_its_standard_deviation():
    trajectories = torch.zeros(64, 9, 1, 16, 16)
    windows = Windows(trajectories, 8, 64, 0.05, [1, 2])
    ((inputs, targets),) = epoch(windows, 0)
    assert (targets == 0).all() and inputs.dtype == torch.float32
    assert inputs.std().item() == pytest.approx(0.05, rel=0.01) and abs(inputs.mean().item()) < 5e-4
    assert abs(torch.corrcoef(inputs.flatten(1))[0, 1].item()) < 0.01
    assert (trajectories == 0).all()
    ((others, _),) = epoch(windows, 1)
    assert abs(torch.corrcoef(torch.stack([inputs.flatten(), others.flatten()]))[0, 1].item()) < 0.01


def test_noise_does_not_change_which_windows_are_cut():
    clean, noisy = (epoch(Windows(numbered(), 4, 2, noise, [3]), 1) for noise in (0.0, 0.1))
    for (x, y), (x_noisy, y_noisy) in zip(clean, noisy, strict=True):
        assert torch.equal(y, y_noisy) and not torch.equal(x, x_noisy)
        assert (x - x_noisy).abs().max() < 1


def test_pieces_of_a_series_let_a_window_begin_anywhere():
    series = torch.arange(23.0).view(23, 1, 1, 1)
    found = pieces(series, 5)
    assert found.shape == (3, 10, 1, 1, 1) and found.data_ptr() == series.data_ptr()  # no copy
    assert found[:, 0].flatten().tolist() == [0, 5, 10]
    windows, starts = Windows(found, length=5, batch=1, noise=0, seeds=[0]), set()
    for epoch in range(60):
        windows.start_epoch(epoch)
        for step in range(windows.steps):
            inputs, targets = (x.flatten().tolist() for x in windows.cut(step))
            assert targets == [frame + 1 for frame in inputs] == list(range(int(targets[0]), int(targets[0]) + 5))
            starts.add(inputs[0])
    assert starts == set(range(15))


@pytest.mark.parametrize(
    "series, message",
    [
        (torch.zeros(9, 1, 2, 3), "series must have at least 10 frames; got 9"),
        (torch.zeros(9, 2, 3), r"series must be a tensor \[T, C, H, W\]; got \[9, 2, 3\]"),
        ([1.0], r"series must be a tensor \[T, C, H, W\]; got list"),
    ],
)
def test_pieces_rejects(series, message):
    with pytest.raises(ValueError, match=message):
        pieces(series, 5)


def test_fixed_windows_spread_over_the_offsets():
    found = fixed_windows(numbered(5, 9), 5)
    assert found.shape == (5, 5, 1, 2, 3)
    assert found[:, 0, 0, 0, 0].tolist() == [0, 101, 202, 303, 404]
    assert torch.equal(found, found[:, :1] + torch.arange(5).view(5, 1, 1, 1))
    assert torch.equal(fixed_windows(numbered(3, 5), 5), numbered(3, 5))
    assert fixed_windows(numbered(1, 9), 5)[0, 0, 0, 0, 0] == 0


GOOD = {"trajectories": numbered(), "length": 4, "batch": 2, "noise": 0.1, "seeds": [1]}


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"trajectories": numbered().numpy()}, TypeError, "trajectories must be a floating-point tensor; got ndarray"),
        ({"trajectories": numbered().long()}, TypeError, "trajectories must be a floating-point tensor.*int64"),
        ({"trajectories": numbered()[0]}, ValueError, r"trajectories must be \[N, T, C, H, W\].*\[9, 1, 2, 3\]"),
        ({"trajectories": numbered()[:0]}, ValueError, r"none of them 0; got \[0, 9, 1, 2, 3\]"),
        ({"trajectories": numbered(frames=4)}, ValueError, "trajectories must have at least 5 frames; got 4"),
        ({"length": 0}, ValueError, "length must be at least 1; got 0"),
        ({"length": 9}, ValueError, "trajectories must have at least 10 frames; got 9"),
        ({"batch": 0}, ValueError, "batch must be at least 1; got 0"),
        ({"batch": 7}, ValueError, "batch must be at most the number of trajectories, 6; got 7"),
        ({"batch": 1.0}, TypeError, "batch must be a whole number; got 1.0"),
        ({"noise": -1}, ValueError, "noise must be at least 0 and finite; got -1"),
        ({"noise": float("nan")}, ValueError, "noise must be at least 0 and finite; got nan"),
    ],
)
def test_rejects(change, error, message):
    with pytest.raises(error, match=message):
        Windows(**GOOD | change)


def test_messages_name_the_argument():
    with pytest.raises(ValueError, match="validation must have at least 10 frames; got 9"):
        check_trajectories(numbered(), 10, "validation")
    with pytest.raises(ValueError, match="must have at least 10 frames; got 9"):
        fixed_windows(numbered(), 10)


VALUES = np.arange(2 * 3 * 2 * 2 * 2).reshape(2, 3, 2, 2, 2) % 2


@pytest.mark.parametrize(
    "values, dtype",
    [
        (VALUES.astype(np.uint8), torch.float32),
        (VALUES.astype(bool), torch.float32),
        (VALUES.astype(">i2"), torch.float32),
        (VALUES.astype(np.float16)[:, ::-1][:, ::-1], torch.float32),
        (VALUES.astype(">f8"), torch.float64),
        (np.ma.masked_equal(VALUES, 7), torch.float32),
        (xr.DataArray(VALUES), torch.float32),
        (VALUES.tolist(), torch.float32),
        (torch.tensor(VALUES, dtype=torch.bfloat16), torch.float32),
        (torch.tensor(VALUES, dtype=torch.float64, requires_grad=True), torch.float64),
    ],
)
def test_trajectories_of_any_real_numbers(values, dtype):
    found = as_trajectories(values, 3, "train", torch.float32)
    assert found.dtype == dtype and not found.requires_grad and np.array_equal(found, VALUES)


def test_masked_values_are_missing():
    with pytest.raises(ValueError, match=r"train must be finite.*; trajectory 0 has 12 values"):
        as_trajectories(np.ma.masked_equal(VALUES, 1), 3, "train", torch.float32)


def test_statistics_of_channels_are_exact_far_from_zero():
    x = torch.randn(3, 5, 2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = x * torch.tensor([1e-3, 50.0])[:, None, None] + torch.tensor([1e5, -3.0])[:, None, None]
    mean, std = channel_statistics(far)
    assert std == pytest.approx(far.std((0, 1, 3, 4), correction=0).tolist(), rel=1e-6)
    found = normalised(far, mean, std, torch.float32)
    assert found.dtype == torch.float32 and found.std((0, 1, 3, 4), correction=0).tolist() == pytest.approx([1, 1])
    assert found.mean((0, 1, 3, 4))[1].item() == pytest.approx(0, abs=1e-6)
    assert channel_statistics(torch.full((2, 3, 1, 4, 4), 0.1))[1] == [0.0]
