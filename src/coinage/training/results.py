"""Results that a run collects: measurements, the best word so far, init words that were compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from coinage.training.convergence import Settled


# An init word, its evaluation loss before any training, and the loss after a few steps; "" is the
# vocabulary's mean
InitWordLosses = tuple[str, float, float]


class Measurement(NamedTuple):
    """The state of a word at a step where its evaluation loss was measured.

    Attributes:
        loss: as returned by `evaluation.evaluation_loss`.
        rate: learning rate of the next step.
        angle: mean angle between the rows and their start, degrees, 0..180.
        norm: mean length of the rows.
    """

    loss: float
    rate: float = math.nan
    angle: float = math.nan
    norm: float = math.nan


@dataclass(frozen=True, slots=True)
class Best:
    """The word where it was best; `rows` has one [N, D] float32 CPU tensor per text encoder.

    Attributes:
        loss: lowest evaluation loss; not a number where scores decide.
        score: highest overall score; None where the loss decides.
    """

    step: int
    epoch: int
    loss: float
    rows: Sequence[Tensor]
    score: float | None = None


@dataclass(slots=True)
class Results:
    """Everything that a run has measured so far.

    Attributes:
        measurements: by step; written by the evaluator and by a loaded state.
        best: lowest of the measurements, or highest of the scores, where the run keeps it.
        scores: the overall score by step, where scores decide.
        settled: why the run ends early; None as long as it goes on.
        init_words: init words that were compared before the first step, best first.
        float32_steps: steps that were computed again in float32 because half precision overflowed.
    """

    measurements: dict[int, Measurement] = field(default_factory=dict)
    best: Best | None = None
    scores: dict[int, float] = field(default_factory=dict)
    settled: Settled | None = None
    init_words: Sequence[InitWordLosses] = ()
    float32_steps: int = 0
