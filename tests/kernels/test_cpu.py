"""The compiled kernels: what they promise beside the scan's and the layers' own tests."""

import hashlib
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, assert_all_near, forecaster

from minconv import Forecaster
from minconv.core import scan
from minconv.core.scan import gated_scan, linear_scan
from minconv.kernels.autograd import Lanes

numba = pytest.importorskip("numba")
from minconv.kernels import compiled as kernels  # noqa: E402
from minconv.kernels import cpu, cpu_loops, openmp  # noqa: E402 - which need numba


@numba.njit(**kernels.FLAGS)
def exps(x, y):
    for n in range(x.size):
        y[n] = kernels.exp(x[n])


@pytest.mark.parametrize("dtype, least", [(np.float32, -87), (np.float64, -708)])
def test_exp_is_good_to_the_last_place(dtype, least):
    x = np.concatenate([np.linspace(least, 0, 100_001), -np.logspace(-12, 2, 1001).clip(max=-least)]).astype(dtype)
    y = np.empty_like(x)
    exps(x, y)
    exact = np.exp(x.astype(np.longdouble))
    assert np.abs(y / exact - 1).max() < np.finfo(dtype).eps
    assert y[x == 0] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_of_what_is_no_ordinary_number(dtype):
    x = np.array([np.nan, -np.inf, -1e30, -0.0], dtype)
    y = np.empty_like(x)
    exps(x, y)
    assert np.isnan(y[0]) and 0 <= y[1] < 1e-37 and 0 <= y[2] < 1e-37 and y[3] == 1


@pytest.fixture
def threads():
    """Sets the number of threads, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def step(model: torch.nn.Module, frames: torch.Tensor) -> list[torch.Tensor]:
    """Predictions, and the gradients of all weights."""
    found = model(frames, 2)
    return [found.detach(), *torch.autograd.grad(found.square().sum(), list(model.parameters()))]


@pytest.mark.parametrize("gating, blocks", [("gru", 2), ("lstm", 3), ("explstm", 3)])
@pytest.mark.parametrize("size", [(1, 3, 7, 31, 37), (3, 2, 16, 16, 16), (2, 5, 1, 100, 101)])
def test_threads_share_the_work(gating, blocks, size, threads):
    """Each lane is one thread's, so that any number of threads gives the same bits."""
    batch, steps, channels, height, width = size
    generator = torch.Generator().manual_seed(0)
    gates = torch.randn(batch, steps, blocks * channels, height, width, generator=generator)
    h0, cotangent = torch.rand(batch, channels, height, width), torch.randn(*size, generator=generator)
    assert cotangent.numel() >= kernels.WORTH_THREADS
    for memory in (gates, gates.movedim(2, -1).contiguous().movedim(-1, 2)):
        results = []
        for count in (1, 2, 3, 8):
            threads(count)
            inputs = memory.clone().requires_grad_(), h0.clone().requires_grad_()
            h = gated_scan(*inputs, gating, "cpu")
            results.append([h.detach(), *torch.autograd.grad(h, inputs, cotangent)])
        for other in results[1:]:
            assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("padding", ["circular", "sphere"])
def test_a_model_is_the_same_with_any_number_of_threads(padding, threads):
    model = forecaster(hidden=20, size=(16, 16), padding=padding)
    frames = torch.randn(1, 6, 1, 16, 16).double()
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(step(model, frames))
    for other in results[1:]:
        assert_all_near(results[0], other, 1e-12)


def test_without_openmp_one_thread_does_all(threads, monkeypatch):
    a, b = torch.rand(2, 3, 20_000), torch.rand(2, 3, 20_000)
    threads(2)
    expected = linear_scan(a, b, b[:, 0], "cpu")
    monkeypatch.setattr(openmp, "parallel", None)
    assert torch.equal(linear_scan(a, b, b[:, 0], "cpu"), expected)


@pytest.mark.parametrize("cell", ["minconvlstm", "convlstm"])
def test_under_checkpoint(cell):
    model, frames = forecaster(cell, size=(6, 6)), torch.randn(2, 5, 1, 6, 6).double()
    expected = step(model, frames)
    changed = torch.nn.Module()
    changed.model = model
    changed.forward = lambda *x: torch.utils.checkpoint.checkpoint(model, *x, use_reentrant=False)
    assert_all_near(step(changed, frames), expected, 1e-10)


def test_the_cpus_layout_goes_through_a_layer_without_copies():
    model = Forecaster("minconvlstm", hidden=8, layers=2)
    x = torch.randn(1, 3, 8, 16, 16)
    gates = model.cells[0].conv(x.flatten(0, 1)).unflatten(0, (1, 3))
    h = model.cells[0](x)[0].flatten(0, 1)
    assert Lanes(gates, "lstm").blocks([gates])[1].data_ptr() == gates[:, :, 8:].data_ptr()
    assert h.is_contiguous(memory_format=torch.channels_last) and cpu.places(h).data_ptr() == h.data_ptr()


def test_gradients_that_can_be_differentiated_are_the_same():
    model, frames = forecaster(size=(6, 6)), torch.randn(2, 5, 1, 6, 6)
    weights = list(model.parameters())
    once, again = (
        torch.autograd.grad(model(frames.double(), 2).square().sum(), weights, create_graph=create)
        for create in (False, True)
    )
    assert_all_near(again, once, 1e-12)
    assert again[0].requires_grad


def test_gradients_through_coefficients_that_depend_on_each_other():
    c = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda c: linear_scan(c, 2 * c, c[:, 0] + c[:, 1], "cpu"), (c,))


BROKEN = """
import sys, types
import torch, minconv
from minconv.core import scan
broken = types.ModuleType("numba")
def refuse(name):
    raise OSError("libsvml.so")
broken.__getattr__ = refuse
sys.modules["numba"] = broken
model = minconv.Forecaster("minconvlstm", hidden=4, layers=2)
model(torch.randn(1, 3, 1, 16, 16), 2).sum().backward()
print("cpu" in scan.usable("cpu"))
"""


@pytest.mark.slow
def test_where_numba_is_broken_eager_operations_serve():
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False"], done.stderr
    assert done.stderr.count("UserWarning: backend cpu is not used, as it cannot be imported: OSError") == 1


@pytest.mark.parametrize("error, warns", [(ModuleNotFoundError, 0), (ImportError, 1), (AttributeError, 1)])
def test_kernels_that_cannot_be_imported_are_asked_for_once(error, warns, monkeypatch):
    calls = []

    def refuse(name):
        calls.append(name)
        raise error(name)

    monkeypatch.setattr(scan, "import_module", refuse)
    monkeypatch.setattr(scan, "_loaded", {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert scan.kernels("cpu") is scan.kernels("cpu") is None and "cpu" not in scan.usable("cpu")
    assert (calls.count("minconv.kernels.cpu"), len([w for w in caught if "backend cpu" in str(w.message)])) == (
        1,
        warns,
    )
    with pytest.raises(ValueError, match="backend must be one whose compiler can be imported; got 'cpu'"):
        linear_scan(*torch.rand(2, 2, 3, 4), torch.rand(2, 4), "cpu")


@pytest.mark.slow
def test_where_no_cache_can_be_written_code_is_compiled_anew(monkeypatch):
    def refuse(signature, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.cfunc(signature, **options)

    monkeypatch.setattr(kernels, "cfunc", refuse)
    kernel = kernels.Kernel(cpu_loops.wrap.body)
    x, padded = torch.arange(6.0).view(1, 6, 1), torch.empty(1, 12, 1)
    kernel(torch.float32, 12, 1, 2, 3, 1, 1, 0, 0, x, padded)
    assert padded.view(4, 3).tolist() == [[3, 4, 5], [0, 1, 2], [3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("name", ["cpu_loops", "program", "recurrent_loops", "rollout_loops", "winograd_loops"])
def test_files_of_loops_change_with_what_they_are_written_with(name):
    """Numba's cache of a file knows of no change in another."""
    digest = hashlib.sha256(Path(kernels.__file__).read_bytes()).hexdigest()[:8]
    assert digest == importlib.import_module(f"minconv.kernels.{name}").COMPILED, "write the digest there"
