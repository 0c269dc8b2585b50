"""Bring tensors from the CPU to the device of a model, all of them in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes; every dtype may begin there


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return CPU tensors on a device; on the CPU they are returned as they are.

    To CUDA they go in one buffer that is pinned, so that the CPU does not wait for the work that
    the GPU has still to do. torch keeps the buffer until the copy is done.
    """
    if device.type == "cpu":
        return list(tensors)
    pinned = device.type == "cuda"
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
    buffer = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=pinned)
    for tensor, start in zip(tensors, starts, strict=False):
        _slice(buffer, start, tensor).copy_(tensor)
    moved = buffer.to(device, non_blocking=pinned)
    return [_slice(moved, start, like) for like, start in zip(tensors, starts, strict=False)]


def _slice(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """Return a part of a buffer of bytes, in the dtype and shape of another tensor."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def read(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return vectors of one device and dtype on the CPU; the CPU waits for the device once."""
    if vectors[0].device.type == "cpu":
        return list(vectors)
    together = torch.cat(list(vectors)).cpu()
    return list(together.split([len(vector) for vector in vectors]))
