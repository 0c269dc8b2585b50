"""Record the work of steps as CUDA graphs: the GPU then does it again, and the CPU starts no kernels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from coinage.errors import reason_of
from coinage.optim.capturable import keep_counts_on_device, rate_on_device
from coinage.training.run import Run
from coinage.training.step_statistics import StepTotals

log = logging.getLogger("coinage")
WARM_UPS = 3  # times that work is done before it is recorded, as torch asks
MOST = 16  # layouts that are recorded; the others are few, and done as they come
T = TypeVar("T")
Work = Callable[[list[Tensor]], T]


class Eager:
    """Does the work of steps as it comes."""

    def begin(self, runs: Sequence[Run]) -> list[StepTotals]:
        """Forget the gradients of the last step, and return each run's sums before the first sample."""
        for run in runs:
            run.optimizer.zero_grad(set_to_none=True)
        return [StepTotals.zero(run.parts.device) for run in runs]

    def apart(self) -> AbstractContextManager[object]:
        """Return the context of a step's work."""
        return nullcontext()

    def rates(self, runs: Sequence[Run]) -> list[Tensor]:  # noqa: ARG002 - as `Graphs` has it
        """Return the rates that optimizers are given; none: they have their own."""
        return []

    def do(self, layout: Hashable, work: Work[T], inputs: list[Tensor]) -> T:  # noqa: ARG002 - the same
        """Return what some work makes of its inputs."""
        return work(inputs)


EAGER = Eager()


@dataclass(frozen=True, slots=True)
class _Recording:
    """A graph, the tensors that it reads, and what it makes of them anew each time."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    result: Any


class Graphs:
    """Does the same, and replays what has recurred.

    A graph reads and writes memory at fixed places. So gradients and sums stay where they are, inputs
    are copied to where they were when the work was recorded, and where the model's weights have
    moved, everything is recorded anew. All recordings share their memory: what one has returned is
    lost when another is replayed.

    Args:
        parts: networks that the work reads.
        device: where it is done.
    """

    def __init__(self, parts: Sequence[torch.nn.Module], device: torch.device) -> None:
        self._weights = [weight for part in parts for weight in part.parameters()]
        self._stream = torch.cuda.Stream(device)
        self._kept: dict[int, StepTotals] = {}
        self._gradients: dict[Tensor, Tensor] = {}
        self._made_for: object = None
        self._works = True
        self._drop()

    def _drop(self) -> None:
        self._recorded: dict[Hashable, _Recording] = {}
        self._seen: Counter[Hashable] = Counter()
        self._pool = torch.cuda.graph_pool_handle()

    def begin(self, runs: Sequence[Run]) -> list[StepTotals]:
        """Zero gradients and sums in place, and drop what was recorded for other runs or other weights."""
        made_for = [id(run) for run in runs], [weight.data_ptr() for weight in self._weights]
        if made_for != self._made_for:
            self._drop()
            self._made_for = made_for
        for run in runs:
            keep_counts_on_device(run.optimizer)
            for row in run.trained_rows:
                if row not in self._gradients:
                    self._gradients[row] = torch.zeros_like(row)
                row.grad = self._gradients[row].zero_()
            if id(run) not in self._kept:
                self._kept[id(run)] = StepTotals.zero(run.parts.device)
            self._kept[id(run)].packed.zero_()
        return [self._kept[id(run)] for run in runs]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Do a step's work in a stream of its own, as recording needs it, behind what comes before it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def rates(self, runs: Sequence[Run]) -> list[Tensor]:
        """Return the rate of each run's optimizer as a number on the device."""
        return [rate_on_device(run.optimizer, run.parts.device) for run in runs]

    def do(self, layout: Hashable, work: Work[T], inputs: list[Tensor]) -> T:
        """Return what some work makes of its inputs: replayed, if its layout has recurred.

        Args:
            layout: all that the work depends on but the numbers in tensors; None: not to be recorded.
            work: starts kernels and never waits for them. What it changes beside its inputs stays
                where it is.
            inputs: on the device.
        """
        if layout in self._recorded:
            return cast(T, self._replayed(self._recorded[layout], inputs))
        self._seen[layout] += 1
        recurs = layout is not None and self._seen[layout] > WARM_UPS
        if self._works and recurs and len(self._recorded) < MOST:
            try:
                self._recorded[layout] = self._record(work, inputs)
            except Exception as error:  # noqa: BLE001 - whatever it is, the work can be done without
                self._give_up(error)
            else:
                return cast(T, self._replayed(self._recorded[layout], inputs))
        return work(inputs)

    def _record(self, work: Work[Any], inputs: Sequence[Tensor]) -> _Recording:
        graph, places = torch.cuda.CUDAGraph(), [tensor.clone() for tensor in inputs]
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work(places)
        return _Recording(graph, places, result)

    def _replayed(self, recording: _Recording, inputs: Sequence[Tensor]) -> Any:
        for place, tensor in zip(recording.inputs, inputs, strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        return recording.result

    def _give_up(self, error: Exception) -> None:
        """Say what cannot be recorded, and record no more."""
        self._works = False
        self._drop()
        refused = error.__context__ or error  # ending a recording that has failed fails too
        log.warning("--cuda_graphs: goes on without graphs: %s", reason_of(refused))


Recorder = Eager | Graphs
