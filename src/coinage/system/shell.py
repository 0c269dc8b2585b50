"""Words as a shell takes them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

PLAIN_IN_POWERSHELL = re.compile(r"[\w.,:=/\\+-]+")


def quoted(words: Sequence[str], system: str = os.name) -> str:
    """Return words as they are typed in a shell: PowerShell on Windows, otherwise sh.

    Args:
        words: of a command line.
        system: the name of the operating system as in `os.name`; `nt` is Windows.
    """
    if system != "nt":
        return shlex.join(words)
    return " ".join(map(_quoted_for_powershell, words))


def line_break(system: str = os.name) -> str:
    """Return what continues a command on the next line, indented by two columns."""
    return " `\n  " if system == "nt" else " \\\n  "


def _quoted_for_powershell(word: str) -> str:
    if PLAIN_IN_POWERSHELL.fullmatch(word):
        return word
    return "'" + word.replace("'", "''") + "'"
