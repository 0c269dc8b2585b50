"""Clear away files of earlier processes before a run writes its own."""

from __future__ import annotations

import logging
from pathlib import Path

from coinage.runs.files import is_mixing, set_aside, tidy
from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run
from coinage.wording import counted, few

log = logging.getLogger("coinage")


class Housekeeper(Observer):
    """Renames the files of an earlier run, and deletes those that a killed one left half written.

    Args:
        folder: of the output.
        name: of the run, on which it holds a lock.
        resume: what was asked for with `--resume`, if anything.
    """

    priority = Priority.HOUSEKEEPING

    def __init__(self, folder: Path, name: str, resume: str | None = None) -> None:
        self._folder, self._name, self._resume = folder, name, resume

    def started(self, run: Run) -> None:
        removed = tidy(self._folder, self._name)
        if removed:
            count, names = counted(len(removed), "file"), few(path.name for path in removed)
            log.debug("deleted %s that was half written: %s", count, names)
        if run.step or not is_mixing(self._folder, self._name, self._resume):
            return
        try:
            kept = set_aside(self._folder, self._name)
        except OSError as error:
            text = "files of an earlier run are in the way and cannot be renamed: %s: %s"
            log.warning(text, error.filename, error.strerror)
            return
        if kept:
            log.info("kept from an earlier run: %s", few(path.name for path in kept))
