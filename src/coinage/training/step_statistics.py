"""What a step tells of itself: one vector on the device, which the CPU reads at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coinage.diffusion.schedule import NoiseSchedule
from coinage.training.run import BANDS, Run, StepInput
from coinage.training.step import StepResult

TOTALS = 3 + 2 * BANDS  # numbers of `StepTotals`


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over the samples of a run's step, which processes can add up.

    Attributes:
        packed: the sum of the samples' losses, divided by the number of samples in all processes;
            processes that were asked to stop, and captions that hold the word, where there are
            several processes; summed losses, and counts of samples, in each part of the timesteps.
            [3 + 2 * BANDS] float32.
    """

    packed: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> StepTotals:
        """Return totals before the first sample."""
        return cls(torch.zeros(TOTALS, device=device))

    @property
    def loss(self) -> Tensor:
        """The sum of losses, a scalar that shares its number with `packed`; so do the others."""
        return self.packed[0]

    @property
    def band_losses(self) -> Tensor:
        """Summed losses in each part of the timesteps, [BANDS]."""
        return self.packed[3 : 3 + BANDS]

    @property
    def band_counts(self) -> Tensor:
        """Samples in each part, [BANDS]."""
        return self.packed[3 + BANDS :]

    def add(self, loss: Tensor, result: StepResult, schedule: NoiseSchedule) -> None:
        """Add the samples of a batch.

        Args:
            loss: of the batch, a scalar, without gradient.
            result: losses and timesteps of its samples.
            schedule: of the noise.
        """
        self.loss.add_(loss)
        losses = result.per_sample.detach()
        band = schedule.bands(result.timesteps, BANDS)
        both = torch.zeros(2, BANDS, device=losses.device)
        both.index_add_(1, band, torch.stack([losses, torch.ones_like(losses)]))
        self.packed[3:].add_(both.flatten())

    def add_host(self, run: Run, step_input: StepInput) -> None:
        """Add what the CPU alone knows, so that processes can tell each other."""
        self.packed[1].add_(float(bool(run.progress.stop_signal)))
        self.packed[2].add_(count_captions(run, step_input))


def count_captions(run: Run, step_input: StepInput) -> int:
    """Return how many captions of a step hold the word."""
    return sum(sum(map(run.placeholder.is_in, batch.captions)) for batch in step_input.batches)


def finish_gradient(run: Run) -> Tensor:
    """Unscale and clip the gradient of a run's rows, without waiting for the device.

    Returns:
        Its length before clipping, whether it overflowed under the scaler, and for each row of all
        text encoders in turn whether it had a gradient: [2 + N] float32 on the device.
    """
    rows = run.trained_rows
    gradients = [row.grad for row in rows if row.grad is not None]
    overflow = torch.zeros((), device=gradients[0].device)
    if run.scaler.is_enabled():
        of_all = [row.grad for other in run.together for row in other.rows]
        largest = [
            gradient.abs().max() for gradient in (*gradients, *of_all) if gradient is not None
        ]
        overflow = torch.stack(largest).isfinite().logical_not().any().float()
        run.scaler.unscale_(run.optimizer)
        if run.together:  # one scaled loss is for all of them
            note_overflow(run.scaler, run.optimizer, overflow)
    max_norm = run.config.optim.max_grad_norm or math.inf  # without a limit, only measured
    norm = torch.nn.utils.clip_grad_norm_(rows, max_norm)
    touched = []
    for row in run.rows:
        flags = norm.new_zeros(len(row)) if row.grad is None else (row.grad != 0).any(dim=1)
        touched.append(flags.float())
    return torch.cat([torch.stack([norm.float(), overflow]), *touched])


def note_overflow(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, overflow: Tensor
) -> None:
    """Have a scaler know of an overflow that is not in the optimizer's own gradient.

    Args:
        scaler: after its `unscale_`.
        optimizer: whose gradient it has unscaled.
        overflow: 1 or 0, a scalar float32 on the device.
    """
    seen: dict[str, dict[torch.device, Tensor]] = scaler._per_optimizer_states[id(optimizer)]  # noqa: SLF001
    for found in seen["found_inf_per_device"].values():
        found.copy_(overflow)


@dataclass(frozen=True, slots=True)
class GradientStatistics:
    """The totals of a step with what `finish_gradient` returned behind them, on the CPU."""

    values: Tensor

    def record(self, run: Run, step_input: StepInput) -> None:
        """Write them into the run."""
        last, progress = run.last, run.progress
        loss, stop_requests, captions = self.values[:3].tolist()
        if run.processes.count == 1:
            stop_requests, captions = progress.stop_signal, count_captions(run, step_input)
        last.loss = loss
        last.captions_with_word = round(captions)
        progress.ending = stop_requests > 0
        losses, counts = self.values[3:TOTALS].view(2, BANDS).tolist()
        last.bands = [
            loss / count if count else None for loss, count in zip(losses, counts, strict=True)
        ]
        last.grad_norm, overflow = self.values[TOTALS : TOTALS + 2].tolist()
        last.skipped = overflow > 0
        absent = run.config.word.together and not last.captions_with_word
        last.rests = absent or not run.config.word.learns_at(run.step + 1)
        flags = self.values[TOTALS + 2 : self.length(run)].bool()
        last.touched = flags.split([len(row) for row in run.rows])

    @staticmethod
    def length(run: Run) -> int:
        """Return how many numbers there are for a run."""
        return TOTALS + 2 + sum(len(row) for row in run.rows)


def flat(rows: Sequence[Tensor]) -> Tensor:
    """Return the numbers of all rows as one vector."""
    return torch.cat([row.detach().flatten() for row in rows])


def unflatten(vector: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return a vector as `flat` makes it in the shapes of the rows."""
    parts = vector.split([row.numel() for row in rows])
    return [part.view(row.shape) for part, row in zip(parts, rows, strict=True)]
