"""What a run keeps of the evaluation losses that it has measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Measured(NamedTuple):
    """What the word was at a step where its evaluation loss was measured.

    Attributes:
        loss: as `evaluation.evaluation_loss`.
        rate: learning rate of the next update.
        angle: degrees of the rows from their start, 0..180, their mean.
        norm: their mean length.
    """

    loss: float
    rate: float = math.nan
    angle: float = math.nan
    norm: float = math.nan


@dataclass(frozen=True, slots=True)
class Best:
    """The word where its evaluation loss was lowest: its rows, one [N, D] float32 on the CPU per text encoder."""

    step: int
    epoch: int
    loss: float
    rows: Sequence[Tensor]
