"""Maps: whole globes, coastlines in their place without a network, scales, words, what moves."""

import io
import re
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cartopy
import cartopy.crs as ccrs
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from cartopy.feature import COASTLINE
from cartopy.mpl.geocollection import GeoQuadMesh
from helpers import ROOT
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from PIL import Image
from samples import DAYS, bars, climates, figure, globe, region

from minconv import plots
from minconv.plots import maps
from minconv.plots.style import PAGE


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a figure asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def globes(fig: Figure) -> list[maps.GeoAxes]:
    return [ax for ax in fig.axes if isinstance(ax, maps.GeoAxes)]


def one(ax, kind):
    (found,) = (artist for artist in ax.get_children() if isinstance(artist, kind))
    return found


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes(tmp_path):
    data = globe(("truth",), (1,))
    first, again = (
        [path.read_bytes() for path in plots.save(maps.forecast_maps(data), "z", data, tmp_path)] for _ in range(2)
    )
    assert first == again and all(first)


# --- coastlines -----------------------------------------------------------------------------------


def coast() -> list[np.ndarray]:
    return [np.array(line.coords) for line in COASTLINE.with_scale("110m").geometries()]


def test_coastlines_come_from_the_package():
    path = cartopy.io.shapereader.natural_earth("110m", "physical", "coastline")
    assert Path(path) == maps.COASTLINES
    assert sum(file.stat().st_size for file in maps.COASTLINES.parent.iterdir()) < 200_000


PLACES = {
    "Reykjavik": (64.15, -21.95),
    "Cape Horn": (-55.98, -67.27),
    "Lisbon": (38.7, -9.4),
    "Cape Town": (-33.9, 18.4),
    "Tokyo": (35.6, 139.8),
    "Sydney": (-33.9, 151.2),
    "San Francisco": (37.8, -122.5),
    "Chukotka, beyond the date line": (66.1, -169.7),
    "McMurdo": (-77.8, 166.7),
}


def test_coasts_are_where_they_are():
    points = np.concatenate(coast())
    for place, (lat, lon) in PLACES.items():
        away = np.hypot(points[:, 1] - lat, (points[:, 0] - lon) * np.cos(np.deg2rad(lat)))
        assert away.min() < 1.5, place


def test_no_coast_crosses_the_map():
    lines = coast()
    assert len(lines) > 100
    for line in lines:
        assert len(line) > 1 and np.abs(np.diff(line[:, 0])).max() < 15
        inside = np.abs((line[1:] + line[:-1])[:, 0] / 2) < 180
        assert inside.all()  # nothing runs along the date line
    points = np.concatenate(lines)
    assert np.abs(points[:, 0]).max() == 180 and -86 < points[:, 1].min() < -84 and points[:, 1].max() < 84


def test_lines_go_on_beyond_the_date_line():
    ends = np.concatenate([line[[0, -1]] for line in coast()])
    east, west = (np.sort(ends[ends[:, 0] == side, 1]) for side in (180, -180))
    assert len(east) == 7  # Antarctica, two coasts each of Fiji, Chukotka and Wrangel Island
    np.testing.assert_allclose(east, west)


@pytest.mark.slow
def test_a_process_of_its_own_draws_coasts_without_a_network_and_plots_do_without_cartopy(tmp_path):
    code = (
        "import socket, sys; socket.socket.connect = socket.getaddrinfo = None\n"
        "import matplotlib; matplotlib.use('agg')\n"
        "from minconv import plots; assert 'cartopy' not in sys.modules and not hasattr(plots, 'maps')\n"
        "import cartopy.crs as ccrs, matplotlib.pyplot as plt, minconv.plots.maps\n"
        "ax = plt.axes(projection=ccrs.Robinson()); ax.coastlines('110m'); plt.savefig('map.png')"
    )
    home = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=home, check=True)
    assert np.asarray(Image.open(tmp_path / "map.png").convert("L")).min() < 100


# --- cells ----------------------------------------------------------------------------------------


WHOLE = ["orthographic", "robinson", "regional", ccrs.Orthographic(0, 90), ccrs.Orthographic(180, -89)]


@pytest.mark.parametrize(
    "projection", [WHOLE[0], *(pytest.param(other, marks=pytest.mark.slow) for other in WHOLE[1:])]
)
def test_a_map_has_neither_hole_nor_seam(projection):
    """With a red background, no red shows through a field that is there everywhere."""
    fig = maps.forecast_maps(xr.ones_like(globe(("truth",), (1,))), projection=projection)
    (ax,) = globes(fig)
    ax.set_facecolor("red")
    fig.set_dpi(200)
    fig.canvas.draw()
    assert count(fig, "red") == 0
    one(ax, GeoQuadMesh).set_visible(False)
    fig.canvas.draw()
    assert count(fig, "red") > 200_000


def count(fig: Figure, colour: str) -> int:
    """Pixels of nearly this colour."""
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(int)
    return int((np.abs(pixels - 255 * np.array(to_rgb(colour))).max(-1) < 60).sum())


def shown(ax: maps.GeoAxes, fields: xr.DataArray) -> np.ndarray:
    """The values drawn at the centres of the cells."""
    mesh = one(ax, GeoQuadMesh)
    lon, lat = mesh.get_coordinates()[0, :, 0], mesh.get_coordinates()[:, 0, 1]
    assert lon[-1] - lon[0] == pytest.approx(360) and (lat[0], lat[-1]) == (-90, 90)
    columns = np.searchsorted(lon, lon[0] + (fields.lon.values - lon[0]) % 360 + 1e-6) - 1
    return mesh.get_array().reshape(len(lat) - 1, -1)[
        np.ix_(np.searchsorted(lat, fields.lat.values + 1e-6) - 1, columns)
    ]


@pytest.mark.parametrize("projection", ["orthographic", "robinson", "regional"])
@pytest.mark.parametrize("shift", [0, 7.5, -180])
def test_cells_have_the_colours_of_their_values(projection, shift):
    fields = globe(("truth",), days=(1,))
    fields = fields.assign_coords(lon=fields.lon + shift)
    (ax,) = globes(maps.forecast_maps(fields, projection=projection))
    np.testing.assert_array_equal(shown(ax, fields), fields[0, 0])


def test_contours_close_around_the_pole_and_over_the_date_line():
    """Contours of the latitude are circles. Where the last row varies, those of its mean go on to the pole."""
    fields = globe(("truth",), (1,))
    fields.values[:] = fields.lat.values[:, None]
    fields = fields + xr.where(fields.lat > 80, np.cos(np.deg2rad(fields.lon)), 0)
    fig = maps.forecast_maps(fields, projection=ccrs.NorthPolarStereo(), levels=[30, 60, 82.49])
    circles = [path.vertices.T for path in one(globes(fig)[0], ContourSet).get_paths()]
    for (lon, lat), latitude in zip(circles, (30, 60), strict=False):
        np.testing.assert_allclose(lat, latitude)
        np.testing.assert_allclose(np.sort(lon), np.arange(25) * 15)  # the whole turn
    assert circles[2][1].max() > 89


# --- scales and words -----------------------------------------------------------------------------


def test_rows_and_columns_are_named():
    axes = globes(maps.forecast_maps(globe(("truth", "minconvlstm", "mine"), (0.25, 1.5))))
    assert [ax.get_title() for ax in axes] == ["6 h", "1.5 days", "", "", "", ""]
    assert [text.get_text() for ax in axes for text in ax.texts] == ["truth", "MinConvLSTM", "mine"]
    assert [ax.get_title() for ax in globes(figure("forecast"))[:3]] == ["1 day", "3 days", ""]


def test_one_scale_is_the_truths_and_shows_what_it_clips():
    fields = globe(("truth", "minconvlstm"), (1,))
    fields[1] += 100
    fig = maps.forecast_maps(fields)
    truth = float(fields[0].min()), float(fields[0].max())
    assert {one(ax, GeoQuadMesh).get_clim() for ax in globes(fig)} == {truth}
    (bar,) = bars(fig)
    assert bar.extend == "max" and bar.ax.get_xlabel() == "geopotential (m² s⁻²), contours every 1000"
    assert bars(maps.forecast_maps(fields[:1]))[0].extend == "neither"
    (bar,) = bars(maps.forecast_maps(fields[:1], limits=(53000, 56000), label="z"))
    assert (bar.vmin, bar.vmax, bar.extend, bar.ax.get_xlabel()) == (53000, 56000, "both", "z, contours every 500")


def test_errors_are_forecast_minus_truth_in_a_symmetric_scale():
    fields, fig = globe(("truth", "minconvlstm")), figure("errors")
    upper, lower = bars(fig)
    assert lower.vmin == -lower.vmax and re.match(
        r"error of geopotential \(m² s⁻²\), contours every \d+$", lower.ax.get_xlabel()
    )
    assert (upper.vmin, upper.vmax) == (fields[0].min(), fields[0].max())
    differences = (fields[1].astype(float) - fields[0]).values
    assert lower.vmax == pytest.approx(np.abs(differences).max())
    for ax, values in zip(globes(fig)[2:], differences, strict=True):
        np.testing.assert_allclose(shown(ax, fields), values)
        assert one(ax, GeoQuadMesh).get_cmap().name == "RdBu_r" and 0 not in one(ax, ContourSet).levels
    assert bars(maps.forecast_maps(fields[:, 1:], errors=True, error_limit=10))[1].extend == "both"


def test_anomalies_are_symmetric_about_zero():
    fields = globe(("truth",), (1,))
    (bar,) = bars(maps.forecast_maps(fields - fields.mean("lon"), diverging=True))
    assert bar.vmin == -bar.vmax < 0 and bar.cmap.name == "RdBu_r"


def test_what_is_not_finite_is_grey_and_said():
    fields = globe()
    fields[1, 1:] = np.inf
    fields[2, 1, 3] = np.nan
    fig = maps.forecast_maps(fields, errors=True)
    said = [[text.get_text() for text in ax.texts].count("not finite") for ax in globes(fig)]
    assert said == [0, 0, 0, 1, 0, 0]
    assert np.isfinite([bar.vmax for bar in bars(fig)]).all()
    assert all(ax.get_facecolor()[:3] == (0.8, 0.8, 0.8) for ax in globes(fig))


def test_constant_fields_are_drawn():
    fig = maps.forecast_maps(xr.ones_like(globe(("truth", "minconvlstm"), (1,))), errors=True)
    assert all(bar.vmin < bar.vmax for bar in bars(fig))


def test_a_region_is_shown_whole_and_alone():
    ax = globes(figure("regional"))[0]
    assert isinstance(ax.projection, ccrs.LambertConformal)
    lat, lon = region().lat.values[[0, -1]] + (-7.5, 7.5), region().lon.values[[0, -1]] + (-7.5, 7.5)
    corners = ax.projection.transform_points(ccrs.PlateCarree(), lon[[0, -1, 0, -1]], lat[[0, 0, -1, -1]])[:, :2]
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    assert corners[:, 0].min() == pytest.approx(west) and corners[:, 0].max() == pytest.approx(east)
    assert (corners[:, 1] >= south - 1).all() and (corners[:, 1] <= north + 1).all()
    southern = globe().sel(lat=slice(-70, -20), lon=slice(100, 179))
    assert globes(maps.forecast_maps(southern, projection="regional"))[0].projection.cutoff == 30
    tropics = globe().sel(lat=slice(-30, 30), lon=slice(100, 179))
    assert isinstance(globes(maps.forecast_maps(tropics, projection="regional"))[0].projection, ccrs.PlateCarree)


def test_panels_of_a_variable_share_a_scale():
    fields, fig = climates(), figure("fields")
    assert [ax.get_title() for ax in globes(fig)] == ["truth", "MinConvLSTM", "", ""]
    assert [bar.ax.get_xlabel().partition(",")[0] for bar in bars(fig)] == [
        "mean (m² s⁻²)",
        "standard deviation (m² s⁻²)",
    ]
    assert [(bar.vmin, bar.vmax) for bar in bars(fig)] == [(values.min(), values.max()) for values in fields.values()]


def test_panels_of_both_signs_are_symmetric():
    error = (globe()[1] - globe()[0]).rename(lead_time="panel")
    fig = maps.field_maps(error)
    assert [ax.get_title() for ax in globes(fig)] == ["1 day", "3 days"]
    assert bars(fig)[0].vmin == -bars(fig)[0].vmax
    assert bars(maps.field_maps(error, diverging=False))[0].vmin == error.min()


# --- slider ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("errors", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_slider_changes_the_picture(errors):
    fields = globe(("truth", "minconvlstm")[: 1 + errors], (0.25, 1, 2))
    box = maps.forecast_slider(fields, title="Waves", projection="robinson", errors=errors)
    assert not plt.get_fignums()  # nothing to show beside it
    (play, slider), image = box.children[0].children, box.children[1]
    assert slider.options == ("6 h", "1 day", "2 days") and play.max == 2 and not slider.continuous_update
    seen = []
    for index in (0, 1, 2, 0):
        slider.index = index
        seen.append(bytes(image.value))
    assert seen[0] == seen[3] and len(set(seen)) == 3
    pictures = [np.asarray(Image.open(io.BytesIO(picture)).convert("L"), int) for picture in seen[:3]]
    assert pictures[0].shape == pictures[1].shape == pictures[2].shape
    assert pictures[0].shape[1] == PAGE * maps.SCREEN
    assert (np.abs(pictures[0] - pictures[2]) > 4).mean() > 0.01


@pytest.mark.slow
def test_slider_draws_what_a_figure_of_that_lead_shows():
    fields = globe(("truth",), (1, 2))
    box = maps.forecast_slider(fields)
    box.children[0].children[1].index = 1
    moved = bytes(box.children[1].value)
    limits = float(fields.min()), float(fields.max())
    straight = maps.forecast_slider(fields[:, 1:], limits=limits, levels=10).children[1].value
    assert moved == bytes(straight)


def test_a_film_is_an_animated_picture_of_all_leads():
    film = maps.forecast_film(globe(("truth",), (0.25, 1, 2)), milliseconds=300, projection="robinson", title="Waves")
    with Image.open(io.BytesIO(film.data)) as moving:
        assert (moving.n_frames, moving.width, moving.info["duration"]) == (3, PAGE * maps.FILM, 300)
        frames = []
        for number in range(3):
            moving.seek(number)
            frames.append(np.asarray(moving.convert("L"), int))
    assert all((np.abs(one - other) > 4).mean() > 0.01 for one, other in pairwise(frames))
    assert film._repr_mimebundle_()[0].keys() == {"image/png"}


def test_a_forecast_says_when_it_began():
    fields = globe(("truth",), (1,)).assign_coords(init_time=np.datetime64("2017-01-05T18", "ns"))
    assert maps.forecast_maps(fields, title="Waves").get_suptitle().startswith("Waves, start 2017-01-05 18 UTC (")
    assert "start" not in maps.forecast_maps(fields.drop_vars("init_time"), title="Waves").get_suptitle()


# --- refused --------------------------------------------------------------------------------------

REFUSED = {
    r"fields must be over \(row, lead_time, lat, lon\)": [
        lambda: maps.forecast_maps(globe().isel(row=0)),
        lambda: maps.forecast_maps(globe()[:0]),
        lambda: maps.forecast_slider(globe().isel(lead_time=0)),
    ],
    "fields must be an xarray.DataArray": [lambda: maps.forecast_maps(globe().values), lambda: maps.field_maps([1])],
    "fields must .*panel": [lambda: maps.field_maps(globe()), lambda: maps.field_maps(xr.Dataset())],
    "unexpected keyword argument 'colour'": [
        lambda: maps.forecast_maps(globe(), colour="red"),
        lambda: maps.forecast_slider(globe(), colour="red"),
    ],
    "coordinates.*lat has none": [lambda: maps.forecast_maps(globe().drop_vars("lat"))],
    "lat must ascend": [
        lambda: maps.forecast_maps(globe().sortby("lat", ascending=False)),
        lambda: maps.forecast_maps(globe().assign_coords(lat=np.linspace(-95, 95, 12))),
        lambda: maps.forecast_maps(globe().isel(lat=[3])),
    ],
    "lon must ascend": [lambda: maps.forecast_maps(globe().roll(lon=3, roll_coords=True))],
    "lon must have no meridian twice": [
        lambda: maps.forecast_maps(globe().pad(lon=(0, 1)).assign_coords(lon=np.arange(25) * 15))
    ],
    "lead_time must be timedelta64": [
        lambda: maps.forecast_maps(globe().assign_coords(lead_time=list(DAYS))),
    ],
    "at least 2 rows": [lambda: maps.forecast_maps(globe(("truth",)), errors=True)],
    "limits must be": [
        lambda: maps.forecast_maps(globe(), limits=(1, 1)),
        lambda: maps.forecast_maps(globe(), limits=(0, np.nan)),
        lambda: maps.forecast_maps(globe(), limits=(1, 2, 3)),
    ],
    "levels must be at least 1": [lambda: maps.forecast_maps(globe(), levels=0)],
    "error_limit must be above 0": [lambda: maps.forecast_maps(globe(), errors=True, error_limit=0)],
    "projection must be one of orthographic, robinson, regional": [
        lambda: maps.forecast_maps(globe(), projection="mercator")
    ],
    "milliseconds must be at least 1": [
        lambda: maps.forecast_slider(globe(), milliseconds=0),
        lambda: maps.forecast_film(globe(), milliseconds=0),
    ],
}


@pytest.mark.parametrize("message", REFUSED)
def test_other_data_are_refused(message):
    for draw in REFUSED[message]:
        with pytest.raises((TypeError, ValueError), match=message):
            draw()
