"""Noise schedules: how much signal is left at each time, and what the model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig, PredictionType
from coinage.diffusion.timesteps import place_at
from coinage.diffusion.weighting import huber_threshold, snr_weight, weights_note


class NoiseSchedule(Protocol):
    """A forward process: how noise is added over time, and what the model is asked to predict.

    Times are [B] tensors that only the schedule interprets: integer steps in discrete diffusion,
    real numbers in flow matching. The times of `NoiseConfig` are thousandths of the whole way in
    either case. All arithmetic is float32.
    """

    @property
    def prediction_type(self) -> str:
        """What the model predicts, such as `epsilon`."""
        ...

    def at_size(self, height: int, width: int) -> NoiseSchedule:
        """Return the schedule for latents of this height and width."""
        ...

    def draw_times(self, config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a time from each generator within the range of `config`, [B] on the CPU."""
        ...

    def spread_times(self, config: NoiseConfig, count: int) -> Tensor:
        """Return the middles of `count` equal parts of the range of `config`, [count] on the CPU."""
        ...

    def time_at(self, progress: float) -> Tensor:
        """Return the time at a share of the way to pure noise, [1] on the CPU."""
        ...

    def bands(self, times: Tensor, count: int) -> Tensor:
        """Return which of `count` equal parts of the way each time lies in, [B] int64."""
        ...

    def band_limits(self, count: int) -> list[tuple[int, int]]:
        """Return first and last time of each of `count` equal parts, as people are shown them."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return noisy latents, [B, C, H, W] float32."""
        ...

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what the model should predict, [B, C, H, W] float32."""
        ...

    def loss_weight(self, times: Tensor, config: LossConfig) -> Tensor:
        """Return the weight of each time in the loss, [B] float32."""
        ...

    def huber_threshold(self, times: Tensor, config: LossConfig) -> Tensor:
        """Return where a Huber loss turns from square to straight, [B] float32 > 0."""
        ...

    def weights_note(self, config: LossConfig) -> str:
        """Return what users should know about these weights on this schedule, "" if nothing."""
        ...


@dataclass(frozen=True, slots=True)
class DiffusionSchedule:
    """Discrete diffusion (Ho et al. 2020, arXiv:2006.11239). Times are steps, int64 in 0..T - 1.

    Attributes:
        alphas_cumprod: share of signal variance at each step, [T] float32, in 0..1.
        prediction_type: `epsilon` (the noise) or `v_prediction` (Salimans & Ho 2022, arXiv:2202.00512).
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType = "epsilon"
    # Copies of the table, by device: a look into it must not wait for the device
    _copies: dict[torch.device, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def num_timesteps(self) -> int:
        """Number of steps T."""
        return len(self.alphas_cumprod)

    def at_size(self, height: int, width: int) -> DiffusionSchedule:  # noqa: ARG002
        """Return the same schedule: it is one for all sizes."""
        return self

    def draw_times(self, config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw steps in min_timestep..max_timestep - 1, one from each generator: [B] int64."""
        low, high = config.min_timestep, config.max_timestep
        if config.timesteps == "uniform" and config.timestep_shift == 1:
            return torch.cat([torch.randint(low, high, (1,), generator=g) for g in generators])
        chances = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
        shares = place_at(chances, config)
        return (low + (shares * (high - low)).long()).clamp(low, high - 1)

    def spread_times(self, config: NoiseConfig, count: int) -> Tensor:
        """Return the middles of `count` equal parts of min_timestep..max_timestep, [count] int64."""
        low, high = config.min_timestep, config.max_timestep
        return torch.tensor([low + (2 * k + 1) * (high - low) // (2 * count) for k in range(count)])

    def time_at(self, progress: float) -> Tensor:
        """Return the step at a share of the way to the last one, [1] int64."""
        return torch.tensor([int(progress * self.num_timesteps)])

    def bands(self, times: Tensor, count: int) -> Tensor:
        """Return which of `count` equal parts of the steps each step lies in, [B] int64."""
        return times * count // self.num_timesteps

    def band_limits(self, count: int) -> list[tuple[int, int]]:
        """Return the first step of each of `count` equal parts, and the first one behind it."""
        starts = [-(-i * self.num_timesteps // count) for i in range(count + 1)]
        return list(pairwise(starts))

    def _signal(self, times: Tensor) -> Tensor:
        """Return the share of signal variance at each step, [B] float32 on the device of the steps."""
        device = times.device
        if device not in self._copies:
            self._copies[device] = self.alphas_cumprod.to(device)
        return self._copies[device][times]

    def _scales(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        # In float32 whatever the latents' dtype: in bf16 the first steps would carry no noise
        abar = self._signal(times).view(-1, *[1] * (like.ndim - 1))
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return sqrt(abar) x0 + sqrt(1 - abar) noise: [B, C, H, W] float32."""
        signal, sigma = self._scales(times, latents)
        return signal * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x0: [B, C, H, W] float32."""
        if self.prediction_type == "epsilon":
            return noise.float()
        signal, sigma = self._scales(times, latents)
        return signal * noise.float() - sigma * latents.float()

    def snr(self, times: Tensor) -> Tensor:
        """Return the signal-to-noise ratio abar / (1 - abar), [B] float32, >= 0."""
        abar = self._signal(times)
        return abar / (1 - abar)

    def loss_weight(self, times: Tensor, config: LossConfig) -> Tensor:
        """Return the product of all weights that `config` sets, [B] float32; see `snr_weight`."""
        return snr_weight(self.snr(times), config, self.prediction_type)

    def huber_threshold(self, times: Tensor, config: LossConfig) -> Tensor:
        """Return where a Huber loss turns straight, [B] float32; see `weighting.huber_threshold`."""
        return huber_threshold(times.float() / 1000, self.snr(times), config)

    def weights_note(self, config: LossConfig) -> str:
        """Return a note if weights follow a schedule that ends in pure noise, "" otherwise."""
        return weights_note(self.snr(torch.tensor([self.num_timesteps - 1])), config)


def alphas_cumprod_from_betas(beta_start: float, beta_end: float, steps: int, kind: str) -> Tensor:
    """Return cumulative signal variances, [steps] float32, of a `linear` or `scaled_linear` beta schedule.

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
    """Return signal variances, [T] float32, moved so that no signal is left at the last step.

    Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square()
