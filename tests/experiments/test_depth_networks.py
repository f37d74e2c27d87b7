"""Networks that see depth, on few cells: what they are shown, and that they are asked as stencils are."""

import pytest
import torch

from minconv.data import shallow_water as solver
from minconv.evaluation.forecast import with_known
from minconv.experiments import depth_networks
from minconv.experiments.depth_networks import DEPTH, ELEVATION, Rollout, frames, mirrored
from minconv.models import build_model, count_parameters
from minconv.models.finn import infer_depth, misfit

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script`"),  # of functions that PyTorch itself loads for products
]
CELLS = 8


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINCONV_HOME", str(tmp_path_factory.mktemp("home")))
        yield depth_networks.networks("smoke")


def network(seed=0):
    """One that is not at persistence."""
    model = build_model("minconvlstm", seed, hidden=4, known=1, size=(CELLS, CELLS), **depth_networks.SHAPE)
    torch.nn.init.normal_(model.decoder.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    return model


def waves():
    return solver.gaussian([(0, 0), (2e5, -1e5)], CELLS), solver.topography("C", CELLS)


def test_networks_are_of_one_size(networks):
    sizes = [count_parameters(build(0)) for build in networks.experiment.settings["rollout"].models.values()]
    assert max(sizes) < 1.05 * min(sizes)
    assert networks.experiment.settings["rollout"].window == (networks.waves.size.frames - 1) // depth_networks.EVERY


def test_frames_are_elevation_and_depth_near_one():
    eta0, depth = waves()
    seen = frames(torch.stack([eta0, -eta0], 1), depth)
    assert seen.shape == (2, 2, 2, CELLS, CELLS)
    torch.testing.assert_close(seen[:, 1, 0] * ELEVATION, -eta0)
    torch.testing.assert_close(seen[1, 0, 1] * DEPTH[1] + DEPTH[0], depth)
    each = torch.stack([depth, 2 * depth])
    assert torch.equal(frames(eta0[:, None], each)[0, 0, 1], seen[0, 0, 1])
    assert not torch.equal(frames(eta0[:, None], each)[1, 0, 1], seen[1, 0, 1])


def test_mirrors_are_those_of_waves_and_bottom_together():
    eta0, depth = waves()
    eta = solver.simulate(eta0, depth, solver.LENGTH / CELLS, 600.0, 4, 2)
    pictures = mirrored(frames(eta, depth))
    assert len(pictures) == 8 and len(pictures.flatten(1).unique(dim=0)) == 8
    for picture in pictures.double():  # each is a solution over its bottom
        start, place = picture[0, 0] * ELEVATION, picture[0, 1] * DEPTH[1] + DEPTH[0]
        again = solver.simulate(start[None], place, solver.LENGTH / CELLS, 600.0, 4, 2)
        torch.testing.assert_close(again[0], picture[:, 0] * ELEVATION, rtol=0, atol=1e-12)


def test_a_rollout_is_the_forecaster_from_the_first_frame_with_depth_in_each():
    model, (eta0, depth) = network(), waves()
    found = Rollout(model)(eta0, depth, 1.0, 1.0, 4)
    assert found.shape == (2, 5, CELLS, CELLS) and found.dtype == torch.float64 and torch.equal(found[:, 0], eta0)
    seen = frames(eta0[:, None], depth).float()
    with torch.no_grad():
        expected = model(with_known(seen[:, :, :1], seen[:, :, 1:].expand(-1, 4, -1, -1, -1)), 3)
    torch.testing.assert_close(found[:, 1:], ELEVATION * expected[:, :, 0].double())
    assert torch.equal(Rollout(model)(eta0, depth, 1.0, 1.0, 4, 2), found[:, ::2])
    assert not torch.allclose(Rollout(model)(eta0, depth.mT, 1.0, 1.0, 4), found)


def test_depth_is_found_where_the_network_is_the_truth():
    """So what a trained one misses is its own error, not the search's."""
    scheme, (eta0, depth) = Rollout(network().double()), waves()
    with torch.no_grad():
        eta = scheme(eta0, depth, 1.0, 1.0, 4)
    problem = scheme, eta, [0.0, 1.0, 2.0, 3.0, 4.0], eta0
    found, history = infer_depth(*problem, 1.0, 1.0, None, 0.0, iterations=15)
    start = misfit(*problem, torch.full_like(depth, 100.0), 1.0, 1.0, None).item()
    assert min(history["misfit"]) < 1e-2 * start and history["misfit"][0] == pytest.approx(start)
    assert (found - depth).square().mean() < 0.5 * (depth - 100).square().mean()
    assert all(not weight.requires_grad for weight in scheme.model.parameters())


@pytest.mark.slow
def test_networks_are_trained_and_asked_with_the_smoothing_of_the_other_bottom(networks):
    networks.experiment.train()
    errors = networks.experiment.evaluate()
    assert list(errors.model.values) == list(depth_networks.HIDDEN)
    assert (errors.own > 0.5).all() and (errors.own < 3).all() and (errors.own != errors.other).all()
    searched, found = networks.searched, networks.found
    assert searched.rmse.dims == ("network", "bottom", "smoothing")
    for name in depth_networks.HIDDEN:
        for bottom, other in (("B", "C"), ("C", "B")):
            best = float(searched.rmse.sel(network=name, bottom=other).idxmin())
            one = found.sel(network=name, bottom=bottom)
            assert float(one.smoothing) == best
            assert one.depth.equals(searched.depth.sel(network=name, bottom=bottom, smoothing=best))
    with pytest.raises(KeyError):
        depth_networks.networks("laptop").size  # noqa: B018
