"""Fields and forecasts on maps, and forecasts that move, for which cartopy is needed.

A grid has ascending ``lat`` (degrees north) and ``lon`` (degrees east). Its cells are drawn as they are, from edge to
edge, so that a global grid has neither a hole at the pole nor a seam; contours are drawn through their centres.
Coastlines are Natural Earth's (1:110 million) of ``minconv/plots/natural_earth``: after this import, cartopy's
``ax.coastlines("110m")`` needs no network.

Every figure has a title, and says where its data are from when they have an attribute ``source``, and when a forecast
began whose ``init_time`` is one. Arguments of another shape than described raise ValueError, those of another type
TypeError.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import cartopy
import cartopy.crs as ccrs
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from cartopy.io.shapereader import NEShpDownloader
from cartopy.mpl.geoaxes import GeoAxes
from cartopy.util import add_cyclic_point
from IPython import display, get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator
from PIL import Image

from minconv.data.grid import cell_edges
from minconv.plots.axes import axis_label, clipped, largest, lead_words, titled, words
from minconv.plots.films import small
from minconv.plots.style import PAGE
from minconv.runtime.checks import choice, needs, positive, whole

Limits, Levels = Sequence[float] | None, int | Sequence[float]
COASTLINES = Path(__file__).parent / "natural_earth" / "ne_110m_coastline.shp"
PROJECTIONS = {
    "orthographic": ccrs.Orthographic(-30, 45),  # the North Atlantic
    "robinson": ccrs.Robinson(),
    "regional": None,  # depends on the grid
}
SEQUENTIAL = ListedColormap(plt.get_cmap("viridis")(np.linspace(0.3, 0.95, 256)))  # light, for dark coastlines
LETTER = 0.075  # inches
PIECE = 3.0  # degrees
SCREEN, FILM = 130, 85  # dots per inch of the slider's pictures, and of a film's
COLOURS = 128  # of a film

_coast = NEShpDownloader.default_downloader()
_coast.pre_downloaded_path_template = str(COASTLINES).replace("{", "{{").replace("}", "}}")
cartopy.config["downloaders"]["shapefiles", "natural_earth", "110m", "physical", "coastline"] = _coast


class Page(Figure):
    """A page of maps, which a notebook keeps in 256 colours: as a whole one weighs half a megabyte."""


if shell := get_ipython():
    shell.display_formatter.formatters["image/png"].for_type(
        Page, lambda page: small(print_figure(page, bbox_inches="tight"))
    )


def forecast_maps(fields: xr.DataArray, **options: Any) -> Figure:
    """Rows of maps by lead time in one colour scale, with contours and coastlines.

    Args:
        fields: over (row, lead_time, lat, lon); ``row`` holds names of ``STYLE`` or any words, the
            first the truth; ``lead_time`` is timedelta64.
        projection: one of :data:`PROJECTIONS` (``orthographic``), or any of cartopy's; ``regional`` shows the grid's
            extent only.
        title: above everything.
        label: what the colours mean, with units; by default the attributes long_name and units.
        diverging: a scale symmetric about zero, for anomalies.
        limits: lowest and highest value of the scale; by default those of the first row. What lies beyond shows as an
            arrow of the colour bar.
        levels: of the contours, or about how many (10).
        errors: draw every row but the first as its difference to the first, in a second, symmetric scale.
        error_limit: the end of the second scale; by default the largest error.
    """
    forecast = _Forecast(fields, **options)
    fig, axes = forecast.page(forecast.rows, forecast.leads)
    forecast.paint(fig, axes, forecast.pictures)
    return fig


def field_maps(
    fields: xr.DataArray | xr.Dataset,
    *,
    projection: str | ccrs.Projection = "robinson",
    title: str = "",
    diverging: bool | None = None,
    levels: Levels = 10,
) -> Figure:
    """Maps side by side: a column for each panel, a row with a colour scale of its own for each variable.

    Args:
        fields: over (panel, lat, lon); ``panel`` holds the columns' names, each of ``STYLE``, a
            lead time or any words. What the colours mean is in the variables' long_name and units.
        projection: one of :data:`PROJECTIONS`, or any of cartopy's.
        title: above everything.
        diverging: scales symmetric about zero; by default those of variables that have both signs.
        levels: of the contours, or about how many.
    """
    variables = list(fields.data_vars.values()) if isinstance(fields, xr.Dataset) else [fields]
    if not variables:
        raise ValueError("fields must hold at least one variable over (panel, lat, lon); got an empty dataset")
    variables = [_gridded(values, ("panel",)) for values in variables]
    panels, heading = [words(panel) for panel in variables[0].panel.values], titled(title, *variables, fields)
    rows = [f"({letter})" * (len(variables) > 1) for letter, _ in zip("abcdefghi", variables, strict=False)]
    fig, axes = _page(variables[0], projection, rows, panels, heading, bars=len(variables))
    for line, values in zip(axes, variables, strict=True):
        pictures = values.values
        signed = bool((pictures < 0).any() and (pictures > 0).any()) if diverging is None else diverging
        scale = _Scale(pictures, pictures, signed, None, levels)
        _paint(fig, line, pictures, values, scale, axis_label(values, str(values.name or "")))
    return fig


def forecast_film(fields: xr.DataArray, *, milliseconds: int = 500, **options: Any) -> display.Image:
    """The rows side by side, one lead time after another: an animated PNG, which plays on pages without a kernel, too.

    Args:
        fields, options: see :func:`forecast_maps`.
        milliseconds: from one lead to the next.
    """
    whole("milliseconds", milliseconds, least=1)
    leads, picture = _moving(fields, FILM, options)
    frames = [np.asarray(picture(number)) for number in range(len(leads))]
    flat = Image.fromarray(np.vstack(frames)).quantize(COLOURS)  # the same few for all: a small file
    height, width = frames[0].shape[:2]
    first, *others = (flat.crop((0, top, width, top + height)) for top in range(0, flat.height, height))
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return display.Image(file.getvalue(), format="png")


def forecast_slider(fields: xr.DataArray, *, milliseconds: int = 500, **options: Any) -> ipywidgets.VBox:
    """The rows side by side at one lead time, which a slider moves or a button plays, for JupyterLab.

    A picture is drawn when its lead is first shown, which is where the slider is let go, and kept. Without a kernel
    nothing else happens: :func:`forecast_film` is for the page.

    Args:
        fields, options: see :func:`forecast_maps`.
        milliseconds: from one lead to the next when played.
    """
    whole("milliseconds", milliseconds, least=1)
    leads, picture = _moving(fields, SCREEN, options)

    @cache
    def png(number: int) -> bytes:
        file = io.BytesIO()
        picture(number).save(file, "PNG", compress_level=1)
        return file.getvalue()

    image = ipywidgets.Image(value=png(0), format="png", layout={"max_width": "100%"})
    wide = {"layout": {"width": "30em"}, "continuous_update": False}
    slider = ipywidgets.SelectionSlider(options=leads, description="lead time", **wide)
    play = ipywidgets.Play(max=len(leads) - 1, interval=milliseconds)
    ipywidgets.jslink((play, "value"), (slider, "index"))
    slider.observe(lambda change: setattr(image, "value", png(change["new"])), "index")
    return ipywidgets.VBox([ipywidgets.HBox([play, slider]), image])


def _moving(
    fields: xr.DataArray, dpi: int, options: Mapping[str, Any]
) -> tuple[list[str], Callable[[int], Image.Image]]:
    """Lead times in words, and what draws the rows side by side at the one of a number."""
    forecast = _Forecast(fields, **options)
    fig, axes = forecast.page([""], forecast.rows)
    drawn = forecast.paint(fig, axes[0], forecast.pictures[:, 0])
    plt.close(fig)  # or the notebook would show it besides
    fig.set_dpi(dpi)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    fig.set_layout_engine("none")  # the first layout serves all

    def picture(number: int) -> Image.Image:
        for drawing, name, values in zip(drawn, forecast.rows, forecast.pictures[:, number], strict=True):
            drawing.show(values)
            drawing.ax.set_title(f"{name}, {forecast.leads[number]}")
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    return forecast.leads, picture


def _pieces(edges: np.ndarray, cut: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of cells, at most :data:`PIECE` degrees each; round the globe from the meridian ``cut`` where it is given.

    Returns:
        The number of each piece's cell, and the edges of the pieces.
    """
    cells, count = np.arange(len(edges)), math.ceil(np.diff(edges).max() / PIECE)
    fine = np.interp(np.arange(cells[-1] * count + 1) / count, cells, edges)
    if cut is not None:
        fine = cut + np.unique(np.append((fine - cut) % 360, (0, 360)).round(9))
    middle = (fine[1:] + fine[:-1]) / 2
    if cut is not None:
        middle = edges[0] + (middle - edges[0]) % 360
    return np.searchsorted(edges, middle) - 1, fine


def _gridded(fields: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """``fields`` over ``dims``, lat and lon in this order, in double precision, nan wherever they are not finite.

    Raises ValueError or TypeError where they are no fields or their grid is no grid.
    """
    wanted = (*dims, "lat", "lon")
    needs("fields", fields, (), wanted)
    if missing := [name for name in wanted if name not in fields.coords]:
        raise ValueError(f"fields must have coordinates for all its dims; {', '.join(missing)} has none")
    for name, low, high in (("lat", -90, 90), ("lon", -360, 720)):
        values = fields[name].values.astype(float)
        if len(values) < 2 or not (np.diff(values) > 0).all() or values[0] < low or values[-1] > high:
            raise ValueError(f"{name} must ascend, at least 2 values from {low} to {high} degrees; got {values}")
    lon = fields.lon.values
    if lon[-1] - lon[0] >= 360:
        raise ValueError(f"lon must have no meridian twice; got {lon[0]:g} to {lon[-1]:g} degrees")
    return fields.transpose(*wanted).astype(float).where(np.isfinite)


def _start(fields: xr.DataArray) -> str:
    """When a forecast began, in words; "" where ``fields`` do not say, or are of several."""
    if "init_time" not in fields.coords or fields.init_time.ndim:
        return ""
    return f"start {str(fields.init_time.values)[:13].replace('T', ' ')} UTC"


class _Forecast:
    """What a page and a slider of forecasts share: pictures [row, lead, lat, lon], their scales and their words."""

    def __init__(
        self,
        fields: xr.DataArray,
        *,
        projection: str | ccrs.Projection = "orthographic",
        title: str = "",
        label: str = "",
        diverging: bool = False,
        limits: Limits = None,
        levels: Levels = 10,
        errors: bool = False,
        error_limit: float | None = None,
    ):
        self.fields = fields = _gridded(fields, ("row", "lead_time"))
        if errors and fields.sizes["row"] < 2:
            raise ValueError("fields must have at least 2 rows to show errors; got 1")
        self.rows = [words(row) for row in fields.row.values]
        self.leads = [lead_words(lead) for lead in fields.lead_time.values]
        self.pictures = pictures = fields.values
        ends = None if error_limit is None else (-positive("error_limit", error_limit), error_limit)
        label = label or axis_label(fields, str(fields.name or ""))
        upper = slice(1 if errors else None)
        self.parts = [(upper, _Scale(pictures[upper], pictures[0], diverging, limits, levels), label)]
        if errors:
            pictures[1:] -= pictures[0]
            scale = _Scale(pictures[1:], pictures[1:], True, ends, levels)
            self.parts.append((slice(1, None), scale, f"error of {label}"))
        title = ", ".join(filter(None, (title, _start(fields))))
        self.page = partial(_page, fields, projection, title=titled(title, fields), bars=1 + errors)

    def paint(self, fig: Figure, axes: np.ndarray, pictures: np.ndarray) -> list["_Map"]:
        """Draws ``pictures`` [row, ...] on ``axes`` [row, ...], each row in its scale."""
        return [
            drawing
            for rows, scale, label in self.parts
            for drawing in _paint(fig, axes[rows], pictures[rows], self.fields, scale, label)
        ]


class _Scale:
    """Colours and contours for maps of ``values``: between ``limits``, by default those of the values ``typical``."""

    def __init__(self, values: np.ndarray, typical: np.ndarray, signed: bool, limits: Limits, levels: Levels):
        finite = typical[np.isfinite(typical)]
        if limits is not None:
            if len(limits) != 2 or not np.isfinite(limits).all() or limits[0] >= limits[1]:
                raise ValueError(f"limits must be two finite numbers, the lower one first; got {limits!r}")
            self.low, self.high = map(float, limits)
        elif signed or not finite.size or finite.min() == finite.max():
            middle = 0.0 if signed or not finite.size else float(finite[0])
            reach = largest(finite - middle)
            self.low, self.high = middle - reach, middle + reach
        else:
            self.low, self.high = float(finite.min()), float(finite.max())
        self.signed, self.arrows = signed, clipped(values, self.low, self.high)
        chosen = np.ndim(levels) == 0
        if chosen:
            levels = MaxNLocator(whole("levels", levels, least=1), steps=(1, 2, 5, 10)).tick_values(self.low, self.high)
        steps = np.diff(levels)
        self.every = f", contours every {steps[0]:g}" if steps.size and np.allclose(steps, steps[0]) else ""
        # 0 would wind through all that is small
        self.levels = np.asarray([level for level in levels if level or not (chosen and signed)], float)


def _page(
    fields: xr.DataArray,
    projection: str | ccrs.Projection,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    bars: int,
) -> tuple[Figure, np.ndarray]:
    """A page of empty maps [row, column] with their names, high enough for the title and for colour bars below."""
    outline = None
    if not isinstance(projection, ccrs.Projection):
        projection = PROJECTIONS[choice("projection", projection, PROJECTIONS)]
        if projection is None:
            projection, outline = _region(fields)
    if outline is None:
        (west, east), (south, north) = projection.x_limits, projection.y_limits
    else:
        (west, south), (east, north) = outline.min(0), outline.max(0)
    aspect, width = (north - south) / (east - west), LETTER * max(map(len, rows))
    upright = width < aspect * PAGE / len(columns)  # along the map's side, if it is long enough
    height = min(aspect * (PAGE - (0.2 if upright else width)) / len(columns), 2.8)
    size = (PAGE, len(rows) * (height + 0.06) + 0.5 * bars + 0.25 * (1 + bool(title)))
    options = {"FigureClass": Page, "layout": "compressed", "subplot_kw": {"projection": projection}}
    fig, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, **options)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.04, wspace=0, hspace=0)
    for ax in axes.flat:
        ax.set(xlim=(west, east), ylim=(south, north))
        if outline is not None:
            ax.set_boundary(Outline(outline))
        ax.spines["geo"].set(linewidth=0.6, color="0.3")
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name)
    turned = 90 * (upright and width > 0.3)  # three letters need no turning
    for ax, name in zip(axes[:, 0], rows, strict=True):  # cartopy's axes have no label
        ax.text(-0.04, 0.5, name, transform=ax.transAxes, rotation=turned, ha="right", va="center")
    if title:
        fig.suptitle(title, fontsize=10)
    return fig, axes


def _region(fields: xr.DataArray) -> tuple[ccrs.Projection, np.ndarray]:
    """A projection for the grid's extent, conformal conic outside the tropics, and its outline there, [points, 2]."""
    lat, lon = cell_edges(fields)
    middle = (lon[0] + lon[-1]) / 2
    south, north = lat[[0, -1]]
    if south * north > 0 and max(-south, north) < 90 and lon[-1] - lon[0] < 180:
        parallels = south + (north - south) / 6, north - (north - south) / 6
        far = -30 if south > 0 else 30  # where the map is cut, as it is infinite
        projection = ccrs.LambertConformal(middle, (south + north) / 2, standard_parallels=parallels, cutoff=far)
    else:
        projection = ccrs.PlateCarree(middle)
    along, up = np.linspace(lon[0], lon[-1], 100), np.linspace(south, north, 100)
    sides = (along, south), (lon[-1], up), (along[::-1], north), (lon[0], up[::-1])
    corners = np.concatenate([np.stack(np.broadcast_arrays(*side), -1) for side in sides])
    points = projection.transform_points(ccrs.PlateCarree(middle), corners[:, 0] - middle, corners[:, 1])
    return projection, points[:, :2]


class _Map:
    """A field on a map: its cells in colour, grey where values are missing, contours and coastlines."""

    def __init__(self, ax: GeoAxes, values: np.ndarray, fields: xr.DataArray, scale: _Scale):
        self.ax, self.scale, self.drawn = ax, scale, None
        self.lat, self.lon = fields.lat.values.astype(float), fields.lon.values.astype(float)
        lat, lon = cell_edges(fields)
        # all round, contours close; and go on from the centres of the last row to the pole where cells end there
        self.closed = math.isclose(lon[-1] - lon[0], 360)
        self.south = self.closed and lat[0] == -90 < self.lat[0]
        self.north = self.closed and lat[-1] == 90 > self.lat[-1]
        # cartopy leaves out cells across the horizon, draws their edges straight, and is slow where one lies across the
        # map's seam: pieces that are small and end at the seam do without
        rows, lat = _pieces(lat)
        columns, lon = _pieces(lon, ax.projection.proj4_params.get("lon_0", 0) - 180 if self.closed else None)
        self.pieces = np.ix_(rows, columns)
        options = {"cmap": "RdBu_r" if scale.signed else SEQUENTIAL, "vmin": scale.low, "vmax": scale.high}
        cells, flat = values[self.pieces], ccrs.PlateCarree()
        self.mesh = ax.pcolormesh(lon, lat, cells, transform=flat, rasterized=True, **options)
        ax.coastlines("110m", linewidth=0.5, color="0.4" if scale.signed else "0.15")
        ax.set_facecolor("0.8")
        self.show(values)

    def show(self, values: np.ndarray) -> None:
        """Draws values in place of those that are there."""
        self.mesh.set_array(values[self.pieces])
        if self.drawn:
            self.drawn.remove()
        self.drawn, levels, lat, lon = None, self.scale.levels, self.lat, self.lon
        if not np.isfinite(values).any():
            self.drawn = self.ax.text(0.5, 0.5, "not finite", transform=self.ax.transAxes, ha="center", va="center")
            return
        if not ((levels > np.nanmin(values)) & (levels < np.nanmax(values))).any():
            return
        if self.south:
            lat, values = np.array([-90, *lat]), np.vstack([np.full_like(values[0], values[0].mean()), values])
        if self.north:
            lat, values = np.array([*lat, 90]), np.vstack([values, np.full_like(values[-1], values[-1].mean())])
        if self.closed:
            values, lon = add_cyclic_point(values, lon)
        style = {"levels": levels, "colors": "black" if self.scale.signed else "white", "linewidths": 0.4}
        self.drawn = self.ax.contour(lon, lat, values, transform=ccrs.PlateCarree(), **style)


def _paint(
    fig: Figure, axes: np.ndarray, pictures: np.ndarray, fields: xr.DataArray, scale: _Scale, label: str
) -> list[_Map]:
    """Draws ``pictures`` [..., lat, lon] on ``axes`` [...], with a colour bar below."""
    flat = pictures.reshape(-1, *pictures.shape[-2:])
    drawn = [_Map(ax, values, fields, scale) for ax, values in zip(axes.flat, flat, strict=True)]
    bar = {"location": "bottom", "shrink": 0.6, "aspect": 40, "pad": 0.02}
    fig.colorbar(drawn[0].mesh, ax=axes, label=label + scale.every, extend=scale.arrows, **bar)
    return drawn
