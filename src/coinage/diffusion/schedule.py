"""The noise schedule: how much signal is left at each timestep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coinage.config import PredictionType


class NoiseSchedule(Protocol):
    """A forward process and what the model is asked to predict. All arithmetic is float32."""

    @property
    def num_timesteps(self) -> int: ...

    @property
    def prediction_type(self) -> PredictionType: ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def snr(self, timesteps: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class DiffusionSchedule:
    """Discrete diffusion (Ho et al. 2020, arXiv:2006.11239).

    Attributes:
        alphas_cumprod: share of signal variance at each timestep, [T] float32, in 0..1.
        prediction_type: `epsilon` (the noise) or `v_prediction` (Salimans & Ho 2022, arXiv:2202.00512).
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType = "epsilon"

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def _scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        # In float32 whatever the latents' dtype: in bf16 the first timesteps would carry no noise.
        abar = self.alphas_cumprod.to(like.device)[timesteps].view(-1, *[1] * (like.ndim - 1))
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(abar) x0 + sqrt(1 - abar) noise: [B, C, H, W] float32 for [B] int64 timesteps."""
        signal, sigma = self._scales(timesteps, latents)
        return signal * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should answer: the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x0; float32."""
        if self.prediction_type == "epsilon":
            return noise.float()
        signal, sigma = self._scales(timesteps, latents)
        return signal * noise.float() - sigma * latents.float()

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio abar / (1 - abar), [B] float32, >= 0."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return abar / (1 - abar)


def alphas_cumprod_from_betas(beta_start: float, beta_end: float, steps: int, kind: str) -> Tensor:
    """Cumulative signal variances, [steps] float32, of a `linear` or `scaled_linear` beta schedule.

    Raises:
        ValueError: another kind of schedule.
    """
    if kind == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    elif kind == "linear":
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)
    else:
        raise ValueError(f"beta schedule {kind!r} is not supported")
    return torch.cumprod(1 - betas, dim=0)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Signal variances, [T] float32, moved so that no signal is left at the last step (Lin et al. 2023, arXiv:2305.08891, alg. 1)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square()
