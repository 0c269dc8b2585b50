"""How far a long piece of work is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("coinage")
INTERVAL = 5.0  # seconds between lines


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done, how fast, and how long it will take; yields what to call with the number done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    start = last = time.monotonic()

    def speed(done: int) -> float:
        return done / max(time.monotonic() - start, 1e-9)

    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, speed="")
            yield lambda done: bar.update(task, completed=done, speed=f"{speed(done):.1f}/s")
        return

    def line(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            log.info("%s: %d of %d, %.1f/s, %.0f s left", what, done, total, speed(done), (total - done) / max(speed(done), 1e-9))

    yield line
