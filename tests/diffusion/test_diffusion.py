"""Schedule, noise and loss against published numbers and independent numpy formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from coinage.config import LossConfig, NoiseConfig, PredictionType
from coinage.diffusion.loss import errors, loss_per_sample
from coinage.diffusion.noise import draw_noise, perturb
from coinage.diffusion.schedule import (
    DiffusionSchedule,
    alphas_cumprod_from_betas,
    rescale_zero_terminal_snr,
)
from coinage.diffusion.weighting import min_snr_weight, snr_weight
from coinage.seeding import generator_for

SCHEDULE = DiffusionSchedule(alphas_cumprod_from_betas(0.00085, 0.012, 1000, "scaled_linear"))
RESCALED = DiffusionSchedule(rescale_zero_terminal_snr(SCHEDULE.alphas_cumprod), "v_prediction")
# t, abar, SNR, min-SNR weight for epsilon (gamma 5), for v (gamma 5): from sd-scripts' published constants.
TABLE = [
    (0, 0.99914998, 1175.44, 0.004254, 0.004250),
    (10, 0.99043131, 103.507, 0.048306, 0.047843),
    (100, 0.89422315, 8.45387, 0.591445, 0.528884),
    (250, 0.67379230, 2.06553, 1.0, 0.673792),
    (500, 0.27633247, 0.381850, 1.0, 0.276332),
    (999, 0.00466010, 0.00468191, 1.0, 0.004660),
]


@pytest.mark.parametrize(("t", "abar", "snr", "eps", "v"), TABLE)
def test_schedule_and_min_snr(t: int, abar: float, snr: float, eps: float, v: float) -> None:
    at = torch.tensor([t])
    assert SCHEDULE.alphas_cumprod[t].item() == pytest.approx(abar, rel=2e-6)
    assert SCHEDULE.snr(at).item() == pytest.approx(snr, rel=1e-4)
    assert min_snr_weight(SCHEDULE.snr(at), 5.0, "epsilon").item() == pytest.approx(eps, rel=2e-4)
    assert min_snr_weight(SCHEDULE.snr(at), 5.0, "v_prediction").item() == pytest.approx(
        v, rel=2e-4
    )


@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_forward_process_and_targets_agree_with_diffusers(kind: str) -> None:
    theirs = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule=kind
    )
    abar = alphas_cumprod_from_betas(0.00085, 0.012, 1000, kind)
    torch.testing.assert_close(abar, theirs.alphas_cumprod)
    x, noise, t = (
        torch.randn(5, 4, 8, 8),
        torch.randn(5, 4, 8, 8),
        torch.tensor([0, 3, 500, 900, 999]),
    )
    torch.testing.assert_close(
        DiffusionSchedule(abar).add_noise(x, noise, t), theirs.add_noise(x, noise, t)
    )
    v = DiffusionSchedule(abar, "v_prediction").target(x, noise, t)
    torch.testing.assert_close(v, theirs.get_velocity(x, noise, t))
    torch.testing.assert_close(DiffusionSchedule(abar).target(x, noise, t), noise)


def test_zero_terminal_snr_agrees_with_diffusers() -> None:
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    )
    abar = rescale_zero_terminal_snr(SCHEDULE.alphas_cumprod)
    torch.testing.assert_close(abar, theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert (abar[0].item(), abar[-1].item()) == (
        pytest.approx(SCHEDULE.alphas_cumprod[0].item()),
        0,
    )
    last = torch.tensor([999])
    schedule = DiffusionSchedule(abar, "v_prediction")
    assert schedule.snr(last).item() == 0
    x, noise = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert torch.equal(schedule.add_noise(x, noise, last), noise)
    assert torch.equal(schedule.target(x, noise, last), -x)


def test_unknown_beta_schedule() -> None:
    with pytest.raises(ValueError, match="not supported"):
        alphas_cumprod_from_betas(0.1, 0.2, 10, "cosine")


def test_low_precision_latents_keep_the_noise_of_the_first_timestep() -> None:
    x = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)
    noisy = SCHEDULE.add_noise(x, torch.ones(1, 1, 2, 2), torch.tensor([0]))
    assert noisy.dtype == torch.float32
    assert noisy.flatten()[0].item() == pytest.approx(0.029155, rel=1e-3)


@given(st.floats(0, 2000), st.floats(0.5, 20), st.sampled_from(["epsilon", "v_prediction"]))
def test_min_snr_weight_is_finite_and_at_most_one(
    snr: float, gamma: float, kind: PredictionType
) -> None:
    weight = min_snr_weight(torch.tensor([snr], dtype=torch.float32), gamma, kind).item()
    assert math.isfinite(weight)
    assert 0 <= weight <= 1 + 1e-6


def test_loss_is_the_weighted_mean_square() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4, 4, 4)).astype(np.float32)
    t = torch.tensor([10, 300, 900])
    snr = SCHEDULE.snr(t)
    expected = ((prediction - target) ** 2).mean(axis=(1, 2, 3))
    tensors = torch.from_numpy(prediction), torch.from_numpy(target), t
    plain = loss_per_sample(*tensors, SCHEDULE, LossConfig()).numpy()
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    weighted = loss_per_sample(*tensors, SCHEDULE, LossConfig(min_snr_gamma=5)).numpy()
    np.testing.assert_allclose(
        weighted, expected * np.minimum(snr.numpy(), 5) / snr.numpy(), rtol=1e-5
    )


def test_a_mask_weighs_the_loss() -> None:
    tensors = torch.ones(2, 4, 4, 4), torch.zeros(2, 4, 4, 4), torch.zeros(2).long()
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :, :2] = 1
    mask[1] = 127 / 255
    plain = loss_per_sample(*tensors, SCHEDULE, LossConfig(), mask)
    assert plain.tolist() == pytest.approx([0.5, 0.498], abs=1e-3)
    normalized = LossConfig(normalize_mask=True)
    alike = loss_per_sample(*tensors, SCHEDULE, normalized, mask)
    assert alike.tolist() == pytest.approx([1, 1])
    empty = loss_per_sample(*tensors, SCHEDULE, normalized, mask * 0)
    assert empty.tolist() == [0, 0], "nothing to learn, and no division by zero"


@pytest.mark.parametrize(
    "config",
    [
        NoiseConfig(),
        NoiseConfig(offset=0.1, random_offset=True, pyramid_levels=4),
        NoiseConfig(offset=0.1, adaptive_offset=1),
    ],
)
def test_noise_of_a_sample_does_not_depend_on_its_batch(config: NoiseConfig) -> None:
    def draw(*keys: int) -> torch.Tensor:
        return draw_noise(
            torch.zeros(len(keys), 4, 8, 8), config, [generator_for(0, key) for key in keys]
        )

    torch.testing.assert_close(draw(1, 2, 3)[2], draw(3)[0], rtol=0, atol=0)
    assert not torch.equal(draw(1)[0], draw(2)[0])


def test_offset_noise_shifts_whole_channels() -> None:
    generators = [generator_for(0, i) for i in range(400)]
    noise = draw_noise(torch.zeros(400, 4, 16, 16), NoiseConfig(offset=0.5), generators)
    assert noise.mean(dim=(2, 3)).std().item() == pytest.approx(math.hypot(0.5, 1 / 16), rel=0.1)


def test_timesteps_fill_their_range() -> None:
    config = NoiseConfig(min_timestep=100, max_timestep=104)
    drawn = SCHEDULE.draw_times(config, [generator_for(0, i) for i in range(100)])
    assert sorted(set(drawn.tolist())) == [100, 101, 102, 103]


def test_spread_times_and_bands() -> None:
    assert SCHEDULE.spread_times(NoiseConfig(), 4).tolist() == [125, 375, 625, 875]
    some = NoiseConfig(min_timestep=100, max_timestep=200)
    assert SCHEDULE.spread_times(some, 2).tolist() == [125, 175]
    assert SCHEDULE.time_at(0.7).tolist() == [700]
    assert SCHEDULE.bands(torch.tensor([0, 249, 250, 999]), 4).tolist() == [0, 0, 1, 3]
    assert SCHEDULE.band_limits(3) == [(0, 334), (334, 667), (667, 1000)]


def test_random_and_adaptive_offsets() -> None:
    def spread(config: NoiseConfig, level: float) -> float:
        latents = torch.full((600, 4, 32, 32), level)
        noise = draw_noise(latents, config, [generator_for(1, i) for i in range(600)])
        return noise.mean(dim=(2, 3)).std().item()

    # U(0, 1) times a deviation of 0.5: its root mean square is 0.5 / sqrt(3).
    assert spread(NoiseConfig(offset=0.5, random_offset=True), 0) == pytest.approx(
        math.hypot(0.5 / math.sqrt(3), 1 / 32), rel=0.1
    )
    assert spread(NoiseConfig(offset=0.1, adaptive_offset=0.5), 1.0) == pytest.approx(
        math.hypot(0.6, 1 / 32), rel=0.1
    )
    assert spread(NoiseConfig(offset=0.1, adaptive_offset=0.5), -1.0) == pytest.approx(
        math.hypot(0.6, 1 / 32), rel=0.1
    )
    assert spread(NoiseConfig(offset=0.1, adaptive_offset=-0.5), 1.0) == pytest.approx(
        1 / 32, rel=0.1
    ), "never below zero"


def test_pyramid_noise_has_deviation_one_and_more_of_the_coarse() -> None:
    generators = [generator_for(2, i) for i in range(200)]
    noise = draw_noise(
        torch.zeros(200, 4, 32, 32), NoiseConfig(pyramid_levels=6, pyramid_discount=0.8), generators
    )
    assert noise.flatten(1).std(dim=1).numpy() == pytest.approx(np.ones(200), abs=1e-5)
    assert noise.mean(dim=(2, 3)).std() > 3 / 32, "plain noise has 1/32"


def test_the_first_pyramid_level_is_a_second_full_draw() -> None:
    generator = generator_for(4)
    plain = torch.randn((4, 8, 8), generator=generator)
    torch.rand((), generator=generator)
    expected = plain + torch.randn((1, 4, 8, 8), generator=generator)[0]
    found = draw_noise(torch.zeros(1, 4, 8, 8), NoiseConfig(pyramid_levels=1), [generator_for(4)])[
        0
    ]
    torch.testing.assert_close(found, expected / expected.std())


def test_perturbation_adds_to_the_input_alone() -> None:
    noise = torch.zeros(300, 4, 8, 8)
    generators = [generator_for(5, i) for i in range(300)]
    assert perturb(noise, NoiseConfig(), generators) is noise
    assert perturb(noise, NoiseConfig(perturbation=0.2), generators).std().item() == pytest.approx(
        0.2, rel=0.02
    )
    random = perturb(noise, NoiseConfig(perturbation=0.2, random_perturbation=True), generators)
    assert random.std().item() == pytest.approx(0.2 / math.sqrt(3), rel=0.1)


# huber_c 0.1 at these timesteps: published constants.
AT = [0, 1, 100, 250, 500, 750, 999]
HUBER = {
    "snr": [0.949709, 0.930001, 0.598297, 0.412963, 0.231284, 0.134613, 0.103691],
    "exponential": [1, 0.997700, 0.794328, 0.562341, 0.316228, 0.177828, 0.100231],
    "constant": [0.1] * 7,
}


@pytest.mark.parametrize("schedule", list(HUBER))
def test_huber_thresholds(schedule: str) -> None:
    t = torch.tensor(AT)
    config = LossConfig(kind="huber", huber_schedule=schedule)  # type: ignore[arg-type]
    found = SCHEDULE.huber_threshold(t, config)
    assert found.tolist() == pytest.approx(HUBER[schedule], rel=2e-5)
    twice = SCHEDULE.huber_threshold(t, replace(config, huber_scale=2.0))
    factor = 1 if schedule == "snr" else 2
    assert twice.tolist() == pytest.approx([factor * value for value in HUBER[schedule]], rel=2e-5)
    last = RESCALED.huber_threshold(torch.tensor([999]), LossConfig())
    assert last.item() == pytest.approx(0.1), "pure noise"


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        (0.05, {"l2": 0.0025, "l1": 0.05, "huber": 0.00236068, "smooth_l1": 0.02360681}),
        (1.0, {"huber": 0.18099752, "smooth_l1": 1.80997515}),
    ],
)
def test_errors(d: float, expected: dict[str, float]) -> None:
    for kind, value in expected.items():
        config = LossConfig(kind=kind, huber_schedule="constant")  # type: ignore[arg-type]
        for sign in (-1, 1):
            found = errors(
                torch.full((1, 1, 1, 1), sign * d),
                torch.zeros(1, 1, 1, 1),
                torch.zeros(1).long(),
                SCHEDULE,
                config,
            )
            assert found.item() == pytest.approx(value, rel=1e-5)


# t, then debiased (noise, v), v scaled like noise, v-like 0.5: published constants.
WEIGHTS = [
    (0, 0.031623, 0.000999, 0.999001, 1.500500),
    (10, 0.098291, 0.009569, 0.990431, 1.504831),
    (100, 0.343932, 0.105777, 0.894223, 1.559145),
    (250, 0.695799, 0.326208, 0.673792, 1.742068),
    (500, 1.618280, 0.723668, 0.276332, 2.809414),
    (750, 4.099166, 0.943830, 0.056170, 9.901582),
    (999, 14.614648, 0.995340, 0.004660, 108.293971),
]


@pytest.mark.parametrize(("t", "noise", "v", "scaled", "like"), WEIGHTS)
def test_weights(t: int, noise: float, v: float, scaled: float, like: float) -> None:
    snr = SCHEDULE.snr(torch.tensor([t]))
    assert snr_weight(snr, LossConfig(debiased=True), "epsilon").item() == pytest.approx(
        noise, rel=1e-3
    )
    assert snr_weight(snr, LossConfig(debiased=True), "v_prediction").item() == pytest.approx(
        v, rel=1e-3
    )
    assert snr_weight(snr, LossConfig(scale_v=True), "v_prediction").item() == pytest.approx(
        scaled, rel=1e-3
    )
    assert snr_weight(snr, LossConfig(v_like=0.5), "epsilon").item() == pytest.approx(
        like, rel=1e-3
    )
    both = snr_weight(snr, LossConfig(min_snr_gamma=5, debiased=True), "epsilon").item()
    assert both == pytest.approx(noise * min_snr_weight(snr, 5, "epsilon").item(), rel=1e-3), (
        "weights multiply"
    )


@pytest.mark.parametrize(
    ("config", "least"),
    [
        (LossConfig(min_snr_gamma=5), 0.004660),
        (LossConfig(scale_v=True), 0.004660),
        (LossConfig(debiased=True), 0.995340),
    ],
)
@pytest.mark.parametrize("t", [990, 998, 999])
def test_where_only_noise_is_left_weights_are_those_of_the_plain_schedules_end(
    config: LossConfig, least: float, t: int
) -> None:
    assert snr_weight(
        RESCALED.snr(torch.tensor([t])), config, "v_prediction"
    ).item() == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "config", "told"),
    [
        (RESCALED, LossConfig(min_snr_gamma=5), "--min_snr_gamma: weights follow"),
        (
            RESCALED,
            LossConfig(debiased=True, scale_v=True),
            "--scale_v_pred_loss_like_noise_pred, --debiased_estimation_loss: weights",
        ),
        (RESCALED, LossConfig(), ""),
        (SCHEDULE, LossConfig(min_snr_gamma=5), ""),
    ],
)
def test_weights_on_a_rescaled_schedule_are_told(
    schedule: DiffusionSchedule, config: LossConfig, told: str
) -> None:
    found = schedule.weights_note(config)
    assert found.startswith(told)
    assert bool(found) == bool(told)


@given(st.floats(0, 2000), st.sampled_from(["epsilon", "v_prediction"]))
def test_weights_are_finite_on_any_schedule(snr: float, kind: PredictionType) -> None:
    config = LossConfig(min_snr_gamma=5, debiased=True, scale_v=True, v_like=1)
    weight = snr_weight(torch.tensor([snr], dtype=torch.float32), config, kind).item()
    assert 0 <= weight < 4000
