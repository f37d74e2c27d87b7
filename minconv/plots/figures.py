"""Every figure of the notebooks: functions from numbers to a matplotlib Figure, and :func:`save`.

A model has one colour, marker and line everywhere (:data:`STYLE`, colours of Okabe and Ito): the classical cells
are broken lines, the minimal ones solid, so that figures read in grey as well. Sizes are those of a printed page;
text is 9 pt and stays text in the PDF. In a notebook a figure shows by itself at the end of its cell.

Arguments of another shape than described raise ValueError.
"""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from minconv.evaluation.compare import spread
from minconv.evaluation.errors import CLOSED_LOOP, PHASES, TEACHER_FORCING
from minconv.runtime.checks import choice, positive, whole
from minconv.runtime.files import atomic, claim_room, write_json
from minconv.runtime.provenance import provenance

COLUMN, PAGE = 3.4, 7.0  # inches
JSON_VALUES = 20_000  # larger data sets are saved as NetCDF
POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#0072B2", "#D55E00", "#CC79A7"),
)
WINE, TEAL = "#882255", "#44AA99"  # of Tol, for pairs that stand alone


def _line(label: str, color: str, marker: str, linestyle: Any = "-") -> dict[str, Any]:
    return {"label": label, "color": color, "marker": marker, "linestyle": linestyle}


LINEAR = ("correlation", "variance_ratio", "mean")  # variables on linear axes; errors are on logarithmic ones
STYLE = {
    "convgru": _line("ConvGRU", SKY, "v", (0, (1, 1))),
    "convlstm": _line("ConvLSTM", BLUE, "s", (0, (4, 1, 1, 1))),
    "minconvgru": _line("MinConvGRU", ORANGE, "^"),
    "minconvlstm": _line("MinConvLSTM", VERMILION, "o"),
    "minconvexplstm": _line("MinConvExpLSTM", GREEN, "D"),
    "published": _line("MinConvLSTM, log domain", PURPLE, "P", (0, (4, 2))),
    "half": _line("MinConvLSTM, bf16-mixed", "0.45", "X", (0, (1, 1))),
    "cylinder": _line("MinConvLSTM, cylinder padding", WINE, "<", (0, (6, 1.5))),
    "sphere": _line("MinConvLSTM, sphere padding", TEAL, ">"),
    "persistence": _line("Persistence", BLACK, "", (0, (4, 2))),
    "damped persistence": _line("Damped persistence", "0.3", "", (0, (4, 1, 1, 1))),
    "climatology": _line("Climatology", "0.6", "", (0, (1, 1))),
    "truth": _line("Truth", BLACK, ""),
}
BACKENDS = {
    "stepwise": _line("frame by frame", PURPLE, "P", (0, (4, 2))),
    "reference": _line("reference (loop)", BLACK, "s", (0, (1, 1))),
    "logspace": _line("log domain (published)", BLUE, "v", (0, (4, 1, 1, 1))),
    "linear": _line("linear domain", VERMILION, "o"),
    "cpu": _line("fused, CPU", GREEN, "^"),
    "triton": _line("fused, GPU", ORANGE, "D"),
    "copy": _line("copying as many bytes", "0.5", ""),
}
SETTINGS = {
    "truth": STYLE["truth"],
    "published": _line("published", PURPLE, "s", (0, (4, 1, 1, 1))),
    "no weight decay": _line("no weight decay", SKY, "v", (0, (4, 2))),
    "recipe with Adam": _line("recipe with Adam", GREEN, "D", (0, (5, 1))),
    "recipe": _line("recipe", VERMILION, "o"),
}
SCHEMES = (
    _line("", VERMILION, "o"),
    _line("", BLUE, "s", (0, (4, 1, 1, 1))),
    _line("", GREEN, "^", (0, (1, 1))),
)
MEAN = {"color": BLACK, "marker": "|", "linestyle": "", "markersize": 13, "markeredgewidth": 1.3}

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "lines.linewidth": 1.3,
        "lines.markersize": 4,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "image.origin": "lower",
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }
)


def save(
    fig: Figure,
    name: str,
    data: xr.Dataset | xr.DataArray | Mapping[str, Any],
    folder: str | Path,
    caption: str = "",
    device: str = "cpu",
) -> list[Path]:
    """Writes name.pdf, name.png and the numbers ``data`` with their provenance; each file whole or not at all.

    The numbers become name.json (7 digits; what is not finite as "nan", "inf"), and where an xarray object has more
    than 20,000 values name.nc (float32). The same figure gives the same bytes.

    Returns:
        The three paths.

    Raises:
        ValueError: the name is not that of a plain file.
        TypeError: data is neither xarray nor a mapping.
    """
    folder = Path(folder)
    if not name or Path(name).name != name:
        raise ValueError(f"name must be a plain file name without folder or suffix; got {name!r}")
    if not isinstance(data, xr.Dataset | xr.DataArray | Mapping):
        raise TypeError(f"data must be an xarray object or a mapping; got {type(data).__name__}")
    paths = [folder / f"{name}.pdf", folder / f"{name}.png"]
    for path, metadata in zip(paths, ({"CreationDate": None, "Title": caption or name}, None), strict=True):
        with atomic(path) as temporary:
            fig.savefig(temporary, metadata=metadata)
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or name)
    json, netcdf = folder / f"{name}.json", folder / f"{name}.nc"
    origin = {"caption": caption, "provenance": provenance(device)}
    if isinstance(data, xr.Dataset) and sum(values.size for values in data.variables.values()) > JSON_VALUES:
        compact = {key: {"zlib": True, "dtype": "float32"} for key in data if data[key].dtype.kind == "f"}
        attributes = {"caption": caption} | {f"provenance_{key}": v for key, v in origin["provenance"].items()}
        with atomic(netcdf) as temporary:
            claim_room(temporary, data.nbytes)
            data.drop_encoding().assign_attrs(attributes).to_netcdf(temporary, engine="h5netcdf", encoding=compact)
        json.unlink(missing_ok=True)
        return [*paths, netcdf]
    write_json(json, _plain(origin | (data.to_dict() if isinstance(data, xr.Dataset) else dict(data))))
    netcdf.unlink(missing_ok=True)
    return [*paths, json]


def scan_schematic(steps: int = 8) -> Figure:
    """The same recurrence as a loop, one frame after another, and as a scan that doubles its reach in every round.

    Args:
        steps: frames T >= 2.
    """
    frames = range(1, whole("steps", steps, least=2) + 1)
    rounds = math.ceil(math.log2(steps))
    # what each node (frame, level) is made from
    loop = {(t, t): [(t, 0), (t - 1, t - 1)] for t in frames}
    scan = {(t, r): [(t, r - 1), (t - 2 ** (r - 1), r - 1)] for r in range(1, rounds + 1) for t in frames}
    titles = f"loop: {steps} steps", f"scan: {rounds} rounds"
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.7), sharex=True, sharey=True)
    for ax, network, title in zip(axes, (loop, scan), titles, strict=True):
        for (t, level), parents in network.items():
            for frame, above in parents:
                if frame in frames:
                    ax.plot((frame, t), (above, level), color="0.6", linewidth=0.8, zorder=1)
            ax.plot(t, level, **_node(BLUE if t <= 2**level else "white"))
        ax.plot(frames, [0] * steps, **_node("0.8") | {"marker": "s"}, label="step $(a_t, b_t)$")
        ax.set(title=title, xlabel="frame t", xticks=frames)
        ax.grid(visible=False)
    ax.plot([], [], **_node("white"), label="several steps in one")
    ax.plot([], [], **_node(BLUE), label="all steps up to t: $h_t$")
    axes[0].set_ylabel("one after another")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].invert_yaxis()
    legend_above(fig, ax)
    return fig


def scan_accuracy(data: xr.Dataset) -> Figure:
    """Error of the scan and of its gradients against a float64 loop, by sequence length.

    Args:
        data: ``output`` and ``gradient`` (relative errors) over (backend, T); where it is there, ``spacing`` over T,
            the distance of float32 numbers at the sums A_T of logarithms.
    """
    needs(data, ("output", "gradient"), ("backend", "T"))
    fig = _scans({"output": data.output, "gradients": data.gradient}, "relative error")
    if "spacing" in data:
        ax = fig.axes[0]
        ax.plot(data.T, data.spacing, color="0.5", linewidth=0.8, zorder=1)
        ax.annotate(
            "spacing of float32\nnumbers at $A_T$",
            (data.T[0], data.spacing[0]),
            (0, 16),
            textcoords="offset points",
            color="0.35",
            fontsize=8,
        )
    return fig


def scan_speed(data: xr.Dataset) -> Figure:
    """Time of the scan, or of a model by its scan, by sequence length.

    Args:
        data: ``forward`` and ``training`` (forward + backward), seconds over (backend, T[, repeat or quartile]); the
            line is the median over the repeats, the band their quartiles. The backend ``copy`` is the floor: moving
            the bytes that a scan must move.
    """
    needs(data, ("forward", "training"), ("backend", "T"))
    return _scans({"forward": 1e3 * data.forward, "forward + backward": 1e3 * data.training}, "time (ms)")


def frames_strip(
    fields: xr.DataArray,
    context: int | None = None,
    errors: bool = False,
    label: str = "vorticity (1 / unit time)",
) -> Figure:
    """Rows of frames by time in one symmetric colour scale.

    Args:
        fields: over (row, time, y, x) or (time, y, x), with coordinates ``time`` and ``row`` (names of
            :data:`STYLE` or any words).
        context: number of teacher-forced frames; marks the columns after it, made in the closed loop.
        errors: draw every row but the first as its absolute error, with a second colour scale.
        label: what the colours mean, with units.
    """
    fields = _strip(fields)
    rows, times, pictures = fields.row.values.tolist(), fields.time.values, fields.values.copy()
    if errors and len(rows) < 2:
        raise ValueError(f"fields must have at least 2 rows to show errors; got {len(rows)}")
    if context is not None:
        whole("context", context, least=1)
    if errors:
        pictures[1:] = np.abs(pictures[1:] - pictures[0])
    side = (PAGE - 0.8 - 1.25 * any(rows)) / len(times)  # beside them the bar and the names
    height = min(side * fields.sizes["y"] / fields.sizes["x"], 1.4)
    size = (PAGE, (height + 0.04) * len(rows) + (0.3 if context is None else 0.5))
    fig, axes = plt.subplots(len(rows), len(times), figsize=size, squeeze=False)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for ax, frame in zip(axes.flat, pictures.reshape(-1, *pictures.shape[2:]), strict=True):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="0.4")
        if not np.isfinite(frame).all():
            ax.text(0.5, 0.5, "not\nfinite", transform=ax.transAxes, ha="center", va="center", fontsize=7)
    for name, line in zip(rows, axes, strict=True):
        label_text = STYLE[name]["label"] if name in STYLE else str(name)
        line[0].set_ylabel(label_text, rotation=0, ha="right", va="center")
    for time, ax in zip(times, axes[0], strict=True):
        ax.set_title(f"t = {time:g}")
    signed = largest(pictures[:1])
    _paint(
        fig,
        axes[: 1 if errors else None],
        pictures[: 1 if errors else None],
        label,
        "RdBu_r",
        -signed,
        signed,
    )
    if errors:
        worst = largest(pictures[1:])
        _paint(fig, axes[1:], pictures[1:], f"absolute error of {label}", "magma_r", 0, worst)
    if context is not None:
        _mark_columns(axes, times > context)
    return fig


def spectrum(spectra: xr.DataArray, label: str = "enstrophy (1 / unit time)²") -> Figure:
    """Spectra at several times.

    Args:
        spectra: over (time, k), with coordinate ``time``; k is the wavenumber in cycles per domain.
        label: the quantity in a bin of wavenumbers, with units.
    """
    if not isinstance(spectra, xr.DataArray) or set(spectra.dims) != {"time", "k"}:
        raise ValueError(f"spectra must be a DataArray over (time, k); got {described(spectra)}")
    fig, ax = plt.subplots(figsize=(COLUMN, 2.6))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.8, spectra.sizes["time"]))
    for index, (time, shade) in enumerate(zip(spectra.time.values, shades, strict=True)):
        row = spectra.sel(time=time, k=slice(1, None))  # the mean has no place on a logarithmic axis
        ax.plot(row.k, row, color=shade, marker="os^Dv"[index % 5], label=f"t = {time:g}")
    _wavenumbers(ax, spectra)
    ax.set_ylabel(label)
    ax.legend()
    return fig


def model_spectra(dataset: xr.Dataset, time: int) -> Figure:
    """Spectrum of every model's predictions at one time, beside the truth's, and the ratio of the two.

    Lines are means over seeds, bands reach from the least to the greatest.

    Args:
        dataset: from :func:`minconv.evaluation.errors.collect`.
        time: of the predicted frame.
    """
    needs(dataset, ("spectrum", "spectrum_truth"), ("model", "seed", "time", "k"))
    if time not in dataset.time:
        raise ValueError(f"time must be one of {dataset.time.values.tolist()}; got {time!r}")
    found = dataset[["spectrum", "spectrum_truth"]].sel(time=time, k=slice(1, None))
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    lines_by(axes[0], found.spectrum, "model", "k", STYLE, extremes=True)  # over decades a deviation reaches below 0
    _curve(axes[0], found.k.values, *[found.spectrum_truth.values] * 3, STYLE["truth"])
    lines_by(axes[1], found.spectrum / found.spectrum_truth, "model", "k", STYLE, extremes=True)
    axes[1].axhline(1, **STYLE["truth"])
    for ax in axes:
        _wavenumbers(ax, found.spectrum)
    axes[0].set_ylabel(axis_label(dataset.spectrum, "enstrophy"))
    axes[1].set_ylabel("enstrophy, prediction / truth")
    axes[0].set_title(f"t = {time:g} frames")
    legend_above(fig, axes[0])
    return fig


def flow_statistics(data: xr.Dataset) -> Figure:
    """How a set of trajectories spins up, and how long its frames resemble each other; medians and quartiles.

    Args:
        data: ``deviation`` over (grid, sample, time), each field's standard deviation, and ``correlation`` over
            (grid, sample, lag), of frames that far apart; at most three grids.
    """
    needs(data, ("deviation", "correlation"), ("grid", "sample", "time"))
    grids = data.grid.values.tolist()
    styles = {name: style | {"label": name} for name, style in zip(grids, SCHEMES, strict=False)}
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6))
    panels = {"time": data.deviation, "lag": data.correlation}
    for ax, (x, values) in zip(axes, panels.items(), strict=True):
        lines_by(ax, values.rename(sample="repeat"), "grid", x, styles)
        ax.set(xlabel=f"{x} (unit times)", ylabel=axis_label(values, values.name), ylim=(0, None))
    legend_above(fig, axes[0])
    return fig


def solver_convergence(schemes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Error of time stepping schemes by step, with the slopes they should have, and by cost.

    Args:
        schemes: by label, each with ``step`` (unit times), ``error`` (relative L2), ``seconds`` (per sample and
            unit time) as sequences of one length, and its ``order``; at most three.
    """
    for label, scheme in schemes.items():
        lengths = {len(scheme.get(key, ())) for key in ("step", "error", "seconds")}
        if len(lengths) > 1 or 0 in lengths or "order" not in scheme:
            raise ValueError(f"schemes[{label!r}] must hold step, error and seconds of one length, and order")
    if not 1 <= len(schemes) <= len(SCHEMES):
        raise ValueError(f"schemes must hold 1 to {len(SCHEMES)} schemes; got {len(schemes)}")
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
    for (label, scheme), style in zip(schemes.items(), SCHEMES, strict=False):
        step, error, seconds = (np.asarray(scheme[key], float) for key in ("step", "error", "seconds"))
        axes[0].plot(step, error, **style | {"label": label})
        axes[1].plot(1e3 * seconds, error, **style | {"label": label})
        ends = np.array([step.min(), step.max()])
        slope = error[step.argmax()] * (ends / ends[1]) ** scheme["order"]
        axes[0].plot(ends, slope, color="0.5", linewidth=0.8, zorder=1)
        middle = np.sqrt(ends[0] * ends[1]), np.sqrt(slope[0] * slope[1])
        order = f"order {scheme['order']}"
        axes[0].annotate(order, middle, (6, -9), textcoords="offset points", color="0.35", fontsize=8)
    axes[0].set(xlabel="time step (unit times)", ylabel="relative L2 error")
    axes[1].set(xlabel="cost (ms per sample and unit time)")
    for ax in axes:
        _log(ax)
    legend_above(fig, axes[0])
    return fig


def training_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], units: str = "1", title: str = "") -> Figure:
    """Training and validation loss by epoch: mean over seeds, and a band of one standard deviation.

    Args:
        logs: by model, rows with ``epoch``, ``seed``, ``train_loss`` and ``validation_loss``.
        units: units of the loss.
        title: above everything.
    """
    if not logs or not all(logs.values()):
        raise ValueError(f"logs must hold at least one row for every model; got {list(logs) or 'no model'}")
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharex=True, sharey=True)
    for ax, key, part in zip(axes, ("train_loss", "validation_loss"), ("training", "validation"), strict=True):
        for model, rows in logs.items():
            values = {(int(row["seed"]), int(row["epoch"])): float(row[key]) for row in rows}
            seeds, epochs = (sorted(set(numbers)) for numbers in zip(*values, strict=True))
            table = [[values.get((seed, epoch), math.nan) for epoch in epochs] for seed in seeds]
            loss = xr.DataArray([table], {"model": [model], "seed": seeds, "epoch": epochs}, ("model", "seed", "epoch"))
            lines_by(ax, loss, "model", "epoch", STYLE)
        ax.set(title=part, xlabel="epoch")
        ax.set_yscale("log")
        _label_decades(ax.yaxis)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("mean square error" + _units(units))
    legend_above(fig, axes[0], title)
    return fig


def error_curves(dataset: xr.Dataset, variables: Sequence[str] = ("rmse", "correlation")) -> Figure:
    """Errors by predicted time: mean over seeds, a band of one standard deviation; the closed loop is marked.

    Args:
        dataset: from :func:`minconv.evaluation.errors.collect`; a model ``persistence`` is drawn in black.
        variables: one panel for each.
    """
    if not variables:
        raise ValueError("variables must name at least one variable of the dataset; got none")
    needs(dataset, variables, ("model", "seed", "time"))
    fig, axes = plt.subplots(1, len(variables), figsize=(PAGE, 2.8), squeeze=False, sharex=True)
    for ax, name in zip(axes[0], variables, strict=True):
        lines_by(ax, dataset[name], "model", "time", STYLE)
        ax.set(xlabel=axis_label(dataset.time, "time"), ylabel=axis_label(dataset[name], name))
        if name not in LINEAR:
            ax.set_yscale("log")
            _label_decades(ax.yaxis)
        _mark_closed_loop(ax, dataset.attrs["context"] + 0.5)
    legend_above(fig, axes[0, 0])
    return fig


def timing(data: xr.Dataset) -> Figure:
    """A training step of every model by sequence length: time, speed-up, time over its convolutions', peak memory.

    Args:
        data: ``training`` (seconds), ``training_speedup`` (over ConvLSTM) and ``over_convolutions`` (the step's time
            over that of its convolutions alone) over (model, T[, quartile]); ``memory``, bytes over (model, T).
    """
    panels = {
        "training": ("training step (ms)", 1e3, "log"),
        "training_speedup": (f"speed-up over {STYLE['convlstm']['label']}", 1, "linear"),
        "over_convolutions": ("training step / its convolutions", 1, "linear"),
        "memory": ("peak memory (MiB)", 2**-20, "log"),
    }
    needs(data, list(panels), ("model", "T"))
    fig, axes = plt.subplots(2, 2, figsize=(PAGE, 5), sharex=True)
    for ax, (name, (label, unit, scale)) in zip(axes.flat, panels.items(), strict=True):
        lines_by(ax, data[name] * unit, "model", "T", STYLE)
        ax.set_ylabel(label)
        _log(ax, base=2)
        if scale == "linear":  # quotients
            ax.set_yscale(scale)
            ax.axhline(1, color="0.4", linewidth=0.8, zorder=1)
    for ax in axes[-1]:
        ax.set_xlabel("sequence length T (frames)")
    legend_above(fig, axes.flat[0])
    return fig


def rmse_summary(parts: xr.Dataset) -> Figure:
    """RMSE of every model and seed (dots) with its mean (bar), and persistence as a line.

    Args:
        parts: ``teacher_forced`` and ``closed_loop`` over (model, seed), from ``metrics.summary``.
    """
    needs(parts, ("teacher_forced", "closed_loop"), ("model", "seed"))
    models = [model for model in parts.model.values.tolist() if model != "persistence"]
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 0.25 * len(models) + 1.1), sharey=True)
    for ax, name, title in zip(axes, ("teacher_forced", "closed_loop"), PHASES, strict=True):
        for row, model in enumerate(models):
            style = STYLE[choice("model", model, STYLE)]
            values = parts[name].sel(model=model).values
            fine = values[np.isfinite(values)]
            ax.plot(fine, [row] * len(fine), style["marker"], color=style["color"], alpha=0.7)
            if len(fine) == len(values):
                ax.plot(values.mean(), row, **MEAN)
            else:
                lost = f"not finite: {len(values) - len(fine)} of {len(values)}"
                ax.text(0.02, row, lost, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        if "persistence" in parts.model:
            value = float(parts[name].sel(model="persistence").mean())
            ax.axvline(value, color=BLACK, linestyle=STYLE["persistence"]["linestyle"])
        ax.set(title=title, xlabel=axis_label(parts[name], "RMSE").replace(f", {title}", ""))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(models)), [STYLE[model]["label"] for model in models])
    axes[0].set_ylim(len(models) - 0.4, -0.6)
    axes[0].plot([], [], "o", color="0.5", label="one seed")
    axes[0].plot([], [], **MEAN, label="mean over seeds")
    if "persistence" in parts.model:
        axes[0].plot([], [], **STYLE["persistence"])
    legend_above(fig, axes[0])
    return fig


def ablations(errors: xr.DataArray) -> Figure:
    """RMSE of every setting, model and seed (dots) with its mean (bar); the first setting's means go on as lines.

    Args:
        errors: over (setting, model, seed), such as ``closed_loop`` of ``metrics.summary``.
    """
    needs(errors.to_dataset(name="errors"), ("errors",), ("setting", "model", "seed"))
    settings, models = errors.setting.values.tolist(), errors.model.values.tolist()
    fig, ax = plt.subplots(figsize=(PAGE, 0.17 * len(settings) * len(models) + 1.0))
    apart = 0.5 / len(models)
    for number, model in enumerate(models):
        style = STYLE[choice("model", model, STYLE)]
        for row, setting in enumerate(settings):
            values = errors.sel(model=model, setting=setting).values
            place = row + apart * (number - (len(models) - 1) / 2)
            ax.plot(values, [place] * len(values), style["marker"], color=style["color"], alpha=0.7)
            ax.plot(values.mean(), place, **MEAN | {"markersize": 8})
        first = float(errors.sel(model=model).isel(setting=0).mean())
        ax.axvline(first, color=style["color"], linestyle=style["linestyle"], linewidth=0.8)
        ax.plot([], [], style["marker"], color=style["color"], label=style["label"] + ", one seed")
    ax.plot([], [], **MEAN | {"markersize": 8}, label="mean over seeds")
    ax.set(xlabel=axis_label(errors, "RMSE"))
    ax.set_yticks(range(len(settings)), settings)
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    legend_above(fig, ax)
    return fig


def directions(losses: xr.DataArray, changes: xr.DataArray) -> Figure:
    """How fast settings learn, and into how many directions training moves the kernels.

    Args:
        losses: over (setting, seed, epoch); settings of :data:`SETTINGS`.
        changes: over (setting, seed, place), from ``presets.kernel_changes``.
    """
    needs(losses.to_dataset(name="losses"), ("losses",), ("setting", "seed", "epoch"))
    needs(changes.to_dataset(name="changes"), ("changes",), ("setting", "seed", "place"))
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    for ax, values, x in zip(axes, (losses, changes), ("epoch", "place"), strict=True):
        lines_by(ax, values, "setting", x, SETTINGS, extremes=True)
        ax.set(xlabel=axis_label(values[x], x), ylabel=axis_label(values, str(values.name)))
        ax.set_yscale("log")
        _label_decades(ax.yaxis)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(fig, axes[0])
    return fig


def reach(influence: xr.DataArray, errors: xr.DataArray) -> Figure:
    """How far a change reaches in one step, of the flow and of the models; and the error by the reach of the kernels.

    Args:
        influence: over (setting, distance), from ``metrics.influence``; settings of :data:`SETTINGS`.
        errors: over (setting, model, seed), with a coordinate ``reach`` (cells) along setting.
    """
    needs(influence.to_dataset(name="influence"), ("influence",), ("setting", "distance"))
    needs(errors.to_dataset(name="errors"), ("errors",), ("setting", "model", "seed"))
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    lines_by(left, influence, "setting", "distance", SETTINGS)
    left.set(xlabel=axis_label(influence.distance, "distance"), ylabel=axis_label(influence, "response"))
    left.set_yscale("log")
    _label_decades(left.yaxis)
    errors = errors.sortby("reach")
    for model in errors.model.values.tolist():
        style = STYLE[choice("model", model, STYLE)]
        rows = errors.sel(model=model).transpose("seed", "setting").values
        right.plot(errors.reach.values, rows.mean(0), **style)
        right.plot(errors.reach.values, rows.T, style["marker"], color=style["color"], alpha=0.3)
    right.set(xlabel=axis_label(errors.reach, "reach"), ylabel=axis_label(errors, "RMSE"))
    left.legend()
    right.legend()
    return fig


def animation(fields: xr.DataArray, scale: int = 4, milliseconds: int = 120) -> bytes:
    """A GIF of the rows side by side in one symmetric colour scale, for ``IPython.display.Image``.

    Args:
        fields: over (row, time, y, x) or (time, y, x).
        scale: pixels on the screen for one of the grid.
        milliseconds: duration of a frame.
    """
    fields, scale = _strip(fields), whole("scale", scale, least=1)
    limit = largest(fields.values)
    levels = np.nan_to_num((fields.values / limit + 1) / 2, nan=0.5).clip(0, 1)
    pixels = np.flip((levels * 63).round().astype(np.uint8), 2).repeat(scale, 2).repeat(scale, 3)
    gap = np.full((*pixels.shape[1:3], scale), 64, np.uint8)
    wide = [part for row in pixels for part in (gap, row)][1:]
    colours = np.vstack([plt.get_cmap("RdBu_r")(np.linspace(0, 1, 64)), (0.3, 0.3, 0.3, 1)])  # few: a small file
    palette = (colours[:, :3] * 255).round().astype(np.uint8).tobytes()
    pictures = [Image.fromarray(frame) for frame in np.concatenate(wide, -1)]
    for picture in pictures:
        picture.putpalette(palette)
    file = io.BytesIO()
    duration = int(positive("milliseconds", milliseconds))
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    return file.getvalue()


def _strip(fields: xr.DataArray) -> xr.DataArray:
    """``fields`` over (row, time, y, x), with one nameless row where it had none."""
    if isinstance(fields, xr.DataArray) and "row" not in fields.dims:
        fields = fields.expand_dims(row=[""])
    wanted = ("row", "time", "y", "x")
    if not isinstance(fields, xr.DataArray) or set(fields.dims) != set(wanted) or 0 in fields.shape:
        raise ValueError(f"fields must be a DataArray over (row, time, y, x), not empty; got {described(fields)}")
    return fields.transpose(*wanted)


def _scans(panels: Mapping[str, xr.DataArray], label: str) -> Figure:
    """One panel for each title, values over (backend, T[, repeat])."""
    fig, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.6), sharex=True, sharey=True)
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        lines_by(ax, values, "backend", "T", BACKENDS)
        ax.set(title=title, xlabel="sequence length T (frames)")
        _log(ax, base=2)
    axes[0].set_ylabel(label)
    legend_above(fig, axes[0])
    return fig


def _paint(
    fig: Figure, axes: np.ndarray, pictures: np.ndarray, label: str, colours: str, low: float, high: float
) -> None:
    """Draws ``pictures`` [row, time, y, x] on ``axes`` [row, time] in one colour scale, with its bar."""
    for ax, frame in zip(axes.flat, pictures.reshape(-1, *pictures.shape[2:]), strict=True):
        image = ax.imshow(frame, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    if len(axes) == 1:
        label = label.replace(" (", "\n(")
    arrows = clipped(pictures, low, high)
    fig.colorbar(image, ax=axes, label=label, extend=arrows, aspect=12 * len(axes), pad=0.01, fraction=0.05)


def clipped(values: np.ndarray, low: float, high: float) -> str:
    """Which ends of a colour bar need an arrow, since ``values`` lie beyond: its argument ``extend``."""
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    return ends[bool((values < low).any()), bool((values > high).any())]


def _mark_columns(axes: np.ndarray, closed: np.ndarray) -> None:
    """Names the two parts above the first row and draws a line between their columns."""
    for text, columns in ((TEACHER_FORCING, ~closed), (CLOSED_LOOP, closed)):
        if columns.any():
            axes[0, columns.argmax()].set_title(f"{text}\n", loc="left", color="0.35", fontsize=8)
    if closed.any() and not closed.all():
        for ax in axes[:, closed.argmax()]:
            ax.plot([-0.03, -0.03], [-0.05, 1.05], "k", transform=ax.transAxes, clip_on=False, in_layout=False)


def lines_by(
    ax: Axes, values: xr.DataArray, by: str, x: str, styles: Mapping[str, Mapping[str, Any]], extremes: bool = False
) -> None:
    """A line for each of ``by``: median and quartiles over repeats; mean and deviation, or ``extremes``, over seeds.

    A dimension ``quartile`` holds the three quartiles already.
    """
    for name in values[by].values.tolist():
        row = values.sel({by: name})
        if "repeat" in row.dims:
            low, middle, high = np.quantile(row.transpose("repeat", x).values, (0.25, 0.5, 0.75), axis=0)
        elif "quartile" in row.dims:
            low, middle, high = row.transpose("quartile", x).values
        elif "seed" in row.dims:
            mean, deviation = (part.value.values for part in spread(row.to_dataset(name="value")))
            low, middle, high = mean - deviation, mean, mean + deviation
            if extremes:
                low, high = row.min("seed", skipna=False).values, row.max("seed", skipna=False).values
        else:
            low = middle = high = row.values
        _curve(ax, row[x].values, low, middle, high, styles[choice(by, name, styles)])


def _node(color: str) -> dict[str, Any]:
    shape = {"marker": "o", "linestyle": "", "markersize": 7}
    return shape | {"color": color, "markeredgecolor": BLACK, "markeredgewidth": 0.8}


def _curve(
    ax: Axes, x: np.ndarray, low: np.ndarray, middle: np.ndarray, high: np.ndarray, style: Mapping[str, Any]
) -> None:
    """A line with about ten markers and its band; a cross where it ends early because values are not finite."""
    ax.plot(x, middle, **style, markevery=max(1, len(x) // 10))
    ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    finite = np.flatnonzero(np.isfinite(middle))
    if 0 < len(finite) < len(x):
        ax.plot(x[finite[-1]], middle[finite[-1]], "x", color=style["color"], markersize=8, markeredgewidth=2)


def _mark_closed_loop(ax: Axes, start: float) -> None:
    """A vertical line where teacher forcing ends, with both sides named."""
    ax.axvline(start, color="0.4", linewidth=0.8)
    for text, offset, side in ((TEACHER_FORCING, -4, "right"), (CLOSED_LOOP, 4, "left")):
        ax.annotate(
            text,
            (start, 1),
            (offset, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            color="0.35",
            fontsize=8,
        )


def _wavenumbers(ax: Axes, spectra: xr.DataArray) -> None:
    ax.set(xscale="log", yscale="log", xlabel="wavenumber (cycles per domain)")
    ticks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= spectra.k.max()]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())


def _log(ax: Axes, base: int = 10) -> None:
    """Logarithmic axes; with base 2, powers of two written out along x."""
    ax.set_yscale("log")
    ax.set_xscale("log", base=base)
    _label_decades(ax.yaxis)
    if base == 10:
        return _label_decades(ax.xaxis)
    ax.xaxis.set_major_locator(LogLocator(2, numticks=8))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _label_decades(axis: Axis) -> None:
    """Below two decades, a logarithmic axis with plain numbers, since powers of ten would be too few."""
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def legend_above(fig: Figure, ax: Axes, title: str = "") -> None:
    """One legend for all panels, above them, and the figure's title above it, which else would be drawn over it."""
    handles, labels = ax.get_legend_handles_labels()
    one_line = sum(len(label) + 7 for label in labels) <= 110  # with their handles, in letters of a page's width
    columns = len(labels) if one_line else math.ceil(len(labels) / 2)
    style = {"ncols": columns, "columnspacing": 1.2, "handlelength": 2.2}
    legend = fig.legend(handles, labels, loc="outside upper center", **style)
    if title:
        legend.set_title(textwrap.fill(title, 95), {"size": 10})


def _units(units: str) -> str:
    """`` (units)`` to stand behind a quantity, CF's ``m2 s-2`` as m² s⁻²; nothing for pure numbers."""
    if units in ("", "1"):
        return ""
    units = re.sub(r"(?<=[A-Za-z])-?\d+", lambda power: power[0].translate(POWERS), units)
    return f" {units}" if units.startswith("(") else f" ({units})"


def axis_label(values: xr.DataArray, otherwise: str) -> str:
    return values.attrs.get("long_name", otherwise) + _units(values.attrs.get("units", "1"))


def largest(values: np.ndarray) -> float:
    """Largest absolute value that is finite, for a colour scale; 1 where all is zero."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0


def needs(data: xr.Dataset, variables: Sequence[str], dims: Sequence[str]) -> None:
    """Raises ValueError unless ``data`` holds these variables, the first of them over all of ``dims``."""
    missing = [name for name in variables if name not in getattr(data, "data_vars", ())]
    if missing or not set(dims) <= set(data[variables[0]].dims):
        raise ValueError(f"data must hold {', '.join(variables)} over ({', '.join(dims)}); got {described(data)}")


def described(data: Any) -> str:
    if isinstance(data, xr.Dataset):
        return ", ".join(f"{name} {values.dims}" for name, values in data.data_vars.items()) or "an empty dataset"
    return f"{data.dims} of {data.shape}" if isinstance(data, xr.DataArray) else type(data).__name__


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers to 7 digits, those not finite as words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, xr.DataArray | xr.Dataset):
        return _plain(value.to_dict())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, int | str) else str(value)
