"""Files with a seal: written whole or not at all, kept where they are what is wanted, refused where they are not."""

import hashlib

import numpy as np
import pytest
import torch
import xarray as xr
from grids import alter, write

from minconv.data import barotropic, navier_stokes, store
from minconv.data.series import read_series

PARAMETERS = {"seed": 3, "step": 0.5, "kind": "test"}
VALUES = xr.Dataset(
    {"a": (("time", "x"), np.arange(6, dtype=np.float32).reshape(2, 3), {"units": "m"})},
    {"time": np.array(["2000-01-01", "2000-01-02"], "M8[ns]"), "x": [0.5, 1.5, 2.5]},
)


@pytest.fixture
def path(tmp_path):
    found = store.write(tmp_path / "a.nc", VALUES, PARAMETERS)
    content = found.read_bytes()
    assert content.endswith(hashlib.sha256(content[: -store.SIZE]).hexdigest().encode())
    assert list(tmp_path.iterdir()) == [found]
    return found


def test_what_is_written_is_read(path):
    found = store.load(path, "a", ("x", "time"), "nobody")
    assert found.dims == ("x", "time")
    assert found.transpose("time", "x").drop_attrs().identical(VALUES.a.drop_attrs())
    assert PARAMETERS.items() <= found.attrs.items() and found.units == "m" and found.Conventions.startswith("CF-")
    assert found.attrs["provenance_torch"] == torch.__version__ and "provenance_git_revision" in found.attrs
    with xr.open_dataset(path, engine="h5netcdf") as plain:  # by anybody else, too
        assert plain.drop_attrs().identical(VALUES.drop_attrs())
        assert not any("_FillValue" in plain[name].encoding for name in plain.variables)


def test_a_file_is_made_once_and_kept(tmp_path):
    path = tmp_path / "a.nc"
    assert store.cached(path, PARAMETERS, lambda: store.write(path, VALUES, PARAMETERS)) == path
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert store.cached(str(path), PARAMETERS, lambda: pytest.fail("made again")) == path
    wanted = PARAMETERS | {"seed": 4, "more": 1}
    with pytest.raises(ValueError, match=r"a\.nc has other parameters \(seed is 3, not 4; more is None, not 1\)"):
        store.cached(path, wanted, lambda: pytest.fail("made again"))
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "its seal cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "without its seal": lambda path: path.write_bytes(path.read_bytes()[: -store.SIZE]),
    "altered": alter,
    "written again": lambda path: write(path, xr.load_dataset(path, engine="h5netcdf")),
    "no NetCDF": lambda path: path.write_text("not NetCDF"),
    "another's": lambda path: write(path, VALUES),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_whole_file_is_named_and_left_alone(path, damage):
    DAMAGE[damage](path)
    before = path.read_bytes()
    for use in (
        lambda: store.load(path, "a", ("time", "x"), "nobody"),
        lambda: store.cached(path, PARAMETERS, lambda: pytest.fail("made again")),
        lambda: read_series(path),
        lambda: navier_stokes.frames(path),
        lambda: barotropic.load(path),
    ):
        with pytest.raises(ValueError, match=r"a\.nc is not a whole file of minconv's: .*(seal|sealed)"):
            use()
    assert path.read_bytes() == before


def test_what_is_another_file_or_none(path):
    for use in (read_series, navier_stokes.load, barotropic.load):
        with pytest.raises(ValueError, match=r"a\.nc is not a whole file of minconv's"):
            use(path)
    for use, maker in (
        (navier_stokes.frames, "; .*navier_stokes.generate"),
        (barotropic.load, "; .*barotropic.generate"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"there is no file .*none\.nc{maker} makes it"):
            use(path.with_name("none.nc"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.nc$"):
        read_series(path.with_name("none.nc"))
