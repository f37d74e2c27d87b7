"""Spherical harmonics against closed forms; transforms that lose nothing."""

import math

import numpy as np
import pytest
import torch
from grids import random_spectrum
from numpy.polynomial import Legendre, Polynomial

from minconv.data.sphere import Sphere, equiangular, legendre, slope

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("truncation", [1, 4, 21, 31])
def test_gaussian_weights_integrate_what_products_of_three_fields_need(truncation):
    sphere = Sphere(truncation)
    assert sphere.weights.sum() == pytest.approx(1, abs=1e-14)
    for power in range(3 * truncation + 1):
        exact = 0 if power % 2 else 1 / (power + 1)
        assert sphere.weights @ sphere.sines**power == pytest.approx(exact, abs=1e-14)
    assert len(sphere.longitudes) > 3 * truncation  # no alias of a product reaches the orders kept


def test_legendre_functions_equal_derivatives_of_legendre_polynomials():
    sines = np.linspace(-1, 1, 41)
    functions = legendre(12, sines)
    for n in range(13):
        polynomial = Legendre.basis(n).convert(kind=Polynomial)
        for m in range(n + 1):
            norm = math.sqrt((2 * n + 1) * math.factorial(n - m) / math.factorial(n + m))
            exact = norm * (1 - sines**2) ** (m / 2) * polynomial.deriv(m)(sines) if m else norm * polynomial(sines)
            np.testing.assert_allclose(functions[m, n], exact, atol=1e-9)
    assert not functions[np.tril_indices(13, -1)].any()


def test_legendre_functions_of_high_degree_are_orthonormal():
    sines, weights = np.polynomial.legendre.leggauss(200)
    functions = legendre(127, sines)
    for m in (0, 1, 64, 127):
        gram = functions[m, m:] * (weights / 2) @ functions[m, m:].T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)


def test_slopes_are_derivatives():
    sines, h = np.linspace(-0.9, 0.9, 19), 1e-3
    shifts = {k: legendre(10, sines + k * h) for k in (-2, -1, 1, 2)}
    derivative = (shifts[-2] - 8 * shifts[-1] + 8 * shifts[1] - shifts[2]) / (12 * h)
    np.testing.assert_allclose(slope(10, sines), (1 - sines**2) * derivative, atol=1e-6)


@pytest.mark.parametrize("truncation", [4, 21, 31])
def test_spectrum_to_grid_and_back_is_exact(truncation):
    sphere, spectrum = Sphere(truncation), random_spectrum(3, truncation)
    field = sphere.synthesis(spectrum)
    assert field.shape == (3, len(sphere.latitudes), len(sphere.longitudes))
    assert (sphere.analysis(field) - spectrum).abs().max() < 1e-12 * spectrum.abs().max()
    mean_square = (field**2 * sphere.tensor(sphere.weights)[:, None]).sum(-2).mean(-1)
    parseval = 2 * spectrum.square().sum((1, 2, 3)) - spectrum[:, 0].square().sum((1, 2))
    torch.testing.assert_close(mean_square, parseval, rtol=1e-12, atol=0)


def test_synthesis_on_another_grid_is_the_harmonic_there():
    sphere = Sphere(6)
    spectrum = torch.zeros(7, 2, 7, dtype=torch.float64)
    spectrum[2, 0, 2], spectrum[1, 1, 2] = 0.5, 0.5
    latitudes, longitudes = equiangular(8)
    y, x = np.deg2rad(latitudes)[:, None], np.deg2rad(longitudes)
    cosine, sine = np.cos(y), np.sin(y)
    exact = math.sqrt(5 * 9 / 24) * cosine**2 * np.cos(2 * x) - math.sqrt(5 * 9 / 6) * sine * cosine * np.sin(x)
    found = sphere.synthesis(spectrum, sphere.operators(latitudes, longitudes))
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-14)


def test_cells_are_those_of_weatherbench():
    latitudes, longitudes = equiangular(32)
    np.testing.assert_allclose(latitudes, np.linspace(-87.1875, 87.1875, 32))
    np.testing.assert_allclose(longitudes, np.arange(0, 360, 5.625))
