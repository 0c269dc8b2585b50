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
    """What we need of a transformers tokenizer."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


def pieces_of(token: str, num_vectors: int) -> tuple[str, ...]:
    """`word`, `word1`, ...: one name per vector, as sd-scripts names them."""
    return (token, *(f"{token}{i}" for i in range(1, num_vectors)))


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold the text: JSON can write half characters, which no file name or caption has."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def encoding_problems(texts: Iterable[tuple[str, str | None]]) -> list[Problem]:
    """Return an error for each text that UTF-8 cannot hold, as bytes of another encoding on a command line are.

    Args:
        texts: what each is to the user, such as "--init_word", and the text itself; None is fine.
    """
    hint = "type it in a terminal whose encoding is UTF-8"
    return [
        Problem(f"{name} {visible(text)} is not text in UTF-8", hint=hint)
        for name, text in texts
        if text is not None and not encodable(text)
    ]


def word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, longest first, where it stands alone; letter case counts."""
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({names})(?!\w)")


def marked_parts(text: str, token: str) -> list[tuple[str, bool]]:
    """The text in parts, and whether each is the word."""
    if not token:
        return [(text, False)]
    return [(part, i % 2 == 1) for i, part in enumerate(word_pattern([token]).split(text)) if part]


def taken(names: Iterable[str], vocabulary: Iterable[str]) -> list[str]:
    """The names that a vocabulary has already, whole or as the end of a word."""
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
        """Whether a text has the word, or a piece of it."""
        return word_pattern(self.pieces).search(text) is not None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(range(self.first_id, self.first_id + self.num_vectors))


def placeholders_for(words: Iterable[tuple[str, int]], first: int) -> tuple[Placeholder, ...]:
    """Give each (token, number of vectors) consecutive ids, from `first` on: the size of the vocabulary."""
    placeholders = []
    for token, count in words:
        placeholders.append(Placeholder(token, count, first))
        first += count
    return tuple(placeholders)


class WordEncoder:
    """Captions to token ids, with placeholders as whole words.

    Words are matched where they stand alone, longest first, letter case included. A run that is
    already expanded (`word word1 word2`) counts as one word; a lone piece (`word1`) is its own id.
    """

    def __init__(
        self, tokenizer: Tokenizer, placeholders: Sequence[Placeholder], pad_id: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.placeholders = tuple(placeholders)
        self._pad_id = tokenizer.pad_token_id if pad_id is None else pad_id
        self._groups = [p.ids for p in placeholders]
        table: dict[str, tuple[int, ...]] = {}
        for p in placeholders:
            table |= {piece: (row,) for piece, row in zip(p.pieces, p.ids, strict=True)}
            table |= {" ".join(p.pieces): p.ids, p.token: p.ids}
        self._table = table
        self._pattern = word_pattern(table) if table else None
        self._encode = lru_cache(maxsize=1 << 16)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )

    def mentions(self, text: str) -> bool:
        """Whether a text has a new word, or a piece of one."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def ids(self, text: str) -> list[int]:
        """Ids of a text without start, end and padding; any length."""
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
        """The ids in parts of at most 75, a word's vectors always together; any number of parts, at least one."""
        if len(ids) <= CHUNK:
            return [list(ids)]
        parts: list[list[int]] = [[]]
        at = 0
        while at < len(ids):
            size = next((len(g) for g in self._groups if tuple(ids[at : at + len(g)]) == g), 1)
            if len(parts[-1]) + size > CHUNK:
                parts.append([])
            parts[-1].extend(ids[at : at + size])
            at += size
        return parts

    @property
    def names(self) -> list[str]:
        """What is matched, longest first."""
        return sorted(self._table, key=len, reverse=True)

    def chunks_of(self, pieces: Sequence[tuple[str, float]]) -> int:
        """Rows that a text in pieces takes when nothing is cut."""
        return len(self.parts([i for text, _ in pieces for i in self.ids(text)]))

    def rows(self, text: str, chunks: int = 1) -> list[list[int]]:
        """`chunks` rows of 77 ids: start, up to 75 of the text, end, padding. What is left of the text is cut."""
        return self._padded(self.parts(self.ids(text)), chunks)

    def weighted_rows(
        self, pieces: Sequence[tuple[str, float]], chunks: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Rows of a text in pieces, and the weight of each id; 1 for start, end and padding."""
        ids = [(i, weight) for text, weight in pieces for i in self.ids(text)]
        parts = self.parts([i for i, _ in ids])
        weights, at = [], 0
        for part in parts[:chunks]:
            own = [weight for _, weight in ids[at : at + len(part)]]
            weights.append([1.0, *own, *[1.0] * (CHUNK + 1 - len(own))])
            at += len(part)
        weights += [[1.0] * (CHUNK + 2) for _ in range(chunks - len(weights))]
        return self._padded(parts, chunks), weights

    def _padded(self, parts: Sequence[list[int]], chunks: int) -> list[list[int]]:
        tokenizer = self.tokenizer
        parts = [*parts[:chunks], *([] for _ in range(chunks - len(parts)))]
        return [
            [
                tokenizer.bos_token_id,
                *part,
                tokenizer.eos_token_id,
                *[self._pad_id] * (CHUNK - len(part)),
            ]
            for part in parts
        ]


def vocabulary_problems(
    names: Iterable[str], vocabulary: Iterable[str], where: str
) -> list[Problem]:
    """Whether a model has any of the word's names already."""
    used = taken(names, vocabulary)
    hint = "choose a word of your own, such as mychar"
    return (
        [
            Problem(
                f"--token_string: {', '.join(used)} is already in the model's vocabulary",
                where,
                hint,
            )
        ]
        if used
        else []
    )
