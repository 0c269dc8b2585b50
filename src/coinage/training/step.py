"""One forward pass: captions and latents to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig
from coinage.diffusion.loss import loss_per_sample
from coinage.diffusion.noise import draw_noise, draw_timesteps, perturb
from coinage.families.base import Components, ModelFamily
from coinage.families.kept_text import encode


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
    """

    moments: Tensor
    captions: Sequence[str]
    generators: Sequence[torch.Generator]
    weights: Tensor
    sizes: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses of a batch: `per_sample` [B] float32 with gradient, at `timesteps` [B]."""

    per_sample: Tensor
    timesteps: Tensor


def forward(
    family: ModelFamily,
    parts: Components,
    batch: Batch,
    noise_config: NoiseConfig,
    loss_config: LossConfig,
    timesteps: Tensor | None = None,
) -> StepResult:
    """Noise the latents, predict, and compare (Rombach et al. 2022, arXiv:2112.10752, eq. 3).

    Timesteps are drawn from the batch's generators unless they are given, [B] int64.
    """
    device, schedule = parts.device, parts.schedule
    mean, std = batch.moments.unbind(dim=1)
    posterior = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in batch.generators])
    latents = (mean + std * posterior) * parts.scaling_factor
    noise = draw_noise(latents, noise_config, batch.generators)
    timesteps = (draw_timesteps(noise_config, batch.generators) if timesteps is None else timesteps).to(device)
    seen = perturb(noise, noise_config, batch.generators).to(device)
    latents, noise = latents.to(device), noise.to(device)
    cond = encode(family, parts, batch.captions, batch.sizes)
    prediction = family.predict(parts, schedule.add_noise(latents, seen, timesteps), timesteps, cond)
    target = schedule.target(latents, noise, timesteps)
    mask = None if batch.mask is None else batch.mask.to(device)
    snr = schedule.snr(timesteps)
    losses = loss_per_sample(prediction, target, timesteps, snr, loss_config, schedule.prediction_type, mask)
    return StepResult(losses * batch.weights.to(device), timesteps)
