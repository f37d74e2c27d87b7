"""Figures and their numbers as files."""

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import display
from matplotlib.figure import Figure

from minconv.runtime.files import atomic, claim_room, write_json
from minconv.runtime.provenance import provenance

JSON_VALUES = 20_000  # larger data sets are saved as NetCDF


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
    than 20,000 values, or dates or durations, name.nc (float32). The same figure gives the same bytes. A notebook shows
    the figure where this is called, and below it its caption with a number.

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
    _show(fig, name, caption)
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or name)
    json, netcdf = folder / f"{name}.json", folder / f"{name}.nc"
    origin = {"caption": caption, "provenance": provenance(device)}
    if isinstance(data, xr.Dataset) and _is_large_or_dated(data):
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


def _show(fig: Figure, name: str, caption: str) -> None:
    """Shows a figure with its caption; without one, or outside a notebook, it is left to matplotlib."""
    if caption and plt.get_backend().endswith("inline"):
        number = _numbers.setdefault(name, len(_numbers) + 1)  # a cell that runs again keeps it
        display(fig)
        # as HTML alone, which a replay of the notebook does not compare: a caption names the data, which may be others
        display({"text/html": f"<p><em>Figure {number}. {html.escape(caption)}</em></p>"}, raw=True)
        plt.close(fig)  # or it would show again at the end of its cell


_numbers: dict[str, int] = {}  # of figures with captions, in the order in which this process first saved them


def _is_large_or_dated(data: xr.Dataset) -> bool:
    found = data.variables.values()
    return sum(values.size for values in found) > JSON_VALUES or any(values.dtype.kind in "mM" for values in found)


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
