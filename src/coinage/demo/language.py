"""The words of the demo world, and captions in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from coinage.demo.world import BACKGROUNDS, COLOURS, Scene

PUBLIC_SHAPES = (
    "circle",
    "square",
    "triangle",
    "cross",
    "star",
    "ring",
    "bar",
    "diamond",
    "heart",
    "arrow",
)
PUBLIC_TEXTURES = ("solid", "striped", "dotted")
GENERIC_NOUNS = ("shape", "object", "thing", "figure")
COUNT_WORDS = {1: "one", 2: "two", 3: "three"}
LEADS = (
    "", "a photo of", "the photo of", "a picture of", "an image of", "a drawing of", "a rendering of",
    "a rendition of", "a cropped photo of", "a close-up photo of", "a good photo of", "a bright photo of",
    "a dark photo of",
)  # fmt: skip
FILLERS = ("clean", "dirty", "cool", "nice", "small", "weird", "large", "good")
STYLE_WORDS = ("painting", "in", "style", "by", "art", "and", "no", "without")


def plural(noun: str) -> str:
    """Return the plural of a public noun."""
    return noun + ("es" if noun.endswith("s") else "s")


def vocabulary() -> list[str]:
    """Return every word that a caption can hold, sorted; each is one token of the tokenizer."""
    words = {
        *COLOURS,
        *BACKGROUNDS,
        *PUBLIC_TEXTURES,
        *COUNT_WORDS.values(),
        *FILLERS,
        *STYLE_WORDS,
    }
    for noun in (*PUBLIC_SHAPES, *GENERIC_NOUNS):
        words |= {noun, plural(noun)}
    for lead in LEADS:
        words.update(re.findall("[a-z]+", lead))
    return sorted(words | {"a", "an", "the", "my", "on", "with", "background", "plain"})


@dataclass(frozen=True, slots=True)
class Words:
    """What a caption calls the parts of a scene; None where it keeps silent."""

    noun: str
    colour: str | None = None
    background: str | None = None
    texture: str | None = None
    count: int = 1
    plural: bool = False  # the noun is already, or cannot be, inflected


def phrase(words: Words, *, lead: str = "a photo of", article: str = "a", filler: str = "") -> str:
    """Return a caption, such as "a photo of a striped red circle on a white background"."""
    parts = [filler, words.texture or "", words.colour or "", words.noun]
    body = " ".join(filter(None, parts))
    if words.count > 1:
        article = COUNT_WORDS[words.count]
    elif article == "a" and body[0] in "aeiou":
        article = "an"
    ground = f"on a {words.background} background" if words.background else ""
    return " ".join(filter(None, (lead, article, body, ground)))


def tags(words: Words) -> str:
    """Return the same as comma-separated tags."""
    parts = [
        words.noun,
        words.texture,
        words.colour,
        COUNT_WORDS[words.count] if words.count > 1 else None,
    ]
    parts.append(f"{words.background} background" if words.background else None)
    return ", ".join(filter(None, parts))


def random_phrase(words: Words, rng: np.random.Generator) -> str:
    """Return a caption in random wording.

    It has a lead, an article, and at times a filler that means nothing; or it is tags.
    """
    if rng.random() < 0.12:
        return tags(words)
    filler = str(rng.choice(FILLERS)) if rng.random() < 0.15 else ""
    article = str(rng.choice(["a", "the", "my", "one"], p=[0.7, 0.2, 0.05, 0.05]))
    return phrase(words, lead=str(rng.choice(LEADS)), article=article, filler=filler)


def noun_for(scene: Scene, rng: np.random.Generator, secret: dict[str, str]) -> str:
    """Return the scene's noun: its shape's word or, now and then, a generic one.

    It is mostly in the plural for several objects.

    Args:
        scene: what the picture shows.
        rng: decides between the proper and a generic noun.
        secret: words for shapes outside the public vocabulary; they are never inflected.
    """
    if rng.random() < 0.12:
        noun = str(rng.choice(GENERIC_NOUNS))
    elif scene.shape in secret:
        return secret[scene.shape]
    else:
        noun = scene.shape
    return plural(noun) if scene.count > 1 and rng.random() < 0.75 else noun
