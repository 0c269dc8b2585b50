"""A text encoder of another kind fits: T5 has no start, its own padding, length and vocabulary."""

import torch
from transformers import T5Config, T5EncoderModel

from coinage.models.token_embedding import install_rows, table_of
from coinage.text.placeholder import RowFormat, WordEncoder, placeholders_for

WORDS = ["<pad>", "</s>", "a", "red", "circle"]


class WordTokenizer:
    """A tokenizer with a token for each word it knows."""

    def __len__(self) -> int:
        return len(WORDS)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [WORDS.index(word) for word in text.split()]

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(WORDS)}


ROWS = RowFormat(start=(), end=(1,), pad=0, room=5)
ENCODER = WordEncoder(WordTokenizer(), placeholders_for([("zibu", 2)], len(WORDS)), ROWS)


def test_rows_have_its_frame_and_length() -> None:
    assert ROWS.length == 6
    assert ENCODER.rows("a zibu") == [[2, 5, 6, 1, 0, 0]]
    assert ENCODER.rows("a red circle a zibu red", chunks=2) == [
        [2, 3, 4, 2, 1, 0],
        [5, 6, 3, 1, 0, 0],
    ]


def test_weights_lie_where_the_ids_do() -> None:
    rows, weights = ENCODER.weighted_rows([("a", 1.0), ("zibu", 1.5)], 1)
    assert rows == [[2, 5, 6, 1, 0, 0]]
    assert weights == [[1.0, 1.5, 1.5, 1.0, 1.0, 1.0]]


def test_its_rows_learn() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(WORDS), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    encoder = T5EncoderModel(config).requires_grad_(False).eval()
    assert table_of(encoder).shape == (len(WORDS), 8)
    embedding = install_rows(encoder, [torch.ones(2, 8)])
    ids = torch.tensor(ENCODER.rows("a zibu"))
    encoder(ids, attention_mask=(ids != ROWS.pad).long()).last_hidden_state.sum().backward()
    (rows,) = embedding.words
    assert rows.grad is not None
    assert (rows.grad != 0).any(dim=1).all()
