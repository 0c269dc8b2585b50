"""Words that drown their prompts, brought back to where prompts are obeyed.

Training makes vectors longer than the model's own words and turns them far from where they began;
then a prompt says little beside them. Both can be taken back in the file alone, towards a known word
(the idea of Test-time Embedding Adjustment, arXiv:2506.22685).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.embeddings.sphere import are_opposite, between
from coinage.embeddings.word import Word, as_sd1_word
from coinage.errors import CoinageError
from coinage.models.token_embedding import initial_rows
from coinage.models.vocabulary import Vocabulary, read_vocabularies

ADJUSTED = "ti.adjusted"  # of a header: the word that the vectors were turned to, and what was kept


def vocabularies_for(word: Word, model: ModelConfig) -> Mapping[str, Vocabulary]:
    """Return the words of a model, for each of a word's text encoders.

    Raises:
        CoinageError: the model cannot be read, or has other text encoders than the word.
    """
    vocabularies = read_vocabularies(model)
    has = {key: rows.shape[1] for key, rows in word.vectors.items()}
    takes = {key: words.table.shape[1] for key, words in vocabularies.items()}
    if has != takes:
        shown = [
            ", ".join(f"{key} {width} wide" for key, width in of.items()) for of in (has, takes)
        ]
        raise CoinageError(
            f"the word is for {shown[0]}, and the model has {shown[1]}", model.source
        )
    return vocabularies


def adjusted(word: Word, anchors: Mapping[str, Tensor], keep: float) -> Word:
    """Return a word as long as the rows of a known word, and turned towards them.

    Args:
        word: as it was learned. A vector of length 0 stays as it is.
        anchors: rows [n, D] of the known word by key, as many as the word has vectors.
        keep: share of the angle to the known word that stays, 0..1: with 1 only the length changes,
            with 0 the word becomes the known one.

    Raises:
        CoinageError: a vector points away from the known word, so there is no way between them.
    """
    vectors = {}
    for key, rows in word.vectors.items():
        known = anchors[key]
        if 0 < keep < 1 and are_opposite(rows, known):
            what = f"{key}: a vector points away from this word: there is no way between them"
            raise CoinageError(what, hint="adjust it to another word")
        lengths = known.double().norm(dim=1, keepdim=True)
        mended = (between(known, rows, keep) * lengths).float()
        is_zero = rows.norm(dim=1, keepdim=True) == 0
        vectors[key] = torch.where(is_zero, rows, mended)
    return replace(word, vectors=vectors)


def adjusted_to(word: Word, init_word: str, keep: float, model: ModelConfig) -> Word:
    """Return a word adjusted to a known word of a model, with a note of it in its header.

    Args:
        word: as it was learned.
        init_word: one or more known tokens; where the word has more vectors, they repeat.
        keep: as in `adjusted`.
        model: whose table has the known word.

    Raises:
        CoinageError: the model cannot be read, or is not the word's; or the known word has no tokens.
    """
    vocabularies = vocabularies_for(as_sd1_word(word), model)
    word = as_sd1_word(word)
    anchors = {
        key: initial_rows(words.table, words.tokenizer, init_word, word.num_vectors)
        for key, words in vocabularies.items()
    }
    metadata = {**word.metadata, ADJUSTED: f"{init_word}, keep {keep:g}"}
    return replace(adjusted(word, anchors, keep), metadata=metadata)
