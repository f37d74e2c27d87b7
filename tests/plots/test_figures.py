"""Figures: labelled in words that do not overlap, and showing the numbers they are given."""

import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import samples
from PIL import Image
from samples import FIGURES, SOURCE, ablated, band, bars, collected, figure, legend, line, scores, strip, title

from minconv import plots
from minconv.plots.gif import animation, gif, moving
from minconv.plots.style import COLUMN, PAGE

WEATHER = ("scores", "zonal", "climate", "forecast", "errors", "regional", "fields")


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_labelled(name):
    fig = figure(name)
    assert fig.get_figwidth() in (COLUMN, PAGE) and fig.get_figheight() < 10
    if name in WEATHER:
        assert title(fig).replace("\n", " ").endswith(f"2018 ({SOURCE})")
    if bars(fig):
        words = (
            "(1 / unit time)",
            "(m² s⁻²)",
            "(m)",
            "intensity",
            *(["vorticity"] if name == "rollout_errors" else []),
        )
        labels = [(bar.ax.get_xlabel() or bar.ax.get_ylabel()).partition(", contours every ") for bar in bars(fig)]
        assert all(label.endswith(words) and bool(every) == (name in WEATHER) for label, _, every in labels)
        return
    for ax in fig.axes:
        place = ax.get_subplotspec()
        assert ax.get_xlabel() or not place.is_last_row()
        shared = ax.get_shared_y_axes().joined(ax, fig.axes[0]) and not place.is_first_col()
        assert ax.get_ylabel() or shared or name in ("rmse_dots", "ablations", "activation_dots")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_words_are_on_the_page_and_do_not_overlap(name):
    fig = figure(name)
    fig.draw_without_rendering()
    parts = [*fig.texts, *fig.legends, *(text for ax in fig.axes for text in (ax.title, *ax.texts))]
    parts += [label for bar in bars(fig) for label in (bar.ax.xaxis.label,)]
    boxes = [box for part in parts if (box := part.get_window_extent()).width > 1]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= fig.bbox.width and box.y0 >= 0 and box.y1 <= fig.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_source_is_named_once():
    for given in (f"Curves ({SOURCE})", f"{SOURCE}: curves"):
        assert title(plots.climate(samples.seasons(), title=given)) == given
    assert title(plots.climate(samples.seasons())) == SOURCE
    assert title(plots.climate(samples.seasons().drop_attrs(deep=True))) == ""


@pytest.mark.parametrize("steps, rounds", [(2, 1), (5, 3), (8, 3), (9, 4)])
def test_scan_takes_the_logarithm_of_the_steps(steps, rounds):
    loop, scan = plots.scan_schematic(steps).axes
    depth = [max(max(line.get_ydata(), default=0) for line in ax.lines) for ax in (loop, scan)]
    assert depth == [steps, rounds]


def test_frames_are_fields_and_absolute_errors():
    fields = strip().values
    shown = [ax.images[0].get_array() for ax in figure("rollout_errors").axes if ax.images]
    expected = [*fields[0], *np.abs(fields[1:] - fields[0]).reshape(-1, 16, 16)]
    np.testing.assert_array_equal(shown, expected)
    signed, errors = bars(figure("rollout_errors"))
    assert (signed.vmin, signed.vmax) == (-np.abs(fields[0]).max(), np.abs(fields[0]).max())
    assert (errors.vmin, errors.vmax) == (0, np.max(expected[4:]))


def test_errors_are_told_in_the_corner_of_their_frame():
    fields = strip().values
    told = [text.get_text() for ax in figure("rollout_errors").axes for text in ax.texts]
    rmse = np.sqrt(np.square(fields[1:] - fields[0]).mean((-2, -1)))
    assert told == [f"{100 * value:.1f}" for value in rmse.flat] and len(set(told)) == 2


@pytest.mark.parametrize("times", [(5, 20, 21, 50), (1, 5, 10, 20, 21, 30, 40, 50)])
def test_labels_of_short_bars_do_not_meet(times):
    fig = plots.frames_strip(strip(("truth", "convlstm"), times), context=20, errors=True)
    fig.draw_without_rendering()
    first, second = (bar.ax.yaxis.label.get_window_extent() for bar in bars(fig))
    assert second.y1 < first.y0 and second.y0 >= 0 and first.y1 <= fig.bbox.height


def test_statistics_are_medians_over_the_samples():
    shown = figure("flow_statistics").axes[1].lines[0]
    np.testing.assert_allclose(shown.get_ydata(), samples.flow().correlation.median("sample"))


def test_default_steps_are_ringed():
    by_step, by_cost = figure("solver_convergence").axes
    for ax, places in ((by_step, [0.1, 0.01]), (by_cost, [2, 8])):
        rings = [found for found in ax.lines if found.get_markersize() == 10 and len(found.get_xdata())]
        np.testing.assert_allclose([ring.get_xdata().item() for ring in rings], places)
        np.testing.assert_allclose([ring.get_ydata().item() for ring in rings], [6e-5, 1e-3])


def test_spectra_are_those_of_the_data():
    data = collected().sel(time=50, k=slice(1, None))
    values, ratio = figure("model_spectra").axes
    np.testing.assert_allclose(
        line(values, "MinConvLSTM").get_ydata(), data.spectrum.sel(model="minconvlstm").mean("seed")
    )
    np.testing.assert_array_equal(line(values, "truth").get_ydata(), data.spectrum_truth)
    expected = (data.spectrum / data.spectrum_truth).sel(model="minconvlstm").mean("seed")
    np.testing.assert_allclose(line(ratio, "MinConvLSTM").get_ydata(), expected)
    few = plots.model_spectra(collected(), 50, least=float(data.spectrum_truth[2]))
    np.testing.assert_allclose(
        line(few.axes[1], "MinConvLSTM").get_ydata(), expected[data.spectrum_truth > data.spectrum_truth[2]]
    )
    plt.close(few)
    truth = collected().spectrum_truth.sel(time=10, k=slice(1, None))
    np.testing.assert_array_equal(line(figure("spectrum").axes[0], "t = 10").get_ydata(), truth)


def test_training_curves_are_means_over_the_seeds():
    shown = line(figure("training_curves").axes[0], "ConvLSTM")
    np.testing.assert_allclose(shown.get_ydata(), 0.1 / np.arange(1, 21) * 2.15)


def test_losses_have_a_column_for_each_setting():
    axes = figure("losses_by_epoch").axes
    assert [ax.get_title() for ax in axes] == ["published", "recipe", "", ""]
    for place, factor in ((1, 0.1 * 2.15), (3, 0.2 * 2)):
        np.testing.assert_allclose(line(axes[place], "ConvLSTM").get_ydata(), factor / np.arange(1, 21))
    assert len({ax.get_ylim() for ax in axes}) == 1
    assert [ax.get_title(loc="left") for ax in axes] == ["(a)", "(b)", "(c)", "(d)"]


def test_losses_by_time_are_beside_the_end_of_the_reference():
    axes = figure("loss_by_time").axes
    for ax, seconds in zip(axes, (12, 6), strict=True):
        curve = line(ax, "ConvLSTM")
        np.testing.assert_allclose(curve.get_xdata(), np.arange(1, 21) * seconds / 60)
        assert [*curve.get_ydata()[-1:]] * 2 == pytest.approx([0.02, 0.02])
        assert any(
            [*found.get_ydata()] == pytest.approx([0.02, 0.02]) for found in ax.lines if len(found.get_xdata()) == 2
        )


def test_errors_by_size_are_on_logarithmic_axes_with_the_sizes_as_ticks():
    axes = figure("scaling").axes
    assert [ax.get_title() for ax in axes] == ["published", "recipe", "", ""]
    for ax, sizes in zip(axes, ([10, 1000], [10, 1000], [1000, 4000], [1000, 4000]), strict=True):
        curve = line(ax, "ConvLSTM")
        assert ax.get_xscale() == ax.get_yscale() == "log" and [*curve.get_xdata()] == sizes
        np.testing.assert_allclose(
            np.multiply(*curve.get_data()), np.prod([curve.get_xdata()[0], curve.get_ydata()[0]]), rtol=1e-6
        )
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"{size:,}" for size in sizes]


def test_every_model_is_in_the_legend():
    expected = ["teacher-forced", "Persistence", "ConvGRU", "ConvLSTM", "MinConvGRU", "MinConvLSTM", "MinConvExpLSTM"]
    assert legend(figure("error_curves")) == expected
    assert legend(figure("timing")) == [*expected[2:], "MinConvLSTM, log domain", "MinConvLSTM, bf16-mixed"]


def test_models_differ_without_colour():
    styles = [(style["marker"], str(style["linestyle"])) for style in plots.STYLE.values()]
    assert len(set(styles)) == len(styles)
    colours = {style["color"] for style in plots.STYLE.values()}
    assert len(colours) == len(styles) - 1  # truth and persistence are black
    assert colours.isdisjoint(style["color"] for name, style in plots.SETTINGS.items() if name != "truth")


def test_curves_show_mean_and_range_of_the_seeds():
    data, ax = collected(), figure("error_curves").axes[0]
    values = 100 * data.rmse.sel(model="minconvlstm").values
    np.testing.assert_allclose(line(ax, "MinConvLSTM").get_ydata(), values.mean(0))
    number = data.model.values.tolist().index("minconvlstm")
    np.testing.assert_allclose(band(ax, number), [values.min(), values.max()])
    assert ax.get_ylabel() == "RMSE × 100 (1 / unit time)"


def test_errors_of_settings_share_their_axes():
    axes = figure("errors_by_setting").axes
    assert [ax.get_title() for ax in axes] == ["published", "no weight decay", "recipe"]
    expected = 100 * collected().rmse.sel(model="convgru").mean("seed")
    for number, ax in enumerate(axes, start=1):
        np.testing.assert_allclose(line(ax, "ConvGRU").get_ydata(), expected / number)
    assert len({ax.get_ylim() for ax in axes}) == 1


def test_a_blown_up_rollout_is_marked():
    crosses = [line for line in figure("blown_up").axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[39]]
    texts = [text.get_text() for ax in figure("rmse_dots").axes for text in ax.texts]
    assert texts == ["not finite: 3 of 3"] * 2


def test_dots_show_every_seed_and_the_mean_in_the_row_of_their_setting():
    axes = figure("ablations").axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["less", "more", "all"], (
        "by mean, after the base"
    )
    for ax, name in zip(axes, ("teacher_forced", "closed_loop"), strict=True):
        for row, setting in enumerate(ablated()[name].sel(setting=["less", "more", "all"])):
            drawn = [
                line for line in ax.lines if len(line.get_ydata()) and np.allclose(line.get_ydata(), row, atol=0.3)
            ]
            dots = sorted(x for line in drawn for x in line.get_xdata() if line.get_marker() != "|")
            means = sorted(x for line in drawn for x in line.get_xdata() if line.get_marker() == "|")
            np.testing.assert_allclose(dots, 100 * setting.values.flatten())
            np.testing.assert_allclose(means, 100 * setting.mean("seed"))
    lines = [
        found.get_xdata()[0] for found in axes[1].lines if len(found.get_xdata()) == 2 and not found.get_ydata()[0]
    ]
    np.testing.assert_allclose(lines, 100 * ablated().closed_loop.sel(setting="less").mean("seed"))


def test_errors_by_reach_are_points_with_the_names_of_settings():
    left, right = figure("reach").axes
    np.testing.assert_allclose(line(right, "ConvLSTM").get_xdata(), np.array([4, 9, 14]) - 0.15)
    expected = 100 * ablated().closed_loop.sel(model="convlstm").mean("seed")[[1, 2, 0]]
    np.testing.assert_allclose(line(right, "ConvLSTM").get_ydata(), expected)
    assert line(right, "ConvLSTM").get_linestyle() == "None"
    assert {(text.get_text(), text.xy[0]) for text in right.texts} == {("less", 4), ("more", 9), ("all", 14)}
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["truth", "published", "recipe"]


def test_directions_are_means_between_the_lowest_and_the_highest_seed():
    for ax, name in zip(figure("directions").axes, ("loss", "value"), strict=True):
        assert ax.get_ylabel() == name and ax.get_yscale() == "log"
        assert line(ax, "recipe").get_ydata()[0] == pytest.approx(10.5)
        assert band(ax, 1)[1] == pytest.approx(13)


def test_quartiles_are_drawn_as_they_are():
    data, axes = samples.timings(), {ax.get_ylabel(): ax for ax in figure("timing").axes}
    assert [ax.get_title("left") for ax in axes.values()] == ["(a)", "(b)", "(c)", "(d)"]
    assert [*axes][1:3] == ["speed-up over the\nfastest ConvLSTM", "training step / its convolutions"]
    number = data.model.values.tolist().index("minconvlstm")
    for label, values in (
        ("training step (ms / frame)", 1e3 * data.training / data["T"]),
        ("peak memory (MiB / frame)", 2**-20 * (data.memory / data["T"]).expand_dims(quartile=data["quartile"])),
        ("speed-up over the\nfastest ConvLSTM", data.training_speedup),
        ("training step / its convolutions", data.over_convolutions),
    ):
        found = values.sel(model="minconvlstm")
        np.testing.assert_allclose(line(axes[label], "MinConvLSTM").get_ydata(), found.sel(quartile=0.5))
        assert [tick.get_text() for tick in axes[label].get_xticklabels()] == ["8", "16", "32", "64", "128", "256"]
        assert band(axes[label], number) == pytest.approx([found.min().item(), found.max().item()])


def test_scores_are_means_with_bands_over_days():
    data, fig = scores(), figure("scores")
    for ax, name in zip(fig.axes[:2], ("rmse", "acc"), strict=True):
        values, curve = data[name].sel(model="minconvlstm").values, line(ax, "MinConvLSTM")
        np.testing.assert_allclose(curve.get_xdata(), np.arange(1, 29) / 4)
        np.testing.assert_allclose(curve.get_ydata(), values.mean(0))
        assert band(ax, 1)[1] == pytest.approx((values.mean(0) + values.std(0, ddof=1)).max())
    error, correlation, ratio = fig.axes
    assert error.get_ylim()[0] == 0 and error.get_ylabel() == "RMSE (m² s⁻²)"
    assert correlation.get_ylim()[1] >= 1 and correlation.get_ylabel() == "anomaly correlation"
    assert {ax.get_xlabel() for ax in fig.axes} == {"lead time (days)"}
    assert [0.6, 0.6] in [list(found.get_ydata()) for found in correlation.lines]
    assert [text.get_text() for text in correlation.texts] == ["useful →"]
    over = (data.rmse / data.rmse.sel(model="damped persistence")).sel(model="minconvlstm").mean("seed")
    np.testing.assert_allclose(line(ratio, "MinConvLSTM").get_ydata(), over)
    assert {*line(ratio, "Damped persistence").get_ydata()} == {1} and 0 < ratio.get_ylim()[0] < over.min()
    assert over.max() < ratio.get_ylim()[1] <= 1.5
    expected = ["ConvLSTM", "MinConvLSTM", "Persistence", "Damped persistence", "Climatology"]
    assert legend(fig) == legend(plots.score_curves(data, ("rmse",))) == expected
    alone = plots.score_curves(data.drop_sel(model="damped persistence"), ("acc",))
    assert len(alone.axes) == 1 and not alone.axes[0].get_title("left")


def test_many_frames_ahead_are_on_a_logarithmic_axis():
    many = samples.by_lead().isel(lead=[0] * 60).assign_coords(lead=np.arange(1, 61))
    assert {ax.get_xscale() for ax in plots.score_curves(many, ("mse", "ssim")).axes} == {"log"}


def test_scores_by_frames():
    data, fig = samples.by_lead(), figure("scores_by_lead")
    assert {ax.get_xlabel() for ax in fig.axes} == {"lead time (frames)"}
    assert [ax.get_yscale() for ax in fig.axes] == ["log", "linear"]
    for ax, name in zip(fig.axes, ("mse", "ssim"), strict=True):
        curve = line(ax, "SimVP")
        assert curve.get_xdata().tolist() == [*range(1, 29)]
        np.testing.assert_allclose(curve.get_ydata(), data[name].sel(model="simvp").mean("seed"))


def test_timing_without_what_its_convolutions_take():
    axes = figure("timing_of_three").axes
    assert [ax.get_ylabel() for ax in axes][::2] == ["training step (ms / frame)", "peak memory (MiB / frame)"]
    assert len({ax.get_subplotspec().rowspan.start for ax in axes}) == 1


def test_frames_in_greys():
    images = [image for ax in figure("digits").axes for image in ax.images]
    assert {(image.get_clim(), image.get_cmap().name) for image in images} == {((0, 1), "gray")}


def test_scores_of_a_series_share_their_axes():
    low, high = scores(), scores().assign(rmse=3 * scores().rmse, acc=-scores().acc)
    figures = [plots.score_curves(one, beside=[other]) for one, other in ((low, high), (high, low))]
    first, second = ([ax.get_ylim() for ax in fig.axes] for fig in figures)
    assert first == second
    assert first[0][1] >= high.rmse.max() and first[1][0] <= high.acc.min()


def test_zonal_ratio_has_a_line_for_each_lead_and_dots_for_seeds():
    data, (ax,) = samples.paddings(), figure("zonal").axes
    ratio = (data.zonal_rmse.sel(model="sphere") / data.zonal_rmse.sel(model="cylinder")).transpose(..., "lat")
    for number, lead in enumerate(("1 day", "3 days", "5 days")):
        curve = line(ax, f"{lead}, mean over seeds")
        np.testing.assert_array_equal(curve.get_xdata(), data.lat)
        np.testing.assert_allclose(curve.get_ydata(), ratio.isel(lead_time=number).mean("seed"))
    dots = [found.get_ydata() for found in ax.lines if found.get_marker() == "o" and len(found.get_xdata())]
    np.testing.assert_allclose(np.sort(np.ravel(dots)), np.sort(ratio.values.ravel()))
    assert ax.get_xlim() == (-90, 90) and ax.get_ylabel() == "RMSE, sphere / cylinder"
    ticks = ax.xaxis.get_major_formatter().format_ticks([-90, -60, 0, 60])
    assert ticks == ["90°S", "60°S", "0°", "60°N"]


def test_skill_is_a_line_and_its_interval_beside_the_reference():
    data, fig = samples.differences(), figure("skill")
    (ax,) = fig.axes
    for number, (model, label) in enumerate(
        {"minconvlstm": "MinConvLSTM", "stack": plots.STYLE["stack"]["label"]}.items()
    ):
        low, middle, high = data.sel(model=model).transpose("quartile", "lead_time").values
        np.testing.assert_allclose(line(ax, label).get_xdata(), np.arange(1, 8))
        np.testing.assert_allclose(line(ax, label).get_ydata(), middle)
        np.testing.assert_allclose(band(ax, number), [low.min(), high.max()])
    assert {*line(ax, "Ridge regression").get_ydata()} == {0}


def test_climate_has_lines_for_the_data_and_markers_for_the_model():
    data, fig = samples.seasons(), figure("climate")
    for ax, name in zip(fig.axes, ("mean", "deviation"), strict=True):
        lines = [found for found in ax.lines if found.get_linestyle() != "None" and len(found.get_xdata())]
        points = [found for found in ax.lines if found.get_linestyle() == "None" and len(found.get_xdata())]
        colours = [found.get_color() for found in ax.lines if found.get_label() in ("DJF", "MAM", "JJA", "SON")]
        for row, drawn in (("data", lines), ("minconvlstm", points)):
            np.testing.assert_array_equal([found.get_ydata() for found in drawn], data[name].sel(row=row))
            assert [found.get_color() for found in drawn] == colours
    assert legend(fig) == ["DJF", "MAM", "JJA", "SON", "data (line)", "MinConvLSTM (markers)"]
    assert [line(fig.axes[0], season).get_marker() for season in ("DJF", "JJA")] == ["s", "o"]
    alone = plots.climate(data.sel(row="data", drop=True).isel(season=[0, 2, 1, 3]))
    assert legend(alone) == ["DJF", "MAM", "JJA", "SON"]
    models = {style["color"] for style in plots.STYLE.values()}
    assert not models & {line(alone.axes[0], season).get_color() for season in legend(alone)}


def test_animation_tells_the_time_and_the_scale():
    fields = strip(("truth", "convlstm"), tuple(range(50)))
    moves = animation(fields)
    with Image.open(io.BytesIO(moves)) as picture:
        assert picture.n_frames == 50 and picture.width < 600
        frames = []
        for place in (0, 49):
            picture.seek(place)
            frames.append(np.asarray(picture.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[1])[:30].max() > 100, "the time"
    bar = frames[0][60:230, -60:-50].reshape(-1, 3)
    assert len(np.unique(bar, axis=0)) > 10, "the scale"
    shown = moving(moves, "two flows").data
    assert shown.startswith('<img src="data:image/gif;base64,R0lG') and shown.endswith('alt="two flows">')


def test_gif():
    fields = strip(("truth", "convlstm"), (1, 2, 3))
    fields[1, 0] = fields[0, 0] + 1e-3
    frames = []
    with Image.open(io.BytesIO(gif(fields, context=2))) as picture:
        assert picture.n_frames == 3 and picture.width <= 848
        for place in range(3):
            picture.seek(place)
            assert picture.info["duration"] == (2500 if place == 2 else 160)
            frames.append(np.asarray(picture.convert("RGB")))
    assert (frames[0][2, 2] == 255).all(), "paper is white"
    colours = [len(np.unique(frame[80:220, 500:660].reshape(-1, 3), axis=0)) for frame in frames]
    assert colours[0] == 1 and min(colours[1:]) > 5  # of the errors
    assert all(np.abs(after - before.astype(int))[:30].max() > 100 for before, after in pairwise(frames))  # the title


REFUSED = {
    "data must hold output, gradient": [lambda: plots.scan_accuracy(samples.scans(output=1))],
    "backend must be one of": [lambda: plots.scan_accuracy(samples.scans(("unheard",), output=1, gradient=1))],
    "data must hold forward, training": [
        lambda: plots.scan_speed(samples.timings()),
        lambda: plots.scan_speed(samples.scans(forward=1)),
    ],
    r"fields must be over \(row, time, y, x\)": [lambda: plots.frames_strip(strip().isel(y=0))],
    "fields must be an xarray.DataArray": [lambda: plots.frames_strip(strip().values)],
    "at least 2 rows": [lambda: plots.frames_strip(strip(("truth",)), errors=True)],
    "context must be": [lambda: plots.frames_strip(strip(), context=0)],
    r"spectra must be over \(time, k\)": [lambda: plots.spectrum(strip())],
    "time must be one of": [lambda: plots.model_spectra(collected(), 51)],
    "schemes must hold 1 to 3": [lambda: plots.solver_convergence({})],
    "of one length": [
        lambda: plots.solver_convergence({"a": samples.SCHEMES["Crank-Nicolson"] | {"step": [1]}}),
        lambda: plots.solver_convergence({"a": {"step": [1], "error": [1], "seconds": [1], "order": 1}}),
    ],
    "at least one row for every model": [lambda: plots.training_curves({})],
    "model must be one of": [
        lambda: plots.training_curves({"unheard": samples.logs()["convgru"]}),
        lambda: plots.timing(samples.timings(("unheard",))),
        lambda: plots.score_curves(scores(("unheard",))),
    ],
    "dataset must hold unheard": [lambda: plots.error_curves(collected(), ("unheard",))],
    "variables must name": [
        lambda: plots.error_curves(collected(), ()),
        lambda: plots.score_curves(scores(), ()),
    ],
    "data must hold training, ": [
        lambda: plots.timing(samples.timings().drop_vars("training")),
        lambda: plots.timing(samples.timings().drop_vars("memory")),
    ],
    "parts must hold teacher_forced": [lambda: plots.rmse_dots(samples.by_setting())],
    "losses must hold": [
        lambda: plots.losses_by_epoch(samples.losses().drop_vars("train_loss")),
        lambda: plots.loss_by_time(samples.losses().drop_vars("seconds")),
    ],
    "reference must be one of convgru": [lambda: plots.loss_by_time(samples.losses(), "unheard")],
    "base must be one of": [lambda: plots.rmse_dots(ablated(), "unheard")],
    "differences must be over": [lambda: plots.skill(samples.differences()[0], "climatology")],
    "reference must be one of": [lambda: plots.skill(samples.differences(), "unheard")],
    "errors must be over": [
        lambda: plots.reach(samples.responses(), ablated().closed_loop[0]),
        lambda: plots.scaling([samples.by_size("steps", 1, 2).mean("seed")]),
    ],
    "milliseconds must be": [lambda: animation(strip(), milliseconds=0)],
    "scores must hold": [
        lambda: plots.score_curves(scores(), ("rmse", "unheard")),
        lambda: plots.score_curves(scores().isel(seed=0)),
        lambda: plots.zonal_ratio(scores()[["rmse"]], "convlstm", "minconvlstm"),
    ],
    "lead_time must be timedelta64": [
        lambda: plots.score_curves(scores().assign_coords(lead_time=np.arange(28))),
        lambda: plots.zonal_ratio(samples.paddings().assign_coords(lead_time=np.arange(3)), "sphere", "cylinder"),
    ],
    "data must hold mean, deviation": [lambda: plots.climate(samples.seasons().drop_vars("deviation"))],
    "season must be one of": [lambda: plots.climate(samples.seasons().assign_coords(season=list("abcd")))],
    "at most two rows": [lambda: plots.climate(samples.seasons(("a", "b", "c")))],
}


@pytest.mark.parametrize("message", REFUSED)
def test_other_data_are_refused(message):
    for draw in REFUSED[message]:
        with pytest.raises((TypeError, ValueError), match=message):
            draw()


def test_errors_of_depth_are_signed_and_in_one_scale_with_an_arrow_where_it_ends():
    fig, depth = figure("depth_maps"), samples.bottoms().values
    shown = [ax.images[0] for ax in fig.axes if ax.images]
    np.testing.assert_allclose([image.get_array() for image in shown], [*depth, *(depth[1:] - depth[0])])
    assert {image.get_clim() for image in shown[:4]} == {(depth[0].min(), depth[0].max())}
    assert {image.get_clim() for image in shown[4:]} == {(-2, 2)}
    assert [bar.extend for bar in bars(fig)] == ["both", "max"]
    assert [ax.get_title() for ax in fig.axes[:4]] == ["truth", "two points", "four points", "FINN"]


def test_maps_of_places_start_at_zero():
    shown = [ax.images[0] for ax in figure("place_maps").axes if ax.images]
    assert {image.get_clim()[0] for image in shown} == {0} and len({image.get_clim() for image in shown}) == 1
    low = plots.place_maps(samples.bottoms(("B", "C"), "panel"), limit=50)
    assert {ax.images[0].get_clim() for ax in low.axes if ax.images} == {(0, 50)} and bars(low)[0].extend == "max"
    plt.close(low)
    with pytest.raises(ValueError, match=r"fields must be over \(panel, y, x\)"):
        plots.place_maps(samples.bottoms())
    with pytest.raises(ValueError, match="fields must have at least 2 of row; got 1"):
        plots.depth_maps(samples.bottoms(("truth",)))


def test_errors_of_inversions_are_those_of_the_data_and_nothing_is_lost_at_zero():
    fig = figure("inversion_errors")
    np.testing.assert_allclose(line(fig.axes[0], "FINN").get_ydata(), [7, 8, 9])
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["0", "0.01", "0.1"]
    low, high = fig.axes[0].get_xlim()
    assert all(low < place < high for place in line(fig.axes[0], "FINN").get_xdata())
    assert legend(fig) == ["two points", "four points", "FINN"]


def test_activations_by_rate_by_epoch_and_by_seed():
    fig = figure("activation_curves")
    np.testing.assert_allclose(line(fig.axes[1], "SUGAR, B-SiLU").get_xydata().T, [[0.001, 0.01, 0.1], [4, 5, 6]])
    assert [ax.get_xscale() for ax in fig.axes] == ["log", "log"] and legend(fig) == ["ReLU", "SUGAR, B-SiLU"]
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["0.01", "0.1"]
    (ax,) = figure("activation_courses").axes
    np.testing.assert_allclose(line(ax, "ReLU").get_ydata(), [2.5, 3.5, 4.5])
    np.testing.assert_allclose(band(ax, 0), [1, 6])
    fig = figure("activation_dots")
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["ReLU", "SUGAR, B-SiLU"]
    means = [
        found.get_xdata().item() for found in fig.axes[1].lines if found.get_marker() == "|" and len(found.get_xdata())
    ]
    assert means == [2, 5]
    with pytest.raises(ValueError, match="activation must be one of ReLU, SUGAR"):
        plots.activation_dots({"SGD": samples.activated(seed=[1]).assign_coords(activation=["ReLU", "tanh"])})
    with pytest.raises(ValueError, match=r"panels must be over \(activation, seed\)"):
        plots.activation_dots({"SGD": samples.activated(rate=[1])})
