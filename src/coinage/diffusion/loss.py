"""Losses per sample, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from coinage.config import LossConfig, PredictionType


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Loss weight min(snr, gamma) / snr (Hang et al. 2023, arXiv:2303.09556).

    Args:
        snr: signal-to-noise ratio, [B] float32, >= 0 (0 at a zero-terminal step).
        gamma: cap on the SNR; the paper uses 5.
        prediction_type: `v_prediction` divides by snr + 1.

    Returns:
        [B] float32, finite for every snr >= 0.
    """
    divisor = snr + 1 if prediction_type == "v_prediction" else snr.clamp(min=torch.finfo(torch.float32).tiny)
    return snr.clamp(max=gamma) / divisor


def loss_per_sample(prediction: Tensor, target: Tensor, snr: Tensor, config: LossConfig, prediction_type: PredictionType) -> Tensor:
    """Mean squared error of each sample times its weight.

    Args:
        prediction: the model's answer, [B, C, H, W], any float dtype.
        target: what it should be, [B, C, H, W] float32.
        snr: [B] float32.
        config: which weights apply.
        prediction_type: what is predicted.

    Returns:
        [B] float32.
    """
    loss = (prediction.float() - target).square().mean(dim=(1, 2, 3))
    if config.min_snr_gamma:
        loss = loss * min_snr_weight(snr, config.min_snr_gamma, prediction_type)
    return loss
