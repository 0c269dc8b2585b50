"""All checks before training, in one ordered list, and how they are run.

A check is a function that looks at a word's `Draft` and adds what it finds to it: errors, warnings, notes,
or what later steps need, such as the images. Some look at all words together. To add one: write the function
in the file of its subject, and give it a row in `CHECKS`, at the place where what it needs is known, and an
entry in `docs/reference/messages.toml`. `coinage train`, `--dry_run`, `checks.check` and the Python API all
go through the list.

Light checks come first; the last ones import torch. None makes a folder or loads a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto

from coinage.checks import data, device, disk, model, output, scoring, several_words, word
from coinage.checks.footprint import Footprint
from coinage.checks.memory import needed_memory
from coinage.checks.merging import merge_problems
from coinage.checks.plan import Draft, Plan
from coinage.config import OPEN_SEED, TrainConfig
from coinage.errors import ConfigError, Findings, Problem
from coinage.optim.table import remark_on_optimizer
from coinage.seeding import draw_seed
from coinage.settings.companions import with_others
from coinage.settings.discover import discover
from coinage.settings.number_range import DRAW
from coinage.system.garbage import not_collecting


class When(Enum):
    """Under which condition a check is run."""

    ALWAYS = auto()
    WORD_IS_CLEAN = auto()  # nothing is wrong with this word so far
    ALL_ARE_CLEAN = auto()  # nothing is wrong with any word so far


@dataclass(frozen=True, slots=True)
class Check:
    """A check of one word after the other."""

    look: Callable[[Draft], None]
    when: When = When.ALWAYS


@dataclass(frozen=True, slots=True)
class JointCheck:
    """A check of all words together; what it finds is of no single one."""

    look: Callable[[Sequence[Draft], Findings], None]
    when: When = When.ALWAYS


def _remark_on_optimizer(draft: Draft) -> None:
    """Warn where the optimizer's name, rate or schedule is probably a mistake."""
    remark_on_optimizer(draft.config.optim, draft.findings)


def _check_optimizer(draft: Draft) -> None:
    with not_collecting():  # it imports torch and more
        from coinage.checks.optimizer_trial import check_optimizer

        check_optimizer(draft)


def _check_word_file(draft: Draft) -> None:
    from coinage.checks.word_file import check_word_file

    check_word_file(draft)


def _check_compiler(draft: Draft) -> None:
    from coinage.checks.compiler import check_compiler

    check_compiler(draft)


CHECKS: tuple[Check | JointCheck, ...] = (
    JointCheck(several_words.check_words_apart),
    JointCheck(several_words.check_names_apart),
    JointCheck(several_words.check_together),
    JointCheck(several_words.choose_states),
    Check(several_words.apply_choice),
    Check(model.check_environment),
    Check(model.check_model),
    Check(_remark_on_optimizer),
    Check(word.read_draft_tokenizer, When.WORD_IS_CLEAN),
    Check(word.check_word),
    Check(data.check_images),
    JointCheck(several_words.note_inseparable),
    Check(output.check_names),
    Check(word.check_init_word),
    Check(data.check_length),
    Check(word.check_naming),
    Check(data.check_prompts),
    Check(scoring.check_scoring),
    Check(output.check_trackers),
    Check(device.settle_precision, When.WORD_IS_CLEAN),
    Check(data.check_state, When.WORD_IS_CLEAN),
    Check(output.check_folders, When.WORD_IS_CLEAN),
    JointCheck(several_words.check_lengths_equal, When.ALL_ARE_CLEAN),
    JointCheck(disk.check_disk, When.ALL_ARE_CLEAN),
    JointCheck(device.check_device, When.ALL_ARE_CLEAN),
    Check(output.check_lock, When.ALL_ARE_CLEAN),
    Check(_check_optimizer, When.ALL_ARE_CLEAN),
    Check(_check_word_file, When.ALL_ARE_CLEAN),
    Check(_check_compiler, When.ALL_ARE_CLEAN),
)


def make_plans(
    configs: Sequence[TrainConfig],
    labels: Sequence[str] | None = None,
    *,
    seed: int | None = None,
) -> list[Plan]:
    """Check everything that can be known before the model is loaded, and return a plan for each word.

    Each plan holds a lock on its run's name, to be given free with `Plan.release`.

    Args:
        configs: of the words that train side by side; usually one.
        labels: what the words are called in messages; None: by number and word.
        seed: for words that were given none, and go on from no state; None: one is drawn for all.

    Raises:
        ConfigError: all problems of all words together.
    """
    findings = Findings()
    drafts = _checked(configs, _labels(configs, labels), findings, seed)
    with ExitStack() as stack:
        for draft in drafts:
            if draft.lock:
                stack.callback(draft.lock.release)
        errors = [draft.findings.errors for draft in drafts]
        findings.errors += merge_problems([draft.label for draft in drafts], errors)
        findings.raise_errors()
        memory = needed_memory(drafts)
        stack.pop_all()
    return [_plan_of(draft, findings, memory) for draft in drafts]


def _plan_of(draft: Draft, shared: Findings, memory: Footprint) -> Plan:
    """Return the plan of a word.

    Args:
        draft: of the word, without errors.
        shared: notes and warnings about all words together.
        memory: that all words together need.
    """
    steps, epochs = draft.length()
    return Plan(
        label=draft.label,
        config=draft.config,
        samples=draft.samples,
        prompts=draft.prompts,
        state=draft.state,
        steps=steps,
        epochs=epochs,
        memory=memory,
        seed_drawn=draft.seed_drawn,
        notes=(*shared.notes, *draft.findings.notes),
        warnings=(*draft.findings.warnings, *shared.warnings),
        lock=draft.lock,
    )


def check(config: TrainConfig) -> Findings:
    """Check everything that can be known before the model is loaded; nothing is written or kept.

    Args:
        config: of one word.

    Returns:
        Errors, warnings and notes; `ok` says whether the run could begin.
    """
    from coinage.checks.forecast import forecast

    if not isinstance(config, TrainConfig):
        what = f"config: an object of type {type(config).__name__} is not a TrainConfig"
        hint = "check one configuration at a time, such as TrainConfig.from_toml(path)"
        return Findings(errors=[Problem(what, hint=hint)])
    try:
        (plan,) = make_plans([config])
    except ConfigError as error:
        return Findings(errors=[*error.problems])
    plan.release()
    findings = forecast([plan])
    findings.warnings[:0] = plan.warnings
    findings.notes[:0] = plan.notes
    return findings


def _labels(configs: Sequence[TrainConfig], labels: Sequence[str] | None) -> Sequence[str]:
    if labels is not None:
        return labels
    if len(configs) == 1:
        return [""]
    return [f"word {number} ({c.word.token})" for number, c in enumerate(configs, 1)]


def _checked(
    configs: Sequence[TrainConfig], labels: Sequence[str], findings: Findings, seed: int | None
) -> list[Draft]:
    """Run all checks.

    Args:
        configs: of the words.
        labels: of the words.
        findings: gets what is of no single word.
        seed: as in `make_plans`.

    Raises:
        ConfigError: what was left open cannot be looked up.
    """
    if seed is None:
        seed = draw_seed()
    drafts = []
    problems: list[Sequence[Problem]] = []
    for config, label in zip(with_others(configs), labels, strict=True):
        of_word = Findings()
        try:
            complete = discover(config, of_word, seed)
        except ConfigError as error:
            problems.append(error.problems)
            continue
        problems.append(())
        drafts.append(Draft(label, complete, of_word, seed_drawn=_is_seed_open(config)))
    if any(problems):
        raise ConfigError(merge_problems(labels, problems))
    for row in CHECKS:
        _run(row, drafts, findings)
    return drafts


def _run(row: Check | JointCheck, drafts: Sequence[Draft], findings: Findings) -> None:
    """Run one row of the list, as far as its condition holds."""
    all_clean = not findings.errors and not any(draft.findings.errors for draft in drafts)
    if row.when is When.ALL_ARE_CLEAN and not all_clean:
        return
    if isinstance(row, JointCheck):
        row.look(drafts, findings)
        return
    for draft in drafts:
        if row.when is not When.WORD_IS_CLEAN or not draft.findings.errors:
            row.look(draft)


def _is_seed_open(config: TrainConfig) -> bool:
    """Return whether no seed was given."""
    if config.values is not None and config.loop.seed != OPEN_SEED:
        return config.values.seed in (None, DRAW)
    return config.loop.seed == OPEN_SEED
