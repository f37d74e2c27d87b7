"""How long a notebook takes in each profile, from notebooks/times.json, which ``./run_all.sh --record-times`` writes.

Only the standard library is imported: run_all.sh tells the times before anything is installed.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = ("smoke", "laptop", "study", "paper")
NONE = "not measured"


def numbered(folder: Path) -> list[Path]:
    """The notebooks NN_*.ipynb of ``folder`` in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def durations(notebook: int | str | None = None, folder: Path = NOTEBOOKS) -> dict[str, str]:
    """How long a notebook, or the set-up and all of ``folder``, take, in words by profile.

    :data:`NONE` where one of them was not.

    Args:
        notebook: its number or name, such as ``5``, ``"05"`` or ``"05_rollouts"``; None for all.

    Raises:
        ValueError: there is no such notebook.
    """
    names = [path.stem for path in numbered(folder)]
    chosen = [name for name in names if notebook is None or str(notebook).zfill(2) in (name, name[:2])]
    if not chosen:
        raise ValueError(f"notebook must be one of {', '.join(names)}, or its number; got {notebook!r}")
    known, found = read_times(folder), {}
    for profile in PROFILES:
        times = known.get(profile, {})
        seconds = [times.get("notebooks", {}).get(name) for name in chosen]
        if notebook is None:
            seconds.append(times.get("set_up"))
        found[profile] = NONE if None in seconds else clock(sum(seconds))
    return found


def read_times(folder: Path = NOTEBOOKS) -> dict[str, Any]:
    """By profile ``hardware``, ``set_up`` (seconds), and by name ``notebooks`` (seconds) and ``processor`` (seconds of
    all cores together); {} where none was recorded."""
    path = folder / "times.json"
    return json.loads(path.read_text()) if path.exists() else {}


def clock(seconds: float) -> str:
    """``7 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
