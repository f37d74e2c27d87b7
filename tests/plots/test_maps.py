"""Weather figures: whole globes, coastlines in their place without a network, scales, words, a slider."""

import io
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import cartopy
import cartopy.crs as ccrs
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from cartopy.feature import COASTLINE
from cartopy.mpl.geocollection import GeoQuadMesh
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from PIL import Image

from minconv.plots import figures as plots
from minconv.plots import maps

SOURCE = "barotropic model, not ERA5"
DAYS = (1, 3)
ROWS = ("truth", "minconvlstm", "persistence")


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a figure asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def globe(rows=ROWS, days=DAYS, height=12, width=24) -> xr.DataArray:
    """Waves that travel on a jet, the slower the lower the row."""
    lat = np.linspace(-90, 90, 2 * height + 1)[1::2]
    lon = np.arange(width) * 360 / width
    phi, lam = np.deg2rad(lat)[:, None], np.deg2rad(lon)
    z = [
        [57500 - 7000 * np.sin(phi) ** 2 + 900 * np.sin(2 * phi) ** 2 * np.cos(4 * (lam - d / (3 + r))) for d in days]
        for r in range(len(rows))
    ]
    leads = (np.array(days) * 24).astype("timedelta64[h]").astype("timedelta64[ns]")
    attributes = {"units": "m2 s-2", "long_name": "geopotential", "source": SOURCE}
    coordinates = {"row": list(rows), "lead_time": leads, "lat": lat, "lon": lon}
    return xr.DataArray(np.array(z, np.float32), coordinates, (*coordinates,), "z", attributes)


def region() -> xr.DataArray:
    return globe().sel(lat=slice(15, 75), lon=slice(200, 330))


def climates() -> xr.Dataset:
    fields = globe(("truth", "minconvlstm")).drop_attrs()
    found = xr.Dataset({"mean": fields.mean("lead_time"), "deviation": fields.std("lead_time")})
    found["mean"].attrs = {"long_name": "mean", "units": "m2 s-2"}
    found["deviation"].attrs = {"long_name": "standard deviation", "units": "m2 s-2"}
    return found.rename(row="panel").assign_attrs(source=SOURCE)


BASELINES = ("persistence", "damped persistence", "climatology")


@cache
def scores(models=("convlstm", "minconvlstm", *BASELINES)) -> xr.Dataset:
    leads = np.arange(6, 169, 6)
    rng = np.random.default_rng(0)
    lat = np.linspace(-87, 87, 16)
    growth = leads / 24 * (1 + np.arange(len(models)))[:, None, None] * rng.uniform(0.9, 1.1, (len(models), 3, 1))
    by_latitude = growth[..., None] * (1 + np.sin(np.deg2rad(lat)) ** 2)
    dims = ("model", "seed", "lead_time")
    return xr.Dataset(
        {
            "rmse": (dims, 100 * growth, {"long_name": "RMSE", "units": "m2 s-2"}),
            "acc": (dims, np.exp(-growth / 9), {"long_name": "anomaly correlation", "units": "1"}),
            "zonal_rmse": ((*dims, "lat"), 100 * by_latitude, {"long_name": "RMSE", "units": "m2 s-2"}),
        },
        {"model": list(models), "seed": [1, 2, 3], "lead_time": leads.astype("timedelta64[h]"), "lat": lat},
        {"source": SOURCE},
    )


def paddings() -> xr.Dataset:
    return scores(("cylinder", "sphere"))[["zonal_rmse"]].isel(lead_time=[3, 11, 19])


def seasons(rows=("data", "minconvlstm")) -> xr.Dataset:
    lat = np.linspace(-85, 85, 18)
    values = 1000 + np.arange(len(rows))[:, None, None] + 100 * np.arange(4)[:, None] + 0 * lat
    dims, attributes = ("row", "season", "lat"), {"units": "m2 s-2"}
    return xr.Dataset(
        {
            "mean": (dims, values, attributes | {"long_name": "geopotential"}),
            "deviation": (dims, values / 10, attributes | {"long_name": "standard deviation"}),
        },
        {"row": list(rows), "season": ["DJF", "MAM", "JJA", "SON"], "lat": lat},
        {"source": SOURCE},
    )


FIGURES = {
    "forecast": lambda **more: maps.forecast_maps(globe(), **more),
    "errors": lambda **more: maps.forecast_maps(globe(), errors=True, projection="robinson", **more),
    "regional": lambda **more: maps.forecast_maps(region(), errors=True, projection="regional", **more),
    "fields": lambda **more: maps.field_maps(climates(), **more),
    "scores": lambda **more: maps.score_curves(scores(), **more),
    "zonal": lambda **more: maps.zonal_error(paddings(), **more),
    "climate": lambda **more: maps.climate(seasons(), **more),
}


def title(fig: Figure) -> str:
    return fig.get_suptitle() or fig.legends[0].get_title().get_text()


def globes(fig: Figure) -> list[maps.GeoAxes]:
    return [ax for ax in fig.axes if isinstance(ax, maps.GeoAxes)]


def bars(fig: Figure) -> list:
    return [ax._colorbar for ax in fig.axes if ax.get_label() == "<colorbar>"]


def one(ax, kind):
    (found,) = (artist for artist in ax.get_children() if isinstance(artist, kind))
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_labelled_in_words_that_do_not_overlap(name):
    fig = FIGURES[name](title="The geopotential at 500 hPa, over all starts from 1 January 2017 to 31 December 2018")
    fig.canvas.draw()
    assert fig.get_figwidth() == plots.PAGE and fig.get_figheight() < 10
    assert title(fig).replace("\n", " ").endswith(f"2018 ({SOURCE})")
    for ax in fig.axes:
        if not isinstance(ax, maps.GeoAxes) and ax.get_label() != "<colorbar>":
            assert ax.get_xlabel() and (ax.get_ylabel() or not ax.get_subplotspec().is_first_col())
    parts = [*fig.texts, *fig.legends, *(text for ax in fig.axes for text in (ax.title, *ax.texts))]
    parts += [label for ax in fig.axes if ax.get_label() == "<colorbar>" for label in (ax.xaxis.label,)]
    boxes = [part.get_window_extent() for part in parts if part not in fig.texts or part.get_text()]
    boxes = [box for box in boxes if box.width > 1]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= fig.bbox.width and box.y0 >= 0 and box.y1 <= fig.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize("given", [f"Curves ({SOURCE})", f"{SOURCE}: curves"])
def test_source_is_named_once(given):
    assert title(maps.climate(seasons(), title=given)) == given
    assert title(maps.climate(seasons())) == SOURCE
    assert title(maps.climate(seasons().drop_attrs(deep=True))) == ""


def test_the_same_data_give_the_same_bytes(tmp_path):
    data = globe(days=(1, 2))
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


@pytest.mark.parametrize(
    "place, lat, lon",
    [
        ("Reykjavik", 64.15, -21.95),
        ("Cape Horn", -55.98, -67.27),
        ("Lisbon", 38.7, -9.4),
        ("Cape Town", -33.9, 18.4),
        ("Tokyo", 35.6, 139.8),
        ("Sydney", -33.9, 151.2),
        ("San Francisco", 37.8, -122.5),
        ("Chukotka, beyond the date line", 66.1, -169.7),
        ("McMurdo", -77.8, 166.7),
    ],
)
def test_coasts_are_where_they_are(place, lat, lon):
    points = np.concatenate(coast())
    away = np.hypot(points[:, 1] - lat, (points[:, 0] - lon) * np.cos(np.deg2rad(lat)))
    assert away.min() < 1.5


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


def test_a_process_of_its_own_draws_coasts_without_a_network(tmp_path):
    code = (
        "import socket; socket.socket.connect = socket.getaddrinfo = None\n"
        "import matplotlib; matplotlib.use('agg')\n"
        "import cartopy.crs as ccrs, matplotlib.pyplot as plt, minconv.plots.maps\n"
        "ax = plt.axes(projection=ccrs.Robinson()); ax.coastlines('110m'); plt.savefig('map.png')"
    )
    home = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=home, check=True)
    assert np.asarray(Image.open(tmp_path / "map.png").convert("L")).min() < 100


# --- cells ----------------------------------------------------------------------------------------


def grid(lat, lon) -> xr.DataArray:
    return xr.DataArray(np.zeros((len(lat), len(lon))), {"lat": lat, "lon": lon}, ("lat", "lon"))


GAUSS = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
AROUND = np.arange(64) * 5.625


@pytest.mark.parametrize(
    "lat", [np.linspace(-90, 90, 65)[1::2], GAUSS, np.linspace(-90, 90, 37), np.float32([-85, -45, 0, 45, 85])]
)
@pytest.mark.parametrize("lon", [AROUND, AROUND + 2.8125, AROUND - 180, (AROUND - 180).astype(np.float32)])
def test_cells_reach_the_poles_and_go_all_round(lat, lon):
    lat_edges, lon_edges = maps.cell_edges(grid(lat, lon))
    assert (lat_edges[0], lat_edges[-1]) == (-90, 90)
    assert lon_edges[-1] - lon_edges[0] == 360
    for edges, centres in ((lat_edges, lat), (lon_edges, lon)):
        assert (edges[:-1] <= centres).all() and (centres <= edges[1:]).all() and (np.diff(edges) > 0).all()


def test_cells_of_a_region_end_half_a_step_outside():
    lat, lon = maps.cell_edges(grid(np.arange(15, 76, 2.5), np.arange(200, 331, 2.5)))
    assert (lat[0], lat[-1], lon[0], lon[-1]) == (13.75, 76.25, 198.75, 331.25)


@pytest.mark.parametrize(
    "projection", ["orthographic", "robinson", "regional", ccrs.Orthographic(0, 90), ccrs.Orthographic(180, -89)]
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
    fields = globe(days=(1,))
    fields = fields.assign_coords(lon=fields.lon + shift)
    fig = maps.forecast_maps(fields, projection=projection)
    for ax, values in zip(globes(fig), fields.values.reshape(-1, 12, 24), strict=True):
        np.testing.assert_array_equal(shown(ax, fields), values)


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
    axes = globes(maps.forecast_maps(globe(days=(0.25, 1, 1.5, 7))))
    assert [ax.get_title() for ax in axes[:5]] == ["6 h", "1 day", "36 h", "7 days", ""]
    assert [text.get_text() for ax in axes for text in ax.texts] == ["Truth", "MinConvLSTM", "Persistence"]


def test_one_scale_is_the_truths_and_shows_what_it_clips():
    fields = globe()
    fields[1] += 100
    fig = maps.forecast_maps(fields)
    truth = float(fields[0].min()), float(fields[0].max())
    assert {one(ax, GeoQuadMesh).get_clim() for ax in globes(fig)} == {truth}
    (bar,) = bars(fig)
    assert bar.extend == "max" and bar.ax.get_xlabel() == "geopotential (m² s⁻²)"
    assert bars(maps.forecast_maps(fields[:1]))[0].extend == "neither"
    (bar,) = bars(maps.forecast_maps(fields, limits=(53000, 56000), label="z"))
    assert (bar.vmin, bar.vmax, bar.extend, bar.ax.get_xlabel()) == (53000, 56000, "both", "z")


def test_errors_are_forecast_minus_truth_in_a_symmetric_scale():
    fields = globe()
    fig = maps.forecast_maps(fields, errors=True)
    upper, lower = bars(fig)
    assert lower.vmin == -lower.vmax and lower.ax.get_xlabel() == "error of geopotential (m² s⁻²)"
    assert (upper.vmin, upper.vmax) == (fields[0].min(), fields[0].max())
    differences = (fields[1:].astype(float) - fields[0]).values
    assert lower.vmax == pytest.approx(np.abs(differences).max())
    for ax, values in zip(globes(fig)[2:], differences.reshape(-1, 12, 24), strict=True):
        np.testing.assert_allclose(shown(ax, fields), values)
        assert one(ax, GeoQuadMesh).get_cmap().name == "RdBu_r" and 0 not in one(ax, ContourSet).levels
    assert bars(maps.forecast_maps(fields, errors=True, error_limit=10))[1].extend == "both"


def test_anomalies_are_symmetric_about_zero():
    fields = globe()
    (bar,) = bars(maps.forecast_maps(fields - fields.mean("lon"), diverging=True))
    assert bar.vmin == -bar.vmax < 0 and bar.cmap.name == "RdBu_r"


def test_what_is_not_finite_is_grey_and_said():
    fields = globe()
    fields[1, 1:] = np.inf
    fields[2, 1, 3] = np.nan
    fig = maps.forecast_maps(fields, errors=True)
    fig.canvas.draw()
    said = [[text.get_text() for text in ax.texts].count("not finite") for ax in globes(fig)]
    assert said == [0, 0, 0, 1, 0, 0]
    assert np.isfinite([bar.vmax for bar in bars(fig)]).all()
    assert all(ax.get_facecolor()[:3] == (0.8, 0.8, 0.8) for ax in globes(fig))


def test_constant_fields_are_drawn():
    fields = xr.ones_like(globe())
    for errors in (False, True):
        fig = maps.forecast_maps(fields, errors=errors)
        assert all(bar.vmin < bar.vmax for bar in bars(fig))


def test_a_region_is_shown_whole_and_alone():
    fig = maps.forecast_maps(region(), projection="regional")
    ax = globes(fig)[0]
    assert isinstance(ax.projection, ccrs.LambertConformal)
    lat, lon = maps.cell_edges(region())
    corners = ax.projection.transform_points(ccrs.PlateCarree(), lon[[0, -1, 0, -1]], lat[[0, 0, -1, -1]])[:, :2]
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    assert corners[:, 0].min() == pytest.approx(west) and corners[:, 0].max() == pytest.approx(east)
    assert (corners[:, 1] >= south - 1).all() and (corners[:, 1] <= north + 1).all()
    southern = globe().sel(lat=slice(-70, -20), lon=slice(100, 179))
    assert globes(maps.forecast_maps(southern, projection="regional"))[0].projection.cutoff == 30
    tropics = globe().sel(lat=slice(-30, 30), lon=slice(100, 179))
    assert isinstance(globes(maps.forecast_maps(tropics, projection="regional"))[0].projection, ccrs.PlateCarree)


def test_panels_of_a_variable_share_a_scale():
    fields = climates()
    fig = maps.field_maps(fields)
    assert [ax.get_title() for ax in globes(fig)] == ["Truth", "MinConvLSTM", "", ""]
    assert [bar.ax.get_xlabel() for bar in bars(fig)] == ["mean (m² s⁻²)", "standard deviation (m² s⁻²)"]
    assert [(bar.vmin, bar.vmax) for bar in bars(fig)] == [(values.min(), values.max()) for values in fields.values()]


def test_panels_of_both_signs_are_symmetric():
    error = (globe()[1] - globe()[0]).rename(lead_time="panel")
    fig = maps.field_maps(error)
    assert [ax.get_title() for ax in globes(fig)] == ["1 day", "3 days"]
    assert bars(fig)[0].vmin == -bars(fig)[0].vmax
    assert bars(maps.field_maps(error, diverging=False))[0].vmin == error.min()


# --- curves ---------------------------------------------------------------------------------------


def line(ax, label):
    (found,) = (found for found in ax.lines if found.get_label() == label)
    return found


def test_scores_are_means_with_bands_over_days():
    data = scores()
    fig = maps.score_curves(data)
    for ax, name in zip(fig.axes, ("rmse", "acc"), strict=True):
        values = data[name].sel(model="minconvlstm").values
        curve = line(ax, "MinConvLSTM")
        np.testing.assert_allclose(curve.get_xdata(), np.arange(1, 29) / 4)
        np.testing.assert_allclose(curve.get_ydata(), values.mean(0))
        bands = [patch for patch in ax.collections if isinstance(patch, FillBetweenPolyCollection)]
        corners = bands[1].get_paths()[0].vertices
        assert corners[:, 1].max() == pytest.approx((values.mean(0) + values.std(0, ddof=1)).max())
    error, correlation = fig.axes
    assert error.get_ylim()[0] == 0 and error.get_ylabel() == "RMSE (m² s⁻²)"
    assert correlation.get_ylim()[1] >= 1 and correlation.get_ylabel() == "anomaly correlation"
    assert {ax.get_xlabel() for ax in fig.axes} == {"lead time (days)"}
    assert [0.6, 0.6] in [list(found.get_ydata()) for found in correlation.lines]
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    expected = ["ConvLSTM", "MinConvLSTM", "Persistence", "Damped persistence", "Climatology"]
    assert words == [*expected, "useful above 0.6"]
    assert len(maps.score_curves(data, ("rmse",)).legends[0].get_texts()) == 5


def test_zonal_error_has_a_panel_for_each_lead():
    data = paddings()
    fig = maps.zonal_error(data)
    assert [ax.get_title() for ax in fig.axes] == ["1 day", "3 days", "5 days"]
    for number, ax in enumerate(fig.axes):
        values = data.zonal_rmse.sel(model="sphere").isel(lead_time=number)
        curve = line(ax, "MinConvLSTM, sphere padding")
        np.testing.assert_array_equal(curve.get_xdata(), data.lat)
        np.testing.assert_allclose(curve.get_ydata(), values.mean("seed"))
        assert ax.get_xlim() == (-90, 90)
    fig.canvas.draw()
    assert [text.get_text() for text in fig.axes[0].get_xticklabels() if text.get_text()][1:-1] == [
        "60°S",
        "0°",
        "60°N",
    ]
    named = data.rename(zonal_rmse="rmse")
    np.testing.assert_array_equal(
        maps.zonal_error(named).axes[0].lines[0].get_ydata(), fig.axes[0].lines[0].get_ydata()
    )


def test_climate_has_lines_for_the_data_and_markers_for_the_model():
    data = seasons()
    fig = maps.climate(data)
    for ax, name in zip(fig.axes, ("mean", "deviation"), strict=True):
        np.testing.assert_array_equal(line(ax, "JJA").get_ydata(), data[name].sel(row="data", season="JJA"))
        points = [found for found in ax.lines if found.get_linestyle() == "None" and len(found.get_xdata())]
        np.testing.assert_array_equal(points[2].get_ydata(), data[name].sel(row="minconvlstm", season="JJA"))
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert words == ["DJF", "MAM", "JJA", "SON", "data", "MinConvLSTM"]
    alone = maps.climate(data.sel(row="data", drop=True))
    assert len(alone.axes[0].lines) == 4 and len(alone.legends[0].get_texts()) == 4


# --- slider ---------------------------------------------------------------------------------------


def test_slider_changes_the_picture():
    box = maps.forecast_slider(globe(("truth", "minconvlstm"), (0.25, 1, 2)), title="Waves", projection="robinson")
    assert not plt.get_fignums()  # nothing to show beside it
    (play, slider), image = box.children[0].children, box.children[1]
    assert slider.options == ("6 h", "1 day", "2 days") and play.max == 2
    seen = []
    for index in (0, 1, 2, 0):
        slider.index = index
        seen.append(bytes(image.value))
    assert seen[0] == seen[3] and len(set(seen)) == 3
    pictures = [np.asarray(Image.open(io.BytesIO(picture)).convert("L"), int) for picture in seen[:3]]
    assert pictures[0].shape == pictures[1].shape == pictures[2].shape
    assert pictures[0].shape[1] == plots.PAGE * maps.SCREEN
    assert (np.abs(pictures[0] - pictures[2]) > 4).mean() > 0.01


def test_slider_draws_what_a_figure_of_that_lead_shows():
    fields = globe(("truth",), (1, 2))
    box = maps.forecast_slider(fields)
    box.children[0].children[1].index = 1
    moved = bytes(box.children[1].value)
    limits = float(fields.min()), float(fields.max())
    straight = maps.forecast_slider(fields[:, 1:], limits=limits, levels=10).children[1].value
    assert moved == bytes(straight)


# --- refused --------------------------------------------------------------------------------------

REFUSED = {
    r"fields must be a DataArray over \(row, lead_time, lat, lon\)": [
        lambda: maps.forecast_maps(globe().isel(row=0)),
        lambda: maps.forecast_maps(globe().values),
        lambda: maps.forecast_maps(globe()[:0]),
        lambda: maps.forecast_slider(globe().isel(lead_time=0)),
    ],
    r"fields must be a DataArray .*panel": [
        lambda: maps.field_maps(globe()),
        lambda: maps.field_maps(xr.Dataset()),
        lambda: maps.field_maps([1]),
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
        lambda: maps.score_curves(scores().assign_coords(lead_time=np.arange(28))),
        lambda: maps.zonal_error(paddings().assign_coords(lead_time=np.arange(3))),
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
    "milliseconds must be at least 1": [lambda: maps.forecast_slider(globe(), milliseconds=0)],
    "variables must name": [lambda: maps.score_curves(scores(), ())],
    "data must hold": [
        lambda: maps.score_curves(scores(), ("rmse", "unheard")),
        lambda: maps.score_curves(scores().isel(seed=0)),
        lambda: maps.zonal_error(scores()[["rmse"]]),
        lambda: maps.climate(seasons().drop_vars("deviation")),
    ],
    "model must be one of": [lambda: maps.score_curves(scores(("unheard",)))],
    "season must be one of": [lambda: maps.climate(seasons().assign_coords(season=list("abcd")))],
    "at most two rows": [lambda: maps.climate(seasons(("a", "b", "c")))],
}


@pytest.mark.parametrize("message, draw", [(message, draw) for message, draws in REFUSED.items() for draw in draws])
def test_other_data_are_refused(message, draw):
    with pytest.raises(ValueError, match=message):
        draw()
