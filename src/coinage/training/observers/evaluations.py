"""Log the evaluation loss."""

from __future__ import annotations

import logging

from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run

log = logging.getLogger("coinage")


class Evaluations(Observer):
    """Logs what was measured, and why a run ended early."""

    priority = Priority.EVALUATION

    def measured(self, run: Run) -> None:
        level = logging.INFO if any(sample.held_out for sample in run.samples) else logging.DEBUG
        loss = run.results.measurements[run.step].loss
        log.log(level, "step %d: loss %.4f on %s", run.step, loss, run.measured_on)

    def finished(self, run: Run) -> None:
        if run.results.settled:
            log.info("%s", run.results.settled.sentence(run.total_steps, run.measured_on))
