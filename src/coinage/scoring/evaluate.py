"""Draw pictures with words, one word after the other, and score them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from coinage.embeddings.install import misfit
from coinage.embeddings.word import Word, load_word
from coinage.errors import ConfigError, Problem
from coinage.models.base import Components, ModelFamily
from coinage.models.token_embedding import table_of
from coinage.scoring.drift import drift_of, rows_of
from coinage.scoring.prompts import TOKEN, Asked, asked_of
from coinage.scoring.results import ScoredWord
from coinage.scoring.scorer import Pixels, Scorer, Scores, score_all
from coinage.system.text_files import as_path
from coinage.text.prompts import Prompt

Draw = Callable[[Sequence[Prompt]], Iterator[Pixels]]
OnPicture = Callable[[], None]


def do_nothing() -> None:
    """Stand for what is called after each picture."""


@dataclass(frozen=True, slots=True)
class Studio:
    """A loaded model, and how it draws.

    Attributes:
        family: of the model.
        parts: of the model.
        draw: draws prompts with what is installed in it.
    """

    family: ModelFamily
    parts: Components
    draw: Draw


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word to be scored: its name in tables, and the noun that stands for it in plain prompts."""

    name: str
    word: Word
    noun: str = ""


def named(word: Word | str | Path, noun: str | None, number: int) -> Candidate:
    """Return a word to be scored, with a name.

    Args:
        word: or its file.
        noun: that stands in its place; "": none; None: the init word that its file names.
        number: among others, from 1 on: its name where it has no other.

    Raises:
        EmbeddingFileError: the file is not an embedding.
    """
    if not isinstance(word, Word):
        word = load_word(as_path(word, "word"))
    name = word.path.stem if word.path else word.token or f"word {number}"
    return Candidate(name, word, noun_for(word, noun))


def noun_for(word: Word, noun: str | None) -> str:
    """Return a noun that was given, or else the init word that the word's file names."""
    return word.metadata.get("ti.init_word", "") if noun is None else noun


@dataclass(frozen=True, slots=True)
class Trial:
    """What all words are asked to draw.

    Attributes:
        templates: prompts with `{}` where the word stands.
        count: pictures of each.
        seed: of the first picture of each.
        prompt: size, steps, guidance and sampler of all; its text does not count.
    """

    templates: Sequence[str]
    count: int
    seed: int
    prompt: Prompt

    def asked(self, noun: str) -> list[Asked]:
        """Return what is asked of each picture of a word."""
        return asked_of(self.templates, noun, self.count, self.seed)


def fit_problems(candidates: Sequence[Candidate], studio: Studio) -> list[Problem]:
    """Return a problem for each word that was made for another kind of model."""
    keys = studio.parts.keys
    widths = [table_of(encoder).shape[1] for encoder in studio.parts.text_encoders]
    found = [misfit(one.word.vectors, keys, widths, one.name) for one in candidates]
    return [problem for problem in found if problem]


def score_words(
    candidates: Sequence[Candidate],
    studio: Studio,
    trial: Trial,
    scorers: Sequence[Scorer],
    references: Sequence[Pixels],
    on_picture: OnPicture = do_nothing,
) -> list[ScoredWord]:
    """Score words with the same prompts and seeds; without scorers, nothing is drawn.

    Args:
        candidates: the words.
        studio: draws; what is installed in it is there again afterwards.
        trial: what is drawn.
        scorers: of the pictures.
        references: images of what the words mean.
        on_picture: called after each picture.

    Raises:
        ConfigError: words do not fit the model: all of them.
        CoinageError: the model cannot draw, or a scorer fails.
    """
    if problems := fit_problems(candidates, studio):
        raise ConfigError(problems)
    found = []
    for one in candidates:
        asked, pictures, scores = trial.asked(one.noun), list[Pixels](), Scores()
        if scorers:
            for picture in pictures_of(one.word, studio, trial, asked):
                pictures.append(picture)
                on_picture()
            scores = score_all(scorers, pictures, asked, references)
        drift = drift_of(one.word, studio.family, studio.parts, trial.templates)
        scored = ScoredWord(
            name=one.name,
            step=one.word.step,
            noun=one.noun,
            asked=tuple(asked),
            scores=scores,
            drift=drift,
            pictures=tuple(pictures[:: trial.count]),
        )
        found.append(scored)
    return found


def pictures_of(
    word: Word, studio: Studio, trial: Trial, asked: Sequence[Asked]
) -> Iterator[Pixels]:
    """Yield a picture for each thing asked, drawn with a word that is installed meanwhile."""
    prompts = [replace(trial.prompt, text=one.text, seed=one.seed) for one in asked]
    rows = rows_of(word, studio.parts)
    with studio.parts.with_words([(TOKEN, word.num_vectors)], rows):
        yield from studio.draw(prompts)


def as_pixels(image: Image.Image | Pixels) -> Pixels:
    """Return [H, W, 3] uint8 RGB pixels of an image.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        what = f"images: an array of {pixels.dtype} {list(pixels.shape)} is not an image"
        raise ConfigError([Problem(what, hint="give Pillow images, or [H, W, 3] uint8 RGB")])
    return pixels
