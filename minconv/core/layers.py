"""Convolution on frames with the padding of the domain; what cells and forecaster share in handling frames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.core.scan import kernels, traced
from minconv.runtime.checks import choice, whole

# what is beyond the edges in height and in width: zeros, the field from the other edge on (wrap), the field on the
# other side of the pole (pole), or the value at the edge (edge)
PADDINGS = {
    "zeros": ("zeros", "zeros"),
    "circular": ("wrap", "wrap"),
    "cylinder": ("zeros", "wrap"),
    "sphere": ("pole", "wrap"),
    "replicate": ("edge", "edge"),
}

Margins = tuple[int, int, bool]  # rows, columns, and whether the rows are from over the poles


def wrap(margins: tuple[int, int], x: Tensor, pole: bool = False) -> Tensor:
    """Circular padding of frames [N, C, H, W] by margins (rows, columns), with fewer copies than F.pad's.

    Args:
        pole: rows go on over the poles instead, which lie half a row beyond the first and the last: row -1 - j is row
            j, and row H + j is row H - 1 - j, of the longitudes half a circle away. For scalars: the components of a
            vector would change sign there.

    Raises:
        ValueError: a margin is larger than the frame; an odd width, which has no half.
    """
    check_margins(margins, x, pole)
    fused = _fused_wrap(x)
    return (fused or wrap_eagerly)((*margins, pole), x)


def check_margins(margins: tuple[int, int], x: Tensor, pole: bool) -> None:
    """Raises ValueError where frames are too small to wrap, or have no half of a row to go over the poles."""
    if any(margin > size for margin, size in zip(margins, x.shape[-2:], strict=True)):
        raise ValueError(f"frames must be at least {max(margins)} wide where they wrap; got {list(x.shape)}")
    if pole and x.shape[-1] % 2:
        raise ValueError(f"the width of frames must be even for padding sphere; got {list(x.shape)}")


def _fused_wrap(x: Tensor) -> Callable[..., Tensor] | None:
    """The CPU's kernel, if there is one for such a tensor; a compiler makes its own of eager operations."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or traced():
        return None
    module = kernels("cpu")
    return module and module.wrap


def wrap_eagerly(margins: Margins, x: Tensor) -> Tensor:
    """``wrap``, by slices and concatenation."""
    *widths, pole = margins
    for axis, width in zip((-2, -1), widths, strict=True):
        if width:
            before, after = x.narrow(axis, x.shape[axis] - width, width), x.narrow(axis, 0, width)
            if pole and axis == -2:
                before, after = _over_pole(after), _over_pole(before)
            x = torch.cat([before, x, after], dim=axis)
    return x


def _over_pole(rows: Tensor) -> Tensor:
    """Rows at a pole as they go on beyond it, in the mirror and half a circle away; and back."""
    return rows.flip(-2).roll(rows.shape[-1] // 2, -1)


def _margins(padding: str, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns that are from elsewhere in the frame, and those of zeros."""
    rows, columns = PADDINGS[padding]
    zeros = width * (rows == "zeros"), width * (columns == "zeros")
    return (width - zeros[0], width - zeros[1]), zeros


def check_padding(x: Tensor, padding: str, width: int) -> None:
    """Raises ValueError where frames are too small to be padded so."""
    if padding != "replicate":
        check_margins(_margins(padding, width)[0], x, padding == "sphere")


METHODS = ("auto", "direct", "winograd")


class _Kept(local):
    derived: dict | None = None


kept = _Kept()  # what is derived from weights, by what it is of, while these are said not to change; else None


@contextmanager
def constant_weights() -> Iterator[None]:
    """Says that no weight changes inside, so that what convolutions derive from one is derived once."""
    before, kept.derived = kept.derived, {} if kept.derived is None else kept.derived
    try:
        yield
    finally:
        kept.derived = before


def single(*tensors: Tensor) -> bool:
    """Whether all are float32 on the CPU, and computed with as they are: nothing traces, nothing casts."""
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    return plain and not traced() and not torch.is_autocast_enabled("cpu")


def winograd(x: Tensor, weight: Tensor, dilation: int, method: str) -> ModuleType | None:
    """``minconv.kernels.winograd`` where it serves such tensors, and is faster or asked for."""
    if method == "direct" or weight.shape[-1] != 3 or 0 in x.shape[2:] or not single(x, weight):
        return None
    module = kernels("winograd")
    return module if module and (method == "winograd" or module.pays(x, weight, dilation)) else None


def padded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: str,
    width: int,
    dilation: int = 1,
    method: str = "auto",
) -> Tensor:
    """``PaddedConv2d`` of frames [N, C, H, W] with a kernel [C', C, k, k]; margins of width dilation (k - 1) / 2."""
    check_dtype("x", x, weight)
    if x.dim() != 4 or x.shape[1] != weight.shape[1] or 0 in x.shape[2:]:
        raise ValueError(f"x must be frames [N, {weight.shape[1]}, H >= 1, W >= 1]; got {list(x.shape)}")
    if fast := winograd(x, weight, dilation, method):
        check_padding(x, padding, width)
        return fast.convolution(x, weight, bias, padding, dilation)
    margins, zeros = _margins(padding, width)
    if padding == "replicate":
        x = F.pad(x, (width,) * 4, mode="replicate")
    elif any(margins):
        x = wrap(margins, x, pole=padding == "sphere")
    # autocast computes in half precision; what follows, a recurrence, keeps the precision of its input
    return F.conv2d(x, weight, bias, padding=zeros, dilation=dilation).to(x.dtype)


class PaddedConv2d(nn.Module):
    """Convolution of frames [N, C, H, W] -> [N, C', H, W] that keeps H x W.

    Args:
        padding: ``zeros``; ``circular`` (a torus); ``cylinder`` (periodic in width, zeros in height: the globe);
            ``sphere`` (periodic in width, and over the poles the field on their other side: the globe, for scalars on
            rows of cell centres and an even width); ``replicate`` (the values at the edges go on: a region).
        dilation: distance in cells between the points of the kernel, which then reaches dilation (kernel_size - 1) / 2
            cells to every side.
        method: ``direct``; ``winograd``, where it can serve (3 x 3, float32, CPU); or ``auto``: the faster of the two
            as measured. Winograd's rounds three to five times as much: to 1e-6 of the size of the output.
        bias: whether there is one.

    Raises:
        TypeError, ValueError: unknown padding or method, an even kernel, no frames of this dtype and these channels;
            frames smaller than the padding where they wrap, or of odd width on the sphere.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: str = "zeros",
        dilation: int = 1,
        method: str = "auto",
        bias: bool = True,
    ):
        super().__init__()
        self.method = choice("method", method, METHODS)
        if whole("kernel_size", kernel_size, 1) % 2 == 0:
            raise ValueError(f"kernel_size must be odd, to keep height and width; got {kernel_size}")
        self.padding = choice("padding", padding, PADDINGS)
        self.dilation = whole("dilation", dilation, 1)
        self.width = self.dilation * (kernel_size // 2)  # of the margins
        sizes = whole("in_channels", in_channels, 1), whole("out_channels", out_channels, 1)
        conv = nn.Conv2d(*sizes, kernel_size, bias=bias)
        # in the format in which, on the CPU, convolutions, scan and norm are fastest, and which they hand on
        self.weight = nn.Parameter(conv.weight.detach().contiguous(memory_format=torch.channels_last))
        self.bias = conv.bias

    @property
    def options(self) -> tuple[str, int]:
        """Padding and dilation."""
        return self.padding, self.dilation

    def forward(self, x: Tensor) -> Tensor:
        return padded_conv2d(x, self.weight, self.bias, self.padding, self.width, self.dilation, self.method)

    def extra_repr(self) -> str:
        out, into, kernel, _ = self.weight.shape
        dilation = f", dilation={self.dilation}" if self.dilation > 1 else ""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{into}, {out}, kernel_size={kernel}, padding={self.padding}{dilation}{bias}"


def check_dtype(name: str, x: Tensor, weight: Tensor) -> None:
    """Raises TypeError unless ``x`` is a tensor in the weights' dtype; under autocast any floating point will do."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(x).__name__}")
    if x.dtype != weight.dtype and not (x.is_floating_point() and torch.is_autocast_enabled(weight.device.type)):
        raise TypeError(f"{name} must be {weight.dtype} like the weights; got {x.dtype}")


def on_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a layer for [N, C, H, W] to frames [B, T, C, H, W], whose precision is kept where autocast lowers it."""
    return layer(x.flatten(0, 1)).to(x.dtype).unflatten(0, x.shape[:2])
