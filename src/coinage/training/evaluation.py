"""A loss that compares: the same images, captions, noise and timesteps each time, without a gradient."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import fmean

import torch

from coinage.config import LossConfig, NoiseConfig
from coinage.data.batches import Item
from coinage.data.captions import vary
from coinage.optim.row_lengths import movement
from coinage.seeding import generator_for, rng_for
from coinage.training.measured import Measured
from coinage.training.run import Run, stack_masks
from coinage.training.step import Batch, forward, join

LEVELS = 4  # timesteps of each held-out image, in the middle of equal parts of the range
DRAWS = 8  # of training images, where none is held out: each at a timestep of its own
TOGETHER = 16  # draws that go through the model at once
# Of the passes through the UNet go into measuring, where it decides something and no interval is set
SHARE = 0.05
# Steps from one measurement to the next, at most: with one image a step, a tenth of the passes
SELDOM = 40
# Measurements over a run, where held-out images alone ask for them and no interval is set
TIMES = 10

# Number of the image within the set, of its sample within the run, and of the timestep
Draw = tuple[int, int, int]


@torch.no_grad()
def evaluation_set(run: Run, count: int | None = None) -> list[Batch]:
    """What this process measures, for as long as the run goes: a batch for each of its images.

    All held-out images at `LEVELS` timesteps each; without any, `DRAWS` timesteps shared out among the training images,
    which are spread evenly. Neither the run's seed nor its noise and loss settings count, only its range of timesteps.

    Args:
        run: whose images and word are used.
        count: timesteps to share out among the images, also among held-out ones, in place of `LEVELS` and `DRAWS`.
    """
    groups = _draws(run, count)
    levels = 1 + max(level for group in groups for *_, level in group)
    timesteps = run.parts.schedule.spread_times(run.config.noise, levels)
    own = run.processes.share(groups)
    plan = [(Item(group[0][1], 0, flipped=False),) for group in own]
    batches = []
    for group, (item,), (latent,) in zip(own, plan, run.latents.still(plan), strict=True):
        number, sample, draws = group[0][0], run.samples[item.sample], len(group)
        rng = rng_for("validation", number)
        caption = vary(
            sample.caption,
            sample.subset.captions,
            run.placeholder.token,
            rng,
            run.total_steps,
            run.total_steps,
        )
        batches.append(
            Batch(
                moments=latent.moments.expand(draws, *latent.moments.shape),
                captions=[caption] * draws,
                generators=[generator_for("validation", number, level) for *_, level in group],
                weights=torch.ones(draws),
                sizes=torch.tensor([run.size_of(item, latent)] * draws),
                mask=stack_masks([latent] * draws),
                timesteps=timesteps[[level for *_, level in group]],
            )
        )
    return batches


def _draws(run: Run, count: int | None = None) -> list[list[Draw]]:
    """What is measured in all processes, by image."""
    held_out = [i for i, sample in enumerate(run.samples) if sample.held_out]
    if held_out and count is None:
        return [
            [(number, i, level) for level in range(LEVELS)] for number, i in enumerate(held_out)
        ]
    able, draws = (
        held_out or [i for i, sample in enumerate(run.samples) if sample.trains],
        count or DRAWS,
    )
    images = min(len(able), draws)
    chosen = [able[k * len(able) // images] for k in range(images)]
    return [
        [(number, i, level) for level in range(number, draws, images)]
        for number, i in enumerate(chosen)
    ]


@torch.no_grad()
def evaluation_loss(run: Run, batches: Sequence[Batch]) -> float:
    """Mean squared error over the evaluation set with the word's rows as they are now, the same in all processes.

    Args:
        run: whose model, word and processes are used.
        batches: as `evaluation_set` makes them; they may have other captions.
    """
    total = torch.zeros(2, device=run.parts.device)  # losses, draws
    for batch in _joined(batches):
        batch.rewind()
        with run.autocast():
            result = forward(run.family, run.parts, batch, NoiseConfig(), LossConfig())
        total[0] += result.per_sample.sum()
        total[1] += len(batch.captions)
    run.processes.sum_([total])
    loss, draws = total.tolist()
    return float(loss / draws)


def _joined(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Batches of one latent size together, as many as go through the model at once."""
    groups: dict[Hashable, list[Batch]] = {}
    for batch in batches:
        groups.setdefault(batch.moments.shape[2:], []).append(batch)
    for group in groups.values():
        each = max(1, TOGETHER // max(len(batch.captions) for batch in group))
        for first in range(0, len(group), each):
            yield join(group[first : first + each])


class Evaluator:
    """Measures the loss of a run where it is due: before the first step, at intervals, and at the end.

    A run that goes on from a state measures where it would have, had it never stopped.
    """

    def __init__(self, run: Run) -> None:
        self._batches: list[Batch] = []  # made when they are needed
        self._every, self._epochs = _interval(run)

    def due(self, run: Run) -> bool:
        """Whether this step is one to measure at, and is not measured yet."""
        if (
            not (self._every or self._epochs)
            or run.step in run.measured
            or (run.progress.ending and not run.complete)
        ):
            return False
        at_step = self._every and run.step % self._every == 0
        at_epoch = (
            self._epochs
            and run.step
            and run.progress.done == run.updates_per_epoch
            and run.progress.epoch % self._epochs == 0
        )
        return bool(run.step == 0 or run.complete or at_step or at_epoch)

    def measure(self, run: Run) -> Measured:
        """Measure, with the rows that would be saved."""
        self._batches = self._batches or evaluation_set(run)
        norms, angles = movement(run.rows, run.start)
        with run.averaged():
            loss = evaluation_loss(run, self._batches)
        return Measured(loss, float(run.schedule.get_last_lr()[0]), fmean(angles), fmean(norms))


def _interval(run: Run) -> tuple[int | None, int | None]:
    """Steps and epochs from one measurement to the next; both None where nothing is to be measured."""
    config, wanted = run.config.validation, run.config.loop.early_stop or run.config.save.keep_best
    if not wanted and not any(sample.held_out for sample in run.samples):
        return None, None
    if config.every_n_steps or config.every_n_epochs:
        return config.every_n_steps, config.every_n_epochs
    if not wanted:
        return max(1, run.total_steps // TIMES), None
    draws = sum(map(len, _draws(run)))
    # An update passes forward and backward for each image
    return min(SELDOM, math.ceil(draws / (2 * SHARE * run.images_per_step))), None
