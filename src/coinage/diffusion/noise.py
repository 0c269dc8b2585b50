"""Noise, drawn per sample from its own generator: no sample's draws depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coinage.config import NoiseConfig


def draw_noise(
    latents: Tensor, config: NoiseConfig, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw Gaussian noise, plus offsets and coarser levels where they are set, in this order.

    Args:
        latents: scaled, [B, C, H, W] float32 on the CPU; their means matter to `adaptive_offset`.
        config: what is added.
        generators: one per sample.

    Returns:
        [B, C, H, W] float32 on the CPU.
    """
    return torch.stack(
        [_noise_of(latent, config, g) for latent, g in zip(latents, generators, strict=True)]
    )


def _noise_of(latent: Tensor, config: NoiseConfig, generator: torch.Generator) -> Tensor:
    noise = torch.randn(latent.shape, generator=generator)
    if config.offset:
        strength = torch.tensor(config.offset)
        if config.random_offset:
            strength = strength * torch.rand((), generator=generator)
        if config.adaptive_offset:
            mean = latent.mean(dim=(1, 2), keepdim=True).abs()
            strength = (strength + config.adaptive_offset * mean).clamp(min=0)
        # Guttenberg 2023, "Diffusion with offset noise"
        noise = noise + strength * torch.randn((len(latent), 1, 1), generator=generator)
    if config.pyramid_levels:
        return add_pyramid(noise, config.pyramid_levels, config.pyramid_discount, generator)
    return noise


def add_pyramid(noise: Tensor, levels: int, discount: float, generator: torch.Generator) -> Tensor:
    """Add coarser and coarser levels to noise, scaled back to deviation 1.

    Whitaker 2023, "Multi-resolution noise".

    Args:
        noise: [C, H, W] float32.
        levels: how many are added, >= 1; the first is as fine as the noise. It ends early at a side of one.
        discount: level i weighs discount ** i.
        generator: of the sample.

    Returns:
        [C, H, W] float32. The deviation is the sample's own, where sd-scripts takes the batch's.
    """
    channels, height, width = noise.shape
    for level in range(levels):
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        size = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn((1, channels, *size), generator=generator)
        noise = noise + discount**level * F.interpolate(coarse, (height, width), mode="bilinear")[0]
        if 1 in size:
            break
    return noise / noise.std()


def perturb(noise: Tensor, config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Return the noise that the model sees, where it differs from the noise that it must predict.

    Ning et al. 2023, arXiv:2301.11706.

    Args:
        noise: [B, C, H, W] float32 on the CPU.
        config: `perturbation` is the deviation of what is added, times U(0, 1) with `random_perturbation`.
        generators: one per sample.
    """
    if not config.perturbation:
        return noise
    added = []
    for g in generators:
        strength = config.perturbation
        if config.random_perturbation:
            strength *= float(torch.rand((), generator=g))
        added.append(strength * torch.randn(noise.shape[1:], generator=g))
    return noise + torch.stack(added)
