"""`key=value` arguments of optimizers and schedules, as command lines and settings files have them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from itertools import pairwise

from coinage.errors import Problem

Pairs = tuple[tuple[str, object], ...]
NAME = re.compile(r"[A-Za-z_]\w*\s*=(?!=)")
WORDS = {"true": True, "false": False, "none": None}
OPEN, CLOSED = "([{", ")]}"
SEPARATORS = " \t\r\n,;"
HINT = 'write weight_decay=0.01 betas="(0.9, 0.99)"'


def read_pairs(items: Sequence[str] | None, flag: str, problems: list[Problem]) -> Pairs:
    """Read arguments, several in one text too where it is clear where each begins.

    `weight_decay=0.01 betas=0.9,0.99`, `a=1, b=2` and `a=1;b=2` are two arguments each: a name and `=` after
    a blank, a comma or a semicolon, outside of brackets and quotes, begin the next one.

    Args:
        items: words of the command line, or the texts of a settings file; None: no argument.
        flag: which one, for messages.
        problems: gets what cannot be read.

    Returns:
        Names with Python's values; what is not a value of Python's is a text.
    """
    text = " ".join(items or ())
    starts = _starts(text)
    head = text[: starts[0]] if starts else text
    if head.strip(SEPARATORS):
        problems.append(Problem(f"{flag}: {head.strip(SEPARATORS)!r} is not key=value", hint=HINT))
    pairs = []
    for start, end in pairwise([*starts, len(text)]):
        name, _, value = text[start:end].partition("=")
        try:
            pairs.append((name.strip(), _value(value.strip(SEPARATORS))))
        except ValueError as error:
            argument = text[start:end].strip(SEPARATORS)
            problems.append(Problem(f"{flag}: {argument!r} {error}", hint=HINT))
    return tuple(pairs)


def _starts(text: str) -> list[int]:
    """Return the places at which the names of arguments begin."""
    starts, depth, quote, before = [], 0, "", " "
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in OPEN:
            depth += 1
        elif char in CLOSED:
            depth -= 1
        elif depth == 0 and before in SEPARATORS and NAME.match(text, index):
            starts.append(index)
        before = char
    return starts


def _value(text: str) -> object:
    """Return a value of Python's, or the text.

    Raises:
        ValueError: it is neither; the message says why.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if not text:
        raise ValueError("has no value")
    if text[0] in (*OPEN, "'", '"') or re.search(r"\s", text):
        reason = (
            "is not one value: close all brackets and quotes, and put text with blanks into quotes"
        )
        raise ValueError(reason)
    return text
