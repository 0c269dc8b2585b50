"""Which observers watch a run, and the progress of caching."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.progress import Progress as Bar

from coinage.prompts import Prompt
from coinage.training.observers import Observer, Previewer, Progress, Saver, Tracker
from coinage.training.setup import Run


def observers_for(run: Run, prompts: Sequence[Prompt]) -> list[Observer]:
    """Saving first, so that nothing is lost to a later one; then previews, tracking, progress."""
    config, name = run.config, run.config.words[0].output_name
    observers: list[Observer] = [Saver(config.save, name)]
    if prompts:
        observers.append(Previewer(config.preview, prompts, config.save.output_dir / "sample", name))
    if config.log.tracker == "tensorboard" and config.log.dir:
        stamp = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
        observers.append(Tracker(config.log.dir / f"{config.log.prefix}{stamp}" / config.log.name))
    return [*observers, Progress()]


def cache_latents(run: Run) -> None:
    """Encode every image once, with a progress bar on a terminal."""
    total = len(run.samples) + sum(sample.subset.flip for sample in run.samples)
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("encoding images", total=total)
        run.latents.cache(run.config.data.vae_batch_size, lambda done: bar.update(task, completed=done))
