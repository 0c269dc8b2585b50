"""How counts, lists and strangers' text are written in messages."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

# Other than control characters: what reverses or breaks a line although it cannot be seen.
TRICKS = frozenset(
    "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\ufeff"
)
SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 image", "2 images".

    Args:
        count: any number.
        noun: for one.
        plural: for any other number; the noun with an s where it is left out.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def sized(size: float) -> str:
    """Return a number of bytes for people, in units of 2**10, 2**20 and 2**30: "3 kB", "12.4 MB", "1.2 GB"."""
    if size < 2**20:
        return f"{math.ceil(size / 2**10)} kB"
    return f"{size / 2**20:.1f} MB" if size < 2**30 else f"{size / 2**30:.1f} GB"


def few(names: Iterable[object], most: int = 3) -> str:
    """Return the first names of many, with how many more there are: "a, b, c and 4 more"."""
    every = [str(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def visible(text: str, keep: str = "") -> str:
    """Return a text whose control characters are written as escapes, so that it can steer no terminal.

    Args:
        text: of a file name, a caption, a file's metadata: anything that a stranger may have written.
        keep: control characters that stay, such as a message's own newlines.
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep or not _hidden(char) else _escaped(char) for char in text)


def _hidden(char: str) -> bool:
    return char in TRICKS or unicodedata.category(char) in ("Cc", "Cs")


def _escaped(char: str) -> str:
    code = ord(char)
    return SHORT.get(char) or (rf"\x{code:02x}" if code < 0x100 else rf"\u{code:04x}")
