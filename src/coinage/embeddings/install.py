"""Words installed in a loaded model: to train from a start, or as they were learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coinage.config import WordConfig
from coinage.embeddings.pairs import OTHER_KIND, how_to_fit, open_with_other_half
from coinage.embeddings.reading import log_reading
from coinage.embeddings.word import Word, vectors_for
from coinage.errors import CoinageError, ConfigError, EmbeddingFileError, Problem
from coinage.models.base import Components
from coinage.models.token_embedding import initial_rows, table_of
from coinage.text.placeholder import Placeholder, pieces_of, vocabulary_problems
from coinage.wording import counted

log = logging.getLogger("coinage")


def read_vectors(word: WordConfig) -> Mapping[str, Tensor]:
    """Return the vectors of the word's file, by key, as many as the word has; empty without a file.

    Raises:
        EmbeddingFileError: not an embedding, or another number of vectors than `init_fit` makes fit.
    """
    if word.init_file is None:
        return {}
    file = open_with_other_half(word.init_file, word.token).usable_word()
    count, wanted = file.num_vectors, word.num_vectors
    fitting = "truncate" if count > wanted else "repeat"
    if count != wanted and word.init_fit != fitting:
        way = "truncate takes the first ones" if count > wanted else "repeat takes them in turn"
        raise EmbeddingFileError(
            f"this file has {counted(count, 'vector')}, but --num_vectors_per_token is {wanted}",
            str(word.init_file),
            f"pass --num_vectors_per_token {count}; or --weights_fit {way}",
        )
    return {key: rows[torch.arange(wanted) % count] for key, rows in file.vectors.items()}


def log_word_file(word: WordConfig) -> None:
    """Log what there is to know about the word's own file, as `log_reading` does."""
    if word.init_file is not None:
        log_reading(word.init_file, open_with_other_half(word.init_file, word.token))


def misfit(
    vectors: Mapping[str, Tensor], keys: Sequence[str], widths: Sequence[int], where: str
) -> Problem | None:
    """Return why vectors do not fit a model; None if they do, or if there are none.

    Args:
        vectors: [n, D] by key.
        keys: name of each of the model's text encoders in embedding files.
        widths: of each text encoder's token embeddings.
        where: the file, or the word.
    """
    if not vectors or _fit(vectors, keys, widths):
        return None
    has = " and ".join(f"{key} {rows.shape[1]} wide" for key, rows in vectors.items())
    needs = " and ".join(f"{key} {width} wide" for key, width in zip(keys, widths, strict=True))
    hint = OTHER_KIND
    if len(vectors) < len(keys) and next(iter(vectors.values())).shape[1] in widths:
        hint = how_to_fit(vectors, keys)
    return Problem(f"this file has vectors for {has}, and the model takes {needs}", where, hint)


def _fit(vectors: Mapping[str, Tensor], keys: Sequence[str], widths: Sequence[int]) -> bool:
    for key, width in zip(keys, widths, strict=True):
        rows = vectors_for(vectors, key)
        if rows is None or rows.shape[1] != width:
            return False
    return True


def install_word(parts: Components, word: WordConfig, keys: Sequence[str]) -> Placeholder:
    """Install one word as `install_words` does; return its placeholder."""
    (placeholder,) = install_words(parts, [word], keys)
    return placeholder


def install_words(
    parts: Components, words: Sequence[WordConfig], keys: Sequence[str]
) -> tuple[Placeholder, ...]:
    """Install words that are to be trained, with their first vectors; earlier words are removed.

    Args:
        parts: the model's.
        words: token, number of vectors, and what they start from.
        keys: name of each text encoder's vectors in embedding files.

    Raises:
        ConfigError: the model has a word already.
        EmbeddingFileError: a word's file does not fit the model or the number of vectors.
        CoinageError: an init word has no tokens, or the tokenizer has tokens that the text encoder
            lacks.
    """
    from_files = [read_vectors(word) for word in words]
    for word, vectors in zip(words, from_files, strict=True):
        _check_fit(parts, keys, vectors, str(word.init_file))
    _check_tokenizers(parts, words)
    first_vectors = []
    for word, vectors in zip(words, from_files, strict=True):
        first_vectors.append(vectors or _initial_vectors(parts, word, keys))
    return _install(parts, keys, [word.token for word in words], first_vectors)


def install_embeddings(
    parts: Components, keys: Sequence[str], words: Sequence[tuple[str, Word]]
) -> tuple[Placeholder, ...]:
    """Install learned words, each under its name; earlier words are removed.

    Args:
        parts: the model's.
        keys: name of each text encoder's vectors in embedding files.
        words: what to write in prompts, and the word.

    Raises:
        EmbeddingFileError: a word was made for another kind of model.
    """
    for token, word in words:
        _check_fit(parts, keys, word.vectors, str(word.path or token))
    tokens = [token for token, _ in words]
    return _install(parts, keys, tokens, [word.vectors for _, word in words])


def log_left_out(name: str, word: Word, keys: Sequence[str]) -> None:
    """Log which vectors of a word that fits a model the model has no text encoder for."""
    if len(word.vectors) > len(keys):
        left = " and ".join(key for key in word.vectors if key not in keys)
        log.warning(
            "%s: vectors for %s are left out: the model has no such text encoder", name, left
        )


def _check_fit(
    parts: Components, keys: Sequence[str], vectors: Mapping[str, Tensor], where: str
) -> None:
    widths = [table_of(encoder).shape[1] for encoder in parts.text_encoders]
    if problem := misfit(vectors, keys, widths, where):
        raise EmbeddingFileError(problem.what, problem.where, problem.hint)


def _check_tokenizers(parts: Components, words: Sequence[WordConfig]) -> None:
    """Check that new words are free in the tokenizers, and that these fit their text encoders."""
    pieces: list[str] = []
    for word in words:
        pieces += pieces_of(word.token, word.num_vectors)
    for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders, strict=True):
        problems = vocabulary_problems(pieces, tokenizer.get_vocab(), "the loaded tokenizer")
        if problems:
            raise ConfigError(problems)
        tokens, rows = len(tokenizer), len(table_of(encoder))
        if tokens > rows:
            raise CoinageError(
                f"the tokenizer has {tokens} tokens, and the text encoder {rows} rows",
                hint="remove tokens that were added to the model's tokenizer",
            )


def _initial_vectors(parts: Components, word: WordConfig, keys: Sequence[str]) -> dict[str, Tensor]:
    """Return what a word without a file starts from in each text encoder, [n, D] by key."""
    vectors = {}
    for key, tokenizer, encoder in zip(keys, parts.tokenizers, parts.text_encoders, strict=True):
        table = table_of(encoder)
        vectors[key] = initial_rows(table, tokenizer, word.init_word, word.num_vectors)
    return vectors


def _install(
    parts: Components,
    keys: Sequence[str],
    tokens: Sequence[str],
    vectors: Sequence[Mapping[str, Tensor]],
) -> tuple[Placeholder, ...]:
    """Install words whose vectors fit the model, one mapping of key to [n, D] for each."""
    rows = []
    for key, encoder in zip(keys, parts.text_encoders, strict=True):
        device = table_of(encoder).device
        rows_of_words = []
        for vectors_of_word in vectors:
            fitting = vectors_for(vectors_of_word, key)
            if fitting is not None:
                rows_of_words.append(fitting.to(device))
        if rows_of_words:
            rows.append(torch.cat(rows_of_words))
    words = []
    for token, vectors_of_word in zip(tokens, vectors, strict=True):
        words.append((token, len(next(iter(vectors_of_word.values())))))
    return parts.install(words, rows)
