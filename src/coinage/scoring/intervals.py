"""Intervals of means by the bootstrap (Efron 1979). Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

SAMPLES = 10_000
INSIDE = (0.025, 0.975)  # quantiles between which 95 % lie
Numbers = NDArray[np.float64]


def interval(values: ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of a mean; of [n] values that are independent of each other."""
    numbers = np.asarray(values, dtype=np.float64)
    return interval_of(numbers[:, None], lambda means: means[:, 0])


def interval_of(table: Numbers, statistic: Callable[[Numbers], Numbers]) -> tuple[float, float]:
    """Return the 95 % interval of what is computed from the means of several measures.

    Args:
        table: [n, M] values: n that are independent of each other, of M measures.
        statistic: of means [S, M], its value for each of S samples.
    """
    chosen = np.random.default_rng(0).choice(len(table), (SAMPLES, len(table)))
    low, high = np.quantile(statistic(table[chosen].mean(axis=1)), INSIDE)
    return float(low), float(high)


def by_group(values: Sequence[float], groups: Sequence[str]) -> Numbers:
    """Return the mean of the values of each group, in the order in which groups come first.

    Pictures of one prompt are alike; the means of the prompts are independent of each other.
    """
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return np.array([np.mean(of_group) for of_group in members.values()])
