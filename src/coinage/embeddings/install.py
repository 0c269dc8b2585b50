"""Give a loaded model its new word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coinage.config import WordConfig
from coinage.embeddings.file import vectors_for
from coinage.embeddings.reading import JOIN, open_word, tell
from coinage.errors import CoinageError, ConfigError, EmbeddingFileError, Problem
from coinage.models.base import Components
from coinage.models.token_embedding import initial_rows, table_of
from coinage.text.placeholder import Placeholder, Tokenizer, pieces_of, vocabulary_problems
from coinage.wording import counted

log = logging.getLogger("coinage")


def read_vectors(word: WordConfig) -> Mapping[str, Tensor]:
    """The vectors of the word's file, by key, as many as the word has; empty without a file.

    Raises:
        EmbeddingFileError: no embedding, or another number of vectors than `init_fit` makes fit.
    """
    if word.init_file is None:
        return {}
    file = open_word(word.init_file).word()
    count, wanted = file.num_vectors, word.num_vectors
    if count != wanted and word.init_fit != ("truncate" if count > wanted else "repeat"):
        way = "truncate takes the first ones" if count > wanted else "repeat takes them in turn"
        hint = f"pass --num_vectors_per_token {count}; or --weights_fit {way}"
        what = f"this file has {counted(count, 'vector')}, but --num_vectors_per_token is {wanted}"
        raise EmbeddingFileError(what, str(word.init_file), hint)
    return {key: rows[torch.arange(wanted) % count] for key, rows in file.vectors.items()}


def tell_of_file(word: WordConfig) -> None:
    """As `tell`, of the word's own file."""
    if word.init_file is not None:
        tell(word.init_file, open_word(word.init_file))


def fits(
    vectors: Mapping[str, Tensor], keys: Sequence[str], widths: Sequence[int], where: str
) -> Problem | None:
    """Return what is wrong with a file's vectors for a model, None where they fit or there are none.

    Args:
        vectors: [n, D] by key, as `read_vectors` gives them.
        keys: name of each of the model's text encoders in embedding files.
        widths: of each text encoder's token embeddings.
        where: the file.
    """
    given = [vectors_for(vectors, key) for key in keys]
    if not vectors or all(
        rows is not None and rows.shape[1] == width
        for rows, width in zip(given, widths, strict=True)
    ):
        return None
    has = " and ".join(f"{key} {rows.shape[1]} wide" for key, rows in vectors.items())
    needs = " and ".join(f"{key} {width} wide" for key, width in zip(keys, widths, strict=True))
    hint = "give a file that was made for this kind of model"
    if len(vectors) < len(keys) and next(iter(vectors.values())).shape[1] in widths:
        hint = JOIN
    return Problem(f"this file has vectors for {has}, and the model takes {needs}", where, hint)


def install_word(parts: Components, word: WordConfig, keys: Sequence[str]) -> Placeholder:
    """As `install_words`, for one word."""
    (placeholder,) = install_words(parts, [word], keys)
    return placeholder


def install_words(
    parts: Components, words: Sequence[WordConfig], keys: Sequence[str]
) -> tuple[Placeholder, ...]:
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
    given = [read_vectors(word) for word in words]
    widths = [table_of(encoder).shape[1] for encoder in parts.text_encoders]
    for word, vectors in zip(words, given, strict=True):
        if problem := fits(vectors, keys, widths, str(word.init_file)):
            raise EmbeddingFileError(problem.what, problem.where, problem.hint)
    found = []
    for key, tokenizer, encoder in zip(keys, parts.tokenizers, parts.text_encoders, strict=True):
        problems = vocabulary_problems(
            [piece for word in words for piece in pieces_of(word.token, word.num_vectors)],
            tokenizer.get_vocab(),
            "the loaded tokenizer",
        )
        if problems:
            raise ConfigError(problems)
        table = table_of(encoder)
        if len(tokenizer) > len(table):
            what = (
                f"the tokenizer has {len(tokenizer)} tokens, and the text encoder {len(table)} rows"
            )
            raise CoinageError(what, hint="remove tokens that were added to the model's tokenizer")
        found.append(
            torch.cat(
                [
                    _first_rows(word, vectors, key, tokenizer, table)
                    for word, vectors in zip(words, given, strict=True)
                ]
            )
        )
    return parts.install([(word.token, word.num_vectors) for word in words], found)


def _first_rows(
    word: WordConfig, given: Mapping[str, Tensor], key: str, tokenizer: Tokenizer, table: Tensor
) -> Tensor:
    """What a word starts from in a text encoder, [n, D]; a file's vectors fit the model."""
    rows = vectors_for(given, key)
    return (
        initial_rows(table, tokenizer, word.init_word, word.num_vectors) if rows is None else rows
    ).to(table.device)
