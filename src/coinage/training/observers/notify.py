"""Notify the observers of a run of its events."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from coinage.errors import CoinageError, TrainingError, described
from coinage.terminal.messages import naming
from coinage.training.observers.base import Observer
from coinage.training.run import Run

log = logging.getLogger("coinage")
Event = Literal[
    "started", "stepped", "measured", "epoch_ended", "finished", "stopped", "failed", "close"
]
# Every observer hears of these, whatever the others do
END_EVENTS: tuple[Event, ...] = ("failed", "close")


def notify(
    observers: Sequence[Observer], event: Event, run: Run, error: Exception | None = None
) -> None:
    """Call the method of an event on each observer, in turn.

    If words are trained together, warnings and errors that come from here name the word of the run.

    Args:
        observers: of the run, in the order of their priority.
        event: the name of the method.
        run: what the event belongs to.
        error: why the run failed, for `failed`.

    Raises:
        CoinageError: an observer ended the run. In `failed` and `close`, its error is only logged,
            and the other observers are called all the same.
    """
    details = () if error is None else (error,)
    with _word_named(run):
        for observer in observers:
            try:
                getattr(observer, event)(run, *details)
            except Exception as raised:
                problem = _as_coinage_error(observer, event, raised)
                if event in END_EVENTS:
                    log.warning("%s", problem or f"{type(raised).__name__}: {raised}")
                elif problem is None or problem is raised:
                    raise
                else:
                    raise problem from raised


def _as_coinage_error(observer: Observer, event: Event, error: Exception) -> CoinageError | None:
    """Return the error of an observer as one for the user.

    Returns:
        None for a fault in one of Coinage's own observers, which keeps its traceback.
    """
    if isinstance(error, CoinageError):
        return error
    kind = type(observer)
    if kind.__module__.startswith("coinage."):
        return None
    what = f"the observer {kind.__qualname__} failed in `{event}`: {described(error)}"
    return TrainingError(what, hint=f"correct the class {kind.__module__}.{kind.__qualname__}")


@contextmanager
def _word_named(run: Run) -> Iterator[None]:
    """Have warnings and errors name the word of a run that shares its model with other words."""
    if run.word_count == 1:
        yield
        return
    token = run.placeholder.token
    try:
        with naming(token):
            yield
    except TrainingError as error:
        problem = error.problems[0]
        named = TrainingError(f"{token}: {problem.what}", problem.where, problem.hint)
        raise named from error
