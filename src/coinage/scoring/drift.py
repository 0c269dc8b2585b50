"""How far a word is from the model's own words, and how much it moves the rest of a prompt.

It needs no pictures and no other model.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from coinage.embeddings.word import Word, vectors_for
from coinage.errors import CoinageError
from coinage.models.base import Components, ModelFamily
from coinage.models.token_embedding import initial_rows, table_of
from coinage.models.vocabulary import Vocabulary
from coinage.scoring.prompts import TOKEN, WORD
from coinage.seeding import rng_for
from coinage.text.placeholder import WordEncoder
from coinage.text.whole_words import END_OF_WORD, id_of

USUAL_WORDS = 8  # that a word is compared with
MOST_TEMPLATES = 8  # prompts that are encoded with each
FEWEST_LETTERS = 3  # of a usual word


@dataclass(frozen=True, slots=True)
class Drift:
    """A word beside the model's own words.

    Attributes:
        length: of its vectors in the mean; 1 is the median of the vocabulary.
        longest: of its vectors, in the same unit.
        nearest: the nearest word of each vector, with its cosine; of the first text encoder.
        init_cosine: of each vector and the init word that the file names, in the mean; None where
            that is not known.
        pull: how far it moves the encoding of the words that stand after it in a prompt; 1 is what
            another usual word does. None where no prompt has words after it.
    """

    length: float
    longest: float
    nearest: tuple[tuple[str, float], ...]
    init_cosine: float | None
    pull: float | None


def drift_of(word: Word, family: ModelFamily, parts: Components, templates: Sequence[str]) -> Drift:
    """Measure a word.

    Args:
        word: that fits the model.
        family: of the model.
        parts: of the model; what is installed in it stays as it is.
        templates: prompts with `{}` where the word stands.
    """
    rows = rows_of(word, parts)
    vocabularies = [
        Vocabulary(table_of(encoder).float().cpu(), tokenizer)
        for encoder, tokenizer in zip(parts.text_encoders, parts.tokenizers, strict=True)
    ]
    lengths: list[float] = []
    for own, vocabulary in zip(rows, vocabularies, strict=True):
        median = float(vocabulary.norms.median())
        lengths += (own.norm(dim=1) / median).tolist()
    return Drift(
        length=fmean(lengths),
        longest=max(lengths),
        nearest=tuple(near[0] for near in vocabularies[0].nearest(rows[0], 1)),
        init_cosine=_init_cosine(word.metadata, rows, vocabularies),
        pull=_pull(rows, family, parts, templates),
    )


def rows_of(word: Word, parts: Components) -> list[Tensor]:
    """Return a word's vectors for each text encoder of a model that it fits, [n, D] float32."""
    found = []
    for key in parts.keys:
        rows = vectors_for(word.vectors, key)
        if rows is not None:
            found.append(rows.float().cpu())
    return found


def _init_cosine(
    metadata: Mapping[str, str], rows: Sequence[Tensor], vocabularies: Sequence[Vocabulary]
) -> float | None:
    init_word = metadata.get("ti.init_word")
    if not init_word:
        return None
    cosines: list[float] = []
    for own, words in zip(rows, vocabularies, strict=True):
        try:
            start = initial_rows(words.table, words.tokenizer, init_word, len(own))
        except CoinageError:
            return None
        cosines += torch.cosine_similarity(own, start, dim=1).tolist()
    return fmean(cosines)


@torch.no_grad()
def _pull(
    rows: Sequence[Tensor], family: ModelFamily, parts: Components, templates: Sequence[str]
) -> float | None:
    """Return how far a word's place moves the words after it, in units of usual words' places.

    It is the mean distance between the encodings of these words with the word before them and with
    usual words in its place, over the mean distance between those of two of the usual ones. A
    prompt with a word of several vectors is compared with prompts of as many usual words.
    """
    count = len(rows[0])
    texts = [template.replace(WORD, TOKEN) for template in templates]
    places = [_after(text, count, parts) for text in texts]
    usable = [place for place, of in enumerate(places) if of]
    step = max(1, len(usable) // MOST_TEMPLATES)
    usable = usable[::step][:MOST_TEMPLATES]
    if not usable:
        return None
    texts, places = [texts[at] for at in usable], [places[at] for at in usable]
    own = _encoded(rows, family, parts, texts, places)
    others = [_encoded(usual, family, parts, texts, places) for usual in _usual(count, parts)]
    moved = fmean(_distance(own, other) for other in others)
    usually = fmean(_distance(one, other) for one, other in combinations(others, 2))
    return moved / usually if usually else None


def _after(text: str, count: int, parts: Components) -> list[int]:
    """Return the places in the first chunk of the ids of what stands after the word."""
    with parts.with_words([(TOKEN, count)], _blank(count, parts)) as (placeholder,):
        words: WordEncoder = parts.word_encoders[0]
        ids = words.ids(text)
    if len(ids) > words.row_format.room or placeholder.ids[-1] not in ids:
        return []
    last = len(ids) - 1 - ids[::-1].index(placeholder.ids[-1])
    return [place + 1 for place in range(last + 1, len(ids))]  # BOS comes first


def _blank(count: int, parts: Components) -> list[Tensor]:
    return [torch.zeros(count, table_of(encoder).shape[1]) for encoder in parts.text_encoders]


def _encoded(
    rows: Sequence[Tensor],
    family: ModelFamily,
    parts: Components,
    texts: Sequence[str],
    places: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Return the encodings of what stands after the word in each text, [k, D] each."""
    side = family.facts.side
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(texts))
    with parts.with_words([(TOKEN, len(rows[0]))], rows):
        states = family.encode(parts, texts, sizes).encoder_hidden_states
    return [states[number, list(of)].float().cpu() for number, of in enumerate(places)]


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the mean distance between the encodings of the same places."""
    return float(torch.cat([(a - b).norm(dim=1) for a, b in zip(one, other, strict=True)]).mean())


def _usual(count: int, parts: Components) -> list[list[Tensor]]:
    """Return the rows of usual words, as many as the word has vectors, by text encoder.

    They are whole words of the vocabulary's first half, where those that are often used stand; the
    same each time.
    """
    vocabularies = [tokenizer.get_vocab() for tokenizer in parts.tokenizers]
    names = _whole_words(vocabularies)
    names = names[: max(count, len(names) // 2)]
    found = []
    for number in range(USUAL_WORDS):
        order = rng_for("usual words", number).permutation(len(names))
        chosen = [names[order[at % len(names)]] for at in range(count)]
        rows = []
        for encoder, vocabulary in zip(parts.text_encoders, vocabularies, strict=True):
            ids = torch.tensor([id_of(name, vocabulary) for name in chosen])
            table = table_of(encoder)
            rows.append(table[ids.to(table.device)].float().cpu())
        found.append(rows)
    return found


def _whole_words(vocabularies: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the words of letters that all vocabularies have, in the order of their ids in the first."""
    first, *others = vocabularies
    words = []
    for name in sorted(first, key=lambda name: first[name]):
        letters = name.removesuffix(END_OF_WORD)
        is_word = len(letters) >= FEWEST_LETTERS and not set(letters) - set(string.ascii_lowercase)
        known = all(id_of(letters, other) is not None for other in others)
        if letters != name and is_word and known:
            words.append(letters)
    return words
