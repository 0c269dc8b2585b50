"""The training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from coinage.embeddings.word import Word
from coinage.optim.row_lengths import hold_lengths, movement
from coinage.training.convergence import judge
from coinage.training.diagnosis import (
    OVERFLOWS,
    as_training_error,
    full_precision,
    not_finite,
    where_not_finite,
)
from coinage.training.evaluation import Evaluator
from coinage.training.measured import Best
from coinage.training.observers.base import Observer
from coinage.training.run import BANDS, Run, Update
from coinage.training.step import Batch, StepResult, forward, join

log = logging.getLogger("coinage")


@dataclass(frozen=True, slots=True)
class Learner:
    """A run on its way: who watches it, its updates, and what measures it."""

    run: Run
    watch: Observer
    lessons: Iterator[Update]
    evaluator: Evaluator


@dataclass(frozen=True, slots=True)
class Part:
    """A run's part of a batch that several share: the run, its number among them, and the samples of its update."""

    at: int
    run: Run
    batch: Batch
    samples: int


def train(run: Run, watch: Observer) -> Word:
    """As `train_together`, for one word."""
    (word,) = train_together([run], [watch])
    return word


def train_together(runs: Sequence[Run], watches: Sequence[Observer]) -> list[Word]:
    """Train to the end, or to where the runs are asked to stop; returns the learned words.

    Runs that share a model take their steps together, and the samples of all go through it as one batch. Each learns what it
    would have learned alone: its draws, its gradient, its clipping and its optimizer are its own.

    Raises:
        TrainingError: a run cannot go on; what all have learned is saved, also where anything else ends them.
    """
    going = [
        Learner(run, watch, run.lessons(), Evaluator(run))
        for run, watch in zip(runs, watches, strict=True)
    ]
    try:
        for one in going:
            one.watch.started(one.run)
            _measure(one)
            # Its state was saved at an epoch's end
            if one.run.progress.done >= one.run.updates_per_epoch and not one.run.over:
                _turn(one)
        while going:
            for one in [one for one in going if one.run.over]:
                _end(one)
                going.remove(one)
            if going:
                _step(going)
    except Exception as error:
        ended = next((found for one in going if (found := as_training_error(error, one.run))), None)
        for one in going:
            one.watch.failed(one.run, ended or error)
        if ended is None or ended is error:
            raise
        raise ended from error
    return [run.embedding() for run in runs]


def _step(learners: Sequence[Learner]) -> None:
    """One update of each run."""
    works = [next(one.lessons) for one in learners]
    learn([one.run for one in learners], works)
    for one, work in zip(learners, works, strict=True):
        update(one.run)
        one.run.progress.images += work.samples
    for one in learners:
        one.watch.stepped(one.run)
        _measure(one)
        if not one.run.progress.ending and (
            one.run.progress.done >= one.run.updates_per_epoch or one.run.over
        ):
            _turn(one)


def _measure(one: Learner) -> None:
    """The evaluation loss, where it is due, and whether the run may end by it."""
    run, due = one.run, one.evaluator.due(one.run)
    if due:
        now = run.measured[run.step] = one.evaluator.measure(run)
        if run.config.save.keep_best and now.loss < (run.best.loss if run.best else math.inf):
            run.best = Best(run.step, run.progress.epoch, now.loss, run.rows_to_save())
    # It may be from the state
    if run.config.loop.early_stop and run.step in run.measured and not run.over:
        run.settled = judge(run.measured)
    if due:
        one.watch.measured(run)


def _turn(one: Learner) -> None:
    """The end of an epoch."""
    one.watch.epoch_ended(one.run)
    if not one.run.over:
        one.run.progress.epoch, one.run.progress.done = one.run.progress.epoch + 1, 0


def _end(one: Learner) -> None:
    one.run.processes.check_same(one.run.rows)
    if one.run.complete:
        one.watch.finished(one.run)
    else:
        one.watch.stopped(one.run)


def learn(runs: Sequence[Run], works: Sequence[Update]) -> None:
    """Find the gradient of an update of each run, in float32 where half precision overflows.

    Raises:
        TrainingError: a loss is not finite; the rows are as before.
    """
    accumulate(runs, works)
    wrong = [
        (run, work, run.last.loss)
        for run, work in zip(runs, works, strict=True)
        if not math.isfinite(run.last.loss)
    ]
    if not wrong:
        return
    places = [
        next(filter(None, run.processes.gather(where_not_finite(run, work.batches))), "")
        for run, work, _ in wrong
    ]
    if runs[0].dtype != torch.float32 and set(places) <= set(OVERFLOWS):
        with suppress(torch.OutOfMemoryError), full_precision(runs[0].parts):
            accumulate(runs, works, precise=True)
        if all(math.isfinite(run.last.loss) for run, *_ in wrong):
            for (run, *_), place in zip(wrong, places, strict=True):
                _tell_rescued(run, place)
            return
    run, _, loss = wrong[0]
    raise not_finite(f"the loss of step {run.step + 1} is {loss}", places[0], run)


def _tell_rescued(run: Run, place: str) -> None:
    run.rescued += 1
    if run.rescued == 1:
        text = "step %d: %s overflows in %s; such steps are computed again in float32, which --mixed_precision %s avoids"
        better = "bf16" if run.dtype == torch.float16 else "no"
        log.warning(text, run.step + 1, place, str(run.dtype).removeprefix("torch."), better)


def accumulate(runs: Sequence[Run], works: Sequence[Update], *, precise: bool = False) -> None:
    """Add up each run's gradient of its mean loss over the samples of all processes; sets what the run tells of the update.

    Args:
        runs: their rows get the gradients.
        works: draw the same each time.
        precise: compute once more, without autocast.
    """
    # For each run: the loss, whether to end, captions with the word, and each band's losses and samples.
    summed = torch.zeros(len(runs), 3 + 2 * BANDS, device=runs[0].parts.device)
    for run in runs:
        run.scaler.scale(summed)  # makes its factor, also where there is no gradient
        run.optimizer.zero_grad(set_to_none=True)
    for group in joined(runs, works):
        _backward(group, summed, precise=precise)
    for at, (run, work) in enumerate(zip(runs, works, strict=True)):
        summed[at, 1] = float(bool(run.progress.stop))
        summed[at, 2] = sum(
            run.placeholder.is_in(caption) for batch in work.batches for caption in batch.captions
        )
        for row in run.rows:
            # A process may be left without a batch
            row.grad = torch.zeros_like(row) if row.grad is None else row.grad
    gradients = [row.grad for run in runs for row in run.rows if row.grad is not None]
    runs[0].processes.sum_([*gradients, summed])
    for run, (total, ending, asked, *bands) in zip(runs, summed.tolist(), strict=True):
        run.last.loss, run.progress.ending, run.last.asked = total, ending > 0, round(asked)
        run.last.bands = [
            loss / count if count else None
            for loss, count in zip(bands[:BANDS], bands[BANDS:], strict=True)
        ]


def joined(runs: Sequence[Run], works: Sequence[Update]) -> Iterator[list[Part]]:
    """What goes through the model together: the first batch of each run, then the second, by latent size and settings."""
    for turn in zip_longest(*(work.batches for work in works)):
        groups: dict[Hashable, list[Part]] = {}
        for at, (run, work, batch) in enumerate(zip(runs, works, turn, strict=True)):
            if batch is not None:
                key = (batch.moments.shape[2:], run.config.noise, run.config.loss)
                groups.setdefault(key, []).append(Part(at, run, batch, work.samples))
        yield from groups.values()


def _backward(group: Sequence[Part], summed: Tensor, *, precise: bool) -> None:
    """The gradient of a batch that runs share; each one's losses are its own."""
    first = group[0].run
    if precise:
        for part in group:
            part.batch.rewind()  # to the same draws
    with nullcontext() if precise else first.autocast():
        result = forward(
            first.family,
            first.parts,
            join([part.batch for part in group]),
            first.config.noise,
            first.config.loss,
        )
    scaled = []
    for part, own in zip(
        group, result.split([len(part.batch.captions) for part in group]), strict=True
    ):
        loss = own.per_sample.sum() / part.samples
        scaled.append(part.run.scaler.scale(loss))
        summed[part.at, 0] += loss.detach()
        summed[part.at, 3:].add_(by_band(own, first.parts.schedule.num_timesteps))
    total = torch.stack(scaled).sum()
    if total.requires_grad:  # not where no caption has a word, and their encodings are kept
        total.backward()


def by_band(result: StepResult, num_timesteps: int) -> Tensor:
    """[2 * BANDS]: the summed losses in equal parts of the timesteps, and then how many samples each has."""
    band = result.timesteps * BANDS // num_timesteps
    losses = result.per_sample.detach()
    both = torch.zeros(2, BANDS, device=losses.device)
    both.index_add_(1, band, torch.stack([losses, torch.ones_like(losses)]))
    return both.flatten()


def update(run: Run) -> None:
    """One optimizer step over the rows of all text encoders together.

    Raises:
        TrainingError: the gradient is not finite, and no scaling of the loss is at work; the rows are as before.
    """
    rows = run.rows
    run.scaler.unscale_(run.optimizer)
    most = run.config.optim.max_grad_norm or math.inf  # without a limit, only measured
    run.last.grad_norm = torch.nn.utils.clip_grad_norm_(rows, most).item()
    if not math.isfinite(run.last.grad_norm) and not run.scaler.is_enabled():
        raise not_finite(f"the gradient of step {run.step + 1} is {run.last.grad_norm}", "", run)
    run.last.touched = [(row.grad != 0).any(dim=1) for row in rows if row.grad is not None]
    run.last.rate = float(run.schedule.get_last_lr()[0])
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.last.skipped = run.scaler.get_scale() < scale  # the gradient overflowed
    if not run.last.skipped:
        run.schedule.step()
        hold_lengths(rows, run.start, run.config.optim.norm_mode)
    run.optimizer.zero_grad(set_to_none=True)
    run.last.norms, run.last.angles = movement(rows, run.start)
    run.progress.step += 1
    run.progress.done += 1
