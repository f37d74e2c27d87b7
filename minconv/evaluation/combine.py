"""Several forecasters as one: their mean, or a weighted one whose weights were fitted on a part held out."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from minconv.data.grid import Field, area_weights
from minconv.evaluation.forecast import Forecaster, as_array, forecasts, verification


class Combination:
    """A weighted mean of forecasts, by default with equal weights.

    Args:
        members: forecasters, of frames or all of anomalies from one climatology; if some see known channels, the same.
        weights: [members, leads, C], of each member's forecast at each lead.

    Raises:
        ValueError: no members, members with different climatologies, or weights of another shape.
    """

    def __init__(self, members: Sequence[Forecaster], weights: np.ndarray | None = None):
        self.members = list(members)
        climatologies = {id(found): found for member in members if (found := getattr(member, "climatology", None))}
        if not self.members or len(climatologies) > 1:
            raise ValueError(
                f"members must be one or more with one climatology; got {len(self.members)} with {len(climatologies)}"
            )
        self.climatology = next(iter(climatologies.values()), None)
        self.forcing = next((found for member in members if (found := getattr(member, "forcing", None))), None)
        if weights is not None and (np.ndim(weights) != 3 or len(weights) != len(self.members)):
            raise ValueError(f"weights must be [{len(self.members)}, leads, C]; got {list(np.shape(weights))}")
        self.weights = weights

    def parameters(self) -> list[Tensor]:
        """Those of all members, of which the first says where frames are to be."""
        return [weight for member in self.members for weight in getattr(member, "parameters", list)()]

    def __call__(self, frames: Tensor, horizon: int = 0) -> Tensor:
        """Frames [B, T, C, H, W] -> [B, T + horizon, C, H, W]; outputs before the last frame have the first lead's
        weights. Where a member gives the new frames alone, these alone: [B, horizon + 1, C, H, W].

        Raises ValueError where ``horizon`` + 1 is beyond the leads that have weights.
        """
        seen = frames  # by members that have no known channels
        if self.forcing is not None:
            seen = frames[:, : frames.shape[1] - horizon, : frames.shape[2] - self.forcing.count]
        found = [member(frames if getattr(member, "forcing", None) else seen, horizon) for member in self.members]
        steps = min(one.shape[1] for one in found)
        found = [one[:, -steps:] for one in found]
        if self.weights is None:
            return torch.stack(found).mean(0)
        if horizon >= self.weights.shape[1]:
            raise ValueError(f"horizon must be below the {self.weights.shape[1]} leads with weights; got {horizon}")
        lead = (torch.arange(-steps, 0) + horizon + 1).clamp(min=0)
        weights = torch.as_tensor(self.weights)[:, lead, :, None, None].to(frames)
        return sum(weight * one for weight, one in zip(weights, found, strict=True))


def stacked(
    members: Sequence[Forecaster], series: Field, init_times: xr.DataArray, context: int, steps: int
) -> Combination:
    """Members weighted for the lowest area-weighted mean square error of forecasts of a series not trained on.

    For each lead and variable the weights are at least 0, and free otherwise: their sum is below 1 where all members
    together forecast too much (stacked regressions: Breiman 1996).

    Args:
        members: of anomalies from one climatology.
        series: held out; see :func:`minconv.evaluation.forecast.forecasts` for the rest.

    Raises:
        ValueError: members that are not of anomalies.
    """
    from scipy.optimize import nnls  # here, as few who import minconv want it

    whole = Combination(members)
    if whole.climatology is None:
        raise ValueError("members must forecast anomalies from a climatology; these have none")
    truth = _anomalies(verification(series, init_times, steps), whole.climatology)
    found = [_anomalies(forecasts(member, series, init_times, context, steps), whole.climatology) for member in members]
    area = np.sqrt(area_weights(series.lat.values))[:, None]
    columns = np.stack([one * area for one in found], -1)  # [starts, leads, C, lat, lon, members]
    weights = np.zeros((len(found), *truth.shape[1:3]), np.float32)
    for lead, variable in np.ndindex(*truth.shape[1:3]):
        x = columns[:, lead, variable].reshape(-1, len(found)).astype(np.float64)
        weights[:, lead, variable], _ = nnls(x, (truth[:, lead, variable] * area).ravel().astype(np.float64))
    return Combination(members, weights)


def _anomalies(field: Field, climatology) -> np.ndarray:
    """[starts, leads, C, lat, lon]."""
    array = as_array(field)
    values = array.values - climatology.at(array.valid_time).values
    return values.reshape(*values.shape[:2], -1, *values.shape[-2:])
