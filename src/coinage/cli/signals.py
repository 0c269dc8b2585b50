"""Ctrl-C, SIGTERM and a terminal that is closed end a run after the step at hand, with everything saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coinage.training.run import Run

log = logging.getLogger("coinage")


HANGUP = "SIGHUP"  # the terminal was closed, or the connection to it was lost
# The last one is Windows' own, which lacks the one before
NAMES = ("SIGINT", "SIGTERM", HANGUP, "SIGBREAK")


def asking() -> list[signal.Signals]:
    """Return the signals that ask to end; not a hangup that the process was started to ignore, by nohup."""
    found = [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]
    return [
        number
        for number in found
        if number.name != HANGUP or signal.getsignal(number) != signal.SIG_IGN
    ]


@contextmanager
def stopping(runs: Sequence[Run]) -> Iterator[None]:
    """Have a signal that asks to end call `request_stop` of all runs; the second one ends the process at once.

    A second hangup does not: a shell that ends sends one to what the system has sent one already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in asking()}

    def ask(number: int, _frame: FrameType | None) -> None:
        for run in runs:
            run.request_stop(number)
        hangup = signal.Signals(number).name == HANGUP
        signal.signal(number, signal.SIG_IGN if hangup else before[signal.Signals(number)])
        log.info("stopping after this step (press Ctrl-C again to stop at once without saving)")

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
