"""How busy the GPU is in the steps of a training, and how many kernels they start."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from coinage.training import session
from coinage.training.observers.base import Observer
from coinage.training.observers.standard import observers_for as standard_observers
from coinage.training.run import Run
from recorded_run import Record, Recorder, synchronise

Span = tuple[float, float]
COPIES = ("Memcpy", "Memset")
ON_GPU = torch._C._autograd.DeviceType.CUDA  # noqa: SLF001 - typed nowhere else


@dataclass
class Trace:
    """What the profiler saw; None on a CPU.

    Attributes:
        busy: share of the time in which a kernel runs.
        kernels: a step.
    """

    busy: float | None = None
    kernels: float | None = None


def covered(spans: Iterable[Span]) -> float:
    """The length of what spans cover together."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


class Profiler(Recorder):
    """Times the steps, and profiles the last ones."""

    def __init__(self, record: Record, trace: Trace, first: int, count: int) -> None:
        super().__init__(record)
        self._trace, self._first, self._count = trace, first, count
        self._profile: Any = None
        self._began = 0.0

    def between(self, run: Run) -> None:
        if run.parts.device.type != "cuda":
            return
        if run.step == self._first:
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.start()
            self._began = time.perf_counter()
        elif run.step == self._first + self._count:
            took = time.perf_counter() - self._began
            self._profile.stop()
            self._read(took)

    def _read(self, seconds: float) -> None:
        """Keep what the profile of so many seconds tells."""
        synchronise()
        found = [event for event in self._profile.events() if event.device_type == ON_GPU]
        spans = [(event.time_range.start, event.time_range.end) for event in found]
        kernels = [event for event in found if not event.name.startswith(COPIES)]
        self._trace.busy = covered(spans) / 1e6 / seconds
        self._trace.kernels = len(kernels) / self._count


@contextmanager
def profiling(record: Record, trace: Trace, first: int, count: int) -> Iterator[None]:
    """Have a training in this process measured.

    Args:
        record: gets times and memory.
        trace: gets what the profiler sees.
        first: steps before the profiled ones.
        count: of the profiled steps.
    """
    recorder = Profiler(record, trace, first, count)
    original = standard_observers

    def observers_for(*args: Any) -> list[Observer]:
        return [*original(*args), recorder]

    with patch.object(session, "observers_for", observers_for):
        yield
