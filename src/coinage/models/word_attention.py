"""Where words act in a picture: how a UNet's cross-attention to them is spread over it.

The idea is that of DAAM (Tang et al. 2022, arXiv:2210.04885): attention to a word's tokens, averaged
over heads, layers and sampling steps. Here every head counts alike: its attention is divided by its
mean over the picture before the average. In the plain average, those heads that attend most to the
word outweigh all others, whether or not they tell one place from another; `benchmarks/word_maps.py`
measures both. Nothing in the UNet is replaced, so the picture stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coinage.models.base import Components, ModelFamily
from coinage.models.clip_text import rows_and_weights

# Layers with fewer cells along the shorter side are left out, unless all have fewer
LEAST_SIDE = 16
Add = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a word stands in the texts of a batch.

    Attributes:
        text: number of the prompt.
        word: its token.
        row: of the UNet's batch, counted from its end: -1 is the last prompt.
        tokens: 1 where the text has one of the word's vectors, elsewhere 0, [T] float32.
    """

    text: int
    word: str
    row: int
    tokens: Tensor


def find_words(
    family: ModelFamily, parts: Components, prompts: Sequence[str], negatives: Sequence[str]
) -> list[Place]:
    """Return where the installed words stand in B prompts, or else in their negative prompts.

    Args:
        family: of the model.
        parts: of the model, with the chunks that the prompts take.
        prompts: B texts.
        negatives: B texts; [] where none are read, as without guidance.
    """
    words = parts.word_encoders[0]
    texts = [*negatives, *prompts]
    ids, _ = rows_and_weights(words, texts, parts.chunks)
    found: dict[tuple[int, str], Place] = {}
    for placeholder in words.placeholders:
        is_word = torch.isin(ids, torch.tensor(placeholder.ids)).float()[..., None]
        for number, tokens in enumerate(family.joined(is_word, parts.chunks)[..., 0]):
            if tokens.any():
                text = number % len(prompts)
                place = Place(text, placeholder.token, number - len(texts), tokens)
                found[text, placeholder.token] = place  # prompts come after negative prompts
    return list(found.values())


def attention_to(heads: int, queries: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """Return how much a layer attends to some tokens, [B, heads, cells] float32 in 0..1.

    Args:
        heads: of the layer.
        queries: [B, cells, heads * d].
        keys: of the texts, [B, T, heads * d].
        tokens: 1 where one counts, elsewhere 0, [B, T].
    """
    q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys))
    # Values that are 1 for these tokens give the attention to them. They are as wide as the keys, so that
    # PyTorch's fused kernels take them and never hold the attention to all tokens.
    values = tokens[:, None, :, None].expand_as(k)
    attention: Tensor = F.scaled_dot_product_attention(q, k, values)[..., 0]
    return attention


def relative(attention: Tensor) -> Tensor:
    """Return attention [..., cells] divided by its mean over the cells."""
    mean = attention.mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return attention / mean


class WordAttention:
    """Adds up attention to words, on the device that computes it.

    Args of the constructor:
        places: of the words; at least one.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._rows = torch.tensor([place.row for place in places])
        self._tokens = torch.stack([place.tokens for place in places])
        self._sums: dict[int, Tensor] = {}  # by the number of cells, [places, cells] float32

    def add(self, heads: int, queries: Tensor, keys: Tensor) -> None:
        """Add a layer's attention.

        Args:
            heads: of the layer.
            queries: [B, cells, heads * d].
            keys: of the texts, [B, T, heads * d].
        """
        self._rows, self._tokens = (x.to(queries.device) for x in (self._rows, self._tokens))
        attention = attention_to(heads, queries[self._rows], keys[self._rows], self._tokens)
        of_layer = relative(attention).mean(1)
        cells = of_layer.shape[-1]
        self._sums[cells] = self._sums[cells] + of_layer if cells in self._sums else of_layer

    def maps(self, latent_hw: tuple[int, int]) -> Tensor:
        """Return each place's attention relative to its mean over the picture, [places, h, w] on the CPU.

        It is as fine as the finest layer: 1 is the mean, and nothing is below 0.

        Args:
            latent_hw: height and width of the latents.
        """
        sizes = {size_of(cells, latent_hw): sums for cells, sums in self._sums.items()}
        finest = max(sizes)
        chosen = [size for size in sizes if min(size) >= LEAST_SIDE] or [finest]
        total = torch.zeros(len(self._rows), *finest, device=self._rows.device)
        for size in chosen:
            total += upsampled(sizes[size].unflatten(1, size), finest)
        word_maps: Tensor = relative(total.flatten(1)).unflatten(1, finest)
        return word_maps.cpu()


def size_of(cells: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a layer with so many cells: the latents', halved some times.

    Raises:
        ValueError: no layer of such latents has so many.
    """
    height, width = latent_hw
    while height * width > cells:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != cells:
        raise ValueError(f"{cells} cells are no part of {latent_hw[0]} x {latent_hw[1]} latents")
    return height, width


def upsampled(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return maps [B, h, w] at a larger size, smooth in between."""
    larger: Tensor = F.interpolate(maps[:, None], size_hw, mode="bilinear")
    return larger[:, 0]


@contextmanager
def watched(unet: torch.nn.Module, add: Add) -> Iterator[None]:
    """Pass on the heads, queries and keys of every layer that reads the text, within a `with` block.

    Args:
        unet: of diffusers.
        add: called with them, as `WordAttention.add` is.
    """
    hooks = []
    for layer in cross_attention(unet):
        read = _Layer(layer.heads, add).read
        hooks.append(layer.to_q.register_forward_hook(partial(read, is_keys=False)))
        hooks.append(layer.to_k.register_forward_hook(partial(read, is_keys=True)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cross_attention(unet: torch.nn.Module) -> list[Any]:
    """Return the layers of a diffusers UNet that read the text."""
    from diffusers.models.attention import BasicTransformerBlock

    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    return [block.attn2 for block in blocks if block.attn2 is not None]


class _Layer:
    """Passes a layer's queries and keys on when both are there, whichever comes first."""

    def __init__(self, heads: int, add: Add) -> None:
        self._heads, self._add = heads, add
        self._read: dict[bool, Tensor] = {}

    def read(
        self, _: torch.nn.Module, __: tuple[Any, ...], output: Tensor, *, is_keys: bool
    ) -> None:
        """Take what `to_q` or `to_k` has made."""
        self._read[is_keys] = output
        if len(self._read) == 2:
            self._add(self._heads, self._read[False], self._read[True])
            self._read.clear()
