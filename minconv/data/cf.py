"""One variable of a file, as CF describes it: which dimension is which, the members asked for, the grid in order, and
which numbers are values.
"""

from collections.abc import Hashable, Mapping
from numbers import Real
from typing import Any

import cftime
import numpy as np
import xarray as xr

from minconv.data.grid import DIMS, block_rows, eastward, northward

# How CF says what a coordinate is, the surest first; the last two count only where the units do not object.
STANDARD_NAMES = {"latitude": "lat", "longitude": "lon", "time": "time", "air_pressure": "level"}
HECTOPASCALS = {
    **dict.fromkeys(("hpa", "hectopascal", "hectopascals", "millibar", "millibars", "mbar", "mb"), 1.0),
    **dict.fromkeys(("pa", "pascal", "pascals"), 0.01),
}
DEGREES = ("degrees", "degree", "deg", "°")
UNITS = {
    **{f"{degrees}{end}": "lat" for degrees in DEGREES for end in ("_north", "_n", "n")},
    **{f"{degrees}{end}": "lon" for degrees in DEGREES for end in ("_east", "_e", "e")},
    **dict.fromkeys(HECTOPASCALS, "level"),
}
AXES = {"y": "lat", "x": "lon", "t": "time", "z": "level"}
NAMES = {
    **dict.fromkeys(("lat", "latitude", "y"), "lat"),
    **dict.fromkeys(("lon", "longitude", "x"), "lon"),
    **dict.fromkeys(("time", "valid_time", "t"), "time"),
    **dict.fromkeys(("level", "lev", "plev", "pressure_level", "pressure", "isobaricinhpa"), "level"),
}
TEXTS = ("units", "standard_name", "long_name", "axis", "source", "grid_mapping")  # the attributes that are read
# what netCDF's library leaves where nothing was written; bytes have no such number
NEVER_WRITTEN = {
    **{f"i{size}": 1 - 2 ** (8 * size - 1) for size in (2, 4)},
    **{f"u{size}": 2 ** (8 * size) - 1 for size in (2, 4)},
    "i8": 2 - 2**63,
    "u8": 2**64 - 2,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}
# the attributes of a range, and how their numbers are a lower and an upper end
RANGES = {
    "valid_range": lambda both: both,
    "valid_min": lambda lower: [*lower, np.inf],
    "valid_max": lambda upper: [-np.inf, *upper],
}


def _word(one: xr.DataArray, attribute: str) -> str:
    return str(one.attrs.get(attribute, "")).strip().lower().replace(" ", "_")


def _role(coordinate: xr.DataArray) -> str | None:
    """``time``, ``lat``, ``lon``, ``level``, or None for any other coordinate."""
    units = _word(coordinate, "units")
    plain = units in {"", *DEGREES}
    if "standard_name" in coordinate.attrs:
        role = STANDARD_NAMES.get(_word(coordinate, "standard_name"))
    elif units in UNITS or not plain:  # such as metres, of a map projection
        return UNITS.get(units)
    else:
        role = AXES.get(_word(coordinate, "axis")) or NAMES.get(str(coordinate.name).lower())
    return None if role in ("lat", "lon") and not plain and UNITS.get(units) != role else role


def field_of(
    dataset: xr.Dataset, item: Any, variable: str, level: float | None, select: Mapping[str, Any] | None = None
) -> xr.DataArray:
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
    roles = _roles(field, item)
    _check_grid(dataset, field, roles, what)
    select = dict(select or {})
    others = [dim for dim in field.dims if dim not in roles.values()]
    if "level" in others and level is not None:  # a level that is no pressure
        level, select = None, {"level": level, **select}
    field, level_attribute = _at_level(field, roles.get("level"), level, what)
    field = _member(field, others, select, what).reset_coords(drop=True)
    if not field.size:
        raise ValueError(f"{what} is empty: {dict(field.sizes)}")
    field = field.rename({roles[role]: role for role in DIMS if roles[role] != role}).transpose(*DIMS)
    times = field["time"].values
    if times.dtype.kind != "M" and not all(isinstance(time, cftime.datetime) for time in times):
        raise ValueError(f"the times of {what} have no units such as 'hours since 1979-01-01'")
    together = stored.get(roles["time"], 1)
    field = field.chunk(time=together * max(1, block_rows(field) // together))
    field = valid(field, what).astype(np.float32)
    return eastward(northward(field, what), what).assign_attrs(level_attribute)


def _roles(field: xr.DataArray, item: Any) -> dict[str, Hashable]:
    """The dimension of each role; raises TypeError or ValueError where those of DIMS are not all there."""
    what = f"{field.name} of {item}"
    coordinates = [field[dim] for dim in field.dims if dim in field.coords]
    for one in (field, *coordinates):
        for name in TEXTS:
            if not isinstance(one.attrs.get(name, ""), str | Real):
                raise TypeError(
                    f"the attribute {name} of {one.name} of {item} must be text or a number; got {one.attrs[name]!r}"
                )
    roles: dict[str, Hashable] = {}
    for one in coordinates:
        role = _role(one)
        if role in roles:
            raise ValueError(f"{what} has two dimensions for {role}: {roles[role]} and {one.name}")
        if role in ("lat", "lon") and one.dtype.kind not in "iuf":
            raise TypeError(f"{one.name} of {what} must be numbers; got {one.dtype}")
        if role:
            roles[role] = one.name
    if missing := [role for role in DIMS if role not in roles]:
        units = [f"{one.name} in {one.attrs['units']}" for one in coordinates if _word(one, "units")]
        raise ValueError(
            f"{what} must have dimensions of time, latitude and longitude, each with coordinate values; "
            f"found none for {', '.join(missing)} among {', '.join(map(str, field.dims)) or 'no dimensions'}"
            + f" ({', '.join(units)})"
            * bool(units)
        )
    return roles


def _check_grid(dataset: xr.Dataset, field: xr.DataArray, roles: Mapping[str, Hashable], what: str) -> None:
    """Raises ValueError where the file says that what looks like latitudes and longitudes is another grid."""
    dims = [roles["lat"], roles["lon"]]
    if all("standard_name" in field[dim].attrs for dim in dims):
        return
    named = _mappings(str(field.attrs.get("grid_mapping", field.encoding.get("grid_mapping", ""))), dims)
    for name in [*named, *(name for name, one in field.coords.items() if not one.ndim)]:
        mapping = dataset[name] if name in dataset.variables else xr.DataArray()
        kind = _word(mapping, "grid_mapping_name")
        if not kind and "PROJC" in f"{mapping.attrs.get('crs_wkt')} {mapping.attrs.get('spatial_ref')}":
            kind = "a projection"
        if kind not in {"", "latitude_longitude"}:
            raise ValueError(f"the grid of {what} is not of latitude and longitude but, as {name} says, {kind}")
    for name in [name for name, one in dataset.variables.items() if {*one.dims} == {*dims} and one.dtype.kind in "iuf"]:
        one = dataset[name]
        role = _role(one)
        if role in ("lat", "lon"):
            off = one - field[roles[role]]
            if float(abs((off + 180) % 360 - 180).max()) > 1e-3:
                raise ValueError(
                    f"the grid of {what} is not of latitude and longitude: {roles[role]} has other numbers than {name}"
                )


def _mappings(named: str, dims: list[Hashable]) -> list[str]:
    """The grid mappings of ``dims`` in an attribute such as ``crs`` or ``crs: y x other: lat lon``."""
    if ":" not in named:
        return named.split()
    found, mapping = [], ""
    for word in named.split():
        if word.endswith(":"):
            mapping = word[:-1]
        elif word in dims:
            found.append(mapping)
    return found


def choices(field: xr.DataArray) -> set[Hashable]:
    """What there may be to choose: the dimensions by name, and ``level`` where there is one."""
    levels = [one for one in field.coords.values() if one.ndim < 2 and _role(one) == "level"]
    return {*field.dims, *["level"] * bool(levels)}


def _at_level(
    field: xr.DataArray, dim: str | None, level: float | None, what: str
) -> tuple[xr.DataArray, dict[str, str]]:
    """The field at ``level``, and the attribute that says which level it is where that is known."""
    name = dim or next((name for name, one in field.coords.items() if not one.ndim and _role(one) == "level"), None)
    if name is None:
        if level is not None:
            raise ValueError(f"level must be left out, as {what} has no pressure levels; got {level:g}")
        return field, {}
    if level is None and field[name].size == 1 and _word(field[name], "units") not in HECTOPASCALS:
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
    if coordinate.dtype.kind not in "iuf":
        raise TypeError(f"the levels {coordinate.name} of {what} must be numbers; got {coordinate.dtype}")
    values = coordinate.values.astype(np.float64)
    units = _word(coordinate, "units")
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


def _member(field: xr.DataArray, others: list[Hashable], select: Mapping[str, Any], what: str) -> xr.DataArray:
    """The field at the labels of ``select`` along its further dimensions; raises ValueError unless one is left."""
    listed = ", ".join(f"{dim} ({_listed(field[dim])})" for dim in others)
    for dim, label in select.items():
        if dim not in others:
            raise ValueError(f"{what} has no further dimension {dim} to choose from; it has {listed or 'none'}")
        places = _places(field[dim], label)
        if len(places) != 1:
            raise ValueError(f"{dim} must be one of {_listed(field[dim])}, which {what} has; got {label!r}")
        field = field.isel({dim: places[0]})
    left = [dim for dim in others if dim in field.dims]
    if large := [dim for dim in left if field.sizes[dim] > 1]:
        example = f"{large[0]}={_listed(field[large[0]][:1])}"
        raise ValueError(
            f"{what} has further dimensions, of which one member must be chosen by keyword, such as {example}: {listed}"
        )
    return field.isel(dict.fromkeys(left, 0))


def _listed(labels: xr.DataArray) -> str:
    """The first labels along a dimension as they are to be written."""
    values = _labels(labels)[:10]
    if values.dtype.kind == "m":
        words = [repr(f"{value / np.timedelta64(1, 'h'):g}h") for value in values]
    elif values.dtype.kind == "f":
        words = [f"{value:g}" for value in values]
    else:
        words = [repr(value) for value in values.astype(str if values.dtype.kind in "MO" else values.dtype).tolist()]
    return ", ".join(words) + f", ... ({labels.size} in all)" * (labels.size > len(words))


def _labels(labels: xr.DataArray) -> np.ndarray:
    """Labels as numbers, texts or dates, and as durations where the file has numbers of hours or the like."""
    name, values = labels.name, labels.values
    if values.dtype.kind in "iuf":
        about = {"units": labels.attrs.get("units", "")}
        return xr.decode_cf(xr.Dataset({}, {name: (name, values, about)}), decode_timedelta=True)[name].values
    return values.astype(str) if values.dtype.kind == "S" else values


def _places(labels: xr.DataArray, label: Any) -> np.ndarray:
    """Where along its dimension a label is: a number, a text, a date or a duration such as ``"24h"``."""
    if isinstance(label, Real) and not isinstance(label, np.timedelta64) and labels.dtype.kind in "iuf":
        return np.flatnonzero(np.isclose(labels.values, label, rtol=1e-6, atol=0))
    values = _labels(labels)
    numbers = xr.DataArray(np.arange(len(values)), {labels.name: values}, (labels.name,))
    try:
        return np.atleast_1d(numbers.sel({labels.name: label}))
    except (KeyError, TypeError, ValueError):
        return np.empty(0, int)


def valid(field: xr.DataArray, what: str) -> xr.DataArray:
    """``field``, decoded by xarray, with NaN where ``valid_range``, ``valid_min`` or ``valid_max`` exclude a value.

    They are in packed units where the values are packed, but for floats that go with whole numbers. Where a netCDF
    file has no ``_FillValue``, netCDF's default is missing, too. Raises TypeError for attributes that are no numbers.
    """
    encoding, attributes = field.encoding, field.attrs
    stored = np.dtype(encoding.get("dtype", field.dtype))
    packed = stored.kind in "iu"
    scale = _numbers(encoding, "scale_factor", what, default=1).item()
    offset = _numbers(encoding, "add_offset", what, default=0).item()
    unsigned = {"true": True, "false": False}.get(str(encoding.get("_Unsigned")), stored.kind == "u")

    def decoded(numbers: np.ndarray) -> np.ndarray:
        """Numbers as they are stored, in the field's units."""
        full = 2.0 ** (8 * stored.itemsize)  # the same bytes, with a sign or without
        if unsigned and stored.kind == "i":
            numbers = np.where(numbers < 0, numbers + full, numbers)
        elif not unsigned and stored.kind == "u":
            numbers = np.where(numbers >= full / 2, numbers - full, numbers)
        return numbers * scale + offset

    def slack(number: float) -> float:
        """What rounding makes of a number at most: less than half a step of whole ones."""
        return abs(scale) / 2 if packed else 1e-6 * abs(number)

    for name, ends_of in RANGES.items():
        if name not in attributes:
            continue
        numbers = _numbers(attributes, name, what, size=2 if name == "valid_range" else 1)
        whole = numbers.dtype.kind in "iu"
        if whole and field.dtype.kind == "f" and "dtype" not in encoding:
            continue  # of a packing that the field has lost
        ends = np.array(ends_of(numbers), np.float64)
        ends = np.where(np.isnan(ends), [-np.inf, np.inf], ends)
        least, most = sorted(decoded(ends) if whole or not packed else ends)
        if np.isfinite(least):
            field = field.where(field >= least - slack(least))
        if np.isfinite(most):
            field = field.where(field <= most + slack(most))
    netcdf = "dtype" in encoding and "chunks" not in encoding  # which Zarr's have
    if netcdf and "_FillValue" not in encoding and stored.str[1:] in NEVER_WRITTEN:
        fill = float(decoded(np.array(NEVER_WRITTEN[stored.str[1:]])))
        field = field.where(abs(field - fill) > slack(fill))
    return field


def _numbers(attributes: Mapping[Any, Any], name: str, what: str, size: int = 1, default: float = 0) -> np.ndarray:
    """The numbers of an attribute; raises TypeError unless it is so many."""
    try:
        numbers = np.asarray(attributes.get(name, default)).ravel()
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    if numbers.dtype.kind not in "iuf" or numbers.size != size:
        raise TypeError(f"the attribute {name} of {what} must be numbers, {size} of them; got {attributes[name]!r}")
    return numbers
