"""The padded convolution and the residual norm against torch's own; outputs and gradients, by kernels and eagerly."""

from math import pi

import pytest
import torch
from helpers import padded, random
from torch.nn import functional as F

from minconv.core import layers
from minconv.core.layers import PADDINGS, PaddedConv2d, on_frames, wrap
from minconv.core.scan import usable

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned")


@pytest.fixture(params=["kernels", "eager"], autouse=True)
def way(request, monkeypatch) -> str:
    """With the compiled kernels, and as where there are none."""
    if request.param == "eager":
        monkeypatch.setattr(layers, "_fused_wrap", lambda x: None)
    elif "cpu" not in usable("cpu"):
        pytest.skip("needs numba")
    return request.param


def conv(padding: str, kernel: int = 3, into: int = 2, out: int = 3) -> PaddedConv2d:
    torch.manual_seed(0)
    return PaddedConv2d(into, out, kernel, padding).double()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "kernel, size",
    [
        (1, (4, 5)),
        (3, (1, 7)),
        (3, (7, 1)),
        (3, (1, 1)),
        (5, (2, 3)),
        (7, (3, 3)),
    ],
)
def test_convolution_keeps_the_size_and_pads_place_by_place(padding, kernel, size):
    layer = conv(padding, kernel)
    if padding == "sphere":  # of even width only
        size = size[0], 2 * size[1]
    x = random(2, 2, *size).requires_grad_()
    expected = F.conv2d(padded(x, padding, (kernel // 2,) * 2), layer.weight, layer.bias)
    found = layer(x)
    assert found.shape == (2, 3, *size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs, cotangent = (x, layer.weight, layer.bias), random(*found.shape, seed=2)
    one, other = (torch.autograd.grad(y, inputs, cotangent) for y in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradcheck(padding):
    layer = conv(padding, into=1, out=1)
    x = random(1, 1, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


POLES = {"circular": False, "sphere": True}


@pytest.mark.parametrize("padding", POLES)
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("margins", [(0, 0), (1, 0), (0, 2), (3, 4)])
def test_wrap_takes_margins_from_the_other_side(margins, memory, padding):
    x = random(2, 5, 3, 4).contiguous(memory_format=FORMATS[memory])
    expected, pole = padded(x, padding, margins), POLES[padding]
    for dtype in (torch.float64, torch.float32):
        found = wrap(margins, x.to(dtype), pole)
        assert found.dtype == dtype and torch.equal(found, expected.to(dtype))
    x.requires_grad_()
    cotangent = random(*expected.shape, seed=2)
    (found,), (back,) = (
        torch.autograd.grad(y, x, cotangent) for y in (wrap(margins, x, pole), padded(x, padding, margins))
    )
    torch.testing.assert_close(found, back, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance, kernel", [(torch.float64, 1e-12, 3), (torch.float32, 1e-4, 5)])
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_gradient_of_the_padded_convolution_is_its_adjoint(padding, memory, dtype, tolerance, kernel):
    """<A x, y> = <x, A' y> for the linear part A of the layer."""
    layer = conv(padding, kernel).to(dtype)
    x = random(3, 2, 5, 8).to(dtype).contiguous(memory_format=FORMATS[memory]).requires_grad_()
    found = layer(x) - layer.bias.view(-1, 1, 1)
    y = random(*found.shape, seed=2).to(dtype).contiguous(memory_format=FORMATS[memory])
    (back,) = torch.autograd.grad(found, x, y)
    one, other = ((a.double() * b.double()).sum() for a, b in ((found, y), (x, back)))
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * y.norm().item())


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_in_vmap_over_any_dimension(padding):
    layer, x = conv(padding), random(2, 2, 2, 4, 6)
    for dim in (0, 1):
        expected = torch.stack([layer(one) for one in x.unbind(dim)])
        torch.testing.assert_close(torch.vmap(layer, in_dims=dim)(x), expected, rtol=0, atol=1e-14)


HARMONICS = {  # real, of degree l and order m, without their norms, in Cartesian coordinates of the unit sphere
    "l=1, m=1": lambda x, y, z: x,
    "l=2, m=0": lambda x, y, z: 3 * z**2 - 1,
    "l=2, m=1": lambda x, y, z: y * z,
    "l=3, m=-2": lambda x, y, z: x * y * z,
    "l=4, m=3": lambda x, y, z: x * (x**2 - 3 * y**2) * z,
}


@pytest.mark.parametrize("harmonic", HARMONICS)
def test_on_the_sphere_a_harmonic_goes_on_over_the_poles(harmonic):
    """Its margin is the function itself at latitudes beyond 90 degrees, where cos(latitude) changes sign."""
    height, width, margins = 8, 16, (3, 2)

    def sample(up: int, left: int) -> torch.Tensor:
        rows, columns = torch.arange(-up, height + up).double(), torch.arange(-left, width + left).double()
        latitude, longitude = (rows[:, None] + 0.5) * pi / height - pi / 2, columns * 2 * pi / width
        x, y = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin()
        return HARMONICS[harmonic](x, y, latitude.sin().expand_as(x)).view(1, 1, *x.shape)

    torch.testing.assert_close(wrap(margins, sample(0, 0), pole=True), sample(*margins), rtol=0, atol=1e-14)


def test_the_sphere_turns_and_mirrors_with_its_margins():
    """A field turned about the axis, or with its hemispheres or its longitudes exchanged, gives its margins so."""
    x = random(2, 3, 4, 6)
    for turn in (1, -4):
        assert torch.equal(wrap((2, 0), x.roll(turn, -1), pole=True), wrap((2, 0), x, pole=True).roll(turn, -1))
    for axis in (-2, -1):
        assert torch.equal(wrap((2, 3), x.flip(axis), pole=True), wrap((2, 3), x, pole=True).flip(axis))


def test_gradients_of_wrap_are_found_by_transforms_too():
    x = random(1, 1, 3, 4)
    found = torch.func.grad(lambda x: wrap((1, 2), x).square().sum())(x)
    assert torch.equal(found, torch.autograd.functional.jacobian(lambda x: wrap((1, 2), x).square().sum(), x))


def test_no_frames():
    x = random(0, 3, 4, 5)
    assert wrap((1, 1), x).shape == (0, 3, 6, 7)


def test_margins_larger_than_the_frame_are_refused():
    for pole in (False, True):
        with pytest.raises(ValueError, match=r"frames must be at least 5 wide where they wrap; got \[1, 1, 4, 6\]"):
            wrap((5, 0), random(1, 1, 4, 6), pole)


def test_the_sphere_has_an_even_width():
    with pytest.raises(ValueError, match=r"the width of frames must be even for padding sphere; got \[1, 2, 4, 5\]"):
        conv("sphere")(random(1, 2, 4, 5))


@pytest.mark.parametrize("padding", ["circular", "sphere", "replicate"])
def test_a_constant_stays_constant_where_nothing_is_zero(padding):
    layer = conv(padding)
    found = layer(torch.ones(1, 2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(found, found[..., :1, :1].expand_as(found), rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", ["cylinder", "sphere"])
def test_the_globe_is_periodic_in_width_only(padding):
    layer, x = conv(padding), random(1, 2, 4, 6)
    torch.testing.assert_close(layer(x.roll(2, -1)), layer(x).roll(2, -1), rtol=0, atol=1e-14)
    assert not torch.allclose(layer(x.roll(1, -2)), layer(x).roll(1, -2))


@pytest.mark.parametrize("padding", PADDINGS)
def test_keeps_the_dtype_of_its_input_under_autocast(padding):
    layer, x = conv(padding).float(), random(1, 2, 4, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(x), rtol=0, atol=3e-2)


def test_on_frames_is_the_layer_on_every_frame():
    layer, x = conv("circular"), random(2, 3, 2, 4, 5)
    expected = torch.stack([layer(x[:, t]) for t in range(3)], 1)
    torch.testing.assert_close(on_frames(layer, x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dilation", [2, 3])
def test_a_dilated_kernel_is_a_larger_one_with_zeros_between(padding, dilation):
    dilated, x = PaddedConv2d(2, 3, 3, padding, dilation).double(), random(2, 2, 8, 6)
    dense = PaddedConv2d(2, 3, 1 + 2 * dilation, padding).double()
    with torch.no_grad():
        dense.weight.zero_()[..., ::dilation, ::dilation] = dilated.weight
        dense.bias.copy_(dilated.bias)
    torch.testing.assert_close(dilated(x), dense(x), rtol=0, atol=1e-12)


def test_says_what_it_is():
    assert "2, 3, kernel_size=3, padding=cylinder" in repr(conv("cylinder"))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            (2, 3, 3, "reflect"),
            ValueError,
            "padding must be one of zeros, circular, cylinder, sphere, replicate; got 'reflect'",
        ),
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


@pytest.mark.parametrize(
    "padding, size", [("circular", (1, 4)), ("circular", (4, 1)), ("cylinder", (4, 1)), ("sphere", (1, 4))]
)
def test_rejects_frames_that_wrap_more_than_once(padding, size):
    with pytest.raises(ValueError, match="at least 2 wide where they wrap"):
        conv(padding, 5)(random(1, 2, *size))
    if padding == "cylinder":
        assert conv(padding, 5)(random(1, 2, *size[::-1])).shape == (1, 3, 1, 4)
