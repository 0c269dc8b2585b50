"""What scores pictures: a protocol, which users can fulfil with classes of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinage.errors import CoinageError, ConfigError, Problem, full_name
from coinage.scoring.prompts import Asked

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Values of pictures, by the name of each measure; more is better.

    Attributes:
        likeness: how much each picture shows what the word was taught, such as `CLIP-I`.
        fidelity: how well each picture obeys the rest of its prompt, such as `CLIP-T`.
    """

    likeness: Values = field(default_factory=dict)
    fidelity: Values = field(default_factory=dict)

    @property
    def measures(self) -> Values:
        """All measures, likeness first."""
        return {**self.likeness, **self.fidelity}


class Scorer(Protocol):
    """Scores pictures. Any object with this method will do.

    Example:
        ```python
        class Brightness:
            def score(self, pictures, asked, references):
                return coinage.Scores(fidelity={"bright": [p.mean() / 255 for p in pictures]})
        ```
    """

    def score(
        self, pictures: Sequence[Pixels], asked: Sequence[Asked], references: Sequence[Pixels]
    ) -> Scores:
        """Return the values of each picture.

        Args:
            pictures: [H, W, 3] uint8 RGB.
            asked: of each picture, in the same order.
            references: images of what the word means, [H, W, 3] uint8 RGB of any size; they may be
                none.

        Returns:
            For each measure as many finite numbers as pictures, usually 0..1.
        """
        ...


def check_scorers(scorers: Iterable[object]) -> None:
    """See that objects can score.

    Raises:
        ConfigError: some have no method `score`, or are classes.
    """
    problems = []
    for scorer in scorers:
        if isinstance(scorer, type) or not callable(getattr(scorer, "score", None)):
            what = f"scorers: {full_name(scorer)} is not an object with a method score"
            problems.append(Problem(what, hint="see coinage.Scorer"))
    if problems:
        raise ConfigError(problems)


def score_all(
    scorers: Sequence[Scorer],
    pictures: Sequence[Pixels],
    asked: Sequence[Asked],
    references: Sequence[Pixels],
) -> Scores:
    """Return the measures of all scorers together.

    Raises:
        CoinageError: a scorer does not return a finite number for each picture.
    """
    likeness: dict[str, Sequence[float]] = {}
    fidelity: dict[str, Sequence[float]] = {}
    for scorer in scorers:
        scores = scorer.score(pictures, asked, references)
        _check(scorer, scores, len(pictures))
        likeness |= {name: list(map(float, of)) for name, of in scores.likeness.items()}
        fidelity |= {name: list(map(float, of)) for name, of in scores.fidelity.items()}
    return Scores(likeness, fidelity)


def _check(scorer: Scorer, scores: Scores, count: int) -> None:
    for name, values in scores.measures.items():
        if len(values) != count:
            what = f"{name}: {len(values)} values for {count} pictures"
        elif not all(map(math.isfinite, values)):
            what = f"{name}: a value is not a finite number"
        else:
            continue
        raise CoinageError(f"scores cannot be used: {what}", full_name(scorer))


def overall(likeness: ArrayLike, fidelity: ArrayLike) -> Numbers:
    """Return one number for a word: the geometric mean of its likeness and its fidelity.

    Each of the two is the geometric mean of its measures, so that the order of words does not
    depend on the units of any of them; both must be good for it to be high. What is below 0 counts
    as 0.

    Args:
        likeness: means of M measures of likeness, [..., M]; of none, the other side stands alone.
        fidelity: the same of the prompts, [..., K].

    Returns:
        [...], 0 or more.
    """
    sides = [np.maximum(side, 0) for side in (likeness, fidelity) if np.shape(side)[-1]]
    means = [side.prod(axis=-1) ** (1 / side.shape[-1]) for side in sides]
    product: Numbers = np.prod(means, axis=0) ** (1 / len(means))
    return product
