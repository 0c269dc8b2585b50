"""Whether a word has learned what it will, told from its evaluation losses. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pvariance

from coinage.training.measured import Measured

# Of the variance over all measurements: where that of the last ones is below it, the loss has settled (DVAR)
EPSILON = 0.15
# Measurements that are the last ones: 200 steps at batch 4, where DVAR has 310 whatever the batch
WINDOW = 10
CLEAR = 4.0  # deviations of the last ones that the loss has fallen by, at least
# Of what it has fallen by: half a window that gains more, and more than noise may, is not at rest
STILL = 0.02
# Share that must be left of the rate over the last measurements: else the loss calms down because the rate does
CALM = 0.5
LEAST_TURN = 5.0  # degrees; a word that has turned less has not learned, whatever its loss does


@dataclass(frozen=True, slots=True)
class Settled:
    """A loss that has come to rest.

    Attributes:
        step: of the last measurement.
        first, last: the loss before the first step, and its mean over the last measurements.
        share: the variance of these over that of all.
    """

    step: int
    first: float
    last: float
    share: float

    def told(self, of: int, measured_on: str) -> str:
        """A sentence: after which of how many steps the run has ended, and why."""
        fell = f"the loss on {measured_on} fell from {self.first:.4f} to {self.last:.4f} and no longer improves"
        return f"ended early, after step {self.step} of {of}: {fell}"


def settled(
    steps: Sequence[int], losses: Sequence[float], rates: Sequence[float]
) -> Settled | None:
    """Whether training may end: deterministic variance evaluation (Voronov et al. 2023, arXiv:2302.04841), guarded.

    The paper stops where Var(last `WINDOW`) < `EPSILON` * Var(all). That also holds where a loss falls along a straight line
    for some windows, and where the learning rate decays. So, beyond the paper, the loss must have fallen clearly, must be at
    rest within the window, and the rate there must neither rise, as in a warm-up, nor fall by much; where it falls, the
    variance counts as much more as a loss's fluctuation shrinks with the rate, by its square.

    Args:
        steps: of the measurements, rising.
        losses: measured at each, with the same draws.
        rates: learning rate at each; all of them constant means no schedule.

    Returns:
        What is told of it; None where the run must go on.
    """
    if len(losses) < WINDOW + 2 or not all(map(math.isfinite, (*losses, *rates))):
        return None
    window, recent = losses[-WINDOW:], rates[-WINDOW:]
    low, high = min(recent), max(recent)
    if recent[-1] > recent[0] or not 0 < CALM * high <= low:
        return None
    variance, mean = pvariance(window) * (high / low) ** 2, fmean(window)
    fallen = losses[0] - mean
    share = variance / max(pvariance(losses), 1e-30)
    if (
        share < EPSILON
        and fallen > CLEAR * math.sqrt(variance)
        and _gained(window) <= STILL * fallen
    ):
        return Settled(steps[-1], losses[0], mean, share)
    return None


def _gained(window: Sequence[float]) -> float:
    """How much lower the second half of the losses is than the first; 0 where that may be noise.

    Noise is told from neighbours, whose differences hold little of a trend.
    """
    half = len(window) // 2
    gained = fmean(window[:half]) - fmean(window[half:])
    noise = math.sqrt(fmean((b - a) ** 2 for a, b in pairwise(window)) / 2)
    return gained if gained > 2 * noise / math.sqrt(len(window)) else 0.0


def judge(measured: Mapping[int, Measured]) -> Settled | None:
    """As `settled`, of a run's measurements; a word that has hardly moved has not learned."""
    steps = sorted(measured)
    if not steps or not measured[steps[-1]].angle >= LEAST_TURN:
        return None
    return settled(
        steps, [measured[step].loss for step in steps], [measured[step].rate for step in steps]
    )
