"""Schedule, noise and loss against published numbers and independent numpy formulas."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from coinage.config import LossConfig, NoiseConfig, PredictionType
from coinage.diffusion.loss import loss_per_sample, min_snr_weight
from coinage.diffusion.noise import draw_noise, draw_timesteps
from coinage.diffusion.schedule import DiffusionSchedule, alphas_cumprod_from_betas, rescale_zero_terminal_snr
from coinage.seeding import generator_for

SCHEDULE = DiffusionSchedule(alphas_cumprod_from_betas(0.00085, 0.012, 1000, "scaled_linear"))
# t, abar, SNR, min-SNR weight for epsilon (gamma 5), for v (gamma 5): from the reference's published constants.
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
    assert min_snr_weight(SCHEDULE.snr(at), 5.0, "v_prediction").item() == pytest.approx(v, rel=2e-4)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_forward_process_and_targets_agree_with_diffusers(kind: str) -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule=kind)
    abar = alphas_cumprod_from_betas(0.00085, 0.012, 1000, kind)
    torch.testing.assert_close(abar, theirs.alphas_cumprod)
    x, noise, t = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.tensor([0, 3, 500, 900, 999])
    torch.testing.assert_close(DiffusionSchedule(abar).add_noise(x, noise, t), theirs.add_noise(x, noise, t))
    v = DiffusionSchedule(abar, "v_prediction").target(x, noise, t)
    torch.testing.assert_close(v, theirs.get_velocity(x, noise, t))
    torch.testing.assert_close(DiffusionSchedule(abar).target(x, noise, t), noise)


def test_zero_terminal_snr_agrees_with_diffusers() -> None:
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    abar = rescale_zero_terminal_snr(SCHEDULE.alphas_cumprod)
    torch.testing.assert_close(abar, theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert (abar[0].item(), abar[-1].item()) == (pytest.approx(SCHEDULE.alphas_cumprod[0].item()), 0)
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
def test_min_snr_weight_is_finite_and_at_most_one(snr: float, gamma: float, kind: PredictionType) -> None:
    weight = min_snr_weight(torch.tensor([snr], dtype=torch.float32), gamma, kind).item()
    assert math.isfinite(weight)
    assert 0 <= weight <= 1 + 1e-6


def test_loss_is_the_weighted_mean_square() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4, 4, 4)).astype(np.float32)
    t = torch.tensor([10, 300, 900])
    snr = SCHEDULE.snr(t)
    expected = ((prediction - target) ** 2).mean(axis=(1, 2, 3))
    tensors = torch.from_numpy(prediction), torch.from_numpy(target), snr
    plain = loss_per_sample(*tensors, LossConfig(), "epsilon").numpy()
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    weighted = loss_per_sample(*tensors, LossConfig(min_snr_gamma=5), "epsilon").numpy()
    np.testing.assert_allclose(weighted, expected * np.minimum(snr.numpy(), 5) / snr.numpy(), rtol=1e-5)


def test_a_mask_weighs_the_loss() -> None:
    prediction, target, snr = torch.ones(2, 4, 4, 4), torch.zeros(2, 4, 4, 4), torch.ones(2)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :, :2] = 1
    mask[1] = 127 / 255
    plain = loss_per_sample(prediction, target, snr, LossConfig(), "epsilon", mask)
    assert plain.tolist() == pytest.approx([0.5, 0.498], abs=1e-3)
    normalized = LossConfig(normalize_mask=True)
    assert loss_per_sample(prediction, target, snr, normalized, "epsilon", mask).tolist() == pytest.approx([1, 1])
    empty = loss_per_sample(prediction, target, snr, normalized, "epsilon", mask * 0)
    assert empty.tolist() == [0, 0], "nothing to learn, and no division by zero"


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    def draw(*keys: int) -> torch.Tensor:
        return draw_noise((4, 8, 8), NoiseConfig(), [generator_for(0, key) for key in keys])

    torch.testing.assert_close(draw(1, 2, 3)[2], draw(3)[0], rtol=0, atol=0)
    assert not torch.equal(draw(1)[0], draw(2)[0])


def test_offset_noise_shifts_whole_channels() -> None:
    generators = [generator_for(0, i) for i in range(400)]
    noise = draw_noise((4, 16, 16), NoiseConfig(offset=0.5), generators)
    assert noise.mean(dim=(2, 3)).std().item() == pytest.approx(math.hypot(0.5, 1 / 16), rel=0.1)


def test_timesteps_fill_their_range() -> None:
    config = NoiseConfig(min_timestep=100, max_timestep=104)
    drawn = draw_timesteps(config, [generator_for(0, i) for i in range(100)])
    assert sorted(set(drawn.tolist())) == [100, 101, 102, 103]
