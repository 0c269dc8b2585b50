"""What follows a run, such as the previews: observers read a run and never change it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from coinage.text.prompts import Prompt
from coinage.training.run import Run


class Priority(IntEnum):
    """The order in which the observers of a run are notified: the lowest number first.

    Files come first, so that nothing is lost when a later observer fails. The journal comes before
    the saver: a state must not be newer than the log, whose later lines a resumed run removes. The
    report comes after the watchdog, since it shows why the watchdog ended a run.
    """

    CLOCK = 0  # time from here on is not training time
    HOUSEKEEPING = 100
    JOURNAL = 200
    EVALUATION = 300
    SAVING = 400
    PREVIEWS = 500
    IMAGES = 550
    USER = 600
    TRACKING = 700
    WATCHDOG = 800
    REPORT = 900
    PROGRESS = 1000


class Observer:
    """Follows a run; override the methods of the events that you need.

    Each method gets the `Run`, whose `step`, `progress`, `last` (the last optimizer step: loss,
    learning rate, gradient norm and more), `results` and `rows` can be read. An observer must not
    change the run. If it raises a `CoinageError`, the run ends with that error; any other exception
    ends it with a `TrainingError` that names the observer. What was learned is saved in both cases.

    Observers of words that are trained together are called for each of these words in turn.

    Attributes:
        priority: where the observer stands among those of the run; see `Priority`.

    Example:
        ```python
        class Losses(coinage.Observer):
            def __init__(self) -> None:
                self.losses: list[float] = []

            def stepped(self, run: coinage.Run) -> None:
                self.losses.append(run.last.loss)
        ```
    """

    priority: int = Priority.USER

    def started(self, run: Run) -> None:
        """Follow the start of a run, before its first step; `run.step` is not 0 if it is resumed."""

    def stepped(self, run: Run) -> None:
        """Follow an optimizer step."""

    def measured(self, run: Run) -> None:
        """Follow a measurement of the evaluation loss, after `started` or `stepped`."""

    def epoch_ended(self, run: Run) -> None:
        """Follow the end of an epoch, the last one included."""

    def finished(self, run: Run) -> None:
        """Follow the end of a complete run, after its last step."""

    def stopped(self, run: Run) -> None:
        """Follow the end of a run that was asked to stop early, in place of `finished`."""

    def failed(self, run: Run, error: Exception) -> None:
        """Follow the end of a run that cannot continue, in place of `finished`; `run.step` may be 0."""

    def close(self, run: Run) -> None:
        """Release what the observer holds, after the run has ended in any way."""


def in_order(observers: Iterable[Observer]) -> list[Observer]:
    """Return observers by their priority; those with the same priority keep their order."""
    return sorted(observers, key=lambda observer: observer.priority)


@dataclass(frozen=True, slots=True)
class Picture:
    """A preview.

    Attributes:
        index: number of its prompt, from 0.
        prompt: what it shows.
        pixels: [H, W, 3] uint8 RGB.
        word_maps: where words act in it, by their token; see `coinage.generate.Drawn`.
    """

    index: int
    prompt: Prompt
    pixels: NDArray[np.uint8]
    word_maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
