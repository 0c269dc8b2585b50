"""Give a loaded model its new word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coinage.config import WordConfig
from coinage.embeddings.file import vectors_for
from coinage.embeddings.reading import read
from coinage.errors import CoinageError, ConfigError, EmbeddingFileError
from coinage.families.base import Components
from coinage.preflight import vocabulary_problems
from coinage.tokens import initial_rows, table_of
from coinage.words import Placeholder, Tokenizer, placeholders_for


def read_vectors(word: WordConfig) -> Mapping[str, Tensor]:
    """The vectors of the word's file, by key, as many as the word has; empty without a file.

    Raises:
        EmbeddingFileError: no embedding, or another number of vectors than `init_fit` makes fit.
    """
    if word.init_file is None:
        return {}
    found = read(word.init_file)
    count, wanted = found.num_vectors, word.num_vectors
    if count != wanted and word.init_fit != ("truncate" if count > wanted else "repeat"):
        way = "truncate takes the first ones" if count > wanted else "repeat takes them in turn"
        hint = f"pass --num_vectors_per_token {count}; or --weights_fit {way}"
        raise EmbeddingFileError(f"{count} vectors; needed are {wanted}", str(word.init_file), hint)
    return {key: rows[torch.arange(wanted) % count] for key, rows in found.vectors.items()}


def install_word(parts: Components, word: WordConfig, keys: Sequence[str]) -> Placeholder:
    """As `install_words`, for one word."""
    (placeholder,) = install_words(parts, [word], keys)
    return placeholder


def install_words(parts: Components, words: Sequence[WordConfig], keys: Sequence[str]) -> tuple[Placeholder, ...]:
    """Give words their ids and their first rows in every text encoder; earlier words are forgotten.

    Args:
        parts: the model's.
        words: token, number of vectors, and what they start from.
        keys: name of each text encoder's vectors in embedding files.

    Raises:
        ConfigError: the model has a word already.
        EmbeddingFileError: a word's file does not fit the model or the number of vectors.
        CoinageError: an init word has no tokens, or the tokenizer has tokens that the text encoder lacks.
    """
    placeholders = placeholders_for([(word.token, word.num_vectors) for word in words], len(table_of(parts.text_encoders[0])))
    given = [read_vectors(word) for word in words]
    found = []
    for key, tokenizer, encoder in zip(keys, parts.tokenizers, parts.text_encoders, strict=True):
        problems = vocabulary_problems([piece for p in placeholders for piece in p.pieces], tokenizer.get_vocab(), "the loaded tokenizer")
        if problems:
            raise ConfigError(problems)
        table = table_of(encoder)
        if len(tokenizer) > len(table):
            what = f"the tokenizer has {len(tokenizer)} tokens, and the text encoder {len(table)} rows"
            raise CoinageError(what, hint="remove tokens that were added to the model's tokenizer")
        found.append(torch.cat([_first_rows(word, vectors, key, tokenizer, table) for word, vectors in zip(words, given, strict=True)]))
    parts.install(placeholders, found)
    return placeholders


def _first_rows(word: WordConfig, given: Mapping[str, Tensor], key: str, tokenizer: Tokenizer, table: Tensor) -> Tensor:
    """What a word starts from in a text encoder, [n, D]."""
    rows = vectors_for(given, key) if given else initial_rows(table, tokenizer, word.init_word, word.num_vectors)
    hint = "give a file that was made for this kind of model"
    if rows is None:
        raise EmbeddingFileError(f"the file has no vectors for {key}, only for {', '.join(given)}", str(word.init_file), hint)
    if rows.shape[1] != table.shape[1]:
        raise EmbeddingFileError(f"vectors of width {rows.shape[1]}; this model's are {table.shape[1]} wide", str(word.init_file), hint)
    return rows.to(table.device)
