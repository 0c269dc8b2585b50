"""Give a loaded model its new word."""

from __future__ import annotations

from coinage.config import WordConfig
from coinage.embedding_file import read
from coinage.errors import EmbeddingFileError
from coinage.families.base import Components
from coinage.tokens import Placeholder, WordEncoder, initial_rows, install_rows, placeholders_for, table_of


def install_word(parts: Components, word: WordConfig) -> Placeholder:
    """Give the word its ids and its first rows in every text encoder; an earlier word is forgotten.

    Raises:
        EmbeddingFileError: the word's file does not fit the model or the number of vectors.
        CoinageError: the init word has no tokens.
    """
    (placeholder,) = placeholders_for([(word.token, word.num_vectors)], parts.tokenizers[0])
    given = read(word.init_file).vectors if word.init_file else {}
    embeddings = []
    for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders, strict=True):
        table = table_of(encoder)
        rows = given["emb_params"] if given else initial_rows(table, tokenizer, word.init_word, word.num_vectors)
        if rows.shape != (word.num_vectors, table.shape[1]):
            raise EmbeddingFileError(
                f"{rows.shape[0]} vectors of width {rows.shape[1]}; needed are {word.num_vectors} of width {table.shape[1]}",
                str(word.init_file),
                f"pass --num_vectors_per_token {rows.shape[0]}, or a file made for this model",
            )
        embeddings.append(install_rows(encoder, rows))
    parts.embeddings = tuple(embeddings)
    parts.word_encoders = tuple(WordEncoder(tokenizer, [placeholder]) for tokenizer in parts.tokenizers)
    return placeholder
