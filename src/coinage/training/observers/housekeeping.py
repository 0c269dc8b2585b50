"""What is done with files of earlier processes before a run writes its own."""

from __future__ import annotations

import logging
from pathlib import Path

from coinage.runs.files import is_mixing, set_aside, tidy
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.wording import counted, few

log = logging.getLogger("coinage")


class Housekeeper(Observer):
    """Keeps what an earlier run of the name left under a number, and deletes what a kill left half written.

    Args:
        folder: of the output.
        name: of the run, on which it holds a lock.
        resume: what was asked for with `--resume`, if anything.
    """

    def __init__(self, folder: Path, name: str, resume: str | None = None) -> None:
        self._folder, self._name, self._resume = folder, name, resume

    def started(self, run: Run) -> None:
        removed = tidy(self._folder, self._name)
        if removed:
            log.debug(
                "deleted %s that was half written: %s",
                counted(len(removed), "file"),
                few(path.name for path in removed),
            )
        if run.step or not is_mixing(self._folder, self._name, self._resume):
            return
        try:
            kept = set_aside(self._folder, self._name)
        except OSError as error:
            log.warning(
                "files of an earlier run are in the way and cannot be renamed: %s: %s",
                error.filename,
                error.strerror,
            )
            return
        if kept:
            log.info("kept from an earlier run: %s", few(path.name for path in kept))
