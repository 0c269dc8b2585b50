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
SHORT = 2**16  # bytes of a tensor, below which it is summed together with others


@torch.no_grad()
def sum_of_bits(tensors: Sequence[Tensor]) -> int:
    """Return a number that any change of one element of one tensor changes.

    Changes of several elements change it too, unless they cancel out as in a sum of integers. The
    order of a tensor's elements in memory counts, so tensors are compared in the same layout.

    Args:
        tensors: of any dtype and layout, on any devices.
    """
    sums: dict[torch.device, list[Tensor]] = {}
    short: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        data = _whole_words(_bytes_of(tensor))
        if len(data) < SHORT:
            short.setdefault(data.device, []).append(data)
        else:
            sums.setdefault(data.device, []).append(_sum_of(data))
    for device, pieces in short.items():
        sums.setdefault(device, []).append(_sum_of(torch.cat(pieces)))
    # A device is waited for once
    return sum(int(torch.stack(on_device).sum()) for on_device in sums.values()) % 2**64


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return all bytes of a tensor, [bytes] uint8; without a copy where its elements lie together."""
    dense = tensor.detach()
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    order = sorted(range(dense.ndim), key=dense.stride, reverse=True)
    return dense.permute(order).contiguous().view(-1).view(torch.uint8)


def _whole_words(data: Tensor) -> Tensor:
    """Return bytes with zeros up to a whole word; a copy where words do not begin with the memory."""
    if len(data) % WORD:
        return F.pad(data, (0, -len(data) % WORD))
    return data.clone() if data.storage_offset() % WORD else data


def _sum_of(data: Tensor) -> Tensor:
    """Return the sum of bytes as 64-bit words, and of the upper half of each once more; it wraps around.

    Alone, the sum of words loses what their topmost bits add up to.
    """
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    piece_length = CPU_PIECE if data.device.type == "cpu" else GPU_PIECE
    for piece in data.view(torch.int64).split(piece_length):
        total += piece.sum() + FACTOR * (piece >> HALF).sum()
    return total
