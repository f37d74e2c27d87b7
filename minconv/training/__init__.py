"""Training: repeatable, resumable to the bit, for several seeds at once. It knows no model and no data set.

fit                                trains a model, or the models of a run; continues what was ended
Training, Run                      how to train; what, for several seeds
fit_all                            trains many runs at once, here or elsewhere
load_weights, restore, read_log    what a run has left in its folder

fit(model, train, validation, folder="runs/mine", settings=Training(epochs=3))

run = Run(build, seeds=[1, 2], folder=Path("runs/several"), settings=Training(epochs=3))
fit(run, train, validation)
model = restore(build(2), load_weights(run.folder)[2])
"""

from minconv.training.fit import fit
from minconv.training.folder import load_weights, read_log, restore
from minconv.training.pool import fit_all
from minconv.training.settings import Run, Training

__all__ = ["Run", "Training", "fit", "fit_all", "load_weights", "read_log", "restore"]
