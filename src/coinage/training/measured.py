"""What a run keeps of the evaluation losses that it has measured."""

from __future__ import annotations

import math
from typing import NamedTuple


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
