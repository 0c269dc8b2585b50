"""Place a loaded model: device, dtype, 8-bit weights, checkpointing, compilation."""

from __future__ import annotations

import logging

import torch

from coinage.config import ModelConfig
from coinage.models.base import Components
from coinage.models.cpu_layers import use_cpu_layers
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.families import FAMILIES

log = logging.getLogger("coinage")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_placed(config: ModelConfig, device: torch.device) -> tuple[Components, torch.dtype]:
    """Load a frozen model and make it ready for training.

    Returns:
        The model on its device, and the dtype that it computes in.

    Raises:
        CoinageError: the model cannot be used.
    """
    dtype = working_dtype(config.precision, device)
    parts = FAMILIES[config.family].load(config, dtype)
    lower_linear_layers(parts, dtype)
    if config.fp8_unet:
        # Before it is moved: a GPU that holds 8 bits need not hold 16
        keep_in_eight_bits(parts.denoiser)
    for module in parts.modules():
        module.to(device)
    if config.gradient_checkpointing:
        checkpoint_gradients(parts)
    if config.compile_backend:
        parts.denoiser.compile(backend=config.compile_backend)
    elif device.type == "cpu":
        use_cpu_layers(parts.denoiser)
    return parts, dtype


def working_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the frozen parts; fp16 on a CPU becomes bf16, which is logged."""
    if precision == "fp16" and device.type == "cpu":
        log.info("--mixed_precision fp16 is for GPUs: bf16 is used on this CPU")
        return torch.bfloat16
    return DTYPES[precision]


def lower_linear_layers(parts: Components, dtype: torch.dtype) -> None:
    """Keep the text encoders' linear layers in the dtype in which autocast computes them.

    The results are the same bit for bit, and no step needs to cast them.
    """
    for encoder in parts.text_encoders:
        for layer in encoder.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.to(dtype)


def checkpoint_gradients(parts: Components) -> None:
    """Make UNet and text encoders compute activations twice instead of keeping them."""
    parts.denoiser.enable_gradient_checkpointing()
    for encoder in parts.text_encoders:
        # transformers renamed the method; its old name warns
        enable = getattr(encoder, "activation_checkpointing_enable", None)
        enable = enable or encoder.gradient_checkpointing_enable
        enable()
    for module in (parts.denoiser, *parts.text_encoders):
        module.train()  # checkpointing is skipped in eval mode; there is no dropout
