"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from coinage.embedding_file import EmbeddingFile
from coinage.errors import TrainingError
from coinage.training.observers import Observer, Together
from coinage.training.setup import Run
from coinage.training.step import Batch, forward


def train(run: Run, observers: Sequence[Observer]) -> EmbeddingFile:
    """Train to the end, or to where the run is asked to stop; returns the learned word."""
    watch = Together(observers)
    watch.started(run)
    while run.step < run.total_steps:
        for group in run.updates(run.epoch - 1, run.done):
            run.loss = accumulate(run, group)
            update(run)
            watch.stepped(run)
            if run.stop or run.step == run.total_steps:
                break
        if run.stop:
            break
        watch.epoch_ended(run)
        if run.step < run.total_steps:
            run.epoch, run.done = run.epoch + 1, 0
    if run.step == run.total_steps:
        watch.finished(run)
    else:
        watch.stopped(run)
    return run.embedding()


def accumulate(run: Run, group: Sequence[Batch]) -> float:
    """Add up the gradient of the group's mean loss over its samples; returns that mean.

    Raises:
        TrainingError: the loss is not finite; the rows are as before.
    """
    samples = sum(len(batch.captions) for batch in group)
    total = 0.0
    for batch in group:
        with run.autocast():
            result = forward(run.family, run.parts, batch, run.config.noise, run.config.loss)
        loss = result.per_sample.sum() / samples
        run.scaler.scale(loss).backward()
        total += loss.item()
    if not math.isfinite(total):
        hint = "lower --learning_rate, or use --mixed_precision bf16 or no"
        raise TrainingError(f"the loss of step {run.step + 1} is {total}", f"step {run.step + 1}", hint)
    return total


def update(run: Run) -> None:
    """One optimizer step over the rows of all text encoders together."""
    rows = run.parts.rows()
    run.scaler.unscale_(run.optimizer)
    most = run.config.optim.max_grad_norm or math.inf  # without a limit, only measured
    run.grad_norm = torch.nn.utils.clip_grad_norm_(rows, most).item()
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.scaler.get_scale() >= scale:  # else the gradient overflowed and the update was skipped
        run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    run.done += 1
