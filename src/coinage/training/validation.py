"""The loss on images that are held out: the same noise and timesteps each time, so that numbers compare."""

from __future__ import annotations

import logging

import torch

from coinage.config import LossConfig, NoiseConfig, ValidationConfig
from coinage.data.batches import Item
from coinage.data.captions import vary
from coinage.seeding import generator_for, rng_for
from coinage.training.observers import Observer
from coinage.training.setup import Run, stack_masks
from coinage.training.step import Batch, forward

log = logging.getLogger("coinage")
LEVELS = 4  # timesteps per image, in the middle of equal parts of the range
TIMES = 10  # measurements over a run, when no interval is set


@torch.no_grad()
def validation_loss(run: Run) -> float:
    """Mean squared error over held-out images at fixed timesteps and noise, whatever the run's seed and loss weights."""
    held_out = list(enumerate(i for i, sample in enumerate(run.samples) if sample.held_out))
    own = run.processes.share(held_out)
    low, high = run.config.noise.min_timestep, run.config.noise.max_timestep
    timesteps = torch.tensor([low + (2 * k + 1) * (high - low) // (2 * LEVELS) for k in range(LEVELS)])
    plan = [(Item(i, 0, flipped=False),) for _, i in own]
    total = torch.zeros(1, device=run.parts.device)
    for (number, index), (item,), (latent,) in zip(own, plan, run.latents.still(plan), strict=True):
        sample = run.samples[index]
        rng = rng_for("validation", number)
        caption = vary(sample.caption, sample.subset.captions, run.placeholder.token, rng, run.total_steps, run.total_steps)
        batch = Batch(
            moments=latent.moments.expand(LEVELS, *latent.moments.shape),
            captions=[caption] * LEVELS,
            generators=[generator_for("validation", number, k) for k in range(LEVELS)],
            weights=torch.ones(LEVELS),
            sizes=torch.tensor([run.size_of(item, latent)] * LEVELS),
            mask=stack_masks([latent] * LEVELS),
        )
        with run.autocast():
            result = forward(run.family, run.parts, batch, NoiseConfig(), LossConfig(), timesteps)
        total += result.per_sample.mean()
    run.processes.sum_([total])
    return total.item() / len(held_out)


class Validator(Observer):
    """Measures the loss on held-out images before the first step, at intervals, and at the end."""

    def __init__(self, config: ValidationConfig) -> None:
        self._config = config

    def started(self, run: Run) -> None:
        self._measure(run)

    def stepped(self, run: Run) -> None:
        every = self._config.every_n_steps
        if every is None and self._config.every_n_epochs is None:
            every = max(1, run.total_steps // TIMES)
        if every and run.step % every == 0:
            self._measure(run)

    def epoch_ended(self, run: Run) -> None:
        every = self._config.every_n_epochs
        if every and run.epoch % every == 0:
            self._measure(run)

    def finished(self, run: Run) -> None:
        self._measure(run)

    def _measure(self, run: Run) -> None:
        if run.step in run.measured:
            return
        with run.averaged():
            run.measured[run.step] = validation_loss(run)
        count = sum(sample.held_out for sample in run.samples)
        log.info("step %d: loss %.4f on %d held-out images", run.step, run.measured[run.step], count)
