"""How long the trained rows are, how long they may become, and how far they have turned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from coinage.config import NormMode

# Times as long as at its start a row may become: `benchmarks/quality.py --add="--norm_mode=clip ..."`
CLIP = 1.6


@torch.no_grad()
def hold_lengths(rows: Sequence[Tensor], start: Sequence[Tensor], mode: NormMode) -> None:
    """Shorten or stretch rows after a step; their directions stay.

    AdamW makes a row ever longer. The same step then turns it by less, and a prompt obeys its other words less.

    Args:
        rows: [N, D] for each text encoder; changed in place.
        start: the same before the first step.
        mode: none leaves them, clip shortens what is longer than `CLIP` times its start, target makes all as long as there.
    """
    if mode == "none":
        return
    for now, before in zip(rows, start, strict=True):
        length, goal = now.norm(dim=1, keepdim=True), before.to(now).norm(dim=1, keepdim=True)
        goal = torch.minimum(length, CLIP * goal) if mode == "clip" else goal
        now.mul_(torch.where(length > 0, goal / length, 1.0))


def movement(rows: Sequence[Tensor], start: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Lengths, and degrees 0..180 from where they started, of the rows of all text encoders in turn.

    Args:
        rows: [N, D] for each text encoder.
        start: the same before the first step, on the CPU.
    """
    norms, angles = list[float](), list[float]()
    for now, before in zip((row.detach().cpu().double() for row in rows), start, strict=True):
        norms += now.norm(dim=1).tolist()
        angles += (
            cosine_similarity(now, before.double(), dim=1).clamp(-1, 1).acos().rad2deg().tolist()
        )
    return norms, angles
