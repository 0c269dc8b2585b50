"""Prompts to images: previews during training and pictures after it, through one piece of code."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coinage.data.latents import in_memory, placed
from coinage.errors import CoinageError
from coinage.models.base import Components, ModelFamily
from coinage.text.placeholder import CHUNK
from coinage.text.prompts import Prompt, parse_weights

log = logging.getLogger("coinage")
# Of guidance on a schedule that ends in pure noise, which overexposes else (Lin et al. 2023, section 3.4)
RESCALE = 0.7
MOST_CHUNKS = 3  # of 75 tokens, in a prompt

# Sampler name -> diffusers class and what differs from the model's own scheduler settings.
SAMPLERS: dict[str, tuple[str, dict[str, object]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {"clip_sample": False}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
}


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler of a sampler name, with the model's betas and prediction type."""
    import diffusers

    class_name, changes = SAMPLERS[name.removeprefix("k_")]
    keep = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
    factory = getattr(diffusers, class_name)
    takes = inspect.signature(factory.__init__).parameters
    if "steps_offset" in takes:
        changes = {"steps_offset": 1, **changes}  # as the released Stable Diffusion models
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" in takes:
        # Sampling must begin at the last step, where there is only noise (Lin et al. 2023, arXiv:2305.08891, section 3.3).
        changes = {**changes, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return factory(**{k: config[k] for k in keep if k in config}, **changes)


@torch.no_grad()
def draw(
    family: ModelFamily,
    parts: Components,
    prompts: Sequence[Prompt],
    batch_size: int = 1,
    autocast: AbstractContextManager[object] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Draw each prompt: yields [H, W, 3] uint8 RGB, in order.

    A prompt's picture depends on its seed alone, not on its neighbours in the batch; prompts in one
    batch must agree in everything but text, negative and seed. Global randomness is left untouched.
    The VAE works in its own precision, outside of `autocast`.
    """
    for chunks, batch in _alike(parts, prompts, batch_size):
        with autocast or nullcontext():
            latents = _sample(family, replace(parts, chunks=chunks), batch)
        images = (_decode(parts, latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        yield from (images * 255).round().astype(np.uint8)


def _decode(parts: Components, latents: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] float32 around -1..1; in float32 where the VAE overflows, as SDXL's own does in fp16.

    Raises:
        CoinageError: not finite even so.
    """
    for dtype in dict.fromkeys((parts.vae.dtype, torch.float32)):
        with placed(parts.vae, parts.device, dtype):
            pixels = _decoded(parts.vae, latents.to(dtype) / parts.scaling_factor).float()
        if torch.isfinite(pixels).all():
            return pixels
    raise CoinageError("the picture is not finite", hint="try --precision no, or another VAE")


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    """What the VAE makes of latents; part by part where it would not fit in the GPU's memory as a whole."""

    def decoded() -> Tensor:
        pixels: Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels

    return in_memory(vae, decoded, len(latents), max(latents.shape[-2:]))


def _chunks(parts: Components, prompt: Prompt) -> int:
    """Chunks of 75 tokens that a prompt takes, the negative one included."""
    texts = (prompt.text, prompt.negative)
    longest = max(
        words.chunks_of(parse_weights(text, words.names))
        for words in parts.word_encoders
        for text in texts
    )
    if longest > MOST_CHUNKS:
        log.warning(
            "a prompt is longer than %d tokens; the rest is cut: %s",
            MOST_CHUNKS * CHUNK,
            prompt.text,
        )
    # sd-scripts fills SDXL's prompts to the length of training, no other's
    least = parts.chunks if len(parts.text_encoders) > 1 else 1
    return min(max(longest, least), MOST_CHUNKS)


def _alike(
    parts: Components, prompts: Sequence[Prompt], most: int
) -> Iterator[tuple[int, Sequence[Prompt]]]:
    """Runs of at most `most` prompts that take equally many chunks, and how many."""
    for chunks, group in groupby(prompts, key=partial(_chunks, parts)):
        rest = list(group)
        yield from ((chunks, rest[i : i + most]) for i in range(0, len(rest), most))


def _sample(family: ModelFamily, parts: Components, prompts: Sequence[Prompt]) -> Tensor:
    """Latents [B, 4, h, w] of prompts that share all but text, negative and seed."""
    first = prompts[0]
    pipeline: Any = family.pipeline(parts, make_scheduler(first.sampler, parts.scheduler_config))
    width, height = first.width or family.default_size, first.height or family.default_size
    sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts))
    cond = family.encode(parts, [p.text for p in prompts], sizes, weighted=True)
    blank = family.encode(parts, [p.negative for p in prompts], sizes, weighted=True)
    seeds = [secrets.randbits(32) if p.seed is None else p.seed for p in prompts]
    dtype = parts.dtype
    pooled: dict[str, Tensor] = {}
    if cond.pooled is not None and blank.pooled is not None:
        pooled = {
            "pooled_prompt_embeds": cond.pooled.to(dtype),
            "negative_pooled_prompt_embeds": blank.pooled.to(dtype),
        }
    latents: Tensor = pipeline(
        prompt_embeds=cond.encoder_hidden_states.to(dtype),
        negative_prompt_embeds=blank.encoder_hidden_states.to(dtype),
        width=width,
        height=height,
        num_inference_steps=min(first.steps, parts.schedule.num_timesteps - 1),
        guidance_scale=first.scale,
        guidance_rescale=RESCALE if parts.scheduler_config.get("rescale_betas_zero_snr") else 0.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
        **pooled,
    ).images
    return latents
