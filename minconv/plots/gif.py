"""Films as GIFs, for pages that run no script."""

import io
from base64 import b64encode
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import HTML
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from minconv.plots.axes import largest, words
from minconv.plots.films import SCREEN, Film
from minconv.plots.trajectories import film_rows
from minconv.runtime.checks import positive

LAST = 2500  # milliseconds that the last frame stays


def gif(fields: xr.DataArray, context: int, milliseconds: int = 160, **options: str) -> bytes:
    """A :class:`minconv.plots.films.Film` as a GIF; arguments as there.

    Args:
        milliseconds: duration of a frame.
    """
    return _written(Film(fields, context, **options), milliseconds)


def animation(fields: xr.DataArray, label: str = "vorticity (1 / unit time)", milliseconds: int = 120) -> bytes:
    """Rows of fields side by side as a GIF, with the time above them and one symmetric colour scale.

    Args:
        fields: over (row, time, y, x) or (time, y, x).
        label: what the colours mean, with units.
        milliseconds: duration of a frame.
    """
    return _written(_Fields(film_rows(fields), label), milliseconds)


def moving(gif: bytes, words: str) -> HTML:
    """A GIF for a notebook, that moves on a page without a kernel as well; ``words`` say what it shows."""
    return HTML(f'<img src="data:image/gif;base64,{b64encode(gif).decode()}" alt="{words}">')


class _Fields:
    """What :func:`animation` shows at one time."""

    def __init__(self, fields: xr.DataArray, label: str):
        self.times, self.pictures = fields.time.values, fields.values
        names, side, wide = fields.row.values.tolist(), 1.92, 2.02 * fields.sizes["row"] + 0.1
        self.fig = plt.figure(figsize=(wide + 0.75, side + 0.6), dpi=SCREEN)
        self.fig.set_layout_engine("none")
        width, height = self.fig.get_size_inches()
        bound, self.images = largest(self.pictures), []
        for number, name in enumerate(names):
            ax = self.fig.add_axes(((0.1 + number * (side + 0.1)) / width, 0.1 / height, side / width, side / height))
            ax.set(xticks=[], yticks=[], title=words(name))
            ax.spines[:].set(visible=True, color="0.4")
            pixels, scale = np.zeros(self.pictures.shape[2:]), {"vmin": -bound, "vmax": bound}
            few = plt.get_cmap("RdBu_r", 48)  # a file half as large
            self.images.append(ax.imshow(pixels, cmap=few, interpolation="nearest", aspect="auto", **scale))
        bar = self.fig.add_axes(((wide - 0.05) / width, 0.1 / height, 0.1 / width, side / height))
        self.fig.colorbar(self.images[0], cax=bar).set_label(label, labelpad=1)
        self.title = self.fig.text(0.1 / width, 1 - 0.22 / height, "", fontsize=10)
        plt.close(self.fig)

    def show(self, number: int) -> list:
        """Draws the frame of that number, from 0; returns what has changed."""
        for image, row in zip(self.images, self.pictures, strict=True):
            image.set_data(row[number])
        self.title.set_text(f"t = {self.times[number]:g}")
        return [*self.images, self.title]


def _written(made: Film | _Fields, milliseconds: int) -> bytes:
    duration = int(positive("milliseconds", milliseconds))
    canvas, pictures = FigureCanvasAgg(made.fig), []
    for artist in made.show(0):  # what stays is drawn once
        artist.set_animated(True)
    canvas.draw()
    still, frames = canvas.copy_from_bbox(made.fig.bbox), [image.axes.spines.values() for image in made.images]
    for number in range(len(made.times)):
        canvas.restore_region(still)
        for artist in (*made.show(number), *chain(*frames)):
            artist.draw(canvas.get_renderer())
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.int32))
    palette = _palette(made, pictures[0])
    flat = [_nearest(picture, palette) for picture in pictures]
    file, durations = io.BytesIO(), [duration] * (len(flat) - 1) + [LAST]
    flat[0].save(file, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)
    return file.getvalue()


def _palette(made: Film | _Fields, picture: np.ndarray) -> np.ndarray:
    """One palette [256, 3] for all pictures, so that what does not move is stored once: scales, white, and the rest."""
    scales = {image.cmap.name: image.cmap for image in made.images}.values()
    places = np.linspace(0, 1, 192 // len(scales))
    colours = np.vstack([(255 * scale(places)[:, :3]).round() for scale in scales]).astype(np.int32)
    rest = 255 - len(colours)
    reduced = Image.fromarray(picture.astype(np.uint8)).quantize(rest, Image.Quantize.MAXCOVERAGE)
    others = np.array(reduced.getpalette()[: 3 * rest], np.int32).reshape(-1, 3)
    return np.vstack([colours, others, np.full((256 - len(colours) - len(others), 3), 255)])


def _nearest(pixels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A picture [H, W, 3] in the nearest colours of ``palette`` [256, 3]."""
    packed, places = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_inverse=True)
    found = packed[:, None] >> (16, 8, 0) & 255
    nearest = np.square(found[:, None] - palette).sum(-1).argmin(1).astype(np.uint8)
    picture = Image.fromarray(nearest[places].reshape(pixels.shape[:2]))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture
