"""Make a large UNet on a CPU compute as fast as the processor allows."""

from __future__ import annotations

from typing import Any

from coinage.models.cpu_attention import use_cpu_attention
from coinage.models.process_fit import MOST_SMALL_PARAMETERS
from coinage.models.relaid import parameter_count, relay_weights


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
