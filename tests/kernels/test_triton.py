"""What is particular to the Triton kernels, which test_scan.py holds to the loop. Without a GPU they run in Triton's
interpreter, and compile for one all the same."""

import os
from functools import partial
from importlib.util import find_spec
from math import isqrt

import helpers
import pytest
import torch
from helpers import assert_all_near, printed, random

from minconv.core.gates import GATINGS, coefficients
from minconv.kernels import triton
from minconv.kernels.autograd import scans

pytestmark = pytest.mark.usefixtures("one_thread")
installed = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
runs = pytest.mark.skipif(not triton.available(), reason="needs Triton, and a CUDA device or TRITON_INTERPRET=1")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALL = ("linear", *GATINGS)
SLOW = pytest.mark.slow if DEVICE == "cpu" else ()  # in the interpreter
SOME = [pytest.param(gating, marks=SLOW if gating != "lstm" else ()) for gating in ALL]


def draw(gating: str, steps: int, *tail: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Inputs of the scan of two sequences of states ``tail``, and its cotangent."""
    channels, *frame = tail
    normal = partial(random, dtype=dtype, device=DEVICE)
    h0, cotangent = normal(2, *tail, seed=1), normal(2, steps, *tail, seed=2)
    if gating == "linear":
        return [normal(2, steps, *tail, seed=3).sigmoid(), normal(2, steps, *tail, seed=4), h0, cotangent]
    return [normal(2, steps, GATINGS[gating].blocks * channels, *frame, seed=5), h0, cotangent]


def loop(gating: str, *inputs: torch.Tensor) -> torch.Tensor:
    *gates, h0 = inputs
    return helpers.loop(*(gates if gating == "linear" else coefficients(*gates, gating)), h0)


def scan(gating: str, *inputs: torch.Tensor, chunks: int | None = None) -> torch.Tensor:
    linear_scan, gated_scan = scans(partial(triton.forward, chunks=chunks), partial(triton.backward, chunks=chunks))
    return linear_scan(*inputs) if gating == "linear" else gated_scan(*inputs, gating)


def values_and_gradients(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    *inputs, cotangent = inputs
    inputs = [x.detach().requires_grad_() for x in inputs]
    h = function(*inputs)
    return [h.detach(), *torch.autograd.grad(h, inputs, cotangent)]


def assert_loop(gating: str, inputs: list[torch.Tensor], chunks: int | None = None) -> None:
    found = values_and_gradients(partial(scan, gating, chunks=chunks), inputs)
    expected = values_and_gradients(partial(loop, gating), inputs)
    assert_all_near(found, expected, 1e-12, least=0)


# Chunks of time


@pytest.mark.parametrize(
    "lanes, steps, processors, chunks",
    [
        (4 * 128 * 132, 2048, 132, 1),  # fill half of the chip
        (4 * 128 * 131, 2048, 132, 3),
        (10 * 1024, 2048, 132, 14),  # 80 programs of 1056
        (128, 2048, 132, 45),  # not more than sqrt(T)
        (1, 64, 132, 8),
        (1, 63, 132, 1),  # short
        (128, 2048, 0, 1),  # the interpreter
    ],
)
def test_chunks_where_lanes_do_not_fill_the_chip(lanes, steps, processors, chunks):
    assert triton.chunk_count(lanes, steps, processors) == chunks


def test_more_lanes_fewer_chunks():
    counts = [triton.chunk_count(lanes, 1000, 132) for lanes in range(1, 10**5, 997)]
    assert counts == sorted(counts, reverse=True) and counts[0] == isqrt(1000) and counts[-1] == 1


@runs
@pytest.mark.parametrize("gating", SOME)
@pytest.mark.parametrize("steps", [2, 17, pytest.param(65, marks=SLOW)])
def test_any_cut_in_time(gating, steps):
    assert_loop(gating, draw(gating, steps, 3, 5, 1), chunks=4)


@runs
def test_a_chunk_for_every_step():
    assert_loop("lstm", draw("lstm", 5, 3, 5, 1), chunks=1000)


@runs
def test_chunks_are_summed_once(monkeypatch):
    launches = record(monkeypatch)
    for chunks, expected in ((1, [(1, 1)]), (7, [(1, 6), (1, 7)]), (9, [(1, 7), (1, 8)])):  # 31 = 7 * 4 + 3
        scan("gru", *draw("gru", 31, 3, 5, 1)[:2], chunks=chunks)
        assert [grid for _, grid, _ in launches] == expected
        launches.clear()


# Lanes


def record(monkeypatch) -> list[tuple[str, tuple[int, int], tuple]]:
    """Name, grid and arguments of every launch from now on."""
    launches = []

    class Recorder:
        def __init__(self, name, kernel):
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            def launch(*arguments, **options):
                launches.append((self.name, grid, arguments))
                return self.kernel[grid](*arguments, **options)

            return launch

    kernels = {name: Recorder(name, kernel) for name, kernel in triton._kernels().items()}
    monkeypatch.setattr(triton, "_kernels", lambda: kernels)
    return launches


@runs
@pytest.mark.parametrize("gating", SOME[1:])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every other step", "of a wider tensor"])
def test_gates_are_not_copied(gating, layout, monkeypatch):
    gates, h0, cotangent = draw(gating, 7, 8, 2, 4)
    if layout == "channels_last":
        gates = gates.movedim(2, -1).contiguous().movedim(-1, 2)
    elif layout == "every other step":
        gates = gates.repeat_interleave(2, 1)[:, ::2]
    elif layout == "of a wider tensor":
        gates = torch.cat([gates, gates], 2)[:, :, : gates.shape[2]]
    assert gates.is_contiguous() == (layout == "contiguous")
    launches = record(monkeypatch)
    gates.requires_grad_()
    h = scan(gating, gates, h0)
    (gradient,) = torch.autograd.grad(h, gates, cotangent)
    forward, backward = (arguments[0] for _, _, arguments in launches)
    k = GATINGS[gating].blocks
    pointers = [block.data_ptr() for block in gates.chunk(k, 2)]
    assert [x.data_ptr() for x in forward] == [*pointers, h.data_ptr()]
    assert [x.data_ptr() for x in backward[: k + 1]] == [*pointers, h.data_ptr()]
    assert [x.data_ptr() for x in backward[k + 2 :]] == [block.data_ptr() for block in gradient.chunk(k, 2)]
    monkeypatch.undo()
    assert_loop(gating, [gates.detach(), h0, cotangent])


@runs
@pytest.mark.parametrize("tail, unit", [((8, 4, 4), 16), ((3, 2, 2), 4), ((3, 5, 7), 1), ((6, 1, 1), 2)])
def test_lanes_of_a_thread_at_once(tail, unit, monkeypatch):
    """What divides the lanes and all strides comes apart from them, so that the compiler may use wide loads."""
    launches = record(monkeypatch)
    scan("gru", *draw("gru", 3, *tail)[:2])
    ((_, _, (_, strides, _, _, _, _, _, size, lanes)),) = launches
    numel = tail[0] * tail[1] * tail[2]
    assert (size * unit, lanes * unit) == (numel, 2 * numel)
    assert [step * unit for _, step, _ in strides] == [2 * numel, 2 * numel, numel]


@runs
@pytest.mark.slow
def test_more_lanes_than_one_program_takes():
    for gating in ("linear", "lstm"):
        assert_loop(gating, draw(gating, 5, 7, 37, 11), chunks=2)  # 5698 lanes


# Numbers


@runs
@pytest.mark.slow
@pytest.mark.parametrize("gating", GATINGS)
def test_bfloat16_is_summed_in_float32(gating):
    """With a long memory, a of about 0.99, in which the roundings of every step add up."""
    gates, h0, cotangent = draw(gating, 200, 3, 5, 1, dtype=torch.bfloat16)
    gates.chunk(GATINGS[gating].blocks, 2)[-2].sub_(5)  # z or i: writes little
    inputs = [gates, h0, cotangent]
    found = values_and_gradients(partial(scan, gating), inputs)
    rounded = values_and_gradients(partial(loop, gating), inputs)
    exact = values_and_gradients(partial(loop, gating), [x.double() for x in inputs])
    for one, other, true in zip(found, rounded, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - true).norm() < 0.3 * (other - true).norm()


@runs
def test_state_is_not_rounded_along_time():
    """A sum of 300 ones, which bfloat16 could not count: 256 + 1 is 256."""
    one = torch.ones(1, 300, 4, dtype=torch.bfloat16, device=DEVICE)
    h = scan("linear", one, one, torch.zeros_like(one[:, 0]))
    assert h[0, -1].tolist() == [300.0] * 4


@runs
@pytest.mark.parametrize("gating", GATINGS)
def test_both_gates_are_exact_to_the_last_digits(gating):
    """a and 1 - a by themselves, where the other is 1 but for rounding: h_1 with h_0 = 1, u = -1/2, and the reverse."""
    k = GATINGS[gating].blocks
    logits = torch.tensor([-80.0, -40.0, -20.0, -3.0, 0.0, 3.0, 20.0, 40.0, 80.0], device=DEVICE)
    inner = torch.cartesian_prod(*[logits] * (k - 1)).reshape(-1, k - 1).T
    low = torch.full_like(inner[:1], -200.0)  # g(u) = 0
    for u, h0 in ((low, 1.0), (low * 0 + 0.5, 0.0)):  # h = a; h = 1 - a
        gates = torch.cat([inner, u])[None, None, :, :, None]
        h = scan(gating, gates, torch.full_like(gates[:, 0, :1], h0))
        expected = loop(gating, gates.double(), torch.full_like(gates[:, 0, :1], h0).double())
        shown = expected > 1e-37
        torch.testing.assert_close(h[shown].double(), expected[shown], rtol=2e-5 if DEVICE == "cuda" else 2e-6, atol=0)


@runs
@pytest.mark.parametrize("gating", GATINGS)
def test_nan_comes_out(gating):
    k = GATINGS[gating].blocks
    for block in range(k):
        gates, h0, _ = draw(gating, 5, 3, 1, 1)
        gates[0, 2, 3 * block + 1] = torch.nan
        bad = scan(gating, gates, h0).isnan()
        assert bad[0, 2:, 1].all() and bad.sum() == 3


# Refusals and the package triton


def test_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    ones = torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match="h0 must be on a CUDA device for backend triton; got cpu"):
        triton.linear_scan(ones, ones, ones[:, 0])
    with pytest.raises(ValueError, match="h0 must be on a CUDA device for backend triton; got cpu"):
        triton.gated_scan(torch.ones(2, 3, 4, 1, 1), torch.ones(2, 2, 1, 1), "gru")


def test_complex_numbers_are_refused():
    ones = torch.ones(2, 3, 4, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"h0 must be one of torch.float16, .*torch.float64 for .* got torch.complex64"):
        triton.linear_scan(ones, ones, ones[:, 0])


@pytest.mark.parametrize(
    "package, gpu, interpreted, expected",
    [(True, True, "0", True), (True, False, "1", True), (True, False, "0", False), (False, True, "1", False)],
)
def test_available(package, gpu, interpreted, expected, monkeypatch):
    monkeypatch.setattr(triton, "INSTALLED", package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    assert triton.available() is expected


def fresh(code: str, **environment: str) -> str:
    """What ``code`` prints in a process of its own, which does not interpret."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return printed(code, env=kept | environment)


@pytest.mark.slow
def test_the_package_is_asked_for_by_the_first_scan_only():
    code = "import sys; sys.modules['triton'] = None; from minconv.kernels import triton; print(triton.available())"
    assert fresh(code).split() == ["False"]


COMPILE = """
import re, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from minconv.kernels import triton
from minconv.core.scan import GATINGS
from minconv.kernels.autograd import Lanes

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0

class Compiler:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments, **options: show(self.kernel.warmup(*arguments, grid=grid, **options))

def show(compiled):
    ptx = compiled.asm["ptx"]
    print(len(compiled.asm["cubin"]) > 0, len(re.findall("cp.async.c[ag]", ptx)), len(re.findall("st.global.v", ptx)))

driver.set_active(Driver())
kernels = {name: Compiler(kernel) for name, kernel in triton._kernels().items()}
triton._kernels = lambda: kernels
triton._check = lambda h0: None
for gating, dtype in (("linear", "float32"), ("gru", "bfloat16"), ("lstm", "float32"), ("explstm", "bfloat16")):
    blocks = 1 if gating == "linear" else GATINGS[gating].blocks
    gates = torch.ones(2, 9, blocks * 8, 4, 4, dtype=getattr(torch, dtype))
    inputs = (gates, gates) if gating == "linear" else (gates,)
    h0 = gates[:, 0, :8].clone()
    lanes = Lanes(gates, gating)
    h, (grads, _) = lanes.empty(h0), lanes.empty_gradients(gates)
    arguments = gating, lanes.blocks(inputs), lanes.state(h0), h
    triton.forward(*arguments, chunks=3)
    triton.backward(*arguments, h, grads, lanes.state(h0), chunks=3)
"""


@installed
@pytest.mark.slow
def test_compiles_for_a_gpu(tmp_path):
    """To machine code of an H200 with loads ahead of time and wide stores, as launched, but for a stand-in driver."""
    shown = fresh(COMPILE, TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    assert len(shown) == 16  # summary and scan, forward and backward, of each gating
    for line in shown:
        compiled, loads, stores = line.split()
        assert compiled == "True" and int(loads) > 0 and int(stores) > 0
