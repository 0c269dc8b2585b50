"""Losses per sample, in float32."""

from __future__ import annotations

from torch import Tensor

from coinage.config import LossConfig
from coinage.data_config import LEAST_MASK
from coinage.diffusion.schedule import NoiseSchedule


def errors(
    prediction: Tensor,
    target: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    config: LossConfig,
) -> Tensor:
    """Return the error of each number, in the shape of `target`; float32.

    With d = prediction - target: l2 d^2; l1 |d|; huber 2 c (sqrt(d^2 + c^2) - c); smooth_l1 the same
    without the first c (pseudo-Huber; Patil et al. 2024, arXiv:2403.16728, scaled as in sd-scripts).
    """
    d = prediction.float() - target
    if config.kind == "l2":
        return d.square()
    if config.kind == "l1":
        return d.abs()
    c = schedule.huber_threshold(times, config).view(-1, *[1] * (d.ndim - 1))
    # 2 (sqrt(d^2 + c^2) - c), without its rounding error
    soft = 2 * d.square() / ((d.square() + c.square()).sqrt() + c)
    return c * soft if config.kind == "huber" else soft


def loss_per_sample(
    prediction: Tensor,
    target: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    config: LossConfig,
    mask: Tensor | None = None,
    prior: Tensor | None = None,
) -> Tensor:
    """Return the mean error of each sample times its weight.

    Args:
        prediction: of the model, [B, C, H, W], any float dtype.
        target: correct answer, [B, C, H, W] float32.
        times: of the schedule, [B].
        schedule: weighs the times.
        config: which error, which weights.
        mask: weight of each place, [B, 1, H, W] float32 in 0..1. The mean is over all places, as in
            sd-scripts, unless `normalize_mask` divides it by the mask's own mean. `unmasked_weight`
            is its least weight.
        prior: what the prediction should be where the mask hides the image, [B, C, H, W] float32;
            `mask_prior_weight` times this error is added, weighed by 1 - mask.

    Returns:
        [B] float32.
    """
    error = errors(prediction, target, times, schedule, config)
    if mask is None:
        loss = error.mean(dim=(1, 2, 3))
    else:
        if config.unmasked_weight:
            mask = mask.clamp(min=config.unmasked_weight)
        loss = _masked_mean(error, mask, config)
        if config.mask_prior_weight and prior is not None:
            hidden = errors(prediction, prior, times, schedule, config)
            loss = loss + config.mask_prior_weight * _masked_mean(hidden, 1 - mask, config)
    return loss * schedule.loss_weight(times, config)


def _masked_mean(error: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Return the mean of errors times a mask, [B]; divided by the mask's own mean where that is set."""
    loss = (error * mask).mean(dim=(1, 2, 3))
    if config.normalize_mask:
        loss = loss / mask.mean(dim=(1, 2, 3)).clamp(min=LEAST_MASK)
    return loss
