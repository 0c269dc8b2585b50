"""What a training command does, and would do, told without the model: the head of every run, and `--dry_run`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coinage.checks.advice import Planned, memory_problem, side_by_side
from coinage.checks.disk import latent_bytes, saved_bytes, saves
from coinage.checks.footprint import CONTEXT, in_gb
from coinage.data.batches import images_per_step, length_of
from coinage.data.captions import TEMPLATES
from coinage.data.summary import headlines
from coinage.models.facts import FACTS
from coinage.models.sizes import model_sizes
from coinage.optim.reach import rate_problem
from coinage.system.launch import process_count
from coinage.terminal.messages import fact
from coinage.wording import counted, sized

if TYPE_CHECKING:
    import torch

    from coinage.checks.preflight import Checked
    from coinage.config import TrainConfig, WordConfig
    from coinage.data.sample import Sample

log = logging.getLogger("coinage")


def tell_head(config: TrainConfig, samples: Sequence[Sample], *, drawn: bool) -> None:
    """What a run is, a line for each thing: word, data, length, file, seed.

    Args:
        config: the run.
        samples: its images.
        drawn: whether nobody gave the seed.
    """
    word, seed = config.word, config.loop.seed
    fact("word", f"{word.token}, {counted(word.num_vectors, 'vector')} from {start_of(word)}")
    for number, line in enumerate(headlines(config.data, samples)):
        fact("" if number else "data", line)
    rules = [subset.captions for dataset in config.data.datasets for subset in dataset.subsets]
    for template in sorted({own.template for own in rules if own.template}):
        fact("", f'captions: sentences such as "{TEMPLATES[template][0].format(word.token)}"')
    steps, epochs = length_of(config, samples, process_count())
    optim = f"{config.optim.name} at {config.optim.learning_rate:g}"
    fact("run", f"{steps_of([config], [steps])}, {counted(epochs, 'epoch')}, {optim}")
    fact("output", str(config.output_file))
    fact("seed", f"{seed} (pass --seed to repeat this run)" if drawn else str(seed))


def tell_heads(configs: Sequence[TrainConfig], checked: Sequence[Checked], *, drawn: bool) -> None:
    """What a run of several words is, a line for each word. The arguments are as those of `tell_head`, in turn."""
    fact(
        "words",
        f"{len(configs)}, learned side by side: their batches are one, and each learns what it would alone",
    )
    for config, found in zip(configs, checked, strict=True):
        word, optim = config.word, config.optim
        count, images = (
            counted(word.num_vectors, "vector"),
            counted(sum(sample.trains for sample in found.samples), "image"),
        )
        own = f"{images}, {optim.name} at {optim.learning_rate:g}"
        fact("", f"{word.token}, {count} from {start_of(word)}: {own}, {config.output_file}")
    per_step = sum(
        images_per_step(config, found.samples, process_count())
        for config, found in zip(configs, checked, strict=True)
    )
    steps = [
        length_of(config, found.samples, process_count())[0]
        for config, found in zip(configs, checked, strict=True)
    ]
    fact("run", f"{steps_of(configs, steps)}, each with {counted(round(per_step), 'image')}")
    seeds = ", ".join(dict.fromkeys(str(config.loop.seed) for config in configs))
    fact("seed", f"{seeds} (pass --seed to repeat this run)" if drawn else seeds)


def steps_of(configs: Sequence[TrainConfig], steps: Sequence[int]) -> str:
    """Return how long a run is, in words: its longest word's steps, which are the most that it takes where all may end early."""
    return ("at most " if all(config.loop.early_stop for config in configs) else "") + counted(
        max(steps), "step"
    )


def start_of(word: WordConfig) -> str:
    """What a word starts from, in words."""
    return (
        "a start word found automatically" if word.search else str(word.init_file or word.init_word)
    )


def tell_plan(configs: Sequence[TrainConfig], checked: Sequence[Checked]) -> None:
    """Say how long the run would be, what it would write and take, and whether its learning rates can teach anything.

    Args:
        configs: one for each word that learns.
        checked: what was found for each.
    """
    config, data = configs[0], [sample for found in checked for sample in found.samples]
    lengths = [
        length_of(config, found.samples, process_count())
        for config, found in zip(configs, checked, strict=True)
    ]
    counts = [saves(config, *length) for config, length in zip(configs, lengths, strict=True)]
    size, states = (
        sum(map(saved_bytes, configs, counts)),
        " with their states" if config.state.save else "",
    )
    fewer = any(
        c.loop.early_stop and count > 1 + c.save.keep_best
        for c, count in zip(configs, counts, strict=True)
    )
    embeddings = ("at most " if fewer else "") + counted(sum(counts), "embedding")
    log.info("%s%s in %s, %s", embeddings, states, config.save.output_dir, sized(size))
    if config.data.cache_latents:
        facts = FACTS[config.model.family]
        size = sum(latent_bytes(sample, facts) for sample in data)
        log.info(
            "%s of latents %s",
            sized(size),
            "on the disk" if config.data.cache_to_disk else "in memory",
        )
    planned = planned_for(configs, checked)
    needs = planned.needs(model_sizes(config.model))
    for config, (steps, _) in zip(configs, lengths, strict=True):
        _judge_rate(config, steps, f"{config.word.token}: " if len(configs) > 1 else "")
    import torch

    if torch.cuda.is_available():
        log.info("%s", needs.shown())
        judge_memory(planned, torch.device("cuda"))
    else:
        log.info(
            "no GPU here: the run would use the CPU (on a GPU it would take about %s)",
            in_gb(needs.total),
        )
    for config, found in zip(configs, checked, strict=True):
        _tell_autopilot(config, found.samples)
    log.info("dry run: nothing was trained. Remove --dry_run to start")


def _tell_autopilot(config: TrainConfig, samples: Sequence[Sample]) -> None:
    from coinage.training.search.autopilot import cost

    if config.loop.to_try:
        run = config, samples, process_count()
        share = cost(config.loop.to_try, length_of(*run)[0], images_per_step(*run))
        text = "--autopilot: %s would be tried before the first step, which adds %.0f %% to the run's passes"
        log.info(text, counted(config.loop.to_try, "setting"), 100 * share)


def planned_for(configs: Sequence[TrainConfig], checked: Sequence[Checked]) -> Planned:
    """What the memory of a run depends on, that of all its words together."""
    planned = [
        Planned(config, found.samples, found.prompts)
        for config, found in zip(configs, checked, strict=True)
    ]
    tried = max(planned, key=lambda run: run.config.loop.to_try)
    # Settings on trial go through the model together, as words do
    more = tried.config.loop.to_try - len(planned)
    return side_by_side([*planned, *[replace(tried, prompts=()) for _ in range(more)]])


def judge_memory(planned: Planned, device: torch.device) -> None:
    """Warn of a run that does not fit into what is free on a GPU, and name what makes it fit; elsewhere nothing is said."""
    import torch

    if device.type != "cuda":
        return
    try:
        free = torch.cuda.mem_get_info(device)[0] + CONTEXT  # this process has its context by now
    except RuntimeError as error:  # the run itself tells what is wrong with the GPU
        log.debug("free memory: %s", error)
        return
    problem = memory_problem(planned, model_sizes(planned.config.model), free)
    if problem:
        log.warning("%s", problem)


def _judge_rate(config: TrainConfig, steps: int, prefix: str = "") -> None:
    """Compare the learning rate with the lengths of the model's words, which are read without the model."""
    from coinage.errors import CoinageError
    from coinage.models.vocabulary import read_vocabularies

    try:
        words = next(iter(read_vocabularies(config.model).values()))
    except CoinageError as error:
        log.info("note: the learning rate was not judged: %s", error.problems[0].what)
        return
    problem = rate_problem(config.optim, steps, words.table.shape[1], float(words.norms.mean()))
    if problem:
        log.warning("%s%s", prefix, problem)
