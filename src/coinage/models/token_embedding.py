"""Put rows that train in place of a text encoder's input table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinage.errors import CoinageError
from coinage.text.placeholder import Tokenizer


class TokenEmbedding(nn.Module):
    """A text encoder's input table, with new rows that train.

    Attributes:
        table: [V, D], frozen, in the text encoder's dtype; it may be on another device than the rest,
            and then only the embeddings that are looked up are moved.
        words: for each new word its [n, D] float32, all that trains; in turn they have the ids from V on.
    """

    def __init__(self, table: Tensor, words: Sequence[Tensor]) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", table.detach(), persistent=False)
        self.words = nn.ParameterList(
            [nn.Parameter(rows.detach().to(torch.float32).clone()) for rows in words]
        )

    @property
    def rows(self) -> Tensor:
        """Rows of all words, [N, D] float32."""
        return self.words[0] if len(self.words) == 1 else torch.cat(list(self.words))

    @property
    def weight(self) -> Tensor:
        """Old and new rows together, [V + N, D] in the table's dtype."""
        return torch.cat([self.table, self.rows.to(self.table)])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of [...] int64 ids below V + N: [..., D] in the table's dtype."""
        size = len(self.table)
        known_ids = ids.clamp(max=size - 1).to(self.table.device)
        known = F.embedding(known_ids, self.table).to(ids.device)
        new = F.embedding((ids - size).clamp(min=0), self.rows).to(known.dtype)
        return torch.where((ids >= size).unsqueeze(-1), new, known)


class TextEncoder(Protocol):
    """The part of a transformers text encoder that holds its input table."""

    def get_input_embeddings(self) -> nn.Module: ...

    def set_input_embeddings(self, value: nn.Module) -> None: ...


def table_of(encoder: TextEncoder) -> Tensor:
    """Return a text encoder's own input table, [V, D], without new rows."""
    embedding = encoder.get_input_embeddings()
    if isinstance(embedding, TokenEmbedding):
        return embedding.table
    return cast(Tensor, embedding.weight)


def install_rows(
    encoder: TextEncoder, words: Sequence[Tensor], device: torch.device | None = None
) -> TokenEmbedding:
    """Replace a text encoder's input table by a `TokenEmbedding` with these new words.

    Args:
        encoder: the text encoder; its table stays where it is.
        words: the rows of each word, [n, D].
        device: of the rows; None: that of the table.
    """
    table = table_of(encoder)
    embedding = TokenEmbedding(table, [rows.to(device or table.device) for rows in words])
    encoder.set_input_embeddings(embedding)
    return embedding


def initial_rows(
    table: Tensor, tokenizer: Tokenizer, init_word: str | None, num_vectors: int
) -> Tensor:
    """Return rows to start from: the init word's tokens in turn, or the vocabulary's mean.

    Returns:
        [num_vectors, D] float32; row i is the embedding of token i mod k of the init word's k tokens.

    Raises:
        CoinageError: the init word has no tokens.
    """
    if init_word is None:
        return table.float().mean(dim=0, keepdim=True).repeat(num_vectors, 1)
    ids = tokenizer.encode(init_word, add_special_tokens=False)
    if not ids:
        hint = "give a known word, such as girl"
        raise CoinageError(f"the init word {init_word!r} has no tokens", hint=hint)
    row_ids = [ids[i % len(ids)] for i in range(num_vectors)]
    return table[torch.tensor(row_ids)].float()
