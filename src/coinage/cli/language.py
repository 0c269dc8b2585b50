"""In which language the help is shown: what is asked for, else what the environment says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TextIO

LANGUAGES = ("en", "ja")  # the first one where nothing else fits
PLAIN = ("C", "POSIX")  # locales of no language


def language_of(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the language of the help, one of `LANGUAGES`.

    Args:
        words: of the command line; `--lang` wins, wherever it stands.
        environment: of the process.
    """
    asked = ""
    for word, following in pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name == "--lang":
            asked = value or following
    return asked if asked in LANGUAGES else _of_environment(environment)


def _of_environment(environment: Mapping[str, str]) -> str:
    """Return the language of the variables that gettext reads.

    `LC_ALL`, `LC_MESSAGES` or `LANG` is the locale, the first one that is set. `LANGUAGE` is a list that
    goes before it, unless the locale is of no language.
    """
    named = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    locale = next(filter(None, named), PLAIN[0])
    if _language(locale) in PLAIN:
        return LANGUAGES[0]
    for name in filter(None, [*environment.get("LANGUAGE", "").split(":"), locale]):
        language = _language(name)
        if language in PLAIN:
            break
        if language in LANGUAGES:
            return language
    return LANGUAGES[0]


def _language(locale: str) -> str:
    """Return the `ja` of `ja_JP.UTF-8`, or the `C` of `C.UTF-8`."""
    name = re.split(r"[-_.@]", locale, maxsplit=1)[0]
    return name if name in PLAIN else name.lower()


def can_show(text: str, stream: TextIO) -> bool:
    """Return whether a stream's encoding has all signs of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
