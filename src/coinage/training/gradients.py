"""Compute the gradient of an optimizer step, for one word or for several that share a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import cast

import torch
from torch import Tensor

from coinage.errors import TrainingError
from coinage.system.full_memory import is_full
from coinage.training.batches import Batch, join
from coinage.training.diagnosis import OVERFLOWS, full_precision, not_finite, where_not_finite
from coinage.training.graphs import EAGER, Recorder
from coinage.training.losses import identity_of
from coinage.training.run import Run, StepInput, leader_of
from coinage.training.step import Inputs, StepResult, compute, prepare
from coinage.training.step_statistics import GradientStatistics, StepTotals, finish_gradient
from coinage.training.transfer import read

log = logging.getLogger("coinage")


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one run in a batch that several runs share.

    Attributes:
        run: whose samples they are.
        learners: numbers of the runs that learn from it, among those that take the step; one, unless
            words learn together.
        batch: the run's own.
        sample_count: samples of the run's whole step, in all processes.
    """

    run: Run
    learners: tuple[int, ...]
    batch: Batch
    sample_count: int


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """A batch that goes through the model as one: what it is made of, and what the device gets."""

    parts: Sequence[Part]
    inputs: Inputs

    @property
    def layout(self) -> Hashable:
        """All that the device's work depends on but the numbers in the inputs."""
        shapes = self.inputs.mapped(lambda tensor: cast(Tensor, (tensor.shape, tensor.dtype)))
        sizes = [
            (part.learners, len(part.batch.captions), part.sample_count) for part in self.parts
        ]
        return shapes, tuple(sizes)

    def of(self, tensors: Sequence[Tensor]) -> SharedBatch:
        """Return the same batch with other numbers, in the order of `Inputs.tensors`."""
        following = iter(tensors)
        return replace(self, inputs=self.inputs.mapped(lambda _: next(following)))


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a step finds done, and what it does for the next one.

    Attributes:
        batches: of the step.
        meanwhile: called when the device has its work, before the CPU waits for it.
    """

    batches: Sequence[SharedBatch]
    meanwhile: Callable[[], None]


def compute_gradients(
    runs: Sequence[Run], inputs: Sequence[StepInput], ahead: Ahead | None = None
) -> list[TrainingError | None]:
    """Compute the gradient of a step of each run, in float32 where half precision overflows.

    Sets the gradients of the rows and `run.last`. The rows themselves are left alone.

    Args:
        runs: that share a model.
        inputs: one for each run.
        ahead: the batches, if they are prepared.

    Returns:
        For each run the error that ends it, because its loss is not finite; None where all is well.
    """
    accumulate(runs, inputs, ahead=ahead)
    return mended(runs, inputs)


def mended(runs: Sequence[Run], inputs: Sequence[StepInput]) -> list[TrainingError | None]:
    """Compute gradients once more, in float32, if a loss is not finite; returns as `compute_gradients`."""
    losses = [run.last.loss for run in runs]
    errors: list[TrainingError | None] = [None] * len(runs)
    wrong = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    if not wrong:
        return errors
    places = {}
    for number in wrong:
        places[number] = _overflowing_part(runs[number], inputs[number])
    if runs[0].dtype != torch.float32 and set(places.values()) <= set(OVERFLOWS):
        _accumulate_in_float32(runs, inputs)
    for number in wrong:
        run = runs[number]
        if not math.isfinite(run.last.loss):
            what = f"the loss of step {run.step + 1} is {losses[number]}"
            errors[number] = not_finite(what, places[number], run)
    if not any(errors):
        for number in wrong:
            _count_float32_step(runs[number], places[number])
    return errors


def _overflowing_part(run: Run, step_input: StepInput) -> str:
    """Return the first part of the step that is not finite in any process; "" if none is."""
    places = run.processes.gather(where_not_finite(run, step_input.batches))
    return next(filter(None, places), "")


def _accumulate_in_float32(runs: Sequence[Run], inputs: Sequence[StepInput]) -> None:
    """Compute the gradients once more, without autocast, if memory suffices."""
    try:
        with full_precision(runs[0].parts):
            accumulate(runs, inputs, precise=True)
    except Exception as error:
        if not is_full(error):
            raise


def _count_float32_step(run: Run, place: str) -> None:
    """Count a step that was computed again, and warn of the first one."""
    run.results.float32_steps += 1
    if run.results.float32_steps == 1:
        log.warning(
            "step %d: %s overflows in %s; such steps are computed again in float32, "
            "which --mixed_precision %s avoids",
            run.step + 1,
            place,
            str(run.dtype).removeprefix("torch."),
            "bf16" if run.dtype == torch.float16 else "no",
        )


def accumulate(
    runs: Sequence[Run],
    inputs: Sequence[StepInput],
    *,
    precise: bool = False,
    ahead: Ahead | None = None,
) -> None:
    """Set each run's gradient, over the samples of all processes, and describe the step in `run.last`.

    The gradients are as the optimizer takes them: unscaled and clipped.

    Args:
        runs: their rows get the gradients.
        inputs: draw the same each time.
        precise: compute the same step once more, without autocast.
        ahead: the batches, if they are prepared.
    """
    if precise:
        for run in runs:
            if run.scaler.is_enabled():  # it forgets that the gradient has been unscaled
                run.scaler.update(run.scaler.get_scale())
    totals = launch(runs, inputs, precise=precise, ahead=ahead)
    vectors = [
        torch.cat([sums.packed, finish_gradient(run)])
        for run, sums in zip(runs, totals, strict=True)
    ]
    if ahead:
        ahead.meanwhile()
    for run, step_input, values in zip(runs, inputs, read(vectors), strict=True):
        GradientStatistics(values).record(run, step_input)


def launch(
    runs: Sequence[Run],
    inputs: Sequence[StepInput],
    *,
    precise: bool = False,
    ahead: Ahead | None = None,
    recorder: Recorder = EAGER,
) -> list[StepTotals]:
    """Give the device the work of a step's gradients, and return the sums that it will have made.

    Args:
        runs: their rows get the gradients.
        inputs: draw the same each time.
        precise: compute the same step once more, without autocast.
        ahead: the batches, if they are prepared.
        recorder: does the work.
    """
    totals = recorder.begin(runs)
    for run, sums in zip(runs, totals, strict=True):
        run.scaler.scale(sums.loss)  # makes its factor, also where there is no gradient
    batches = prepared(runs, inputs, precise=precise) if ahead is None else ahead.batches
    for shared in batches:

        def work(tensors: Sequence[Tensor], shared: SharedBatch = shared) -> None:
            backward(shared.of(tensors), totals, precise=precise)

        recorder.do(shared.layout, work, shared.inputs.tensors())
    for run in runs:
        for row in run.trained_rows:
            if row.grad is None:  # a process may be left without a batch
                row.grad = torch.zeros_like(row)
    processes = runs[0].processes
    if processes.count > 1:
        for run, step_input, sums in zip(runs, inputs, totals, strict=True):
            sums.add_host(run, step_input)
        gradients = [row.grad for run in runs for row in run.trained_rows if row.grad is not None]
        processes.sum_([*gradients, *(sums.packed for sums in totals)])
    return totals


def prepared(
    runs: Sequence[Run], inputs: Sequence[StepInput], *, precise: bool = False
) -> Iterator[SharedBatch]:
    """Yield the batches of a step as they go through the model, on its device.

    Args:
        runs: that share a model.
        inputs: one for each run.
        precise: draw once more what was drawn, for a step without autocast.
    """
    for parts in joined(runs, inputs):
        first = parts[0].run
        if precise:
            for part in parts:
                part.batch.rewind()
        batch = join([part.batch for part in parts])
        with _autocast(first, precise=precise):
            yield SharedBatch(parts, prepare(first.family, first.parts, batch, first.config.noise))


def _autocast(run: Run, *, precise: bool) -> AbstractContextManager[object]:
    return nullcontext() if precise else run.autocast()


def joined(runs: Sequence[Run], inputs: Sequence[StepInput]) -> Iterator[list[Part]]:
    """Yield what goes through the model together: the first batch of each run, then the second, and so on.

    Only batches of one latent size, with the same noise settings and the same loss, are put together.
    The batches of words that learn together go through it once.
    """
    learners: dict[int, list[int]] = {}  # by the number of the run with the batches
    for number, run in enumerate(runs):
        leader = leader_of(run, runs)
        first = next(place for place, other in enumerate(runs) if other is leader)
        learners.setdefault(first, []).append(number)
    for batches in zip_longest(*(inputs[number].batches for number in learners)):
        groups: dict[Hashable, list[Part]] = {}
        for (number, numbers), batch in zip(learners.items(), batches, strict=True):
            run = runs[number]
            if batch is not None:
                key = (batch.moments.shape[2:], run.config.noise, identity_of(run.loss))
                part = Part(run, tuple(numbers), batch, inputs[number].sample_count)
                groups.setdefault(key, []).append(part)
        yield from groups.values()


def backward(shared: SharedBatch, totals: Sequence[StepTotals], *, precise: bool) -> None:
    """Add the gradient of a batch that runs share to the rows of each; every run's loss is its own.

    Args:
        shared: the batch.
        totals: of each run that takes the step; the batch is added to them.
        precise: compute without autocast.
    """
    first = shared.parts[0].run
    with _autocast(first, precise=precise):
        result = compute(first.family, first.parts, shared.inputs, first.loss)
    scaled = []
    for part, part_result in zip(shared.parts, _split(shared, result), strict=True):
        loss = part_result.per_sample.sum() / part.sample_count
        scaled.append(part.run.scaler.scale(loss))
        for number in part.learners:
            totals[number].add(loss.detach(), part_result, first.parts.schedule)
    total = torch.stack(scaled).sum()
    if total.requires_grad:  # not where no caption has a word, and their encodings are kept
        total.backward()


def _split(shared: SharedBatch, result: StepResult) -> list[StepResult]:
    return result.split([len(part.batch.captions) for part in shared.parts])
