"""Stop a run after its current step, with all saved, on Ctrl-C, SIGTERM or a closed terminal."""

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
# Windows has SIGBREAK in place of SIGHUP
SIGNAL_NAMES = ("SIGINT", "SIGTERM", HANGUP, "SIGBREAK")


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask to stop; under nohup, a hangup is not one of them."""
    signals = []
    for name in SIGNAL_NAMES:
        number = signal.Signals.__members__.get(name)
        if number is None:
            continue
        ignored = name == HANGUP and signal.getsignal(number) == signal.SIG_IGN
        if not ignored:
            signals.append(number)
    return signals


@contextmanager
def stopping(runs: Sequence[Run]) -> Iterator[None]:
    """Ask all runs to stop when a signal comes; a second one ends the process at once, as by default.

    A second hangup is ignored: a shell that ends sends one to processes that have had one from the
    system.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in stop_signals()}

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
