"""Make a large UNet or VAE on a CPU compute as fast as the processor allows."""

from __future__ import annotations

import logging
from typing import Any

import torch

from coinage.models.cpu_attention import use_cpu_attention
from coinage.models.process_fit import MOST_SMALL_PARAMETERS
from coinage.models.relaid import (
    is_fit,
    is_for_winograd,
    parameter_count,
    problem_with,
    relay_weights,
)
from coinage.models.winograd import WinogradConvolution

log = logging.getLogger("coinage")


def use_cpu_layers(unet: Any) -> None:
    """Lay out the weights of a large frozen UNet on a CPU, and choose the faster attention, in place.

    The layers of a small one take microseconds: calls from Python would cost more than they gain.
    """
    if parameter_count(unet) < MOST_SMALL_PARAMETERS:
        return
    from coinage.models.folded import fold_upsamplers  # imports diffusers

    unused = fold_upsamplers(unet)
    relay_weights(unet, but=unused)
    use_cpu_attention(unet)


def use_cpu_vae(vae: torch.nn.Module) -> None:
    """Make a large frozen VAE in float32 on a CPU convolve with fewer products, in place."""
    if parameter_count(vae) < MOST_SMALL_PARAMETERS:
        return
    layers = [
        layer
        for layer in vae.modules()
        if isinstance(layer, torch.nn.Conv2d) and is_fit(layer) and is_for_winograd(layer)
    ]
    problem = problem_with(list(layers))
    if problem:
        log.info("note: this PyTorch computes the VAE's layers the slower way: %s", problem)
        return
    for layer in layers:
        layer.__class__ = WinogradConvolution
