"""The new word: its pieces, its token ids, and the rows that train.

A placeholder token with n vectors takes n consecutive new ids, for its pieces `word`, `word1`, ...
`word(n-1)`. Captions hold the bare word; it becomes its n ids when a caption is encoded, never by
editing the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinage.errors import CoinageError
from coinage.words import pieces_of, word_pattern


class Tokenizer(Protocol):
    """What we need of a transformers tokenizer."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    model_max_length: int

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A new word and where its rows are: ids `first_id` to `first_id + num_vectors - 1`."""

    token: str
    num_vectors: int
    first_id: int

    @property
    def pieces(self) -> tuple[str, ...]:
        """One name per vector, as the reference trainer names them."""
        return pieces_of(self.token, self.num_vectors)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(range(self.first_id, self.first_id + self.num_vectors))


def placeholders_for(words: Iterable[tuple[str, int]], tokenizer: Tokenizer) -> tuple[Placeholder, ...]:
    """Give each (token, number of vectors) consecutive ids after the tokenizer's vocabulary."""
    placeholders, first = [], len(tokenizer)
    for token, count in words:
        placeholders.append(Placeholder(token, count, first))
        first += count
    return tuple(placeholders)


class WordEncoder:
    """Captions to token ids, with placeholders as whole words.

    Words are matched where they stand alone, longest first, letter case included. A run that is
    already expanded (`word word1 word2`) counts as one word; a lone piece (`word1`) is its own id.
    """

    def __init__(self, tokenizer: Tokenizer, placeholders: Sequence[Placeholder]) -> None:
        self.tokenizer = tokenizer
        table: dict[str, tuple[int, ...]] = {}
        for p in placeholders:
            table |= {piece: (row,) for piece, row in zip(p.pieces, p.ids, strict=True)}
            table |= {" ".join(p.pieces): p.ids, p.token: p.ids}
        self._table = table
        self._pattern = word_pattern(table) if table else None

    def ids(self, text: str) -> list[int]:
        """Ids of a text without start, end and padding; any length."""
        if self._pattern is None:
            return self.tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for i, part in enumerate(self._pattern.split(text)):
            if i % 2:
                ids.extend(self._table[part])
            elif part.strip():
                ids.extend(self.tokenizer.encode(part, add_special_tokens=False))
        return ids

    def batch(self, texts: Sequence[str]) -> Tensor:
        """[B, L] int64: start, text cut to L - 2, end, padding; L is the tokenizer's length (77)."""
        length = self.tokenizer.model_max_length
        rows = torch.full((len(texts), length), self.tokenizer.pad_token_id)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.tokenizer.bos_token_id, *self.ids(text)[: length - 2], self.tokenizer.eos_token_id]
            row[: len(ids)] = torch.tensor(ids)
        return rows


class TokenEmbedding(nn.Module):
    """A text encoder's input table, with new rows that train.

    Attributes:
        table: [V, D], frozen, in the text encoder's dtype.
        rows: [N, D] float32, all that trains; row i answers to id V + i.
    """

    def __init__(self, table: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", table.detach(), persistent=False)
        self.rows = nn.Parameter(rows.detach().to(torch.float32).clone())

    @property
    def weight(self) -> Tensor:
        """Old and new rows together, [V + N, D] in the table's dtype."""
        return torch.cat([self.table, self.rows.to(self.table.dtype)])

    def forward(self, ids: Tensor) -> Tensor:
        """[..., D] embeddings, in the table's dtype, of [...] int64 ids below V + N."""
        size = len(self.table)
        known = F.embedding(ids.clamp(max=size - 1), self.table)
        new = F.embedding((ids - size).clamp(min=0), self.rows).to(known.dtype)
        return torch.where((ids >= size).unsqueeze(-1), new, known)


class TextEncoder(Protocol):
    """The part of a transformers text encoder that holds its input table."""

    def get_input_embeddings(self) -> nn.Module: ...

    def set_input_embeddings(self, value: nn.Module) -> None: ...


def table_of(encoder: TextEncoder) -> Tensor:
    """A text encoder's own input table, [V, D], without new rows."""
    embedding = encoder.get_input_embeddings()
    return cast(Tensor, embedding.table if isinstance(embedding, TokenEmbedding) else embedding.weight)


def install_rows(encoder: TextEncoder, rows: Tensor) -> TokenEmbedding:
    """Replace a text encoder's input table by a `TokenEmbedding` with these new rows."""
    table = table_of(encoder)
    embedding = TokenEmbedding(table, rows.to(table.device))
    encoder.set_input_embeddings(embedding)
    return embedding


def initial_rows(table: Tensor, tokenizer: Tokenizer, init_word: str | None, num_vectors: int) -> Tensor:
    """Rows to start from: the init word's tokens in turn, or the vocabulary's mean.

    Returns:
        [num_vectors, D] float32; row i is the embedding of token i mod k of the init word's k tokens.

    Raises:
        CoinageError: the init word has no tokens.
    """
    if init_word is None:
        return table.float().mean(dim=0, keepdim=True).repeat(num_vectors, 1)
    ids = tokenizer.encode(init_word, add_special_tokens=False)
    if not ids:
        raise CoinageError(f"the init word {init_word!r} has no tokens", hint="give a known word, such as girl")
    chosen = [ids[i % len(ids)] for i in range(num_vectors)]
    return table[torch.tensor(chosen)].float()
