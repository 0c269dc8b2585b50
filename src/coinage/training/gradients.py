"""Compute the gradient of an optimizer step, for one word or for several that share a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from coinage.diffusion.schedule import NoiseSchedule
from coinage.errors import TrainingError
from coinage.system.full_memory import is_full
from coinage.training.batches import Batch, join
from coinage.training.diagnosis import OVERFLOWS, full_precision, not_finite, where_not_finite
from coinage.training.losses import identity_of
from coinage.training.run import BANDS, Run, StepInput
from coinage.training.step import StepResult, forward

log = logging.getLogger("coinage")


@dataclass(slots=True)
class StepTotals:
    """Sums over the samples of a run's step; float32 tensors, so that processes can add them up.

    Attributes:
        loss: sum of the sample's losses, divided by the number of samples in all processes; a scalar.
        stop_requests: processes that were asked to stop; a scalar.
        captions_with_word: a scalar.
        band_losses: summed losses in each part of the timesteps, [BANDS].
        band_counts: samples in each part, [BANDS].
    """

    loss: Tensor
    stop_requests: Tensor
    captions_with_word: Tensor
    band_losses: Tensor
    band_counts: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> StepTotals:
        """Return totals before the first sample."""
        return cls.unpack(torch.zeros(3 + 2 * BANDS, device=device))

    @classmethod
    def unpack(cls, packed: Tensor) -> StepTotals:
        """Return the totals that `pack` made one tensor of."""
        loss, stop_requests, captions_with_word = packed[:3]
        band_losses, band_counts = packed[3:].split(BANDS)
        return cls(loss, stop_requests, captions_with_word, band_losses, band_counts)

    def pack(self) -> Tensor:
        """Return all totals as one tensor, [3 + 2 * BANDS]."""
        scalars = torch.stack([self.loss, self.stop_requests, self.captions_with_word])
        return torch.cat([scalars, self.band_losses, self.band_counts])

    def add(self, loss: Tensor, result: StepResult, schedule: NoiseSchedule) -> None:
        """Add the samples of a batch.

        Args:
            loss: of the batch, a scalar, without gradient.
            result: losses and timesteps of its samples.
            schedule: of the noise.
        """
        self.loss += loss
        losses = result.per_sample.detach()
        band = schedule.bands(result.timesteps, BANDS)
        both = torch.zeros(2, BANDS, device=losses.device)
        both.index_add_(1, band, torch.stack([losses, torch.ones_like(losses)]))
        self.band_losses += both[0]
        self.band_counts += both[1]

    def record(self, run: Run) -> None:
        """Write the totals of all processes into the run."""
        run.last.loss = float(self.loss)
        run.last.captions_with_word = round(float(self.captions_with_word))
        losses, counts = self.band_losses.tolist(), self.band_counts.tolist()
        run.last.bands = [
            loss / count if count else None for loss, count in zip(losses, counts, strict=True)
        ]
        run.progress.ending = float(self.stop_requests) > 0


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one run in a batch that several runs share.

    Attributes:
        run: whose samples they are.
        batch: the run's own.
        sample_count: samples of the run's whole step, in all processes.
        totals: of this step; the part is added to them.
    """

    run: Run
    batch: Batch
    sample_count: int
    totals: StepTotals


def compute_gradients(
    runs: Sequence[Run], inputs: Sequence[StepInput]
) -> list[TrainingError | None]:
    """Compute the gradient of a step of each run, in float32 where half precision overflows.

    Sets the gradients of the rows and `run.last`. The rows themselves are left alone.

    Args:
        runs: that share a model.
        inputs: one for each run.

    Returns:
        For each run the error that ends it, because its loss is not finite; None where all is well.
    """
    accumulate(runs, inputs)
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


def accumulate(runs: Sequence[Run], inputs: Sequence[StepInput], *, precise: bool = False) -> None:
    """Add up each run's gradient over the samples of all processes, and describe the step in `run.last`.

    Args:
        runs: their rows get the gradients.
        inputs: draw the same each time.
        precise: compute the same step once more, without autocast.
    """
    device = runs[0].parts.device
    totals = [StepTotals.zero(device) for _ in runs]
    for run, sums in zip(runs, totals, strict=True):
        run.scaler.scale(sums.loss)  # makes its factor, also where there is no gradient
        run.optimizer.zero_grad(set_to_none=True)
    for parts in joined(runs, inputs, totals):
        backward(parts, precise=precise)
    for run, step_input, sums in zip(runs, inputs, totals, strict=True):
        sums.stop_requests += float(bool(run.progress.stop_signal))
        sums.captions_with_word += _count_captions(run, step_input)
        for row in run.rows:
            if row.grad is None:  # a process may be left without a batch
                row.grad = torch.zeros_like(row)
    gradients = [row.grad for run in runs for row in run.rows if row.grad is not None]
    packed = torch.stack([sums.pack() for sums in totals])
    runs[0].processes.sum_([*gradients, packed])
    for run, summed in zip(runs, packed.cpu(), strict=True):
        StepTotals.unpack(summed).record(run)


def _count_captions(run: Run, step_input: StepInput) -> int:
    """Return how many captions of a step hold the word."""
    return sum(sum(map(run.placeholder.is_in, batch.captions)) for batch in step_input.batches)


def joined(
    runs: Sequence[Run], inputs: Sequence[StepInput], totals: Sequence[StepTotals]
) -> Iterator[list[Part]]:
    """Yield what goes through the model together: the first batch of each run, then the second, and so on.

    Only batches of one latent size, with the same noise settings and the same loss, are put together.
    """
    for batches in zip_longest(*(step_input.batches for step_input in inputs)):
        groups: dict[Hashable, list[Part]] = {}
        for run, step_input, sums, batch in zip(runs, inputs, totals, batches, strict=True):
            if batch is not None:
                key = (batch.moments.shape[2:], run.config.noise, identity_of(run.loss))
                part = Part(run, batch, step_input.sample_count, sums)
                groups.setdefault(key, []).append(part)
        yield from groups.values()


def backward(parts: Sequence[Part], *, precise: bool) -> None:
    """Add the gradient of a batch that runs share to the rows of each; every run's loss is its own.

    Args:
        parts: of the batch.
        precise: compute the same draws once more, without autocast.
    """
    first = parts[0].run
    if precise:
        for part in parts:
            part.batch.rewind()
    batch = join([part.batch for part in parts])
    with nullcontext() if precise else first.autocast():
        result = forward(first.family, first.parts, batch, first.config.noise, first.loss)
    scaled = []
    sizes = [len(part.batch.captions) for part in parts]
    for part, part_result in zip(parts, result.split(sizes), strict=True):
        loss = part_result.per_sample.sum() / part.sample_count
        scaled.append(part.run.scaler.scale(loss))
        part.totals.add(loss.detach(), part_result, first.parts.schedule)
    total = torch.stack(scaled).sum()
    if total.requires_grad:  # not where no caption has a word, and their encodings are kept
        total.backward()
