"""CUDA graphs of the pretended GPU: operations that are done again with the same memory.

As on CUDA, recording changes nothing: what it has written is put back, and what it has made holds no
numbers. So replaying alone brings results, and a tensor that has moved since is not found. Graphs
share the memory of what they make: when one is replayed, the results of all others are lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

EMPTY = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty")


class Graph:
    """Stands for `torch.cuda.CUDAGraph`.

    Args:
        gpu: the pretended one.
    """

    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu
        self._steps: list[Callable[[], None]] = []
        self._made: dict[int, Tensor] = {}  # by the place of their memory
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        gpu.graphs.add(self)

    def add(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], work: Callable[[], Any]
    ) -> Any:
        """Do an operation, and note how to do it again."""
        for tensor in _written(func, args, kwargs):
            self._keep(tensor)
        given = {_place(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = work()
        new = [x for x in tree_leaves(result) if isinstance(x, Tensor) and _place(x) not in given]
        self._made.update({_place(x): x for x in new})
        if func._schema.name in EMPTY:
            return result

        def again() -> None:
            found = [x for x in tree_leaves(work()) if isinstance(x, Tensor)]
            if new:
                places = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
                for place, value in zip(places, found, strict=True):
                    if _place(place) not in given:
                        place.copy_(value)

        self._steps.append(again)
        return result

    def _keep(self, tensor: Tensor) -> None:
        """Note what a tensor holds before the first time that it is written."""
        place = _place(tensor)
        if place not in self._made and place not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self._before[place] = whole, whole.clone()

    def end(self) -> None:
        """Put back what was written, and spoil what was made."""
        for whole, before in self._before.values():
            whole.copy_(before)
        self._before.clear()
        self.spoil()

    def spoil(self) -> None:
        """Leave no number in what was made."""
        for tensor in self._made.values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)

    @torch.no_grad()
    def replay(self) -> None:
        """Do all again."""
        stream = self.gpu.stream
        stream.reach(len(stream.due))
        self.gpu.replays += 1
        self.gpu.kernels += 1
        for other in self.gpu.graphs - {self}:
            other.spoil()
        for step in self._steps:
            step()


@contextmanager
def recorded(graph: Graph, pool: object = None, stream: Any = None) -> Iterator[None]:
    """Stand for `torch.cuda.graph`: refuse what waits, and record all else."""
    assert pool is not None
    gpu = graph.gpu
    with gpu.within(stream), gpu.no_waits():
        stream.reach(len(stream.due))
        gpu.recording = graph
        try:
            yield
        finally:
            gpu.recording = None
            graph.end()


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from (x for x in tree_leaves(value) if isinstance(x, Tensor))
