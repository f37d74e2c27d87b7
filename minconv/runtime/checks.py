"""What bad input is told: the argument's name, the value that came and what is allowed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``allowed``; raises ValueError (TypeError if it is no string)."""
    allowed = list(allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, one of {', '.join(allowed)}; got {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    return value


def whole(name: str, value: Any, least: int = 0) -> int:
    """Returns ``value`` as int if it is a whole number of at least ``least``; raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number; got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return int(value)


def positive(name: str, value: Any, zero: bool = False) -> float:
    """Returns ``value`` as float if finite and positive (or zero, where ``zero``); raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {value!r} ({type(value).__name__})")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {'at least 0' if zero else 'above 0'} and finite; got {value}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """Returns ``value`` as float if it is above 0 and below 1; raises TypeError or ValueError."""
    if positive(name, value) >= 1:
        raise ValueError(f"{name} must be below 1; got {value}")
    return float(value)


def familiar(low: float, high: float, frames: Mapping[str, Any] | None) -> None:
    """Raises ValueError where frames from ``low`` to ``high`` reach beyond those of a model's training by more than the
    width of their range, as those in other units do; ``frames`` is what the model says of its own, if it does."""
    if not frames:
        return
    least, greatest = frames["range"]
    if low < 2 * least - greatest or high > 2 * greatest - least:
        raise ValueError(
            f"frames must be {frames['quantity']} in {frames['units']}, in training {least:.4g} to {greatest:.4g}; got "
            f"{low:.4g} to {high:.4g}, which is too far from that"
        )


def needs(name: str, data: Any, variables: Sequence[str], dims: Sequence[str]) -> None:
    """Raises unless ``data`` is a Dataset that holds ``variables``, each over ``dims`` and whatever else; where no
    variables are named, unless it is a DataArray over ``dims`` and no others, not empty.

    Raises:
        TypeError: something else than a Dataset or DataArray.
        ValueError: other variables, or other dimensions.
    """
    import xarray as xr  # not before it is there anyhow: it is slow to import

    kind = xr.Dataset if variables else xr.DataArray
    if not isinstance(data, kind):
        raise TypeError(f"{name} must be an xarray.{kind.__name__}; got {type(data).__name__}")
    over = f"over ({', '.join(dims)})"
    if not variables and ({*dims} != {*data.dims} or not data.size):
        raise ValueError(f"{name} must be {over}, not empty; got {data.dims} of {data.shape}")
    if not all(variable in data and {*dims} <= {*data[variable].dims} for variable in variables):
        found = ", ".join(f"{key} {values.dims}" for key, values in data.variables.items())
        raise ValueError(f"{name} must hold {', '.join(variables)} {over}; got {found or 'nothing'}")
