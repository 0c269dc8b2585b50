"""Give a loaded model its new word."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor

from coinage.config import WordConfig
from coinage.data.captions import TEMPLATES, variants
from coinage.data.scan import Sample
from coinage.embedding_file import read
from coinage.errors import ConfigError, EmbeddingFileError, Problem
from coinage.families.base import Components
from coinage.preflight import vocabulary_problems
from coinage.tokens import Placeholder, WordEncoder, initial_rows, install_rows, placeholders_for, table_of

log = logging.getLogger("coinage")


def read_vectors(word: WordConfig) -> Mapping[str, Tensor]:
    """The vectors of the word's file, by key; empty without a file.

    Raises:
        EmbeddingFileError: no embedding, or another number of vectors.
    """
    if word.init_file is None:
        return {}
    vectors = read(word.init_file).vectors
    for rows in vectors.values():
        if len(rows) != word.num_vectors:
            hint = f"pass --num_vectors_per_token {len(rows)}"
            raise EmbeddingFileError(f"{len(rows)} vectors; needed are {word.num_vectors}", str(word.init_file), hint)
    return vectors


def install_word(parts: Components, word: WordConfig) -> Placeholder:
    """Give the word its ids and its first rows in every text encoder; an earlier word is forgotten.

    Raises:
        ConfigError: the model has the word already.
        EmbeddingFileError: the word's file does not fit the model or the number of vectors.
        CoinageError: the init word has no tokens.
    """
    (placeholder,) = placeholders_for([(word.token, word.num_vectors)], parts.tokenizers[0])
    given = read_vectors(word)
    embeddings = []
    for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders, strict=True):
        problems = vocabulary_problems(placeholder.pieces, tokenizer.get_vocab(), "the loaded tokenizer")
        if problems:
            raise ConfigError(problems)
        table = table_of(encoder)
        rows = given["emb_params"] if given else initial_rows(table, tokenizer, word.init_word, word.num_vectors)
        if rows.shape[1] != table.shape[1]:
            what = f"vectors of width {rows.shape[1]}; this model's are {table.shape[1]} wide"
            raise EmbeddingFileError(what, str(word.init_file), "give a file that was made for this kind of model")
        embeddings.append(install_rows(encoder, rows))
    parts.embeddings = tuple(embeddings)
    parts.word_encoders = tuple(WordEncoder(tokenizer, [placeholder]) for tokenizer in parts.tokenizers)
    return placeholder


def check_captions(samples: Iterable[Sample], encoder: WordEncoder, placeholder: Placeholder) -> None:
    """See that every caption still holds all of the word's ids after it is cut to the encoder's length.

    Raises:
        ConfigError: no caption does; nothing would be learned.
    """
    room = encoder.tokenizer.model_max_length - 2
    longest = max(TEMPLATES["object"] + TEMPLATES["style"], key=len)
    whole, cut = 0, []
    for sample in samples:
        rules = sample.subset.captions
        texts = [longest.format(placeholder.token)] if rules.template else variants(sample.caption, rules, placeholder.token)
        rows = [encoder.ids(text) for text in texts]
        if all(set(placeholder.ids) <= set(ids[:room]) for ids in rows):
            whole += 1
        elif any(set(placeholder.ids) & set(ids[room:]) for ids in rows):
            cut.append(sample.path.name)
    if not cut:
        return
    what = f"captions are longer than {room} tokens, and the word {placeholder.token} is cut off: {', '.join(cut[:3])}"
    hint = "put the word first, shorten the captions, or use fewer vectors"
    if not whole:
        raise ConfigError([Problem(f"all {what}", hint=hint)])
    log.warning("%d %s\nhint: %s", len(cut), what, hint)
