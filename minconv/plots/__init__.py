# ruff: noqa: F401
"""From numbers to figures: every figure of the notebooks, and :func:`save`.

The maps are in :mod:`minconv.plots.maps`, to be imported by itself, as cartopy is slow to import; what moves is in
:mod:`minconv.plots.gif` and :mod:`minconv.plots.films`.
Arguments of another shape than described raise ValueError, those of another type TypeError.
"""

from minconv.plots.activations import activation_curves, activation_dots
from minconv.plots.bottoms import depth_maps, inversion_errors, place_maps
from minconv.plots.save import save
from minconv.plots.scan import scan_accuracy, scan_schematic, scan_speed
from minconv.plots.scores import climate, score_curves, skill, training_curves, zonal_ratio
from minconv.plots.settings import (
    directions,
    error_curves,
    loss_by_time,
    losses_by_epoch,
    reach,
    rmse_dots,
    scaling,
)
from minconv.plots.style import BACKENDS, SETTINGS, STYLE
from minconv.plots.timing import timing
from minconv.plots.trajectories import (
    flow_statistics,
    frames_strip,
    model_spectra,
    solver_convergence,
    spectrum,
)
