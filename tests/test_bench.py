"""Timing and memory: what is counted, in which order, against closed forms."""

import gc
import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from minconv import bench

MB = 250_000  # floats


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the calls move: ``clock(seconds)`` makes a call."""
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def taking(*seconds):
        left = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def call():
            now[0] += next(left)

        return call

    return taking


class Pixelwise(nn.Module):
    """predicts w * frame, for T frames and then the last of them again."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))

    def forward(self, frames, horizon=0):
        return self.w * torch.cat([frames, *[frames[:, -1:]] * horizon], dim=1)


def test_measure_gives_seconds_without_the_warm_up(clock):
    seconds = bench.measure({"a": clock(100, 1, 2, 3), "b": clock(200, 10, 20, 30)}, repeats=3)
    assert seconds.dims == ("case", "repeat") and seconds.attrs["units"] == "s"
    assert seconds.sel(case="a").values.tolist() == [1, 2, 3]
    assert seconds.sel(case="b").values.tolist() == [10, 20, 30]


def test_cases_take_turns():
    order = []
    bench.measure({name: lambda name=name: order.append(name) for name in "abc"}, repeats=2, warmup=1)
    assert "".join(order) == "abcabcabc"


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_pauses_and_is_left_as_it_was(enabled):
    seen = []

    def call():
        seen.append(gc.isenabled())
        raise RuntimeError("fails")

    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(RuntimeError, match="fails"):
            bench.measure({"a": call}, repeats=1)
        assert seen == [False] and gc.isenabled() is enabled
    finally:
        gc.enable()


def test_ratio_is_free_of_what_disturbs_a_whole_round():
    disturbance = np.array([1, 7, 2, 1.5])
    seconds = xr.DataArray(np.outer([6, 2, 12], disturbance), {"model": ["base", "fast", "slow"]}, ("model", "repeat"))
    found = bench.ratio(seconds, to="base")
    for name in ("low", "median", "high"):
        np.testing.assert_allclose(found[name], [1, 3, 0.5])


def test_ratio_has_the_quartiles_of_the_rounds():
    seconds = xr.DataArray([[1.0] * 5, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]], {"case": ["a", "b"]}, ("case", "repeat"))
    found = bench.ratio(seconds, to="a", dim="case").sel(case="b")
    assert [float(found[name]) for name in ("low", "median", "high")] == pytest.approx([2, 3, 4])


def test_peak_memory_of_a_chain():
    def chain():
        a = torch.empty(4 * MB)
        b = a + 1  # 8 MB
        del a  # 4 MB
        c = b + b.exp()  # 12 MB: b, its exponential, c
        return c.sum()

    assert bench.peak_memory(chain) == pytest.approx(12e6, rel=1e-3)


def test_peak_memory_counts_what_is_new_and_lives_at_once():
    before = [torch.ones(4 * MB)]
    assert bench.peak_memory(lambda: before[0].mul_(2)) < 1000
    assert bench.peak_memory(lambda: [torch.empty(MB) for _ in range(5)]) == pytest.approx(5e6, rel=1e-3)
    assert bench.peak_memory(lambda: [torch.empty(MB).numel() for _ in range(5)]) == pytest.approx(1e6, rel=1e-3)
    assert bench.peak_memory(lambda: None) == 0


def test_peak_memory_of_training_is_what_autograd_saves():
    x = torch.ones(MB, requires_grad=True)

    def chain(depth):
        y = x
        for _ in range(depth):
            y = y.exp()  # its output is saved
        y.sum().backward()
        x.grad = None

    # after the deepest gradient all outputs but the last are still needed
    more = bench.peak_memory(lambda: chain(9)) - bench.peak_memory(lambda: chain(4))
    assert more == pytest.approx(5e6, rel=1e-3)


def test_peak_memory_sees_inside_operators():
    x = torch.rand(MB)
    assert bench.peak_memory(lambda: x.median()) == pytest.approx(1e6, rel=1e-3)  # sorts in a copy; gives one number


def test_count():
    weight, x = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 8, 8)

    def call():
        for _ in range(3):
            nn.functional.conv2d(x, weight)

    assert bench.count(call, "aten::convolution") == 3
    assert bench.count(call, "aten::exp") == 0


def test_profiling_is_silent(capfd):
    bench.peak_memory(lambda: torch.ones(MB))
    assert capfd.readouterr() == ("", "")


def test_forward_pass_takes_no_gradients():
    frames = torch.randn(1, 6, 1, 2, 2)
    prediction = bench.forward_pass(Pixelwise(), frames, horizon=2)()
    assert prediction.shape == (1, 5, 1, 2, 2) and not prediction.requires_grad
    torch.testing.assert_close(prediction[:, :3], 2 * frames[:, :3])
    torch.testing.assert_close(prediction[:, 3:], 2 * frames[:, 2:3].expand(-1, 2, -1, -1, -1))


def test_training_step_is_a_step_on_the_mean_square_error():
    frames, model = torch.randn(1, 6, 1, 2, 2), Pixelwise()
    bench.training_step(model, frames)()
    assert model.w.item() == 2 and model.w.grad is None
    bench.training_step(model, frames, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))()
    x, y = frames[:, :-1], frames[:, 1:]
    slope = (2 * (2 * x - y) * x).mean().item()
    assert model.w.item() == pytest.approx(2 - 0.1 * slope, rel=1e-5)
    assert model.w.grad is None


def test_sweep():
    models = {"a": Pixelwise(), "b": Pixelwise()}
    data = bench.sweep(models, torch.randn(1, 10, 1, 64, 64), lengths=(2, 4, 8), repeats=3)
    assert data.forward.dims == data.training.dims and set(data.training.dims) == {"model", "T", "repeat"}
    assert data.sizes == {"model": 2, "T": 3, "repeat": 3} and data["T"].values.tolist() == [2, 4, 8]
    assert (data.forward > 0).all() and (data.training > 0).all()
    memory = data.memory.sel(model="a")
    frame = 64 * 64 * 4
    # every tensor has T frames but for a few scalars
    np.testing.assert_allclose(memory / memory[0], data["T"] / 2, rtol=0.01)
    assert memory[0] >= 2 * 2 * frame
    assert (data.memory.sel(model="b") == memory).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bench.measure({}, 1), "cases must hold at least one"),
        (lambda: bench.measure({"a": int}, 0), "repeats must be at least 1; got 0"),
        (lambda: bench.measure({"a": int}, 1, warmup=-1), "warmup must be at least 0; got -1"),
        (lambda: bench.ratio(bench.measure({"a": int}, 1), "b", "case"), "to must be one of a; got 'b'"),
        (lambda: bench.training_step(Pixelwise(), torch.ones(1, 3, 1, 2, 2), horizon=2), "frames must be at least 4"),
        (lambda: bench.forward_pass(Pixelwise(), torch.ones(1, 1, 1, 2, 2)), "frames must be at least 2"),
        (lambda: bench.forward_pass(Pixelwise(), torch.ones(1, 1, 1, 2, 2), -1), "horizon must be at least 0"),
        (lambda: bench.sweep({"a": Pixelwise()}, torch.ones(1, 4, 1, 2, 2), (2, 4), 1), "lengths must be below 4"),
        (lambda: bench.sweep({"a": Pixelwise()}, torch.ones(1, 4, 1, 2, 2), (), 1), "lengths must be below 4"),
        (lambda: bench.sweep({"a": Pixelwise()}, torch.ones(1, 4, 1, 2, 2), (0, 2), 1), "frames must be at least 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu():
    x = torch.ones(4 * MB, device="cuda")
    assert bench.peak_memory(lambda: x + x.exp(), "cuda") == pytest.approx(8e6, rel=0.1)
    big = torch.randn(4096, 4096, device="cuda")
    seconds = bench.measure({"one": lambda: big @ big, "ten": lambda: [big @ big for _ in range(10)]}, 5, device="cuda")
    assert bench.ratio(seconds, to="ten", dim="case")["median"].sel(case="one") > 5  # launches alone would take no time
