"""One progress bar for terminals and notebooks, and a word about what takes long."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from tqdm import tqdm


def progress(iterable: Any = None, quiet: bool = False, **options: Any) -> tqdm:
    """A tqdm bar in plain text on stderr, silent if ``quiet`` or where $MINCONV_QUIET is set.

    Takes tqdm's options (``desc``, ``total``, ``unit``).

    Plain text, not a widget: widgets saved in a notebook show as errors when it is read elsewhere.
    """
    return tqdm(
        iterable, disable=quiet or bool(os.environ.get("MINCONV_QUIET")), dynamic_ncols=True, mininterval=1.0, **options
    )


@contextmanager
def announced(what: str, after: float = 1.0) -> Iterator[None]:
    """Says on stderr, once a process and not where $MINCONV_QUIET is set, what is waited for if it takes long."""

    def say() -> None:
        if what not in _said and not os.environ.get("MINCONV_QUIET"):
            _said.add(what)
            print(f"minconv: {what}", file=sys.stderr, flush=True)

    timer = Timer(after, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_said: set[str] = set()
