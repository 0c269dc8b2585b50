"""The demo's dataset: a concept's pictures, captions and dataset.toml, as a user would lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from coinage.demo.concepts import Concept
from coinage.demo.language import PUBLIC_SHAPES, PUBLIC_TEXTURES, phrase
from coinage.demo.score import words_of
from coinage.demo.world import BACKGROUNDS, COLOURS, SIZE, Scene, render
from coinage.files import save_image

IMAGES = 8
TOML = """\
[general]
caption_extension = ".txt"

[[datasets]]
resolution = {size}
batch_size = 4

[[datasets.subsets]]
image_dir = {folder}
num_repeats = 10
"""


def training_scenes(concept: Concept, seed: int) -> list[Scene]:
    """The scenes to learn from: what the concept leaves free differs from picture to picture."""
    rng = np.random.default_rng([seed, 3])

    def varied(options: list[str]) -> list[str]:
        order = [options[i] for i in rng.permutation(len(options))]
        return (order * IMAGES)[:IMAGES]

    shapes, colours = varied(list(PUBLIC_SHAPES)), varied(list(COLOURS))
    textures, backgrounds = varied(["solid", "solid", *PUBLIC_TEXTURES]), varied(list(BACKGROUNDS))
    return [
        Scene(concept.shape or shapes[i], concept.colour or colours[i], backgrounds[i], concept.texture or textures[i])
        for i in range(IMAGES)
    ]


def write_dataset(folder: Path, concept: Concept, token: str, seed: int) -> Path:
    """Write images, captions and `dataset.toml` into `folder`; returns the path of the TOML file."""
    rng = np.random.default_rng([seed, 5])
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(training_scenes(concept, seed), 1):
        save_image(images / f"{i:02d}.png", render(scene, rng))
        caption = phrase(words_of(concept, token, scene))
        (images / f"{i:02d}.txt").write_text(caption + "\n", encoding="utf-8")
    config = folder / "dataset.toml"
    config.write_text(TOML.format(size=SIZE, folder=json.dumps(images.as_posix(), ensure_ascii=False)), encoding="utf-8")
    return config
