"""Break text into lines by the columns it takes: most Japanese signs are two wide, and have no spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.cells import cell_len

# Signs that stand at no line's end, and those that stand at no line's beginning
OPENING = "（「『【〔［｛"
CLOSING = ":;,.)、。，．・：；？！）」』】〕］｝ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々"
# A run of signs without spaces that stays together: a word in Latin letters, or one Japanese sign
PIECE = re.compile(rf"[{OPENING}]*(?:[!-~]+|[^\s{OPENING}])[{CLOSING}]*|[{OPENING}]+|\s+")


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines.

    Args:
        text: white space in it counts as one space.
        width: the most columns of a line; a word that is longer is cut.
    """
    lines, line = [], ""
    for piece in _pieces(" ".join(text.split()), width):
        if line and cell_len(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()] if line else lines


def _pieces(text: str, width: int) -> Iterable[str]:
    """Return the parts of a text that stay together; those wider than a line sign by sign."""
    for piece in PIECE.findall(text):
        if cell_len(piece) > width:
            yield from piece
        else:
            yield piece
