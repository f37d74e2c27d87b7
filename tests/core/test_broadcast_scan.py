"""The scan with an a that is smaller than b: what the whole a gives, and nothing of a's written in b's shape."""

from functools import partial
from itertools import product

import pytest
import torch
from helpers import assert_all_near, loop, values_and_gradients

from minconv.core import scan
from minconv.core.scan import linear_scan, usable
from minconv.kernels import distributed

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned")

TOLERANCE = {torch.complex128: 1e-12, torch.complex64: 5e-6, torch.float64: 1e-12, torch.float32: 5e-6}
SHAPE = (2, 9, 3, 4, 5)  # of b
assert_near = partial(assert_all_near, check_dtype=False)
STEADY = [(3, 1, 1), (1, 1, 3, 1, 1), (2, 1, 3, 4, 5), (5,), (1,), (), (2, 1, 1, 1, 1)]
OTHERS = [(9, 1, 1, 1), (2, 9, 1, 1, 1), (1, 9, 3, 4, 5), (9, 3, 4, 5)]
BACKENDS = [name for name in ("reference", "linear", "cpu") if name in usable("cpu")]


def draw(shape: tuple[int, ...], dtype: torch.dtype, size: tuple[int, ...] = SHAPE) -> list[torch.Tensor]:
    """a with |a| < 1, b and h0, which is not zero."""
    generator = torch.Generator().manual_seed(0)
    a, b, h0 = (torch.randn(s, dtype=torch.complex128, generator=generator) for s in (shape, size, size[:1] + size[2:]))
    a = a / (1 + a.abs())
    return [(x if dtype.is_complex else x.real).to(dtype) for x in (a, b, h0)]


def laid_out(x: torch.Tensor) -> torch.Tensor:
    """The same with channels last in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def whole(a: torch.Tensor, b: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
    return loop(a.expand_as(b), b, h0)


@pytest.mark.parametrize(
    "backend, shape, dtype",
    [
        (backend, shape, dtype)
        for backend, shape, dtype in product(["auto", *BACKENDS], STEADY + OTHERS, TOLERANCE)
        if backend != "cpu" or (dtype.is_complex and shape in STEADY)
    ],
)
def test_is_the_loop_with_the_whole_a(backend, shape, dtype):
    inputs = draw(shape, dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = values_and_gradients(whole, *(x.to(wide) for x in inputs))
    for layout in (lambda x: x, laid_out):
        a, b, h0 = inputs[0], *map(layout, inputs[1:])
        found = values_and_gradients(lambda *x: linear_scan(*x, backend), a, b, h0)
        assert found[0].dtype == dtype
        assert_near(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("steps", [1, 2, 31, 300])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_lengths(backend, steps):
    inputs = draw((3, 1, 1), torch.complex128, (2, steps, 3, 4, 5))
    found = values_and_gradients(lambda *x: linear_scan(*x, backend), *inputs)
    assert_near(found, values_and_gradients(whole, *inputs), 1e-11)


@pytest.mark.parametrize("size", [(1, 3, 700, 2, 1), (3, 4, 1, 16, 16), (2, 5, 17, 16, 16)])
def test_more_lanes_than_a_tile_and_any_number_of_threads(size):
    inputs = draw((size[2], 1, 1), torch.complex64, size)
    expected, results = values_and_gradients(whole, *(x.cdouble() for x in inputs)), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(values_and_gradients(linear_scan, *inputs))
        torch.set_num_threads(1)
    assert_near(results[0], expected, 5e-6)
    assert all(torch.equal(one, two) for other in results[1:] for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_conjugated_and_strided_inputs(backend):
    """Views whose memory is another number's, as autograd hands them on."""
    a, b, h0 = draw((3, 1, 1), torch.complex128)
    found = linear_scan(a.conj(), b.flip(1).conj(), h0.mT.contiguous().mT.conj(), backend)
    assert_near([found], [whole(a.conj(), b.flip(1).conj(), h0.conj())], 1e-12)
    h = linear_scan(a.requires_grad_(), b, h0, backend)
    (one,) = torch.autograd.grad(h.conj().imag.sum(), a, retain_graph=True)
    (other,) = torch.autograd.grad(-h.imag.sum(), a)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_and_second_derivatives(backend):
    inputs = [x.requires_grad_() for x in draw((2, 1, 1), torch.complex128, (1, 3, 2, 1, 2))]
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, backend), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: linear_scan(*x, backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_stacked_by_vmap(backend):
    """Each with an a of its own, and one a for all."""
    stacked = [torch.stack(x) for x in zip(*(draw((3, 1, 1), torch.complex128) for _ in range(2)), strict=True)]
    stacked[0][1] *= 0.5
    for dims in ((0, 0, 0), (None, 0, 0)):
        inputs = [(x if dim == 0 else x[0]).requires_grad_() for x, dim in zip(stacked, dims, strict=True)]
        found = torch.vmap(lambda *x: linear_scan(*x, backend), in_dims=dims)(*inputs)
        each = [[x if dim is None else x[s] for x, dim in zip(inputs, dims, strict=True)] for s in range(2)]
        expected = torch.stack([whole(*x) for x in each])
        cotangent = torch.randn(*expected.shape, dtype=expected.dtype)
        assert_near(
            [found, *torch.autograd.grad(found, inputs, cotangent)],
            [expected, *torch.autograd.grad(expected, inputs, cotangent)],
            1e-11,
        )
        stacked = [x.detach() for x in stacked]


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_nothing_of_a_is_made_in_the_shape_of_b(backend):
    """But for h and the gradient by b, no tensor of a pass is larger than a frame."""
    a, b, h0 = draw((3, 1, 1), torch.complex128, (1, 64, 3, 8, 8))
    inputs, made = [x.requires_grad_() for x in (a, b, h0)], []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.untyped_storage().nbytes() > h0.nbytes:
                made.append(found.untyped_storage().data_ptr())
            return found

    cotangent = torch.ones_like(b)
    with Sizes():
        h = linear_scan(*inputs, backend)
        gradients = torch.autograd.grad(h, inputs, cotangent)
    known = {x.untyped_storage().data_ptr() for x in (b, cotangent, h, gradients[1])}
    assert set(made) - known == set() and gradients[0].shape == a.shape


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 1, 3, 1, 1), (9, 1, 1, 1), (9, 3, 4, 5)])
@pytest.mark.parametrize("chunk", [1, 2, 3, 9])
def test_chunks_of_the_gpu_equal_the_loop(shape, chunk, reverse):
    a, b, h0 = draw(shape, torch.complex128)
    a = a.expand_as(b)
    expected = loop(a.flip(1), b.flip(1), h0).flip(1) if reverse else loop(a, b, h0)
    assert_near([scan._chunked(a, b, h0, torch.empty_like(b), reverse, chunk)], [expected], 1e-12)


@pytest.mark.slow
def test_traced():
    a, b, h0 = draw((3, 1, 1), torch.complex128)
    torch._dynamo.reset()
    compiled = torch.compile(linear_scan, fullgraph=True, backend="aot_eager")
    assert_near(values_and_gradients(compiled, a, b, h0), values_and_gradients(whole, a, b, h0), 1e-12)


@pytest.mark.parametrize("size", [(0, 3, 3, 4, 5), (2, 3, 3, 0, 5)])
def test_nothing_in_nothing_out(size):
    inputs = draw((3, 1, 1), torch.complex128, size)
    h, _, of_a, *_ = values_and_gradients(linear_scan, *inputs)
    assert h.shape == size and torch.equal(of_a, torch.zeros_like(inputs[0]))


# Bad input


@pytest.mark.parametrize("backend", ["logspace", "triton", "distributed"])
def test_backends_that_want_the_whole_a_say_so(backend):
    a, b, h0 = (x.abs() for x in draw((3, 1, 1), torch.float64))
    with pytest.raises(ValueError, match=rf"a must have b's shape .* for backend {backend}; got \[3, 1, 1\]"):
        linear_scan(a, b, h0, backend)
    with pytest.raises(ValueError, match="a must have b's shape"):
        distributed.linear_scan(a, b, h0)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="needs Numba")
@pytest.mark.parametrize("shape, dtype", [((3, 1, 1), torch.float64), ((9, 3, 1, 1), torch.complex128)])
def test_the_fused_kernel_is_for_complex_numbers_of_all_times(shape, dtype):
    with pytest.raises(ValueError, match="a must be complex and the same at all times, or of b's shape"):
        linear_scan(*draw(shape, dtype), "cpu")


@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 1, 1, 1), (1, 2, 9, 3, 4, 5), (2, 3, 3, 4, 5)])
def test_shapes_that_do_not_broadcast(shape):
    with pytest.raises(ValueError, match=r"a and b must have one shape .* to which a does not broadcast"):
        linear_scan(*draw(shape, torch.float64))
