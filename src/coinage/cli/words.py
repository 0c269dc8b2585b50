"""Build the configuration of each word of a command, usually one, and print findings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from coinage.checks.merging import merge_notes, merge_problems, merge_warnings
from coinage.checks.plan import Plan
from coinage.config import TrainConfig
from coinage.errors import ConfigError, Findings, Problem
from coinage.settings.build import build
from coinage.settings.companions import companions_apart, with_others
from coinage.settings.discover import discover
from coinage.settings.flag_values import FlagValues, WordValues
from coinage.terminal.messages import print_line

log = logging.getLogger("coinage")


def build_words(values: FlagValues) -> tuple[list[TrainConfig], list[str]]:
    """Return the configuration of each word of a command, and what the words are called in messages.

    Raises:
        ConfigError: all problems that flags and files show, those of all words together.
    """
    learning, companions, wrong = companions_apart(values.words or (WordValues("", values),))
    configs = []
    problems: list[Sequence[Problem]] = []
    for word in learning:
        try:
            configs.append(build(word.values)[0])
            problems.append(())
        except ConfigError as error:
            problems.append(error.problems)
    labels = [word.label for word in learning]
    if wrong or any(problems):
        raise ConfigError([*wrong, *(merge_problems(labels, problems) if labels else ())])
    return with_others(configs, companions), labels


def print_findings(plans: Sequence[Plan]) -> None:
    """Print notes and warnings."""
    for note in merge_notes(plans):
        log.info("note: %s", note)
    for warning in merge_warnings(plans):
        log.warning("%s", warning)


def show_datasets(
    configs: Sequence[TrainConfig], labels: Sequence[str], folder: str | None
) -> None:
    """Check and show the dataset of each word, for `--debug_dataset`.

    Args:
        configs: of the words.
        labels: what they are called.
        folder: for what is written; each of several words has a folder of its own in it.

    Raises:
        ConfigError: there are errors; they come after everything else.
    """
    several = len(configs) > 1
    problems: list[Sequence[Problem]] = []
    for number, (config, label) in enumerate(zip(configs, labels, strict=True)):
        if several:
            if number:
                print_line()
            print_line(label)
        place = folder
        if folder and several:
            place = str(Path(folder) / config.word.output_name)
        problems.append(_show_dataset(config, place))
    if any(problems):
        raise ConfigError(merge_problems(labels, problems))


def _show_dataset(config: TrainConfig, folder: str | None) -> Sequence[Problem]:
    """Check and show one dataset; return what is wrong with it."""
    from coinage.cli.cmd_dataset import show_dataset

    findings = Findings()
    try:
        show_dataset(discover(config, findings), findings, folder)
    except ConfigError as error:
        return error.problems
    return ()
