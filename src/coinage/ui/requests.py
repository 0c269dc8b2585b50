"""Do during a run what the page asks for: previews now, a save now, an end after this step."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence

from coinage.training.observers.base import Observer, Priority
from coinage.training.observers.previews import Previewer
from coinage.training.observers.saver import Saver
from coinage.training.run import Run
from coinage.ui.job import PREVIEW, SAVE, STOP, forget, is_asked
from coinage.ui.workspace import WordFolder

log = logging.getLogger("coinage")


class Requests(Observer):
    """Looks after each step for the files that ask a run for something, and removes them when it is done.

    It comes behind saver and previewer: what they have just done is not done twice.

    Args:
        folder: of the word.
        observers: of the run.
    """

    priority = Priority.PREVIEWS + 1

    def __init__(self, folder: WordFolder, observers: Sequence[Observer]) -> None:
        self._folder = folder
        self._savers = [observer for observer in observers if isinstance(observer, Saver)]
        self._previewers = [observer for observer in observers if isinstance(observer, Previewer)]

    def stepped(self, run: Run) -> None:
        # The signal that asks too may have come while no handler could act on it
        if is_asked(self._folder, STOP):
            run.request_stop(signal.SIGTERM)
        if is_asked(self._folder, SAVE):
            if all(saver.save_now(run) for saver in self._savers):
                log.info("saved word and state after step %d, as asked", run.step)
            forget(self._folder, SAVE)
        if is_asked(self._folder, PREVIEW):
            for previewer in self._previewers:
                previewer.draw_now(run)
            if not self._previewers:
                log.warning("no previews can be drawn: the run has no prompts")
            forget(self._folder, PREVIEW)
