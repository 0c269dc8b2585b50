"""Place a loaded model: device, dtype, 8-bit weights, checkpointing, compilation."""

from __future__ import annotations

import logging

import torch
from torch.utils.checkpoint import checkpoint

from coinage.config import AUTO_PRECISION, ModelConfig
from coinage.models.base import Components
from coinage.models.compilation import compile_denoiser
from coinage.models.cpu_layers import use_cpu_layers, use_cpu_vae
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.families import FAMILIES
from coinage.models.fewer_kernels import join_kernels
from coinage.models.streaming import stream
from coinage.models.token_embedding import TokenEmbedding
from coinage.models.vae import wider
from coinage.system.accelerator import look_at

log = logging.getLogger("coinage")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_unplaced(config: ModelConfig, device: torch.device) -> tuple[Components, torch.dtype]:
    """Load a frozen model and make it ready for training, with the VAE alone on the device.

    `place` moves the rest, which images that are encoded before need not share the memory with.

    Returns:
        The model, and the dtype that it computes in.

    Raises:
        CoinageError: the model cannot be used.
    """
    dtype = working_dtype(config.precision, device)
    parts = FAMILIES[config.family].load(config, dtype)
    if config.low_memory:
        parts.low_memory, parts.at_once = True, 1
        for encoder in parts.text_encoders:
            keep_in_eight_bits(encoder)
    lower_linear_layers(parts, dtype)
    if config.fp8_unet:
        # Before it is moved: a GPU that holds 8 bits need not hold 16
        keep_in_eight_bits(parts.denoiser)
    if config.streamed:
        stream(parts.denoiser, device)
    parts.home = device
    place_vae(parts)
    if config.gradient_checkpointing:
        checkpoint_gradients(parts)
    if config.compile_backend:
        compile_denoiser(parts.denoiser, config.compile_backend)
    elif device.type == "cpu":
        use_cpu_layers(parts.denoiser)
        use_cpu_vae(parts.vae)
    return parts, dtype


def place_vae(parts: Components) -> None:
    """Move the VAE to the model's device, in a precision in which it does not overflow."""
    dtype = parts.vae.dtype
    if dtype == torch.float16 and parts.vae.config.get("force_upcast"):
        dtype = wider(parts.device)
    # diffusers' own warns each time of parts that no VAE has
    torch.nn.Module.to(parts.vae, parts.device, dtype)


def place(parts: Components) -> None:
    """Move UNet and text encoders to the model's device, where they are not there yet.

    The rows of words are there already, and their optimizer knows them.
    """
    device = parts.device
    parts.denoiser.to(device)
    if device.type != "cpu" and not is_compiled(parts.denoiser):
        join_kernels(parts.denoiser)
    for encoder in parts.text_encoders:
        embedding = encoder.get_input_embeddings()
        encoder.set_input_embeddings(torch.nn.Identity())
        encoder.to(device)
        encoder.set_input_embeddings(embedding)
        if not isinstance(embedding, TokenEmbedding):
            embedding.to(device)
        elif not parts.low_memory:
            embedding.table = embedding.table.to(device)


def is_compiled(module: torch.nn.Module) -> bool:
    """Return whether torch compiles a module where it is called."""
    return module._compiled_call_impl is not None  # noqa: SLF001 - torch has no other name for it


def give_back_memory(device: torch.device) -> None:
    """Return memory that torch keeps for later to the device, so that others find it in one piece."""
    empty = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if empty is not None:
        empty()


def working_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the frozen parts; fp16 on a CPU becomes bf16, which is logged."""
    if precision == "fp16" and device.type == "cpu":
        log.info("--mixed_precision fp16 is for GPUs: bf16 is used on this CPU")
        return torch.bfloat16
    if precision == AUTO_PRECISION:
        precision = look_at(device).best_precision
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
    # Nothing is drawn in what is computed twice, so no generator's state need be kept
    options = {"use_reentrant": False, "preserve_rng_state": False}

    def checkpointed(module: torch.nn.Module, *args: object) -> object:
        return checkpoint(module, *args, use_reentrant=False, preserve_rng_state=False)

    parts.denoiser.enable_gradient_checkpointing(checkpointed)
    for encoder in parts.text_encoders:
        # transformers renamed the method; its old name warns
        enable = getattr(encoder, "activation_checkpointing_enable", None)
        enable = enable or encoder.gradient_checkpointing_enable
        enable(options)
    for module in (parts.denoiser, *parts.text_encoders):
        module.train()  # checkpointing is skipped in eval mode
        for layer in module.modules():
            rate = vars(layer).get("dropout")  # a number, in the attention of T5
            if isinstance(layer, torch.nn.Dropout) or (isinstance(rate, float) and rate):
                layer.training = False
