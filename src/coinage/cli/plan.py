"""Print what a training command does, or would do: the head of every run, and `--dry_run`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coinage.checks.disk import latent_bytes, saved_bytes, saves
from coinage.checks.footprint import in_gb
from coinage.data.batches import images_per_step
from coinage.data.captions import TEMPLATES
from coinage.data.summary import headlines
from coinage.models.facts import FACTS
from coinage.system.launch import process_count
from coinage.terminal.messages import fact
from coinage.wording import counted, sized

if TYPE_CHECKING:
    from coinage.checks.plan import Plan
    from coinage.config import WordConfig

log = logging.getLogger("coinage")
REPEAT = "(pass --seed to repeat this run)"


def print_head(plans: Sequence[Plan]) -> None:
    """Print what the run is: word, data, length, file, seed; of several words a line for each."""
    if len(plans) == 1:
        _print_one(plans[0])
    else:
        _print_several(plans)


def _print_one(plan: Plan) -> None:
    config = plan.config
    word, optim = config.word, config.optim
    fact("word", f"{word.token}, {counted(word.num_vectors, 'vector')} from {start_of(word)}")
    for number, line in enumerate(headlines(config.data, plan.samples)):
        fact("" if number else "data", line)
    for template in _templates(plan):
        sentence = TEMPLATES[template][0].format(word.token)
        fact("", f'captions: sentences such as "{sentence}"')
    length = f"{steps_of([plan])}, {counted(plan.epochs, 'epoch')}"
    fact("run", f"{length}, {optim.name} at {optim.learning_rate:g}")
    fact("output", str(config.output_file))
    _print_seed([plan])


def _templates(plan: Plan) -> list[str]:
    """Return the kinds of sentences that stand in for captions."""
    templates: set[str] = set()
    for dataset in plan.config.data.datasets:
        for subset in dataset.subsets:
            if subset.captions.template:
                templates.add(subset.captions.template)
    return sorted(templates)


def _print_several(plans: Sequence[Plan]) -> None:
    how = "trained together in one batch; each learns what it would learn alone"
    fact("words", f"{len(plans)}, {how}")
    images_a_step = 0.0
    for plan in plans:
        config = plan.config
        word, optim = config.word, config.optim
        vectors = counted(word.num_vectors, "vector")
        images = counted(sum(sample.trains for sample in plan.samples), "image")
        learning = f"{images}, {optim.name} at {optim.learning_rate:g}"
        start = f"{word.token}, {vectors} from {start_of(word)}"
        fact("", f"{start}: {learning}, {config.output_file}")
        images_a_step += images_per_step(config, plan.samples, process_count())
    fact("run", f"{steps_of(plans)}, each with {counted(round(images_a_step), 'image')}")
    _print_seed(plans)


def _print_seed(plans: Sequence[Plan]) -> None:
    seeds = ", ".join(dict.fromkeys(str(plan.config.loop.seed) for plan in plans))
    drawn = any(plan.seed_drawn for plan in plans)
    fact("seed", f"{seeds} {REPEAT}" if drawn else seeds)


def steps_of(plans: Sequence[Plan]) -> str:
    """Return how long a run is, in words; "at most" where all its words may end early."""
    most = "at most " if all(plan.config.loop.early_stop for plan in plans) else ""
    return most + counted(max(plan.steps for plan in plans), "step")


def start_of(word: WordConfig) -> str:
    """Return what a word starts from, in words."""
    if word.search:
        return "a start word found automatically"
    return str(word.init_file or word.init_word)


def print_plan(plans: Sequence[Plan]) -> None:
    """Print what the run would write and need, and warnings about its learning rates."""
    import torch

    from coinage.checks.forecast import forecast

    _print_files(plans)
    _print_latents(plans)
    findings = forecast(plans)
    needs = plans[0].memory
    if torch.cuda.is_available():
        log.info("%s", needs.shown())
    else:
        about = in_gb(needs.total)
        log.info("no GPU here: the run would use the CPU (on a GPU it would take about %s)", about)
    for note in findings.notes:
        log.info("note: %s", note)
    for warning in findings.warnings:
        log.warning("%s", warning)
    for plan in plans:
        _print_autopilot(plan)
    log.info("dry run: nothing was trained. Remove --dry_run to start")


def _print_files(plans: Sequence[Plan]) -> None:
    save = plans[0].config.save
    size = count = 0
    may_be_fewer = False
    for plan in plans:
        files = saves(plan.config, plan.steps, plan.epochs)
        size += saved_bytes(plan.config, files)
        count += files
        if plan.config.loop.early_stop and files > 1 + plan.config.save.keep_best:
            may_be_fewer = True
    embeddings = ("at most " if may_be_fewer else "") + counted(count, "embedding")
    states = " with their states" if plans[0].config.state.save else ""
    log.info("%s%s in %s, %s", embeddings, states, save.output_dir, sized(size))


def _print_latents(plans: Sequence[Plan]) -> None:
    data = plans[0].config.data
    if data.cache_latents:
        facts = FACTS[plans[0].config.model.family]
        size = sum(latent_bytes(sample, facts) for plan in plans for sample in plan.samples)
        place = "on the disk" if data.cache_to_disk else "in memory"
        log.info("%s of latents %s", sized(size), place)


def _print_autopilot(plan: Plan) -> None:
    from coinage.training.search.autopilot import cost

    to_try = plan.config.loop.to_try
    if not to_try:
        return
    images = images_per_step(plan.config, plan.samples, process_count())
    percent = 100 * cost(to_try, plan.steps, images)
    log.info(
        "--autopilot: %s would be tried before the first step, which adds %.0f %% to the work of the run",
        counted(to_try, "setting"),
        percent,
    )
