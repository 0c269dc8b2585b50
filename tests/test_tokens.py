"""The new word: ids, rows, and captions as token ids."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import CLIPTokenizer

from coinage.demo.run import MODEL
from coinage.errors import CoinageError
from coinage.tokens import Placeholder, TokenEmbedding, WordEncoder, initial_rows, install_rows, placeholders_for

TOKENIZER: Any = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
FIRST = len(TOKENIZER)
WORD = Placeholder("zibu", 3, FIRST)
ENCODER = WordEncoder(TOKENIZER, [WORD])
RUN = [FIRST, FIRST + 1, FIRST + 2]


def plain(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def test_new_ids_follow_the_vocabulary() -> None:
    first, second = placeholders_for([("zibu", 3), ("wobo", 2)], TOKENIZER)
    assert first == WORD
    assert (second.first_id, second.ids) == (FIRST + 3, (FIRST + 3, FIRST + 4))
    assert WORD.pieces == ("zibu", "zibu1", "zibu2")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of zibu", [*plain("a photo of"), *RUN]),
        ("zibu, zibu", [*RUN, *plain(","), *RUN]),
        ("a photo of zibu zibu1 zibu2", [*plain("a photo of"), *RUN]),
        ("zibu1", [FIRST + 1]),
        ("Zibu", plain("Zibu")),
        ("zibus", plain("zibus")),
        ("xzibu", plain("xzibu")),
        ("zibu10", plain("zibu10")),
        ("(zibu)", [*plain("("), *RUN, *plain(")")]),
        ("", []),
    ],
)
def test_words_are_expanded_where_they_stand_alone(text: str, ids: list[int]) -> None:
    assert ENCODER.ids(text) == ids


def test_a_token_that_is_part_of_another() -> None:
    encoder = WordEncoder(TOKENIZER, placeholders_for([("abc", 2), ("abcd", 1)], TOKENIZER))
    assert encoder.ids("abcd abc") == [FIRST + 2, FIRST, FIRST + 1]


def test_tokens_with_marks() -> None:
    encoder = WordEncoder(TOKENIZER, placeholders_for([("<cat-toy>", 1)], TOKENIZER))
    assert encoder.ids("a <cat-toy>.") == [*plain("a"), FIRST, *plain(".")]


@given(st.lists(st.sampled_from(["red", "circle", "on", ",", "qux"]), max_size=6))
def test_text_without_the_word_is_encoded_as_the_tokenizer_does(words: list[str]) -> None:
    text = " ".join(words)
    assert ENCODER.batch([text])[0].tolist() == TOKENIZER(text, padding="max_length", truncation=True)["input_ids"]


def test_long_captions_are_cut_before_the_end_of_text() -> None:
    (row,) = ENCODER.batch(["red " * 100])
    assert row.shape == (77,)
    assert (row[0].item(), row[76].item()) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)
    assert (row[1:76] == plain("red")[0]).all()


def test_lookup_joins_table_and_rows() -> None:
    table, rows = torch.randn(5, 4), torch.randn(2, 4)
    embedding = TokenEmbedding(table, rows)
    ids = torch.tensor([[0, 4, 5], [6, 1, 6]])
    torch.testing.assert_close(embedding(ids), torch.cat([table, rows])[ids])
    torch.testing.assert_close(embedding.weight, torch.cat([table, rows]))
    assert [name for name, _ in embedding.named_parameters()] == ["rows"]


def test_gradient_reaches_the_rows_as_it_would_reach_a_whole_table() -> None:
    table, rows = torch.randn(5, 4), torch.randn(2, 4)
    embedding = TokenEmbedding(table, rows)
    whole = nn.Embedding.from_pretrained(torch.cat([table, rows]), freeze=False)
    ids, weight = torch.tensor([[0, 4, 5], [6, 1, 6]]), torch.randn(2, 3, 4)
    (embedding(ids) * weight).sum().backward()
    (whole(ids) * weight).sum().backward()
    assert whole.weight.grad is not None
    torch.testing.assert_close(embedding.rows.grad, whole.weight.grad[5:])


def test_low_precision_tables_keep_float32_rows() -> None:
    embedding = TokenEmbedding(torch.randn(5, 4, dtype=torch.bfloat16), torch.randn(2, 4))
    out = embedding(torch.tensor([1, 5]))
    assert (out.dtype, embedding.rows.dtype) == (torch.bfloat16, torch.float32)
    out.sum().backward()
    assert embedding.rows.grad is not None
    assert embedding.rows.grad.dtype == torch.float32


def test_rows_start_from_the_init_word_in_turn() -> None:
    table = torch.randn(FIRST, 8)
    one, two = plain("red circle")
    torch.testing.assert_close(initial_rows(table, TOKENIZER, "red circle", 3), table[[one, two, one]])
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
    install_rows(encoder, torch.ones(3, 4))
    second = install_rows(encoder, torch.zeros(1, 4))
    assert encoder.table is second
    assert (second.table.shape, second.rows.shape) == ((5, 4), (1, 4))
