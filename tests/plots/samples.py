"""Small data for every figure, and what their tests look for in it."""

from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

from minconv import plots
from minconv.evaluation import errors as metrics
from minconv.evaluation import persistence, rollout
from minconv.evaluation.compare import collect
from minconv.experiments import report
from minconv.plots import maps

MODELS = ("convgru", "convlstm", "minconvgru", "minconvlstm", "minconvexplstm")
BASELINES = ("persistence", "damped persistence", "climatology")
UNITS = "1 / unit time"
SOURCE = "barotropic model, not ERA5"
ROWS = ("truth", "minconvlstm", "persistence")
DAYS = (1, 3)
SCHEMES = {
    "IFRK4 (ours)": {"step": [0.2, 0.1, 0.05], "error": [1e-3, 6e-5, 4e-6], "seconds": [1e-3, 2e-3, 4e-3]},
    "Crank-Nicolson": {"step": [0.02, 0.01], "error": [2e-3, 1e-3], "seconds": [4e-3, 8e-3]},
}
for scheme, order, default in zip(SCHEMES.values(), (4, 1), (0.1, 0.01), strict=True):
    scheme |= {"order": order, "default": default}


@cache
def collected(models=MODELS, seeds=(1, 2, 3), blown=None) -> xr.Dataset:
    """Rollouts whose errors grow in the closed loop; the model ``blown`` is no longer finite from t = 40 on."""
    generator, frames, context = torch.Generator().manual_seed(0), 51, 20
    truth = (0.3 * torch.randn(2, frames, 1, 8, 8, generator=generator)).cumsum(1)
    growth = 0.05 * torch.arange(frames - 1).sub(context).clamp(min=0.5).sqrt().view(-1, 1, 1, 1)
    runs = {("persistence", None): metrics.evaluate(rollout(persistence, truth, context), truth, context, units=UNITS)}
    for number, model in enumerate(models):
        for seed in seeds:
            noise = torch.randn(truth[:, 1:].shape, generator=generator)
            prediction = truth[:, 1:] + growth * (1 + number / 3 + 0.1 * seed) * noise
            if model == blown:
                prediction[0, 39:] = torch.inf
            runs[model, seed] = metrics.evaluate(prediction, truth, context, units=UNITS)
    return collect(runs)


def by_setting(names=("published", "recipe"), **options) -> xr.Dataset:
    """The same errors in every setting, but for a factor of its number."""
    found, errors = [], collected(**options)
    for number in range(1, len(names) + 1):
        found.append(errors.assign(rmse=(errors.rmse / number).assign_attrs(errors.rmse.attrs)))
    return xr.concat(found, xr.IndexVariable("setting", list(names)), combine_attrs="override")


def ablated() -> xr.Dataset:
    """Closed-loop RMSE 0.1, 0.2, ... of three settings, two models and two seeds, a tenth of it teacher-forced."""
    values = np.arange(1.0, 13.0).reshape(3, 2, 2)[[1, 2, 0]] / 10
    coordinates = {"setting": ["all", "less", "more"], "model": ["convlstm", "minconvlstm"], "seed": [1, 2]}
    reach = {"reach": ("setting", [14, 4, 9])}
    closed = xr.DataArray(values, coordinates | reach, ("setting", "model", "seed"), attrs={"units": UNITS})
    return xr.Dataset({"teacher_forced": closed / 10, "closed_loop": closed})


def responses() -> xr.DataArray:
    rows, distances = ["truth", "published", "recipe"], np.arange(9)
    values = np.exp(-np.outer([1, 3, 1.2], distances))
    return xr.DataArray(values, {"setting": rows, "distance": distances}, ("setting", "distance"))


def strip(rows=("truth", "convlstm", "minconvexplstm"), times=(5, 20, 21, 50)) -> xr.DataArray:
    x = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    wave = [np.sin(x[:, None] + time) * np.cos(2 * x) * (1 + 0.1 * row) for row in range(len(rows)) for time in times]
    values = np.reshape(wave, (len(rows), len(times), 16, 16))
    return xr.DataArray(values, {"row": list(rows), "time": list(times)}, ("row", "time", "y", "x"))


def scans(names=("reference", "logspace", "linear"), **variables) -> xr.Dataset:
    lengths = [2**n for n in range(4, 12)]
    rates = np.arange(1, len(names) + 1)[:, None] * np.array(lengths)
    found = {name: (("backend", "T"), scale * rates) for name, scale in variables.items()}
    return xr.Dataset(found, {"backend": list(names), "T": lengths})


def timings(models=(*MODELS, "published", "half")) -> xr.Dataset:
    lengths, quartiles = np.array([8, 16, 32, 64, 128, 256]), np.array([0.9, 1.0, 1.2])
    rates = np.linspace(2, 0.5, len(models))[:, None, None] * quartiles
    dims, shape = ("model", "T", "quartile"), (len(models), 6, 3)
    return xr.Dataset(
        {
            "training": (dims, 3e-3 * rates * lengths[:, None]),
            "training_speedup": (dims, np.broadcast_to(2 / rates, shape)),
            "over_convolutions": (dims, np.broadcast_to(1 + rates, shape)),
            "memory": (("model", "T"), 2e7 * rates[..., 1] * lengths),
        },
        {"model": list(models), "T": lengths, "quartile": [0.25, 0.5, 0.75]},
    )


def logs(epochs=20) -> dict[str, list[dict[str, float]]]:
    return {
        model: [
            {
                "epoch": e,
                "seed": s,
                "train_loss": 0.1 / e * (1 + 0.1 * s + n),
                "validation_loss": 0.2 / e * (1 + n),
                "seconds": 1.0,
            }
            for s in (1, 2)
            for e in range(1, epochs + 1)
        ]
        for n, model in enumerate(MODELS)
    }


def losses() -> xr.Dataset:
    """Of two settings, the second twice as fast."""
    found = report.losses({"published": logs(), "recipe": logs()})
    seconds = 6.0 * xr.DataArray(1 + np.arange(found.sizes["model"]), {"model": found.model})
    return found.assign(seconds=xr.concat([seconds, seconds / 2], found.setting))


def by_seed(name: str, along: str, places) -> xr.DataArray:
    values = np.arange(2.0, 14).reshape(2, 6, 1) / np.arange(1, len(places) + 1)
    coordinates = {"setting": ["recipe with Adam", "recipe"], "seed": range(6), along: list(places)}
    return xr.DataArray(values, coordinates, ("setting", "seed", along), name)


def flow() -> xr.Dataset:
    values = np.random.default_rng(0).uniform(0.5, 1, (5, 12))
    return xr.Dataset(
        {"deviation": (("sample", "time"), values), "correlation": (("sample", "lag"), values)},
        {"time": range(12), "lag": range(12)},
    )


def globe(rows=ROWS, days=DAYS, height=12, width=24) -> xr.DataArray:
    """Waves that travel on a jet, the slower the lower the row."""
    lat = np.linspace(-90, 90, 2 * height + 1)[1::2]
    lon = np.arange(width) * 360 / width
    phi, lam = np.deg2rad(lat)[:, None], np.deg2rad(lon)
    z = [
        [57500 - 7000 * np.sin(phi) ** 2 + 900 * np.sin(2 * phi) ** 2 * np.cos(4 * (lam - d / (3 + r))) for d in days]
        for r in range(len(rows))
    ]
    leads = (np.array(days) * 24).astype("timedelta64[h]").astype("timedelta64[ns]")
    attributes = {"units": "m2 s-2", "long_name": "geopotential", "source": SOURCE}
    coordinates = {"row": list(rows), "lead_time": leads, "lat": lat, "lon": lon}
    return xr.DataArray(np.array(z, np.float32), coordinates, (*coordinates,), "z", attributes)


def region() -> xr.DataArray:
    return globe(ROWS[:2]).sel(lat=slice(15, 75), lon=slice(200, 330))


def climates() -> xr.Dataset:
    fields = globe(("truth", "minconvlstm")).drop_attrs()
    found = xr.Dataset({"mean": fields.mean("lead_time"), "deviation": fields.std("lead_time")})
    found["mean"].attrs = {"long_name": "mean", "units": "m2 s-2"}
    found["deviation"].attrs = {"long_name": "standard deviation", "units": "m2 s-2"}
    return found.rename(row="panel").assign_attrs(source=SOURCE)


@cache
def by_size(name, *sizes):
    """Closed-loop errors that fall as one over the size."""
    closed = metrics.summary(by_setting(("published", "recipe"))).closed_loop.drop_sel(model="persistence")
    index = xr.Variable(name, list(sizes), {"long_name": name})
    return xr.concat([closed / size for size in sizes], index).assign_attrs(closed.attrs)


def scores(models=("convlstm", "minconvlstm", *BASELINES)) -> xr.Dataset:
    leads, lat = np.arange(6, 169, 6), np.linspace(-87, 87, 16)
    noise = np.random.default_rng(0).uniform(0.9, 1.1, (len(models), 3, 1))
    growth = leads / 24 * (1 + np.arange(len(models)))[:, None, None] * noise
    by_latitude = growth[..., None] * (1 + np.sin(np.deg2rad(lat)) ** 2)
    dims, attributes = ("model", "seed", "lead_time"), {"long_name": "RMSE", "units": "m2 s-2"}
    return xr.Dataset(
        {
            "rmse": (dims, 100 * growth, attributes),
            "acc": (dims, np.exp(-growth / 9), {"long_name": "anomaly correlation", "units": "1"}),
            "zonal_rmse": ((*dims, "lat"), 100 * by_latitude, attributes),
        },
        {"model": list(models), "seed": [1, 2, 3], "lead_time": leads.astype("timedelta64[h]"), "lat": lat},
        {"source": SOURCE},
    )


def by_lead() -> xr.Dataset:
    """Scores over frames, with no dates."""
    found = scores(("convlstm", "simvp", "black")).drop_vars("zonal_rmse").drop_attrs()
    lead = ("lead", np.arange(1, found.sizes["lead_time"] + 1), {"long_name": "lead time", "units": "frames"})
    return found.rename(lead_time="lead", rmse="mse", acc="ssim").assign_coords(lead=lead)


def paddings() -> xr.Dataset:
    return scores(("cylinder", "sphere"))[["zonal_rmse"]].isel(lead_time=[3, 11, 19])


def seasons(rows=("data", "minconvlstm")) -> xr.Dataset:
    lat = np.linspace(-85, 85, 18)
    values = 1000 + np.arange(len(rows))[:, None, None] + 100 * np.arange(4)[:, None] + 0 * lat
    dims, attributes = ("row", "season", "lat"), {"units": "m2 s-2"}
    return xr.Dataset(
        {
            "mean": (dims, values, attributes | {"long_name": "geopotential"}),
            "deviation": (dims, values / 10, attributes | {"long_name": "standard deviation"}),
        },
        {"row": list(rows), "season": ["DJF", "MAM", "JJA", "SON"], "lat": lat},
        {"source": SOURCE},
    )


def differences(models=("minconvlstm", "stack")) -> xr.DataArray:
    """From 10 % above to 1 % below in a week, give and take 2 %."""
    leads, middle = np.arange(1, 8), np.linspace(10, -1, 7)
    values = np.stack([np.stack([middle - 2, middle, middle + 2], 1) / (1 + k) for k in range(len(models))])
    coordinates = {"model": list(models), "lead_time": leads * np.timedelta64(1, "D"), "quartile": [0.025, 0.5, 0.975]}
    attributes = {"long_name": "RMSE over that of ridge regression, less one", "units": "%", "source": SOURCE}
    return xr.DataArray(values, coordinates, tuple(coordinates), attrs=attributes)


def bottoms(rows=("truth", "two", "four", "FINN"), dim="row") -> xr.DataArray:
    x = np.linspace(-450, 450, 10)
    values = np.array([100 + x[:, None] / 50 + number * np.cos(x / 200) for number in range(len(rows))])
    centres = {axis: (axis, x, {"units": "km", "long_name": axis}) for axis in ("y", "x")}
    return xr.DataArray(
        values, {dim: list(rows), **centres}, (dim, "y", "x"), attrs={"units": "m", "long_name": "depth"}
    )


def found(name: str, values) -> xr.DataArray:
    """RMSE 1, 2, ... of three stencils."""
    numbers = np.arange(1.0, 3 * len(values) + 1).reshape(3, -1)
    coordinates = {"stencil": ["two", "four", "FINN"], name: list(values)}
    return xr.DataArray(numbers, coordinates, ("stencil", name), attrs={"units": "m"})


def activated(**over) -> xr.DataArray:
    """1, 2, ... per cent by activation and what else there is."""
    places = {"activation": ["ReLU", "SUGAR, B-SiLU"], **over}
    values = np.arange(1.0, 1 + np.prod([len(place) for place in places.values()]))
    shape = [len(place) for place in places.values()]
    return xr.DataArray(values.reshape(shape), places, attrs={"long_name": "digits misread", "units": "%"})


TITLE = "The geopotential at 500 hPa, over all starts from 1 January 2017 to 31 December 2018"
FIGURES = {
    "scan_schematic": plots.scan_schematic,
    "scan_accuracy": lambda: plots.scan_accuracy(scans(output=1e-8, gradient=3e-8)),
    "scan_speed": lambda: plots.scan_speed(scans(("logspace", "cpu", "copy"), forward=1e-5, training=3e-5)),
    "frames": lambda: plots.frames_strip(strip(("truth",)).sel(row="truth", drop=True)),
    "rollouts": lambda: plots.frames_strip(strip(), context=20),
    "rollout_errors": lambda: plots.frames_strip(strip(), context=20, errors=True),
    "spectrum": lambda: plots.spectrum(collected().spectrum_truth.sel(time=[1, 10, 50])),
    "model_spectra": lambda: plots.model_spectra(collected(), 50),
    "flow_statistics": lambda: plots.flow_statistics(flow()),
    "solver_convergence": lambda: plots.solver_convergence(SCHEMES),
    "training_curves": lambda: plots.training_curves(logs()),
    "error_curves": lambda: plots.error_curves(collected(), ("rmse", "correlation")),
    "errors_by_setting": lambda: plots.error_curves(by_setting(("published", "no weight decay", "recipe"))),
    "losses_by_epoch": lambda: plots.losses_by_epoch(losses()),
    "loss_by_time": lambda: plots.loss_by_time(losses()),
    "blown_up": lambda: plots.error_curves(collected(blown="minconvgru"), ("rmse",)),
    "timing": lambda: plots.timing(timings()),
    "scaling": lambda: plots.scaling([by_size("trajectories", 10, 1000), by_size("steps", 1000, 4000)]),
    "rmse_dots": lambda: plots.rmse_dots(metrics.summary(by_setting(blown="minconvgru"))),
    "ablations": lambda: plots.rmse_dots(ablated(), base="less"),
    "directions": lambda: plots.directions(
        by_seed("loss", "epoch", range(1, 21)), by_seed("value", "rank", [0, 0.5, 1])
    ),
    "reach": lambda: plots.reach(responses(), ablated().closed_loop),
    "scores": lambda: plots.score_curves(scores(), title=TITLE),
    "scores_by_lead": lambda: plots.score_curves(by_lead(), ("mse", "ssim")),
    "timing_of_three": lambda: plots.timing(timings().drop_vars("over_convolutions")),
    "digits": lambda: plots.frames_strip(strip(), label="intensity", greys=(0, 1)),
    "skill": lambda: plots.skill(differences(), "ridge regression", title=TITLE),
    "zonal": lambda: plots.zonal_ratio(paddings(), "sphere", "cylinder", title=TITLE),
    "climate": lambda: plots.climate(seasons(), title=TITLE),
    "forecast": lambda: maps.forecast_maps(globe(ROWS[:2]), title=TITLE),
    "errors": lambda: maps.forecast_maps(globe(ROWS[:2]), errors=True, projection="robinson", title=TITLE),
    "regional": lambda: maps.forecast_maps(region(), errors=True, projection="regional", title=TITLE),
    "fields": lambda: maps.field_maps(climates(), title=TITLE),
    "depth_maps": lambda: plots.depth_maps(bottoms(), limit=2),
    "place_maps": lambda: plots.place_maps(bottoms(("B, error", "B, deviation"), "panel")),
    "activation_curves": lambda: plots.activation_curves(
        {"SGD": activated(rate=[0.01, 0.1]), "Adam": activated(rate=[0.001, 0.01, 0.1])}, log=True
    ),
    "activation_courses": lambda: plots.activation_curves({"": activated(seed=[1, 2], epoch=[0, 1, 2])}),
    "activation_dots": lambda: plots.activation_dots({name: activated(seed=[1, 2, 4]) for name in ("SGD", "Adam")}),
    "inversion_errors": lambda: plots.inversion_errors(
        {"noise (share)": found("noise", [0, 0.01, 0.1]), "waves": found("waves", [1, 4])}
    ),
}


@cache
def figure(name: str) -> Figure:
    """The figure, made once; what makes it leaves no other one open."""
    plt.close("all")
    fig = FIGURES[name]()
    assert plt.get_fignums() == [fig.number]
    plt.close(fig)
    return fig


def bars(fig: Figure) -> list:
    return [ax._colorbar for ax in fig.axes if ax.get_label() == "<colorbar>"]


def legend(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


def line(ax, label: str):
    (found,) = (found for found in ax.lines if found.get_label() == label)
    return found


def band(ax, number: int) -> np.ndarray:
    """Lowest and highest value of one of the bands of an axis."""
    bands = [patch for patch in ax.collections if isinstance(patch, FillBetweenPolyCollection)]
    corners = bands[number].get_paths()[0].vertices[:, 1]
    return np.array([corners.min(), corners.max()])


def title(fig: Figure) -> str:
    return fig.get_suptitle() or fig.legends[0].get_title().get_text()
