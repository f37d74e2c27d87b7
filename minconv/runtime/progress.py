"""One progress bar for terminals and notebooks."""

import os
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
