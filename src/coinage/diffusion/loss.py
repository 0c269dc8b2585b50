"""Losses per sample, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from coinage.config import LEAST_MASK, LossConfig, PredictionType


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


def loss_per_sample(
    prediction: Tensor, target: Tensor, snr: Tensor, config: LossConfig, prediction_type: PredictionType, mask: Tensor | None = None
) -> Tensor:
    """Mean squared error of each sample times its weight.

    Args:
        prediction: the model's answer, [B, C, H, W], any float dtype.
        target: what it should be, [B, C, H, W] float32.
        snr: [B] float32.
        config: which weights apply.
        prediction_type: what is predicted.
        mask: weight of each place, [B, 1, H, W] float32 in 0..1. The mean is over all places, as the reference,
            unless `normalize_mask` divides it by the mask's own mean.

    Returns:
        [B] float32.
    """
    errors = (prediction.float() - target).square()
    loss = errors.mean(dim=(1, 2, 3)) if mask is None else (errors * mask).mean(dim=(1, 2, 3))
    if mask is not None and config.normalize_mask:
        loss = loss / mask.mean(dim=(1, 2, 3)).clamp(min=LEAST_MASK)
    if config.min_snr_gamma:
        loss = loss * min_snr_weight(snr, config.min_snr_gamma, prediction_type)
    return loss
