"""Choose the settings of a run: try several side by side for a while, and take the best.

Candidates learn on the one frozen model, their samples in one batch; after each round the worse
half is dropped (successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943). They are compared
by the loss on the same images, noise and timesteps.
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
from coinage.optim.table import find_optimizer
from coinage.runs.choice import choice_of, path_of
from coinage.seeding import key_for
from coinage.system.files import write_bytes
from coinage.terminal.messages import fact
from coinage.terminal.progress import counted
from coinage.text.placeholder import CHUNK, pieces_of, taken, word_pattern
from coinage.training.batches import Batch
from coinage.training.evaluation import evaluation_loss, evaluation_set
from coinage.training.gradients import compute_gradients
from coinage.training.losses import ConfiguredLoss, Loss
from coinage.training.results import InitWordLosses
from coinage.training.run import Run, StepInput
from coinage.training.setup import prepare_on, warn_of_rate
from coinage.training.updates import update

AS_CONFIGURED = "as configured"
PRIVATE = "\ue000"  # stands in no caption, and is no letter


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """How thoroughly settings are tried.

    Attributes:
        round_share: of the run's steps that a round takes.
        least_round_steps: that a round takes at least.
        most_share: of the run's steps that all rounds take together, where `least_round_steps` allows it.
        rate_factor: between learning rates that are tried.
        seeds: that are tried before more vectors, which obey other words less.
        draws: images at timesteps of their own that a candidate is judged by.
    """

    round_share: float = 0.05
    least_round_steps: int = 20
    most_share: float = 0.1
    rate_factor: float = 4
    seeds: int = 3
    draws: int = 32


THOROUGH = TrialSettings()


@dataclass(slots=True)
class Candidate:
    """Settings on trial.

    Attributes:
        run: with these settings.
        step_inputs: of the run.
        evaluation_batches: by which it is judged.
        loss: on these, when it was last measured; infinite once anything is not finite: then it
            learns no more.
    """

    run: Run
    step_inputs: Iterator[StepInput]
    evaluation_batches: Sequence[Batch]
    loss: float = math.nan

    @property
    def name(self) -> str:
        return self.run.config.loop.chosen

    @property
    def finite_loss(self) -> float | None:
        return self.loss if math.isfinite(self.loss) else None

    @property
    def failed(self) -> bool:
        return math.isinf(self.loss)


def candidates(
    config: TrainConfig,
    init_words: Sequence[InitWordLosses],
    count: int,
    known: Sequence[str] = (),
    *,
    vary_rate: bool = True,
    settings: TrialSettings = THOROUGH,
) -> list[TrainConfig]:
    """Return settings to try, those that promise most first; `loop.chosen` is the name of each.

    Args:
        config: of the run, which is the first one.
        init_words: that were measured, best first.
        count: how many.
        known: words that no piece of the word may be.
        vary_rate: try other learning rates too, where the optimizer's is not an angle.
        settings: of the trial.
    """
    chosen = [_named(config, AS_CONFIGURED)]
    usual = config.word.num_vectors
    for variant in variants(config, init_words, vary_rate=vary_rate, settings=settings):
        if len(chosen) >= count:
            break
        word = variant.word
        if word.num_vectors == usual or not taken(pieces_of(word.token, word.num_vectors), known):
            chosen.append(variant)
    return chosen


def variants(
    config: TrainConfig,
    init_words: Sequence[InitWordLosses],
    *,
    vary_rate: bool = True,
    settings: TrialSettings = THOROUGH,
) -> Iterator[TrainConfig]:
    """Yield variants of settings, most promising first, without end: the last ones differ in their seed."""
    other_words = _with_other_init_words(config, init_words)
    seeds = _with_other_seeds(config)
    yield from other_words[:1]
    if vary_rate:
        yield from _with_other_rates(config, settings.rate_factor)
    yield from islice(seeds, settings.seeds)
    yield from _with_more_vectors(config)
    yield from other_words[1:]
    yield from seeds


def _with_other_init_words(
    config: TrainConfig, init_words: Sequence[InitWordLosses]
) -> list[TrainConfig]:
    word = config.word
    if word.init_file is not None:
        return []
    others = []
    for text, *_ in init_words:
        if text and text != word.init_word:
            changed = replace(config, word=replace(word, init_word=text))
            others.append(_named(changed, f"init word {text}"))
    return others


def _with_other_rates(config: TrainConfig, factor: float) -> Iterator[TrainConfig]:
    optim = config.optim
    if not optim.learning_rate or optim.relative_step or find_optimizer(optim.name).turns:
        return  # an angle fits every model as it is
    for rate in (optim.learning_rate * factor, optim.learning_rate / factor):
        changed = replace(config, optim=replace(optim, learning_rate=rate))
        yield _named(changed, f"learning rate {rate:g}")


def _with_other_seeds(config: TrainConfig) -> Iterator[TrainConfig]:
    for number in range(2**31):
        seed = key_for(config.loop.seed, "autopilot", number) % 2**31
        yield _named(replace(config, loop=replace(config.loop, seed=seed)), f"seed {seed}")


def _with_more_vectors(config: TrainConfig) -> Iterator[TrainConfig]:
    word, twice = config.word, 2 * config.word.num_vectors
    if twice <= CHUNK // 2 and (word.init_file is None or word.init_fit == "repeat"):
        changed = replace(config, word=replace(word, num_vectors=twice))
        yield _named(changed, f"{twice} vectors")


def _named(config: TrainConfig, name: str) -> TrainConfig:
    return replace(config, loop=replace(config.loop, chosen=name))


def rounds(count: int, steps: int, settings: TrialSettings = THOROUGH) -> list[tuple[int, int]]:
    """Return how many candidates take how many steps, round by round, in a run of so many steps."""
    number = (count - 1).bit_length()
    share = min(settings.round_share, settings.most_share / number)
    each = max(settings.least_round_steps, int(steps * share))
    each = min(each, max(1, steps // number))
    plan = []
    for _ in range(number):
        plan.append((count, each))
        count = (count + 1) // 2
    return plan


def cost(
    count: int, steps: int, images_per_step: float, settings: TrialSettings = THOROUGH
) -> float:
    """Return the cost of the trial, as a share of the passes of a run; a measurement passes forward only."""
    measuring = settings.draws / (2 * images_per_step)
    total = sum(going * (each + measuring) for going, each in rounds(count, steps, settings))
    return total / steps


def with_the_best(runs: Sequence[Run], settings: TrialSettings = THOROUGH) -> list[Run]:
    """Return the runs, those that ask for it with the best settings found; all before their first step.

    The words of a model are tried one after another, each beside the others as they start.
    """
    if not any(run.config.loop.to_try for run in runs):
        return list(runs)
    first, configs = runs[0], []
    for run in runs:
        beside = [other.config.word for other in runs if other is not run]
        configs.append(choose(run, beside, settings) if run.config.loop.to_try else run.config)
    prepared = prepare_on(
        first.parts,
        first.dtype,
        configs,
        [run.samples for run in runs],
        first.processes,
        [run.latents for run in runs],
        loss=_own_loss(first),
        optimizer=first.optimizer_factory,
    )
    for new, old in zip(prepared, runs, strict=True):
        new.results.init_words = old.results.init_words
        if new.config.optim != old.config.optim:
            warn_of_rate(new)
    return prepared


def choose(
    run: Run, beside: Sequence[WordConfig], settings: TrialSettings = THOROUGH
) -> TrainConfig:
    """Try settings for a word, save and log what was found; the model has the candidates' words afterwards.

    Args:
        run: before its first step.
        beside: other words of its model, which captions may hold.
        settings: of the trial.

    Returns:
        The best settings.
    """
    config = run.config
    to_try = candidates(
        config,
        run.results.init_words,
        config.loop.to_try,
        tuple(_known_words(run, beside)),
        vary_rate=run.optimizer_factory is None,
        settings=settings,
    )
    tried = halved(on_trial(run, to_try, beside, settings), settings)
    ranking = [(candidate.name, candidate.finite_loss) for candidate in tried]
    choice = choice_of(tried[0].run.config, config.loop.seed, ranking)
    if run.processes.main:
        write_bytes(path_of(config), choice.as_json())
    shown = [f"{name} {'diverged' if loss is None else f'{loss:.4f}'}" for name, loss in ranking]
    prefix = f"{config.word.token}: " if beside else ""
    fact("tried", prefix + ", ".join(shown))
    return choice.applied(config)


def _known_words(run: Run, beside: Sequence[WordConfig]) -> set[str]:
    """Return the model's vocabulary, and the pieces that other words have or may get."""
    known = {name for tokenizer in run.parts.tokenizers for name in tokenizer.get_vocab()}
    for word in beside:
        known |= {piece.lower() for piece in pieces_of(word.token, 2 * word.num_vectors)}
    return known


def on_trial(
    run: Run,
    configs: Sequence[TrainConfig],
    beside: Sequence[WordConfig],
    settings: TrialSettings = THOROUGH,
) -> list[Candidate]:
    """Return candidates for a run's word on the run's model, each with a word of its own.

    They share the run's latents.
    """
    private, samples = [], []
    for number, config in enumerate(configs):
        token = f"{config.word.token}{PRIVATE}{number}{PRIVATE}"
        private.append(replace(config, word=replace(config.word, token=token)))
        samples.append(renamed(run.samples, config.word, token))
    prepared = prepare_on(
        run.parts,
        run.dtype,
        private,
        samples,
        run.processes,
        [latents_in_memory(run)] * len(configs),
        beside=beside,
        loss=_own_loss(run),
        optimizer=run.optimizer_factory,
    )
    return [
        Candidate(trial, trial.step_inputs(), evaluation_set(trial, settings.draws))
        for trial in prepared
    ]


def _own_loss(run: Run) -> Loss | None:
    """Return the user's own loss; None where it is as configured."""
    return None if isinstance(run.loss, ConfiguredLoss) else run.loss


def latents_in_memory(run: Run) -> Latents:
    """Return the run's latents; where it encodes its images each time, a copy that holds all of them.

    These images are then cut in the middle, in their own colours.
    """
    data = run.config.data
    if data.cache_latents:
        return run.latents
    latents = Latents(run.parts.vae, run.samples, data.readers, Memory())
    with counted("encoding images", sum(sample.latents for sample in run.samples)) as on_image:
        latents.cache(data.vae_batch_size, on_image, run.processes.share)
    for encoded in run.processes.gather(latents.kept()):
        latents.keep(encoded)
    return latents


def renamed(samples: Sequence[Sample], word: WordConfig, token: str) -> list[Sample]:
    """Return the samples with another name for the word and its pieces, where they stand alone."""
    old_names = pieces_of(word.token, word.num_vectors)
    names = dict(zip(old_names, pieces_of(token, word.num_vectors), strict=True))
    pattern = word_pattern(names)

    def rename(text: str) -> str:
        return pattern.sub(lambda match: names[match[0]], text)

    changed = []
    for sample in samples:
        rules, class_tokens = sample.subset.captions, sample.subset.class_tokens
        rules = replace(
            rules,
            prefix=rules.prefix and rename(rules.prefix),
            suffix=rules.suffix and rename(rules.suffix),
        )
        subset = replace(
            sample.subset, captions=rules, class_tokens=class_tokens and rename(class_tokens)
        )
        changed.append(replace(sample, caption=rename(sample.caption), subset=subset))
    return changed


def halved(tried: Sequence[Candidate], settings: TrialSettings = THOROUGH) -> list[Candidate]:
    """Return all candidates, best first: those that were dropped sooner come after those that went on."""
    going, dropped = list(tried), list[Candidate]()
    plan = rounds(len(tried), tried[0].run.total_steps, settings)
    total, done = sum(count * steps for count, steps in plan), 0
    with counted("trying settings", total) as on_step:
        for count, steps in plan:
            for _ in range(steps):
                take_step([candidate for candidate in going if not candidate.failed])
                done += count
                on_step(done)
            going = ranked(going)
            left = (count + 1) // 2
            going, dropped = going[:left], [*going[left:], *dropped]
    return [*going, *dropped]


def take_step(going: Sequence[Candidate]) -> None:
    """Take one step with each candidate, all together.

    One that is not finite has lost, and the others learn what they would without it.
    """
    inputs = [next(candidate.step_inputs) for candidate in going]
    learning = _compute_gradients(list(zip(going, inputs, strict=True)))
    for candidate in learning:
        run = candidate.run
        try:
            update(run)
        except TrainingError:
            candidate.loss = math.inf
        if run.epoch_done:
            run.advance_epoch()


def _compute_gradients(pairs: list[tuple[Candidate, StepInput]]) -> list[Candidate]:
    """Compute the gradients of all candidates that have finite ones, and return these candidates."""
    while pairs:
        runs = [candidate.run for candidate, _ in pairs]
        errors = compute_gradients(runs, [step_input for _, step_input in pairs])
        if not any(errors):
            break
        for (candidate, step_input), error in zip(pairs, errors, strict=True):
            if error:
                candidate.loss = math.inf
            for batch in step_input.batches:
                batch.rewind()
        pairs = [pair for pair in pairs if not pair[0].failed]
    return [candidate for candidate, _ in pairs]


def ranked(going: Sequence[Candidate]) -> list[Candidate]:
    """Measure candidates, and order them; all processes have the main one's order."""
    for candidate in going:
        if not candidate.failed:
            with candidate.run.averaged():
                loss = evaluation_loss(candidate.run, candidate.evaluation_batches)
            candidate.loss = loss if math.isfinite(loss) else math.inf
    order = sorted(range(len(going)), key=lambda i: going[i].loss)
    return [going[i] for i in going[0].run.processes.gather(order)[0]]
