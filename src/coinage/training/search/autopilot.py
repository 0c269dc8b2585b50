"""Which settings to make the run with: several are tried side by side for a while, and the run is made with the best.

Candidates learn on the one frozen model, their samples in one batch; after each round the worse half is dropped (successive
halving: Jamieson & Talwalkar 2016, arXiv:1502.07943). They are compared by the loss on the same images, noise and timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from coinage.config import TrainConfig, WordConfig
from coinage.data.latents import Latents, Memory
from coinage.data.sample import Sample
from coinage.errors import TrainingError
from coinage.optim.reach import DIRECTIONAL
from coinage.optim.table import find_optimizer
from coinage.runs.choice import choice_of, path_of
from coinage.seeding import key_for
from coinage.system.files import write_bytes
from coinage.terminal.messages import fact
from coinage.terminal.progress import counted
from coinage.text.placeholder import CHUNK, pieces_of, taken, word_pattern
from coinage.training.evaluation import evaluation_loss, evaluation_set
from coinage.training.loop import learn, update
from coinage.training.run import Run, Start, Update
from coinage.training.setup import prepare_on, warn_of_rate
from coinage.training.step import Batch

SHARE, LEAST = 0.05, 20  # of the run's steps that a round takes, and steps that it takes at least
MOST = 0.1  # of the run's steps that all rounds take together, where `LEAST` allows it
FACTOR = 4  # between learning rates that are tried
SEEDS = 3  # that are tried before more vectors, which obey other words less
DRAWS = 32  # images at timesteps of their own that a candidate is judged by
AS_CONFIGURED = "as configured"
PRIVATE = "\ue000"  # stands in no caption, and is no letter


@dataclass(slots=True)
class Candidate:
    """Settings on trial. What is not finite has lost, and learns no more."""

    run: Run
    lessons: Iterator[Update]
    measures: Sequence[Batch]
    loss: float = math.nan

    @property
    def name(self) -> str:
        return self.run.config.loop.chosen

    @property
    def lost(self) -> bool:
        return math.isinf(self.loss)


def candidates(
    config: TrainConfig, starts: Sequence[Start], count: int, known: Sequence[str] = ()
) -> list[TrainConfig]:
    """Settings to try, those that promise most first; `loop.chosen` is the name of each.

    Args:
        config: of the run, which is the first one.
        starts: init words that were measured, best first.
        count: how many.
        known: words that no piece of the word may be.
    """
    found = [_named(config, AS_CONFIGURED)]
    variants = _variants(config, starts)
    while len(found) < count:
        one = next(variants)
        if one.word.num_vectors == config.word.num_vectors or not taken(
            pieces_of(one.word.token, one.word.num_vectors), known
        ):
            found.append(one)
    return found


def _variants(config: TrainConfig, starts: Sequence[Start]) -> Iterator[TrainConfig]:
    word, optim, loop = config.word, config.optim, config.loop
    others = [
        text for text, *_ in starts if text and text != word.init_word and word.init_file is None
    ]
    more = [
        _named(replace(config, word=replace(word, init_word=text)), f"init word {text}")
        for text in others
    ]
    yield from more[:1]
    if (
        optim.learning_rate
        and not optim.relative_step
        and find_optimizer(optim.name).path != DIRECTIONAL
    ):
        for rate in (optim.learning_rate * FACTOR, optim.learning_rate / FACTOR):
            yield _named(
                replace(config, optim=replace(optim, learning_rate=rate)), f"learning rate {rate:g}"
            )
    seeds = (key_for(loop.seed, "autopilot", number) % 2**31 for number in range(2**31))
    others_by_seed = (
        _named(replace(config, loop=replace(loop, seed=seed)), f"seed {seed}") for seed in seeds
    )
    yield from islice(others_by_seed, SEEDS)
    twice = 2 * word.num_vectors
    if twice <= CHUNK // 2 and (word.init_file is None or word.init_fit == "repeat"):
        yield _named(replace(config, word=replace(word, num_vectors=twice)), f"{twice} vectors")
    yield from more[1:]
    yield from others_by_seed


def _named(config: TrainConfig, name: str) -> TrainConfig:
    return replace(config, loop=replace(config.loop, chosen=name))


def rounds(count: int, steps: int) -> list[tuple[int, int]]:
    """How many candidates take how many steps, round by round, in a run of so many steps."""
    number = (count - 1).bit_length()
    each = max(LEAST, int(steps * min(SHARE, MOST / number)))
    each = min(each, max(1, steps // number))
    made = []
    for _ in range(number):
        made.append((count, each))
        count = (count + 1) // 2
    return made


def cost(count: int, steps: int, images_per_step: float) -> float:
    """What the trial costs, as a share of the passes of a run; a measurement passes forward only."""
    return (
        sum(going * (each + DRAWS / (2 * images_per_step)) for going, each in rounds(count, steps))
        / steps
    )


def with_the_best(runs: Sequence[Run]) -> list[Run]:
    """The runs, those that ask for it with the best settings found; all before their first step.

    The words of a model are tried one after another, each beside the others as they start.
    """
    if not any(run.config.loop.to_try for run in runs):
        return list(runs)
    first, configs = runs[0], []
    for run in runs:
        beside = [other.config.word for other in runs if other is not run]
        configs.append(choose(run, beside) if run.config.loop.to_try else run.config)
    latents = [run.latents for run in runs]
    made = prepare_on(
        first.parts, first.dtype, configs, [run.samples for run in runs], first.processes, latents
    )
    for new, old in zip(made, runs, strict=True):
        new.starts = old.starts
        if new.config.optim != old.config.optim:
            warn_of_rate(new)
    return made


def choose(run: Run, beside: Sequence[WordConfig]) -> TrainConfig:
    """Try settings for a word, and keep and tell what was found; the model has the candidates' words afterwards.

    Args:
        run: before its first step.
        beside: other words of its model, which captions may hold.
    """
    config = run.config
    known = {name for tokenizer in run.parts.tokenizers for name in tokenizer.get_vocab()}
    known |= {
        piece.lower() for other in beside for piece in pieces_of(other.token, 2 * other.num_vectors)
    }
    ranked = halved(
        on_trial(run, candidates(config, run.starts, config.loop.to_try, tuple(known)), beside)
    )
    ranking = [(one.name, one.loss if math.isfinite(one.loss) else None) for one in ranked]
    best = ranked[0].run.config
    choice = choice_of(best, config.loop.seed, ranking)
    if run.processes.main:
        write_bytes(path_of(config), choice.as_json())
    shown = ", ".join(
        f"{name} {'diverged' if loss is None else format(loss, '.4f')}" for name, loss in ranking
    )
    fact("tried", f"{f'{config.word.token}: ' if beside else ''}{shown}")
    return choice.applied(config)


def on_trial(
    run: Run, configs: Sequence[TrainConfig], beside: Sequence[WordConfig]
) -> list[Candidate]:
    """Candidates for a run's word on the run's model, each with a word of its own; they share the run's latents."""
    private, samples = [], []
    for number, config in enumerate(configs):
        token = f"{config.word.token}{PRIVATE}{number}{PRIVATE}"
        private.append(replace(config, word=replace(config.word, token=token)))
        samples.append(renamed(run.samples, config.word, token))
    latents = [kept_latents(run)] * len(configs)
    made = prepare_on(run.parts, run.dtype, private, samples, run.processes, latents, beside=beside)
    return [Candidate(one, one.lessons(), evaluation_set(one, DRAWS)) for one in made]


def kept_latents(run: Run) -> Latents:
    """The run's latents; all of its images in memory where it encodes them each time: then cut in the middle, in their own colours."""
    data = run.config.data
    if data.cache_latents:
        return run.latents
    latents = Latents(run.parts.vae, run.samples, data.readers, Memory())
    with counted("encoding images", sum(sample.latents for sample in run.samples)) as on_image:
        latents.cache(data.vae_batch_size, on_image, run.processes.share)
    for found in run.processes.gather(latents.kept()):
        latents.keep(found)
    return latents


def renamed(samples: Sequence[Sample], word: WordConfig, token: str) -> list[Sample]:
    """The samples with another name for the word and its pieces, where they stand alone."""
    names = dict(
        zip(
            pieces_of(word.token, word.num_vectors), pieces_of(token, word.num_vectors), strict=True
        )
    )
    pattern = word_pattern(names)

    def put(text: str) -> str:
        return pattern.sub(lambda found: names[found[0]], text)

    made = []
    for sample in samples:
        rules = sample.subset.captions
        rules = replace(
            rules,
            prefix=rules.prefix and put(rules.prefix),
            suffix=rules.suffix and put(rules.suffix),
        )
        subset = replace(
            sample.subset,
            captions=rules,
            class_tokens=sample.subset.class_tokens and put(sample.subset.class_tokens),
        )
        made.append(replace(sample, caption=put(sample.caption), subset=subset))
    return made


def halved(tried: Sequence[Candidate]) -> list[Candidate]:
    """All candidates, best first: those that were dropped sooner come after those that went on."""
    going, dropped, plan = (
        list(tried),
        list[Candidate](),
        rounds(len(tried), tried[0].run.total_steps),
    )
    with counted("trying settings", sum(count * steps for count, steps in plan)) as on_step:
        done = 0
        for count, steps in plan:
            for _ in range(steps):
                take_step([one for one in going if not one.lost])
                done += count
                on_step(done)
            going = ranked(going)
            going, dropped = going[: (count + 1) // 2], [*going[(count + 1) // 2 :], *dropped]
    return [*going, *dropped]


def take_step(going: Sequence[Candidate]) -> None:
    """An update of each candidate, all together; one that is not finite has lost, and the others learn what they would."""
    works = [(one, next(one.lessons)) for one in going]
    while works and not _learned(works):
        for _, work in works:
            for batch in work.batches:
                batch.rewind()
        works = [(one, work) for one, work in works if not one.lost]
    for one, _ in works:
        try:
            update(one.run)
        except TrainingError:
            one.loss = math.inf
        if one.run.progress.done == one.run.updates_per_epoch:
            one.run.progress.epoch, one.run.progress.done = one.run.progress.epoch + 1, 0


def _learned(works: Sequence[tuple[Candidate, Update]]) -> bool:
    """Whether all candidates have a gradient; those that have a loss that is not finite have lost."""
    try:
        learn([one.run for one, _ in works], [work for _, work in works])
    except TrainingError:
        for one, _ in works:
            one.loss = one.loss if math.isfinite(one.run.last.loss) else math.inf
        if not any(one.lost for one, _ in works):
            raise
        return False
    return True


def ranked(going: Sequence[Candidate]) -> list[Candidate]:
    """Measure candidates, and order them; all processes have the main one's order."""
    for one in going:
        if not one.lost:
            with one.run.averaged():
                loss = evaluation_loss(one.run, one.measures)
            one.loss = loss if math.isfinite(loss) else math.inf
    order = sorted(range(len(going)), key=lambda i: going[i].loss)
    return [going[i] for i in going[0].run.processes.gather(order)[0]]
