"""What a training is to do, in words: its word, data, length, files and needs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coinage.checks.disk import latent_bytes, saved_bytes, saves
from coinage.checks.several_words import with_batches
from coinage.data.batches import images_per_step
from coinage.data.captions import TEMPLATES
from coinage.data.summary import headlines
from coinage.models.facts import FACTS
from coinage.system.launch import process_count
from coinage.wording import counted, sized

if TYPE_CHECKING:
    from coinage.checks.plan import Plan
    from coinage.config import WordConfig

Fact = tuple[str, str]  # label, which is "" where a fact goes on, and text
REPEAT = "(pass --seed to repeat this run)"


def head_of(plans: Sequence[Plan]) -> list[Fact]:
    """Return what the run is: word, data, length, file, seed; of several words a line for each."""
    return _head_of_one(plans[0]) if len(plans) == 1 else _head_of_several(plans)


def _head_of_one(plan: Plan) -> list[Fact]:
    config = plan.config
    word, optim = config.word, config.optim
    facts = [("word", f"{word.token}, {counted(word.num_vectors, 'vector')} from {start_of(word)}")]
    for number, line in enumerate(headlines(config.data, plan.samples)):
        facts.append(("" if number else "data", line))
    for sentence in _sentences(plan):
        facts.append(("", f'captions: sentences such as "{sentence.replace("{}", word.token)}"'))
    facts += _companions([plan])
    length = f"{steps_of([plan])}, {counted(plan.epochs, 'epoch')}"
    learning = f"{optim.name} at {optim.learning_rate:g}{_window_of(word)}"
    facts.append(("run", f"{length}, {learning}"))
    facts.append(("output", str(config.output_file)))
    return [*facts, _seed_of([plan])]


def _sentences(plan: Plan) -> list[str]:
    """Return the first of each kind of sentences that stand in for captions."""
    first: set[str] = set()
    for dataset in plan.config.data.datasets:
        for subset in dataset.subsets:
            template = subset.captions.template
            if template:
                first.add((TEMPLATES[template] if isinstance(template, str) else template)[0])
    return sorted(first)


def _head_of_several(plans: Sequence[Plan]) -> list[Fact]:
    joint = sum(plan.config.word.together for plan in plans)
    how = "trained together in one batch; each learns what it would learn alone"
    if joint:
        which = "they" if joint == len(plans) else f"{joint} of them"
        how = f"trained together in one batch; {which} learn from the same images"
    facts = [("words", f"{len(plans)}, {how}")]
    images_a_step = 0.0
    leading = with_batches(plans)
    for plan in plans:
        config = plan.config
        word, optim = config.word, config.optim
        vectors = counted(word.num_vectors, "vector")
        images = counted(sum(sample.trains for sample in plan.samples), "image")
        learning = f"{images}, {optim.name} at {optim.learning_rate:g}{_window_of(word)}"
        start = f"{word.token}, {vectors} from {start_of(word)}"
        facts.append(("", f"{start}: {learning}, {config.output_file}"))
        if any(plan is one for one in leading):
            images_a_step += images_per_step(config, plan.samples, process_count())
    facts += _companions(plans)
    facts.append(("run", f"{steps_of(plans)}, each with {counted(round(images_a_step), 'image')}"))
    return [*facts, _seed_of(plans)]


def _window_of(word: WordConfig) -> str:
    """Return in which steps of the run a word learns, "" where in all."""
    after = f" after step {word.start_step}" if word.start_step else ""
    return f"{after} to step {word.end_step}" if word.end_step else after


def _companions(plans: Sequence[Plan]) -> list[Fact]:
    """Return the words that captions may hold and that stay as they are."""
    words = dict.fromkeys(word for plan in plans for word in plan.config.companions)
    facts = []
    for number, word in enumerate(words):
        text = f"{word.token}, {counted(word.num_vectors, 'vector')} of {word.init_file}, stays as it is"
        facts.append(("" if number else "beside", text))
    return facts


def _seed_of(plans: Sequence[Plan]) -> Fact:
    seeds = ", ".join(dict.fromkeys(str(plan.config.loop.seed) for plan in plans))
    drawn = any(plan.seed_drawn for plan in plans)
    return "seed", f"{seeds} {REPEAT}" if drawn else seeds


def steps_of(plans: Sequence[Plan]) -> str:
    """Return how long a run is, in words; "at most" where all its words may end early."""
    most = "at most " if all(plan.config.loop.early_stop for plan in plans) else ""
    return most + counted(max(plan.steps for plan in plans), "step")


def start_of(word: WordConfig) -> str:
    """Return what a word starts from, in words."""
    if word.search:
        return "a start word found automatically"
    return str(word.init_file or word.init_word)


def files_of(plans: Sequence[Plan]) -> str:
    """Return what the run would write."""
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
    return f"{embeddings}{states} in {save.output_dir}, {sized(size)}"


def latents_of(plans: Sequence[Plan]) -> str:
    """Return what the encoded images take; "" where they are not kept."""
    data = plans[0].config.data
    if not data.cache_latents:
        return ""
    facts = FACTS[plans[0].config.model.family]
    leading = with_batches(plans)
    size = sum(latent_bytes(sample, facts) for plan in leading for sample in plan.samples)
    place = "on the disk" if data.cache_to_disk else "in memory"
    return f"{sized(size)} of latents {place}"


def trials_of(plan: Plan) -> str:
    """Return what `--autopilot` would add; "" without it."""
    from coinage.training.search.autopilot import cost

    to_try = plan.config.loop.to_try
    if not to_try:
        return ""
    images = images_per_step(plan.config, plan.samples, process_count())
    percent = 100 * cost(to_try, plan.steps, images)
    return (
        f"--autopilot: {counted(to_try, 'setting')} would be tried before the first step, "
        f"which adds {percent:.0f} % to the work of the run"
    )
