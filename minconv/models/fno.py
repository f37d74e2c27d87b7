"""The Fourier neural operator (Li et al., ICLR 2021, arXiv 2010.08895), in two dimensions and as it forecasts: frames
seen as channels, the next frame out, and that among what is seen for the one after.

    v_0     = P(frames, x, y)
    v_{l+1} = gelu(M(gelu(K v_l + S v_l)) + g v_l),     K v = F^-1(R F v) + b,    l < L, the last without these gelu
    next    = Q(v_L)

P, Q and M are two-layer perceptrons at every cell, S is a matrix, g a number a channel, F the Fourier transform on the
torus, of which R, a matrix for each wavenumber, keeps the lowest. This is what ``neuralop.models.FNO`` of the package
neuraloperator 2.0 computes by default; its first version had neither M and g nor a hidden layer in P. Left out are the
package's factorised R, norms, padding of the domain, other skips, changes of resolution, half precision, and one or
three dimensions.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.models.windowed import Windowed
from minconv.runtime.checks import whole


class SpectralConv(nn.Module):
    """K: [B, C, H, W] -> [B, C', H, W], by a complex matrix for each of the lowest wavenumbers, and a bias.

    Args:
        into, out: C and C'.
        modes: how many wavenumbers there are of rows, -m / 2 .. m / 2 - 1, even, and of columns, 0 .. n - 1.
    """

    def __init__(self, into: int, out: int, modes: tuple[int, int]):
        super().__init__()
        deviation = (2 / (into + out)) ** 0.5
        # real and imaginary parts, as files hold real numbers; a matrix stays together
        self.weight = nn.Parameter(torch.randn(*modes, into, out, 2) * deviation / 2**0.5)
        self.bias = nn.Parameter(torch.randn(out, 1, 1) * deviation)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.weight.shape[:2]
        height, width, half = *x.shape[-2:], rows // 2
        found = torch.fft.rfft(x.to(self.weight.dtype), norm="forward")[..., :columns]
        found = torch.fft.fft(found, dim=-2, norm="forward")
        low = torch.cat([found[..., height - half :, :], found[..., :half, :]], -2)
        low = torch.einsum("bixy,xyio->boxy", low, torch.view_as_complex(self.weight))
        negative, positive = low.split(half, -2)
        none = low.new_zeros(*low.shape[:2], height - rows, columns)
        full = torch.fft.ifft(torch.cat([positive, none, negative], -2), dim=-2, norm="forward")
        return torch.fft.irfft(full, n=width, norm="forward") + self.bias


def perceptron(into: int, inner: int, out: int) -> nn.Sequential:
    """At every cell: [B, C, H, W] -> [B, C', H, W]."""
    return nn.Sequential(nn.Conv2d(into, inner, 1), nn.GELU(), nn.Conv2d(inner, out, 1))


class Block(nn.Module):
    """One of the L layers."""

    def __init__(self, channels: int, modes: tuple[int, int], last: bool):
        super().__init__()
        self.conv = SpectralConv(channels, channels, modes)
        self.skip = nn.Conv2d(channels, channels, 1, bias=False)
        self.mix = perceptron(channels, round(channels / 2), channels)
        self.gate = nn.Parameter(torch.ones(channels))
        self.last = last

    def forward(self, v: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        x = self.conv(v) + self.skip(v)
        x = self.mix(x if self.last else F.gelu(x)) + self.gate[:, None, None] * v
        return x if self.last else F.gelu(x)


class FNO(Windowed):
    """Forecasts one frame after another, each from the last T, of which more and more are its own; on a torus, as its
    transform is.

    Args:
        channels: C of a frame.
        hidden: channels of the layers; P and Q have twice as many inside.
        layers: L.
        size: (H, W), each at least 2. It tells where cells are, and the highest wavenumber.
        modes: along an axis, even, as the package counts them: 24 are the wavenumbers -12 .. 11 of rows and 0 .. 12 of
            columns. Where a frame has fewer cells, it has all that there are.
        context: T, the frames that it sees; weights are for that number alone.

    Raises:
        TypeError, ValueError: an argument is not allowed, or frames do not fit; the message names it.
    """

    def __init__(
        self,
        channels: int = 1,
        hidden: int = 20,
        layers: int = 4,
        size: tuple[int, int] = (64, 64),
        modes: int = 24,
        context: int = 10,
    ):
        numbers = {"channels": channels, "hidden": hidden, "layers": layers, "modes": modes, "context": context}
        for name, value in numbers.items():
            whole(name, value, {"hidden": 2, "modes": 2}.get(name, 1))
        if modes % 2:
            raise ValueError(f"modes must be even; got {modes}")
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise ValueError(f"size must be (H, W); got {size!r}")
        super().__init__(channels, context, (whole("size[0]", size[0], 2), whole("size[1]", size[1], 2)), ahead=1)
        self.config = numbers | {"size": self.size}
        rows, columns = (min(modes, side - side % 2) for side in self.size)
        kept = rows, columns // 2 + 1
        self.lift = perceptron(context * channels + 2, 2 * hidden, hidden)
        self.blocks = nn.Sequential(*(Block(hidden, kept, layer == layers - 1) for layer in range(layers)))
        self.project = perceptron(hidden, 2 * hidden, channels)

    def following(self, frames: Tensor) -> Tensor:
        """T frames [B, T, C, H, W] -> the next one, [B, 1, C, H, W]."""
        seen = frames.flatten(1, 2)  # [B, T C, H, W], channel t C + c
        steps = (torch.arange(side, dtype=seen.dtype, device=seen.device) / side for side in self.size)
        grid = torch.stack(torch.meshgrid(*steps, indexing="ij")).expand(len(seen), 2, *self.size)
        return self.project(self.blocks(self.lift(torch.cat([seen, grid], 1)))).to(seen.dtype)[:, None]


# Published weights


def from_published(state_dict: Mapping[str, np.ndarray | Tensor], size: tuple[int, int], channels: int = 1) -> FNO:
    """A model with the weights of ``neuralop.models.FNO``, made with n_modes (m, m), in their precision.

    Args:
        state_dict: by the names of that program; they tell all sizes but these.
        size: (H, W) of the frames, each at least m.
        channels: C of a frame, of which the program's input has T C, the oldest first.

    Raises:
        TypeError, ValueError: weights of another model, such as one that is factorised or has a norm, or incomplete.
    """
    try:
        weights = dict(_ours(name, torch.as_tensor(value)) for name, value in state_dict.items() if value is not None)
        inner, into = weights["lift.0.weight"].shape[:2]
        layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        modes = weights["blocks.0.conv.weight"].shape[0]
        model = FNO(channels, inner // 2, layers, size, modes, (into - 2) // channels)
        model.to(weights["lift.0.weight"].dtype).load_state_dict(weights)
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"state_dict does not hold the weights of a published FNO: {error}") from error
    return model


NAMES = {  # of the published program, as patterns, and ours
    r"^lifting\.fcs\.": "lift.",
    r"^projection\.fcs\.": "project.",
    r"^fno_blocks\.convs\.(\d+)\.weight\.tensor$": r"blocks.\1.conv.weight",
    r"^fno_blocks\.convs\.(\d+)\.": r"blocks.\1.conv.",
    r"^fno_blocks\.fno_skips\.(\d+)\.conv": r"blocks.\1.skip",
    r"^fno_blocks\.channel_mlp_skips\.(\d+)\.weight": r"blocks.\1.gate",
    r"^fno_blocks\.channel_mlp\.(\d+)\.fcs": r"blocks.\1.mix",
    r"(lift|project|mix)\.1\.": r"\1.2.",  # after the activation
}


def _ours(name: str, value: Tensor) -> tuple[str, Tensor]:
    """Our name and layout of a published weight."""
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    if value.is_complex():  # [in, out, rows, columns]
        return name, torch.view_as_real(value.permute(2, 3, 0, 1).contiguous())
    if name.endswith("gate"):  # [1, C, 1, 1]
        return name, value.flatten()
    return name, value.unsqueeze(-1) if value.dim() == 3 and name.endswith("weight") else value
