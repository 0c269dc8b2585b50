"""Keep frozen weights in the memory of the CPU, and copy them to the device a block at a time.

A layer asks for its weight whenever it computes: in a forward pass, in the forward pass that
gradient checkpointing repeats, and in a backward pass, in any order. Two buffers on the device hold
two blocks, one in use and one being filled by a stream of its own. Which block comes next is learned
from what came next the last time; a wrong guess costs the time of a copy, and never a wrong number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coinage.models.facts import stays_whole
from coinage.models.frozen import FrozenConvolution, FrozenLayer, FrozenLinear, plain_layers
from coinage.models.pinned_memory import PinnedMemory, aligned, room_for

MEGABYTE = 2**20
LIMIT = 64 * MEGABYTE
LEAST = 4 * MEGABYTE
CONTEXT = (
    6  # blocks; a part that is computed anew is used as in the forward pass, but for what follows
)


def stream(
    module: nn.Module, device: torch.device, *, limit: int = LIMIT, least: int = LEAST
) -> None:
    """Keep the weights of a frozen module's linear and convolution layers on the CPU.

    They are copied to the device where they are used, and stay where they are when the module is
    moved; all else of the module moves as usual. The numbers are those of a module that is wholly
    on the device. On it are two buffers of the size of the largest block.

    Args:
        module: frozen and on the CPU, its weights as they are to be stored; it is changed in place.
        device: where it computes.
        limit: bytes of a block at most; a single layer may be larger.
        least: bytes of a block at least; smaller ones are not streamed.
    """
    for layer in plain_layers(module):
        layer.__class__ = FrozenLinear if isinstance(layer, nn.Linear) else FrozenConvolution
    blocks = [_Block(layers) for layers in blocks_of(module, limit, least)]
    streamer, memory = _Streamer(blocks, device), PinnedMemory(device)
    for number, block in enumerate(blocks):
        for place, layer in enumerate(block.layers):
            layer.weight = nn.Parameter(memory.copy_of(layer.weight.detach()), requires_grad=False)
            layer.lender = _Lender(streamer, number, place)


def blocks_of(module: nn.Module, limit: int, least: int) -> list[list[FrozenLayer]]:
    """Return the layers of each block that `stream` would make; a block is a part of the module.

    Args:
        module: whose layers are frozen ones.
        limit: as for `stream`.
        least: as for `stream`.
    """
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, FrozenLinear | FrozenConvolution)
        and not stays_whole(layer.weight.shape)
    ]
    size = sum(layer.weight.nbytes for layer in layers)
    if size < least or not layers:
        return []
    # Other parts may compute between those of a list
    whole = size <= limit and not isinstance(module, nn.ModuleList)
    if whole or isinstance(module, FrozenLinear | FrozenConvolution):
        return [layers]
    return [block for child in module.children() for block in blocks_of(child, limit, least)]


class _Block:
    """Layers whose weights are copied together.

    Attributes:
        layers: in any order.
        offsets: of their weights in a buffer, in bytes.
        size: of all, in bytes.
    """

    def __init__(self, layers: Sequence[FrozenLayer]) -> None:
        self.layers, self.offsets, self.size = list(layers), list[int](), 0
        for layer in layers:
            self.offsets.append(self.size)
            self.size += aligned(layer.weight.nbytes)


class _Buffer:
    """Room on the device for a block.

    Attributes:
        memory: [bytes] uint8.
        block: the number of the block in it; None where it holds none, or a part of one.
        versions: of the block's weights when they were copied.
        copied: when they were, in the copies' stream.
        released: when nothing that has begun reads them any more, in the stream that computes.
    """

    def __init__(self, size: int, device: torch.device, copies: torch.cuda.Stream | None) -> None:
        self.memory = torch.empty(size, dtype=torch.uint8, device=device)
        self.block: int | None = None
        self.versions: list[tuple[int, int]] = []
        self._copies = copies
        if copies is not None:
            self.memory.record_stream(copies)
            self._copied, self._released = torch.cuda.Event(), torch.cuda.Event()
        self.release()

    def fill(self, number: int, block: _Block) -> None:
        """Begin to copy a block, as soon as the buffer is released."""
        self.block = None  # should it be interrupted
        with self._in_copies_stream():
            for layer, offset in zip(block.layers, block.offsets, strict=True):
                room_for(layer.weight, self.memory, offset).copy_(layer.weight, non_blocking=True)
            if self._copies is not None:
                self._copied.record(self._copies)
        self.versions = [_version(layer.weight) for layer in block.layers]
        self.block = number

    def _in_copies_stream(self) -> AbstractContextManager[object]:
        if self._copies is None:
            return nullcontext()
        self._copies.wait_event(self._released)
        context: AbstractContextManager[object] = torch.cuda.stream(self._copies)
        return context

    def acquire(self) -> None:
        """Let what computes wait until the block is there. The CPU does not wait."""
        if self._copies is not None:
            torch.cuda.current_stream(self.memory.device).wait_event(self._copied)

    def release(self) -> None:
        """Let the next copy wait for what has begun to compute."""
        if self._copies is not None:
            self._released.record(torch.cuda.current_stream(self.memory.device))


class _Streamer:
    """Lends weights, and copies them ahead of use."""

    def __init__(self, blocks: Sequence[_Block], device: torch.device) -> None:
        self._blocks, self._device = list(blocks), device
        self._buffers: list[_Buffer] = []  # the one in use is the last
        self._order = _Order()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Streamer:
        """Return one for copies of the layers, without buffers yet."""
        memo[id(self)] = made = _Streamer([], self._device)
        made._blocks = copy.deepcopy(self._blocks, memo)
        return made

    def lend(self, layer: FrozenLayer, number: int, place: int) -> Tensor:
        """Return a weight on the device, to compute with before another is lent.

        Args:
            layer: whose weight it is.
            number: of its block.
            place: in the block.
        """
        if not self._buffers:
            self._buffers = self._new_buffers()
        if self._buffers[-1].block != number:
            self._turn_to(number)
        buffer = self._buffers[-1]
        if buffer.versions[place] != _version(layer.weight):
            self._fill_anew(buffer, number)
        return room_for(layer.weight, buffer.memory, self._blocks[number].offsets[place])

    # A preview may be what computes first
    @torch.inference_mode(mode=False)
    def _new_buffers(self) -> list[_Buffer]:
        size = max(block.size for block in self._blocks)
        copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        return [_Buffer(size, self._device, copies) for _ in self._blocks[:2]]

    def _turn_to(self, number: int) -> None:
        """Make a block the one in use, and begin to copy the one that should come after it."""
        new, old = self._buffers[0], self._buffers[-1]
        old.release()
        if new.block != number:
            new.fill(number, self._blocks[number])
        new.acquire()
        self._buffers.reverse()
        expected = self._order.after(number)
        if expected is not None and expected != old.block:
            old.fill(expected, self._blocks[expected])

    def _fill_anew(self, buffer: _Buffer, number: int) -> None:
        buffer.release()
        buffer.fill(number, self._blocks[number])
        buffer.acquire()


class _Order:
    """Guesses which block comes next: the one that came after the same blocks the last time."""

    def __init__(self) -> None:
        self._recent: tuple[int, ...] = ()
        self._next: dict[tuple[int, ...], int] = {}

    def after(self, number: int) -> int | None:
        """Learn that a block is used now, and return the one that is expected after it."""
        for start in range(len(self._recent)):
            self._next[self._recent[start:]] = number
        self._recent = (*self._recent, number)[-CONTEXT:]
        for start in range(len(self._recent)):
            expected = self._next.get(self._recent[start:])
            if expected is not None:
                return expected
        return None


@dataclass(slots=True)
class _Lender:
    """Where a layer gets its weight from."""

    streamer: _Streamer
    number: int
    place: int

    def lend(self, layer: FrozenLayer) -> Tensor:
        """Return the layer's weight on the device."""
        return self.streamer.lend(layer, self.number, self.place)


def _version(weight: Tensor) -> tuple[int, int]:
    """Return what changes when a weight is changed or replaced."""
    return id(weight), weight._version  # noqa: SLF001
