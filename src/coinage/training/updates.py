"""Take optimizer steps, and describe what became of the rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import compress, repeat
from typing import Any

import torch
from torch import Tensor

from coinage.errors import CoinageError, TrainingError, described
from coinage.optim.capturable import at_rate, has_state
from coinage.optim.directional import Directional
from coinage.optim.row_lengths import hold_lengths, movement
from coinage.system.full_memory import is_full
from coinage.training.diagnosis import not_finite
from coinage.training.gradients import Ahead, launch, mended
from coinage.training.graphs import EAGER, Graphs, Recorder
from coinage.training.losses import ConfiguredLoss
from coinage.training.run import Run, StepInput
from coinage.training.step_statistics import (
    GradientStatistics,
    StepTotals,
    finish_gradient,
    flat,
    unflatten,
)
from coinage.training.transfer import read

log = logging.getLogger("coinage")
# Optimizers whose state for a row tells all that a step has changed
CAN_BE_UNDONE = (torch.optim.AdamW, Directional)


def can_be_undone(run: Run) -> bool:
    """Return whether a step of a run's optimizer can be undone."""
    return run.optimizer_factory is None and type(run.optimizer) in CAN_BE_UNDONE


def recorder_for(runs: Sequence[Run]) -> Recorder:
    """Return what does the work of runs that share a model, with a line if it cannot be recorded as asked."""
    if not any(run.config.model.cuda_graphs for run in runs):
        return EAGER
    reason = why_not_recorded(runs)
    if reason:
        log.warning("--cuda_graphs has no effect: %s", reason)
        return EAGER
    parts = runs[0].parts
    return Graphs([parts.denoiser, *parts.text_encoders], parts.device)


def why_not_recorded(runs: Sequence[Run]) -> str:
    """Return why the steps of runs cannot be recorded as CUDA graphs; "" where they can."""
    parts, model = runs[0].parts, runs[0].config.model
    reasons = {
        "the model is not on a CUDA device": parts.device.type != "cuda",
        "several processes train together": runs[0].processes.count > 1,
        "--low_memory copies weights while it computes": model.low_memory,
        "--torch_compile records in its own way": model.compile_backend is not None,
        "only the steps of AdamW and Directional are recorded": not all(map(can_be_undone, runs)),
        "the loss is your own": not all(isinstance(run.loss, ConfiguredLoss) for run in runs),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def step_and_check(
    runs: Sequence[Run], inputs: Sequence[StepInput], ahead: Ahead, recorder: Recorder = EAGER
) -> None:
    """Take one step of each run while the CPU waits for the device only once.

    The optimizers step before it is known whether all numbers are finite; a step that must not be
    is undone, and comes about as it does where the gradient is looked at first.

    Args:
        runs: that share a model; their steps can be undone.
        inputs: one for each run.
        ahead: the prepared batches.
        recorder: does the work.

    Raises:
        TrainingError: the loss or the gradient of a run is not finite.
    """
    undo: list[Undo] = []
    try:
        values = _stepped(runs, inputs, ahead, undo, recorder)
        rows = []
        for run, step_input, numbers in zip(runs, inputs, values, strict=True):
            length = GradientStatistics.length(run)
            GradientStatistics(numbers[:length]).record(run, step_input)
            rows.append(unflatten(numbers[length:], run.rows))
    except BaseException:
        _take_back(undo)
        raise
    if all(map(_is_good, runs)):
        for run, now, before in zip(runs, rows, undo, strict=True):
            _conclude(run, before.rows_restored() if run.last.rests else now)
        return
    _take_back(undo)
    raise_first(mended(runs, inputs))
    for run in runs:
        update(run)


def _stepped(
    runs: Sequence[Run],
    inputs: Sequence[StepInput],
    ahead: Ahead,
    undo: list[Undo],
    recorder: Recorder,
) -> list[Tensor]:
    """Give the device the work of a whole step, and return each run's statistics and rows."""
    with recorder.apart():
        totals = launch(runs, inputs, ahead=ahead, recorder=recorder)
        undo += map(Undo, runs)
        vectors = _updated(runs, totals, recorder)
        ahead.meanwhile()
        return read(vectors)


def _updated(runs: Sequence[Run], totals: Sequence[StepTotals], recorder: Recorder) -> list[Tensor]:
    """Update the rows of runs, and return each one's statistics and rows as a vector on the device."""

    def work(rates: list[Tensor]) -> tuple[list[Tensor], list[dict[int, Any]]]:
        vectors, overflows = [], []
        for run, sums, rate in zip(runs, totals, rates or repeat(None), strict=False):
            overflows.append(_overflows_seen(run.scaler))
            overflows[-1].clear()  # of a recording that was refused
            gradient = finish_gradient(run)
            with at_rate(run.optimizer, rate):
                _apply(run)
            vectors.append(torch.cat([sums.packed, gradient, flat(run.rows)]))
        return vectors, overflows

    # The first step makes an optimizer's state, which must be no part of a recording
    layout = "update" if all(has_state(run.optimizer) for run in runs) else None
    vectors, overflows = recorder.do(layout, work, recorder.rates(runs))
    for run, seen in zip(runs, overflows, strict=True):
        if run.scaler.is_enabled():
            run.scaler._per_optimizer_states = seen  # noqa: SLF001
    return vectors


def _overflows_seen(scaler: torch.amp.GradScaler) -> dict[int, Any]:
    """Return what a scaler has noted of gradients since its last update; replaying does not tell it."""
    return scaler._per_optimizer_states if scaler.is_enabled() else {}  # noqa: SLF001


def _is_good(run: Run) -> bool:
    last = run.last
    return math.isfinite(last.loss) and math.isfinite(last.grad_norm) and not last.skipped


def _take_back(undo: Sequence[Undo]) -> None:
    for one in undo:
        one.take_back()


class Undo:
    """The rows of a run and its optimizer's state, as they are before a step."""

    def __init__(self, run: Run) -> None:
        self._state = run.optimizer.state
        self._rows = [(row, row.detach().clone()) for row in run.rows]
        self._kept = {row: _copied(self._state[row]) for row in run.rows if row in self._state}

    @torch.no_grad()
    def take_back(self) -> None:
        """Make rows and state what they were, in place."""
        for row, before in self._rows:
            row.copy_(before)
            for name, value in self._kept.get(row, {}).items():
                if isinstance(value, Tensor):
                    self._state[row][name].copy_(value)
                else:
                    self._state[row][name] = value
            if row not in self._kept:
                self._state.pop(row, None)

    def rows_restored(self) -> list[Tensor]:
        """Take the step back, and return the rows, on the CPU."""
        self.take_back()
        return [before.cpu() for _, before in self._rows]


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()
    }


def raise_first(errors: Sequence[TrainingError | None]) -> None:
    """Raise the first error, if there is any."""
    for error in errors:
        if error:
            raise error


def update(run: Run) -> None:
    """Take one optimizer step over the rows of all text encoders together; `accumulate` comes first.

    Raises:
        TrainingError: the gradient is not finite, and no scaling of the loss is at work; the rows
            are as before.
    """
    norm = run.last.grad_norm
    if not math.isfinite(norm) and not run.scaler.is_enabled():
        raise not_finite(f"the gradient of step {run.step + 1} is {norm}", "", run)
    if not (run.last.skipped or run.last.rests):
        _apply(run)
    (rows,) = read([flat(run.rows)])
    _conclude(run, unflatten(rows, run.rows))


def _apply(run: Run) -> None:
    """Have the optimizer take its step.

    Raises:
        TrainingError: a user's optimizer fails for another reason than full memory.
    """
    try:
        run.optimizer.step()
    except Exception as error:
        if run.optimizer_factory is None or isinstance(error, CoinageError) or is_full(error):
            raise
        what = f"the optimizer {run.optimizer_name} failed: {described(error)}"
        hint = "use one whose step() needs no arguments and takes dense gradients, such as AdamW"
        raise TrainingError(what, f"step {run.step + 1}", hint) from error
    starts = compress(run.start_on_device, run.learns_in)
    hold_lengths(run.trained_rows, list(starts), run.config.optim.norm_mode)


def _conclude(run: Run, rows: Sequence[Tensor]) -> None:
    """Count a step and describe it.

    Args:
        run: whose optimizer has taken its step, or has skipped it.
        rows: as they are now, on the CPU.
    """
    last = run.last
    last.rate = float(run.schedule.get_last_lr()[0])
    run.scaler.update()
    if not (last.skipped or last.rests):
        run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    last.rows = rows
    last.norms, last.angles = movement(rows, run.start)
    run.progress.step += 1
    run.progress.done += 1
