"""One variable of a file, as CF describes it: which dimension is which, the level asked for, the grid in order."""

from typing import Any

import numpy as np
import xarray as xr

from minconv.data.grid import DIMS, block_rows, eastward, northward

# How CF says what a coordinate is, the surest first; the last two count only where the units do not object.
STANDARD_NAMES = {"latitude": "lat", "longitude": "lon", "time": "time", "air_pressure": "level"}
HECTOPASCALS = {
    **dict.fromkeys(("hpa", "hectopascal", "hectopascals", "millibar", "millibars", "mbar", "mb"), 1.0),
    **dict.fromkeys(("pa", "pascal", "pascals"), 0.01),
}
UNITS = {
    **dict.fromkeys(("degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn", "degreen"), "lat"),
    **dict.fromkeys(("degrees_east", "degree_east", "degrees_e", "degree_e", "degreese", "degreee"), "lon"),
    **dict.fromkeys(HECTOPASCALS, "level"),
}
AXES = {"Y": "lat", "X": "lon", "T": "time", "Z": "level"}
NAMES = {
    **dict.fromkeys(("lat", "latitude", "y"), "lat"),
    **dict.fromkeys(("lon", "longitude", "x"), "lon"),
    **dict.fromkeys(("time", "valid_time", "t"), "time"),
    **dict.fromkeys(("level", "lev", "plev", "pressure_level", "pressure", "isobaricinhpa"), "level"),
}


def _units(coordinate: xr.DataArray) -> str:
    return str(coordinate.attrs.get("units", "")).strip().lower()


def _role(coordinate: xr.DataArray) -> str | None:
    """``time``, ``lat``, ``lon``, ``level``, or None for any other coordinate."""
    attributes = coordinate.attrs
    if "standard_name" in attributes:
        return STANDARD_NAMES.get(attributes["standard_name"])
    units = _units(coordinate)
    if units in UNITS:
        return UNITS[units]
    if units not in {"", "degree", "degrees"}:  # such as metres, of a map projection
        return None
    return AXES.get(attributes.get("axis")) or NAMES.get(str(coordinate.name).lower())


def field_of(dataset: xr.Dataset, item: Any, variable: str, level: float | None) -> xr.DataArray:
    """``variable`` of the file ``item`` as (time, lat, lon) on a grid in the convention, in dask blocks along time.

    Raises TypeError or ValueError naming what there is where that is not to be had.
    """
    if variable not in dataset.data_vars:
        raise ValueError(
            f"variable must be one of {', '.join(map(str, dataset.data_vars)) or 'none'}, which {item} has; "
            f"got {variable!r}"
        )
    field = dataset[variable]
    stored = field.encoding.get("preferred_chunks", {})
    what = f"{variable} of {item}"
    if field.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be numbers; got {field.dtype}")
    roles: dict[str, str] = {}
    for dim in field.dims:
        role = _role(field[dim]) if dim in field.coords else None
        if role in roles:
            raise ValueError(f"{what} has two dimensions for {role}: {roles[role]} and {dim}")
        if role:
            roles[role] = dim
    if missing := [role for role in DIMS if role not in roles]:
        raise ValueError(
            f"{what} must have dimensions of time, latitude and longitude, each with coordinate values; "
            f"found none for {', '.join(missing)} among {', '.join(map(str, field.dims)) or 'no dimensions'}"
        )
    field, level_attribute = _at_level(field, roles.get("level"), level, what)
    others = [dim for dim in field.dims if dim not in roles.values()]
    if large := [f"{dim} ({field.sizes[dim]})" for dim in others if field.sizes[dim] > 1]:
        raise ValueError(f"{what} has further dimensions, of which one member must be chosen: {', '.join(large)}")
    field = field.isel(dict.fromkeys(others, 0)).reset_coords(drop=True)
    if not field.size:
        raise ValueError(f"{what} is empty: {dict(field.sizes)}")
    field = field.rename({roles[role]: role for role in DIMS if roles[role] != role}).transpose(*DIMS)
    if field["time"].dtype.kind not in "MO":
        raise ValueError(f"the times of {what} have no units such as 'hours since 1979-01-01'")
    together = stored.get(roles["time"], 1)
    field = field.chunk(time=together * max(1, block_rows(field) // together)).astype(np.float32)
    return eastward(northward(field, what), what).assign_attrs(level_attribute)


def _at_level(
    field: xr.DataArray, dim: str | None, level: float | None, what: str
) -> tuple[xr.DataArray, dict[str, str]]:
    """The field at ``level``, and the attribute that says which level it is where that is known."""
    name = dim or next((name for name, one in field.coords.items() if not one.ndim and _role(one) == "level"), None)
    if name is None:
        if level is not None:
            raise ValueError(f"level must be left out, as {what} has no pressure levels; got {level:g}")
        return field, {}
    if level is None and field[name].size == 1 and _units(field[name]) not in HECTOPASCALS:
        return field.isel({dim: 0} if dim else {}), {}  # nothing to choose, and perhaps no pressure
    there = np.atleast_1d(_hectopascals(field[name], what))
    index = 0 if level is None else int(abs(there - level).argmin())
    if len(there) > 1 if level is None else not np.isclose(there[index], level, rtol=1e-5):
        raise ValueError(
            f"level must be one of {', '.join(f'{value:g}' for value in there)} hPa, which {what} has; "
            f"got {'none' if level is None else f'{level:g}'}"
        )
    return field.isel({dim: index} if dim else {}), {"level": f"{there[index]:g} hPa"}


def _hectopascals(coordinate: xr.DataArray, what: str) -> np.ndarray:
    """The pressures of a level coordinate; without units they are taken for hPa or Pa where only one can be meant."""
    values = coordinate.values.astype(np.float64)
    units = _units(coordinate)
    if units in HECTOPASCALS:
        return values * HECTOPASCALS[units]
    numbered = values.size > 1 and np.array_equal(
        values, np.arange(len(values)) + values[0]
    )  # 1, 2, 3 are no pressures
    if units or numbered or 1100 < values.max() < 5000:
        raise ValueError(
            f"the levels {coordinate.name} of {what} must have units of pressure, hPa or Pa; got {units or 'none'}"
        )
    return values if values.max() <= 1100 else values / 100
