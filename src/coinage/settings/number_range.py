"""The numbers that a flag may have. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

DRAW = -1  # of --seed, in AUTOMATIC1111's convention: draw one
MOST = 2**31 - 1  # of what is counted
MOST_SEED = 2**63 - 1
LARGEST_SIDE = 16384  # pixels
FACTOR = 1000.0  # more than any strength or weight of a loss is good for


@dataclass(frozen=True, slots=True)
class Range:
    """The values that mean something. NaN and infinity never do.

    Attributes:
        least: the smallest one.
        most: the largest one.
        above: `least` itself is too small.
        hint: what is usual.
    """

    least: float
    most: float
    above: bool = False
    hint: str = ""

    def __contains__(self, value: float) -> bool:
        if self.above and value == self.least:
            return False
        return self.least <= value <= self.most

    def why_not(self, value: float) -> str:
        """Return what is wrong with a value; "" for one that is in the range."""
        if value in self:
            return ""
        if not math.isfinite(value):
            return "is not a finite number"
        if value > self.most:
            return f"must be at most {self.most:{',' if isinstance(self.most, int) else 'g'}}"
        return f"must be {'above' if self.above else 'at least'} {self.least:g}"


COUNT = Range(1, MOST)
ANY_COUNT = Range(0, MOST)
SHARE = Range(0, 1)
