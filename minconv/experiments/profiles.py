"""How large the experiments are, and where data and results are kept.

``smoke`` shows in minutes that everything runs, ``laptop`` trains models that have learned, in less than an hour on
two CPU cores, ``study`` takes hours there and is what the committed figures show, ``paper`` has the settings of
arXiv 2508.03614 and asks for a GPU.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from minconv.data import store
from minconv.runtime import processes
from minconv.runtime.checks import choice

PUBLISHED_BY = "study"  # the profile of the committed outputs and figures, which texts describe


@dataclass(frozen=True)
class Profile:
    """What all experiments of one size share; their own sizes are in their files.

    Args:
        name: its folder under results/.
        seeds: of the models.
        benchmark: size of the benchmark, see ``minconv.bench.suite``.
        timing_repeats: interleaved repeats, whose median counts.
    """

    name: str
    seeds: tuple[int, ...]
    benchmark: str
    timing_repeats: int

    @property
    def folder(self) -> Path:
        """Where this profile's runs, figures and executed notebooks are."""
        return home() / "results" / self.name

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    def kept(self, name: str, make: Callable[[], xr.Dataset], **about: Any) -> xr.Dataset:
        """What takes long and is no training: what ``make`` finds, once and for all in ``folder``/runs/``name``.nc.

        Under ``torchrun`` every process calls this, as ``make`` may need all of them; the first one writes.

        Args:
            about: what it was made with. ValueError where the file that is there was made with something else.
        """
        path = self.folder / "runs" / f"{name}.nc"

        def write() -> None:
            found = make()
            if processes.rank() == 0:
                store.write(path, found, about)

        store.cached(path, about, write, together=True)
        with store.opened(path) as found:
            return found.load().drop_attrs(deep=False)

    @property
    def learned(self) -> bool:
        """Whether models are trained for long enough to have learned something."""
        return self.name != "smoke"

    @property
    def described(self) -> bool:
        """Whether the notebooks' words, and the claims they check, are about this profile."""
        return self.name == PUBLISHED_BY

    def __str__(self) -> str:
        if self.described:
            return f"profile {self.name}, which the text describes"
        short = "; it shows that everything runs, and is too short to learn" if not self.learned else ""
        return f"profile {self.name}{short}: numbers and figures are its own, the text describes {PUBLISHED_BY}"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", (1234, 1235), "smoke", 3),
        Profile("laptop", (1234,), "short", 3),
        Profile("study", (1234, 1235, 1236), "quick", 5),
        Profile("paper", (1234, 1235, 1236, 1237, 1238), "full", 11),
    )
}


def home() -> Path:
    """Folder that holds data/ and results/: $MINCONV_HOME, or the project's root; where there is none, this folder."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("MINCONV_HOME") or (root if (root / "pyproject.toml").is_file() else Path.cwd()))


def default_profile() -> str:
    """$MINCONV_PROFILE, or ``paper`` where there is a GPU and ``laptop`` where there is none."""
    return os.environ.get("MINCONV_PROFILE") or ("paper" if torch.cuda.is_available() else "laptop")


def get_profile(name: "str | Profile | None" = None) -> Profile:
    """A profile by name, or itself; None is the default. Raises ValueError on an unknown name."""
    if isinstance(name, Profile):
        return name
    return PROFILES[choice("profile", default_profile() if name is None else name, PROFILES)]
