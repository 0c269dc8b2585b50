"""Whole words in vocabularies of CLIP and T5, which mark a word's end and its beginning. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

END_OF_WORD = "</w>"  # CLIP's mark
BEGIN_OF_WORD = "▁"  # T5's


def bare(token: str) -> str:
    """Return a token without the mark of its vocabulary."""
    return token.removesuffix(END_OF_WORD).removeprefix(BEGIN_OF_WORD)


def id_of(word: str, vocabulary: Mapping[str, int]) -> int | None:
    """Return the id of a word in a vocabulary; None where it is no single token of it."""
    index = vocabulary.get(f"{word}{END_OF_WORD}")
    return vocabulary.get(f"{BEGIN_OF_WORD}{word}") if index is None else index
