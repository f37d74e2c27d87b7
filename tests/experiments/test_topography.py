"""Depth from waves on few cells: what is compared, and that it is what it says."""

import pytest
import torch

from minconv.data import shallow_water as waves
from minconv.experiments import shallow_water
from minconv.experiments.profiles import PROFILES
from minconv.models.finn import misfit

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script`"),  # of functions that PyTorch itself loads for products
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINCONV_HOME", str(tmp_path_factory.mktemp("home")))
        yield shallow_water.topography("smoke")


def test_sizes_are_those_of_the_profiles(study):
    assert list(shallow_water.SIZES) == list(PROFILES)
    for profile in PROFILES:
        one = shallow_water.topography(profile)
        assert (
            waves._limit(  # the step is stable
                waves.gaussian(waves.CENTRES, one.size.cells),
                waves.topography("C", one.size.cells),
                one.dx,
                waves.KERNELS["four"],
                9.81,
            ).min()
            > one.dt
        )
        assert max(one.size.waves) <= len(shallow_water.PLACES)
    assert shallow_water.topography("study").dt == waves.SECONDS


def test_what_is_observed(study):
    data = study.observed("C", 0.01, waves_seen=1, span=7500.0)
    assert data.eta.shape == (1, 7, 8, 8) and data.times.tolist() == [1250.0 * number for number in range(7)]
    clean = study.observed("C", waves_seen=1, span=7500.0)
    assert torch.equal(data.eta[:, 0], clean.eta0) and not torch.equal(data.eta[:, 1], clean.eta[:, 1])
    torch.testing.assert_close(clean.depth, waves.topography("C", 8), rtol=1e-12, atol=0)
    assert torch.equal(study.observed("C", 0.01, waves_seen=1).eta[:, :7], data.eta)  # the noise is that of all frames


def test_waves_beside_those_over_a_flat_bottom(study):
    centres = [(-250e3, 0.0), (0.0, 1e5)]
    eta = shallow_water.beside_flat(study, "B", centres, 12)
    assert eta.shape == (2, 2, 3, 8, 8) and eta.row.values.tolist() == ["bottom B", "a flat bottom"]
    assert eta.wave.values[0] == "wave from (-250, 0) km" and eta.time.values[-1] == pytest.approx(30000 / 3600)
    start = waves.gaussian(centres, 8)
    assert (eta[:, :, 0] == start.mT.numpy()).all()
    depth = waves.topography("B", 8)
    for row, below in enumerate((depth, torch.full_like(depth, float(depth.mean())))):
        found = waves.simulate(start, below, study.dx, study.dt, 24, 12)
        torch.testing.assert_close(torch.from_numpy(eta.values[row]).mT, found, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_finn_finds_a_bottom_with_what_it_learned_on_the_other(study):
    assert study.kernel("FINN", "B") is study.kernels["C"] and study.kernel("two", "B") == "two"
    found = study.find("FINN", "B", noise=0.01)
    data = study.observed("B", 0.01)
    depth = torch.from_numpy(found.depth.values)
    error = depth - data.depth
    assert float(found.rmse) == pytest.approx(float(error.square().mean().sqrt()))
    assert float(found.bias) == pytest.approx(float(error.mean()))
    assert float(found.inner) == pytest.approx(float(error[2:6, 2:6].square().mean().sqrt()))
    assert float(found.relative) == pytest.approx(float(found.rmse) / float(data.depth.std(correction=0)))
    values = [
        misfit(waves.simulate, *data[:3], place, study.dx, study.dt, study.kernels["C"]).item()
        for place in (depth, data.depth)
    ]
    assert values == pytest.approx([float(found.misfit), float(found.misfit_of_truth)])
    with pytest.raises(ValueError, match="stencil must be one of two, four, FINN"):
        study.find("three")


@pytest.mark.slow
def test_a_sweep_is_one_search_for_each_value(study):
    swept = study.sweep("waves_seen", (1, 4), ("four", "two"), noise=0.01)
    assert swept.rmse.dims == ("stencil", "waves_seen") and swept.depth.dims == ("stencil", "waves_seen", "x", "y")
    one = study.find("two", noise=0.01, waves_seen=1)
    assert swept.sel(stencil="two", waves_seen=1, drop=True).identical(one)


@pytest.mark.slow
def test_uncertainty_tells_errors_deviations_and_shares(study):
    data = study.uncertainty("C")
    share = float((abs(data.error) <= 2 * data.deviation).mean())
    assert data.within_2 == share >= data.within_1
    assert (data.deviation > 0).all() and data.deviation.attrs == {"units": "m", "long_name": "standard deviation"}
    known = torch.from_numpy((data.depth - data.error).values)
    torch.testing.assert_close(known, waves.topography("C", 8), rtol=1e-12, atol=0)


def test_places_that_no_wave_has_reached_stay_unknown(study):
    known = study.known("B", [(1, 5000.0), (1, 30000.0), (4, 30000.0)])
    assert known.panel.values.tolist() == ["1 wave, 5000 s", "1 wave, 30000 s", "4 waves, 30000 s"]
    assert known.isel(panel=0, x=-1, y=-1) > 29 and known.isel(panel=1).max() < 15
    assert (known.isel(panel=2) < known.isel(panel=1)).all() and (known.isel(panel=1) < known.isel(panel=0)).all()


def test_the_product_of_gravity_and_depth_is_all_that_low_waves_tell(study):
    true, both, depth = study.product().values()
    assert 0.5 * true < both < 2 * true and depth > 10 * both
