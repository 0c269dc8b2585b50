"""Losses per sample, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from coinage.config import LEAST_MASK, LossConfig, PredictionType

MOST_SNR = 1000.0  # as in sd-scripts
# The plain schedule's last value. On a schedule that ends in pure noise, weights go no further than there.
LEAST_SNR = 0.00468191


def errors(
    prediction: Tensor, target: Tensor, timesteps: Tensor, snr: Tensor, config: LossConfig
) -> Tensor:
    """The error of each number, in the shape of `target`; float32.

    With d = prediction - target: l2 d^2; l1 |d|; huber 2 c (sqrt(d^2 + c^2) - c); smooth_l1 the same without the
    first c (pseudo-Huber; Patil et al. 2024, arXiv:2403.16728, scaled as in sd-scripts).
    """
    d = prediction.float() - target
    if config.kind == "l2":
        return d.square()
    if config.kind == "l1":
        return d.abs()
    c = huber_threshold(timesteps, snr, config).view(-1, *[1] * (d.ndim - 1))
    # 2 (sqrt(d^2 + c^2) - c), without its rounding error
    soft = 2 * d.square() / ((d.square() + c.square()).sqrt() + c)
    return c * soft if config.kind == "huber" else soft


def huber_threshold(timesteps: Tensor, snr: Tensor, config: LossConfig) -> Tensor:
    """Where the loss turns from square to straight, [B] float32 > 0 for [B] timesteps and signal-to-noise ratios.

    `constant`: c times scale; `exponential`: c ** (t / 1000) times scale; `snr`: (1 - c) / (1 + sigma)^2 + c with
    sigma = 1 / sqrt(snr), whatever the scale, as in sd-scripts.
    """
    c, scale = config.huber_c, config.huber_scale
    if config.huber_schedule == "constant":
        return torch.full_like(snr, c * scale)
    if config.huber_schedule == "exponential":
        return scale * c ** (timesteps.float() / 1000)
    return (1 - c) / (1 + snr.rsqrt()).square() + c


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Loss weight min(snr, gamma) / snr (Hang et al. 2023, arXiv:2303.09556).

    Args:
        snr: signal-to-noise ratio, [B] float32, >= 0 (0 at a zero-terminal step).
        gamma: cap on the SNR; the paper uses 5.
        prediction_type: `v_prediction` divides by snr + 1.

    Returns:
        [B] float32, finite for every snr >= 0. Below the plain schedule's last value it goes no further, as every weight.
    """
    snr = snr.clamp(min=LEAST_SNR)
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else snr)


def weight_of(snr: Tensor, config: LossConfig, prediction_type: PredictionType) -> Tensor:
    """The product of all weights that are set, [B] float32 for [B] signal-to-noise ratios.

    With s = snr, kept in 0.0047..1000 (min-SNR: only from below): scaling v like noise s / (s + 1); a v-like part
    for noise 1 + w (s + 1) / s; debiased estimation (Yu et al. 2023, arXiv:2310.08442) 1 / sqrt(s) for noise,
    1 / (s + 1) for v; all as in sd-scripts.
    """
    weight = torch.ones_like(snr)
    kept = snr.clamp(LEAST_SNR, MOST_SNR)
    if config.min_snr_gamma:
        weight = weight * min_snr_weight(snr, config.min_snr_gamma, prediction_type)
    if config.scale_v:
        weight = weight * kept / (kept + 1)
    if config.v_like:
        weight = weight * (1 + config.v_like * (kept + 1) / kept)
    if config.debiased:
        weight = weight * (1 / (kept + 1) if prediction_type == "v_prediction" else kept.rsqrt())
    return weight


def rescaled_weights(snr: Tensor, config: LossConfig) -> str:
    """Return what is to be said of weights on a schedule that ends in pure noise, "" where nothing is.

    Args:
        snr: of the schedule's last step, [1] float32.
        config: which weights are set.
    """
    named = {
        "--min_snr_gamma": config.min_snr_gamma,
        "--scale_v_pred_loss_like_noise_pred": config.scale_v,
        "--v_pred_like_loss": config.v_like,
        "--debiased_estimation_loss": config.debiased,
    }
    found = [name for name, value in named.items() if value]
    if not found or bool((snr >= LEAST_SNR / 2).all()):
        return ""
    return f"{', '.join(found)}: weights follow the schedule that ends in pure noise (sd-scripts takes those of the plain one)"


def loss_per_sample(
    prediction: Tensor,
    target: Tensor,
    timesteps: Tensor,
    snr: Tensor,
    config: LossConfig,
    prediction_type: PredictionType,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean error of each sample times its weight.

    Args:
        prediction: the model's answer, [B, C, H, W], any float dtype.
        target: what it should be, [B, C, H, W] float32.
        timesteps: [B] int64.
        snr: [B] float32.
        config: which error, which weights.
        prediction_type: what is predicted.
        mask: weight of each place, [B, 1, H, W] float32 in 0..1. The mean is over all places, as in sd-scripts,
            unless `normalize_mask` divides it by the mask's own mean.

    Returns:
        [B] float32.
    """
    found = errors(prediction, target, timesteps, snr, config)
    loss = found.mean(dim=(1, 2, 3)) if mask is None else (found * mask).mean(dim=(1, 2, 3))
    if mask is not None and config.normalize_mask:
        loss = loss / mask.mean(dim=(1, 2, 3)).clamp(min=LEAST_MASK)
    return loss * weight_of(snr, config, prediction_type)
