"""Rows that hold other numbers for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def holding(rows: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Give rows other numbers for a while; afterwards they have their own, to the bit."""
    before = [row.detach().clone() for row in rows]
    try:
        _fill(rows, others)
        yield
    finally:
        _fill(rows, before)


@torch.no_grad()
def _fill(rows: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for row, values in zip(rows, others, strict=True):
        row.copy_(values)
