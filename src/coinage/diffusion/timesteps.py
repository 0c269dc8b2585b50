"""Distributions of timesteps: where in their range a chance of 0..1 lies. All arithmetic is float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coinage.config import NoiseConfig

PARTS = 4096  # of the range, whose masses are summed


def place_at(chances: Tensor, config: NoiseConfig) -> Tensor:
    """Return the places of the range that correspond to uniform chances: the quantiles.

    `shift` s moves a place t to s t / ((s - 1) t + 1) (Esser et al. 2024, arXiv:2403.03206, eq. 23).

    Args:
        chances: [B] in 0..1.
        config: distribution, weight, bias and shift.

    Returns:
        [B] in 0..1, of which 1 is the end with the most noise.
    """
    places = _unshifted(chances, config)
    shift = config.timestep_shift
    return shift * places / ((shift - 1) * places + 1)


def _unshifted(chances: Tensor, config: NoiseConfig) -> Tensor:
    """Return the quantiles of the distribution alone.

    With weight w and bias b, and OneTrainer's meaning of both: `logit_normal` is the sigmoid of a
    normal number of mean b and deviation 1 + w; `heavy_tail` is Esser et al.'s mode sampling with
    scale w (eq. 20); `cos_map` theirs too (eq. 21); `sigmoid` has the density
    1 / (1 + exp(-w (t - 0.5 - b))), `inverted_parabola` max(0, 2 - w (t - 0.5 - b)^2), and `beta`
    t^(w - 1) (1 - t)^(b - 1).
    """
    weight, bias, kind = config.timestep_weight, config.timestep_bias, config.timesteps
    if kind == "uniform":
        return chances
    if kind == "logit_normal":
        # Away from the ends, where a normal number has no bound
        normal = math.sqrt(2) * torch.erfinv(2 * chances.clamp(1e-9, 1 - 1e-9) - 1)
        return torch.sigmoid(bias + (1 + weight) * normal)
    if kind == "heavy_tail":
        places = 1 - chances - weight * ((math.pi / 2 * chances).cos().square() - 1 + chances)
        return places.clamp(0, 1)
    if kind == "cos_map":
        return 1 - 1 / ((math.pi / 2 * chances).tan() + 1)
    return _by_mass(chances, _masses(kind, weight, bias))


def _masses(kind: str, weight: float, bias: float) -> Tensor:
    """Return how much of a distribution lies in each part, but for a factor; [PARTS]."""
    if kind == "beta":
        return _beta_masses(weight, bias)
    places = (torch.arange(PARTS, dtype=torch.float64) + 0.5) / PARTS - 0.5 - bias
    if kind == "sigmoid":
        return (weight * places).sigmoid()
    return (2 - weight * places.square()).clamp(min=0)


def _beta_masses(a: float, b: float) -> Tensor:
    """Return the same of the beta distribution.

    The factor of the density that may be infinite at the nearer end is integrated, and the other one taken
    from the middle of the part.
    """
    ends = torch.arange(PARTS + 1, dtype=torch.float64) / PARTS
    middles = (ends[1:] + ends[:-1]) / 2
    left = ends.pow(a).diff() / a * (1 - middles).pow(b - 1)
    right = -(1 - ends).pow(b).diff() / b * middles.pow(a - 1)
    return torch.where(middles < 0.5, left, right)


def _by_mass(chances: Tensor, masses: Tensor) -> Tensor:
    """Return the quantiles of a distribution that is given by the mass of equal parts of 0..1."""
    ends = masses.cumsum(0) / masses.sum()
    part = torch.searchsorted(ends, chances, right=True).clamp(max=len(masses) - 1)
    begins = torch.cat([ends.new_zeros(1), ends])[part]
    within = (chances - begins) / (ends[part] - begins).clamp(min=1e-300)
    return (part + within.clamp(0, 1)) / len(masses)
