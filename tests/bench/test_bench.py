"""Timing, memory and the benchmark: what is counted, in which order, against closed forms. No time is judged."""

import dataclasses
import gc
import itertools
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import ROOT
from torch import nn

from minconv.bench import __main__ as command
from minconv.bench import floors, results, suite
from minconv.bench import measure as bench
from minconv.core.layers import PaddedConv2d
from minconv.core.scan import GATINGS, usable
from minconv.models import MODELS, build_model

pytestmark = pytest.mark.usefixtures("one_thread")

MB = 250_000  # floats


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Before each measurement garbage is collected, which takes long where tests have imported much."""
    monkeypatch.setattr(bench.gc, "collect", lambda: None)


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


# --- floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gating", GATINGS)
def test_scan_bytes_are_those_of_its_tensors(gating):
    shape, blocks = (2, 5, 3, 4, 4), GATINGS[gating].blocks
    gates, h = torch.empty(2, 5, blocks * 3, 4, 4), torch.empty(shape)
    forward = [gates, h]  # read, written
    backward = [gates, h, h, gates]  # gates, states and their gradient; the gates' gradients
    sizes = [sum(tensor.nbytes for tensor in tensors) for tensors in (forward, forward + backward)]
    assert [floors.scan_bytes(h.numel(), blocks, backward) for backward in (False, True)] == sizes
    assert floors.scan_bytes(h.numel(), blocks, size=2) == sizes[0] // 2


def test_copy_moves_the_bytes(monkeypatch):
    moved = []
    call = floors.copy(8_000)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, source: moved.append(self.nbytes + source.nbytes))
    call()
    assert moved == [8_000]


def convolutions(cell: str, length: int, horizon: int = 0, batch: int = 1) -> Counter:
    model, frames = build_model(cell, 0, method="direct"), torch.randn(batch, length + horizon + 1, 1, 16, 16)
    return floors.record(bench.training_step(model, frames, horizon))


def weights(found: Counter, operator=floors.FORWARD) -> Counter:
    """How often each shape of a weight is convolved with."""
    shapes = Counter()
    for (which, *arguments), count in found.items():
        if which is operator:
            shapes[arguments[1 if operator is floors.FORWARD else 2].shape] += count
    return shapes


@pytest.mark.parametrize("length, horizon", [(3, 0), (2, 2)])
def test_recorded_convolutions_are_those_of_the_model(length, horizon):
    passes, frames = 1 + horizon, length + horizon
    for cell, per_pass, recurrent in (
        ("minconvlstm", passes, {(3 * 40, 40, 3, 3): 4}),
        ("minconvgru", passes, {(2 * 49, 49, 3, 3): 4}),
        ("convlstm", frames, {(4 * 25, 2 * 25, 3, 3): 4}),
        ("convgru", frames, {(2 * 28, 2 * 28, 3, 3): 4, (28, 2 * 28, 3, 3): 4}),
    ):
        hidden = MODELS[cell].channels[0]
        expected = {shape: layers * per_pass for shape, layers in recurrent.items()}
        expected |= {(hidden, 1, 1, 1): passes, (1, hidden, 1, 1): passes}  # encoder, decoder
        found = convolutions(cell, length, horizon)
        assert weights(found) == expected
        assert weights(found, floors.BACKWARD) == expected


def test_recorded_inputs_hold_all_frames_of_the_batch():
    found = convolutions("minconvexplstm", length=5, batch=2)
    inputs = {arguments[1].shape: arguments[0] for operator, *arguments in found if operator is floors.FORWARD}
    assert inputs[40, 1, 1, 1].shape == (10, 1, 16, 16)
    assert inputs[3 * 40, 40, 3, 3].shape[:2] == (10, 40)
    assert floors.channels_last(found) is (inputs[3 * 40, 40, 3, 3].stride[1] == 1)


def test_replay_runs_the_same_convolutions_and_nothing_else():
    def call():
        x = torch.randn(2, 3, 9, 8).to(memory_format=torch.channels_last).requires_grad_()
        for _ in range(2):
            nn.functional.conv2d(x, torch.ones(4, 3, 3, 3, requires_grad=True), padding=1).sin().sum().backward()
        nn.functional.conv2d(x.detach()[..., 1:], torch.ones(6, 1, 1, 1), stride=2, groups=3)

    found = floors.record(call)
    assert sorted(found.values()) == [1, 2, 2] and floors.channels_last(found)
    again = floors.replay(found)
    assert floors.record(again) == found
    operators = {event.name() for event in bench._events(again)}
    assert not any("sin" in name or "sum" in name for name in operators)


# --- reading a result -----------------------------------------------------------------------------


def spread(median: float) -> dict[str, float]:
    return {"low": 0.9 * median, "median": median, "high": 1.1 * median}


def test_headlines():
    """Of the default backend, the model's memory format, MinConvLSTM and the longest sequence, and of nothing else."""
    about = {"gating": "lstm", "backend": "best", "layout": "contiguous", "batch": 4, "T": 20, "tail": [40, 16, 16]}
    scan = about | {"training_speedup": spread(30.0), "training_over_copy": spread(3.0)}
    errors = about | {"output": 1e-7, "gradient": 1e-6}
    step = {"model": "minconvlstm", "T": 20, "horizon": 5, **results.PAPER}
    step |= {"training_speedup": spread(1.5), "over_convolutions": spread(1.3)}
    result = {
        "default": "best",
        "layout": "contiguous",
        "scan": [scan, scan | {"backend": "other", "T": 8}, scan | {"layout": "channels_last", "T": 9}],
        "accuracy": [errors, errors | {"T": 2048, "gradient": 2e-6}, errors | {"backend": "other"}],
        "training": [step, step | {"model": "convlstm", "T": 1}, step | {"batch": 8, "T": 2}],
        "seeds": [{"model": "minconvlstm", "seeds": 3, "throughput": spread(2.0)}],
        "startup": [{"import": spread(2.5), "first_call": spread(1.0)}],
    }
    found = results.headlines(result)
    assert list(found.values()) == [30, 3, 2e-6, 1.5, 1.3, 2, 2.5, 1]
    assert [name for name in found if "2048" in name or "[4, 20, 40, 16, 16]" in name or "20 + 5" in name] == list(
        found
    )[:5]
    result["accuracy"][1]["output"] = None
    assert list(results.headlines(result).values())[2] is None
    assert results.headlines({key: [] if isinstance(value, list) else value for key, value in result.items()}) == {}


def test_rows_by_length():
    rows = [
        {"model": model, "T": T, "training": spread(T * scale), "memory": 10 * T}
        for model, scale in (("a", 1), ("b", 2))
        for T in (8, 2)
        if (model, T) != ("b", 2)
    ]
    data = results.by_length(rows, "model", ["training", "memory"])
    assert data.training.dims == ("model", "T", "quartile") and data.memory.dims == ("model", "T")
    assert data["T"].values.tolist() == [2, 8] and data["quartile"].values.tolist() == [0.25, 0.5, 0.75]
    np.testing.assert_allclose(data.training.sel(model="a", T=8), [7.2, 8, 8.8])
    assert np.isnan(data.memory.sel(model="b", T=2)) and np.isnan(data.training.sel(model="b", T=2)).all()
    nothing = results.by_length([{"model": "a", "T": 2, "memory": 0}], "model", ["memory"])
    assert nothing.memory.item() == 0  # and not missing
    with pytest.raises(ValueError, match="rows must hold at least one model; got none"):
        results.by_length([], "model", ["training"])


# --- the benchmark --------------------------------------------------------------------------------

BACKENDS = [name for name in usable("cpu") if name != "triton"]  # whose interpreter only tests use
TINY = dataclasses.replace(
    suite.SIZES["smoke"], scans=((1, 3, 40, 16, 16),), gatings=("lstm", "gru"), steps=(suite.Step(2, 1), suite.Step(2))
)


@pytest.fixture(scope="module")
def result() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.gc, "collect", lambda: None)
        patch.setattr(suite, "_startup", lambda *_: {"import": spread(1.5), "first_call": spread(0.5)})
        return suite.run(TINY, "cpu")


@pytest.mark.slow
def test_result_is_plain_and_says_what_made_it(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["size"], result["device"], result["threads"]) == ("smoke", "cpu", 1)
    assert result["versions"]["torch"] == torch.__version__ and result["versions"].keys() == {
        "torch",
        "numba",
        "triton",
    }
    assert "1 thread" in result["provenance"]["hardware"] and result["seconds"] > 0
    assert result["default"] == BACKENDS[-1] and result["layout"] in suite.LAYOUTS


@pytest.mark.slow
def test_scan_rows(result):
    rows = result["scan"]
    ways = {(name, layout) for name in BACKENDS for layout in suite.LAYOUTS} | {("copy", None)}
    for gating in TINY.gatings:
        found = results.select(rows, gating=gating)
        assert {(row["backend"], row["layout"]) for row in found} == ways and len(found) == len(ways)
        states, blocks = 3 * 40 * 16 * 16, GATINGS[gating].blocks
        assert {row["bytes"]["forward"] for row in found} == {4 * states * (blocks + 1)}
        assert {row["bytes"]["training"] for row in found} == {4 * states * 3 * (blocks + 1)}
    for row in rows:
        assert all(0 < row[kind]["low"] <= row[kind]["median"] <= row[kind]["high"] for kind in suite.PASSES)
        if row["backend"] == "copy":
            assert row["training_over_copy"] == {"low": 1, "median": 1, "high": 1}
        if (row["backend"], row["layout"]) == ("logspace", "contiguous"):
            assert row["training_speedup"] == {"low": 1, "median": 1, "high": 1}
    lengths = results.by_length(results.scans(result), "backend", ["forward", "training"])
    assert set(lengths.backend.values) == {*BACKENDS, "copy"} and lengths["T"].values.tolist() == [3]


@pytest.mark.slow
def test_accuracy_rows(result):
    rows = result["accuracy"]
    assert len(rows) == len(TINY.gatings) * len(TINY.lengths) * len(BACKENDS)
    for row in rows:
        assert 0 < max(row["output"], row["gradient"]) < (1e-3 if row["backend"] == "logspace" else 2e-6)


@pytest.mark.slow
def test_training_rows(result):
    rows = result["training"]
    assert len(rows) == len(TINY.steps) * (len(MODELS) + 3)
    assert [row["model"] for row in results.experiment(result)] == [*MODELS, "convs5", "published", "half"]
    assert [row["T"] for row in results.teacher_forced(result)] == [2] * 8
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert (sizes["convlstm"], sizes["minconvlstm"], sizes["published"]) == (182_524, 175_449, 175_449)
    for row in rows:
        assert row["memory"] > 0 and row["rounds"] == 2 and row["convolutions"]["median"] > 0
        if row["model"] == row["rival"]:
            assert row["training_speedup"] == {"low": 1, "median": 1, "high": 1}
    for step in TINY.steps:  # the same convolutions are one floor
        alone = {row["model"]: row["convolutions"] for row in results.select(rows, **step.about)}
        assert alone["minconvlstm"] == alone["minconvexplstm"]
    assert [row["model"] for row in result["seeds"]] == ["convlstm", "minconvlstm"]


def test_models_of_a_step():
    models = suite._models(suite.Step(2, width=0.5, grid=8), torch.device("cpu"))
    assert models["minconvlstm"].size == (8, 8) and models["minconvlstm"].encoder.weight.shape[0] == 20
    assert [cell.backend for cell in models["published"].cells] == ["logspace"] * 4
    torch.testing.assert_close(models["published"].state_dict(), models["minconvlstm"].state_dict())
    plain = suite._models(suite.Step(2, grid=8), torch.device("cpu"), method="direct")
    layers = [layer for model in plain.values() for layer in model.modules() if isinstance(layer, PaddedConv2d)]
    assert len(layers) > 30 and {layer.method for layer in layers} == {"direct"}


@pytest.mark.parametrize("layout", suite.LAYOUTS)
def test_layouts_are_those_of_frames(layout):
    x = suite._laid_out((2, 3, 4, 5, 6), layout, torch.device("cpu"))
    assert x.shape == (2, 3, 4, 5, 6)
    kinds = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    for name, kind in kinds.items():
        assert x.flatten(0, 1).is_contiguous(memory_format=kind) is (name == layout)


def test_rounds_fill_the_time_within_bounds(clock):
    sizes = dataclasses.replace(TINY, seconds=60, repeats=(3, 10))
    for taken, rounds in ((1, 10), (12, 5), (100, 3)):
        seconds = suite._rounds({"a": clock(1000, taken), ("b", 1): clock(0)}, sizes, torch.device("cpu"))
        assert seconds["a"].tolist() == [taken] * rounds and len(seconds["b", 1]) == rounds


def test_errors_that_are_not_finite():
    assert suite._number(math.nan) is None and suite._number(math.inf) is None
    assert max([1.0, math.nan, 2.0], key=suite._rank) is math.nan


@pytest.mark.parametrize("name", suite.SIZES)
def test_sizes_are_sound(name):
    sizes = suite.SIZES[name]
    assert sizes.name == name and sizes.steps[0].horizon > 0 and "lstm" in sizes.gatings
    assert len(set(sizes.steps)) == len(sizes.steps) and len(set(sizes.scans)) == len(sizes.scans)
    if name in ("smoke", "short"):
        return
    assert {(4, 20, 40, 16, 16), (1, 512, 40, 16, 16)} <= set(sizes.scans) and 2048 in sizes.lengths
    assert sizes.steps[0] == suite.Step(20, 5) and {suite.Step(T) for T in (20, 128, 512)} <= set(sizes.steps)
    assert all(floors.scan_bytes(math.prod(shape), 3) >= 256e6 for shape in sizes.large_scans)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--fast"], "unrecognized arguments: --fast"),
        (["--ful"], "unrecognized arguments: --ful"),
        (["--full", "--smoke"], "not allowed with"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--threads", "0"], "threads must be at least 1; got 0"),
        (["--threads", "two"], "invalid int value: 'two'"),
        (["--output", "."], "output must be a file; got the folder"),
        (["--output", "/dev/null/result.json"], "File exists"),
    ],
)
def test_bad_options_end_with_2_before_anything_runs(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("ran"))
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "where there is no CUDA GPU" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("option, size", [([], "quick"), (["--full"], "full"), (["--smoke"], "smoke")])
def test_writes_the_result_and_prints_its_numbers(option, size, result, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path))
    monkeypatch.setattr(command, "run", lambda sizes, device: asked.append((sizes.name, device.type)) or result)
    assert command.main([*option, "--device", "cpu", "--threads", "1"]) == 0
    assert asked == [(size, "cpu")] and torch.get_num_threads() == 1
    assert json.loads((tmp_path / "results" / "benchmark.json").read_text()) == result
    printed = capsys.readouterr().out.splitlines()
    for words, value in results.headlines(result).items():
        assert [line.split()[-1] for line in printed if line.startswith(f"{words} ")] == [f"{value:.3g}"]


@pytest.mark.robustness
def test_the_smoke_benchmark_runs(tmp_path):
    file = tmp_path / "deep" / "result.json"
    options = ["--smoke", "--device", "cpu", "--threads", "1", "--output", file]
    run = subprocess.run(
        [sys.executable, "-m", "minconv.bench", *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(file.read_text())
    assert found["size"] == "smoke" and found["threads"] == 1
    (start,) = found["startup"]
    assert start["import"]["median"] > 0 and start["first_call"]["median"] > 0 and start["backend"] == found["default"]
    assert str(file) in run.stdout and "first scan in a fresh process" in run.stdout


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A folder like that of the paper's code, which is named where its models are looked for."""
    code = (
        "from torch import nn\n"
        "class ConvLSTM(nn.Module):\n"
        "    def __init__(self, hidden_sizes, height, width, **options):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, hidden_sizes[0], 3, padding=1)\n"
        "    def forward(self, x, steps):\n"
        "        return self.conv(x[:, :steps].flatten(0, 1)).mean() + 0 * x\n"
        "class MinConvLSTM(ConvLSTM): pass\n"
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text(code)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("models", "hydra", "hydra.utils", "omegaconf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("MINCONV_PUBLISHED", str(tmp_path))
    yield tmp_path
    for name in ("models", "hydra", "hydra.utils", "omegaconf"):
        sys.modules.pop(name, None)


def test_the_papers_own_code_takes_part_where_it_is_named(paper):
    models = suite._models(suite.Step(2, width=0.5), torch.device("cpu"))
    assert list(models)[-2:] == ["convlstm_published", "minconvlstm_published"]
    assert models["convlstm_published"].model.conv.out_channels == 12  # half of 25
    assert models["convlstm_published"](torch.zeros(2, 3, 1, 16, 16), 4).shape == (2, 7, 1, 16, 16)
    rows = suite._training(TINY, suite.Step(2), torch.device("cpu"))
    rival = min((row for row in rows if row["model"] in suite.RIVALS), key=lambda row: row["training"]["median"])
    assert {row["rival"] for row in rows} == {rival["model"]} and rival["training_speedup"]["median"] == 1


def test_a_folder_without_the_papers_code_is_told(paper):
    (paper / "models" / "__init__.py").write_text("")
    with pytest.raises(
        ValueError, match=r"MINCONV_PUBLISHED must name the folder src/mcrnn of the paper's code; .* no C"
    ):
        suite._models(suite.Step(2), torch.device("cpu"))


@pytest.mark.slow
def test_the_floor_is_the_direct_convolutions_whatever_a_model_computes_with(monkeypatch):
    replayed, replay = [], floors.replay
    monkeypatch.setattr(floors, "replay", lambda found, device: replayed.append(found) or replay(found, device))
    suite._training(TINY, suite.Step(3, 1), torch.device("cpu"))
    assert any(weights(found)[(120, 40, 3, 3)] == 4 * (1 + 1) for found in replayed)
