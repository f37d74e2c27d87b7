"""The residual norms."""

import pytest
import torch
from helpers import random

from minconv.models.norms import ChannelNorm, ResidualNorm, residual_norm_of


def normed(size: tuple[int, ...], dtype: torch.dtype = torch.float64):
    """The residual norm with an affine map, and x, y [B, T, C, H, W] for it."""
    norm = ResidualNorm(size[-2:]).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(1 + random(*size[-2:], seed=3))
        norm.bias.copy_(random(*size[-2:], seed=4))
    return norm, (3 + random(*size)).to(dtype).requires_grad_(), random(*size, seed=2).to(dtype).requires_grad_()


@pytest.mark.parametrize("size", [(2, 3, 5, 4, 6), (1, 2, 1, 3, 3), (3, 1, 2, 7, 1)])
def test_residual_norm_is_that_of_the_sum_over_height_and_width(size):
    norm, x, y = normed(size)
    found, z = norm(x, y), x + y
    normal = (z - z.mean((-2, -1), keepdim=True)) / (z.var((-2, -1), correction=0, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(found, normal * norm.weight + norm.bias, rtol=0, atol=1e-12)
    channels_last = (one.detach().movedim(2, -1).contiguous().movedim(-1, 2) for one in (x, y))
    torch.testing.assert_close(norm(*channels_last), found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("over, dims", [("frame", (2, 3, 4)), ("channels", (2,))])
def test_channel_norm_takes_mean_and_variance_away(over, dims):
    norm, (x, y) = ChannelNorm(3, over).double(), (random(2, 4, 3, 5, 6, seed=seed) for seed in (1, 2))
    z = norm(x, y)
    torch.testing.assert_close(z.mean(dims), torch.zeros_like(z.mean(dims)), rtol=0, atol=1e-12)
    before = (x + y).var(dims, correction=0)
    torch.testing.assert_close(z.var(dims, correction=0), before / (before + norm.eps), rtol=0, atol=1e-12)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
    affine = z * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x, y), affine, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(norm, [tensor[:1, :2].requires_grad_() for tensor in (x, y)])
    together = torch.vmap(norm)(torch.stack([x, y]), torch.stack([y, 2 * x]))
    torch.testing.assert_close(together, torch.stack([norm(x, y), norm(y, 2 * x)]), rtol=0, atol=1e-12)


def test_only_the_norm_over_the_plane_makes_all_channels_one_size():
    x, y = random(1, 1, 2, 6, 6) * torch.tensor([1.0, 10.0], dtype=torch.float64)[:, None, None], torch.zeros(1)
    sizes = {
        norm: residual_norm_of(norm, 2, (6, 6)).double()(x, y.double().expand_as(x)).std((-2, -1)).flatten().tolist()
        for norm in ("plane", "frame")
    }
    small, large = x.std((-2, -1)).flatten().tolist()
    assert sizes["plane"][1] / sizes["plane"][0] == pytest.approx(1, rel=1e-3)
    assert sizes["frame"][1] / sizes["frame"][0] == pytest.approx(large / small, rel=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_residual_norm_shows_what_is_not_finite(bad):
    norm, x, y = normed((2, 3, 5, 4, 6))
    with torch.no_grad():
        x[1, 2, 3, 0, 0] = bad
    frame = norm(x, y)[1, 2]
    assert frame[3].isnan().all() and frame[:3].isfinite().all() and frame[4].isfinite().all()
