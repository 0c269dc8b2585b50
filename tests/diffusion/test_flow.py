"""Flow matching agrees with diffusers' flow scheduler, and with the numbers of its training helpers."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)
from torch import Tensor

from coinage.config import FlowWeighting, LossConfig, NoiseConfig
from coinage.diffusion.flow import FlowSchedule, SizedShift, flow_schedule, shifted


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def drawn(schedule: FlowSchedule, count: int = 4000, **noise: object) -> Tensor:
    return schedule.draw_times(NoiseConfig(**noise), generators(count))  # type: ignore[arg-type]


def test_the_shifted_table_is_that_of_sd3() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    table = torch.arange(1000, 0, -1) / 1000
    torch.testing.assert_close(shifted(table, 3.0), scheduler.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (128, 128), (96, 168)])
def test_the_sized_shift_is_that_of_flux(height: int, width: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    sigmas = np.linspace(1.0, 1 / 8, 8)
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(height * width // 4, 256, 4096))
    schedule = flow_schedule(scheduler.config).at_size(height, width)
    moved = shifted(torch.from_numpy(sigmas).float(), schedule.shift)
    torch.testing.assert_close(moved, scheduler.sigmas[:-1], atol=1e-6, rtol=0)


def test_the_sized_shift_has_the_published_ends() -> None:
    shift = SizedShift()
    assert shift.shift(32, 32) == pytest.approx(math.exp(0.5))
    assert shift.shift(128, 128) == pytest.approx(math.exp(1.15))


def test_noise_is_added_as_by_the_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 16, 8, 8)
    places = torch.tensor([0, 250, 500, 999])
    times = scheduler.timesteps[places]
    ours = flow_schedule(scheduler.config).add_noise(latents, noise, times / 1000)
    wanted = scheduler.scale_noise(latents, times, noise)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)


def test_a_step_along_the_target_leads_to_the_picture() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 1, 16, 8, 8)
    schedule = flow_schedule(scheduler.config)
    sample = noise
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        expected = schedule.add_noise(latents, noise, sigma.view(1))
        torch.testing.assert_close(sample, expected, atol=1e-5, rtol=0)
        velocity = schedule.target(latents, noise, sigma.view(1))
        sample = scheduler.step(velocity, time, sample).prev_sample
    torch.testing.assert_close(sample, latents, atol=1e-5, rtol=0)


def test_half_precision_is_added_in_float32() -> None:
    latents, noise = torch.ones(1, 4, 2, 2).bfloat16(), torch.zeros(1, 4, 2, 2).bfloat16()
    noisy = FlowSchedule().add_noise(latents, noise, torch.tensor([1e-4]))
    assert noisy.dtype == torch.float32
    assert (noisy < 1).all()


def test_logit_normal_times_have_the_median_of_the_sd3_recipe() -> None:
    times = drawn(FlowSchedule(shift=3.0), timesteps="logit_normal")
    assert times.dtype == torch.float32
    assert times.median() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "weight", "scheme"),
    [("logit_normal", 0.0, "logit_normal"), ("heavy_tail", 1.29, "mode"), ("uniform", 0.0, "none")],
)
def test_distributions_are_those_of_sd3_training(kind: str, weight: float, scheme: str) -> None:
    ours = drawn(FlowSchedule(), timesteps=kind, timestep_weight=weight)
    torch.manual_seed(0)
    wanted = compute_density_for_timestep_sampling(
        scheme, 40_000, logit_mean=0, logit_std=1, mode_scale=1.29
    )
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    torch.testing.assert_close(ours.quantile(shares), wanted.quantile(shares), atol=0.02, rtol=0)


def test_times_stay_in_their_range_and_above_nothing() -> None:
    times = drawn(FlowSchedule(shift=3.0), 500, min_timestep=200, max_timestep=300)
    assert times.min() >= 0.2
    assert times.max() <= 0.3
    assert drawn(FlowSchedule(shift=1e-6), 50).min() > 0


def test_a_sample_draws_its_time_whatever_its_neighbours() -> None:
    schedule, config = FlowSchedule(shift=3.0), NoiseConfig()
    together = schedule.draw_times(config, generators(3))
    alone = [schedule.draw_times(config, [one]) for one in generators(3)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("kind", ["none", "sigma_sqrt", "cosmap"])
def test_weights_are_those_of_sd3_training(kind: FlowWeighting) -> None:
    sigmas = torch.linspace(0.01, 1, 50)
    ours = FlowSchedule().loss_weight(sigmas, LossConfig(flow_weighting=kind))
    wanted = compute_loss_weighting_for_sd3(kind, sigmas)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["none", "sigma_sqrt", "cosmap"])
@pytest.mark.parametrize("huber", ["constant", "exponential", "snr"])
def test_weights_and_thresholds_are_finite_at_both_ends(kind: FlowWeighting, huber: str) -> None:
    config = LossConfig(flow_weighting=kind, huber_schedule=huber)  # type: ignore[arg-type]
    ends = torch.tensor([0.0, 1e-3, 1.0])
    schedule = FlowSchedule()
    assert torch.isfinite(schedule.loss_weight(ends, config)).all()
    thresholds = schedule.huber_threshold(ends, config)
    assert torch.isfinite(thresholds).all()
    assert (thresholds > 0).all()


def test_bands_and_middles_are_equal_parts_of_the_way() -> None:
    schedule = FlowSchedule()
    middles = schedule.spread_times(NoiseConfig(), 4)
    assert middles.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert schedule.bands(middles, 4).tolist() == [0, 1, 2, 3]
    assert schedule.bands(torch.tensor([0.0, 1.0]), 4).tolist() == [0, 3]
    assert schedule.band_limits(4) == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert schedule.time_at(0.5).tolist() == [0.5]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"shift": 0}, "`shift` is 0"),
        ({"shift": -3.0}, "`shift` is -3"),
        ({"shift": float("inf")}, "`shift` is inf"),
        ({"shift": float("nan")}, "`shift` is nan"),
        ({"shift": None}, "`shift` is None"),
        ({"shift": True}, "`shift` is True"),
        ({"use_dynamic_shifting": True, "base_shift": None}, "`base_shift` is None"),
        ({"use_dynamic_shifting": True, "max_shift": 500.0}, "`max_shift` is 500"),
        (
            {"use_dynamic_shifting": True, "base_image_seq_len": 4096},
            "`base_image_seq_len` is 4096",
        ),
        ({"use_dynamic_shifting": True, "max_image_seq_len": 0}, "`max_image_seq_len` 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        flow_schedule(settings)
