"""Divide the words of one config file among processes that share no more than a folder.

The words are cut into groups of fixed members: a word's bytes do not depend on which process trains
it, or on how many there are. A process holds a lock on the group that it trains. If it dies, the
system gives the lock free, and another process takes up the group from its start. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coinage.config import TrainConfig
from coinage.runs.lock import Lock, hold
from coinage.system.files import temporary_of, write_bytes

FOLDER = ".shared"  # beside the words
PAUSE = 2.0  # seconds between two looks at the groups that others train


@dataclass(frozen=True, slots=True)
class Group:
    """Words that go through one model side by side.

    Attributes:
        number: from 1.
        configs: one for each word.
        labels: what the words are called in messages.
        key: stands for the settings of all its words, those that the result depends on.
    """

    number: int
    configs: tuple[TrainConfig, ...]
    labels: tuple[str, ...]
    key: str

    @property
    def words(self) -> str:
        """The words, for a message: all of a few, else the first and the last."""
        tokens = [config.word.token for config in self.configs]
        return ", ".join(tokens) if len(tokens) < 4 else f"{tokens[0]} to {tokens[-1]}"


def groups_of(configs: Sequence[TrainConfig], labels: Sequence[str], size: int) -> list[Group]:
    """Cut words into groups of `size`, in their order; the last group may be smaller."""
    groups: list[Group] = []
    for start in range(0, len(configs), size):
        members = tuple(configs[start : start + size])
        names = tuple(labels[start : start + size])
        groups.append(Group(len(groups) + 1, members, names, _key_of(members)))
    return groups


def _key_of(configs: Sequence[TrainConfig]) -> str:
    """Return a digest of the settings that words depend on, not of where and how they are logged."""
    settings = []
    for config in configs:
        of_result = (
            config.model,
            config.word,
            config.data,
            config.noise,
            config.loss,
            config.optim,
        )
        of_run = (config.loop, config.validation, config.save.format, config.companions)
        settings.append((*of_result, *of_run))
    return hashlib.sha256(repr(settings).encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass(slots=True)
class Shares:
    """The groups of words, as one of the processes that train them sees them.

    Attributes:
        folder: where the words are written; all processes see it.
        groups: all groups.
    """

    folder: Path
    groups: Sequence[Group]
    _done: set[str] = field(default_factory=set)  # keys of groups that were seen to be done
    _lock: Lock | None = None  # on the group that this process trains
    _began: float = 0.0  # by the clock of the folder's file system

    def __post_init__(self) -> None:
        self._began = self._now()

    def take(self) -> Group | None:
        """Return a group to train, which is this process's until `leave`.

        While others train the last groups, it waits: they may die.

        Returns:
            The group; None when all are done or have failed.
        """
        while True:
            busy = False
            for group in self.groups:
                if self._is_settled(group):
                    continue
                lock = hold(self._file(group, "lock"))
                if lock and not self._is_settled(group):  # it may just have been done
                    self._lock = lock
                    return group
                if lock:
                    lock.release()
                busy = busy or lock is None
            if not busy:
                return None
            time.sleep(PAUSE)

    def leave(self, group: Group, problem: str | None = None) -> None:
        """Write down that the group in hand is done, or why it failed, and give it free."""
        names = [config.word.output_name for config in group.configs]
        record = json.dumps({"words": names, "problem": problem}).encode()
        write_bytes(self._file(group, "failed" if problem else "done"), record)
        if not problem:
            with suppress(OSError):
                self._file(group, "failed").unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Give the group in hand free, whether or not it is done."""
        if self._lock:
            self._lock.release()
        self._lock = None

    def done(self) -> int:
        """Return how many words are done, whoever trained them."""
        return sum(len(group.configs) for group in self.groups if self._is_done(group))

    def failed(self) -> list[Group]:
        """Return the groups that were tried since this process began, and are not done."""
        return [
            group for group in self.groups if self._is_settled(group) and not self._is_done(group)
        ]

    def _file(self, group: Group, kind: str) -> Path:
        return self.folder / FOLDER / f"{group.key}.{kind}"

    def _is_settled(self, group: Group) -> bool:
        """Return whether a group is done, or failed since this process began; else it is to be tried."""
        if self._is_done(group):
            return True
        try:
            return self._file(group, "failed").stat().st_mtime > self._began
        except OSError:
            return False

    def _is_done(self, group: Group) -> bool:
        """Return whether a group's words are there, trained with the settings that they now have."""
        if group.key in self._done:
            return True
        files = [self._file(group, "done"), *(config.output_file for config in group.configs)]
        if not all(file.exists() for file in files):
            return False
        self._done.add(group.key)
        return True

    def _now(self) -> float:
        """Return the time by the clock that the folder's files have, which may be another machine's."""
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        mark = temporary_of(self.folder / FOLDER / "clock")
        mark.touch()
        now = mark.stat().st_mtime
        mark.unlink()
        return now
