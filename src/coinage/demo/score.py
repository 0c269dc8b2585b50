"""Is the concept in the picture (S), and is everything else that was asked for (E)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coinage.demo.concepts import Concept
from coinage.demo.language import PUBLIC_SHAPES, PUBLIC_TEXTURES, Words, phrase
from coinage.demo.reader import Reading, read
from coinage.demo.world import BACKGROUNDS, COLOURS, SIZE, Scene
from coinage.demo.worlds import WORLDS
from coinage.scoring.prompts import Asked
from coinage.scoring.scorer import Scores
from coinage.text.prompts import Prompt

LEADS = ("a photo of", "a picture of", "a rendering of", "a drawing of")


@dataclass(frozen=True, slots=True)
class Trial:
    """One scored picture: its prompt, the concept it must show, and what else was asked for."""

    prompt: Prompt
    concept: Concept
    asked: Mapping[str, object]

    def shows_concept(self, reading: Reading) -> bool:
        """S: the concept's own parts are there, but for those that the prompt overrides."""
        wanted = dict(self.concept.parts)
        for part in self.asked:
            wanted.pop(part, None)
        return _matches(reading, wanted)

    def obeys(self, reading: Reading) -> bool:
        """E: everything else that the prompt asks for is there."""
        return _matches(reading, self.asked)


def _matches(reading: Reading, wanted: Mapping[str, object]) -> bool:
    return all(getattr(reading, name) == value for name, value in wanted.items())


def prompt_for(text: str, seed: int, family: str = "sd1") -> Prompt:
    """Return a prompt drawn as all scored pictures of a family's demo world are."""
    world = WORLDS[family]
    return Prompt(
        text=text,
        width=SIZE,
        height=SIZE,
        seed=seed,
        steps=world.sampler_steps,
        scale=world.guidance,
        sampler=world.sampler,
    )


def words_of(concept: Concept, token: str, scene: Scene, *, silent: Sequence[str] = ()) -> Words:
    """Return how a caption names a scene with the new word; `silent` parts are left out."""

    def say(part: str, value: str | None) -> str | None:
        return None if part in silent or getattr(concept, part, None) == value else value

    noun, texture = token, say("texture", scene.texture)
    if concept.is_pattern:
        noun, texture = scene.shape, token
    return Words(
        noun, say("colour", scene.colour), say("background", scene.background), texture, scene.count
    )


def trials(concept: Concept, token: str, count: int, seed: int, family: str = "sd1") -> list[Trial]:
    """Return fresh prompts with the word: other backgrounds, colours, textures and counts.

    What a concept fixes itself is not asked for, but for the colour of a composite, which every
    fourth prompt overrides.
    """
    rng = np.random.default_rng([seed, 7])
    out = []
    for i in range(count):
        kind = i % 4
        objects = 2 if kind == 3 else 1
        asked: dict[str, object] = {
            "background": str(rng.choice(list(BACKGROUNDS))),
            "count": objects,
        }
        if concept.is_pattern:
            asked["shape"] = str(rng.choice(PUBLIC_SHAPES))
        if kind >= 1 and (concept.colour is None or kind == 2):
            colours = [colour for colour in COLOURS if colour != concept.colour]
            asked["colour"] = str(rng.choice(colours))
        if kind == 2 and concept.texture is None:
            asked["texture"] = str(rng.choice(PUBLIC_TEXTURES))
        scene = Scene(
            str(asked.get("shape", concept.shape)),
            str(asked.get("colour", concept.colour)),
            str(asked["background"]),
            str(asked.get("texture", concept.texture)),
            objects,
        )
        silent = [part for part in ("colour", "texture") if part not in asked]
        words = words_of(concept, token, scene, silent=silent)
        text = phrase(words, lead=LEADS[(i // 4) % len(LEADS)])
        out.append(Trial(prompt_for(text, int(rng.integers(2**31)), family), concept, asked))
    return out


def showcase(concept: Concept, token: str) -> list[str]:
    """Return eight prompts: the word alone, on other grounds, recoloured, twice."""
    wanted: list[tuple[str | None, str | None, str | None, int]] = [
        (None, None, None, 1),
        (None, None, "white", 1),
        (None, None, "black", 1),
        (None, "red", "gray", 1),
        (None, "yellow", "brown", 1),
        ("striped", "green", "mint", 1),
        ("dotted", "pink", "sky", 1),
        (None, "cyan", "black", 2),
    ]
    texts = []
    for i, (texture, colour, background, count) in enumerate(wanted):
        if concept.is_pattern:
            words = Words(PUBLIC_SHAPES[i % len(PUBLIC_SHAPES)], colour, background, token, count)
        else:
            words = Words(token, colour, background, None if concept.texture else texture, count)
        texts.append(phrase(words))
    return texts


def score(trials: Sequence[Trial], images: Sequence[NDArray[np.uint8]]) -> tuple[float, float]:
    """Return S and E: shares of pictures with the concept, and with everything else asked for."""
    shown = []
    obeyed = []
    for trial, image in zip(trials, images, strict=True):
        reading = read(image)
        shown.append(trial.shows_concept(reading))
        obeyed.append(trial.obeys(reading))
    return float(np.mean(shown)), float(np.mean(obeyed))


class ReaderScorer:
    """Scores pictures of a demo world by what the exact reader sees: S and E of each, 0 or 1.

    A plug-in for `Model.evaluate`, which draws the prompts in `templates`.

    Args:
        trials: of a concept, made with `{}` as its token.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = {trial.prompt.text: trial for trial in trials}

    @property
    def templates(self) -> list[str]:
        """The prompts that it can score, with `{}` where the word stands."""
        return list(self._trials)

    def score(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        asked: Sequence[Asked],
        references: Sequence[NDArray[np.uint8]],  # noqa: ARG002 - the concept says it all
    ) -> Scores:
        """Return S as likeness and E as fidelity."""
        found = [
            (self._trials[one.template], read(p)) for p, one in zip(pictures, asked, strict=True)
        ]
        shown = [float(trial.shows_concept(reading)) for trial, reading in found]
        obeyed = [float(trial.obeys(reading)) for trial, reading in found]
        return Scores({"S": shown}, {"E": obeyed})


def passes_gate(runs: Sequence[tuple[float, float]]) -> bool:
    """Return whether (S, E) of several concepts are what a right trainer reaches.

    S at least 0.75 and E at least 0.85 on average, and neither under 0.55 in any run. One concept is
    not enough: an easy one is learned even by a wrong trainer.
    """
    averages = np.mean(runs, axis=0)
    return bool(averages[0] >= 0.75 and averages[1] >= 0.85 and np.min(runs) >= 0.55)


def base_prompts(count: int, seed: int, family: str = "sd1") -> list[tuple[Prompt, Scene]]:
    """Return fresh prompts in the model's own words, for measuring the model itself."""
    rng = np.random.default_rng([seed, 11])
    out = []
    for _ in range(count):
        scene = Scene(
            str(rng.choice(PUBLIC_SHAPES)),
            str(rng.choice(list(COLOURS))),
            str(rng.choice(list(BACKGROUNDS))),
            str(rng.choice(PUBLIC_TEXTURES)),
        )
        text = phrase(Words(scene.shape, scene.colour, scene.background, scene.texture))
        out.append((prompt_for(text, int(rng.integers(2**31)), family), scene))
    return out


def base_accuracy(scenes: Sequence[Scene], images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Return the share of pictures with the asked shape, colour, background, texture, and all."""
    hits: dict[str, list[bool]] = {"shape": [], "colour": [], "background": [], "texture": []}
    for scene, image in zip(scenes, images, strict=True):
        reading = read(image)
        for part, of_part in hits.items():
            of_part.append(getattr(reading, part) == getattr(scene, part))
    shares = {part: float(np.mean(of_part)) for part, of_part in hits.items()}
    return shares | {"all": float(np.mean(np.all(list(hits.values()), axis=0)))}
