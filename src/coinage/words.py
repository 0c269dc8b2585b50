"""How a word is written and found in text. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path


def pieces_of(token: str, num_vectors: int) -> tuple[str, ...]:
    """`word`, `word1`, ...: one name per vector, as the reference trainer names them."""
    return (token, *(f"{token}{i}" for i in range(1, num_vectors)))


def word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, longest first, where it stands alone; letter case counts."""
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({names})(?!\w)")


def taken(names: Iterable[str], vocabulary: Iterable[str]) -> list[str]:
    """The names that a vocabulary has already, whole or as the end of a word."""
    known = set(vocabulary)
    return [name for name in names if {name, name.lower(), f"{name.lower()}</w>"} & known]


def read_vocabulary(folder: Path) -> set[str]:
    """Every entry of a tokenizer folder, in any of the layouts that transformers writes; empty if there is none."""
    found: set[str] = set()
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            found |= set(json.loads((folder / name).read_text(encoding="utf-8")))
    if (folder / "tokenizer.json").is_file():
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        found |= set(content["model"]["vocab"]) | {entry["content"] for entry in content.get("added_tokens", [])}
    return found
