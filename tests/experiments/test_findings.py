"""The paper's claims beside numbers: who is compared, how an interval becomes a verdict, the tables."""

import numpy as np
import pytest
import xarray as xr

from minconv.core.cells import CELLS
from minconv.experiments import claims
from minconv.experiments.claims import Finding
from minconv.models import build_model, count_parameters

ABOUT = ("lower error", "flow", "recipe", ("MinConvLSTM", "ConvLSTM"))


def errors(**ratios):
    """Errors of all cells, 100 trajectories of three seeds; those named are so many times as large."""
    noise = np.random.default_rng(0).uniform(0.9, 1.1, (3, 100))
    factors = np.array([ratios.get(name, 1.5) for name in CELLS])[:, None, None]
    values = factors * noise
    coordinates = {"model": list(CELLS), "seed": [0, 1, 2]}
    return xr.Dataset({"closed_loop": (("model", "seed", "sample"), values)}, coordinates)


@pytest.mark.parametrize(
    ("unit", "bounds", "verdict"),
    [
        ("%", (-9, -12, -3), "holds"),
        ("%", (9, 3, 12), "does not hold"),
        ("%", (2, -1, 5), "undecided"),
        ("×", (1.2, 1.1, 1.3), "holds"),
        ("×", (0.9, 0.8, 0.95), "does not hold"),
        ("×", (1.2, 0.9, 1.3), "undecided"),
        ("×", (2.6, 2.6, 2.6), "holds"),
    ],
)
def test_a_verdict_is_that_of_the_whole_interval(unit, bounds, verdict):
    assert Finding(*ABOUT, unit, *bounds, "05_rollouts").verdict == verdict


def test_a_number_outside_its_interval_is_refused():
    with pytest.raises(ValueError, match="value must lie in its interval; got 5, 1 to 2"):
        Finding(*ABOUT, "%", 5, 1, 2, "05_rollouts")
    with pytest.raises(ValueError, match="unit must be one of %, ×"):
        Finding(*ABOUT, "K", 1, 1, 2, "05_rollouts")


def test_errors_are_compared_by_pair_and_by_the_best_of_each_kind():
    told = errors(convlstm=1.2, convgru=1.0, minconvlstm=1.3, minconvgru=1.1)
    pair, best = claims.error_findings("lower error", "flow", "recipe", told, "closed_loop", "05_rollouts", 1)
    assert pair.cells == ("MinConvLSTM", "ConvLSTM") and best.cells == ("MinConvGRU", "ConvGRU")
    assert (pair.best, best.best) == (False, True) and pair.seeds == best.seeds == 3
    assert pair.value == pytest.approx(100 * (1.3 / 1.2 - 1)) and best.value == pytest.approx(10)
    assert pair.verdict == best.verdict == "does not hold"
    _, many = claims.error_findings("lower error", "flow", "recipe", told, "closed_loop", "05_rollouts", 40)
    assert many.high - many.low > best.high - best.low, "the more comparisons, the wider each interval"


def test_weather_is_compared_by_months():
    starts = np.datetime64("2017-01-01", "ns") + np.arange(0, 364, 7).astype("timedelta64[D]")
    leads = np.array([24, 120]).astype("timedelta64[h]").astype("timedelta64[ns]")
    square = errors(minconvlstm=1.0).closed_loop.isel(sample=slice(52)).rename(sample="init_time") ** 2
    mse = square.assign_coords(init_time=starts).expand_dims(lead_time=leads)
    scored = xr.Dataset({"mse": mse, "rmse": np.sqrt(mse.mean("init_time")).assign_attrs(units="m² s⁻²")})
    found = list(claims.weather_findings("recipe", scored, (1, 5), "06_geopotential", 4))
    assert [one.case for one in found[::2]] == ["weather (stand-in), 1 day", "weather (stand-in), 5 days"]
    assert all(one.value == pytest.approx(-100 / 3, abs=0.5) and one.verdict == "holds" for one in found)


def test_pairs_of_which_a_cell_was_not_trained_are_left_out():
    told = errors(convlstm=1.2, convgru=1.0, minconvlstm=1.3).sel(model=["convgru", "convlstm", "minconvlstm"])
    pairs = ("minconvgru", "convgru"), ("minconvlstm", "convlstm")
    found = claims.error_findings("lower error", "flow", "recipe", told, "closed_loop", "15_scale", 2, pairs)
    assert [one.cells for one in found] == [("MinConvLSTM", "ConvLSTM"), ("MinConvLSTM", "ConvGRU")]


def step(model, T, horizon, low, median, high):
    speed = {"low": low, "median": median, "high": high}
    about = {"T": T, "horizon": horizon, "batch": 1, "grid": 16, "width": 1.0}
    return about | {"model": model, "training_speedup": speed}


def test_speed_is_beside_the_fastest_and_the_papers_own():
    rows = [step("minconvlstm", 20, 5, 1.1, 1.2, 1.3), step("convlstm_published", 20, 5, 0.3, 0.4, 0.5)]
    rows += [step("minconvlstm", T, 0, 0.9 * x, x, 1.1 * x) for T, x in ((20, 1.2), (512, 2.4))]
    rows += [step("convlstm_published", T, 0, 0.4, 0.4, 0.4) for T in (20, 512)]
    result = {"training": rows, "experiment": {"T": 20, "horizon": 5, "batch": 1, "grid": 16, "width": 1.0}}
    own, own_growth, fastest, growth = claims.speed_findings(result, "04_timing")
    assert (own.setting, fastest.setting) == (claims.OWN, claims.FASTEST)
    assert (own.value, own.low, own.high) == pytest.approx((3, 2.2, 1.3 / 0.3))
    assert (fastest.value, fastest.low, fastest.high) == pytest.approx((1.2, 1.1, 1.3))
    assert own_growth.value == growth.value == pytest.approx(2) and growth.low == pytest.approx(2 * 0.9 / 1.1)
    alone = {**result, "training": [row for row in rows if row["model"] != "convlstm_published"]}
    assert [one.setting for one in claims.speed_findings(alone, "04_timing")] == [claims.FASTEST] * 2


def test_size_is_that_of_as_many_channels():
    one = claims.size_finding(8, "03_training")
    small, large = (count_parameters(build_model(name, 0, hidden=8)) for name in ("minconvlstm", "convlstm"))
    assert one.value == one.low == one.high == large / small > 1 and f"{small:,} of {large:,}" in one.case


def test_tables_have_all_findings_and_those_of_the_best():
    told = errors(convlstm=1.2, convgru=1.0, minconvlstm=1.3, minconvgru=1.1)
    found = [
        one
        for setting in ("published", "no weight decay", "recipe")
        for one in claims.error_findings("lower error", "flow", setting, told, "closed_loop", "05_rollouts", 6)
    ]
    whole = claims.table(found).splitlines()
    assert len(whole) == 2 + 6 and whole[2].count("|") == 8
    header, _, row, _, notes = claims.short_table(found, "notebooks/", ["a GPU"]).splitlines()
    assert header == "| Claim | On | as in the paper | both at their best |"
    assert row.count("[does not hold](notebooks/05_rollouts.ipynb): +10") == 2 and notes.endswith("not tested: a GPU.")
