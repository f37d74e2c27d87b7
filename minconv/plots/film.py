"""A forecast as a moving picture: the truth, the forecast, their difference."""

import io

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from minconv.plots.axes import clipped, largest, words
from minconv.runtime.checks import needs, positive, whole

SIZE, DPI = (7.6, 2.5), 110  # inches, pixels in one; 836 pixels fit a page of GitHub
FIELD, ERROR = "RdBu_r", "magma_r"
LAST = 2500  # milliseconds that the last frame stays


def film(
    fields: xr.DataArray, context: int, label: str = "vorticity (1 / unit time)", milliseconds: int = 160
) -> bytes:
    """A GIF of truth, forecast and absolute error, with the time and the RMSE of every frame.

    Args:
        fields: over (row, time, y, x), the truth first and its forecast second; coordinates ``row`` (names of
            :data:`minconv.plots.STYLE` or any words) and ``time``.
        context: number of frames that the forecast was made from the true frame before; later ones are in closed loop.
        label: what the colours mean, with units.
        milliseconds: duration of a frame.

    Raises:
        ValueError: not such fields, or of other than two rows.
    """
    needs("fields", fields, (), ("row", "time", "y", "x"))
    whole("context", context, least=1)
    fields = fields.transpose("row", "time", "y", "x")
    if fields.sizes["row"] != 2:
        raise ValueError(f"fields must have 2 rows, truth and forecast; got {fields.row.values.tolist()}")
    truth, forecast = fields.values
    parts = [truth, forecast, np.abs(forecast - truth)]
    fig, shown = _panels(fields.row.values.tolist(), parts, label)
    heading = fig.suptitle("", x=0.01, ha="left", fontsize=10, family="DejaVu Sans Mono")
    pictures = []
    for step, time in enumerate(fields.time.values):
        for image, values in zip(shown, parts, strict=True):
            image.set_data(values[step])
        own = step - context + 1
        phase = "teacher forcing: sees the true frame before" if own < 1 else f"closed loop: frame {own:2} on its own"
        heading.set_text(f"t = {time:2g}   {phase:<43}   RMSE {np.sqrt(np.square(parts[2][step]).mean()):.3f}")
        fig.canvas.draw()
        pictures.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()))
    plt.close(fig)
    return _gif(pictures, int(positive("milliseconds", milliseconds)))


def _panels(names: list[str], parts: list[np.ndarray], label: str) -> tuple[Figure, list[AxesImage]]:
    """The first frame of truth, forecast and error, and the bars of their two colour scales."""
    fig, axes = plt.subplots(1, 3, figsize=SIZE, dpi=DPI)
    bound, shown = largest(parts[0]), []
    field = {"cmap": FIELD, "vmin": -bound, "vmax": bound}
    scales = field, field, {"cmap": ERROR, "vmin": 0, "vmax": largest(parts[2])}
    for ax, name, values, scale in zip(axes, [*map(words, names), "error"], parts, scales, strict=True):
        ax.set(xticks=[], yticks=[], title=name[:1].upper() + name[1:])
        ax.spines[:].set(visible=True, color="0.4")
        shown.append(ax.imshow(values[0], interpolation="nearest", **scale))
    fig.colorbar(shown[1], ax=axes[:2], label=label, aspect=18, pad=0.02, extend=clipped(parts[1], -bound, bound))
    fig.colorbar(shown[2], ax=axes[2], label="absolute error", aspect=18, pad=0.04)
    return fig, shown


def _gif(pictures: list[Image.Image], milliseconds: int) -> bytes:
    """One palette of the two colour scales and of greys for all pictures, so that what does not move is stored once."""
    colours = [plt.get_cmap(name)(np.linspace(0, 1, 104))[:, :3] for name in (FIELD, ERROR)]
    colours.append(np.linspace(0, 1, 48)[:, None].repeat(3, 1))
    palette = (255 * np.vstack(colours)).round().astype(np.int32)
    flat = [_nearest(np.asarray(picture, np.int32), palette) for picture in pictures]
    durations = [milliseconds] * (len(flat) - 1) + [LAST]
    file = io.BytesIO()
    flat[0].save(file, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)
    return file.getvalue()


def _nearest(pixels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A picture [H, W, 3] in the nearest colours of ``palette`` [256, 3]; Pillow's own search misses pure white."""
    packed, places = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_inverse=True)
    found = packed[:, None] >> (16, 8, 0) & 255
    nearest = np.square(found[:, None] - palette).sum(-1).argmin(1).astype(np.uint8)
    picture = Image.fromarray(nearest[places].reshape(pixels.shape[:2]))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture
