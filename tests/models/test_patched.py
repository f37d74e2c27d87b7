"""A forecaster on patches is the forecaster of frames whose pixels are channels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minconv import Forecaster
from minconv.models import count_parameters
from minconv.models.patched import Patched

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"hidden": 6, "layers": 2, "padding": "zeros", "norm": "frame"}


def frames(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cell", ["minconvlstm", "convlstm", "convs5"])
def test_pixels_of_a_patch_are_channels(cell):
    torch.manual_seed(0)
    model = Patched(cell, 2, (8, 12), patch=4, **OPTIONS)
    plain = Forecaster(cell, 32, size=(2, 3), **OPTIONS)
    plain.load_state_dict(model.model.state_dict())
    assert count_parameters(model) == count_parameters(plain)
    x = frames(2, 5, 2, 8, 12)
    apart = x.unflatten(4, (3, 4)).unflatten(3, (2, 4)).permute(0, 1, 2, 4, 6, 3, 5).flatten(2, 4)  # C, rows, columns
    found = model(x, 3)
    assert found.shape == (2, 8, 2, 8, 12)
    torch.testing.assert_close(F.pixel_unshuffle(found, 4), plain(apart, 3))
    torch.testing.assert_close(model(x[:, :3], 2)[:, :3], found[:, :3])


def test_it_keeps_units_and_a_folder(tmp_path):
    model = Patched("minconvgru", 1, (8, 8), patch=2, **OPTIONS).set_normalisation([10.0], [5.0])
    model.save_pretrained(tmp_path)
    again = Patched.from_pretrained(tmp_path)
    x = 255 * frames(4, 1, 8, 8)
    assert torch.equal(again.predict(x, 3), model.predict(x, 3)) and again.predict(x.numpy(), 3).shape == (3, 1, 8, 8)
    assert again.patch == 2 and again.normalisation == ([10.0], [5.0]) and "patch=2" in repr(again)


def test_rejects():
    with pytest.raises(ValueError, match=r"size must be \(H, W\), multiples of patch = 4; got \(8, 10\)"):
        Patched("convgru", 1, (8, 10))
    with pytest.raises(ValueError, match="patch must be at least 1; got 0"):
        Patched("convgru", patch=0)
    with pytest.raises(ValueError, match=r"frames must be \[B, T >= 1, 1, 64, 64\]; got \[1, 2, 1, 64, 60\]"):
        Patched("convgru", hidden=2, layers=1)(torch.zeros(1, 2, 1, 64, 60))
    with pytest.raises(TypeError, match="known"):
        Patched("convgru", known=1)
    assert np.isfinite(Patched("convgru", **OPTIONS)(frames(1, 2, 1, 64, 64)).detach().numpy()).all()
