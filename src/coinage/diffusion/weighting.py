"""Weights of losses by signal-to-noise ratio, or by the share of noise; in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coinage.config import FlowWeighting, LossConfig, PredictionType

MOST_SNR = 1000.0  # as in sd-scripts
# The plain schedule's last value. On a schedule that ends in pure noise, weights go no further than there.
LEAST_SNR = 0.00468191
LEAST_NOISE = 1e-3  # share of noise, below which no weight grows


def huber_threshold(progress: Tensor, snr: Tensor, config: LossConfig) -> Tensor:
    """Return where the loss turns from square to straight, [B] float32 > 0.

    `constant`: c times scale; `exponential`: c ** progress times scale; `snr`:
    (1 - c) / (1 + sigma)^2 + c with sigma = 1 / sqrt(snr), whatever the scale, as in sd-scripts.

    Args:
        progress: share of the way from a clean picture to pure noise, [B] float32.
        snr: signal-to-noise ratios, [B] float32.
        config: kind of threshold, c and scale.
    """
    c, scale = config.huber_c, config.huber_scale
    if config.huber_schedule == "constant":
        return torch.full_like(snr, c * scale)
    if config.huber_schedule == "exponential":
        return scale * c**progress
    return (1 - c) / (1 + snr.rsqrt()).square() + c


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Return the loss weight min(snr, gamma) / snr (Hang et al. 2023, arXiv:2303.09556).

    Args:
        snr: signal-to-noise ratio, [B] float32, >= 0 (0 at a zero-terminal step).
        gamma: cap on the SNR; the paper uses 5.
        prediction_type: `v_prediction` divides by snr + 1.

    Returns:
        [B] float32, finite for every snr >= 0. Below the plain schedule's last value it goes no
        further, as every weight.
    """
    snr = snr.clamp(min=LEAST_SNR)
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else snr)


def snr_weight(snr: Tensor, config: LossConfig, prediction_type: PredictionType) -> Tensor:
    """Return the product of all weights that are set, [B] float32 for [B] signal-to-noise ratios.

    With s = snr, clamped to 0.0047..1000 (min-SNR: only from below): scaling v like noise s / (s + 1);
    a v-like part for noise 1 + w (s + 1) / s; debiased estimation (Yu et al. 2023, arXiv:2310.08442)
    1 / sqrt(s) for noise, 1 / (s + 1) for v; all as in sd-scripts.
    """
    weight = torch.ones_like(snr)
    clamped = snr.clamp(LEAST_SNR, MOST_SNR)
    if config.min_snr_gamma:
        weight = weight * min_snr_weight(snr, config.min_snr_gamma, prediction_type)
    if config.scale_v:
        weight = weight * clamped / (clamped + 1)
    if config.v_like:
        weight = weight * (1 + config.v_like * (clamped + 1) / clamped)
    if config.debiased:
        weight = weight * (
            1 / (clamped + 1) if prediction_type == "v_prediction" else clamped.rsqrt()
        )
    return weight


def flow_weight(sigma: Tensor, kind: FlowWeighting) -> Tensor:
    """Return the weight of a flow model's loss at each share of noise (Esser et al. 2024, section 3.1).

    With t = `sigma`: `none` 1; `sigma_sqrt` 1 / t^2; `cosmap` 2 / (pi (1 - 2 t + 2 t^2)).

    Args:
        sigma: shares of noise, [B] float32 in 0..1; `sigma_sqrt` goes no further than at 0.001.
        kind: of the weight.

    Returns:
        [B] float32.
    """
    if kind == "sigma_sqrt":
        return sigma.clamp(min=LEAST_NOISE).pow(-2)
    if kind == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))
    return torch.ones_like(sigma)


def weights_note(snr: Tensor, config: LossConfig) -> str:
    """Return a note on weights of a schedule that ends in pure noise, "" if there is nothing to say.

    Args:
        snr: of the schedule's last step, [1] float32.
        config: which weights are set.
    """
    weights = {
        "--min_snr_gamma": config.min_snr_gamma,
        "--scale_v_pred_loss_like_noise_pred": config.scale_v,
        "--v_pred_like_loss": config.v_like,
        "--debiased_estimation_loss": config.debiased,
    }
    flags = [flag for flag, weight in weights.items() if weight]
    if not flags or bool((snr >= LEAST_SNR / 2).all()):
        return ""
    return (
        f"{', '.join(flags)}: weights follow the schedule that ends in pure noise "
        "(sd-scripts takes those of the plain one)"
    )
