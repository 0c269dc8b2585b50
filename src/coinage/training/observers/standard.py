"""The observers that every run has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coinage.hub import Uploader
from coinage.text.prompts import Prompt
from coinage.training.observers.base import Observer, Picture, in_order
from coinage.training.observers.evaluations import Evaluations
from coinage.training.observers.housekeeping import Housekeeper
from coinage.training.observers.image_ranking import ImageRanking, Receive
from coinage.training.observers.journal import Journal
from coinage.training.observers.previews import Previewer
from coinage.training.observers.reporter import Reporter
from coinage.training.observers.saver import Saver
from coinage.training.observers.trackers import Tracker, Writer
from coinage.training.observers.watchdog import Watchdog
from coinage.training.run import Run


@dataclass(frozen=True, slots=True)
class PreviewReceivers:
    """Passes previews on to a run's trackers and to its page."""

    tracker: Tracker
    reporter: Reporter | None

    def __call__(self, pictures: Sequence[Picture], step: int, earlier: bool) -> None:
        """Pass on the previews of a step; the steps of a tracker must not go back to an earlier one."""
        if not earlier:
            self.tracker.show(pictures, step)
        if self.reporter:
            self.reporter.show(pictures, step)


def observers_for(
    run: Run,
    prompts: Sequence[Prompt],
    writers: Sequence[Writer] = (),
    uploader: Uploader | None = None,
    reporter: Reporter | None = None,
    more: Iterable[Observer] = (),
) -> list[Observer]:
    """Return the observers of a run, by their priority.

    The main process writes the files; all processes draw previews and watch the run.

    Args:
        run: before its first step.
        prompts: of previews.
        writers: of trackers, in the main process.
        uploader: of saved files, in the main process.
        reporter: writes the run's page, in the main process.
        more: other observers, such as the user's own.
    """
    config, name = run.config, run.config.word.output_name
    folder = config.save.output_dir
    tracker = Tracker(writers)
    receivers: list[Receive] = []
    observers: list[Observer] = [Watchdog(config.loop.on_problem), *more]
    if run.processes.main:
        path = folder / f"{name}-log.jsonl"
        journal = Journal(path, reporter.add) if reporter else Journal(path)
        receivers.append(journal.compared)
        observers += [
            Housekeeper(folder, name, config.state.resume),
            journal,
            Evaluations(),
            Saver(config, uploader),
            tracker,
        ]
    if reporter:
        observers.append(reporter)
        receivers.append(reporter.compared)
    if config.loop.compare_images:
        observers.append(ImageRanking(receivers))
    if prompts:
        show = PreviewReceivers(tracker, reporter)
        observers.append(Previewer(config.preview, prompts, folder / "sample", name, show))
    return in_order(observers)
