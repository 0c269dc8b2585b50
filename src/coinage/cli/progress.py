"""Show the progress of a run: steps, what the word has learned, speed and time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch

from coinage.terminal.messages import gap, live_console
from coinage.terminal.progress import PER_SECOND, Cell, LiveLine, Shown, clock
from coinage.training.observers.base import Observer, Priority
from coinage.training.observers.pace import Clock, Pace, SmoothLoss, TrainingClock
from coinage.training.run import Run

log = logging.getLogger("coinage")
DONE = "green"
FIRST_INTERVAL, LAST_INTERVAL = 5.0, 60.0  # seconds between lines, at first and later on


class LineStart(Observer):
    """Draws the live line before other observers write messages, which stand above it."""

    priority = Priority.CLOCK

    def __init__(self, begin: Callable[[Run], None]) -> None:
        self._begin = begin

    def started(self, run: Run) -> None:
        self._begin(run)


def progress_observers(now: Clock = time.monotonic) -> list[Observer]:
    """Return the observers that show how far a run is, with one clock between them."""
    pace = Pace(now)
    progress = Progress(pace, now)
    return [TrainingClock(pace), LineStart(progress.begin), progress]


class Progress(Observer):
    """Shows one live line on a terminal; elsewhere lines, seconds apart at first, later a minute.

    It comes after all other observers. Use it through `progress_observers`.
    """

    priority = Priority.PROGRESS

    def __init__(self, pace: Pace, now: Clock) -> None:
        self._pace, self._now = pace, now
        self._line: LiveLine | None = None
        self._began = self._due = now()
        self._loss = SmoothLoss()
        self._shown = Shown(0.0)
        self._end: float | None = None  # when the run should be over

    def begin(self, run: Run) -> None:
        """Start the line, and the time of the run."""
        self._began = self._due = self._now()  # the first step is shown
        self._shown = Shown(run.step / run.total_steps, (_count(run), *_words(run)))
        if console := live_console():
            gap()
            self._line = LiveLine(console, self._current)
            self._line.start()

    def started(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._pace.begins()

    def stepped(self, run: Run) -> None:
        self._loss.add(run.last.loss)
        now = self._now()
        last = run.step == run.total_steps or run.progress.ending
        if last or now >= self._due:
            self._show(run, now, last=last)
            self._due = now + self._interval(now)
        self._pace.aside_ended()

    def measured(self, run: Run) -> None:
        if run.results.settled:
            self._show(run, self._now(), last=True)
        self._pace.aside_ended()

    def epoch_ended(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._pace.aside_ended()

    def close(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        if self._line:
            self._line.stop()
            self._line = None
            gap()

    def _interval(self, now: float) -> float:
        """Return the seconds until the line is due again."""
        if self._line:
            return 1 / PER_SECOND
        return min(max((now - self._began) / 10, FIRST_INTERVAL), LAST_INTERVAL)

    def _show(self, run: Run, now: float, *, last: bool) -> None:
        plain = self._line is None or self._line.plain
        left = self._pace.left(run.total_steps - run.step)
        self._end = None if last or left is None else now + left
        cells = [
            _count(run),
            *_words(run),
            *_learned(run, self._loss.value, plain=plain),
            *_speed(run, self._pace),
            *_memory(run),
        ]
        if last:
            cells.append(Cell(clock(now - self._began), before="in ", importance=9))
        else:
            cells.append(_left(left))
        share = run.step / run.total_steps
        self._shown = Shown(share, cells, DONE) if run.complete else Shown(share, cells)
        if self._line is None:
            shown = [cell.text for cell in cells if cell.value.strip(" -")]
            log.info("step %s", "  ".join(shown))

    def _current(self) -> Shown:
        """Return what is shown now; the time left runs down between steps."""
        if self._end is None:
            return self._shown
        left = _left(self._end - self._now())
        return replace(self._shown, cells=(*self._shown.cells[:-1], left))


def _count(run: Run) -> Cell:
    digits = len(str(run.total_steps))
    return Cell(f"{run.step:{digits}d}/{run.total_steps}", importance=10)


def _words(run: Run) -> list[Cell]:
    """Return how many words share the steps; what is shown beside it is of the first one."""
    return [Cell(str(run.word_count), after=" words", importance=6)] if run.word_count > 1 else []


def _left(seconds: float | None) -> Cell:
    return Cell("   -" if seconds is None else clock(seconds), after=" left", importance=9)


def _learned(run: Run, loss: float, *, plain: bool) -> list[Cell]:
    """Return epoch and loss, and the mean angle and length of the vectors against their start."""
    first_lengths = run.of_trained(torch.cat([rows.norm(dim=1) for rows in run.start]).tolist())
    length = fmean(run.of_trained(run.last.norms)) / max(fmean(first_lengths), 1e-9)
    angle = f"{fmean(run.of_trained(run.last.angles)):2.0f}"
    digits = len(str(run.total_epochs))
    epoch = f"{run.progress.epoch:{digits}d}/{run.total_epochs}"
    degrees, times = (" deg", "x") if plain else ("°", "×")
    return [
        Cell(epoch, before="epoch ", importance=4),
        Cell(f"{loss:.4f}", before="loss ", importance=8),
        Cell(angle, before="turned ", after=degrees, importance=7),
        Cell(f"{times}{length:.2f}", before="length ", importance=3),
    ]


def _speed(run: Run, pace: Pace) -> list[Cell]:
    """Return images per second; nothing if words are trained together, as they share the time."""
    if run.word_count > 1:
        return []
    speed = pace.images_per_second
    return [Cell("   -" if speed is None else f"{speed:4.1f}", after=" img/s", importance=5)]


def _memory(run: Run) -> list[Cell]:
    """Return the largest use of the GPU's memory so far."""
    device = run.parts.device
    if device.type != "cuda":
        return []
    gigabytes = torch.cuda.max_memory_allocated(device) / 2**30
    return [Cell(f"{gigabytes:.1f}", after=" GB", importance=2)]
