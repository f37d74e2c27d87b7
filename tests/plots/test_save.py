"""Figures and their numbers as files: whole, and always the same."""

import json
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import papermill
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


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would be shown, figures by their number of axes."""
    found, module = [], sys.modules["minconv.plots.save"]  # the package has the function by that name
    monkeypatch.setattr(module, "_numbers", {})
    monkeypatch.setattr(module, "display", lambda item, raw=False: found.append(item["text/html"] if raw else item))
    return found


def test_a_caption_has_the_number_of_its_first_saving(tmp_path, shown, monkeypatch):
    plots.save(small(), "A", {}, tmp_path, "Outside a notebook.")
    assert shown == [] and plt.get_fignums()
    monkeypatch.setattr(plt, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    plots.save(small(), "without", {}, tmp_path)
    assert shown == []
    plt.close("all")
    for name in "BCB":
        plots.save(small(), name, {}, tmp_path, f"{name} < {name}.")
    assert [type(item).__name__ for item in shown[::2]] == ["Figure"] * 3 and not plt.get_fignums()
    numbered = [f"<p><em>Figure {word} &lt; {word[-1]}.</em></p>" for word in ("1. B", "2. C", "1. B")]
    assert shown[1::2] == numbered


@pytest.mark.slow
def test_a_notebook_shows_each_figure_once_with_its_caption_below(tmp_path):
    """In a kernel, in the first cell that draws and in a later one."""
    draw = """
for name in names:
    ax = plt.subplots()[1]
    files = plots.save(ax.figure, name, {}, ".", f"Letter {name}.")"""
    names = ["import matplotlib.pyplot as plt\nfrom minconv import plots\nnames = 'AB'", "names = 'C'"]
    cells = [nbformat.v4.new_code_cell(name + draw) for name in names]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    options = {"kernel_name": "python3", "cwd": tmp_path, "progress_bar": False}
    ran = papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", **options)
    first, last = (
        [output.data.get("text/html") or sorted(output.data) for output in cell.outputs if "data" in output]
        for cell in ran.cells
    )
    picture, caption = ["image/png", "text/plain"], "<p><em>Figure {0}. Letter {1}.</em></p>".format
    assert first == [picture, caption(1, "A"), picture, caption(2, "B")] and last == [picture, caption(3, "C")]
