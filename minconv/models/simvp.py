"""SimVP, which forecasts frames without recurrence (Gao et al., CVPR 2022, arXiv 2206.05099; SimVPv2: Tan et al.,
arXiv 2211.12509): an encoder of single frames, a translator of all of them at once, a decoder of single frames.

    frames [B, T, C, H, W] -> latents [B, T S, h, w] -> translator -> decoder with skips -> the T frames that follow
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.models.windowed import Windowed
from minconv.runtime.checks import choice, fraction, whole

# the tables' settings; with translator="incepu" they are those of the first paper
PUBLISHED: dict[str, dict[str, Any]] = {
    "moving mnist": {"context": 10, "size": (64, 64)},
    "moving mnist, large": {"context": 10, "size": (64, 64), "hid_s": 128, "hid_t": 1024, "n_t": 24},
    "taxibj": {"channels": 2, "context": 4, "size": (32, 32), "hid_s": 32, "hid_t": 256, "n_s": 2, "drop_path": 0.1},
    "temperature": {"context": 12, "size": (32, 64), "hid_s": 32, "hid_t": 256, "n_s": 2, "drop_path": 0.1},
}
LEAST = 0.01  # rate of stochastic depth in the first block, whatever ``drop_path``


class Conv(nn.Conv2d):
    """A convolution with zeros around the frame, as published, or on a ``torus``, however far it reaches."""

    torus = False

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.torus:
            return super()._conv_forward(x, weight, bias)
        for dim, reach in zip((-2, -1), self.padding, strict=True):
            size = x.shape[dim]
            x = x.index_select(dim, torch.arange(-reach, size + reach, device=x.device) % size)
        return F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)


class ConvSC(nn.Module):
    """SiLU(GroupNorm(convolution)) of [N, C, H, W], with two groups.

    Args:
        mode: ``plain`` keeps height and width, ``down`` halves them, ``up`` doubles them by PixelShuffle, then norms.
    """

    def __init__(self, into: int, out: int, kernel: int, mode: str):
        super().__init__()
        stride, blocks = 1 + (mode == "down"), 4 if mode == "up" else 1
        self.conv = Conv(into, blocks * out, kernel, stride, (kernel - stride + 1) // 2)
        self.shuffle = nn.PixelShuffle(2) if mode == "up" else nn.Identity()
        self.norm = nn.GroupNorm(2, out)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.shuffle(self.conv(x))))


class GatedBlock(nn.Module):
    """A block of gSTA: u += DP(scale1 A(norm1(u))), u += DP(scale2 F(norm2(u))), a 1 x 1 convolution where the width
    changes. A(v) = v + leave(f sigmoid(g)), with v normalised; DP leaves out the branch of a whole sample at random.

    Args:
        width, out: channels d of the block, and those that it hands on.
        ratio: channels within F over d.
        rate: of the branches left out in training.
    """

    def __init__(self, width: int, out: int, ratio: int, rate: float):
        super().__init__()
        self.rate, wide = rate, ratio * width
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        # depthwise, together about a kernel of 21
        self.near = Conv(width, width, 5, padding=2, groups=width)
        self.far = Conv(width, width, 7, padding=9, dilation=3, groups=width)
        self.gate = nn.Conv2d(width, 2 * width, 1)
        self.widen, self.narrow = nn.Conv2d(width, wide, 1), nn.Conv2d(wide, width, 1)
        self.mix = Conv(wide, wide, 3, padding=1, groups=wide)
        for conv in [module for module in self.children() if isinstance(module, nn.Conv2d)]:
            cells = conv.out_channels * conv.weight[0, 0].numel() / conv.groups
            nn.init.normal_(conv.weight, std=math.sqrt(2 / cells))
            nn.init.zeros_(conv.bias)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), 0.01)) for _ in range(2))
        self.reduction = nn.Conv2d(width, out, 1) if out != width else nn.Identity()

    def forward(self, u: Tensor) -> Tensor:
        """[B, d, h, w] -> [B, out, h, w]."""
        v = self.norm1(u)
        f, g = self.gate(self.far(self.near(F.gelu(self.enter(v))))).chunk(2, 1)
        u = u + self._kept(self.scale1[:, None, None] * (v + self.leave(f * g.sigmoid())))
        v = self.narrow(F.gelu(self.mix(self.widen(self.norm2(u)))))
        return self.reduction(u + self._kept(self.scale2[:, None, None] * v))

    def _kept(self, branch: Tensor) -> Tensor:
        if not (self.training and self.rate):
            return branch
        return branch * F.dropout(branch.new_ones(len(branch), 1, 1, 1), self.rate)


def gsta(width: int, hidden: int, depth: int, ratio: int, rates: list[float]) -> nn.Sequential:
    """The translator of SimVPv2, [B, T S, h, w] to the same; the first block is as wide as what comes in."""
    widths = [width, *[hidden] * (depth - 1), width]
    blocks = zip(widths[:-1], widths[1:], rates, strict=True)
    return nn.Sequential(*(GatedBlock(into, out, ratio, rate) for into, out, rate in blocks))


class Inception(nn.Module):
    """sum over k = 3, 5, 7, 11 of LeakyReLU(GroupNorm(conv_k(v))), v a 1 x 1 convolution of x to hidden // 2 channels;
    both have eight groups, or one where hidden // 2 is no multiple of eight."""

    def __init__(self, into: int, out: int, hidden: int):
        super().__init__()
        inner = hidden // 2
        groups = 8 if inner % 8 == 0 else 1
        if out % groups:
            raise ValueError(f"hid_t and context hid_s must be multiples of 8 where hid_t // 2 is; got {out}")
        self.enter = nn.Conv2d(into, inner, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                Conv(inner, out, k, padding=k // 2, groups=groups), nn.GroupNorm(groups, out), nn.LeakyReLU(0.2)
            )
            for k in (3, 5, 7, 11)
        )

    def forward(self, x: Tensor) -> Tensor:
        v = self.enter(x)
        return sum(branch(v) for branch in self.branches)


class IncepU(nn.Module):
    """The translator of SimVP, [B, T S, h, w] to the same: a U of ``Inception`` at one resolution."""

    def __init__(self, width: int, hidden: int, depth: int):
        super().__init__()
        self.down = nn.ModuleList(Inception(width if n == 0 else hidden, hidden, hidden) for n in range(depth))
        ends = [hidden] * (depth - 1) + [width]
        self.up = nn.ModuleList(Inception(hidden if n == 0 else 2 * hidden, out, hidden) for n, out in enumerate(ends))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        kept.pop()
        x = self.up[0](x)
        for block in self.up[1:]:
            x = block(torch.cat([x, kept.pop()], 1))
        return x


class SimVP(Windowed):
    """Forecasts several frames at once; as published for Moving MNIST by default.

    Beyond ``ahead`` frames it is applied again, with its own output among what it sees, where errors grow.

    Args:
        channels: C of a frame.
        context: T, the frames that it sees; weights are for that number alone.
        ahead: how many of the T frames that an application gives are used, the first; None: all, as published. Where
            fewer are trained, horizon + 1 of ``Training``, the others are noise.
        size: (H, W), multiples of 2^(n_s / 2).
        translator: ``gsta`` (SimVPv2) or ``incepu`` (SimVP).
        hid_s: channels S of the encoder and decoder, even.
        hid_t: channels M of the translator; with ``incepu`` it and T S are multiples of 8 where M // 2 is.
        n_s: layers of the encoder, and of the decoder; even, as every second one halves height and width.
        n_t: blocks of the translator, with ``incepu`` of each of its sides; at least 2.
        mlp_ratio: of ``gsta``: channels inside over those of a block.
        drop_path: of ``gsta``: in training a branch is left out with a probability that goes linearly from 0.01 in the
            first block to this in the last, as published: with 0 all but the last have some. None is none at all.
        k_enc, k_dec: odd kernels of encoder and decoder.
        padding: of every kernel: ``zeros`` as published, or ``circular`` for frames of a torus.

    Raises:
        TypeError, ValueError: an argument is not allowed, or frames do not fit; the message names it.
    """

    def __init__(
        self,
        channels: int = 1,
        context: int = 10,
        size: tuple[int, int] = (64, 64),
        translator: str = "gsta",
        hid_s: int = 64,
        hid_t: int = 512,
        n_s: int = 4,
        n_t: int = 8,
        mlp_ratio: int = 8,
        drop_path: float | None = 0.0,
        k_enc: int = 3,
        k_dec: int = 3,
        ahead: int | None = None,
        padding: str = "zeros",
    ):
        numbers = {"channels": channels, "context": context, "hid_s": hid_s, "hid_t": hid_t, "n_s": n_s, "n_t": n_t}
        numbers |= {"mlp_ratio": mlp_ratio, "k_enc": k_enc, "k_dec": k_dec}
        least = {"hid_s": 2, "hid_t": 2, "n_s": 2, "n_t": 2}
        for name, value in numbers.items():
            odd = whole(name, value, least.get(name, 1)) % 2
            if (name in ("n_s", "hid_s") and odd) or (name in ("k_enc", "k_dec") and not odd):
                raise ValueError(f"{name} must be {'even' if odd else 'odd'}; got {value}")
        if drop_path:
            fraction("drop_path", drop_path)
        factor = 2 ** (n_s // 2)
        if not isinstance(size, (tuple, list)) or len(size) != 2 or any(whole("size", x, 1) % factor for x in size):
            raise ValueError(f"size must be (H, W), multiples of {factor} with n_s = {n_s}; got {size}")
        if ahead is not None and whole("ahead", ahead, 1) > context:
            raise ValueError(f"ahead must be at most context, {context}; got {ahead}")
        super().__init__(channels, context, size, ahead or context)
        self.config = numbers | {"size": self.size, "translator": translator, "drop_path": drop_path, "ahead": ahead}
        self.config["padding"] = choice("padding", padding, ("zeros", "circular"))
        modes = ["plain", "down"] * (n_s // 2)
        self.encoder = nn.ModuleList(
            ConvSC(hid_s if n else channels, hid_s, k_enc, mode) for n, mode in enumerate(modes)
        )
        if choice("translator", translator, ("gsta", "incepu")) == "gsta":
            rates = [0.0] * n_t if drop_path is None else np.linspace(LEAST, drop_path, n_t).tolist()
            self.translator = gsta(context * hid_s, hid_t, n_t, mlp_ratio, rates)
        else:
            self.translator = IncepU(context * hid_s, hid_t, n_t)
        back = [{"down": "up"}.get(mode, mode) for mode in reversed(modes)]
        self.decoder = nn.ModuleList(ConvSC(hid_s, hid_s, k_dec, mode) for mode in back)
        self.readout = nn.Conv2d(hid_s, channels, 1)
        for module in self.modules():
            if isinstance(module, Conv):
                module.torus = padding == "circular"

    def following(self, frames: Tensor) -> Tensor:
        """T frames [B, T, C, H, W] -> the next T."""
        x = skip = self.encoder[0](frames.flatten(0, 1))
        for layer in self.encoder[1:]:
            x = layer(x)
        latents = x.unflatten(0, frames.shape[:2]).flatten(1, 2)  # [B, T S, h, w], channel t S + s
        x = self.translator(latents).reshape(x.shape)
        for layer in self.decoder[:-1]:
            x = layer(x)
        return self.readout(self.decoder[-1](x + skip)).to(frames.dtype).unflatten(0, frames.shape[:2])


# Published weights


def from_published(config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray | Tensor]) -> SimVP:
    """A model with published weights, in their dtype.

    Args:
        config: of the published program: ``T_in``, ``C``, ``H``, ``W``, or ``in_shape`` [T, C, H, W]; ``model_type``,
            ``hid_S``, ``hid_T``, ``N_S``, ``N_T``; as published where they are not given ``mlp_ratio``, ``drop_path``,
            ``spatio_kernel_enc`` and ``spatio_kernel_dec``.
        state_dict: by the names of the published program; counters of batches may be left out.

    Raises:
        TypeError, ValueError: a size that ``SimVP`` does not allow; weights of another model, or incomplete.
    """
    try:
        context, channels, *size = config.get("in_shape") or [config[name] for name in ("T_in", "C", "H", "W")]
        options = {ours: config[name] for name, ours in OPTIONS.items() if name in config}
        model = SimVP(channels, context, size, config["model_type"].lower(), **options)
        weights = {ours(name): torch.as_tensor(value) for name, value in state_dict.items()}
        model.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except (AttributeError, KeyError, RuntimeError, StopIteration) as error:
        raise ValueError(f"state_dict does not hold the weights of a published SimVP: {error}") from error
    return model


OPTIONS = {"hid_S": "hid_s", "hid_T": "hid_t", "N_S": "n_s", "N_T": "n_t", "mlp_ratio": "mlp_ratio"}
OPTIONS |= {"drop_path": "drop_path", "spatio_kernel_enc": "k_enc", "spatio_kernel_dec": "k_dec"}
NAMES = {  # of the published program, as patterns, and ours
    r"^enc\.enc": "encoder",
    r"^dec\.dec": "decoder",
    r"^dec\.readout": "readout",
    r"\.conv\.conv(\.0)?\.": ".conv.",
    r"\.conv\.norm": ".norm",
    r"^hid\.enc(\.\d+)\.(?=block|reduction)": r"translator\1.",
    r"\.block(\.attn|\.mlp)?(\.spatial_gating_unit)?": "",
    r"layer_scale_": "scale",
    r"proj_1": "enter",
    r"proj_2": "leave",
    r"\.conv0": ".near",
    r"conv_spatial": "far",
    r"(translator\.\d+)\.conv1": r"\1.gate",
    r"fc1": "widen",
    r"fc2": "narrow",
    r"dwconv\.dwconv": "mix",
    r"^hid\.enc": "translator.down",
    r"^hid\.dec": "translator.up",
    r"(down|up)(\.\d+)\.conv1": r"\1\2.enter",
    r"layers\.(\d)\.conv": r"branches.\1.0",
    r"layers\.(\d)\.norm": r"branches.\1.1",
}


def ours(name: str) -> str:
    """Our name of a published weight."""
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name
