"""The demo's dataset: a concept's pictures, captions and dataset.toml, as a user would lay them out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from coinage.demo.concepts import Concept
from coinage.demo.language import LEADS, PUBLIC_SHAPES, PUBLIC_TEXTURES, phrase
from coinage.demo.score import words_of
from coinage.demo.world import BACKGROUNDS, COLOURS, SIZE, Scene, render
from coinage.system.files import save_image

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
    """Return the scenes to learn from: what the concept leaves free differs from picture to picture."""
    rng = np.random.default_rng([seed, 3])

    def varied(options: list[str]) -> list[str]:
        order = [options[i] for i in rng.permutation(len(options))]
        return (order * IMAGES)[:IMAGES]

    shapes, colours = varied(list(PUBLIC_SHAPES)), varied(list(COLOURS))
    textures, backgrounds = varied(["solid", "solid", *PUBLIC_TEXTURES]), varied(list(BACKGROUNDS))
    scenes = []
    for i in range(IMAGES):
        scene = Scene(
            concept.shape or shapes[i],
            concept.colour or colours[i],
            backgrounds[i],
            concept.texture or textures[i],
        )
        scenes.append(scene)
    return scenes


def alike(scenes: Sequence[Scene], concept: Concept) -> list[Scene]:
    """Return the scenes as snapshots of one thing: on one ground, in one colour but for patterns."""
    first = scenes[0]
    snapshots = []
    for scene in scenes:
        colour = scene.colour if concept.is_pattern else first.colour
        snapshots.append(replace(scene, background=first.background, colour=colour))
    return snapshots


def write_dataset(
    folder: Path,
    concept: Concept,
    token: str,
    seed: int,
    *,
    snapshots: bool = False,
    spread: float = 1.0,
) -> Path:
    """Write images, captions and `dataset.toml` into `folder`; returns the path of the TOML file.

    Args:
        folder: made if need be.
        concept: what the images show.
        token: the new word.
        seed: of the scenes and of where things are.
        snapshots: all images alike, and captions that name no more than the word.
        spread: of places, sizes, tilts and phases, 0..1; see `world.place`.
    """
    rng = np.random.default_rng([seed, 5])
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    scenes = training_scenes(concept, seed)
    for i, scene in enumerate(alike(scenes, concept) if snapshots else scenes, 1):
        save_image(images / f"{i:02d}.png", render(scene, rng, spread))
        words = words_of(
            concept, token, scene, silent=("colour", "texture", "background") if snapshots else ()
        )
        caption = phrase(words, lead=LEADS[i % len(LEADS)] if snapshots else LEADS[1])
        (images / f"{i:02d}.txt").write_text(caption + "\n", encoding="utf-8")
    config = folder / "dataset.toml"
    config.write_text(
        TOML.format(size=SIZE, folder=json.dumps(images.as_posix(), ensure_ascii=False)),
        encoding="utf-8",
    )
    return config
