"""Flow matching runs through the training step that discrete diffusion takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig
from coinage.diffusion.flow import FlowSchedule
from coinage.diffusion.schedule import NoiseSchedule
from coinage.models.families import FAMILIES
from coinage.training.batches import Batch
from coinage.training.losses import ConfiguredLoss
from coinage.training.step import forward, noised, prepare
from coinage.training.step_statistics import StepTotals
from tests.tiny_models import loaded

SCHEDULE: NoiseSchedule = FlowSchedule(shift=3.0)


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
