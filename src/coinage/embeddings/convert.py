"""Words with vectors of another length, and several words mixed into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.embeddings.mending import vocabularies_for
from coinage.embeddings.sphere import are_opposite, between
from coinage.embeddings.word import Word
from coinage.errors import EmbeddingFileError

# Of a word's header: what a mix of several words keeps from the first
KEPT_METADATA = ("format", "modelspec.sai_model_spec", "modelspec.architecture")


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One of several words to mix.

    Attributes:
        name: of its file, for messages and the header.
        word: as it was read.
        weight: of its vectors in the sum.
    """

    name: str
    word: Word
    weight: float


def rescaled(word: Word, lengths: Mapping[str, float]) -> Word:
    """Return the word with every vector at a length, given for each text encoder by its key."""
    vectors = {}
    for key, rows in word.vectors.items():
        directions = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        vectors[key] = directions * lengths[key]
    return replace(word, vectors=vectors)


def vocabulary_lengths(word: Word, model: ModelConfig) -> dict[str, float]:
    """Return the median length of a model's token embeddings for each of the word's text encoders.

    Raises:
        CoinageError: the model cannot be read, or has other text encoders.
    """
    vocabularies = vocabularies_for(word, model)
    return {key: float(words.norms.median()) for key, words in vocabularies.items()}


def merged(ingredients: Sequence[Ingredient], *, slerp: bool = False) -> Word:
    """Return several words as one: the weighted sum of their vectors.

    Args:
        ingredients: the words and their weights.
        slerp: of two, turn from the first to the second along the sphere instead
            (Shoemake 1985); the length changes evenly.

    Raises:
        EmbeddingFileError: they are of different models or lengths; or more than two, or weights
            without a direction, for `slerp`.
    """
    _check_shapes(ingredients)
    weights = [ingredient.weight for ingredient in ingredients]
    if slerp and len(ingredients) != 2:
        raise EmbeddingFileError("--slerp is for two files")
    if slerp and (min(weights) < 0 or sum(weights) <= 0):
        raise EmbeddingFileError("--slerp needs weights of 0 or more, and one above 0")
    first = ingredients[0].word
    vectors = {}
    for key, rows in first.vectors.items():
        if slerp:
            fraction = weights[1] / sum(weights)
            vectors[key] = _slerp(rows, ingredients[1].word.vectors[key], fraction)
        else:
            vectors[key] = _weighted_sum(ingredients, key)
    metadata = {key: first.metadata[key] for key in KEPT_METADATA if key in first.metadata}
    sources = [f"{ingredient.name}:{ingredient.weight:g}" for ingredient in ingredients]
    metadata["modelspec.merged_from"] = ", ".join(sources)
    return Word(vectors, first.token, 0, metadata)


def _check_shapes(ingredients: Sequence[Ingredient]) -> None:
    shapes = [_shapes(ingredient.word) for ingredient in ingredients]
    if all(shape == shapes[0] for shape in shapes):
        return
    shown = []
    for ingredient, shape in zip(ingredients, shapes, strict=True):
        sizes = ", ".join(f"{key} {count}x{width}" for key, (count, width) in shape.items())
        shown.append(f"{ingredient.name}: {sizes}")
    raise EmbeddingFileError(
        f"words of different shapes cannot be merged ({'; '.join(shown)})",
        hint="give files of one model with equally many vectors",
    )


def _shapes(word: Word) -> dict[str, tuple[int, int]]:
    return {key: (len(rows), rows.shape[1]) for key, rows in word.vectors.items()}


def _weighted_sum(ingredients: Sequence[Ingredient], key: str) -> Tensor:
    total = torch.zeros_like(ingredients[0].word.vectors[key])
    for ingredient in ingredients:
        total = total + ingredient.weight * ingredient.word.vectors[key]
    return total


def _slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Return rows [N, D] between those of `a` (fraction 0) and of `b` (fraction 1).

    The direction follows the great circle, the length changes evenly.
    """
    if are_opposite(a, b):
        raise EmbeddingFileError(
            "--slerp: two vectors point in opposite directions, so there is no way between them",
            hint="leave out --slerp",
        )
    lengths = torch.lerp(a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), fraction)
    return (between(a, b, fraction) * lengths).float()
