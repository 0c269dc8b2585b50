"""Train the words of a config file in groups, beside other processes that do the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from coinage.checks import make_plans
from coinage.checks.plan import Draft, released
from coinage.checks.several_words import check_names_apart
from coinage.cli.console import set_up_log
from coinage.cli.plan import print_head, print_plan
from coinage.cli.words import print_findings
from coinage.config import TrainConfig
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.runs.sharing import Group, Shares, groups_of
from coinage.settings.flag_values import FlagValues
from coinage.system.full_memory import full_memory, is_full
from coinage.system.launch import leave_group
from coinage.terminal.messages import print_error
from coinage.terminal.progress import clock
from coinage.wording import few

if TYPE_CHECKING:
    from coinage.training.run import Run
    from coinage.training.session import Followers

log = logging.getLogger("coinage")


def share_words(
    values: FlagValues,
    configs: Sequence[TrainConfig],
    labels: Sequence[str],
    followers: Callable[[], Followers] | None = None,
) -> None:
    """Train groups of words until all are done, those that other processes train among them.

    Args:
        values: of the command.
        configs: one for each word.
        labels: what the words are called in messages.
        followers: called before each group, for what follows its training.

    Raises:
        ConfigError: there are no words to divide, or they learn together.
        CoinageError: some words could not be trained.
    """
    if not values.words:
        hint = "give each word a table, as docs/guides/several-words.md shows"
        what = "--share words needs a config file with [[words]] tables"
        raise ConfigError([Problem(what, hint=hint)])
    if any(config.word.together for config in configs):
        what = "--share words divides words, and these learn together from the same images"
        raise ConfigError([Problem(what, hint="leave out --share words, or together = true")])
    rank, number = leave_group()
    settings = configs[0].log
    set_up_log(
        "ERROR" if rank else settings.level,
        None if rank else settings.file,
        simple=settings.simple,
        live=not (settings.quiet or rank),
    )
    groups = groups_of(configs, labels, values.words_at_once)
    _check_names_apart(configs, labels)
    if values.dry_run:
        _show(groups)
        return
    _train_groups(Shares(configs[0].save.output_dir, groups), number, followers)


def _check_names_apart(configs: Sequence[TrainConfig], labels: Sequence[str]) -> None:
    """Check that no two words would be written to the same files, whoever trains them.

    Raises:
        ConfigError: two would.
    """
    findings = Findings()
    drafts = [
        Draft(label, config, Findings()) for label, config in zip(labels, configs, strict=True)
    ]
    check_names_apart(drafts, findings)
    findings.raise_errors()


def _show(groups: Sequence[Group]) -> None:
    """Check all words, and show what the run would do, for `--dry_run`.

    Raises:
        ConfigError: all problems of all words.
    """
    problems: list[Problem] = []
    for group in groups:
        try:
            plans = make_plans(group.configs, group.labels)
        except ConfigError as error:
            problems += error.problems
            continue
        with released(plans):
            print_findings(plans)
            print_head(plans)
            if group is groups[-1] and not problems:
                print_plan(plans)
    if problems:
        raise ConfigError(problems)


def _train_groups(shares: Shares, number: int, followers: Callable[[], Followers] | None) -> None:
    """Train one group after the other on one loaded model.

    Args:
        shares: the groups.
        number: of this process, among those of its machine.
        followers: as in `share_words`.

    Raises:
        CoinageError: some groups could not be trained.
    """
    total = sum(len(group.configs) for group in shares.groups)
    start, began = shares.done(), time.monotonic()
    if start:
        log.info("%d of %d words are done already", start, total)
    run: Run | None = None
    while group := shares.take():
        log.info("group %d of %d: %s", group.number, len(shares.groups), group.words)
        try:
            run = _train(group, number, followers, run)
        except CoinageError as error:
            run = None  # its model may be half changed
            _report(shares, group, error.problems)
        except (RuntimeError, MemoryError) as error:
            if not is_full(error):
                raise
            run = None
            _report(shares, group, [full_memory(error)])
        else:
            shares.leave(group)
        finally:
            shares.release()
        done = shares.done()
        left = (total - done) * (time.monotonic() - began) / max(done - start, 1)
        log.info("%d of %d words are done%s", done, total, f", {clock(left)} left" if left else "")
    if failed := shares.failed():
        names = [config.word.token for group in failed for config in group.configs]
        what = f"{len(names)} of {total} words were not trained: {few(names)}"
        raise CoinageError(what, hint="mend what is said above; the same command then trains these")


def _train(
    group: Group, number: int, followers: Callable[[], Followers] | None, before: Run | None
) -> Run:
    """Check a group and train it; return a run with the loaded model.

    Raises:
        CoinageError: it cannot be trained.
    """
    from coinage.cli.train import train_on
    from coinage.training.processes import ALONE, device_of

    plans = make_plans(group.configs, group.labels)
    with released(plans):
        print_findings(plans)
        print_head(plans)
        for plan in plans:
            plan.start()
        followed = followers() if followers else None
        return train_on(plans, ALONE, device_of(number), followed, before)


def _report(shares: Shares, group: Group, problems: Sequence[Problem]) -> None:
    """Print why a group failed, and write it down, so that no other process tries it now."""
    for problem in problems:
        print_error(str(problem))
    shares.leave(group, "\n".join(map(str, problems)))
