"""How long a notebook takes in each profile, from notebooks/times.json, which ``./run_all.sh --record-times`` writes.

Only the standard library is imported: run_all.sh tells the times before anything is installed.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = ("smoke", "laptop", "study", "paper")


def numbered(folder: Path) -> list[Path]:
    """The notebooks NN_*.ipynb of ``folder`` in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def how_long(notebook: int | str | None = None, folder: Path = NOTEBOOKS) -> str:
    """How long a notebook, or the set-up and all notebooks of ``folder``, take in each profile, and on what hardware.

    Args:
        notebook: its number or name, such as ``5``, ``"05"`` or ``"05_rollouts"``; None for all.

    Raises:
        ValueError: there is no such notebook.
    """
    known = read_times(folder)
    machines = "; ".join(dict.fromkeys(known[profile]["hardware"] for profile in PROFILES if profile in known))
    times = ", ".join(f"{profile} {time}" for profile, time in durations(notebook, folder).items())
    return times + (f" (on {machines})" if machines else "")


def durations(notebook: int | str | None = None, folder: Path = NOTEBOOKS) -> dict[str, str]:
    """The times of :func:`how_long` in words by profile; "not measured" where one that is asked for was not."""
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
        found[profile] = "not measured" if None in seconds else clock(sum(seconds))
    return found


def tell(folder: Path = NOTEBOOKS) -> None:
    """Writes how long each notebook takes as the last line of its first cell."""
    for path in numbered(folder):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cell = notebook["cells"][0]
        kept = "".join(cell["source"]).partition("\n\n*How long:")[0]
        cell["source"] = f"{kept}\n\n*How long: {how_long(path.stem, folder)}.*".splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_times(folder: Path = NOTEBOOKS) -> dict[str, Any]:
    """By profile ``hardware``, ``notebooks`` (seconds by name) and ``set_up`` (seconds); {} where none was recorded."""
    path = folder / "times.json"
    return json.loads(path.read_text()) if path.exists() else {}


def clock(seconds: float) -> str:
    """``7 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
