"""Train a word, or several words together: the loop over steps and epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from coinage.embeddings.word import Word
from coinage.errors import TrainingError
from coinage.training.diagnosis import as_training_error
from coinage.training.evaluation import Evaluator
from coinage.training.gradients import compute_gradients
from coinage.training.graphs import Recorder
from coinage.training.observers.base import Observer
from coinage.training.observers.notify import notify
from coinage.training.run import Run
from coinage.training.scores import BestByScores
from coinage.training.supply import Supply
from coinage.training.updates import (
    can_be_undone,
    raise_first,
    recorder_for,
    step_and_check,
    update,
)

Check = Callable[[Run], None]


def train(run: Run, observers: Sequence[Observer], check: Check | None = None) -> Word:
    """Train a word to its end, or to where it is asked to stop, and return it.

    Args:
        run: as prepared, or as it was loaded from a state.
        observers: of the run, in order.
        check: called with the run when the observers have started; it may raise to end the run, such
            as `model_check.check_model`.

    Raises:
        TrainingError: the run cannot go on. The observers are called first, and save what was
            learned; so it is too if any other exception ends the run.
    """
    learner = Learner(run, observers)
    with reporting_failures([learner]):
        learner.start(check)
        supply, recorder = Supply([run]), recorder_for([run])
        while not run.over:
            _step_together([learner], supply, recorder)
        learner.end()
    return run.embedding()


def train_together(
    runs: Sequence[Run], observers: Sequence[Sequence[Observer]], check: Check | None = None
) -> list[Word]:
    """Train words that share a model, as `train` does; a failure of one ends all.

    They take their steps together, and the samples of all go through the model as one batch. Each
    learns what it would have learned alone: its draws, its gradient, its clipping and its optimizer
    are its own. The model is that of all, so `check` gets the first run alone.
    """
    if len(runs) == 1:
        return [train(runs[0], observers[0], check)]
    learners = _learners(runs, observers)
    going = list(learners)
    with reporting_failures(going):
        for learner in learners:
            learner.start(check if learner is learners[0] else None)
        supply, recorder = Supply(runs), recorder_for(runs)
        while going:
            for learner in tuple(going):
                if learner.run.over:
                    learner.end()
                    going.remove(learner)
            if going:
                _step_together(going, supply, recorder)
    return [run.embedding() for run in runs]


def _learners(runs: Sequence[Run], observers: Sequence[Sequence[Observer]]) -> list[Learner]:
    """Return a learner of each run; words that learn together are measured together."""
    joint = next((Evaluator(run) for run in runs if run.together), None)
    return [
        Learner(run, of_run, joint if run.together else None)
        for run, of_run in zip(runs, observers, strict=True)
    ]


def _step_together(learners: Sequence[Learner], supply: Supply, recorder: Recorder) -> None:
    """Take one step of each word."""
    runs = [learner.run for learner in learners]
    inputs, ahead = supply.next(runs)
    if ahead and all(map(can_be_undone, runs)):
        step_and_check(runs, inputs, ahead, recorder)
    else:
        raise_first(compute_gradients(runs, inputs, ahead))
        for run in runs:
            update(run)
    for run, step_input in zip(runs, inputs, strict=True):
        run.progress.images += step_input.sample_count
    for learner in learners:
        learner.end_step()
    for learner in learners:
        learner.end_epoch_if_done()


class Learner:
    """A run in training, with its observers and what measures it."""

    def __init__(
        self, run: Run, observers: Sequence[Observer], evaluator: Evaluator | None = None
    ) -> None:
        self.run = run
        self.observers = observers
        self._evaluator = evaluator or Evaluator(run)
        self._best_by_scores = BestByScores(run)

    def start(self, check: Check | None) -> None:
        """Begin, or go on from a state."""
        notify(self.observers, "started", self.run)
        if check:
            check(self.run)
        self._evaluate()
        if self.run.epoch_done and not self.run.over:  # the state was saved just before its end
            self._end_epoch()

    def end_step(self) -> None:
        """Report a step that is done, and evaluate where it is time."""
        notify(self.observers, "stepped", self.run)
        self._evaluate()

    def end_epoch_if_done(self) -> None:
        """End the epoch where it is time: all words that share the step are evaluated by then."""
        epoch_done = self.run.epoch_done or self.run.complete
        if epoch_done and not self.run.progress.ending:
            self._end_epoch()

    def end(self) -> None:
        """Report a run that is over.

        Raises:
            TrainingError: the processes have learned different things.
        """
        self.run.processes.check_same(self.run.rows)
        if self.run.complete:
            notify(self.observers, "finished", self.run)
        else:
            notify(self.observers, "stopped", self.run)

    def _evaluate(self) -> None:
        if self._evaluator.evaluate(self.run):
            notify(self.observers, "measured", self.run)
        self._best_by_scores.look(self.run)

    def _end_epoch(self) -> None:
        notify(self.observers, "epoch_ended", self.run)
        if not self.run.over:
            self.run.advance_epoch()


@contextmanager
def reporting_failures(going: Sequence[Learner]) -> Iterator[None]:
    """Report an exception to the observers of all runs still going, and raise it in the user's terms.

    Args:
        going: these runs; read when the exception comes.
    """
    try:
        yield
    except KeyboardInterrupt:
        for learner in going:
            run = learner.run
            if run.step and not run.progress.stop_signal:  # a second Ctrl-C asks not to save
                notify(learner.observers, "stopped", run)
        raise
    except Exception as error:
        ended = _in_users_terms(error, going)
        for learner in going:
            notify(learner.observers, "failed", learner.run, ended or error)
        if ended is None or ended is error:
            raise
        raise ended from error


def _in_users_terms(error: Exception, going: Sequence[Learner]) -> TrainingError | None:
    """Return the error translated for the user by one of the runs; None if none can."""
    for learner in going:
        translated = as_training_error(error, learner.run)
        if translated:
            return translated
    return None
