"""Turn on everything that saves GPU memory. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from coinage.config import TrainConfig


def in_low_memory(config: TrainConfig, *, streamed: bool = False) -> tuple[TrainConfig, list[str]]:
    """Return a run that takes as little GPU memory as it can, and a line for each change.

    Images, batches and steps stay as they are.

    Args:
        config: of a run that computes in half precision.
        streamed: also copy the denoiser's weights to the GPU whenever they are needed.
    """
    model, data = config.model, config.data
    varied = any(s.images.vary_pixels for dataset in data.datasets for s in dataset.subsets)
    lines = []
    if not (data.cache_latents or varied):
        lines.append("images are encoded before the training, and the VAE leaves the GPU")
        data = replace(data, cache_latents=True)
    if data.vae_batch_size > 1:
        lines.append("images are encoded one by one")
        data = replace(data, vae_batch_size=1)
    if not model.gradient_checkpointing:
        lines.append("activations are computed twice instead of being kept")
    if not model.fp8_unet:
        lines.append("the weights of the UNet or transformer are kept in 8 bits")
    if not model.low_memory:
        lines += [
            "the text encoders' weights are kept in 8 bits, and their token tables off the GPU",
            "previews are decoded in tiles",
            "the loss is measured on one image at a time",
        ]
    if streamed and not model.streamed:
        lines.append(
            "the weights of the UNet or transformer stay off the GPU, which gets them when it needs them"
        )
    model = replace(
        model,
        gradient_checkpointing=True,
        fp8_unet=True,
        low_memory=True,
        streamed=streamed or model.streamed,
    )
    return replace(config, model=model, data=data), [f"to save memory: {line}" for line in lines]
