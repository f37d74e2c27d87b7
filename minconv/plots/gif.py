"""A film as a GIF, for pages that run no script."""

import io
from itertools import chain

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from minconv.plots.films import Film
from minconv.runtime.checks import positive

LAST = 2500  # milliseconds that the last frame stays


def gif(fields: xr.DataArray, context: int, milliseconds: int = 160, **options: str) -> bytes:
    """A :class:`minconv.plots.films.Film` as a GIF; arguments as there.

    Args:
        milliseconds: duration of a frame.
    """
    made, duration = Film(fields, context, **options), int(positive("milliseconds", milliseconds))
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


def _palette(made: Film, picture: np.ndarray) -> np.ndarray:
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
