"""How fast a run is and how long it will take, for whatever shows its progress."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run

WINDOW = 60.0  # seconds of training that a speed is measured over
MIN_STEPS = 3  # that it is measured over, however long they take
SMOOTHING = 0.98  # of the loss, whose noise is larger than what it falls by
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

    The time of the observers behind it is not training time; what shows the progress ends it.
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


class SmoothLoss:
    """The moving average of the losses of a run."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, loss: float) -> None:
        """Take in the loss of a step."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        # The average of few losses is theirs, not pulled to 0
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)

    @property
    def value(self) -> float:
        """Return the average; not a number before the first step."""
        return self._sum / self._weight if self._weight else math.nan
