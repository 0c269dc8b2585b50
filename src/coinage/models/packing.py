"""Latents as a row of tokens, as transformers take them that read a picture patch by patch."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(latents: Tensor, patch: int) -> Tensor:
    """Return latents as tokens, row by row.

    Args:
        latents: [B, C, H, W], H and W multiples of `patch`.
        patch: latents along a side of a token.

    Returns:
        [B, H W / patch^2, C patch^2]; a token holds channel by channel the rows of its patch.
    """
    batch, channels, height, width = latents.shape
    rows, columns = height // patch, width // patch
    cells = latents.reshape(batch, channels, rows, patch, columns, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch**2)


def unpack(tokens: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Return the latents [B, C, H, W] that `pack` made tokens of.

    Args:
        tokens: [B, T, C patch^2].
        height: of the latents.
        width: of the latents.
        patch: latents along a side of a token.
    """
    batch, _, numbers = tokens.shape
    channels = numbers // patch**2
    cells = tokens.reshape(batch, height // patch, width // patch, channels, patch, patch)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def places(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return 0, row and column of each of height x width tokens, row by row: [T, 3]."""
    rows = torch.arange(height, device=device, dtype=dtype)
    columns = torch.arange(width, device=device, dtype=dtype)
    grid = torch.zeros(height, width, 3, device=device, dtype=dtype)
    grid[..., 1] = rows[:, None]
    grid[..., 2] = columns
    return grid.view(-1, 3)
