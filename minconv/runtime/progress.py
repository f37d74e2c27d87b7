"""One progress bar for terminals and notebooks, and a word about what takes long."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from tqdm import tqdm

LINE = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt} {unit}s, {elapsed}<{remaining}, {rate_fmt}{postfix}\n"
MINUTE = 60.0  # seconds


def progress(iterable: Any = None, quiet: bool = False, **options: Any) -> tqdm:
    """A tqdm bar in plain text on stderr, silent if ``quiet`` or where $MINCONV_QUIET is set.

    In a kernel on stdout, and gone when it is done: notebooks paint stderr like a warning. Where there is no terminal,
    as in a log, a line a minute. Takes tqdm's options (``desc``, ``total``, ``unit``).

    Plain text, not a widget: widgets saved in a notebook show as errors when it is read elsewhere.
    """
    where: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 1.0}
    if _in_kernel():
        where |= {"file": sys.stdout, "leave": False}
    elif not sys.stderr.isatty():
        where |= {"bar_format": LINE, "mininterval": MINUTE, "maxinterval": MINUTE}
    return tqdm(iterable, disable=quiet or bool(os.environ.get("MINCONV_QUIET")), **where, **options)


@contextmanager
def announced(what: str, after: float = 1.0) -> Iterator[None]:
    """Says, once a process and not where $MINCONV_QUIET is set, what is waited for if it takes long.

    On stderr; in a kernel on stdout, and gone when it is done, as :func:`progress`.
    """
    shown = ""

    def say() -> None:
        nonlocal shown
        if what not in _said and not os.environ.get("MINCONV_QUIET"):
            _said.add(what)
            line = f"minconv: {what}"
            if _in_kernel():
                print(f"\r{line}", end="", flush=True)  # over a bar that is there, which draws itself again
                shown = line
            else:
                print(line, file=sys.stderr, flush=True)

    timer = Timer(after, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown:
            print(f"\r{' ' * len(shown)}\r", end="", flush=True)


def _in_kernel() -> bool:
    return type(sys.stderr).__module__.startswith("ipykernel")


_said: set[str] = set()
