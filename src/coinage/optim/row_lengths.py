"""Lengths and angles of the trained rows, and limits of their lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from coinage.config import NormMode

# Times its length at the start that a row may become: `benchmarks/quality.py --add="--norm_mode=clip ..."`
MOST_GROWTH = 1.6


@torch.no_grad()
def hold_lengths(rows: Sequence[Tensor], start: Sequence[Tensor], mode: NormMode) -> None:
    """Shorten or stretch rows after a step; their directions stay.

    AdamW makes a row ever longer. The same step then turns it by less, and a prompt obeys its other
    words less.

    Args:
        rows: [N, D] for each text encoder; changed in place.
        start: the same before the first step.
        mode: none leaves them, clip shortens what is longer than `MOST_GROWTH` times its start,
            target makes all as long as there.
    """
    if mode == "none":
        return
    for now, before in zip(rows, start, strict=True):
        length, goal = now.norm(dim=1, keepdim=True), before.to(now).norm(dim=1, keepdim=True)
        if mode == "clip":
            goal = torch.minimum(length, MOST_GROWTH * goal)
        now.mul_(torch.where(length > 0, goal / length, 1.0))


def movement(rows: Sequence[Tensor], start: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Return lengths, and angles to the start in degrees 0..180, of the rows of all text encoders in turn.

    Args:
        rows: [N, D] for each text encoder.
        start: the same before the first step, on the CPU.
    """
    norms, angles = list[float](), list[float]()
    for row, before in zip(rows, start, strict=True):
        now = row.detach().cpu().double()
        norms += now.norm(dim=1).tolist()
        cosines = cosine_similarity(now, before.double(), dim=1).clamp(-1, 1)
        angles += cosines.acos().rad2deg().tolist()
    return norms, angles
