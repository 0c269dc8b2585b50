"""Which observers watch a run, and the progress of caching."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from coinage.hub import Uploader
from coinage.terminal.progress import counted
from coinage.text.prompts import Prompt
from coinage.training.observers.base import Named, Observer, Picture, Together
from coinage.training.observers.evaluations import Evaluations
from coinage.training.observers.housekeeping import Housekeeper
from coinage.training.observers.journal import Journal
from coinage.training.observers.previews import Previewer
from coinage.training.observers.progress import Progress
from coinage.training.observers.reporter import Reporter
from coinage.training.observers.saver import Saver
from coinage.training.observers.trackers import Tracker, Writer
from coinage.training.observers.watchdog import Watchdog
from coinage.training.run import Run

log = logging.getLogger("coinage")


def observers_for(
    run: Run,
    prompts: Sequence[Prompt],
    writers: Sequence[Writer] = (),
    uploader: Uploader | None = None,
    reporter: Reporter | None = None,
) -> Observer:
    """Log and saving first, so that nothing is lost to a later one; then previews, tracking, progress. All processes draw.

    Of words that learn side by side, the first one's observers show the progress of all.

    A state must not be older than the log: lines after it are cut when the run goes on, and lines before it are not made again.

    Args:
        run: before its first step.
        prompts: of previews.
        writers: of trackers, in the main process.
        uploader: of saved files, in the main process.
        reporter: writes the run's page, in the main process.
    """
    config, name, main = run.config, run.config.word.output_name, run.processes.main
    tracker = Tracker(writers)

    def show(pictures: Sequence[Picture], step: int, earlier: bool) -> None:
        if not earlier:  # a tracker's steps only rise
            tracker.show(pictures, step)
        if reporter:
            reporter.show(pictures, step)

    observers: list[Observer] = []
    if main:
        path = config.save.output_dir / f"{name}-log.jsonl"
        observers.append(Housekeeper(config.save.output_dir, name, config.state.resume))
        observers += [
            Journal(path, reporter.add) if reporter else Journal(path),
            Evaluations(),
            Saver(config, uploader),
        ]
    if prompts:
        observers.append(
            Previewer(config.preview, prompts, config.save.output_dir / "sample", name, show)
        )
    watchdog = Watchdog(config.loop.on_problem)
    if not main:
        return _for_one(run, [*observers, watchdog])
    # The page tells also of what the watchdog ends
    observers += [tracker, watchdog, *([reporter] if reporter else [])]
    if run.word_index:
        return _for_one(run, observers)
    progress = Progress()
    return _for_one(run, [progress.before, *observers, progress])


def _for_one(run: Run, observers: Sequence[Observer]) -> Observer:
    together = Together(observers)
    return Named(together, run.placeholder.token) if run.word_count > 1 else together


def cache_latents(*runs: Run) -> None:
    """Encode every image of runs that share a model once, showing how far it is; each process encodes its share."""
    for run in runs:
        _encode(run)
    if runs and len(runs) == runs[0].word_count:
        runs[0].parts.vae.to("cpu")  # back on its device for each preview
    for run in runs:
        for found in run.processes.gather(run.latents.kept()):
            run.latents.keep(found)
        if run.latents.recomputed:
            shown = "; ".join(
                f"{path.name}: {why}" for path, why in list(run.latents.recomputed.items())[:3]
            )
            log.warning(
                "%d latents on disk were not used and are made anew (%s)",
                len(run.latents.recomputed),
                shown,
            )


def _encode(run: Run) -> None:
    total = sum(sample.latents for sample in run.samples)
    begun = time.monotonic()
    with counted("encoding images", total) as on_image:
        run.latents.cache(run.config.data.vae_batch_size, on_image, run.processes.share)
    place = "on disk" if run.config.data.cache_to_disk else "in memory"
    log.debug("%d latents are %s after %.1f s", total, place, time.monotonic() - begun)
