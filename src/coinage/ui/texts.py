"""The page's texts in the languages that it speaks. Imports no torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from coinage.system.text_files import read_json

LOCALES = Path(__file__).parent / "locales"
LANGUAGES = ("en", "ja")  # the first one where nothing else fits


def choose_language(accepted: str, forced: str | None = None) -> str:
    """Return the one of `LANGUAGES` that a reader likes best; English where none is known.

    Args:
        accepted: the header `Accept-Language`, such as `ja-JP,ja;q=0.9,en;q=0.5`.
        forced: a language chosen by hand, which wins.
    """
    if forced in LANGUAGES:
        return forced
    wanted: list[tuple[float, str]] = []
    for part in accepted.split(","):
        name, _, rest = part.partition(";")
        language = name.strip().lower().partition("-")[0]
        if language in LANGUAGES:
            wanted.append((_weight(rest), language))
    liked = [(weight, language) for weight, language in wanted if weight > 0]
    # The first of equals, as it stands in the header
    return max(liked, key=lambda pair: pair[0])[1] if liked else LANGUAGES[0]


def _weight(text: str) -> float:
    """Return the weight of `q=0.8`, 0..1; 1 where none is given, 0 where it is no number."""
    name, _, number = text.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(number)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


@cache
def texts_of(language: str) -> dict[str, str]:
    """Return all texts of one of `LANGUAGES` by their keys."""
    texts: dict[str, str] = read_json(LOCALES / f"{language}.json")
    return texts
