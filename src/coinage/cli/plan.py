"""What a training command would do, told without the model: `--dry_run`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from coinage.data.batches import batches_per_epoch, run_length
from coinage.data.summary import headlines
from coinage.launch import process_count
from coinage.reach import rate_problem

if TYPE_CHECKING:
    from coinage.config import TrainConfig
    from coinage.preflight import Checked

log = logging.getLogger("coinage")
MOMENTS = 2 * 4 * 4  # bytes of a latent pixel: mean and deviation, 4 channels, float32
REDUCTION = 8  # pixels a side to one of the latents, in the released models


def tell_plan(config: TrainConfig, checked: Checked) -> None:
    """Say how long the run would be, what it would write, and whether its learning rate can teach anything."""
    samples = checked.samples
    for line in headlines(config.data, samples):
        log.info("%s", line)
    batches = batches_per_epoch(samples, [dataset.batch_size for dataset in config.data.datasets])
    steps, epochs = run_length(config.loop, config.optim.accumulation * process_count(), batches)
    log.info("%d images, %d steps, %d epochs", sum(sample.trains for sample in samples), steps, epochs)
    log.info(
        "%d embeddings%s in %s", saves(config, steps, epochs), " with their states" if config.state.save else "", config.save.output_dir
    )
    if config.data.cache_latents:
        sizes = [sample.fit.bucket_wh for sample in samples for _ in range(2 if sample.subset.images.flip else 1)]
        size = sum(width * height for width, height in sizes) // REDUCTION**2 * MOMENTS
        log.info("%.1f MB of latents %s", size / 2**20, "on the disk" if config.data.cache_to_disk else "in memory")
    _judge_rate(config, steps)
    log.info("nothing was loaded or trained: leave out --dry_run to begin")


def saves(config: TrainConfig, steps: int, epochs: int) -> int:
    """How many embeddings a run writes in all, the last one included."""
    by_steps = steps // config.save.every_n_steps if config.save.every_n_steps else 0
    every = config.save.epochs_between(epochs)
    return by_steps + ((epochs - 1) // every if every else 0) + 1


def _judge_rate(config: TrainConfig, steps: int) -> None:
    """Compare the learning rate with the lengths of the model's words, which are read without the model."""
    from coinage.errors import CoinageError
    from coinage.vocabulary import read_vocabularies

    try:
        words = next(iter(read_vocabularies(config.model).values()))
    except CoinageError as error:
        log.info("note: the learning rate was not judged: %s", error.problems[0].what)
        return
    problem = rate_problem(config.optim, steps, words.table.shape[1], float(words.norms.mean()))
    if problem:
        log.warning("%s", problem)
