"""One forward pass: captions and latents to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig
from coinage.diffusion.loss import loss_per_sample
from coinage.diffusion.noise import draw_noise, perturb
from coinage.models.base import Components, ModelFamily
from coinage.models.text_cache import encode


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass needs.

    Attributes:
        moments: latent mean and standard deviation, [B, 2, C, h, w] float32, before the scaling factor.
        captions: B captions, as varied for this use.
        generators: one per sample; all draws of a sample come from its own.
        weights: factor of each sample's loss, [B] float32; 1 but for regularisation images.
        sizes: original height and width, crop top and left, target height and width, [B, 6] int64, for SDXL.
        mask: weight of each place in the loss, [B, 1, h, w] float32; None where all count alike.
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
        """Have the generators draw once more what they have drawn."""
        for generator in self.generators:
            generator.manual_seed(generator.initial_seed())


def join(batches: Sequence[Batch]) -> Batch:
    """Batches of one latent size as one; their timesteps are given in all or in none."""
    if len(batches) == 1:
        return batches[0]
    masks = None
    if any(batch.mask is not None for batch in batches):
        plain = [
            torch.ones(len(b.moments), 1, *b.moments.shape[-2:]) if b.mask is None else b.mask
            for b in batches
        ]
        masks = torch.cat(plain)
    return Batch(
        moments=torch.cat([batch.moments for batch in batches]),
        captions=[caption for batch in batches for caption in batch.captions],
        generators=[generator for batch in batches for generator in batch.generators],
        weights=torch.cat([batch.weights for batch in batches]),
        sizes=torch.cat([batch.sizes for batch in batches]),
        mask=masks,
        timesteps=None
        if batches[0].timesteps is None
        else torch.cat([b.timesteps for b in batches if b.timesteps is not None]),
    )


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses of a batch: `per_sample` [B] float32 with gradient, at `timesteps` [B]."""

    per_sample: Tensor
    timesteps: Tensor

    def split(self, sizes: Sequence[int]) -> list[StepResult]:
        """The results of the batches that were joined, by their sizes."""
        pairs = zip(
            self.per_sample.split(list(sizes)), self.timesteps.split(list(sizes)), strict=True
        )
        return [StepResult(losses, timesteps) for losses, timesteps in pairs]


@dataclass(frozen=True, slots=True)
class Noised:
    """What the UNet is given and asked for: `noisy_latents` and `target` [B, C, h, w] float32, `timesteps` [B]."""

    noisy_latents: Tensor
    target: Tensor
    timesteps: Tensor


def noised_latents(parts: Components, batch: Batch, config: NoiseConfig) -> Noised:
    """Draw latents, timesteps where the batch has none, and noise, from the batch's generators."""
    device, schedule = parts.device, parts.schedule
    mean, std = batch.moments.unbind(dim=1)
    posterior = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in batch.generators])
    latents = (mean + std * posterior) * parts.scaling_factor
    noise = draw_noise(latents, config, batch.generators)
    timesteps = batch.timesteps
    if timesteps is None:
        timesteps = schedule.draw_times(config, batch.generators)
    timesteps = timesteps.to(device)
    seen = perturb(noise, config, batch.generators).to(device)
    latents, noise = latents.to(device), noise.to(device)
    return Noised(
        schedule.add_noise(latents, seen, timesteps),
        schedule.target(latents, noise, timesteps),
        timesteps,
    )


def forward(
    family: ModelFamily,
    parts: Components,
    batch: Batch,
    noise_config: NoiseConfig,
    loss_config: LossConfig,
) -> StepResult:
    """Noise the latents, predict, and compare (Rombach et al. 2022, arXiv:2112.10752, eq. 3)."""
    noised = noised_latents(parts, batch, noise_config)
    cond = encode(family, parts, batch.captions, batch.sizes)
    prediction = family.predict(parts, noised.noisy_latents, noised.timesteps, cond)
    mask = None if batch.mask is None else batch.mask.to(parts.device)
    losses = loss_per_sample(
        prediction, noised.target, noised.timesteps, parts.schedule, loss_config, mask
    )
    return StepResult(losses * batch.weights.to(parts.device), noised.timesteps)
