"""Which numbers of a file are values: what it declares invalid, or never wrote, beyond what xarray decodes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

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
