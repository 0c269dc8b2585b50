"""Whether a word's map lies on its concept: `python benchmarks/word_maps.py`.

On a demo model, 20 words are learned and each draws one picture, in which the reader finds the
objects. A map's share is the part of its heat that lies on them. It is compared with the objects' part
of the area, which a map gets that says nothing; with the share on another picture's objects, which a
map gets that only knows the middle of pictures; and with that of the best map of as few cells, which
is made from the objects themselves. Other ways to average are measured on the same pictures. It takes
five minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coinage.api import Model, load_model
from coinage.demo.reader import objects_in
from coinage.demo.score import trials
from coinage.models.families import FAMILIES
from coinage.models.word_attention import (
    attention_to,
    find_words,
    relative,
    size_of,
    upsampled,
    watched,
)
from coinage.report.word_maps import heat
from coinage.scoring.intervals import interval
from quality_lab import REACHABLE, Kept, Lab, Setting, Word, words_for

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]
FIRST_SEED = 3000  # of the pictures


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer has attended to a word: [heads, h, w], the mean over all steps."""

    attention: Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture: where its objects are, the word's map, and what the map could be made from."""

    mask: Mask
    word_map: Map
    layers: Sequence[Layer]


class Layers:
    """Adds up each layer's attention to the word in the last text of a batch."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens
        self._seen: list[Tensor] = []

    def add(self, heads: int, queries: Tensor, keys: Tensor) -> None:
        """Take a layer's attention."""
        self._seen.append(attention_to(heads, queries[-1:], keys[-1:], self._tokens)[0])

    def means(self, steps: int, latent_hw: tuple[int, int]) -> list[Layer]:
        """Return each layer's mean over the steps."""
        count = len(self._seen) // steps
        layers = []
        for first in range(count):
            total = torch.stack(self._seen[first::count]).mean(0)
            layers.append(Layer(total.unflatten(1, size_of(total.shape[1], latent_hw))))
        return layers


def seen(model: Model, lab: Lab, word: Word, kept: Kept) -> Seen:
    """Draw a picture with a word."""
    model.words = {}
    model.install(kept.file, word.token)
    (trial, *_) = trials(word.concept, word.token, 4, FIRST_SEED + word.seed, lab.family)
    prompt = trial.prompt
    family = FAMILIES[lab.family]
    (place,) = find_words(family, model.parts, [prompt.text], [])
    layers = Layers(place.tokens[None])
    with watched(model.parts.denoiser, layers.add):
        (drawn,) = model.draw_with_maps([prompt])
    _, objects = objects_in(drawn.pixels)
    mask = np.logical_or.reduce([np.zeros(drawn.pixels.shape[:2], dtype=bool), *objects])
    side = model.parts.denoiser.config.sample_size
    return Seen(mask, drawn.word_maps[word.token], layers.means(prompt.steps, (side, side)))


def share(word_map: Map, mask: Mask) -> float:
    """The part of a map's heat that lies within a mask."""
    height, width = mask.shape
    spread = heat(word_map, (width, height))
    return float(spread[mask].sum() / spread.sum())


def averaged(of_head: Callable[[Tensor], Tensor], layers: Sequence[Layer]) -> Map:
    """The mean over layers of the mean over their heads, relative to the mean over the picture."""
    size = max((layer.attention.shape[1], layer.attention.shape[2]) for layer in layers)
    total = torch.zeros(size)
    for layer in layers:
        heads = of_head(layer.attention.flatten(1)).unflatten(1, layer.attention.shape[1:])
        total += upsampled(heads.mean(0, keepdim=True), size)[0]
    word_map: Map = relative(total.flatten()).unflatten(0, size).numpy()
    return word_map


def finest(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with the most cells."""
    most = max(layer.attention.shape[1] for layer in layers)
    return [layer for layer in layers if layer.attention.shape[1] == most]


def of_objects(mask: Mask, size: int) -> Map:
    """The best map of so many cells along a side: how much of each one is an object."""
    cell = len(mask) // size
    cells = mask.reshape(size, cell, size, cell).mean((1, 3)).astype(np.float32)
    relative_cells: Map = cells / cells.mean()
    return relative_cells


def same(attention: Tensor) -> Tensor:
    """Attention as it is."""
    return attention


def row(name: str, values: Sequence[float]) -> str:
    """A line of the table."""
    low, high = interval(values)
    return f"| {name} | {mean(values):.3f} ({low:.3f} to {high:.3f}) |"


def table(pictures: Sequence[Seen]) -> list[str]:
    """All lines."""
    masks = [one.mask for one in pictures]
    others = [*masks[1:], masks[0]]
    maps = [one.word_map for one in pictures]
    every = [one.layers for one in pictures]
    fine = [finest(layers) for layers in every]

    def shares(found: Sequence[Map], on: Sequence[Mask]) -> list[float]:
        return [share(one, mask) for one, mask in zip(found, on, strict=True)]

    return [
        "| map | share on the objects (95 % interval) |",
        "|---|---|",
        row("the word's map", shares(maps, masks)),
        row("no map: the objects' part of the area", [float(mask.mean()) for mask in masks]),
        row("the map of another picture", shares(maps, others)),
        row(
            "the best of as few cells", shares([of_objects(m, len(maps[0])) for m in masks], masks)
        ),
        row("plain mean of heads, finest layers", shares([averaged(same, x) for x in fine], masks)),
        row("every head alike, all layers", shares([averaged(relative, x) for x in every], masks)),
        row("plain mean of heads, all layers", shares([averaged(same, x) for x in every], masks)),
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sd1", choices=tuple(FAMILIES))
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of four images, of each word")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [concept.name for concept in REACHABLE[: args.words]]
    words = [replace(word, seed=2 * number) for number, word in enumerate(words_for(names, [0]))]
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(args.family, Path(folder), pictures=1)
        kept = lab.learn(words, Setting("coinage train"), [args.steps])
        model = load_model(lab.model, family=args.family, precision="no", device="cpu")
        pictures = [
            seen(model, lab, word, own[args.steps]) for word, own in zip(words, kept, strict=True)
        ]
    print("\n".join(table(pictures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
