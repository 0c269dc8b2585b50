"""Show the progress of a run: steps, what the word has learned, speed and time left."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch

from coinage.terminal.messages import gap, live_console
from coinage.terminal.progress import PER_SECOND, Cell, LiveLine, Shown, clock
from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run

log = logging.getLogger("coinage")
WINDOW = 60.0  # seconds of training that a speed is measured over
MIN_STEPS = 3  # that it is measured over, however long they take
SMOOTHING = 0.98  # of the loss, whose noise is larger than what it falls by
DONE = "green"
FIRST_INTERVAL, LAST_INTERVAL = 5.0, 60.0  # seconds between lines, at first and later on
Clock = Callable[[], float]


class Pace:
    """Measures how fast the last minute's steps were, and the time of previews, saves and measurements.

    The first step is left out: it loads, compiles and warms up.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._steps: deque[tuple[float, int]] = deque()  # seconds and images of each
        self._seconds, self._images = 0.0, 0  # of them together
        self._count = 0
        self._aside = 0.0  # seconds
        self._mark = now()  # when the last step, or what came after it, was over

    def begins(self) -> None:
        """Start the clock of a step, or of what is done beside training."""
        self._mark = self._now()

    def step_ended(self, images: int) -> None:
        """End a step; what is done beside training begins."""
        seconds = self._lap()
        self._count += 1
        if self._count == 1:
            return
        self._add(seconds, images)
        while len(self._steps) > MIN_STEPS and self._seconds > WINDOW:
            seconds, images = self._steps.popleft()
            self._seconds, self._images = self._seconds - seconds, self._images - images

    def aside_ended(self) -> None:
        """End what is done beside training."""
        self._aside += self._lap()

    def _lap(self) -> float:
        before, self._mark = self._mark, self._now()
        return self._mark - before

    def _add(self, seconds: float, images: int) -> None:
        self._steps.append((seconds, images))
        self._seconds, self._images = self._seconds + seconds, self._images + images

    @property
    def images_per_second(self) -> float | None:
        """Images per second while training; None before the second step."""
        return self._images / max(self._seconds, 1e-9) if self._steps else None

    def left(self, steps: int) -> float | None:
        """Return the seconds that so many steps will take, with as much beside them as so far.

        Returns:
            None before the second step.
        """
        if not self._steps:
            return None
        return steps * (self._seconds / len(self._steps) + self._aside / self._count)


class TrainingClock(Observer):
    """Measures the time of training alone, in front of all other observers.

    The time of the observers behind it is not training time; `Progress` ends it.
    """

    priority = Priority.CLOCK

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._images = 0

    def stepped(self, run: Run) -> None:
        self._pace.step_ended(run.progress.images - self._images)
        self._images = run.progress.images

    def epoch_ended(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._pace.begins()


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
        self._loss = self._weight = 0.0
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
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * run.last.loss
        # The average of few losses is theirs, not pulled to 0
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
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
            *_learned(run, self._loss / self._weight, plain=plain),
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
    first_lengths = torch.cat([rows.norm(dim=1) for rows in run.start]).tolist()
    length = fmean(run.last.norms) / max(fmean(first_lengths), 1e-9)
    angle = f"{fmean(run.last.angles):2.0f}"
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
