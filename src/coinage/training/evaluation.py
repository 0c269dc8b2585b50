"""Measure a comparable loss: the same images, captions, noise and timesteps each time."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from coinage.checks.footprint import MOST_AT_ONCE, evaluated_at_once
from coinage.config import NoiseConfig
from coinage.models.facts import FACTS
from coinage.optim.row_lengths import movement
from coinage.seeding import generator_for, rng_for
from coinage.system.full_memory import tried
from coinage.training import convergence
from coinage.training.batches import (
    Batch,
    FixedUse,
    final_caption,
    fixed_batches,
    join,
)
from coinage.training.losses import EVALUATION_LOSS
from coinage.training.results import Best, Measurement
from coinage.training.run import Run
from coinage.training.step import forward

log = logging.getLogger("coinage")
LEVELS = 4  # timesteps of each held-out image, in the middle of equal parts of the range
DRAWS = 8  # of training images, where none is held out: each at a timestep of its own
# Share of the passes through the UNet that measuring takes, where it decides something and no interval is set
EVALUATION_SHARE = 0.05
# Steps from one measurement to the next, at most: with one image a step, a tenth of the passes
LONGEST_INTERVAL = 40
# Measurements over a run, where held-out images alone ask for them and no interval is set
MEASUREMENTS_PER_RUN = 10


@torch.no_grad()
def evaluation_set(run: Run, count: int | None = None) -> list[Batch]:
    """Return the evaluation batches of this process, one for each image, the same throughout the run.

    They hold all held-out images at `LEVELS` timesteps each; without any, `DRAWS` timesteps shared
    out among the training images, which are spread evenly. Neither the run's seed nor its noise and
    loss settings count, only its range of timesteps.

    Args:
        run: whose images and word are used.
        count: timesteps to share out among the images, also among held-out ones, in place of
            `LEVELS` and `DRAWS`.
    """
    shares = _levels_by_image(run, count)
    count_of_levels = 1 + max(max(levels) for _, levels in shares)
    timesteps = run.parts.schedule.spread_times(run.config.noise, count_of_levels)
    uses = []
    for number, (sample, levels) in run.processes.share(list(enumerate(shares))):
        use = FixedUse(
            sample=sample,
            caption=final_caption(run, sample, rng_for("validation", number)),
            timesteps=timesteps[list(levels)],
            generators=[generator_for("validation", number, level) for level in levels],
        )
        uses.append(use)
    return list(fixed_batches(run, uses))


def _levels_by_image(run: Run, count: int | None = None) -> list[tuple[int, Sequence[int]]]:
    """Return the measured images of all processes: the sample's number, and its levels of noise from 0 on."""
    held_out = [i for i, sample in enumerate(run.samples) if sample.held_out]
    if held_out and count is None:
        return [(sample, range(LEVELS)) for sample in held_out]
    usable = held_out or [i for i, sample in enumerate(run.samples) if sample.trains]
    draws = count or DRAWS
    images = min(len(usable), draws)
    chosen = [usable[number * len(usable) // images] for number in range(images)]
    return [(sample, range(number, draws, images)) for number, sample in enumerate(chosen)]


@torch.no_grad()
def evaluation_loss(run: Run, batches: Sequence[Batch]) -> float:
    """Return the mean squared error over evaluation batches, the same in all processes.

    Args:
        run: whose model, word and processes are used.
        batches: as `evaluation_set` makes them; they may have other captions.
    """
    total = torch.zeros(2, device=run.parts.device)  # losses, samples
    for batch in _joined(batches):
        total[0] += torch.cat(list(losses_of(run, batch))).sum()
        total[1] += len(batch.captions)
    run.processes.sum_([total])
    loss, samples = total.tolist()
    return float(loss / samples)


def losses_of(run: Run, batch: Batch) -> Iterator[Tensor]:
    """Yield the losses of a batch's samples, [n] each, in order, of as many together as memory takes.

    Where it does not take them, half as many are tried from then on. It changes no draw: each sample
    has its own generator.
    """
    done, parts = 0, run.parts
    while done < len(batch.captions):
        part = batch.part(done, min(parts.at_once, draws_at_once(run, batch)))
        count = len(part.captions)
        losses = tried(partial(_losses_together, run, part)) if count > 1 else None
        if losses is None and count > 1:
            parts.at_once = count // 2
            log.debug("measuring: memory takes less than %d samples at once", count)
            continue
        yield _losses_together(run, part) if losses is None else losses
        done += count


def _losses_together(run: Run, batch: Batch) -> Tensor:
    """Return the losses of samples that go through the model together, [B]."""
    batch.rewind()
    with run.autocast():
        result = forward(run.family, run.parts, batch, NoiseConfig(), EVALUATION_LOSS)
    return result.per_sample


def draws_at_once(run: Run, batch: Batch) -> int:
    """Return how many samples like those of a batch take no more memory than a training step does.

    A CPU's memory sets no limit.
    """
    if run.parts.device.type == "cpu":
        return MOST_AT_ONCE
    config, scale = run.config, FACTS[run.config.model.family].latent_scale
    return evaluated_at_once(
        config.model,
        math.prod(batch.moments.shape[-2:]) * scale**2,
        max(config.data.batch_sizes) * run.batch_count,
    )


def _joined(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield batches of one latent size together, as many as go through the model at once."""
    groups: dict[Hashable, list[Batch]] = {}
    for batch in batches:
        groups.setdefault(batch.moments.shape[2:], []).append(batch)
    for group in groups.values():
        largest = max(len(batch.captions) for batch in group)
        together = max(1, MOST_AT_ONCE // largest)
        for first in range(0, len(group), together):
            yield join(group[first : first + together])


class Evaluator:
    """Measures the loss of a run where it is due: before the first step, at intervals, and at the end.

    A run that goes on from a state measures where it would have, had it never stopped. Words that
    learn together have one evaluator: their loss is that of the same images, and they end together.
    """

    def __init__(self, run: Run) -> None:
        self._batches: list[Batch] = []  # made when they are first needed
        self._every_steps, self._every_epochs = _interval(run)
        self._untold: list[Run] = []  # measured with another one, and not asked for since

    def evaluate(self, run: Run) -> bool:
        """Measure where it is due; keep the best word and settle the run, where it asks for that.

        Returns:
            True if the loss was measured.
        """
        runs = run.together or (run,)
        if self.due(run):
            loss = self.loss(run)
            for one in runs:
                _keep(one, loss)
            self._untold = list(runs)
        measured = run.step in run.results.measurements  # now, or by the run that saved the state
        if run.config.loop.early_stop and measured and not run.over:
            _settle(runs)
        told = [one for one in self._untold if one is run]
        self._untold = [one for one in self._untold if one is not run]
        return bool(told)

    def due(self, run: Run) -> bool:
        """Return whether this step is one to measure at, and is not measured yet."""
        never = self._every_steps is None and self._every_epochs is None
        if never or run.step in run.results.measurements:
            return False
        if run.progress.ending and not run.complete:
            return False
        return run.step == 0 or run.complete or self._at_step(run) or self._at_epoch(run)

    def _at_step(self, run: Run) -> bool:
        return self._every_steps is not None and run.step % self._every_steps == 0

    def _at_epoch(self, run: Run) -> bool:
        if self._every_epochs is None or run.step == 0:
            return False
        at_end = run.progress.done == run.updates_per_epoch
        return at_end and run.progress.epoch % self._every_epochs == 0

    def loss(self, run: Run) -> float:
        """Measure with the rows that would be saved."""
        self._batches = self._batches or evaluation_set(run)
        with run.averaged():
            return evaluation_loss(run, self._batches)


def _keep(run: Run, loss: float) -> None:
    """Write down a loss with the state of the word, and the word if it is the best so far."""
    norms, angles = movement(run.rows, run.start)
    rate = float(run.schedule.get_last_lr()[0])
    run.results.measurements[run.step] = Measurement(
        loss, rate, fmean(run.of_trained(angles)), fmean(run.of_trained(norms))
    )
    lowest = run.results.best.loss if run.results.best else math.inf
    if run.config.save.lowest_loss and loss < lowest:
        run.results.best = Best(run.step, run.progress.epoch, loss, run.rows_to_save())


def _settle(runs: Sequence[Run]) -> None:
    """End runs whose words no longer improve: all of them, once all have learned for long enough."""
    begun = max(run.config.word.start_step for run in runs)
    verdicts = []
    for run in runs:
        since = {step: one for step, one in run.results.measurements.items() if step >= begun}
        verdicts.append(convergence.judge(since, convergence.RULE))
    if all(verdicts):
        for run, verdict in zip(runs, verdicts, strict=True):
            run.results.settled = verdict


def _interval(run: Run) -> tuple[int | None, int | None]:
    """Return steps and epochs from one measurement to the next; both None where nothing is to be measured."""
    config = run.config.validation
    decides = run.config.loop.early_stop or run.config.save.lowest_loss
    if not decides and not any(sample.held_out for sample in run.samples):
        return None, None
    if config.every_n_steps or config.every_n_epochs:
        return config.every_n_steps or None, config.every_n_epochs or None
    if not decides:
        return max(1, run.total_steps // MEASUREMENTS_PER_RUN), None
    draws = sum(len(levels) for _, levels in _levels_by_image(run))
    # A step passes forward and backward for each image
    interval = math.ceil(draws / (2 * EVALUATION_SHARE * run.images_per_step))
    return min(LONGEST_INTERVAL, interval), None
