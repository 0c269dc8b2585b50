"""Directions between two directions, on the great circle through both."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SINE = 1e-6  # of an angle: below it, the straight line is taken
OPPOSITE = 1e-4  # radians from the opposite direction: closer, there is no shortest way


def are_opposite(a: Tensor, b: Tensor) -> bool:
    """Return whether a row of `a` points away from the same row of `b`, both [N, D]."""
    return bool((_angles(a, b) > math.pi - OPPOSITE).any())


def between(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Return directions between those of `a` (fraction 0) and of `b` (fraction 1).

    Shoemake 1985. Rows that are opposite have no way between them: see `are_opposite`.

    Args:
        a: rows [N, D] of any length above 0.
        b: the same.
        fraction: of the angle, 0..1.

    Returns:
        [N, D] float64, each row of length 1.
    """
    angle = _angles(a, b)
    a, b = F.normalize(a.double(), dim=1), F.normalize(b.double(), dim=1)
    sine = torch.sin(angle)
    turned = (torch.sin((1 - fraction) * angle) * a + torch.sin(fraction * angle) * b) / sine
    direction = torch.where(sine < SMALLEST_SINE, torch.lerp(a, b, fraction), turned)
    return F.normalize(direction, dim=1)


def _angles(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle between each two rows, [N, 1] float64 in radians."""
    cosines = (F.normalize(a.double(), dim=1) * F.normalize(b.double(), dim=1)).sum(dim=1)
    return cosines.clamp(-1, 1).acos()[:, None]
