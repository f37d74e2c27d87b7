# ruff: noqa: F401
"""From numbers to figures: every figure of the notebooks, and :func:`save`.

The maps are in :mod:`minconv.plots.maps`, to be imported by itself, as cartopy is slow to import.
Arguments of another shape than described raise ValueError, those of another type TypeError.
"""

from minconv.plots.activations import activation_curves, activation_dots
from minconv.plots.bottoms import depth_maps, inversion_errors, place_maps
from minconv.plots.save import save
from minconv.plots.scan import scan_accuracy, scan_schematic, scan_speed
from minconv.plots.scores import (
    ablations,
    climate,
    directions,
    error_curves,
    reach,
    rmse_summary,
    score_curves,
    skill,
    training_curves,
    zonal_ratio,
)
from minconv.plots.style import BACKENDS, SETTINGS, STYLE
from minconv.plots.timing import solver_convergence, timing
from minconv.plots.trajectories import animation, flow_statistics, frames_strip, model_spectra, spectrum
