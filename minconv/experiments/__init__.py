"""Who is compared, on what data, for how long."""

from minconv.experiments.experiment import Experiment, Setting
from minconv.experiments.profiles import get_profile

__all__ = ["Experiment", "Setting", "get_profile"]
