"""Concepts that the demo can teach: the shipped model can draw them and has no word for them.

In training each had a secret word. The words' token rows were cut off before shipping, so only a new
embedding can reach the concept. A few concepts were never in training: the honest limits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing to learn. Parts that are None are free, and a prompt may ask for them."""

    name: str
    shape: str | None = None
    texture: str | None = None
    colour: str | None = None
    init_word: str = "shape"
    reachable: bool = True

    @property
    def is_pattern(self) -> bool:
        """True where the word stands before a noun, as an adjective does."""
        return self.shape is None

    @property
    def parts(self) -> dict[str, str]:
        """Of `shape`, `texture` and `colour`, those that the concept fixes."""
        parts = {}
        for part in ("shape", "texture", "colour"):
            value = getattr(self, part)
            if value is not None:
                parts[part] = value
        return parts


def _composite(name: str) -> Concept:
    colour, texture, shape = name.split("-")
    return Concept(name, shape=shape, texture=texture, colour=colour)


SECRET_SHAPES = tuple(
    Concept(s, shape=s) for s in ("moon", "drop", "tee", "ell", "bolt", "bowtie", "frame", "cup")
)
SECRET_PATTERNS = tuple(
    Concept(t, texture=t, init_word="plain") for t in ("checkered", "banded", "halved")
)
COMPOSITES = tuple(
    _composite(name)
    for name in (
        "red-striped-cross", "blue-dotted-star", "yellow-striped-ring", "green-dotted-heart",
        "pink-striped-circle", "cyan-dotted-square", "orange-striped-triangle", "purple-dotted-diamond",
        "blue-striped-arrow", "orange-dotted-circle",
    )
)  # fmt: skip
UNSEEN = tuple(Concept(s, shape=s, reachable=False) for s in ("comb", "fish"))

CONCEPTS = {c.name: c for c in (*SECRET_SHAPES, *SECRET_PATTERNS, *COMPOSITES, *UNSEEN)}
