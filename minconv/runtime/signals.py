"""Signals that ask a process to end, put off until its work is saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, batch systems, a terminal that is closed


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within, a signal to end is only noted; it is delivered at the end, or as soon as KeyboardInterrupt leaves.

    Yields a function that says whether one came. A second Ctrl-C interrupts at once. Signals that the process ignores
    stay ignored; outside the main thread, where Python handles no signals, nothing changes.
    """
    caught: list[int] = []
    before = {}

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and caught:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(caught)
    except KeyboardInterrupt:
        if not caught:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[-1])
        raise KeyboardInterrupt  # where a handler of the caller has let it pass: the work is not finished
