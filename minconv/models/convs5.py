"""ConvS5 as published (Smith et al., NeurIPS 2023, arXiv 2310.19694): the layer around its operator, layers in a row,
the network for Moving MNIST, and the weights of all of them.

The operator and the cell, ``ConvSSM`` and ``ConvS5``, are in ``convs5_cell``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.core.layers import PaddedConv2d, check_dtype, on_frames
from minconv.models.closed_loop import frame_by_frame
from minconv.models.convs5_cell import EPS, ConvS5, ConvSSM, GroupNorm, PixelNorm, lecun_normal
from minconv.models.pretrained import Pretrained
from minconv.runtime.checks import whole

__all__ = ["Block", "ConvS5", "ConvS5Network", "ConvSSM", "Stack", "from_published"]


class Block(nn.Module):
    """out = LayerNorm(u + z) with z of ``ConvS5``; the norm is over the channels of each pixel.

    Args:
        channels: U.
        prenorm: out = u + z with z of LayerNorm(u) instead.
        use_norm: False leaves the norm out.
        per_layer_skip: False leaves u + out.
        options: of ``ConvS5``.

    Raises:
        TypeError, ValueError: as ``Cell``; prenorm without norm or without skip.
    """

    def __init__(
        self,
        channels: int,
        prenorm: bool = False,
        use_norm: bool = True,
        per_layer_skip: bool = True,
        **options: Any,
    ):
        super().__init__()
        if prenorm and not (use_norm and per_layer_skip):
            raise ValueError("prenorm must be False without use_norm or per_layer_skip; got True")
        self.prenorm, self.per_layer_skip = prenorm, per_layer_skip
        self.cell = ConvS5(channels, channels, **options)
        self.norm = PixelNorm(channels, eps=EPS) if use_norm else nn.Identity()

    def forward(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [B, T, U, H, W], state [B, 2P, H, W] (real parts first) -> out [B, T, U, H, W], new state."""
        z, state = self.cell(self.norm(u) if self.prenorm else u, state)
        out = u + z if self.per_layer_skip else z
        return (out if self.prenorm else self.norm(out)), state


class Stack(nn.Module):
    """Blocks in a row; the state is the list of theirs."""

    def __init__(self, channels: int, layers: int = 8, **options: Any):
        super().__init__()
        self.layers = nn.ModuleList(Block(channels, **options) for _ in range(whole("layers", layers, 1)))

    def forward(self, u: Tensor, states: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """u [B, T, U, H, W], a state for each layer -> out [B, T, U, H, W], new states."""
        if states is not None and (not isinstance(states, (list, tuple)) or len(states) != len(self.layers)):
            found = len(states) if isinstance(states, (list, tuple)) else type(states).__name__
            raise ValueError(f"states must be a list of {len(self.layers)}, one a layer; got {found}")
        after = []
        for layer, state in zip(self.layers, states or [None] * len(self.layers), strict=True):
            u, state = layer(u, state)
            after.append(state)
        return u, after


class ResNetBlock(nn.Module):
    """s + 0.1 conv(elu(norm(conv(elu(norm(x)))))) with s = x, or a 1 x 1 convolution of x where channels differ."""

    def __init__(self, in_channels: int, channels: int, groups: int):
        super().__init__()
        self.norms = nn.ModuleList(GroupNorm(groups, size) for size in (in_channels, channels))
        self.convs = nn.ModuleList(lecun_normal(PaddedConv2d(size, channels)) for size in (in_channels, channels))
        self.skip = nn.Identity()
        if in_channels != channels:
            self.skip = lecun_normal(nn.Conv2d(in_channels, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.elu(norm(h)))
        return self.skip(x) + 0.1 * h


class Encoder(nn.Module):
    """Frames [N, C, H, W] to features [N, D, H / 2^n, W / 2^n] of the last of n + 1 depths, by mean pools."""

    def __init__(self, channels: int, depths: Sequence[int], groups: int):
        super().__init__()
        self.convs = nn.ModuleList([lecun_normal(PaddedConv2d(channels, depths[0]))])
        sizes = zip([depths[0], *depths], depths, strict=False)
        self.blocks = nn.ModuleList(ResNetBlock(before, size, groups) for before, size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.convs[0](x))
        for block in self.blocks[1:]:
            x = block(F.avg_pool2d(x, 2))
        return x


class Decoder(nn.Module):
    """Features [N, U, H / 2^n, W / 2^n] to frames [N, C, H, W] in (-1, 1)."""

    def __init__(self, hidden: int, channels: int, depths: Sequence[int], groups: int):
        super().__init__()
        self.convs = nn.ModuleList([lecun_normal(PaddedConv2d(hidden, depths[0]))])  # the first depth, not the last
        sizes = zip([depths[0], *depths[::-1]], depths[::-1], strict=False)
        self.blocks = nn.ModuleList(ResNetBlock(before, size, groups) for before, size in sizes)
        self.norm, self.dense = PixelNorm(depths[0], eps=EPS), lecun_normal(nn.Linear(depths[0], channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.convs[0](x))
        for block in self.blocks[1:]:
            x = block(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.dense(self.norm(x).movedim(1, -1)).movedim(-1, 1).tanh()


class ConvS5Network(Pretrained):
    """The published network for Moving MNIST: encoder, stack, decoder; frames are in [-1, 1], or 8-bit ones after
    ``set_normalisation([127.5], [127.5])``.

    As published for 300 frames by default; ``hidden=128`` is that for 600. The plane that the program appends for data
    without actions, a constant, is a weight here as there.

    Args:
        channels: of a frame.
        hidden: U, and S where ``state_size`` is not among the options.
        layers: of the stack.
        depths: channels of the encoder's stages, between which height and width are halved.
        num_groups: of all group norms; what they norm has a multiple of it.
        options: of ``Block``.

    Raises:
        TypeError, ValueError: an argument is not allowed, or frames or states do not fit; the message names it.
    """

    def __init__(
        self,
        channels: int = 1,
        hidden: int = 256,
        layers: int = 8,
        depths: Sequence[int] = (64, 128, 256),
        num_groups: int = 32,
        **options: Any,
    ):
        super().__init__()
        self.channels, self.factor = whole("channels", channels, 1), 2 ** (len(depths) - 1)
        own = {"channels": channels, "hidden": hidden, "layers": layers, "depths": [*depths], "num_groups": num_groups}
        self.config = options | own
        self.encoder = Encoder(channels, depths, num_groups)
        self.action = nn.Parameter(torch.randn(2, 1))  # of which the first is used
        self.enter = lecun_normal(nn.Conv2d(depths[-1] + 1, whole("hidden", hidden, 1), 1))
        self.stack = Stack(hidden, layers, num_groups=num_groups, **options)
        self.decoder = Decoder(hidden, channels, depths, num_groups)

    def forward(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Frames [B, T, C, H, W] -> [B, T + horizon, C, H, W], where output t predicts frame t + 1; after the first T
        in closed loop, which frames enter as the decoder makes them."""
        whole("horizon", horizon, 0)
        prediction, states = self.advance(frames)
        if not horizon:
            return prediction
        return torch.cat([prediction, frame_by_frame(self, prediction[:, -1], states, None, horizon)], dim=1)

    def advance(self, frames: Tensor, states: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Predictions [B, T, C, H, W] for frames [B, T, C, H, W], and the states of all layers after them."""
        check_dtype("frames", frames, self.action)
        fits = frames.dim() == 5 and 0 not in frames.shape and frames.shape[2] == self.channels
        if not fits or any(side % self.factor for side in frames.shape[-2:]):
            sides = f"H and W multiples of {self.factor}"
            raise ValueError(f"frames must be [B, T >= 1, {self.channels}, H, W], {sides}; got {list(frames.shape)}")
        features, states = self.features(frames, states)
        return on_frames(self.decoder, features), states

    def features(self, frames: Tensor, states: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """What the stack gives for frames, [B, T, U, H / 4, W / 4] with three depths, and its states."""
        encoded = self.encoder(frames.flatten(0, 1))
        plane = self.action[0].expand(len(encoded), 1, *encoded.shape[-2:])
        entered = self.enter(torch.cat([encoded, plane], 1)).to(frames.dtype)
        return self.stack(entered.unflatten(0, frames.shape[:2]), states)


# Published weights


def from_published(parameters: Mapping[str, np.ndarray | Tensor], **options: Any) -> Block | Stack | ConvS5Network:
    """A block, a stack or a network with published weights, in their dtype.

    Args:
        parameters: by the names of the published program (``seq/Lambda_re``, ``layers_0/seq/B``,
            ``encoder/Conv_0/kernel``, ...), in its layouts: kernels [kh, kw, in, out]. They tell which of the three it
            is, and all sizes.
        options: what weights do not tell: ``num_groups``, ``activation``, ``prenorm``, ``per_layer_skip``,
            ``clip_eigs``; those of ``Block``, as published where they are not given.

    Raises:
        TypeError, ValueError: the weights are those of another model, or incomplete.
    """
    try:
        weights = dict(_ours(name, torch.as_tensor(value)) for name, value in parameters.items())
        kind, found = _found(weights)
        model = kind(**found | options).to(next(iter(weights.values())).dtype)
        model.load_state_dict(weights)
    except (AttributeError, KeyError, IndexError, RuntimeError, StopIteration) as error:
        raise ValueError(f"parameters do not hold the weights of a published ConvS5: {error}") from error
    return model


# by which names of the program become ours; numbers of its modules are places in our lists
NAMES = {
    "seq/C_D_conv": "cell.nonlinear",
    "seq": "cell.ssm",
    "SEBlock_0": "squeeze",
    "Dense_0": "dense",
    "LayerNorm_0": "norm",
    "AddBias_0": "convs.1",  # after a convolution that has no bias of its own
    "action_conv/Conv_0": "enter",
    "action_embeds/embedding": "action",
    "sequence_model": "stack",
    "layers_": "layers.",
    "GroupNorm_": "norms.",
    "ResNetBlock_": "blocks.",
    "Conv_": "convs.",
    "kernel": "weight",
    "scale": "weight",
}


def _ours(name: str, value: Tensor) -> tuple[str, Tensor]:
    """Our name and layout of a published array."""
    last = name.rpartition("/")[2]
    if last == "B":  # [P, (u, kh, kw), 2], of which the channels are found by the kernel's size, which C's may not be
        value = value.movedim(-1, 0).flatten(0, 1)
    elif last == "C":  # [kh, kw, P, U, 2]
        value = value.permute(3, 4, 2, 0, 1).flatten(1, 2)
    elif last == "log_step":
        value = value.squeeze(1)
    elif last == "kernel":
        value = value.permute(3, 2, 0, 1) if value.dim() == 4 else value.mT
    for theirs, mine in NAMES.items():
        name = re.sub(rf"(?<![^/.]){theirs}(?![a-z])", mine, name)
    return name.replace("/", "."), value


def _found(weights: dict[str, Tensor]) -> tuple[type[nn.Module], dict[str, Any]]:
    """What the weights are of, and its sizes; B is given its shape [2P, U, k, k]."""
    first = next(name for name in weights if name.endswith("cell.ssm.C")).removesuffix("cell.ssm.C")
    hidden, states, of_c, _ = weights[f"{first}cell.ssm.C"].shape
    for name in [name for name in weights if name.endswith("cell.ssm.B")]:
        of_b = math.isqrt(weights[name].shape[1] // hidden)
        weights[name] = weights[name].unflatten(1, (hidden, of_b, of_b))
    layer = {name.removeprefix(first): value for name, value in weights.items() if name.startswith(first)}
    convs = [value for name, value in layer.items() if name.startswith("cell.nonlinear.convs.") and value.dim() == 4]
    sizes = {
        "kernel_size": (of_b, of_c, convs[0].shape[-1] if convs else 3),
        "state_size": states,
        "use_norm": "norm.weight" in layer,
        "C_D": ("half_glu", "standard", "resnet")[len(convs)],
        "squeeze_excite": any("squeeze" in name for name in layer),
    }
    if not first:
        return Block, sizes | {"channels": hidden}
    sizes["layers"] = len([name for name in weights if name.endswith("cell.ssm.C")])
    if not first.startswith("stack."):
        return Stack, sizes | {"channels": hidden}
    stages = [name for name in weights if re.fullmatch(r"encoder\.blocks\.\d+\.convs\.0\.weight", name)]
    depths = [weights[f"encoder.blocks.{n}.convs.0.weight"].shape[0] for n in range(len(stages))]
    return ConvS5Network, sizes | {
        "channels": weights["encoder.convs.0.weight"].shape[1],
        "hidden": hidden,
        "depths": depths,
    }
