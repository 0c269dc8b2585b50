"""The training loop."""

from __future__ import annotations

import logging
import math

import torch

from coinage.embeddings.file import EmbeddingFile
from coinage.errors import CoinageError, TrainingError
from coinage.training.observers import Observer
from coinage.training.setup import Run, Update
from coinage.training.step import forward
from coinage.training.watchdog import where_not_finite

log = logging.getLogger("coinage")
HINTS = {
    "the word's own vectors": "lower --learning_rate",
    "the VAE's latents": "use --no_half_vae, or another --vae",
    "the text encoder": "use --mixed_precision bf16 or no; the model's file may be damaged",
    "the UNet": "use --mixed_precision bf16 or no; the model's file may be damaged",
}


def train(run: Run, watch: Observer) -> EmbeddingFile:
    """Train to the end, or to where the run is asked to stop; returns the learned word.

    Raises:
        TrainingError: the run cannot go on; what it has learned is saved.
    """
    watch.started(run)
    try:
        _epochs(run, watch)
    except TrainingError:
        try:
            if run.step:
                watch.failed(run)
        except CoinageError as unsaved:  # what ended the run matters more
            log.warning("%s", unsaved)
        raise
    run.processes.check_same(run.parts.rows())
    if run.step == run.total_steps:
        watch.finished(run)
    else:
        watch.stopped(run)
    return run.embedding()


def _epochs(run: Run, watch: Observer) -> None:
    while run.step < run.total_steps:
        for work in run.updates(run.epoch - 1, run.done):
            run.loss = accumulate(run, work)
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


def accumulate(run: Run, work: Update) -> float:
    """Add up the gradient of the mean loss over the samples of all processes; returns that mean.

    Raises:
        TrainingError: the loss is not finite; the rows are as before.
    """
    rows = run.parts.rows()
    summed = torch.zeros(2, device=run.parts.device)  # the loss, and whether to end
    run.scaler.scale(summed)  # makes its factor, also where there is no gradient
    for batch in work.batches:
        with run.autocast():
            result = forward(run.family, run.parts, batch, run.config.noise, run.config.loss)
        loss = result.per_sample.sum() / work.samples
        if loss.requires_grad:  # not where no caption has the word, and their encodings are kept
            run.scaler.scale(loss).backward()
        summed[0] += loss.detach()
    summed[1] = float(bool(run.stop))
    for row in rows:
        row.grad = torch.zeros_like(row) if row.grad is None else row.grad  # a process may be left without a batch
    run.processes.sum_([*(row.grad for row in rows if row.grad is not None), summed])
    total, asked = (float(value) for value in summed)
    run.ending = asked > 0
    if not math.isfinite(total):
        found = next((place for batch in work.batches if (place := where_not_finite(run, batch))), "")
        hint = HINTS.get(found, "lower --learning_rate, or use --mixed_precision bf16 or no")
        what = f"the loss of step {run.step + 1} is {total}" + (f": {found} gives numbers that are not finite" if found else "")
        raise TrainingError(what, f"step {run.step + 1}", hint)
    return total


def update(run: Run) -> None:
    """One optimizer step over the rows of all text encoders together."""
    rows = run.parts.rows()
    run.scaler.unscale_(run.optimizer)
    most = run.config.optim.max_grad_norm or math.inf  # without a limit, only measured
    run.grad_norm = torch.nn.utils.clip_grad_norm_(rows, most).item()
    run.touched = [(row.grad != 0).any(dim=1) for row in rows if row.grad is not None]
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.scaler.get_scale() >= scale:  # else the gradient overflowed and the update was skipped
        run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    run.done += 1
