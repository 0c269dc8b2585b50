"""Memory of the CPU that a GPU reads by itself, without making the CPU wait."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from coinage.errors import Problem

log = logging.getLogger("coinage")
ALIGNMENT = 256  # bytes; what CUDA's kernels read fastest
PIECE = 64 * 2**20  # bytes; a power of 2, to which the allocator of pinned memory rounds up


class PinnedMemory:
    """Room for tensors, taken in large pieces.

    Where no more can be pinned, which is told once, and without a GPU, it is ordinary memory.
    """

    def __init__(self, device: torch.device) -> None:
        """Take nothing yet.

        Args:
            device: that is to read it.
        """
        self._pins = device.type == "cuda"
        self._piece, self._used = torch.empty(0, dtype=torch.uint8), 0

    def copy_of(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the CPU, of the same strides where it is dense."""
        size = aligned(tensor.nbytes)
        if self._used + size > len(self._piece):
            self._piece, self._used = self._new_piece(size), 0
        copy = room_for(tensor, self._piece, self._used)
        self._used += size
        return copy.copy_(tensor)

    def _new_piece(self, size: int) -> Tensor:
        if self._pins:
            try:
                return torch.empty(max(PIECE, size), dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:
                self._pins = False
                what = "no more memory can be pinned: copies to the GPU are slower"
                log.warning("%s", Problem(what, str(error).partition("\n")[0]))
        return torch.empty(size, dtype=torch.uint8)


def aligned(size: int) -> int:
    """Return a number of bytes, rounded up so that what follows is aligned."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def room_for(tensor: Tensor, memory: Tensor, offset: int) -> Tensor:
    """Return a part of memory as a tensor of the same dtype, shape and strides as another.

    Args:
        tensor: the other. If it is not dense, the result is contiguous.
        memory: [bytes] uint8.
        offset: in it, in bytes.
    """
    flat = memory[offset : offset + tensor.nbytes].view(tensor.dtype)
    last = sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    if last + 1 == tensor.numel():  # such as channels_last
        return flat.as_strided(tensor.shape, tensor.stride())
    return flat.view(tensor.shape)
