"""Write counts, sizes, lists and text from strangers in messages."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

# Invisible characters, beside the control characters, that reverse or break a line.
DECEPTIVE_CHARACTERS = frozenset(
    "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\ufeff"
)
SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 image", "2 images".

    Args:
        count: any number.
        noun: the singular.
        plural: for any other number than 1; by default the noun with an s.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def sized(size: float) -> str:
    """Return a number of bytes as text, with units of 1024: "3 kB", "12.4 MB", "1.2 GB"."""
    if size < 2**20:
        return f"{math.ceil(size / 2**10)} kB"
    return f"{size / 2**20:.1f} MB" if size < 2**30 else f"{size / 2**30:.1f} GB"


def few(names: Iterable[object], most: int = 3) -> str:
    """Return the first `most` names and the number of the others: "a, b, c and 4 more"."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def visible(text: str, keep: str = "") -> str:
    """Write control characters as escapes, so that the text cannot control a terminal.

    Args:
        text: a file name, a caption, metadata: anything that a stranger may have written.
        keep: control characters that stay, such as the newlines of a message.
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep or not _hidden(char) else _escaped(char) for char in text)


def _hidden(char: str) -> bool:
    return char in DECEPTIVE_CHARACTERS or unicodedata.category(char) in ("Cc", "Cs")


def _escaped(char: str) -> str:
    if char in SHORT_ESCAPES:
        return SHORT_ESCAPES[char]
    code = ord(char)
    return rf"\x{code:02x}" if code < 0x100 else rf"\u{code:04x}"
