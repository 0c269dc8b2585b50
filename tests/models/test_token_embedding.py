"""The rows that train, in place of a text encoder's table."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from coinage.demo.run import MODEL
from coinage.errors import CoinageError
from coinage.models.token_embedding import TokenEmbedding, initial_rows, install_rows

TOKENIZER: Any = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
FIRST = len(TOKENIZER)


def plain(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def test_lookup_joins_table_and_rows() -> None:
    table, rows = torch.randn(5, 4), torch.randn(2, 4)
    embedding = TokenEmbedding(table, [rows])
    ids = torch.tensor([[0, 4, 5], [6, 1, 6]])
    torch.testing.assert_close(embedding(ids), torch.cat([table, rows])[ids])
    torch.testing.assert_close(embedding.weight, torch.cat([table, rows]))
    assert [name for name, _ in embedding.named_parameters()] == ["words.0"]


def test_gradient_reaches_the_rows_as_it_would_reach_a_whole_table() -> None:
    table, rows = torch.randn(5, 4), torch.randn(2, 4)
    embedding = TokenEmbedding(table, [rows])
    whole = nn.Embedding.from_pretrained(torch.cat([table, rows]), freeze=False)
    ids, weight = torch.tensor([[0, 4, 5], [6, 1, 6]]), torch.randn(2, 3, 4)
    (embedding(ids) * weight).sum().backward()
    (whole(ids) * weight).sum().backward()
    assert whole.weight.grad is not None
    torch.testing.assert_close(embedding.rows.grad, whole.weight.grad[5:])


def test_low_precision_tables_keep_float32_rows() -> None:
    embedding = TokenEmbedding(torch.randn(5, 4, dtype=torch.bfloat16), [torch.randn(2, 4)])
    out = embedding(torch.tensor([1, 5]))
    assert (out.dtype, embedding.rows.dtype) == (torch.bfloat16, torch.float32)
    out.sum().backward()
    assert embedding.rows.grad is not None
    assert embedding.rows.grad.dtype == torch.float32


def test_rows_start_from_the_init_word_in_turn() -> None:
    table = torch.randn(FIRST, 8)
    one, two = plain("red circle")
    torch.testing.assert_close(
        initial_rows(table, TOKENIZER, "red circle", 3), table[[one, two, one]]
    )
    torch.testing.assert_close(initial_rows(table, TOKENIZER, "red circle", 1), table[[one]])
    torch.testing.assert_close(initial_rows(table, TOKENIZER, None, 2), table.mean(0).expand(2, -1))
    with pytest.raises(CoinageError, match="no tokens"):
        initial_rows(table, TOKENIZER, " ", 1)


def test_installing_again_forgets_the_earlier_rows() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table: nn.Module = nn.Embedding(5, 4)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def set_input_embeddings(self, value: nn.Module) -> None:
            self.table = value

    encoder = Encoder()
    install_rows(encoder, [torch.ones(3, 4)])
    second = install_rows(encoder, [torch.zeros(1, 4)])
    assert encoder.table is second
    assert (second.table.shape, second.rows.shape) == ((5, 4), (1, 4))
