"""How long the trained rows are, and how far they have turned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cosine_similarity


def movement(rows: Sequence[Tensor], start: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Lengths, and degrees 0..180 from where they started, of the rows of all text encoders in turn.

    Args:
        rows: [N, D] for each text encoder.
        start: the same before the first step, on the CPU.
    """
    norms, angles = list[float](), list[float]()
    for now, before in zip((row.detach().cpu().double() for row in rows), start, strict=True):
        norms += now.norm(dim=1).tolist()
        angles += cosine_similarity(now, before.double(), dim=1).clamp(-1, 1).acos().rad2deg().tolist()
    return norms, angles
