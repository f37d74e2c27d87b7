"""The operator and the cell of ConvS5 (Smith et al., NeurIPS 2023, arXiv 2310.19694).

    x_t = a x_{t-1} + conv(u_t, b B),    y_t = 2 Re conv(x_t, C),    a = exp(lam Delta),    b = (a - 1) / lam

with complex x [B, P, H, W] and P numbers a, the same at all times and places, which do not see the input. ``ConvSSM``
is this operator and ``ConvS5`` the operator and the nonlinear layers that follow it, both cells:
``y, state = cell(u, state)`` with a real state [B, 2P, H, W], real parts first.

The factor 2 stands for the conjugate half of the state, which is not stored. a and b are computed in float64: in
float32 the phase of a fast channel, up to 2000 rad at the start, is off by 3e-4.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.core.cells import Cell
from minconv.core.layers import PADDINGS, PaddedConv2d, kept, on_frames, padded_conv2d
from minconv.core.scan import BACKENDS, linear_scan, transformed
from minconv.models.sugar import sugar
from minconv.runtime.checks import choice, whole

EPS = 1e-6  # of all norms
CLIP = -1e-4  # of the real parts of the eigenvalues, from above
STEP = 1e-3, 1e-1  # least and largest Delta at the start
ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "swish": F.silu,
    "elu": F.elu,
    "sugar": sugar,
}


# The operator


@cache
def hippo(size: int, blocks: int = 1) -> tuple[Tensor, Tensor]:
    """Eigenvalues lam [P] and eigenvectors V [S, P], S = size and P = S / 2, of the normal part of HiPPO-LegS.

    In float64 on the CPU, whatever the default. That matrix, S / blocks x S / blocks, is -1/2 and a skew-symmetric
    one; of each conjugate pair the eigenvalue with negative imaginary part is given.

    Raises:
        TypeError, ValueError: size is no multiple of 2 blocks.
    """
    if whole("state_size", size, 2) % (2 * whole("blocks", blocks, 1)):
        raise ValueError(f"state_size must be a multiple of 2 x {blocks} blocks; got {size}")
    n = torch.arange(size // blocks, dtype=torch.float64, device="cpu")
    root = (2 * n + 1).sqrt()
    normal = -(root[:, None] * root).tril(-1) - torch.diag(n + 1) + (root[:, None] * root) / 2
    skew = normal + torch.eye(len(n), dtype=torch.float64, device="cpu") / 2
    w, v = torch.linalg.eigh(-1j * skew)
    lam, v = torch.complex(torch.full_like(w, -0.5), w)[: len(n) // 2], v[:, : len(n) // 2]
    return lam.repeat(blocks), torch.block_diag(*[v] * blocks)


class ConvSSM(Cell):
    """The operator alone, y = 2 Re conv(x, C), which is linear in u and in the state.

    Args:
        kernel_size: odd sizes of B's and of C's kernel, or one for both.
        backend: of the scan, see ``minconv.core.scan.linear_scan``: ``auto``, ``reference``, ``linear`` or ``cpu``.
        state_size: S = 2P; by default ``channels``, or one less where that is odd.
        blocks: of the HiPPO matrix that lam is initialised with; S is a multiple of twice as many.
        clip_eigs: keeps the real part of lam at -1e-4 or below. Without it |a| may grow above 1; with it a channel that
            is above has no gradient that brings it back.

    Raises:
        TypeError, ValueError: as ``Cell``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int | Sequence[int] = 3,
        padding: str = "zeros",
        backend: str = "auto",
        dilation: int = 1,
        state_size: int | None = None,
        blocks: int = 1,
        clip_eigs: bool = True,
    ):
        super().__init__(in_channels, channels)
        self.backend = choice("backend", backend, ("auto", *BACKENDS))
        self.padding, self.dilation = choice("padding", padding, PADDINGS), whole("dilation", dilation, 1)
        self.clip_eigs = clip_eigs
        of_b, of_c = _kernels(kernel_size, 2)
        self.widths = self.dilation * (of_b // 2), self.dilation * (of_c // 2)  # of the margins
        lam, v = hippo(max(2, channels // 2 * 2) if state_size is None else state_size, blocks)
        size, self.states = v.shape
        kind = {"dtype": torch.get_default_dtype()}
        lam, v = lam.to(torch.get_default_device()), v.to(torch.get_default_device())
        self.Lambda_re, self.Lambda_im = (nn.Parameter(part.to(**kind, copy=True)) for part in (lam.real, lam.imag))
        self.log_step = nn.Parameter(torch.empty(self.states).uniform_(*map(math.log, STEP)))
        into = he_normal(size, in_channels * of_b**2, fan_in=in_channels * of_b**2)
        out = he_normal(channels * of_c**2, size, fan_in=size * of_c**2)
        into = (v.mH @ into.to(v)).unflatten(1, (in_channels, of_b, of_b))
        out = (out.to(v) @ v).unflatten(0, (channels, of_c, of_c)).movedim(-1, 1)
        self.B = nn.Parameter(channels_last(torch.cat([into.real, into.imag]).to(**kind)))  # [2P, U, k, k]
        self.C = nn.Parameter(channels_last(torch.cat([out.real, out.imag], 1).to(**kind)))  # [U, 2P, k, k]

    def _state_shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[0], 2 * self.states, *x.shape[-2:])

    def discretised(self) -> tuple[Tensor, Tensor]:
        """a and b [P] of the zero-order hold, in complex128."""
        real = self.Lambda_re.double()
        lam = torch.complex(real.clamp(max=CLIP) if self.clip_eigs else real, self.Lambda_im.double())
        step = self.log_step.double().exp()
        a, zero = (lam * step).exp(), lam == 0
        return a, torch.where(zero, step.to(lam), (a - 1) / torch.where(zero, torch.ones_like(lam), lam))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, C, H, W], state [B, 2P, H, W] (real parts first) -> y [B, T, C', H, W], new state."""
        state = self._check(x, state)
        wide = torch.promote_types(x.dtype, torch.float32)
        a, into, out = self._once(wide)
        h0 = torch.complex(*state.to(wide).chunk(2, 1))
        u = self._conv(x, into, self.widths[0]).to(wide)
        h = linear_scan(a[:, None, None], _complex(u), h0, self.backend)
        y = self._conv(_real(h).to(x.dtype), out, self.widths[1])
        return y, torch.cat([h[:, -1].real, h[:, -1].imag], 1).to(x.dtype)

    def _once(self, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """``_derived``, once where weights are said not to change: of kernels made anew in every step of a closed loop
        all that is derived would be kept to its end. Not where gradients are asked for, which keep theirs anyhow."""
        if kept.derived is None or torch.is_grad_enabled():
            return self._derived(wide)
        key = id(self), wide
        if key not in kept.derived:
            kept.derived[key] = self, self._derived(wide)
        return kept.derived[key][1]

    def _derived(self, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """a [P]; kernels into the state and out of it, whose channels are (Re, Im) side by side, as complex numbers are
        in memory, and channels_last."""
        a, b = (part.to(torch.promote_types(wide, torch.complex32)) for part in self.discretised())
        into = b[:, None, None, None] * torch.complex(*self.B.to(wide).movedim(1, -1).chunk(2))
        into = torch.stack([into.real, into.imag], 1).flatten(0, 1).movedim(-1, 1)
        real, imag = self.C.movedim(1, -1).chunk(2, -1)
        out = torch.stack([2 * real, -2 * imag], -1).flatten(-2).movedim(-1, 1)
        return a, into, out

    def _conv(self, x: Tensor, kernel: Tensor, width: int) -> Tensor:
        kernel = kernel.to(x.dtype)
        return on_frames(lambda frames: padded_conv2d(frames, kernel, None, self.padding, width, self.dilation), x)

    def extra_repr(self) -> str:
        into, out = self.B.shape[-1], self.C.shape[-1]
        sizes = f"{self.in_channels}, {self.channels}, kernel_size=({into}, {out}), state_size={2 * self.states}"
        return f"{sizes}, padding={self.padding}, dilation={self.dilation}, clip_eigs={self.clip_eigs}"


# In the order of memory of channels_last frames, so that neither these views nor their gradients are copied


def _complex(u: Tensor) -> Tensor:
    """[B, T, 2P, H, W], (Re, Im) side by side, as complex [B, T, P, H, W]."""
    pairs = u.movedim(2, -1).unflatten(-1, (-1, 2))
    if pairs.stride(-1) != 1 or any(stride % 2 for stride in pairs.stride()[:-1]):
        pairs = pairs.contiguous()
    return torch.view_as_complex(pairs).movedim(-1, 2)


def _real(h: Tensor) -> Tensor:
    """Complex [B, T, P, H, W] as [B, T, 2P, H, W], (Re, Im) side by side."""
    return torch.view_as_real(h.movedim(2, -1)).flatten(-2).movedim(-1, 2)


# Initial weights


def he_normal(*shape: int, fan_in: int) -> Tensor:
    return truncated_normal(torch.empty(shape), math.sqrt(2 / fan_in))


def truncated_normal(weight: Tensor, std: float) -> Tensor:
    """Fills it with normal numbers cut at two standard deviations, of which what is left has ``std``."""
    wider = std / 0.87962566
    return nn.init.trunc_normal_(weight, std=wider, a=-2 * wider, b=2 * wider)


def lecun_normal(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """The layer with variance gain / fan-in and bias 0."""
    truncated_normal(layer.weight.data, math.sqrt(gain / layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _kernels(sizes: int | Sequence[int], count: int) -> list[int]:
    found = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes] * count
    if len(found) != count:
        raise ValueError(f"kernel_size must be one number or {count}; got {sizes!r}")
    for size in found:
        if whole("kernel_size", size, 1) % 2 == 0:
            raise ValueError(f"kernel_size must be odd, to keep height and width; got {size}")
    return found


# What follows the operator: z of y and u, frames [N, U, H, W]


class SqueezeExcite(nn.Module):
    """h sigmoid(expand(relu(reduce(mean of h over H, W))))."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 4)
        self.reduce, self.expand = (lecun_normal(nn.Linear(*size)) for size in ((channels, hidden), (hidden, channels)))

    def forward(self, h: Tensor) -> Tensor:
        scale = self.expand(F.relu(self.reduce(h.mean((-2, -1))))).sigmoid()
        return h * scale[:, :, None, None]


class Resnet(nn.Module):
    """z = act(y + conv(act(norm(conv(act(norm(y)))))))."""

    layers = 2

    def __init__(self, channels: int, groups: int, activation: str, squeeze: bool, **options: Any):
        super().__init__()
        self.act = ACTIVATIONS[choice("activation", activation, ACTIVATIONS)]
        self.norms = nn.ModuleList(GroupNorm(groups, channels) for _ in range(self.layers))
        convs = (PaddedConv2d(channels, channels, **options) for _ in range(self.layers))
        self.convs = nn.ModuleList(map(lecun_normal, convs))
        self.squeeze = SqueezeExcite(channels) if squeeze else nn.Identity()

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        h = y
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(self.act(norm(h)))
        return self.act(y + self.squeeze(h))


class Standard(Resnet):
    """z = act(norm(y + conv(u))): the equation's D."""

    layers = 1

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        return self.squeeze(self.act(self.norms[0](y + self.convs[0](u))))


class HalfGLU(nn.Module):
    """v = gelu(norm(y)) and z = v sigmoid(dense(v)) at each pixel; no D."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = PixelNorm(channels, eps=EPS)
        self.dense = lecun_normal(nn.Linear(channels, channels), gain=0.2)

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        v = ACTIVATIONS["gelu"](self.norm(y)).movedim(1, -1)
        return (v * self.dense(v).sigmoid()).movedim(-1, 1)


class PixelNorm(nn.LayerNorm):
    """Over the channels of each pixel of [..., C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-3, -1)).movedim(-1, -3)


class GroupNorm(nn.GroupNorm):
    """Raises ValueError where the channels are no multiple of the groups."""

    def __init__(self, groups: int, channels: int):
        if channels % whole("num_groups", groups, 1):
            raise ValueError(f"channels must be a multiple of num_groups, {groups}; got {channels}")
        super().__init__(groups, channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous() if transformed() else x)  # vmap knows no other layout here


class ConvS5(Cell):
    """The operator and its nonlinear layers, z = act(y + h): what a published block adds to its input.

    In ``Forecaster`` a layer is norm(u + z), as published with ``norm="channels"``.

    Args:
        kernel_size: odd sizes of the kernels of B, of C and of the convolutions that follow, or one for all.
        num_groups: of the group norms; 32 as published, or the largest of 16, 8, 4, 2, 1 that divides the channels.
        activation: ``gelu`` (its tanh approximation), ``relu``, ``swish``, ``elu`` or ``sugar``, see ``models.sugar``.
        C_D: ``resnet`` (published; there is no D), ``standard`` (z = act(norm(y + D u))) or ``half_glu``.
        squeeze_excite: channels of h are weighted by what is in all of them, not with ``half_glu``.
        options: of ``ConvSSM``.

    Raises:
        TypeError, ValueError: as ``Cell``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int | Sequence[int] = 3,
        padding: str = "zeros",
        backend: str = "auto",
        dilation: int = 1,
        num_groups: int | None = None,
        activation: str = "gelu",
        C_D: str = "resnet",
        squeeze_excite: bool = False,
        **options: Any,
    ):
        super().__init__(in_channels, channels)
        *of_ssm, after = _kernels(kernel_size, 3)
        self.ssm = ConvSSM(in_channels, channels, of_ssm, padding, backend, dilation, **options)
        groups = math.gcd(32, channels) if num_groups is None else num_groups
        spatial = {"kernel_size": after, "padding": padding, "dilation": dilation}
        kinds = {"resnet": Resnet, "standard": Standard, "half_glu": HalfGLU}
        kind = kinds[choice("C_D", C_D, kinds)]
        if kind is Standard and in_channels != channels:
            raise ValueError(f"in_channels must be channels, {channels}, with C_D standard; got {in_channels}")
        if kind is HalfGLU and squeeze_excite:
            raise ValueError("squeeze_excite must be False with C_D half_glu; got True")
        arguments = () if kind is HalfGLU else (groups, activation, squeeze_excite)
        self.nonlinear = kind(channels, *arguments, **({} if kind is HalfGLU else spatial))

    def init_state(self, x: Tensor) -> Tensor:
        return self.ssm.init_state(x)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, C, H, W], state [B, 2P, H, W] (real parts first) -> z [B, T, C', H, W], new state."""
        y, state = self.ssm(x, state)
        z = self.nonlinear(y.flatten(0, 1), x.flatten(0, 1))
        return z.to(x.dtype).unflatten(0, x.shape[:2]), state
