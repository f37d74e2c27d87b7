"""The padded convolution against torch's own padding; outputs and gradients."""

import pytest
import torch
from torch.nn import functional as F

from minconv.layers import PADDINGS, PaddedConv2d, _Wrap, on_frames

pytestmark = pytest.mark.usefixtures("one_thread")


def conv(padding: str, kernel: int = 3, into: int = 2, out: int = 3) -> PaddedConv2d:
    torch.manual_seed(0)
    return PaddedConv2d(into, out, kernel, padding).double()


def frames(*size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def padded(x: torch.Tensor, padding: str, width: int) -> torch.Tensor:
    """x [N, C, H, W] with a margin, by F.pad."""
    if padding == "circular":
        return F.pad(x, (width,) * 4, mode="circular")
    if padding == "cylinder":
        return F.pad(F.pad(x, (width, width, 0, 0), mode="circular"), (0, 0, width, width))
    return F.pad(x, (width,) * 4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "kernel, size",
    [(1, (4, 5)), (3, (4, 5)), (3, (2, 2)), (3, (1, 7)), (3, (7, 1)), (3, (1, 1)), (5, (2, 3)), (7, (3, 3))],
)
def test_convolution_keeps_the_size_and_pads_as_torch_does(padding, kernel, size):
    layer = conv(padding, kernel)
    x = frames(2, 2, *size).requires_grad_()
    expected = F.conv2d(padded(x, padding, kernel // 2), layer.weight, layer.bias)
    found = layer(x)
    assert found.shape == (2, 3, *size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs, cotangent = (x, layer.weight, layer.bias), frames(*found.shape, seed=2)
    for one, other in zip(
        torch.autograd.grad(found, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradcheck(padding):
    layer = conv(padding, into=1, out=2)
    x = frames(1, 1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_wrap_takes_margins_from_the_other_side(axis, width):
    x = frames(2, 1, 3, 4)
    found = _Wrap.apply(x, axis, width)
    size = x.shape[axis]
    expected = x.index_select(axis, torch.arange(-width, size + width) % size)
    assert torch.equal(found, expected)
    assert torch.autograd.gradcheck(_Wrap.apply, (x.requires_grad_(), axis, width))


def test_wrap_in_vmap_over_any_dimension():
    x = frames(2, 3, 1, 4, 5)
    for dim in (0, 1):
        found = torch.vmap(lambda one: _Wrap.apply(one, -1, 1), in_dims=dim)(x)
        assert torch.equal(found, torch.stack([_Wrap.apply(one, -1, 1) for one in x.unbind(dim)]))


def test_a_constant_stays_constant_where_nothing_is_zero():
    layer = conv("circular")
    found = layer(torch.ones(1, 2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(found, found[..., :1, :1].expand_as(found), rtol=0, atol=1e-14)


def test_cylinder_is_periodic_in_width_only():
    layer, x = conv("cylinder"), frames(1, 2, 4, 6)
    torch.testing.assert_close(layer(x.roll(2, -1)), layer(x).roll(2, -1), rtol=0, atol=1e-14)
    assert not torch.allclose(layer(x.roll(1, -2)), layer(x).roll(1, -2))


@pytest.mark.parametrize("padding", PADDINGS)
def test_keeps_the_dtype_of_its_input_under_autocast(padding):
    layer, x = conv(padding).float(), frames(1, 2, 4, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(x), rtol=0, atol=3e-2)


def test_on_frames_is_the_layer_on_every_frame():
    layer, x = conv("circular"), frames(2, 3, 2, 4, 5)
    expected = torch.stack([layer(x[:, t]) for t in range(3)], 1)
    torch.testing.assert_close(on_frames(layer, x), expected, rtol=0, atol=1e-14)


def test_says_what_it_is():
    assert "2, 3, kernel_size=3, padding=cylinder" in repr(conv("cylinder"))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((2, 3, 3, "reflect"), ValueError, "padding must be one of zeros, circular, cylinder; got 'reflect'"),
        ((2, 3, 3, None), TypeError, "padding must be a string"),
        ((2, 3, 4), ValueError, "kernel_size must be odd.*4"),
        ((2, 3, 0), ValueError, "kernel_size must be at least 1; got 0"),
        ((2, 3, 3.0), TypeError, "kernel_size must be a whole number; got 3.0"),
        ((0, 3), ValueError, "in_channels must be at least 1; got 0"),
        ((2, -1), ValueError, "out_channels must be at least 1; got -1"),
    ],
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        PaddedConv2d(*arguments)


@pytest.mark.parametrize("padding, size", [("circular", (1, 4)), ("circular", (4, 1)), ("cylinder", (4, 1))])
def test_rejects_frames_that_wrap_more_than_once(padding, size):
    with pytest.raises(ValueError, match="at least 2 wide where they wrap"):
        conv(padding, 5)(frames(1, 2, *size))
    if padding == "cylinder":
        assert conv(padding, 5)(frames(1, 2, *size[::-1])).shape == (1, 3, 1, 4)
