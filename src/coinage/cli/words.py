"""The words of a training command: built and checked one by one, what is found told together. Usually it is one."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from coinage.checks.disk import disk_problems
from coinage.checks.preflight import Checked, check
from coinage.config import TrainConfig
from coinage.data.batches import length_of
from coinage.errors import ConfigError, Findings, Problem
from coinage.runs.choice import as_chosen
from coinage.runs.files import SAVED
from coinage.runs.states import LATEST, states_of
from coinage.settings.build import build
from coinage.settings.idle_flags import notes
from coinage.settings.ranges import DRAW
from coinage.system.launch import process_count
from coinage.terminal.messages import print_line
from coinage.text.placeholder import pieces_of, word_pattern

log = logging.getLogger("coinage")
T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


@dataclass(slots=True)
class Word:
    """A word to learn: its name in messages, its flags' values, and what they come to."""

    label: str
    args: argparse.Namespace
    config: TrainConfig
    findings: Findings


def build_words(args: argparse.Namespace, shared: int | None = None) -> list[Word]:
    """The words of a command.

    Args:
        args: its flags.
        shared: the seed of words that have none and begin, which all processes drew together; None: one is drawn.

    Raises:
        ConfigError: all problems that flags and files show, those of all words together.
    """
    entries = [(entry.label, entry.args) for entry in args.words] or [("", args)]
    drawn: list[int] = []

    def built(number: int) -> Word:
        label, own = entries[number]
        if own.seed in (None, DRAW) and drawn:
            own.seed = drawn[0]  # one is enough to repeat the run
        try:
            config, findings = build(own, shared)
        except (
            ConfigError
        ) as error:  # what looks like a slip in the settings file may be the reason
            raise ConfigError([*error.problems, *own.told.warnings]) from None
        findings.warnings[:0], findings.notes[:0] = own.told.warnings, own.told.notes
        if own.seed in (None, DRAW):
            drawn.append(config.loop.seed)
        return Word(label, own, config, findings)

    words = of_each([label for label, _ in entries], built)
    for word, entry in zip(words, args.words, strict=bool(args.words)):
        for name in entry.overruled:
            word.findings.note(
                f"--{name} of the command line is taken, not that of the config file"
            )
    return words


def check_words(words: Sequence[Word]) -> list[Checked]:
    """What `check` finds for each word, with what words do to each other.

    Raises:
        ConfigError: all problems of all words together.
    """
    several = len(words) > 1
    problems = (
        word_conflicts(words) + name_conflicts(words) + (choose_states(words) if several else [])
    )

    def checked(number: int) -> Checked:
        word = words[number]
        word.config = as_chosen(word.config, word.findings)
        return check(word.config, word.findings, alone=not several)

    try:
        found = of_each([word.label for word in words], checked)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems or (problems := length_problems(words, found)):
        raise ConfigError(problems)
    if several:
        full = disk_problems(
            *((word.config, own.samples) for word, own in zip(words, found, strict=True))
        )
        found = [replace(own, warnings=(*own.warnings, *full)) for own in found]
    return found


def checked_words(words: Sequence[Word]) -> list[Checked]:
    """Check all that can be known before the model is loaded; a dry run goes through the same.

    Raises:
        ConfigError: all problems of `check_words`; without any, all that only torch and other packages can tell.
    """
    found = check_words(words)
    from coinage.checks.trial import trial_problems

    def tried(number: int) -> None:
        problems = trial_problems(words[number].config, found[number].samples)
        if problems:
            raise ConfigError(problems)

    with ExitStack() as names:  # given free where the run is refused after all
        for own in found:
            names.callback(own.release)
        of_each([word.label for word in words], tried)
        names.pop_all()
    return found


def of_each(labels: Sequence[str], act: Callable[[int], T]) -> list[T]:
    """What a function returns for each word's number.

    Raises:
        ConfigError: the problems of all words.
    """
    found: list[T] = []
    problems: list[Sequence[Problem]] = []
    for number in range(len(labels)):
        try:
            found.append(act(number))
            problems.append(())
        except ConfigError as error:
            problems.append(error.problems)
    if any(problems):
        raise ConfigError(named(labels, problems, _at))
    return found


def named(
    labels: Sequence[str], found: Sequence[Sequence[H]], name: Callable[[str, H], H]
) -> list[H]:
    """What was found for each word, by name; what was found for all of them comes first, and once."""
    if len(labels) == 1:
        return list(dict.fromkeys(found[0]))
    common = [one for one in dict.fromkeys(found[0]) if all(one in own for own in found)]
    return common + [
        name(label, one)
        for label, own in zip(labels, found, strict=True)
        for one in own
        if one not in common
    ]


def _at(label: str, problem: Problem) -> Problem:
    return replace(problem, where=f"{label}, {problem.where}" if problem.where else label)


def tell_findings(words: Sequence[Word], checked: Sequence[Checked]) -> None:
    """Tell notes and warnings."""
    labels = [word.label for word in words]
    told = [[*notes(word.args), *word.findings.notes] for word in words]
    for note in named(labels, told, lambda label, note: f"{label}: {note}"):
        log.info("note: %s", note)
    for warning in named(labels, [found.warnings for found in checked], _at):
        log.warning("%s", warning)


def show_datasets(words: Sequence[Word], folder: str | None) -> None:
    """What `--debug_dataset` does, for each word; of several, each has a folder of its own for what is written.

    Raises:
        ConfigError: there are errors; they come after all else.
    """
    from coinage.cli.cmd_dataset import show_dataset

    def show(number: int) -> None:
        word = words[number]
        word.findings.notes += notes(word.args)
        if len(words) > 1:
            if number:
                print_line()
            print_line(word.label)
        own = (
            str(Path(folder) / word.config.word.output_name)
            if folder and len(words) > 1
            else folder
        )
        show_dataset(word.config, word.findings, own)

    of_each([word.label for word in words], show)


def word_conflicts(words: Sequence[Word]) -> list[Problem]:
    """Words that a caption, or a tool that does not look at letter case, could not tell apart."""
    problems = []
    for one, other in combinations(words, 2):
        tokens = one.config.word.token, other.config.word.token
        pieces = [
            {
                piece.casefold()
                for piece in pieces_of(w.config.word.token, w.config.word.num_vectors)
            }
            for w in (one, other)
        ]
        both = sorted(pieces[0] & pieces[1])
        inner = [
            b
            for a, b in (tokens, tokens[::-1])
            if word_pattern([a.casefold()]).search(b.casefold())
        ]
        if both or inner:
            why = f"{both[0]} is a piece of both" if both else f"one stands in {inner[0]}"
            why = "they are the same" if tokens[0].casefold() == tokens[1].casefold() else why
            what = f"--token_string: {tokens[0]} and {tokens[1]} cannot be told apart: {why}"
            problems.append(
                Problem(
                    what,
                    f"{one.label}, {other.label}",
                    "choose words that share no pieces, such as mycat and mydog",
                )
            )
    return problems


def name_conflicts(words: Sequence[Word]) -> list[Problem]:
    """Output names whose files would be the same, also where letter case does not count."""
    problems = []
    for one, other in combinations(words, 2):
        names = one.config.word.output_name, other.config.word.output_name
        short, long = sorted((name.casefold() for name in names), key=len)
        if long.startswith(short) and SAVED.fullmatch(long.removeprefix(short)):
            what = f"--output_name: {names[0]} and {names[1]} would be written to the same files"
            problems.append(
                Problem(
                    what, f"{one.label}, {other.label}", "give each word an output_name of its own"
                )
            )
    return problems


def length_problems(words: Sequence[Word], checked: Sequence[Checked]) -> list[Problem]:
    """Words that learn side by side have equally many steps."""
    steps = [
        length_of(word.config, found.samples, process_count())[0]
        for word, found in zip(words, checked, strict=True)
    ]
    if len(set(steps)) == 1:
        return []
    shown = ", ".join(
        f"{count} for {word.config.word.token}" for count, word in zip(steps, words, strict=True)
    )
    hint = "give --max_train_steps in place of --max_train_epochs"
    return [
        Problem(
            f"words that learn side by side have equally many steps, and so many epochs are {shown}",
            hint=hint,
        )
    ]


def choose_states(words: Sequence[Word]) -> list[Problem]:
    """Have all words go on from where all of them were saved last; says why that cannot be."""
    resume = words[0].config.state.resume
    if resume is None:
        return []
    if resume != LATEST or Path(LATEST).is_dir():
        what = f"--resume {resume}: a state is of one word, and here are {len(words)}"
        return [Problem(what, hint="--resume latest finds the states of all")]
    found = [states_of(word.config.save.output_dir, word.config.word.output_name) for word in words]
    if not any(found):
        return []
    shared = set.intersection(*map(set, found))
    if not shared:
        shown = ", ".join(
            f"{word.config.word.token} {_steps(own)}"
            for word, own in zip(words, found, strict=True)
        )
        hint = "begin anew without --resume, or go on with each word alone"
        return [
            Problem(
                f"--resume latest: there is no step at which all words have a state: {shown}",
                str(_folder(words)),
                hint,
            )
        ]
    step = max(shared)
    for word, own in zip(words, found, strict=True):
        word.config = replace(word.config, state=replace(word.config.state, resume=str(own[step])))
        if step < max(own):
            word.findings.note(
                f"--resume latest: the state of step {max(own)} is not used, since not all words have one of it"
            )
    return []


def _steps(states: dict[int, Path]) -> str:
    return f"at {', '.join(map(str, sorted(states)[-3:]))}" if states else "has none"


def _folder(words: Sequence[Word]) -> Path:
    return words[0].config.save.output_dir
