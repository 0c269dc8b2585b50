"""Have a UNet compute in its own dtype, whatever it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def computing_dtype(unet: nn.Module) -> torch.dtype:
    """Return the dtype that a UNet computes with; its weights may be stored in 8 bits.

    Raises:
        ValueError: it has no weight of 16 or 32 bits.
    """
    for parameter in unet.parameters():
        if parameter.dtype.itemsize > 1:
            return parameter.dtype
    raise ValueError("the UNet has no weight of 16 or 32 bits")


def lower_inputs(unet: nn.Module) -> None:
    """Have a diffusers UNet take latents and text in any float dtype.

    Pipelines keep latents in float32 from step to step.
    """
    unet.register_forward_pre_hook(_lowered, with_kwargs=True)


def _lowered(
    unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = computing_dtype(unet)
    positions = {0: "sample", 2: "encoder_hidden_states"}  # 1: the timestep
    names = {*positions.values(), "hidden_states", "pooled_projections"}  # of transformers too

    def lowered(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) else value

    given = [lowered(value) if i in positions else value for i, value in enumerate(args)]
    return tuple(given), {
        name: lowered(value) if name in names else value for name, value in kwargs.items()
    }
