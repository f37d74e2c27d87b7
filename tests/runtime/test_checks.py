"""What bad input is told."""

import pytest
import xarray as xr

from minconv.runtime.checks import needs

FIELD = xr.DataArray([[1.0, 2.0]], dims=("time", "x"))
DATA = xr.Dataset({"rmse": FIELD, "bias": FIELD.isel(x=0)})


def test_needs_accepts_what_is_there():
    needs("data", DATA, ("rmse",), ("time", "x"))
    needs("data", DATA, ("rmse", "bias"), ("time",))
    needs("field", FIELD, (), ("x", "time"))


@pytest.mark.parametrize(
    "data, variables, dims, error, message",
    [
        (FIELD, ("rmse",), ("time",), TypeError, r"scores must be an xarray\.Dataset; got DataArray"),
        (DATA, (), ("time",), TypeError, r"scores must be an xarray\.DataArray; got Dataset"),
        (DATA, ("rmse", "acc"), ("time",), ValueError, r"scores must hold rmse, acc over \(time\); got rmse \('time'"),
        (DATA, ("rmse", "bias"), ("time", "x"), ValueError, r"scores must hold rmse, bias over \(time, x\)"),
        (xr.Dataset(), ("rmse",), ("time",), ValueError, "got nothing"),
        (FIELD, (), ("time",), ValueError, r"scores must be over \(time\), not empty; got \('time', 'x'\) of \(1, 2\)"),
        (FIELD[:0], (), ("time", "x"), ValueError, "not empty"),
    ],
)
def test_needs_refuses(data, variables, dims, error, message):
    with pytest.raises(error, match=message):
        needs("scores", data, variables, dims)
