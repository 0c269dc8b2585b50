"""The new word in text: its pieces, its token ids, and captions as rows of ids. Imports no torch.

A placeholder token with n vectors takes n consecutive new ids, for its pieces `word`, `word1`, ...
`word(n-1)`. Captions hold the bare word; it becomes its n ids when a caption is encoded, never by
editing the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from coinage.errors import Problem
from coinage.wording import visible

CHUNK = 75  # text tokens between the start and the end of a row of 77


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that every text encoder's tokenizer has."""

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


class FramingTokenizer(Tokenizer, Protocol):
    """A tokenizer with ids for the start and the end of a text, as CLIP's."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How a text encoder takes token ids: in rows of one length, each framed and padded.

    Attributes:
        start: ids in front of a row's text; () for encoders without, such as T5.
        end: ids behind a row's text.
        pad: id that fills the rest of a row.
        room: ids of text that fit in one row.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    room: int = CHUNK

    @property
    def length(self) -> int:
        """Ids in a row."""
        return len(self.start) + self.room + len(self.end)

    def row(self, ids: Sequence[int]) -> list[int]:
        """Return the row of a text of at most `room` ids."""
        padding = [self.pad] * (self.room - len(ids))
        return [*self.start, *ids, *self.end, *padding]

    def weights(self, weights: Sequence[float]) -> list[float]:
        """Return the weight of each id in a row: as given for the text, 1 for everything else."""
        rest = self.length - len(self.start) - len(weights)
        return [*[1.0] * len(self.start), *weights, *[1.0] * rest]


def clip_rows(tokenizer: FramingTokenizer, pad: int | None = None) -> RowFormat:
    """Return CLIP's row format: start, 75 tokens, end; padded as the tokenizer says unless `pad` is given."""
    pad = tokenizer.pad_token_id if pad is None else pad
    return RowFormat((tokenizer.bos_token_id,), (tokenizer.eos_token_id,), pad)


def pieces_of(token: str, num_vectors: int) -> tuple[str, ...]:
    """Return one name per vector, as sd-scripts names them: `word`, `word1`, ..."""
    return (token, *(f"{token}{i}" for i in range(1, num_vectors)))


def encodable(text: str) -> bool:
    """Return whether UTF-8 can hold a text; JSON can write half characters, which it cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def encoding_problems(texts: Iterable[tuple[str, str | None]]) -> list[Problem]:
    """Return an error for each text that UTF-8 cannot hold: bytes of another encoding on a command line.

    Args:
        texts: each text's name for the user, such as "--init_word", and the text; None is fine.
    """
    hint = "type it in a terminal whose encoding is UTF-8"
    return [
        Problem(f"{name} {visible(text)} is not text in UTF-8", hint=hint)
        for name, text in texts
        if text is not None and not encodable(text)
    ]


def word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the words, longest first, where it stands alone; case counts."""
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({names})(?!\w)")


def marked_parts(text: str, token: str) -> list[tuple[str, bool]]:
    """Return a text in parts, each with whether it is the word."""
    if not token:
        return [(text, False)]
    return [(part, i % 2 == 1) for i, part in enumerate(word_pattern([token]).split(text)) if part]


def taken(names: Iterable[str], vocabulary: Iterable[str]) -> list[str]:
    """Return the names that a vocabulary has already, whole or as the end of a word."""
    known = set(vocabulary)
    return [name for name in names if {name, name.lower(), f"{name.lower()}</w>"} & known]


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A new word and where its rows are: ids `first_id` to `first_id + num_vectors - 1`."""

    token: str
    num_vectors: int
    first_id: int

    @property
    def pieces(self) -> tuple[str, ...]:
        """One name per vector, as sd-scripts names them."""
        return pieces_of(self.token, self.num_vectors)

    def is_in(self, text: str) -> bool:
        """Return whether a text has the word, or a piece of it."""
        return word_pattern(self.pieces).search(text) is not None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(range(self.first_id, self.first_id + self.num_vectors))


def placeholders_for(words: Iterable[tuple[str, int]], first: int) -> tuple[Placeholder, ...]:
    """Give each (token, number of vectors) consecutive ids from `first` on, the size of the vocabulary."""
    placeholders = []
    for token, count in words:
        placeholders.append(Placeholder(token, count, first))
        first += count
    return tuple(placeholders)


class WordEncoder:
    """Captions to rows of token ids for one text encoder, with placeholders as whole words.

    Words are matched where they stand alone, longest first, letter case included. A run that is
    already expanded (`word word1 word2`) counts as one word; a lone piece (`word1`) is its own id.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        placeholders: Sequence[Placeholder],
        row_format: RowFormat,
    ) -> None:
        self.tokenizer = tokenizer
        self.placeholders = tuple(placeholders)
        self.row_format = row_format
        table: dict[str, tuple[int, ...]] = {}
        for placeholder in placeholders:
            for piece, piece_id in zip(placeholder.pieces, placeholder.ids, strict=True):
                table[piece] = (piece_id,)
            table[" ".join(placeholder.pieces)] = placeholder.ids
            table[placeholder.token] = placeholder.ids
        self._table = table
        self._pattern = word_pattern(table) if table else None
        self._encode = lru_cache(maxsize=1 << 16)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )

    @property
    def names(self) -> list[str]:
        """Everything that is matched as a word or piece, longest first."""
        return sorted(self._table, key=len, reverse=True)

    def mentions(self, text: str) -> bool:
        """Return whether a text has a new word, or a piece of one."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start, end and padding."""
        if self._pattern is None:
            return list(self._encode(text))
        ids: list[int] = []
        for i, part in enumerate(self._pattern.split(text)):
            if i % 2:
                ids.extend(self._table[part])
            elif part.strip():
                ids.extend(self._encode(part))
        return ids

    def parts(self, ids: Sequence[int]) -> list[list[int]]:
        """Split ids into parts that fit in a row each, at least one; a word's vectors stay together."""
        room = self.row_format.room
        if len(ids) <= room:
            return [list(ids)]
        parts: list[list[int]] = [[]]
        at = 0
        while at < len(ids):
            size = self._word_length(ids, at)
            if len(parts[-1]) + size > room:
                parts.append([])
            parts[-1].extend(ids[at : at + size])
            at += size
        return parts

    def _word_length(self, ids: Sequence[int], at: int) -> int:
        """Return the number of ids of the new word that begins at a place, or 1."""
        for placeholder in self.placeholders:
            if tuple(ids[at : at + placeholder.num_vectors]) == placeholder.ids:
                return placeholder.num_vectors
        return 1

    def chunks_of(self, pieces: Sequence[tuple[str, float]]) -> int:
        """Return how many rows a text in weighted pieces takes when nothing is cut."""
        ids: list[int] = []
        for text, _ in pieces:
            ids.extend(self.ids(text))
        return len(self.parts(ids))

    def rows(self, text: str, chunks: int = 1) -> list[list[int]]:
        """Return `chunks` rows of ids; the rest of a longer text is cut."""
        return self._framed(self.parts(self.ids(text)), chunks)

    def weighted_rows(
        self, pieces: Sequence[tuple[str, float]], chunks: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return the rows of a text in weighted pieces, and the weight of each id."""
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in pieces:
            text_ids = self.ids(text)
            ids.extend(text_ids)
            weights.extend([weight] * len(text_ids))
        parts = self.parts(ids)
        weight_rows = []
        at = 0
        for part in parts[:chunks]:
            weight_rows.append(self.row_format.weights(weights[at : at + len(part)]))
            at += len(part)
        while len(weight_rows) < chunks:
            weight_rows.append(self.row_format.weights([]))
        return self._framed(parts, chunks), weight_rows

    def _framed(self, parts: Sequence[list[int]], chunks: int) -> list[list[int]]:
        """Return exactly `chunks` rows, the last ones empty where there are fewer parts."""
        rows = [self.row_format.row(part) for part in parts[:chunks]]
        while len(rows) < chunks:
            rows.append(self.row_format.row([]))
        return rows


def vocabulary_problems(
    names: Iterable[str], vocabulary: Iterable[str], where: str
) -> list[Problem]:
    """Return an error if the model's vocabulary has any of the word's names already."""
    used = taken(names, vocabulary)
    if not used:
        return []
    what = f"--token_string: {', '.join(used)} is already in the model's vocabulary"
    return [Problem(what, where, "choose a word of your own, such as mychar")]
