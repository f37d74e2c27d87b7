"""The trained models that come with the package; what they can do is told in weights/README.md."""

from pathlib import Path

from minconv.models.forecaster import Forecaster
from minconv.models.pretrained import CONFIG
from minconv.runtime.checks import choice

FOLDER = Path(__file__).parent / "weights"


def load(name: str) -> Forecaster:
    """A trained model, in evaluation mode, on the CPU: ``load("navier_stokes/minconvlstm").predict(frames, steps=30)``.

    Args:
        name: of experiment and model.
            ``navier_stokes/convgru``, ``convlstm``, ``minconvgru``, ``minconvlstm`` or ``minconvexplstm``: vorticity of
            the forced flow of arXiv 2508.03614 on 16 x 16 cells of the periodic unit square, 1 unit time apart.
            ``geopotential/convlstm``: that of the 500 hPa surface in m2 s-2 on 16 x 32 cells of the globe, south to
            north and 0 to 360 degrees east, 6 hours apart; trained on the barotropic model, not on ERA5.
            ``air_temperature/minconvlstm``: anomalies in K from the climatology on 25 x 53 points of North America, 6
            hours apart; ``minconv.evaluation.Climatology`` makes anomalies of temperatures.

    Returns:
        The model. ``predict`` takes frames [B, T, 1, H, W] or [T, 1, H, W] in these units, from one on (20 were seen in
        the tests), and refuses those of another shape or far from the training's; ``frames`` tells what they are.

    Raises:
        TypeError, ValueError: no such model; the message lists those that there are.
    """
    return Forecaster.from_pretrained(FOLDER / choice("name", name, names()))


def names() -> list[str]:
    """Those of the models that :func:`load` knows."""
    return sorted(path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.glob(f"*/*/{CONFIG}"))
