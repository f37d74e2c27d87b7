"""Training: repeatable, resumable to the bit, for several seeds at once. It knows no model and no data set.

Training, Run                      how to train, and what
fit, fit_all                       trains a run, or many at once; continues those that were ended
load_weights, restore, read_log    what a run has left in its folder

run = Run(build, seeds=[1234], folder=Path("runs/mine"), settings=Training(epochs=3))
fit(run, train, validation)
model = restore(build(1234), load_weights(run.folder)[1234])
"""

from minconv.training.fit import fit
from minconv.training.folder import load_weights, read_log, restore
from minconv.training.pool import fit_all
from minconv.training.settings import Run, Training

__all__ = ["Run", "Training", "fit", "fit_all", "load_weights", "read_log", "restore"]
