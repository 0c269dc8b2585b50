"""Define errors that say what is wrong, where, and how to fix it.

CoinageError                 anything that the user can fix; exit code 1
+-- ConfigError              flags, config, dataset: all problems together; exit code 2
|   +-- AlreadyReported      another process or part of the program has shown the problems
+-- EmbeddingFileError       a file is not an embedding, or does not fit the model
+-- TrainingError            training cannot continue
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from coinage.wording import visible

MORE_THAN_TENSORS = "it holds more than tensors"
# Least ratio of difflib at which a name is suggested: "bucket_step" is near enough to
# "bucket_reso_steps", "network_module" is too far from "norm_mode".
SIMILAR_ENOUGH = 0.72
# Letters from which a word may have one slip, and two.
ONE_SLIP_LENGTH, TWO_SLIPS_LENGTH = 4, 8


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what it is, where it stands, how to fix it.

    `str` shows each on a line of its own, with control characters in names and values as escapes.

    Attributes:
        what: is wrong.
        where: file, line, flag or table; "" if `what` says it.
        hint: how to fix it; "" if there is nothing to add.
    """

    what: str
    where: str = ""
    hint: str = ""

    def within(self, place: str) -> Problem:
        """Return the same problem, in a place that `where` is a part of."""
        return replace(self, where=", ".join(filter(None, (place, self.where))))

    def __str__(self) -> str:
        lines = [visible(self.what)]
        if self.where:
            lines.append(f"  --> {visible(self.where)}")
        if self.hint:
            lines.append(f"hint: {visible(self.hint)}")
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """The results of checks so far: errors stop a run, warnings and notes are only shown.

    Attributes:
        errors: that prevent the run.
        warnings: things that are probably mistakes.
        notes: things to know, such as flags without effect.
    """

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
        """True without errors."""
        return not self.errors

    def error(self, what: str, where: str = "", hint: str = "") -> None:
        """Add an error."""
        self.errors.append(Problem(what, where, hint))

    def warn(self, what: str, where: str = "", hint: str = "") -> None:
        """Add a warning."""
        self.warnings.append(Problem(what, where, hint))

    def note(self, text: str) -> None:
        """Add a note, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def raise_errors(self) -> None:
        """Raise all errors together, if there are any.

        Raises:
            ConfigError: with every error.
        """
        if self.errors:
            raise ConfigError(self.errors)


class CoinageError(Exception):
    """An error that the user can fix; the command line shows it without a traceback.

    Attributes:
        problems: what is wrong, where, and how to fix it; one or more.
        exit_code: of the command line.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, hint),)
        super().__init__(str(self.problems[0]))


class ConfigError(CoinageError):
    """One or more problems of configuration, reported together."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        Exception.__init__(self, "\n".join(map(str, self.problems)))


class AlreadyReported(ConfigError):  # noqa: N818 - it is not an error by itself
    """End with the exit code of wrong usage, and without a message: somebody else shows it."""

    def __init__(self) -> None:
        super().__init__(())


class EmbeddingFileError(CoinageError):
    """A file is not a Textual Inversion embedding, or does not fit the model."""


class TrainingError(CoinageError):
    """Training cannot continue."""


def reason_of(error: BaseException) -> str:
    """Return the first line of a library's error message, or the kind of error if it has none.

    When torch refuses a pickle, its message advises to load it unsafely; that is replaced.
    """
    text = str(error)
    if "weights_only" in text:
        return "it is damaged" if "Unsupported operand" in text else MORE_THAN_TENSORS
    return (text.strip().splitlines() or [type(error).__name__])[0]


def described(error: BaseException) -> str:
    """Return the kind and the reason of an exception, such as `KeyError: 'loss'`."""
    name, reason = type(error).__name__, reason_of(error)
    return name if reason == name else f"{name}: {reason}"


def full_name(thing: object) -> str:
    """Return module and name of a function or a class, or of an object's class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint that names the most similar known word; "" if none is similar.

    Leading dashes are ignored when words are compared.
    """
    bare = {name.lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=SIMILAR_ENOUGH)
    return f"did you mean `{bare[near[0]]}`?" if near else ""


def is_slip(word: str, known: str) -> bool:
    """Return whether a word is a known word with a typing slip, or two if the word is long.

    A slip is a letter too many, too few or wrong (the Levenshtein distance).
    """
    allowed = (len(known) >= ONE_SLIP_LENGTH) + (len(known) >= TWO_SLIPS_LENGTH)
    different_letters = {*word} ^ {*known}
    # Cheap bounds first: one slip changes the length by 1 and at most two of the letters used.
    if abs(len(word) - len(known)) > allowed or len(different_letters) > 2 * allowed:
        return False
    # distances[j]: slips between the letters of `word` so far and the first j letters of `known`.
    distances = list(range(len(known) + 1))
    for i, letter in enumerate(word, 1):
        diagonal, distances[0] = distances[0], i
        for j, known_letter in enumerate(known, 1):
            replaced = diagonal + (letter != known_letter)
            diagonal = distances[j]
            distances[j] = min(distances[j] + 1, distances[j - 1] + 1, replaced)
    return 0 < distances[-1] <= allowed
