"""From forecasts to numbers, as xarray: rollouts, baselines, errors and scores, comparisons."""

from minconv.evaluation.baselines import Climatology, DampedPersistence, persistence
from minconv.evaluation.errors import evaluate
from minconv.evaluation.forecast import forecast, rollout
from minconv.evaluation.weather import scores

__all__ = ["Climatology", "DampedPersistence", "evaluate", "forecast", "persistence", "rollout", "scores"]
