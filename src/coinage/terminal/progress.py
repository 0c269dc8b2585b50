"""Show how far long work is: one live line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coinage.terminal.messages import GOLD, live_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

log = logging.getLogger("coinage")
INTERVAL = 5.0  # seconds between lines
PER_SECOND = 4  # times that a live line is drawn again
GAP = "  "
MARGIN = 3  # columns: the last one makes some terminals wrap, and a Ctrl-C is echoed as ^C
NARROWEST, WIDEST = 10, 40  # columns of a bar


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing on a live line: a value between words. Without room, the least important ones go."""

    value: str
    before: str = ""
    after: str = ""
    importance: int = 0

    @property
    def text(self) -> str:
        """The value between its words."""
        return self.before + self.value + self.after


@dataclass(frozen=True, slots=True)
class Shown:
    """The content of a live line: the share that is done, 0..1, and the cells beside the bar."""

    share: float
    cells: Sequence[Cell] = ()
    style: str = GOLD


class LiveLine:
    """One line below all messages, redrawn as time passes; it is never wider than the terminal.

    Cells only grow, and once left out they stay so at that width: what jumps cannot be read.
    """

    def __init__(
        self, console: Console, shown: Callable[[], Shown], *, transient: bool = False
    ) -> None:
        from rich.live import Live

        self._console, self._shown = console, shown
        self._widest: dict[str, int] = {}
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=PER_SECOND,
            transient=transient,
            # What goes to a file is not for the terminal
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def start(self) -> None:
        """Draw the line for the first time."""
        with suppress(OSError):  # a terminal that is gone ends no work
            self._live.start(refresh=True)

    def stop(self) -> None:
        """Draw the line for the last time."""
        with suppress(OSError):
            self._live.stop()

    @property
    def plain(self) -> bool:
        """Whether the terminal has ASCII only, or is not known to have more."""
        return self._console.legacy_windows or self._console.options.ascii_only

    def _draw(self) -> Text:
        shown, widths = self._shown(), []
        for cell in shown.cells:
            name = cell.before + cell.after
            self._widest[name] = max(self._widest.get(name, 0), len(cell.text))
            widths.append(self._widest[name])
        return line(shown, widths, self._console.width - MARGIN, plain=self.plain)


def line(shown: Shown, widths: Sequence[int], width: int, *, plain: bool) -> Text:
    """Return bar and cells in at most `width` columns.

    Args:
        shown: what there is to see.
        widths: columns of each cell, at least what it needs.
        width: of the line.
        plain: in ASCII.
    """
    from rich.text import Text

    kept = sorted(range(len(shown.cells)), key=lambda i: -shown.cells[i].importance)
    while kept and NARROWEST + sum(len(GAP) + widths[i] for i in kept) > width:
        kept.pop()
    room = width - sum(len(GAP) + widths[i] for i in kept)
    text = bar(shown.share, min(room, WIDEST), shown.style, plain=plain)
    for i in sorted(kept):
        cell = shown.cells[i]
        text.append(GAP + " " * (widths[i] - len(cell.text)))
        text.append(cell.before, "dim").append(cell.value).append(cell.after, "dim")
    text.no_wrap, text.overflow = True, "crop"
    return text if len(text) <= width else Text(text.plain[: max(width, 0)])


def bar(share: float, width: int, style: str, *, plain: bool) -> Text:
    """Return a bar of `width` columns."""
    from rich.text import Text

    share = min(max(share, 0.0), 1.0)
    if plain:
        full = int(share * (width - 2))
        return Text.assemble("[", ("#" * full, style), ("." * (width - 2 - full), "dim"), "]")
    halves = int(share * 2 * width)
    done = "━" * (halves // 2) + "╸" * (halves % 2)
    return Text.assemble((done, style), ("─" * (width - len(done)), "dim"))


def clock(seconds: float) -> str:
    """Return a time as `1:02:03` or `2:03`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done, how fast, and how long the rest will take.

    Yields:
        A function to call with the number that is done.
    """
    console = live_console()
    start = last = time.monotonic()
    number = 0

    def speed() -> float:
        return number / max(time.monotonic() - start, 1e-9)

    def left() -> float:
        return (total - number) / max(speed(), 1e-9)

    def shown() -> Shown:
        count = Cell(f"{number:{len(str(total))}d}/{total}", before=f"{what} ", importance=3)
        pace = (
            Cell(clock(left()), after=" left", importance=2),
            Cell(f"{speed():.1f}", after="/s", importance=1),
        )
        return Shown(number / max(total, 1), (count, *(pace if number else ())))

    def on_number(done: int) -> None:
        nonlocal last, number
        number = done
        if console is None and time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            log.info("%s: %d of %d, %.1f/s, %.0f s left", what, number, total, speed(), left())

    live = LiveLine(console, shown, transient=True) if console else None
    if live:
        live.start()
    try:
        yield on_number
    finally:
        if live:
            live.stop()
