"""Errors that say what, where, and how to fix it.

CoinageError                 anything a user can mend; exit code 1
+-- ConfigError              flags, config, dataset: all problems together; exit code 2
+-- EmbeddingFileError       a file is no embedding, or the wrong one
+-- TrainingError            a run cannot go on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input: what, where it stands, how to mend it."""

    what: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """What checks have found so far: errors stop a run, warnings and notes are told."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def error(self, what: str, where: str = "", hint: str = "") -> None:
        """Add an error."""
        self.errors.append(Problem(what, where, hint))

    def warn(self, what: str, where: str = "", hint: str = "") -> None:
        """Add a warning."""
        self.warnings.append(Problem(what, where, hint))

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def raise_errors(self) -> None:
        """Stop if there are errors.

        Raises:
            ConfigError: all of them.
        """
        if self.errors:
            raise ConfigError(self.errors)


class CoinageError(Exception):
    """An error for the user: shown without a traceback."""

    exit_code = 1

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, hint),)
        super().__init__(str(self.problems[0]))


class ConfigError(CoinageError):
    """One or more problems of configuration, reported together."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = tuple(problems)
        Exception.__init__(self, "\n".join(map(str, found)))
        self.problems = found


class EmbeddingFileError(CoinageError):
    """A file cannot be read as a textual inversion embedding, or does not fit the model."""


class TrainingError(CoinageError):
    """The run cannot go on."""


def reason_of(error: BaseException) -> str:
    """The first line of what a library says went wrong; the kind of error where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A hint naming the nearest known word, or ""."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""
