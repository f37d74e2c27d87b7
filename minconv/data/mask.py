"""Fields that are over sea or land only: where a series has values at all, and what stands in for the rest."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from minconv.data.grid import Field


@dataclass(frozen=True)
class Mask:
    """Cells that have values at every time, and those that have one at none.

    Args:
        there: over (lat, lon), or a Dataset of such, True where there are values.
        means: of those values, one number or a Dataset of numbers, for the cells without.
    """

    there: xr.DataArray | xr.Dataset
    means: xr.DataArray | xr.Dataset

    @classmethod
    def of(cls, series: Field) -> "Mask | None":
        """The mask of a series in memory; None where every cell has values.

        Raises:
            ValueError: a cell has values at some times and not at others.
        """
        if isinstance(series, xr.Dataset):
            found = {name: cls._one(one) for name, one in series.data_vars.items()}
            if all(bool(there.all()) for there in found.values()):
                return None
            return cls(xr.Dataset(found), series.mean())
        there = cls._one(series)
        return None if bool(there.all()) else cls(there, series.mean())

    @staticmethod
    def _one(series: xr.DataArray) -> xr.DataArray:
        given = series.notnull()
        there = given.any("time")
        if odd := int((there & ~given.all("time")).sum()):
            first, last = (str(series.time.values[end])[:10] for end in (0, -1))
            raise ValueError(
                f"{series.name or 'series'} must have values at all times or at none in each cell; "
                f"{odd} cells have them at some times from {first} to {last}"
            )
        if not there.any():
            raise ValueError(f"{series.name or 'series'} must have values somewhere; all are missing")
        return there

    def fill(self, series: Field) -> Field:
        """``series`` with ``means`` in the cells that have no values; others must have all theirs.

        Raises:
            ValueError: values are missing, or there, where in the mask they are not.
        """
        given = Mask.of(series)
        there = xr.ones_like(self.there) if given is None else given.there
        if not there.equals(self.there):
            raise ValueError("series must have values in the same cells at all times; it has them in other cells here")
        return series.fillna(self.means).astype(np.float32)

    def hide(self, field: Field) -> Field:
        """A forecast or its truth without what stands in for values."""
        return field.where(self.there)
