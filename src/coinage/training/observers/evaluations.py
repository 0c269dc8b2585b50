"""Reports the evaluation loss."""

from __future__ import annotations

import logging

from coinage.training.observers.base import Observer
from coinage.training.run import Run

log = logging.getLogger("coinage")


class Evaluations(Observer):
    """Tells what was measured."""

    def measured(self, run: Run) -> None:
        level = logging.INFO if any(sample.held_out for sample in run.samples) else logging.DEBUG
        log.log(
            level,
            "step %d: loss %.4f on %s",
            run.step,
            run.results.measurements[run.step].loss,
            run.measured_on,
        )

    def finished(self, run: Run) -> None:
        if run.results.settled:
            log.info("%s", run.results.settled.sentence(run.total_steps, run.measured_on))
