"""Timesteps follow the distribution that is asked for."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from coinage.config import NoiseConfig
from coinage.diffusion.schedule import DiffusionSchedule, alphas_cumprod_from_betas
from coinage.diffusion.timesteps import place_at
from coinage.seeding import generator_for

COUNT = 4000
SCHEDULE = DiffusionSchedule(
    alphas_cumprod_from_betas(0.00085, 0.012, steps=1000, kind="scaled_linear")
)


def normal_density(t: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    logit = np.log(t / (1 - t))
    bell = np.exp(-((logit - mean) ** 2) / (2 * deviation**2))
    density: np.ndarray = bell / (t * (1 - t))
    return density


# The densities of OneTrainer's distributions, but for a factor
DENSITIES: dict[str, Any] = {
    "logit_normal": (
        {"timestep_weight": 0.5, "timestep_bias": -0.3},
        lambda t: normal_density(t, -0.3, 1.5),
    ),
    "cos_map": ({}, lambda t: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)),
    "sigmoid": (
        {"timestep_weight": 6.0, "timestep_bias": 0.1},
        lambda t: 1 / (1 + np.exp(-6 * (t - 0.6))),
    ),
    "inverted_parabola": (
        {"timestep_weight": 12.0, "timestep_bias": -0.1},
        lambda t: np.clip(2 - 12 * (t - 0.4) ** 2, 0, None),
    ),
}


def quantiles(**settings: Any) -> np.ndarray:
    chances = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT
    return place_at(chances, NoiseConfig(**settings)).numpy()


@pytest.mark.parametrize("kind", DENSITIES)
def test_places_have_the_density_of_their_distribution(kind: str) -> None:
    settings, density = DENSITIES[kind]
    places = quantiles(timesteps=kind, **settings)
    assert (np.diff(places) >= 0).all()
    grid = (np.arange(200_000) + 0.5) / 200_000
    summed = np.cumsum(density(grid))
    expected = np.interp(places, grid, summed / summed[-1])
    np.testing.assert_allclose(expected, (np.arange(COUNT) + 0.5) / COUNT, atol=2e-3)


@pytest.mark.parametrize(("a", "b"), [(0.3, 1.0), (1.0, 0.4), (0.5, 0.5), (2.0, 5.0), (60.0, 40.0)])
def test_beta_has_its_moments_and_where_they_are_known_its_quantiles(a: float, b: float) -> None:
    places = quantiles(timesteps="beta", timestep_weight=a, timestep_bias=b)
    assert abs(places.mean() - a / (a + b)) < 1e-3
    assert abs(places.var() - a * b / ((a + b) ** 2 * (a + b + 1))) < 1e-3
    u = (np.arange(COUNT) + 0.5) / COUNT
    if b == 1:
        np.testing.assert_allclose(places, u ** (1 / a), atol=3e-4)
    if a == 1:
        np.testing.assert_allclose(places, 1 - (1 - u) ** (1 / b), atol=3e-4)


@pytest.mark.parametrize("weight", [-1.0, 0.0, 1.29, 1.75])
def test_heavy_tails_are_as_their_authors_have_them(weight: float) -> None:
    places = quantiles(timesteps="heavy_tail", timestep_weight=weight)
    u = (np.arange(COUNT) + 0.5) / COUNT
    formula = 1 - u - weight * (np.cos(math.pi / 2 * u) ** 2 - 1 + u)
    np.testing.assert_allclose(np.sort(places), np.sort(formula), atol=1e-12)
    inner = np.histogram(places, bins=4, range=(0, 1))[0]
    # Above 0 more in the middle, below 0 more at both ends
    assert (inner[1] > inner[0]) == (weight > 0.01) or weight == 0


def test_a_shift_moves_places_towards_noise() -> None:
    places = quantiles(timestep_shift=3.0)
    u = (np.arange(COUNT) + 0.5) / COUNT
    np.testing.assert_allclose(places, 3 * u / (2 * u + 1), rtol=1e-12)
    assert quantiles(timestep_shift=0.5).mean() < 0.5 < places.mean()


@pytest.mark.parametrize("kind", ["uniform", "heavy_tail", "beta", *DENSITIES])
def test_steps_stay_in_their_range_and_depend_on_their_generators_alone(kind: Any) -> None:
    settings: dict[str, Any] = DENSITIES.get(
        kind, ({"timestep_weight": 0.5, "timestep_bias": 0.5},)
    )[0]
    config = NoiseConfig(timesteps=kind, min_timestep=200, max_timestep=210, **settings)
    generators = [generator_for("t", i) for i in range(300)]
    steps = SCHEDULE.draw_times(config, generators)
    assert steps.dtype == torch.int64
    assert steps.min() >= 200
    assert steps.max() < 210
    assert len(steps.unique()) > 7
    alone = SCHEDULE.draw_times(config, [generator_for("t", 17)])
    assert alone.item() == steps[17].item()


def test_uniform_steps_are_drawn_as_ever() -> None:
    steps = SCHEDULE.draw_times(NoiseConfig(), [generator_for("t", i) for i in range(5)])
    plain = [torch.randint(0, 1000, (1,), generator=generator_for("t", i)) for i in range(5)]
    assert torch.equal(steps, torch.cat(plain))
