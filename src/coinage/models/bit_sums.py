"""Sums of the bits of tensors, at the speed of memory: a changed number changes the sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = 8  # bytes that are added at once
HALF = 32  # bits
# Odd, so that no change is lost in the product
FACTOR = 0x9E3779B1
# Words in a piece: on a CPU its two sums then read the cache, on one thread; a GPU is slow to start
CPU_PIECE, GPU_PIECE = 2**15, 2**24


@torch.no_grad()
def sum_of_bits(tensors: Sequence[Tensor]) -> int:
    """Return a number that any change of one element of one tensor changes.

    Changes of several elements change it too, unless they cancel out as in a sum of integers. The
    order of a tensor's elements in memory counts, so tensors are compared in the same layout.

    Args:
        tensors: of any dtype and layout, on any devices: some weights may stay off the GPU.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(_sum_of(_bytes_of(tensor)))
    sums = [torch.stack(of_device).sum().cpu() for of_device in by_device.values()]
    return int(torch.stack(sums).sum()) if sums else 0


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return all bytes of a tensor, [bytes] uint8; without a copy where its elements lie together."""
    dense = tensor.detach()
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    order = sorted(range(dense.ndim), key=dense.stride, reverse=True)
    return dense.permute(order).contiguous().view(-1).view(torch.uint8)


def _sum_of(data: Tensor) -> Tensor:
    """Return the sum of bytes as 64-bit words, and of the upper half of each once more; it wraps around.

    Alone, the sum of words loses what their topmost bits add up to.
    """
    start = min(-data.storage_offset() % WORD, len(data))
    count = (len(data) - start) // WORD
    rest = torch.cat([data[:start], data[start + WORD * count :]])
    pieces = [F.pad(rest, (0, -len(rest) % WORD)).view(torch.int64)]
    if count:
        words = data[start : start + WORD * count].view(torch.int64)
        pieces += words.split(CPU_PIECE if data.device.type == "cpu" else GPU_PIECE)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for piece in pieces:
        total += piece.sum() + FACTOR * (piece >> HALF).sum()
    return total
