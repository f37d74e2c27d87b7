"""Minimal convolutional RNNs: cells whose gates see only the input, so that a whole sequence trains in one scan."""

from minconv.core.cells import ConvGRU, ConvLSTM, MinConvExpLSTM, MinConvGRU, MinConvLSTM
from minconv.core.scan import gated_scan, linear_scan
from minconv.models.forecaster import Forecaster, from_reference

__version__ = "0.1.0"
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
]
