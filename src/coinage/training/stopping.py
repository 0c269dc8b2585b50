"""Ctrl-C and SIGTERM end a run after the step at hand, with everything saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coinage.training.setup import Run

log = logging.getLogger("coinage")


@contextmanager
def stopping(runs: Sequence[Run]) -> Iterator[None]:
    """Have SIGINT and SIGTERM set `run.stop` of all; the second one ends the process at once, as without this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        for run in runs:
            run.stop = number
        signal.signal(number, before[signal.Signals(number)])
        log.info("stopping after this step; once more stops at once, and loses what is not saved")

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
