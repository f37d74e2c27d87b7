"""Forecasts and waves as films, on a page without a kernel and, where there is one, with widgets to ask for others."""

import io
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import HTML
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from minconv.plots.axes import largest, words
from minconv.plots.style import GUIDE, PAGE, STYLE
from minconv.plots.trajectories import film_rows
from minconv.runtime.checks import needs, positive, whole

SCREEN = 100  # dots per inch
SIZE = (PAGE, 4.5)  # inches
BUTTONS = {  # by what matplotlib calls the pictures on them, which it has from another server
    "minus": "−",
    "fast-backward": "|◀",
    "step-backward": "‹",
    "play fa-flip-horizontal": "◀",
    "pause": "❚❚",
    "play": "▶",
    "step-forward": "›",
    "fast-forward": "▶|",
    "plus": "+",
}


class Moving(ABC):
    """A figure of which one picture is shown at a time.

    Attributes:
        fig: the figure.
        count: of its pictures.
    """

    fig: Figure
    count: int

    @abstractmethod
    def show(self, number: int) -> list:
        """Draws the picture of that number, from 0; returns what has changed."""

    def picture(self, number: int) -> bytes:
        """The picture of that number as a PNG."""
        self.show(number)
        file = io.BytesIO()
        self.fig.savefig(file, dpi=SCREEN)
        return small(file.getvalue())


class Film(Moving):
    """Truth, forecast and error side by side at one time, and below them the RMSE of all times.

    Args:
        fields: over (row, time, y, x), the truth first, a forecast second; of further ones the RMSE alone is drawn.
            Rows are names of :data:`STYLE`; ``time`` counts predicted frames from 1.
        context: number of true frames that are seen: a frame up to that is forecast from the true ones before it, later
            ones from the forecast's own.
        label: what the colours mean, with units.
    """

    def __init__(self, fields: xr.DataArray, context: int, label: str = "vorticity (1 / unit time)"):
        fields = film_rows(fields)
        if fields.sizes["row"] < 2:
            raise ValueError("fields must have at least 2 rows, truth and forecast; got 1")
        self.times, self.context = fields.time.values, whole("context", context, least=1)
        self.count = len(self.times)
        truth, forecast = fields.values[:2].astype(float)
        self.pictures = np.stack([truth, forecast, forecast - truth])  # [3, time, y, x]
        rmse = np.sqrt(np.square(fields.values[1:] - truth).mean((-2, -1)))
        self.rmse, names = rmse[0], fields.row.values.tolist()
        self.fig = plt.figure(figsize=SIZE, dpi=SCREEN)
        self.fig.set_layout_engine("none")
        error = largest(self.pictures[2])
        self.images = [
            self._picture(0.03, names[0], largest(truth), "RdBu_r"),
            self._picture(0.36, names[1], largest(truth), "RdBu_r"),
            self._picture(0.69, "Error", error, "PuOr_r"),
        ]
        self._bar(0, (0.03, 0.61), label)
        self._bar(2, (0.69, 0.28), "forecast - truth")
        ax = self.fig.add_axes((0.09, 0.1, 0.88, 0.19))
        for name, values in zip(names[1:], rmse, strict=True):
            ax.plot(self.times, values, markevery=5, **STYLE.get(name, {"label": name}))
        ax.axvline(context + 0.5, **GUIDE)
        words_below = f"predicted frame t: up to {context} from the true frames before it, then from its own"
        ax.set(xlabel=words_below, ylabel="RMSE", yscale="log", xlim=(self.times[0], self.times[-1]))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=len(rmse))
        self.now = ax.axvline(self.times[0], color="k", linewidth=1)
        self.title = self.fig.text(0.03, 0.955, "", fontsize=10)
        self.show(0)
        plt.close(self.fig)  # or a notebook would show it besides

    def _picture(self, left: float, name: str, bound: float, colours: str) -> AxesImage:
        ax = self.fig.add_axes((left, 0.45, 0.28, 0.28 * SIZE[0] / SIZE[1]))
        ax.set(xticks=[], yticks=[])
        ax.set_title(words(name), pad=4)
        ax.spines[:].set(visible=True, color="0.4")
        pixels = np.zeros(self.pictures.shape[2:])
        return ax.imshow(pixels, cmap=colours, vmin=-bound, vmax=bound, interpolation="nearest", aspect="auto")

    def _bar(self, number: int, place: tuple[float, float], label: str) -> None:
        ax = self.fig.add_axes((place[0], 0.42, place[1], 0.018))
        bar = self.fig.colorbar(self.images[number], cax=ax, orientation="horizontal")
        bar.set_label(label, labelpad=1)
        bar.ax.tick_params(labelsize=7, pad=2)

    def show(self, number: int) -> list:
        time, frames = self.times[number], self.pictures[:, number]
        for image, frame in zip(self.images, frames, strict=True):
            image.set_data(frame)
        ahead = time - self.context + 1
        how = "one step ahead" if ahead < 2 else f"{ahead:g} steps after the last frame seen"
        self.title.set_text(f"t = {time:g}, {how}: RMSE {self.rmse[number]:.3f}")
        self.now.set_xdata([time, time])
        return [*self.images, self.now, self.title]


def small(png: bytes) -> bytes:
    """The same picture in 256 colours: a third of the bytes."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
        file, "PNG", optimize=True
    )
    return file.getvalue()


def film(fields: xr.DataArray, context: int, milliseconds: int = 120, **options: str) -> HTML:
    """A :class:`Film` with buttons to play it, that needs no kernel; arguments as there.

    Args:
        milliseconds: duration of a frame.
    """
    return page(Film(fields, context, **options), milliseconds)


def page(made: Moving, milliseconds: int = 120) -> HTML:
    """All pictures of a figure with buttons to play them, that need no kernel.

    Args:
        milliseconds: duration of a picture.
    """
    duration = positive("milliseconds", milliseconds)
    moving = FuncAnimation(made.fig, made.show, made.count, interval=duration)
    with plt.rc_context({"savefig.dpi": SCREEN}):
        found = moving.to_jshtml(default_mode="loop")

    def smaller(found: re.Match) -> str:
        return found[1] + b64encode(small(b64decode(found[2].replace("\\\n", "")))).decode()

    found = re.sub(r'(data:image/png;base64,)([^"]+)', smaller, found)
    found = re.sub(r'<i class="fa fa-([a-z -]+)"></i>', lambda found: BUTTONS[found[1]], found)
    return HTML(re.sub(r'<link rel="stylesheet"\s+href="[^"]+">', "", found))


def forecast_player(
    forecast: Callable[[str, int, int], xr.DataArray],
    models: Sequence[str],
    seeds: int = 100,
    contexts: tuple[int, int, int] = (1, 20, 40),
    **options: str,
) -> ipywidgets.VBox:
    """A :class:`Film` by widgets, for a live kernel: which model, which seed, how many frames are seen, which time.

    Args:
        forecast: called as ``forecast(model, seed, context)``, gives the fields of a :class:`Film`.
        models: names in :data:`STYLE`; the first is shown first.
        seeds: how many there are, from 0.
        contexts: the fewest frames that may be seen, those that are at first, and the most.
        options: of the film.
    """
    least, first, most = (whole("contexts", context, least=1) for context in contexts)
    wide = {"style": {"description_width": "initial"}, "continuous_update": False}
    model = ipywidgets.Dropdown(options=[(words(name), name) for name in models], description="cell")
    seed = ipywidgets.IntSlider(0, 0, whole("seeds", seeds, least=1) - 1, description="seed", **wide)
    context = ipywidgets.IntSlider(first, least, most, description="frames seen", **wide)
    return _player(
        lambda: Film(forecast(model.value, seed.value, context.value), context.value, **options),
        [model, seed, context],
        ("frame t", 1),
    )


class WaveFilm(Moving):
    """Waves over a bottom, the same over another, and the difference, which is all that tells one from the other.

    Args:
        elevation: over (row, wave, time, y, x), two rows in words; ``time`` in hours.
        depth: of the first row's bottom, over (y, x), drawn as lines of equal depth.
    """

    def __init__(self, elevation: xr.DataArray, depth: xr.DataArray):
        needs("elevation", elevation, (), ("row", "wave", "time", "y", "x"))
        if elevation.sizes["row"] != 2:
            raise ValueError(f"elevation must have 2 rows; got {elevation.sizes['row']}")
        needs("depth", depth, (), ("y", "x"))
        elevation, depth = elevation.transpose("row", "wave", "time", "y", "x"), depth.transpose("y", "x")
        pair = elevation.values.reshape(2, -1, *depth.shape)
        self.pictures, self.count = np.stack([*pair, pair[0] - pair[1]]), pair.shape[1]  # [3, picture, y, x]
        names = [*elevation.row.values.tolist(), "difference"]
        later = elevation.values[:, :, 1:]  # waves start several times as high as they are when they have spread
        bounds = [4 * float(later.std())] * 2 + [largest(self.pictures[2])]
        self.places = [(wave, time) for wave in elevation.wave.values for time in elevation.time.values]
        self.fig, axes = plt.subplots(1, 3, figsize=(PAGE, 2.7), dpi=SCREEN)
        self.images = []
        for ax, name, bound in zip(axes, names, bounds, strict=True):
            ax.set(xticks=[], yticks=[], title=name)
            colours = {"cmap": "PuOr_r" if name == "difference" else "RdBu_r", "vmin": -bound, "vmax": bound}
            self.images.append(ax.imshow(self.pictures[0, 0], interpolation="nearest", **colours))
        for ax in axes[::2]:
            ax.contour(depth.values, 6, colors="0.4", linewidths=0.5)
        few = MaxNLocator(6, steps=(1, 2, 5, 10))  # on a third of the page
        for image, over, ticks in ((self.images[0], axes[:2], None), (self.images[2], axes[2], few)):
            bar = self.fig.colorbar(image, ax=over, location="bottom", label="m", aspect=40, pad=0.03, ticks=ticks)
            bar.ax.tick_params(labelsize=7)
        self.title = self.fig.suptitle("", fontsize=9)
        self.show(0)
        self.fig.canvas.draw()
        self.fig.set_layout_engine("none")  # placed once; or every picture would be laid out again
        plt.close(self.fig)  # or a notebook would show it besides

    def show(self, number: int) -> list:
        wave, time = self.places[number]
        for image, field in zip(self.images, self.pictures[:, number], strict=True):
            image.set_data(field)
        self.title.set_text(f"{wave}, t = {time:.1f} h")
        return [*self.images, self.title]


def wave_player(waves: Callable[[float, float], xr.DataArray], depth: xr.DataArray, reach: float) -> ipywidgets.VBox:
    """A :class:`WaveFilm` by widgets, for a live kernel: where the wave starts, and which time.

    Args:
        waves: called as ``waves(x, y)`` with a place in km from the centre, gives the elevation of a film.
        depth: of the film.
        reach: of both places, km.
    """
    places = [
        ipywidgets.FloatSlider(
            -reach / 2, min=-reach, max=reach, step=reach / 16, description=f"{axis} (km)", continuous_update=False
        )
        for axis in "xy"
    ]
    return _player(lambda: WaveFilm(waves(*(place.value for place in places)), depth), places, ("frame", 0))


def _player(
    make: Callable[[], Moving], chosen: Sequence[ipywidgets.Widget], number: tuple[str, int]
) -> ipywidgets.VBox:
    """What is made, as widgets say that choose it; ``number`` is what a picture's is called, and the first."""
    made, (name, first) = make(), number
    ends = {"min": first, "max": first + made.count - 1}
    time = ipywidgets.IntSlider(first, **ends, description=name, layout={"width": "30em"})
    play = ipywidgets.Play(**ends, interval=150, show_repeat=True)
    ipywidgets.jslink((play, "value"), (time, "value"))
    image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    picture = cache(made.picture)

    def draw(change: Mapping | None = None) -> None:
        image.value = picture(time.value - first)

    def another(change: Mapping) -> None:
        nonlocal picture
        picture = cache(make().picture)
        draw()

    for widget in chosen:
        widget.observe(another, "value")
    time.observe(draw, "value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([*chosen]), ipywidgets.HBox([play, time]), image])
