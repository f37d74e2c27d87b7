"""Figures and their numbers as files: whole, and always the same."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from samples import collected, strip

from minconv import plots


def small():
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.set_title("words")
    return fig


def test_save_writes_everything_and_the_same_again(tmp_path):
    data = collected(("convlstm",), (1,))
    first = plots.save(small(), "error_curves", data, tmp_path, caption="Errors.")
    assert [path.name for path in first] == ["error_curves.pdf", "error_curves.png", "error_curves.json"]
    before = [path.read_bytes() for path in first]
    again = plots.save(small(), "error_curves", data, tmp_path, caption="Errors.")
    assert [path.read_bytes() for path in again] == before
    assert sorted(tmp_path.iterdir()) == sorted(first)
    assert before[0].startswith(b"%PDF") and before[0].rstrip().endswith(b"%%EOF")
    assert b"/FontType 42" in before[0] or b"/CIDFontType2" in before[0]
    with Image.open(first[1]) as image:
        assert image.size == (200, 200)
    content = json.loads(before[2])
    assert content["caption"] == "Errors." and content["provenance"]["torch"] == torch.__version__
    xr.testing.assert_allclose(xr.Dataset.from_dict(content), data)


def test_save_of_large_data_is_netcdf(tmp_path):
    data = strip(times=tuple(range(30))).astype("float32")
    (tmp_path / "rollouts.json").write_text("{}")
    paths = plots.save(small(), "rollouts", data, tmp_path, caption="Rollouts.")
    assert paths[2].name == "rollouts.nc" and not (tmp_path / "rollouts.json").exists()
    with xr.open_dataset(paths[2], engine="h5netcdf") as read:
        np.testing.assert_array_equal(read.rollouts, data)
        assert read.attrs["caption"] == "Rollouts." and read.attrs["provenance_torch"] == torch.__version__
    plots.save(small(), "rollouts", {"small": 1}, tmp_path)
    assert not paths[2].exists()


def test_save_of_a_dictionary(tmp_path):
    data = {"a": np.float32(0.1), "b": [np.nan, np.inf, 1], "c": {1: np.arange(2)}, "d": None, "e": xr.DataArray([2.0])}
    content = json.loads(plots.save(small(), "solver", data, tmp_path)[2].read_text())
    assert (content["a"], content["b"], content["c"], content["d"]) == (0.1, ["nan", "inf", 1], {"1": [0, 1]}, None)
    assert content["e"]["data"] == [2.0]


@pytest.mark.parametrize("name, data, error", [("a/b", {}, ValueError), ("", {}, ValueError), ("a", 3, TypeError)])
def test_save_rejects(tmp_path, name, data, error):
    with pytest.raises(error, match=r"name must|data must"):
        plots.save(small(), name, data, tmp_path)
    assert not list(tmp_path.iterdir())
