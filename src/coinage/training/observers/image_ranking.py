"""Find the training image that does not belong, at the end of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from coinage.errors import reason_of
from coinage.training.image_losses import ImageLoss, draws_for, foreign, image_losses
from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run
from coinage.wording import few

log = logging.getLogger("coinage")
Receive = Callable[[Run, Sequence[ImageLoss]], None]


class ImageRanking(Observer):
    """Measures each training image when the run is complete, and names those that gain far less.

    The word is saved by then: if measuring fails, this is logged, and nothing is lost. In every
    process of a run.

    Args:
        receivers: called with what was measured, in the main process.
    """

    priority = Priority.IMAGES

    def __init__(self, receivers: Sequence[Receive]) -> None:
        self._receivers = receivers

    def finished(self, run: Run) -> None:
        draws = draws_for(run)
        if not draws:
            return
        try:
            losses = image_losses(run, draws)
        except Exception as error:  # noqa: BLE001 - whatever it is, the word is saved
            log.warning("the images could not be compared: %s", reason_of(error))
            return
        if not run.processes.main:
            return
        for receive in self._receivers:
            receive(run, losses)
        if text := sentence(run, losses):
            log.warning("%s", text)


def sentence(run: Run, losses: Sequence[ImageLoss]) -> str:
    """Return which images gain far less than the others, "" if none does."""
    far = foreign(losses)
    if not far:
        return ""
    names = few(run.samples[one.sample].path.name for one in far)
    others = [one.percent for one in losses if one not in far]
    usual = sum(others) / len(others)
    least = f"{far[0].percent:.0f} %"
    are, they, them = ("is", "it shows", "it") if len(far) == 1 else ("are", "they show", "them")
    return (
        f"the word helps least with {names}: {least} of the loss, and {usual:.0f} % with the others\n"
        f"hint: look whether {they} what the others show; if not, {are} better left out:"
        f" train again without {them}"
    )
