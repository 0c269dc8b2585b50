"""Flow matching: straight ways from a picture to noise, and where on them a model learns most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig
from coinage.diffusion.timesteps import place_at
from coinage.diffusion.weighting import LEAST_NOISE, flow_weight, huber_threshold

MOST_SHIFT, MOST_LOGARITHM, MOST_TOKENS = 1e4, 10, 1e9  # larger numbers in settings are nonsense


@dataclass(frozen=True, slots=True)
class SizedShift:
    """A shift that grows with a picture's size, since more pixels need more noise to hide the same.

    Its logarithm is a straight line in the number of tokens.

    Attributes:
        base: logarithm of the shift at `base_tokens`.
        most: the same at `most_tokens`.
        base_tokens: tokens of a small picture; the line goes on beyond both.
        most_tokens: tokens of a large one.
        patch: latents along a side of a token.
    """

    base: float = 0.5
    most: float = 1.15
    base_tokens: int = 256
    most_tokens: int = 4096
    patch: int = 2

    def shift(self, height: int, width: int) -> float:
        """Return the shift for latents of this height and width, > 0."""
        tokens = (height // self.patch) * (width // self.patch)
        slope = (self.most - self.base) / (self.most_tokens - self.base_tokens)
        return math.exp(self.base + slope * (tokens - self.base_tokens))


def shifted(places: Tensor, shift: float) -> Tensor:
    """Return places of 0..1 moved towards noise: s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23)."""
    return shift * places / (1 + (shift - 1) * places)


@dataclass(frozen=True, slots=True)
class FlowSchedule:
    """Rectified flow (Lipman et al. 2023, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206).

    Times are shares of noise, float32 in 0..1: x = (1 - t) x0 + t noise.

    Attributes:
        shift: moves the times that are drawn, as the model's own sampler does; 1 leaves them.
        sized: how the shift follows from a picture's size; it wins over `shift`.
    """

    shift: float = 1.0
    sized: SizedShift | None = None

    @property
    def prediction_type(self) -> str:
        """The velocity: noise minus picture."""
        return "velocity"

    def at_size(self, height: int, width: int) -> FlowSchedule:
        """Return the schedule for latents of this height and width."""
        if self.sized is None:
            return self
        return replace(self, shift=self.sized.shift(height, width), sized=None)

    def draw_times(self, config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a share of noise from each generator: [B] float32.

        The distribution of `config` gives a place of 0..1, the model's shift and that of `config`
        move it, and its range is taken last.
        """
        chances = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
        places = shifted(place_at(chances, config), self.shift)
        low, high = config.min_timestep / 1000, config.max_timestep / 1000
        return (low + (high - low) * places).clamp(min=LEAST_NOISE).float()

    def spread_times(self, config: NoiseConfig, count: int) -> Tensor:
        """Return the middles of `count` equal parts of the range, [count] float32."""
        low, high = config.min_timestep / 1000, config.max_timestep / 1000
        return low + (high - low) * (torch.arange(count) + 0.5) / count

    def time_at(self, progress: float) -> Tensor:
        """Return the share of noise at a share of the way, which is the same, [1] float32."""
        return torch.tensor([progress], dtype=torch.float32)

    def bands(self, times: Tensor, count: int) -> Tensor:
        """Return which of `count` equal parts of the way each time lies in, [B] int64."""
        return (times * count).long().clamp(max=count - 1)

    def band_limits(self, count: int) -> list[tuple[int, int]]:
        """Return first and last time of each of `count` equal parts, in thousandths."""
        return [(1000 * i // count, 1000 * (i + 1) // count) for i in range(count)]

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return (1 - t) x0 + t noise: [B, C, H, W] float32."""
        share = times.view(-1, *[1] * (latents.ndim - 1)).float()
        return (1 - share) * latents.float() + share * noise.float()

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:  # noqa: ARG002
        """Return noise - x0, which is the same at all times: [B, C, H, W] float32."""
        return noise.float() - latents.float()

    def loss_weight(self, times: Tensor, config: LossConfig) -> Tensor:
        """Return the weight of each time, [B] float32; see `flow_weight`."""
        return flow_weight(times.float(), config.flow_weighting)

    def huber_threshold(self, times: Tensor, config: LossConfig) -> Tensor:
        """Return where a Huber loss turns straight, [B] float32; see `weighting.huber_threshold`."""
        times = times.float()
        return huber_threshold(times, ((1 - times) / times).square(), config)

    def weights_note(self, config: LossConfig) -> str:  # noqa: ARG002
        """Return "": there is no weight that could mislead here."""
        return ""


def flow_schedule(settings: Mapping[str, Any]) -> FlowSchedule:
    """Return the schedule of a diffusers FlowMatchEulerDiscreteScheduler's settings.

    Raises:
        ValueError: a number makes no sense.
    """
    if not settings.get("use_dynamic_shifting"):
        shift = _number(settings, "shift", 1.0, MOST_SHIFT)
        if shift <= 0:
            raise ValueError(f"`shift` is {shift:g}")
        return FlowSchedule(shift=shift)
    usual = SizedShift()
    first = _number(settings, "base_image_seq_len", usual.base_tokens, MOST_TOKENS)
    last = _number(settings, "max_image_seq_len", usual.most_tokens, MOST_TOKENS)
    if not 1 <= first < last:
        raise ValueError(f"`base_image_seq_len` is {first:g}, and `max_image_seq_len` {last:g}")
    sized = SizedShift(
        base=_number(settings, "base_shift", usual.base, MOST_LOGARITHM),
        most=_number(settings, "max_shift", usual.most, MOST_LOGARITHM),
        base_tokens=int(first),
        most_tokens=int(last),
    )
    return FlowSchedule(sized=sized)


def _number(settings: Mapping[str, Any], name: str, usual: float, most: float) -> float:
    """Return a number of the settings.

    Raises:
        ValueError: it is something else, or larger than `most`.
    """
    value = settings.get(name, usual)
    if type(value) not in (int, float) or not abs(value) <= most:
        raise ValueError(f"`{name}` is {value!r}")
    return float(value)
