"""The training loop."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext, suppress

import torch
from torch import Tensor

from coinage.embeddings.file import EmbeddingFile
from coinage.training.movement import movement
from coinage.training.observers import Observer
from coinage.training.setup import BANDS, Run, Update
from coinage.training.step import StepResult, forward
from coinage.training.trouble import OVERFLOWS, as_training_error, full_precision, not_finite, where_not_finite

log = logging.getLogger("coinage")


def train(run: Run, watch: Observer) -> EmbeddingFile:
    """Train to the end, or to where the run is asked to stop; returns the learned word.

    Raises:
        TrainingError: the run cannot go on; what it has learned is saved, also where anything else ends it.
    """
    try:
        watch.started(run)
        _epochs(run, watch)
        run.processes.check_same(run.parts.rows())
        if run.step == run.total_steps:
            watch.finished(run)
        else:
            watch.stopped(run)
    except Exception as error:
        ended = as_training_error(error, run)
        watch.failed(run, ended or error)
        if ended is None or ended is error:
            raise
        raise ended from error
    return run.embedding()


def _epochs(run: Run, watch: Observer) -> None:
    while run.step < run.total_steps:
        for work in run.updates(run.epoch - 1, run.done):
            learn(run, work)
            update(run)
            run.images += work.samples
            watch.stepped(run)
            if run.ending or run.step == run.total_steps:
                break
        if run.ending:
            break
        watch.epoch_ended(run)
        if run.step < run.total_steps:
            run.epoch, run.done = run.epoch + 1, 0


def learn(run: Run, work: Update) -> None:
    """Find the gradient of an update, in float32 where half precision overflows.

    Raises:
        TrainingError: the loss is not finite; the rows are as before.
    """
    run.loss = accumulate(run, work)
    if math.isfinite(run.loss):
        return
    loss, places = run.loss, run.processes.gather(where_not_finite(run, work.batches))
    place = next((found for found in places if found), "")
    if run.dtype != torch.float32 and place in OVERFLOWS:
        with suppress(torch.OutOfMemoryError), full_precision(run.parts):
            run.loss = accumulate(run, work, precise=True)
        if math.isfinite(run.loss):
            run.rescued += 1
            if run.rescued == 1:
                text = "step %d: %s overflows in %s; such steps are computed again in float32, which --mixed_precision %s avoids"
                better = "bf16" if run.dtype == torch.float16 else "no"
                log.warning(text, run.step + 1, place, str(run.dtype).removeprefix("torch."), better)
            return
    raise not_finite(f"the loss of step {run.step + 1} is {loss}", place, run)


def accumulate(run: Run, work: Update, *, precise: bool = False) -> float:
    """Add up the gradient of the mean loss over the samples of all processes; returns that mean.

    Args:
        run: its rows get the gradient.
        work: draws the same each time.
        precise: compute once more, without autocast.
    """
    rows = run.parts.rows()
    # The loss, whether to end, captions with the word, and each band's losses and samples.
    summed = torch.zeros(3 + 2 * BANDS, device=run.parts.device)
    run.scaler.scale(summed)  # makes its factor, also where there is no gradient
    run.optimizer.zero_grad(set_to_none=True)
    for batch in work.batches:
        if precise:
            batch.rewind()  # to the same draws
        with nullcontext() if precise else run.autocast():
            result = forward(run.family, run.parts, batch, run.config.noise, run.config.loss)
        loss = result.per_sample.sum() / work.samples
        if loss.requires_grad:  # not where no caption has the word, and their encodings are kept
            run.scaler.scale(loss).backward()
        summed[0] += loss.detach()
        summed[3:].add_(by_band(result, run.parts.schedule.num_timesteps))
    summed[1] = float(bool(run.stop))
    summed[2] = sum(run.parts.word_encoders[0].mentions(caption) for batch in work.batches for caption in batch.captions)
    for row in rows:
        row.grad = torch.zeros_like(row) if row.grad is None else row.grad  # a process may be left without a batch
    run.processes.sum_([*(row.grad for row in rows if row.grad is not None), summed])
    total, ending, asked, *bands = summed.tolist()
    run.ending, run.asked = ending > 0, round(asked)
    run.bands = [loss / count if count else None for loss, count in zip(bands[:BANDS], bands[BANDS:], strict=True)]
    return float(total)


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
    rows = run.parts.rows()
    run.scaler.unscale_(run.optimizer)
    most = run.config.optim.max_grad_norm or math.inf  # without a limit, only measured
    run.grad_norm = torch.nn.utils.clip_grad_norm_(rows, most).item()
    if not math.isfinite(run.grad_norm) and not run.scaler.is_enabled():
        raise not_finite(f"the gradient of step {run.step + 1} is {run.grad_norm}", "", run)
    run.touched = [(row.grad != 0).any(dim=1) for row in rows if row.grad is not None]
    run.rate = float(run.schedule.get_last_lr()[0])
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.skipped = run.scaler.get_scale() < scale  # the gradient overflowed
    if not run.skipped:
        run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.norms, run.angles = movement(rows, run.start)
    run.step += 1
    run.done += 1
