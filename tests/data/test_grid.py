"""Cells: their areas in closed form, edges that leave no hole, means that keep the mean over the sphere."""

import math

import numpy as np
import pytest
import xarray as xr
from grids import LAT, LON, make

from minconv.data.grid import area_weights, cell_edges, coarsen

GAUSS = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))


def empty(lat, lon) -> xr.DataArray:
    return xr.DataArray(np.zeros((len(lat), len(lon))), {"lat": lat, "lon": lon}, ("lat", "lon"))


@pytest.mark.parametrize("lat", [LAT, GAUSS, np.linspace(-90, 90, 37), np.float32([-85, -45, 0, 45, 85])])
@pytest.mark.parametrize("lon", [LON, LON + 2.8125, LON - 180, (LON - 180).astype(np.float32)])
def test_cells_reach_the_poles_and_go_all_round(lat, lon):
    lat_edges, lon_edges = cell_edges(empty(lat, lon))
    assert (lat_edges[0], lat_edges[-1]) == (-90, 90)
    assert lon_edges[-1] - lon_edges[0] == 360
    for edges, centres in ((lat_edges, lat), (lon_edges, lon)):
        assert (edges[:-1] <= centres).all() and (centres <= edges[1:]).all() and (np.diff(edges) > 0).all()


def test_cells_of_a_region_end_half_a_step_outside():
    lat, lon = cell_edges(empty(np.arange(15, 76, 2.5), np.arange(200, 331, 2.5)))
    assert (lat[0], lat[-1], lon[0], lon[-1]) == (13.75, 76.25, 198.75, 331.25)


def test_area_weights_in_closed_form():
    """Cells of an even grid have areas in proportion to cos(lat); at the poles half a cell is left."""
    weights = area_weights(LAT)
    cosines = np.cos(np.radians(LAT))
    np.testing.assert_allclose(weights, cosines / cosines.mean(), rtol=1e-12)
    poles = area_weights(np.linspace(-90, 90, 7))
    edges = np.radians([-90, -75, -45, -15, 15, 45, 75, 90])
    np.testing.assert_allclose(poles / poles.sum(), np.diff(np.sin(edges)) / 2, rtol=1e-12)
    region = area_weights([50.0, 40.0, 30.0])  # descending, with edges at 55, 45, 35, 25
    expected = -np.diff(np.sin(np.radians([55, 45, 35, 25])))
    np.testing.assert_allclose(region, expected / expected.mean(), rtol=1e-12)
    assert region.dtype == np.float64


def test_area_weights_integrate_over_the_sphere():
    """The mean of sin(lat)^2 is 1/3; midpoints with exact areas come to it as the square of the step."""
    errors = []
    for size in (16, 32):
        lat = -90 + 180 / size * (np.arange(size) + 0.5)
        errors.append(abs((area_weights(lat) * np.sin(np.radians(lat)) ** 2).mean() - 1 / 3))
    assert 3.9 < errors[0] / errors[1] < 4.1


@pytest.mark.parametrize("lat", [[0.0], [0.0, 10.0, 5.0], [0.0, 0.0], [80.0, 100.0], [[0.0, 1.0]], [0.0, math.nan]])
def test_latitudes_without_areas(lat):
    with pytest.raises(ValueError, match="lat must be two latitudes or more"):
        area_weights(lat)


@pytest.mark.parametrize("chunked", [True, False])
def test_coarsen_keeps_the_mean_over_the_sphere(chunked):
    series = make(5, LAT, LON).z
    coarse = coarsen(series.chunk(time=2) if chunked else series, 2)
    assert coarse.chunks and coarse.dtype == np.float32 and coarse.name == "z" and coarse.attrs == series.attrs
    np.testing.assert_allclose(coarse.lat, -84.375 + 11.25 * np.arange(16))
    np.testing.assert_allclose(coarse.lon, 2.8125 + 11.25 * np.arange(32))
    fine, weights = area_weights(series.lat), area_weights(coarse.lat)
    np.testing.assert_allclose(weights, fine.reshape(16, 2).mean(1), rtol=1e-12)  # the cells' areas add up
    means = [
        (values.values.astype(float) * w[:, None]).mean((1, 2)) for values, w in ((series, fine), (coarse, weights))
    ]
    np.testing.assert_allclose(means[0], means[1], rtol=1e-6)
    block = series.values[3, 4:6, 6:8].astype(float)
    expected = (block * fine[4:6, None]).sum() / (2 * fine[4:6].sum())
    np.testing.assert_allclose(coarse[3, 2, 3], expected, rtol=1e-6)


def test_coarsen_refuses_and_passes_missing_values_on():
    series = make(2, LAT, LON).z
    for factor, error in (
        (3, "factor must divide the grid's 32 points in lat; got 3"),
        (0, "factor must be at least 1"),
    ):
        with pytest.raises(ValueError, match=error):
            coarsen(series, factor)
    with pytest.raises(ValueError, match="56 points in lon; got 16"):
        coarsen(series.isel(lon=slice(0, 56)), 16)
    series[0, 0, 0] = np.nan
    assert np.isnan(coarsen(series, 4)).sum() == 1
