"""Write how far a run is to a file that the page reads: at most once a second, and never a part."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from coinage.errors import CoinageError
from coinage.training.observers.base import Observer, Priority
from coinage.training.observers.pace import Clock, Pace, SmoothLoss, TrainingClock
from coinage.training.observers.previews import Previewer
from coinage.training.run import Run
from coinage.ui.workspace import WordFolder, write_json

log = logging.getLogger("coinage")
LEAST_SECONDS = 1.0  # between two writes


class ProgressFile(Observer):
    """Writes `progress.json`; a disk that does not take it ends no run.

    Args:
        folder: of the word.
        now: a clock in seconds.
    """

    priority = Priority.PROGRESS

    def __init__(self, folder: WordFolder, now: Clock = time.monotonic) -> None:
        self._path, self._now = folder.progress, now
        self._pace, self._loss = Pace(now), SmoothLoss()
        self._due = -math.inf
        self._values: dict[str, Any] = {}
        self.enter("loading")

    def enter(self, phase: str) -> None:
        """Write that another phase begins: loading, encoding, training, previews, verifying, done."""
        self._values["phase"] = phase
        self._write()

    def loaded(self, runs: Sequence[Run]) -> None:
        """Note that the model is there, and the images are encoded next."""
        self._note_step(runs[0])
        self.enter("encoding")

    def beside(self, observers: Sequence[Observer]) -> list[Observer]:
        """Return what measures and writes the progress of a run that has these observers."""
        for observer in observers:
            if isinstance(observer, Previewer):
                observer.before_drawing = lambda: self.enter("previews")
        return [TrainingClock(self._pace), self]

    def started(self, run: Run) -> None:
        self._pace.begins()
        self._note_step(run)
        self.enter("training")

    def stepped(self, run: Run) -> None:
        self._loss.add(run.last.loss)
        was_drawing = self._values["phase"] != "training"
        self._values["phase"] = "training"
        if was_drawing or run.over or self._now() >= self._due:
            self._note_step(run)
            self._write()
        self._pace.aside_ended()

    def measured(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._pace.aside_ended()

    def epoch_ended(self, run: Run) -> None:
        self._pace.aside_ended()
        if self._values["phase"] == "previews" and not run.over:
            self.enter("training")

    def finished(self, run: Run) -> None:
        self._note_step(run)
        self.enter("verifying")

    def stopped(self, run: Run) -> None:
        self._note_step(run)
        self._write()

    def _note_step(self, run: Run) -> None:
        """Take over how far a run is, and what it has learned."""
        left = 0.0 if run.over else self._pace.left(run.total_steps - run.step)
        speed = self._pace.images_per_second
        self._values |= {
            "step": run.step,
            "total": run.total_steps,
            "epoch": run.progress.epoch,
            "epochs": run.total_epochs,
            "seconds_left": None if left is None else round(left, 1),
            "loss": _finite(self._loss.value),
            "angle": _finite(fmean(run.of_trained(run.last.angles))) if run.last.angles else None,
            "images_per_second": None if speed is None else round(speed, 2),
        }

    def _write(self) -> None:
        self._due = self._now() + LEAST_SECONDS
        try:
            write_json(self._path, self._values)
        except CoinageError as error:
            log.debug("%s", error)


def _finite(value: float) -> float | None:
    """Return a number with five digits; None for one that JSON does not have."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
