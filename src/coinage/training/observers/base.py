"""What watches a run, such as what draws previews. They read the run and never steer it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coinage.errors import CoinageError, TrainingError
from coinage.terminal.messages import speaking_of
from coinage.text.prompts import Prompt
from coinage.training.run import Run

log = logging.getLogger("coinage")


class Observer:
    """Called by the loop; each method does nothing until a watcher overrides it."""

    def started(self, run: Run) -> None:
        """Before the first step."""

    def stepped(self, run: Run) -> None:
        """After each optimizer update."""

    def measured(self, run: Run) -> None:
        """After the evaluation loss was measured: after `started`, or after `stepped`."""

    def epoch_ended(self, run: Run) -> None:
        """After each epoch, the last one included."""

    def finished(self, run: Run) -> None:
        """After the last step."""

    def stopped(self, run: Run) -> None:
        """In place of `finished`, where the run was asked to stop earlier."""

    def failed(self, run: Run, error: Exception) -> None:
        """In place of `finished`, where the run cannot go on; `run.step` may be 0."""

    def close(self) -> None:
        """When the run is over, failed or not."""


class Together(Observer):
    """Several watchers as one, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def started(self, run: Run) -> None:
        for observer in self._observers:
            observer.started(run)

    def stepped(self, run: Run) -> None:
        for observer in self._observers:
            observer.stepped(run)

    def measured(self, run: Run) -> None:
        for observer in self._observers:
            observer.measured(run)

    def epoch_ended(self, run: Run) -> None:
        for observer in self._observers:
            observer.epoch_ended(run)

    def finished(self, run: Run) -> None:
        for observer in self._observers:
            observer.finished(run)

    def stopped(self, run: Run) -> None:
        for observer in self._observers:
            observer.stopped(run)

    def failed(self, run: Run, error: Exception) -> None:
        for observer in self._observers:
            try:
                observer.failed(run, error)
            except Exception as another:  # noqa: BLE001 - what ended the run matters more, and so do the other observers
                log.warning(
                    "%s",
                    another
                    if isinstance(another, CoinageError)
                    else f"{type(another).__name__}: {another}",
                )

    def close(self) -> None:
        for observer in self._observers:
            observer.close()


class Named(Observer):
    """Has what a watcher warns of, and what it ends a run with, name the word, where several learn side by side."""

    def __init__(self, observer: Observer, token: str) -> None:
        self._observer, self._token = observer, token

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            with speaking_of(self._token):
                yield
        except TrainingError as error:
            (problem,) = error.problems
            raise TrainingError(
                f"{self._token}: {problem.what}", problem.where, problem.hint
            ) from error

    def started(self, run: Run) -> None:
        with self._naming():
            self._observer.started(run)

    def stepped(self, run: Run) -> None:
        with self._naming():
            self._observer.stepped(run)

    def measured(self, run: Run) -> None:
        with self._naming():
            self._observer.measured(run)

    def epoch_ended(self, run: Run) -> None:
        with self._naming():
            self._observer.epoch_ended(run)

    def finished(self, run: Run) -> None:
        with self._naming():
            self._observer.finished(run)

    def stopped(self, run: Run) -> None:
        with self._naming():
            self._observer.stopped(run)

    def failed(self, run: Run, error: Exception) -> None:
        with self._naming():
            self._observer.failed(run, error)

    def close(self) -> None:
        with self._naming():
            self._observer.close()


@dataclass(frozen=True, slots=True)
class Picture:
    """A preview: [H, W, 3] pixels, the prompt's number and what it says."""

    index: int
    prompt: Prompt
    pixels: NDArray[np.uint8]
