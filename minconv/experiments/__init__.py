"""Who is compared, on what data, for how long."""

from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import get_profile
from minconv.experiments.series import series_experiment

__all__ = ["Experiment", "Setting", "get_profile", "series_experiment"]
