"""Numbers from equations, files and archives, each loaded when it is first asked for.

open_series      anybody's NetCDF or Zarr, in one convention
StoredPieces     what of it is larger than memory, to train on
navier_stokes    trajectories of the two-dimensional Navier-Stokes equation
shallow_water    waves over a bottom, to find it by
barotropic       a stand-in for the geopotential of ERA5
moving_mnist     handwritten digits that bounce in a square
"""

from importlib import import_module
from typing import Any

PLACES = {"StoredPieces": "stored", "open_series": "series"}
__all__ = ["StoredPieces", "barotropic", "moving_mnist", "navier_stokes", "open_series", "shallow_water"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{PLACES.get(name, name)}")
    return getattr(module, name) if name in PLACES else module
