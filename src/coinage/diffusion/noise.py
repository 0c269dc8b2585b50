"""Noise and timesteps, drawn per sample from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coinage.config import NoiseConfig


def draw_timesteps(config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """[B] int64, uniform in min_timestep..max_timestep - 1; one draw from each generator."""
    low, high = config.min_timestep, config.max_timestep
    return torch.cat([torch.randint(low, high, (1,), generator=g) for g in generators])


def draw_noise(shape: tuple[int, ...], config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Gaussian noise, plus a constant per channel where an offset is set.

    Args:
        shape: of one sample, (C, H, W).
        config: `offset` is the constant's standard deviation (Guttenberg 2023, "Diffusion with offset noise").
        generators: one per sample.

    Returns:
        [B, C, H, W] float32 on the CPU.
    """
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
    if config.offset:
        constant = torch.stack([torch.randn((shape[0], 1, 1), generator=g) for g in generators])
        noise = noise + config.offset * constant
    return noise
