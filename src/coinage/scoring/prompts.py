"""The prompts that words are scored with, and what is asked of each picture. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coinage.data.default_prompts import without_word
from coinage.errors import ConfigError, Problem
from coinage.system.text_files import read_text

WORD = "{}"  # stands for the word in a prompt
# What a word is called while it is scored, whatever its file is called; no vocabulary has it.
TOKEN = "scoredword"
MOST_PROMPTS = 1000

# The prompts of DreamBooth (Ruiz et al. 2023, arXiv:2208.12242): 25 for objects, 25 for live subjects
_PLACES = (
    "in the jungle", "in the snow", "on the beach", "on a cobblestone street",
    "on top of pink fabric", "on top of a wooden floor", "with a city in the background",
    "with a mountain in the background", "with a blue house in the background",
    "on top of a purple rug in a forest",
)  # fmt: skip
_PLACES_OF_OBJECTS = (
    "with a wheat field in the background", "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background", "floating on top of water",
    "floating in an ocean of milk", "on top of green grass with sunflowers around it",
    "on top of a mirror", "on top of the sidewalk in a crowded street", "on top of a dirt road",
    "on top of a white rug",
)  # fmt: skip
_CLOTHES = (
    "wearing a red hat", "wearing a santa hat", "wearing a rainbow scarf",
    "wearing a black top hat and a monocle", "in a chef outfit", "in a firefighter outfit",
    "in a police outfit", "wearing pink glasses", "wearing a yellow shirt",
    "in a purple wizard outfit",
)  # fmt: skip
_PROPERTIES = ("red", "purple", "shiny", "wet", "cube shaped")
_MOTIFS = (
    "a house", "a cat", "a mountain", "a city street", "a bowl of fruit", "a portrait of a woman",
    "a tree", "a ship", "a horse", "a bridge",
)  # fmt: skip


def _about(endings: Sequence[str]) -> tuple[str, ...]:
    recoloured = tuple(f"a {name} {WORD}" for name in _PROPERTIES)
    return tuple(f"a {WORD} {ending}" for ending in endings) + recoloured


PROMPT_SETS = {
    "object": _about(_PLACES + _PLACES_OF_OBJECTS),
    "live": _about(_PLACES + _CLOTHES),
    "style": tuple(f"{motif} in the style of {WORD}" for motif in _MOTIFS),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a picture.

    Attributes:
        template: the prompt, with `{}` where the word stands.
        plain: the same with a known noun in place of the word, or without it: what the picture
            should show beside the word's own looks.
        seed: of the picture.
    """

    template: str
    plain: str
    seed: int

    @property
    def text(self) -> str:
        """The prompt that is drawn; the word is called `TOKEN` in it."""
        return self.template.replace(WORD, TOKEN)


def asked_of(templates: Sequence[str], noun: str, count: int, seed: int) -> list[Asked]:
    """Return what is asked of each picture: each prompt with the same seeds, prompt by prompt.

    Args:
        templates: prompts with `{}` where the word stands.
        noun: what the word is a kind of; "" leaves it out.
        count: pictures of each prompt.
        seed: of the first of them; the others count up.
    """
    return [
        Asked(template, plain(template, noun), seed + number)
        for template in templates
        for number in range(count)
    ]


def plain(template: str, noun: str) -> str:
    """Return a prompt with a noun in place of the word; without one, the prompt without the word."""
    if noun:
        return template.replace(WORD, noun)
    return without_word(template.replace(WORD, TOKEN), TOKEN)


def templates_of(name: str) -> tuple[str, ...]:
    """Return a set of prompts by its name, or those of a text file: one a line.

    Raises:
        ConfigError: there is neither, or lines of the file lack the word.
    """
    if name in PROMPT_SETS:
        return PROMPT_SETS[name]
    path = Path(name)
    if not path.is_file():
        hint = f"use {', '.join(PROMPT_SETS)}, or a text file with a prompt a line"
        raise ConfigError([Problem("prompts: no such set, and no such file", name, hint)])
    lines = [line.strip() for line in read_text(path, "prompts").splitlines()]
    return checked([line for line in lines if line and not line.startswith("#")], name)


def checked(templates: Sequence[str], where: str = "") -> tuple[str, ...]:
    """Return prompts, each once.

    Raises:
        ConfigError: there are none or too many, or some lack the word.
    """
    hint = f"write {WORD} where the word stands"
    problems = [
        Problem(f"prompts: {template!r} lacks {WORD}", where, hint)
        for template in templates
        if WORD not in template
    ]
    if not 0 < len(templates) <= MOST_PROMPTS:
        what = f"prompts: there are {len(templates)}" if templates else "prompts: there are none"
        problems.append(Problem(what, where, f"give 1 to {MOST_PROMPTS}"))
    if problems:
        raise ConfigError(problems)
    return tuple(dict.fromkeys(templates))
