"""What is seen of a run while it goes on: how far it is, what the word has learned, how fast, and how long it will take."""

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
from coinage.training.observers.base import Observer
from coinage.training.run import Run

log = logging.getLogger("coinage")
WINDOW = 60.0  # seconds of training that a speed is measured over
FEWEST = 3  # steps that it is measured over, however long they take
SMOOTHING = 0.98  # of the loss, whose noise is larger than what it falls by
DONE = "green"
SOON, SELDOM = 5.0, 60.0  # seconds between plain lines, at first and later on
Clock = Callable[[], float]


class Pace:
    """How fast the last minute's steps were, and how much time goes into previews, saves and measurements beside them.

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
        """Time from here on counts: to the step, or to what is done beside it."""
        self._mark = self._now()

    def step_ended(self, images: int) -> None:
        """A step is over, and what is done beside training begins."""
        seconds = self._lap()
        self._count += 1
        if self._count == 1:
            return
        self._add(seconds, images)
        while len(self._steps) > FEWEST and self._seconds > WINDOW:
            seconds, images = self._steps.popleft()
            self._seconds, self._images = self._seconds - seconds, self._images - images

    def aside_ended(self) -> None:
        """What is done beside training is over."""
        self._aside += self._lap()

    def _lap(self) -> float:
        before, self._mark = self._mark, self._now()
        return self._mark - before

    def _add(self, seconds: float, images: int) -> None:
        self._steps.append((seconds, images))
        self._seconds, self._images = self._seconds + seconds, self._images + images

    @property
    def images_per_second(self) -> float | None:
        """While training; None before the second step."""
        return self._images / max(self._seconds, 1e-9) if self._steps else None

    def left(self, steps: int) -> float | None:
        """Seconds that so many steps take, with as much beside them as there was so far; None before the second step."""
        return (
            steps * (self._seconds / len(self._steps) + self._aside / self._count)
            if self._steps
            else None
        )


class Before(Observer):
    """Goes before all other observers: what they say stands above the line that this begins, and their time is not training time."""

    def __init__(self, pace: Pace, begin: Callable[[Run], None]) -> None:
        self._pace, self._begin = pace, begin
        self._images = 0

    def started(self, run: Run) -> None:
        self._begin(run)

    def stepped(self, run: Run) -> None:
        self._pace.step_ended(run.progress.images - self._images)
        self._images = run.progress.images

    def epoch_ended(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._pace.begins()


class Progress(Observer):
    """One live line on a terminal; elsewhere plain lines, a few seconds apart at first and a minute later on.

    It goes after all observers whose time is not training time, and `before` goes before them.
    """

    def __init__(self, now: Clock = time.monotonic) -> None:
        self._now = now
        self._pace = Pace(now)
        self.before = Before(self._pace, self._begin)
        self._line: LiveLine | None = None
        self._begun = self._due = now()
        self._loss = self._weight = 0.0
        self._shown = Shown(0.0)
        self._end: float | None = None  # when the run should be over

    def _begin(self, run: Run) -> None:
        self._begun = self._due = self._now()  # the first step is told
        self._shown = Shown(run.step / run.total_steps, (_count(run), *_words(run)))
        if console := live_console():
            gap()
            self._line = LiveLine(console, self._look)
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
            self._tell(run, now, last=last)
            wait = (
                1 / PER_SECOND if self._line else min(max((now - self._begun) / 10, SOON), SELDOM)
            )
            self._due = now + wait
        self._pace.aside_ended()

    def measured(self, run: Run) -> None:
        if run.results.settled:
            self._tell(run, self._now(), last=True)
        self._pace.aside_ended()

    def epoch_ended(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._pace.aside_ended()

    def close(self) -> None:
        if self._line:
            self._line.stop()
            self._line = None
            gap()

    def _tell(self, run: Run, now: float, *, last: bool) -> None:
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
        time_cell = (
            Cell(clock(now - self._begun), before="in ", importance=9) if last else _left(left)
        )
        self._shown = Shown(
            run.step / run.total_steps, (*cells, time_cell), *([DONE] if run.complete else [])
        )
        if self._line is None:
            log.info(
                "step %s",
                "  ".join(cell.text for cell in self._shown.cells if cell.value.strip(" -")),
            )

    def _look(self) -> Shown:
        """What is shown now, the time left running down between steps."""
        if self._end is None:
            return self._shown
        return replace(self._shown, cells=(*self._shown.cells[:-1], _left(self._end - self._now())))


def _count(run: Run) -> Cell:
    return Cell(f"{run.step:{len(str(run.total_steps))}d}/{run.total_steps}", importance=10)


def _words(run: Run) -> list[Cell]:
    """How many words share the steps; what is told beside it is of the first one."""
    return [Cell(str(run.word_count), after=" words", importance=6)] if run.word_count > 1 else []


def _left(seconds: float | None) -> Cell:
    return Cell("   -" if seconds is None else clock(seconds), after=" left", importance=9)


def _learned(run: Run, loss: float, *, plain: bool) -> list[Cell]:
    """What the run and its word have come to; the mean angle and length of the rows are against their start."""
    start = [norm for rows in run.start for norm in rows.norm(dim=1).tolist()]
    length = fmean(run.last.norms) / max(fmean(start), 1e-9)
    epochs = len(str(run.total_epochs))
    return [
        Cell(f"{run.progress.epoch:{epochs}d}/{run.total_epochs}", before="epoch ", importance=4),
        Cell(f"{loss:.4f}", before="loss ", importance=8),
        Cell(
            f"{fmean(run.last.angles):2.0f}",
            before="turned ",
            after=" deg" if plain else "°",
            importance=7,
        ),
        Cell(f"{'x' if plain else '×'}{length:.2f}", before="length ", importance=3),
    ]


def _speed(run: Run, pace: Pace) -> list[Cell]:
    """Images a second; not where other words' images are learned from in the same time."""
    speed = pace.images_per_second
    return (
        []
        if run.word_count > 1
        else [Cell("   -" if speed is None else f"{speed:4.1f}", after=" img/s", importance=5)]
    )


def _memory(run: Run) -> list[Cell]:
    """The GPU's memory at most so far."""
    if run.parts.device.type != "cuda":
        return []
    return [
        Cell(
            f"{torch.cuda.max_memory_allocated(run.parts.device) / 2**30:.1f}",
            after=" GB",
            importance=2,
        )
    ]
