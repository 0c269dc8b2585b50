"""Batches of latents and captions: those of an epoch, and fixed ones that never change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from coinage.data.batches import Item, PlannedBatch
from coinage.data.buckets import size_condition
from coinage.data.captions import vary
from coinage.data.latents import Latent
from coinage.seeding import generator_for, rng_for

if TYPE_CHECKING:
    from coinage.training.run import Run


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of one forward pass, B samples.

    Attributes:
        moments: latent mean and standard deviation, [B, 2, C, h, w] float32, before the scaling factor.
        captions: B captions, as varied for this use.
        generators: one per sample; all draws of a sample come from its own.
        weights: factor of each sample's loss, [B] float32; 1 but for regularisation images.
        sizes: original height and width, crop top and left, target height and width, [B, 6] int64, for SDXL.
        mask: weight of each latent in the loss, [B, 1, h, w] float32; None where all count alike.
        timesteps: [B], as the schedule has them; None where they are drawn.
    """

    moments: Tensor
    captions: Sequence[str]
    generators: Sequence[torch.Generator]
    weights: Tensor
    sizes: Tensor
    mask: Tensor | None = None
    timesteps: Tensor | None = None

    def rewind(self) -> None:
        """Make the generators repeat what they have drawn."""
        for generator in self.generators:
            generator.manual_seed(generator.initial_seed())

    def part(self, first: int, count: int) -> Batch:
        """Return `count` samples from `first` on; the batch itself if these are all."""
        if first == 0 and count >= len(self.captions):
            return self
        of_part = slice(first, first + count)
        return Batch(
            moments=self.moments[of_part],
            captions=self.captions[of_part],
            generators=self.generators[of_part],
            weights=self.weights[of_part],
            sizes=self.sizes[of_part],
            mask=None if self.mask is None else self.mask[of_part],
            timesteps=None if self.timesteps is None else self.timesteps[of_part],
        )


def join(batches: Sequence[Batch]) -> Batch:
    """Return batches of one latent size as one; either all of them have timesteps, or none."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        moments=torch.cat([batch.moments for batch in batches]),
        captions=list(chain.from_iterable(batch.captions for batch in batches)),
        generators=list(chain.from_iterable(batch.generators for batch in batches)),
        weights=torch.cat([batch.weights for batch in batches]),
        sizes=torch.cat([batch.sizes for batch in batches]),
        mask=_joined_masks(batches),
        timesteps=_joined_timesteps(batches),
    )


def _joined_masks(batches: Sequence[Batch]) -> Tensor | None:
    """Return the masks of all samples, ones where a batch has none; None if no batch has any."""
    if all(batch.mask is None for batch in batches):
        return None
    masks = []
    for batch in batches:
        count, height, width = len(batch.moments), *batch.moments.shape[-2:]
        masks.append(torch.ones(count, 1, height, width) if batch.mask is None else batch.mask)
    return torch.cat(masks)


def _joined_timesteps(batches: Sequence[Batch]) -> Tensor | None:
    timesteps = [batch.timesteps for batch in batches if batch.timesteps is not None]
    return torch.cat(timesteps) if timesteps else None


def stack_masks(latents: Sequence[Latent]) -> Tensor | None:
    """Return the [B, 1, h, w] masks of a batch, ones where an image has none; None if no image has one."""
    if all(latent.mask is None for latent in latents):
        return None
    masks = []
    for latent in latents:
        everything = torch.ones(latent.moments.shape[-2:])
        masks.append(everything if latent.mask is None else latent.mask)
    return torch.stack(masks).unsqueeze(1)


def epoch_batch(
    run: Run, planned: PlannedBatch, latents: Sequence[Latent], epoch: int, step: int
) -> Batch:
    """Return a batch of an epoch; captions and noise depend on seed, epoch and position alone.

    Args:
        run: whose samples are used.
        planned: which images.
        latents: of these images.
        epoch: counted from 0.
        step: optimizer steps before this one; it counts for the tag warm-up.
    """
    seed, token, others = run.config.loop.seed, run.placeholder.token, run.tokens_beside
    captions, weights = [], []
    for item in planned:
        sample = run.samples[item.sample]
        rng = rng_for(seed, "caption", epoch, item.position)
        rules = sample.subset.captions
        captions.append(vary(sample.caption, rules, token, rng, step, run.total_steps, others))
        weights.append(run.config.loss.prior_weight if sample.subset.regularisation else 1.0)
    sizes = [_sizes(run, item, latent) for item, latent in zip(planned, latents, strict=True)]
    return Batch(
        moments=torch.stack([latent.moments for latent in latents]),
        captions=captions,
        generators=[generator_for(seed, "noise", epoch, item.position) for item in planned],
        weights=torch.tensor(weights),
        sizes=torch.tensor(sizes),
        mask=stack_masks(latents),
    )


def _sizes(run: Run, item: Item, latent: Latent) -> list[int]:
    """Return the size conditioning of SDXL for one use of an image: original size, crop, target size."""
    sample = run.samples[item.sample]
    as_reference = sample.subset.images.as_reference
    condition = size_condition(
        sample.image_wh, latent.fit, flipped=item.flipped, as_reference=as_reference
    )
    return [*condition.original_hw, *condition.crop_top_left, *condition.target_hw]


@dataclass(frozen=True, slots=True)
class FixedUse:
    """A use of one image that is the same in every process and every run.

    Attributes:
        sample: index of the image among the samples of a run.
        caption: as it is read.
        timesteps: at which it is noised, [n] as the schedule has them; each makes one sample.
        generators: of the noise, one for each timestep.
    """

    sample: int
    caption: str
    timesteps: Tensor
    generators: Sequence[torch.Generator]


def fixed_batches(run: Run, uses: Sequence[FixedUse]) -> Iterator[Batch]:
    """Yield a batch for each use: the middle of the image, unmirrored, in its own colours; weights 1."""
    plan = [(Item(use.sample, 0, flipped=False),) for use in uses]
    for use, (item,), (latent,) in zip(uses, plan, run.latents.still(plan), strict=True):
        count = len(use.timesteps)
        yield Batch(
            moments=latent.moments.expand(count, *latent.moments.shape),
            captions=[use.caption] * count,
            generators=use.generators,
            weights=torch.ones(count),
            sizes=torch.tensor([_sizes(run, item, latent)] * count),
            mask=stack_masks([latent] * count),
            timesteps=use.timesteps,
        )


def final_caption(run: Run, sample: int, rng: np.random.Generator) -> str:
    """Return a caption of an image as it may vary at the end of a run, when the tag warm-up is over."""
    chosen = run.samples[sample]
    rules, total = chosen.subset.captions, run.total_steps
    token, others = run.placeholder.token, run.tokens_beside
    return vary(chosen.caption, rules, token, rng, total, total, others)
