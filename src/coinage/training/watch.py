"""Which observers watch a run, and the progress of caching."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from coinage.progress import counted
from coinage.prompts import Prompt
from coinage.training.observers import Journal, Observer, Previewer, Progress, Together, Tracker
from coinage.training.saving import Saver
from coinage.training.setup import Run
from coinage.training.validation import Validator

log = logging.getLogger("coinage")


def observers_for(run: Run, prompts: Sequence[Prompt]) -> Observer:
    """Saving first, so that nothing is lost to a later one; then previews, tracking, progress. All processes draw and measure."""
    config, name, main = run.config, run.config.words[0].output_name, run.processes.main
    observers: list[Observer] = [Saver(config), Journal(config.save.output_dir / f"{name}-log.jsonl")] if main else []
    if prompts:
        observers.append(Previewer(config.preview, prompts, config.save.output_dir / "sample", name))
    if any(sample.held_out for sample in run.samples):
        observers.append(Validator(config.validation))
    if main and config.log.tracker == "tensorboard" and config.log.dir:
        stamp = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
        observers.append(Tracker(config.log.dir / f"{config.log.prefix}{stamp}" / config.log.name))
    return Together([*observers, Progress()] if main else observers)


def cache_latents(run: Run) -> None:
    """Encode every image once, showing how far it is; each process encodes its share."""
    total = sum(2 if s.subset.images.flip and not s.held_out else 1 for s in run.samples)
    with counted("encoding images", total) as on_image:
        run.latents.cache(run.config.data.vae_batch_size, on_image, run.processes.share)
    run.parts.vae.to("cpu")  # back on its device for each preview
    for found in run.processes.gather(run.latents.kept()):
        run.latents.keep(found)
    if run.latents.recomputed:
        shown = "; ".join(f"{path.name}: {why}" for path, why in list(run.latents.recomputed.items())[:3])
        log.warning("%d latents on disk were not used and are made anew (%s)", len(run.latents.recomputed), shown)
