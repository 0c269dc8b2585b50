"""What a training command does, and would do, told without the model: the head of every run, and `--dry_run`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coinage.advice import Planned, memory_problem
from coinage.data.summary import headlines
from coinage.disk import MB, latent_bytes, length_of, saved_bytes, saves
from coinage.footprint import CONTEXT
from coinage.model_sizes import model_sizes
from coinage.reach import rate_problem
from coinage.terminal import fact

if TYPE_CHECKING:
    import torch

    from coinage.config import TrainConfig
    from coinage.data.sample import Sample
    from coinage.preflight import Checked

log = logging.getLogger("coinage")


def tell_head(config: TrainConfig, samples: Sequence[Sample], *, drawn: bool) -> None:
    """What a run is, a line for each thing: word, data, length, file, seed.

    Args:
        config: the run.
        samples: its images.
        drawn: whether nobody gave the seed.
    """
    word, seed = config.word, config.loop.seed
    count = "1 vector" if word.num_vectors == 1 else f"{word.num_vectors} vectors"
    fact("word", f"{word.token}, {count} from {word.init_file or word.init_word}")
    for number, line in enumerate(headlines(config.data, samples)):
        fact("" if number else "data", line)
    steps, epochs = length_of(config, samples)
    images = sum(sample.trains for sample in samples)
    fact("run", f"{images} images, {steps} steps, {epochs} epochs, {config.optim.name} at {config.optim.learning_rate:g}")
    fact("output", str(config.output_file))
    fact("seed", f"{seed} (pass --seed to repeat this run)" if drawn else str(seed))


def tell_plan(config: TrainConfig, checked: Checked) -> None:
    """Say how long the run would be, what it would write and take, and whether its learning rate can teach anything."""
    samples = checked.samples
    steps, epochs = length_of(config, samples)
    count, states = saves(config, steps, epochs), " with their states" if config.state.save else ""
    log.info("%d embeddings%s in %s, %.1f MB", count, states, config.save.output_dir, saved_bytes(config, count) / MB)
    if config.data.cache_latents:
        size = sum(map(latent_bytes, samples))
        log.info("%.1f MB of latents %s", size / MB, "on the disk" if config.data.cache_to_disk else "in memory")
    log.info("%s", Planned(config, samples, checked.prompts).needs(model_sizes(config.model)).shown())
    _judge_rate(config, steps)
    import torch

    if torch.cuda.is_available():
        judge_memory(config, checked, torch.device("cuda"))
    log.info("nothing was loaded or trained: leave out --dry_run to begin")


def judge_memory(config: TrainConfig, checked: Checked, device: torch.device) -> None:
    """Warn of a run that does not fit into what is free on a GPU, and name what makes it fit; elsewhere nothing is said."""
    import torch

    if device.type != "cuda":
        return
    try:
        free = torch.cuda.mem_get_info(device)[0] + CONTEXT  # this process has its context by now
    except RuntimeError as error:  # the run itself tells what is wrong with the GPU
        log.debug("free memory: %s", error)
        return
    problem = memory_problem(Planned(config, checked.samples, checked.prompts), model_sizes(config.model), free)
    if problem:
        log.warning("%s", problem)


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
