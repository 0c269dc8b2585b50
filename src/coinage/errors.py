"""Errors that say what, where, and how to fix it.

CoinageError                 anything a user can mend; exit code 1
+-- ConfigError              flags, config, dataset: all problems together; exit code 2
|   +-- AlreadyReported      another process or part of the program has shown the problems
+-- EmbeddingFileError       a file is no embedding, or the wrong one
+-- TrainingError            a run cannot go on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coinage.wording import visible

MORE_THAN_TENSORS = "it holds more than tensors"
# Of difflib's ratio: "bucket_step" is near "bucket_reso_steps", "network_module" far from "norm_mode"
CUTOFF = 0.72
SHORT_WORD, LONG_WORD = 4, 8  # letters


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input: what, where it stands, how to mend it.

    Each is one line when shown: whatever control characters names and values in it have are written as escapes.
    """

    what: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = [visible(self.what)]
        if self.where:
            lines.append(f"  --> {visible(self.where)}")
        if self.hint:
            lines.append(f"hint: {visible(self.hint)}")
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """What checks have found so far: errors stop a run, warnings and notes are only shown."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        blocks = [f"error: {problem}" for problem in self.errors]
        blocks += [f"warning: {problem}" for problem in self.warnings]
        blocks += [f"note: {visible(note)}" for note in self.notes]
        return "\n".join(blocks) or "nothing was found"

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

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


class AlreadyReported(ConfigError):  # noqa: N818 - it is not an error by itself
    """End with the exit code of wrong usage, and without a message: somebody else shows it."""

    def __init__(self) -> None:
        super().__init__(())


class EmbeddingFileError(CoinageError):
    """A file cannot be read as a textual inversion embedding, or does not fit the model."""


class TrainingError(CoinageError):
    """The run cannot go on."""


def reason_of(error: BaseException) -> str:
    """Return the first line of what a library says went wrong; the kind of error where it says nothing.

    What torch says of a pickle that it refuses comes with the advice to load it unsafely, which is never passed on.
    """
    text = str(error)
    if "weights_only" in text:
        return "it is damaged" if "Unsupported operand" in text else MORE_THAN_TENSORS
    return (text.strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint naming the nearest known word, or "". Dashes in front do not make two words alike."""
    bare = {name.lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=CUTOFF)
    return f"did you mean `{bare[near[0]]}`?" if near else ""


def is_slip(word: str, known: str) -> bool:
    """Return whether a word is a known one with a slip: a letter too many, too few or wrong; in long words two."""
    allowed = 2 if len(known) >= LONG_WORD else 1 if len(known) >= SHORT_WORD else 0
    others = {*word} ^ {*known}  # a change puts one letter for another at most
    if abs(len(word) - len(known)) > allowed or len(others) > 2 * allowed:
        return False
    # row[j]: changes between the word so far and the first j letters
    row = list(range(len(known) + 1))
    for i, sign in enumerate(word, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(known, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (sign != other))
    return 0 < row[-1] <= allowed
