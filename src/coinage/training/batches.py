"""Batches of latents and captions: those of an epoch, and fixed ones that never change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from coinage.data.batches import Item, PlannedBatch
from coinage.data.buckets import size_condition
from coinage.data.captions import vary
from coinage.data.latents import Latent
from coinage.data.sample import Sample
from coinage.seeding import generator_for, rng_for
from coinage.training.prior import Prior, own_caption

if TYPE_CHECKING:
    from coinage.training.run import Run


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of one forward pass, B samples.

    Attributes:
        moments: latent mean and standard deviation, [B, 2, C, h, w] float32, before the scaling factor.
        captions: B captions, as varied for this use.
        generators: one per sample; all draws of a sample come from its own.
        weights: factor of each sample's loss, [B] float32.
        sizes: original height and width, crop top and left, target height and width, [B, 6] int64, for SDXL.
        mask: weight of each latent in the loss, [B, 1, h, w] float32; None where all count alike.
        timesteps: [B], as the schedule has them; None where they are drawn.
        priors: the own predictions of the model that samples are held to; () where none is.
    """

    moments: Tensor
    captions: Sequence[str]
    generators: Sequence[torch.Generator]
    weights: Tensor
    sizes: Tensor
    mask: Tensor | None = None
    timesteps: Tensor | None = None
    priors: Sequence[Prior | None] = ()

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
            priors=self.priors[of_part],
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
        priors=_joined_priors(batches),
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


def _joined_priors(batches: Sequence[Batch]) -> list[Prior | None]:
    """Return the priors of all samples; [] if no sample has one."""
    if not any(batch.priors for batch in batches):
        return []
    priors: list[Prior | None] = []
    for batch in batches:
        priors += batch.priors or [None] * len(batch.captions)
    return priors


def stack_masks(masks: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """Return the [B, 1, h, w] masks of a batch, ones where there is none; None if there are none at all.

    Args:
        masks: [h, w] each.
        like: latents of the batch, [..., h, w].
    """
    if all(mask is None for mask in masks):
        return None
    everything = torch.ones(like.shape[-2:])
    return torch.stack([everything if mask is None else mask for mask in masks]).unsqueeze(1)


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
    captions, weights, masks, priors = [], [], [], []
    for item, latent in zip(planned, latents, strict=True):
        sample = run.samples[item.sample]
        rng = rng_for(seed, "caption", epoch, item.position)
        rules = sample.subset.captions
        captions.append(vary(sample.caption, rules, token, rng, step, run.total_steps, others))
        weights.append(_weight(run, sample))
        masks.append(_used_mask(run, latent, epoch, item))
        priors.append(_prior(run, sample, captions[-1], masks[-1]))
    sizes = [_sizes(run, item, latent) for item, latent in zip(planned, latents, strict=True)]
    return Batch(
        moments=torch.stack([latent.moments for latent in latents]),
        captions=captions,
        generators=[generator_for(seed, "noise", epoch, item.position) for item in planned],
        weights=torch.tensor(weights),
        sizes=torch.tensor(sizes),
        mask=stack_masks(masks, latents[0].moments),
        priors=priors if any(priors) else (),
    )


def _weight(run: Run, sample: Sample) -> float:
    """Return the factor of a sample's loss."""
    prior_weight = run.config.loss.prior_weight if sample.subset.regularisation else 1.0
    return prior_weight * sample.subset.loss_weight


def _used_mask(run: Run, latent: Latent, epoch: int, item: Item) -> Tensor | None:
    """Return the mask of one use of an image; None without one, and where chance ignores it."""
    rate = run.config.loss.unmasked_probability
    if latent.mask is None or not rate:
        return latent.mask
    draw = rng_for(run.config.loop.seed, "mask", epoch, item.position).random()
    return None if draw < rate else latent.mask


def _prior(run: Run, sample: Sample, caption: str, mask: Tensor | None) -> Prior | None:
    """Return the prediction that one use of an image is held to, if any."""
    whole = sample.subset.prior_prediction
    if not whole and (mask is None or not run.config.loss.mask_prior_weight):
        return None
    return Prior(own_caption(caption, [run.config.word, *run.config.learns_with]), whole)


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
            mask=stack_masks([latent.mask] * count, latent.moments),
            timesteps=use.timesteps,
        )


def final_caption(run: Run, sample: int, rng: np.random.Generator) -> str:
    """Return a caption of an image at the end of a run: the tag warm-up is over, and no tag is left out.

    So losses on it tell nothing of how captions are varied.
    """
    chosen = run.samples[sample]
    rules, total = replace(chosen.subset.captions, tag_dropout=0), run.total_steps
    token, others = run.placeholder.token, run.tokens_beside
    return vary(chosen.caption, rules, token, rng, total, total, others)
