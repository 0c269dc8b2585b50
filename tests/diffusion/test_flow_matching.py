"""Another kind of schedule fits: a toy flow matching runs through the training step unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig
from coinage.diffusion.schedule import NoiseSchedule
from coinage.models.families import FAMILIES
from coinage.training.batches import Batch
from coinage.training.losses import ConfiguredLoss
from coinage.training.step import forward, noised, prepare
from coinage.training.step_statistics import StepTotals
from tests.tiny_models import loaded


@dataclass(frozen=True)
class FlowMatching:
    """Straight paths from picture to noise (Lipman et al. 2023, arXiv:2210.02747): times are in 0..1."""

    prediction_type: str = "velocity"

    def draw_times(self, config: NoiseConfig, generators: Sequence[torch.Generator]) -> Tensor:
        low, high = config.min_timestep / 1000, config.max_timestep / 1000
        normal = torch.cat([torch.randn(1, generator=generator) for generator in generators])
        return low + (high - low) * normal.sigmoid()

    def spread_times(self, config: NoiseConfig, count: int) -> Tensor:
        low, high = config.min_timestep / 1000, config.max_timestep / 1000
        return low + (high - low) * (torch.arange(count) + 0.5) / count

    def time_at(self, progress: float) -> Tensor:
        return torch.tensor([progress])

    def bands(self, times: Tensor, count: int) -> Tensor:
        return (times * count).long().clamp(max=count - 1)

    def band_limits(self, count: int) -> list[tuple[int, int]]:
        return [(1000 * i // count, 1000 * (i + 1) // count) for i in range(count)]

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        share = times.view(-1, 1, 1, 1)
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:  # noqa: ARG002
        return noise - latents

    def loss_weight(self, times: Tensor, config: LossConfig) -> Tensor:  # noqa: ARG002
        return 2 * times

    def huber_threshold(self, times: Tensor, config: LossConfig) -> Tensor:
        return config.huber_c * (1 - times).clamp(min=0.1)

    def weights_note(self, config: LossConfig) -> str:  # noqa: ARG002
        return ""


SCHEDULE: NoiseSchedule = FlowMatching()


def batch(times: Tensor | None = None) -> Batch:
    moments = torch.stack([torch.full((2, 4, 8, 8), 0.5), torch.zeros(2, 4, 8, 8)], dim=1)
    return Batch(
        moments=moments,
        captions=["a zibu", "a red zibu"],
        generators=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
        weights=torch.ones(2),
        sizes=torch.zeros(2, 6, dtype=torch.int64),
        timesteps=times,
    )


def test_noising_asks_the_schedule(models: Path) -> None:
    parts = replace(loaded("sd1", models / "sd1", models), schedule=SCHEDULE)
    config = NoiseConfig(min_timestep=200, max_timestep=300)
    made = noised(parts, prepare(FAMILIES["sd1"], parts, batch(), config))
    assert made.timesteps.dtype == torch.float32
    assert (made.timesteps > 0.2).all()
    assert (made.timesteps < 0.3).all()
    clean = torch.full((2, 4, 8, 8), 0.5 * parts.scaling_factor)
    share = made.timesteps.view(-1, 1, 1, 1)
    torch.testing.assert_close(made.noisy_latents - share * made.target, clean)


@pytest.mark.parametrize("kind", ["l2", "huber"])
def test_the_training_step_learns_from_it(kind: str, models: Path) -> None:
    parts = replace(loaded("sd1", models / "sd1", models), schedule=SCHEDULE)
    times = torch.tensor([0.25, 0.75])
    loss = ConfiguredLoss(LossConfig(kind=kind))  # type: ignore[arg-type]
    result = forward(FAMILIES["sd1"], parts, batch(times), NoiseConfig(), loss)
    assert torch.equal(result.timesteps, times)
    result.per_sample.sum().backward()  # type: ignore[no-untyped-call]
    (rows,) = parts.rows()
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0
    totals = StepTotals.zero(torch.device("cpu"))
    totals.add(result.per_sample.detach().sum(), result, SCHEDULE)
    assert totals.band_counts.tolist() == [0, 1, 0, 1]
