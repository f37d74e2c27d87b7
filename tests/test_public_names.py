"""``import minconv`` is light, and the names that a README or a user's script needs are there, each explained."""

from importlib import import_module
from importlib.metadata import version

from helpers import printed

import minconv

HEAVY = {
    "cartopy",
    "lightning_fabric",
    "llvmlite",
    "matplotlib",
    "numba",
    "pandas",
    "papermill",
    "scipy",
    "torch._dynamo",
    "triton",
    "xarray",
}
NAMES = {
    "minconv": """ConvGRU ConvLSTM Forecaster MinConvExpLSTM MinConvGRU MinConvLSTM from_reference gated_scan
        linear_scan load""",
    "minconv.data": "StoredPieces barotropic moving_mnist navier_stokes open_series shallow_water",
    "minconv.training": "Run Training fit fit_all load_weights read_log restore",
    "minconv.evaluation": "Climatology DampedPersistence evaluate forecast persistence rollout scores",
    "minconv.experiments": "Experiment Setting get_profile series_experiment",
}


def test_import_loads_nothing_heavy():
    code = f"import sys, minconv; print(*({HEAVY!r} & sys.modules.keys()))"
    assert printed(code).split() == []


def test_public_names():
    for package, listed in NAMES.items():
        names = set(listed.split())
        assert set(import_module(package).__all__) == names, package
        for name in names:
            assert getattr(import_module(package), name).__doc__, f"{package}.{name}"


def test_version_is_the_installed_one():
    assert minconv.__version__ == version("minconv")
