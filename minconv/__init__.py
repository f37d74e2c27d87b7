"""Minimal convolutional RNNs: cells whose gates see only the input, so that a whole sequence trains in one scan."""

from importlib.metadata import PackageNotFoundError, version

from minconv.core.cells import ConvGRU, ConvLSTM, MinConvExpLSTM, MinConvGRU, MinConvLSTM
from minconv.core.scan import gated_scan, linear_scan
from minconv.models.forecaster import Forecaster
from minconv.models.published import from_reference
from minconv.models.trained import load

try:
    __version__ = version("minconv")
except PackageNotFoundError:  # imported from a folder that is not installed
    __version__ = "unknown"

__all__ = [
    "ConvGRU",
    "ConvLSTM",
    "Forecaster",
    "MinConvExpLSTM",
    "MinConvGRU",
    "MinConvLSTM",
    "from_reference",
    "gated_scan",
    "linear_scan",
    "load",
]
