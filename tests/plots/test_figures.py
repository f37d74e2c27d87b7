"""Figures: drawn from small data, labelled, saved whole and always the same."""

import io
import json
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from PIL import Image

from minconv.evaluation import errors as metrics
from minconv.plots import figures as plots

MODELS = ("convgru", "convlstm", "minconvgru", "minconvlstm", "minconvexplstm")
UNITS = "1 / unit time"
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    plt.switch_backend("agg")
    yield
    plt.close("all")


@cache
def collected(models=MODELS, seeds=(1, 2, 3), samples=4, frames=51, context=20, size=16, blown=None) -> xr.Dataset:
    """Rollouts whose errors grow in the closed loop; the model ``blown`` is no longer finite from t = 40 on."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(samples, frames, 1, size, size, generator=generator)
    truth = torch.nn.functional.avg_pool2d((0.3 * steps.cumsum(1)).flatten(0, 1), 3, 1, 1).view_as(steps)
    growth = 0.05 * torch.arange(frames - 1).sub(context).clamp(min=0.5).sqrt().view(-1, 1, 1, 1)
    runs = {("persistence", None): metrics.evaluate(metrics.persistence(truth, context), truth, context, units=UNITS)}
    for number, model in enumerate(models):
        for seed in seeds:
            noise = torch.randn(truth[:, 1:].shape, generator=generator)
            prediction = truth[:, 1:] + growth * (1 + number / 3 + 0.1 * seed) * noise
            if model == blown:
                prediction[0, 39:] = torch.inf
            runs[model, seed] = metrics.evaluate(prediction, truth, context, units=UNITS)
    return metrics.collect(runs)


def ablated() -> xr.DataArray:
    """Closed-loop RMSE 0.1, 0.2, ... of three settings, two models and two seeds."""
    values = np.arange(1.0, 13.0).reshape(3, 2, 2) / 10
    coordinates = {"setting": ["all", "less", "more"], "model": ["convlstm", "minconvlstm"], "seed": [1, 2]}
    return xr.DataArray(values, coordinates, ("setting", "model", "seed"), attrs={"units": UNITS})


def responses() -> xr.DataArray:
    rows, distances = ["truth", "published", "recipe"], np.arange(9)
    values = np.exp(-np.outer([1, 3, 1.2], distances))
    return xr.DataArray(values, {"setting": rows, "distance": distances}, ("setting", "distance"))


def strip(rows=("truth", *MODELS), times=(5, 20, 21, 30, 40, 50)) -> xr.DataArray:
    x = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    wave = [np.sin(x[:, None] + time) * np.cos(2 * x) * (1 + 0.1 * row) for row in range(len(rows)) for time in times]
    values = np.reshape(wave, (len(rows), len(times), 16, 16))
    return xr.DataArray(values, {"row": list(rows), "time": list(times)}, ("row", "time", "y", "x"))


def scans(names=("reference", "logspace", "linear"), **variables) -> xr.Dataset:
    lengths = [2**n for n in range(4, 12)]
    rates = np.arange(1, len(names) + 1)[:, None] * np.array(lengths)
    return xr.Dataset(
        {name: (("backend", "T"), scale * rates) for name, scale in variables.items()},
        {"backend": list(names), "T": lengths},
    )


def timings(models=(*MODELS, "published", "half")) -> xr.Dataset:
    lengths = np.array([8, 16, 32, 64, 128, 256])
    quartiles = np.array([0.9, 1.0, 1.2])
    rates = np.linspace(2, 0.5, len(models))[:, None, None] * quartiles
    dims = ("model", "T", "quartile")
    return xr.Dataset(
        {
            "training": (dims, 3e-3 * rates * lengths[:, None]),
            "training_speedup": (dims, np.broadcast_to(2 / rates, (len(models), 6, 3))),
            "over_convolutions": (dims, np.broadcast_to(1 + rates, (len(models), 6, 3))),
            "memory": (("model", "T"), 2e7 * rates[..., 1] * lengths),
        },
        {"model": list(models), "T": lengths, "quartile": [0.25, 0.5, 0.75]},
    )


def logs(epochs=20) -> dict[str, list[dict[str, float]]]:
    return {
        model: [
            {"epoch": e, "seed": s, "train_loss": 0.1 / e * (1 + 0.1 * s + n), "validation_loss": 0.2 / e * (1 + n)}
            for s in (1, 2)
            for e in range(1, epochs + 1)
        ]
        for n, model in enumerate(MODELS)
    }


SCHEMES = {
    "IFRK4 (ours)": {"step": [0.2, 0.1, 0.05], "error": [1e-3, 6e-5, 4e-6], "seconds": [1e-3, 2e-3, 4e-3], "order": 4},
    "Crank-Nicolson (published)": {
        "step": [0.02, 0.01, 0.005],
        "error": [2e-3, 1e-3, 5e-4],
        "seconds": [4e-3, 8e-3, 16e-3],
        "order": 1,
    },
}


def by_seed(name: str, along: str, places) -> xr.DataArray:
    values = np.arange(2.0, 14).reshape(2, 6, 1) / np.arange(1, len(places) + 1)
    coordinates = {"setting": ["recipe with Adam", "recipe"], "seed": range(6), along: list(places)}
    return xr.DataArray(values, coordinates, ("setting", "seed", along), name)


def flow() -> xr.Dataset:
    values = RNG.uniform(0.5, 1, (2, 5, 12))
    return xr.Dataset(
        {"deviation": (("grid", "sample", "time"), values), "correlation": (("grid", "sample", "lag"), values)},
        {"grid": ["64 × 64", "16 × 16"], "time": range(12), "lag": range(12)},
    )


FIGURES = {
    "scan_schematic": plots.scan_schematic,
    "scan_accuracy": lambda: plots.scan_accuracy(scans(output=1e-8, gradient=3e-8)),
    "scan_speed": lambda: plots.scan_speed(scans(forward=1e-5, training=3e-5)),
    "frames": lambda: plots.frames_strip(strip(("truth",)).sel(row="truth", drop=True)),
    "rollouts": lambda: plots.frames_strip(strip(), context=20),
    "rollout_errors": lambda: plots.frames_strip(strip(), context=20, errors=True),
    "spectrum": lambda: plots.spectrum(collected(("convlstm",), (1,)).spectrum_truth.sel(time=[1, 10, 50])),
    "model_spectra": lambda: plots.model_spectra(collected(), 50),
    "flow_statistics": lambda: plots.flow_statistics(flow()),
    "solver_convergence": lambda: plots.solver_convergence(SCHEMES),
    "training_curves": lambda: plots.training_curves(logs()),
    "error_curves": lambda: plots.error_curves(collected()),
    "blown_up": lambda: plots.error_curves(collected(blown="minconvgru"), ("rmse",)),
    "scan_floor": lambda: plots.scan_speed(scans(("logspace", "cpu", "copy"), forward=1e-5, training=3e-5)),
    "timing": lambda: plots.timing(timings()),
    "rmse_summary": lambda: plots.rmse_summary(metrics.summary(collected(blown="minconvgru"))),
    "ablations": lambda: plots.ablations(ablated()),
    "directions": lambda: plots.directions(
        by_seed("loss", "epoch", range(1, 21)), by_seed("value", "place", [0, 0.5, 1])
    ),
    "reach": lambda: plots.reach(responses(), ablated().assign_coords(reach=("setting", [14, 4, 9]))),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_drawn_and_labelled(name):
    fig = FIGURES[name]()
    fig.canvas.draw()
    assert fig.get_figwidth() in (plots.COLUMN, plots.PAGE)
    assert plt.get_fignums() == [fig.number]
    if "strip" in name or name in ("frames", "rollouts", "rollout_errors"):
        bars = [ax.get_ylabel() for ax in fig.axes if ax.get_label() == "<colorbar>"]
        assert bars and all("(1 / unit time)" in label for label in bars)
        return
    shape = fig.axes[0].get_subplotspec().get_gridspec()
    for ax in fig.axes:
        place = ax.get_subplotspec()
        assert ax.get_xlabel() or not place.is_last_row()
        assert (
            ax.get_ylabel()
            or (ax.get_shared_y_axes().joined(ax, fig.axes[0]) and not place.is_first_col())
            or (name in ("rmse_summary", "ablations"))
        )
    assert shape.nrows * shape.ncols == len(fig.axes)


def labels(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


@pytest.mark.parametrize("steps, rounds", [(2, 1), (5, 3), (8, 3), (9, 4)])
def test_scan_takes_the_logarithm_of_the_steps(steps, rounds):
    loop, scan = plots.scan_schematic(steps).axes
    depth = [max(max(line.get_ydata(), default=0) for line in ax.lines) for ax in (loop, scan)]
    assert depth == [steps, rounds]


def test_statistics_are_medians_over_the_samples():
    data = flow()
    line = plots.flow_statistics(data).axes[1].lines[0]
    np.testing.assert_allclose(line.get_ydata(), data.correlation.isel(grid=0).median("sample"))


def test_every_model_is_in_the_legend():
    expected = ["Persistence", "ConvGRU", "ConvLSTM", "MinConvGRU", "MinConvLSTM", "MinConvExpLSTM"]
    assert labels(FIGURES["error_curves"]()) == expected
    assert labels(FIGURES["timing"]()) == [*expected[1:], "MinConvLSTM, log domain", "MinConvLSTM, bf16-mixed"]


def test_models_differ_without_colour():
    styles = [(style["marker"], str(style["linestyle"])) for style in plots.STYLE.values()]
    assert len(set(styles)) == len(styles)
    assert len({style["color"] for style in plots.STYLE.values()}) == len(styles) - 1  # truth and persistence are black


def test_curves_show_mean_and_deviation_of_the_seeds():
    data = collected()
    ax = plots.error_curves(data, ("rmse",)).axes[0]
    line = next(line for line in ax.lines if line.get_label() == "MinConvLSTM")
    values = data.rmse.sel(model="minconvlstm").values
    np.testing.assert_allclose(line.get_ydata(), values.mean(0))
    band = [patch for patch in ax.collections if isinstance(patch, FillBetweenPolyCollection)][
        data.model.values.tolist().index("minconvlstm")
    ]
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx((values.mean(0) + values.std(0, ddof=1)).max())


def test_a_blown_up_rollout_is_marked():
    crosses = [line for line in FIGURES["blown_up"]().axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[39]]
    texts = [text.get_text() for ax in FIGURES["rmse_summary"]().axes for text in ax.texts]
    assert texts == ["not finite: 3 of 3"]


def test_ablations_show_every_seed_and_the_mean_in_the_row_of_their_setting():
    ax = FIGURES["ablations"]().axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all", "less", "more"]
    for row, setting in enumerate(ablated()):
        drawn = [line for line in ax.lines if len(line.get_ydata()) and np.allclose(line.get_ydata(), row, atol=0.3)]
        dots = sorted(x for line in drawn for x in line.get_xdata() if line.get_marker() != "|")
        means = sorted(x for line in drawn for x in line.get_xdata() if line.get_marker() == "|")
        assert set(setting.values.flatten()) <= set(dots)
        np.testing.assert_allclose(means, setting.mean("seed"))


def test_errors_by_reach_are_in_its_order():
    left, right = FIGURES["reach"]().axes
    line = next(line for line in right.lines if line.get_label() == "ConvLSTM")
    np.testing.assert_allclose(line.get_xdata(), [4, 9, 14])
    np.testing.assert_allclose(line.get_ydata(), ablated().sel(model="convlstm").mean("seed")[[1, 2, 0]])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["Truth", "published", "recipe"]


def test_directions_are_means_between_the_lowest_and_the_highest_seed():
    for ax, name in zip(FIGURES["directions"]().axes, ("loss", "value"), strict=True):
        assert ax.get_ylabel() == name and ax.get_yscale() == "log"
        recipe = next(line for line in ax.lines if line.get_label() == "recipe")
        assert recipe.get_ydata()[0] == pytest.approx(10.5)
        corners = ax.collections[1].get_paths()[0].vertices[:, 1]
        assert corners.max() == pytest.approx(13)


def test_quartiles_are_drawn_as_they_are():
    data = timings()
    axes = {ax.get_ylabel(): ax for ax in plots.timing(data).axes}
    assert [*axes][1:3] == ["speed-up over ConvLSTM", "training step / its convolutions"]
    for label, values in (
        ("training step (ms)", 1e3 * data.training),
        ("speed-up over ConvLSTM", data.training_speedup),
        ("training step / its convolutions", data.over_convolutions),
    ):
        line = next(line for line in axes[label].lines if line.get_label() == "MinConvLSTM")
        found = values.sel(model="minconvlstm")
        np.testing.assert_allclose(line.get_ydata(), found.sel(quartile=0.5))
        bands = [patch for patch in axes[label].collections if isinstance(patch, FillBetweenPolyCollection)]
        corners = bands[data.model.values.tolist().index("minconvlstm")].get_paths()[0].vertices[:, 1]
        assert [corners.min(), corners.max()] == pytest.approx([found.min().item(), found.max().item()])


@pytest.mark.parametrize("name", ["timing", "error_curves", "scan_floor"])
def test_legend_fits_the_page(name):
    fig = FIGURES[name]()
    fig.canvas.draw()
    box = fig.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= fig.bbox.width


def test_save_writes_everything_and_the_same_again(tmp_path):
    data = collected()
    first = plots.save(plots.error_curves(data), "error_curves", data, tmp_path, caption="Errors.")
    assert [path.name for path in first] == ["error_curves.pdf", "error_curves.png", "error_curves.json"]
    before = [path.read_bytes() for path in first]
    again = plots.save(plots.error_curves(data), "error_curves", data, tmp_path, caption="Errors.")
    assert [path.read_bytes() for path in again] == before
    assert sorted(tmp_path.iterdir()) == sorted(first)
    assert before[0].startswith(b"%PDF") and before[0].rstrip().endswith(b"%%EOF")
    assert b"/FontType 42" in before[0] or b"/CIDFontType2" in before[0]
    with Image.open(first[1]) as image:
        assert image.width == pytest.approx(plots.PAGE * 200, abs=1)
    content = json.loads(before[2])
    assert content["caption"] == "Errors." and content["provenance"]["torch"] == torch.__version__
    xr.testing.assert_allclose(xr.Dataset.from_dict(content), data)


def test_save_of_large_data_is_netcdf(tmp_path):
    data = strip(times=tuple(range(30))).astype("float32")
    fig = plots.frames_strip(strip())
    (tmp_path / "rollouts.json").write_text("{}")
    paths = plots.save(fig, "rollouts", data, tmp_path, caption="Rollouts.")
    assert paths[2].name == "rollouts.nc" and not (tmp_path / "rollouts.json").exists()
    with xr.open_dataset(paths[2], engine="h5netcdf") as read:
        np.testing.assert_array_equal(read.rollouts, data)
        assert read.attrs["caption"] == "Rollouts." and read.attrs["provenance_torch"] == torch.__version__
    plots.save(fig, "rollouts", {"small": 1}, tmp_path)
    assert not paths[2].exists()


def test_save_of_a_dictionary(tmp_path):
    data = {"a": np.float32(0.1), "b": [np.nan, np.inf, 1], "c": {1: np.arange(2)}, "d": None, "e": xr.DataArray([2.0])}
    path = plots.save(plots.solver_convergence(SCHEMES), "solver", data, tmp_path)[2]
    content = json.loads(path.read_text())
    assert (content["a"], content["b"], content["c"], content["d"]) == (0.1, ["nan", "inf", 1], {"1": [0, 1]}, None)
    assert content["e"]["data"] == [2.0]


@pytest.mark.parametrize("name, data, error", [("a/b", {}, ValueError), ("", {}, ValueError), ("a", 3, TypeError)])
def test_save_rejects(tmp_path, name, data, error):
    with pytest.raises(error, match=r"name must|data must"):
        plots.save(plots.solver_convergence(SCHEMES), name, data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_animation():
    with Image.open(io.BytesIO(plots.animation(strip(("truth", "convlstm"), tuple(range(50)))))) as gif:
        assert gif.n_frames == 50 and gif.size == (16 * 4 * 2 + 4, 16 * 4)
    noise = strip(("truth", *MODELS[:3]), tuple(range(50)))
    assert len(plots.animation(noise.copy(data=RNG.normal(size=noise.shape)))) < 400_000


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.scan_accuracy(scans(output=1)),
        lambda: plots.scan_accuracy(scans(("unheard",), output=1, gradient=1)),
        lambda: plots.scan_speed(timings()),
        lambda: plots.scan_speed(scans(forward=1)),
        lambda: plots.frames_strip(strip().isel(y=0)),
        lambda: plots.frames_strip(strip().values),
        lambda: plots.frames_strip(strip(("truth",)), errors=True),
        lambda: plots.frames_strip(strip(), context=0),
        lambda: plots.spectrum(strip()),
        lambda: plots.model_spectra(collected(), 51),
        lambda: plots.solver_convergence({}),
        lambda: plots.solver_convergence({"a": {"step": [1, 2], "error": [1], "seconds": [1, 2], "order": 1}}),
        lambda: plots.training_curves({}),
        lambda: plots.training_curves({"unheard": logs()["convgru"]}),
        lambda: plots.error_curves(collected(), ("unheard",)),
        lambda: plots.error_curves(collected(), ()),
        lambda: plots.timing(timings().drop_vars("training")),
        lambda: plots.timing(timings().drop_vars("memory")),
        lambda: plots.timing(timings(("unheard",))),
        lambda: plots.rmse_summary(collected()),
        lambda: plots.animation(strip(), scale=0),
    ],
)
def test_other_data_is_rejected(draw):
    with pytest.raises(ValueError):
        draw()
