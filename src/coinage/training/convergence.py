"""Decide from evaluation losses that a word no longer improves. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pvariance

from coinage.training.results import Measurement


@dataclass(frozen=True, slots=True)
class EarlyStopRule:
    """The conditions under which a loss counts as settled.

    Attributes:
        window: how many measurements are the last ones: 200 steps at batch 4, where DVAR has 310
            whatever the batch.
        variance_share: of the variance over all measurements; where that of the last ones is below
            it, the loss has settled (DVAR's epsilon).
        least_drop: deviations of the last ones that the loss must have fallen by.
        most_gain: share of the whole fall; half a window that gains more, and more than noise may,
            is not at rest.
        least_rate: share of the learning rate that must be left over the last measurements: else
            the loss calms down because the rate does.
        least_turn: degrees; a word that has turned less has not learned, whatever its loss does.
    """

    window: int = 10
    variance_share: float = 0.15
    least_drop: float = 4.0
    most_gain: float = 0.02
    least_rate: float = 0.5
    least_turn: float = 5.0


RULE = EarlyStopRule()


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

    def sentence(self, of: int, measured_on: str) -> str:
        """Return a sentence: after which of how many steps the run has ended, and why."""
        return (
            f"ended early, after step {self.step} of {of}: the loss on {measured_on} "
            f"fell from {self.first:.4f} to {self.last:.4f} and no longer improves"
        )


def settled(
    steps: Sequence[int], losses: Sequence[float], rates: Sequence[float], rule: EarlyStopRule
) -> Settled | None:
    """Decide by deterministic variance evaluation (Voronov et al. 2023, arXiv:2302.04841), guarded.

    The paper stops where Var(last `window`) < `variance_share` * Var(all). That also holds where a
    loss falls along a straight line for some windows, and where the learning rate decays. So,
    beyond the paper, the loss must have fallen clearly, must be at rest within the window, and the
    rate there must neither rise, as in a warm-up, nor fall by much; where it falls, the variance
    counts as much more as a loss's fluctuation shrinks with the rate, by its square.

    Args:
        steps: of the measurements, rising.
        losses: measured at each, with the same draws.
        rates: learning rate at each; all of them constant means no schedule.
        rule: its limits.

    Returns:
        Where and how the loss has settled; None where the run must go on.
    """
    if len(losses) < rule.window + 2 or not all(map(math.isfinite, (*losses, *rates))):
        return None
    window, recent_rates = losses[-rule.window :], rates[-rule.window :]
    low, high = min(recent_rates), max(recent_rates)
    rises = recent_rates[-1] > recent_rates[0]
    if rises or high <= 0 or low < rule.least_rate * high:
        return None
    variance, mean = pvariance(window) * (high / low) ** 2, fmean(window)
    drop = losses[0] - mean
    share = variance / max(pvariance(losses), 1e-30)
    calm = share < rule.variance_share
    has_fallen = drop > rule.least_drop * math.sqrt(variance)
    if calm and has_fallen and _gain(window) <= rule.most_gain * drop:
        return Settled(steps[-1], losses[0], mean, share)
    return None


def _gain(window: Sequence[float]) -> float:
    """Return how much lower the second half of the losses is than the first; 0 where that may be noise.

    The noise is estimated from neighbours, whose differences hold little of a trend.
    """
    half = len(window) // 2
    gain = fmean(window[:half]) - fmean(window[half:])
    noise = math.sqrt(fmean((b - a) ** 2 for a, b in pairwise(window)) / 2)
    return gain if gain > 2 * noise / math.sqrt(len(window)) else 0.0


def judge(measurements: Mapping[int, Measurement], rule: EarlyStopRule) -> Settled | None:
    """Decide from a run's measurements by step; a word that has hardly moved has not settled."""
    steps = sorted(measurements)
    if not steps or not measurements[steps[-1]].angle >= rule.least_turn:
        return None
    losses = [measurements[step].loss for step in steps]
    rates = [measurements[step].rate for step in steps]
    return settled(steps, losses, rates, rule)
