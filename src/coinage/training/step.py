"""One forward pass: captions and latents to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coinage.config import NoiseConfig
from coinage.diffusion.noise import draw_noise, perturb
from coinage.models.base import Components, ModelFamily
from coinage.models.text_cache import encode
from coinage.training.batches import Batch
from coinage.training.losses import Loss, LossInputs, checked_losses


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses of a batch: `per_sample` [B] float32 with gradient, at `timesteps` [B]."""

    per_sample: Tensor
    timesteps: Tensor

    def split(self, sizes: Sequence[int]) -> list[StepResult]:
        """Return the results of the batches that were joined, given their sizes."""
        losses = self.per_sample.split(list(sizes))
        timesteps = self.timesteps.split(list(sizes))
        return [StepResult(*pair) for pair in zip(losses, timesteps, strict=True)]


@dataclass(frozen=True, slots=True)
class NoisedLatents:
    """Input and target of the UNet: all [B, C, h, w] float32 on its device, but `timesteps` [B]."""

    noisy_latents: Tensor
    noise: Tensor
    target: Tensor
    timesteps: Tensor


def noised_latents(parts: Components, batch: Batch, config: NoiseConfig) -> NoisedLatents:
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
    added = perturb(noise, config, batch.generators).to(device)
    latents, noise = latents.to(device), noise.to(device)
    return NoisedLatents(
        noisy_latents=schedule.add_noise(latents, added, timesteps),
        noise=noise,
        target=schedule.target(latents, noise, timesteps),
        timesteps=timesteps,
    )


def forward(
    family: ModelFamily, parts: Components, batch: Batch, noise_config: NoiseConfig, loss: Loss
) -> StepResult:
    """Noise the latents, predict, and compare (Rombach et al. 2022, arXiv:2112.10752, eq. 3)."""
    noised = noised_latents(parts, batch, noise_config)
    cond = encode(family, parts, batch.captions, batch.sizes)
    prediction = family.predict(parts, noised.noisy_latents, noised.timesteps, cond)
    inputs = LossInputs(
        prediction=prediction,
        target=noised.target,
        noisy_latents=noised.noisy_latents,
        noise=noised.noise,
        times=noised.timesteps,
        schedule=parts.schedule,
        mask=None if batch.mask is None else batch.mask.to(parts.device),
    )
    losses = checked_losses(loss, inputs)
    return StepResult(losses * batch.weights.to(parts.device), noised.timesteps)
