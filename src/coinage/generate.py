"""Draw prompts: previews during training and pictures after it, through one piece of code."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial, wraps
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coinage.diffusion.schedule import alphas_cumprod_from_betas, rescale_zero_terminal_snr
from coinage.errors import CoinageError
from coinage.models.base import Components, ModelFamily
from coinage.models.guidance import guidance_of
from coinage.models.packing import unpack
from coinage.models.vae import in_memory, placed, widened
from coinage.models.word_attention import Place, WordAttention, find_words, watched
from coinage.text.placeholder import CHUNK
from coinage.text.prompts import Prompt, parse_weights
from coinage.text.samplers import find_sampler

log = logging.getLogger("coinage")
# Of guidance on a schedule that ends in pure noise, which would overexpose (Lin et al. 2023, section 3.4)
GUIDANCE_RESCALE = 0.7
LEAST_SIGNAL = 2.0**-24  # of the variance, where a schedule ends in pure noise
MOST_CHUNKS = 3  # of 75 tokens, in a prompt

# Scheduler settings that describe the model, whatever the sampler
MODEL_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
)


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler of a sampler name, with the model's betas and prediction type.

    A model of flow matching is always drawn with its own sampler, Euler's.
    """
    import diffusers

    if is_flow(config):
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    sampler = find_sampler(name)
    factory = getattr(diffusers, sampler.class_name)
    parameters = inspect.signature(factory.__init__).parameters
    settings = {key: config[key] for key in MODEL_SETTINGS if key in config}
    if "steps_offset" in parameters:
        settings["steps_offset"] = 1  # as the released Stable Diffusion models
    settings |= sampler.settings
    if config.get("rescale_betas_zero_snr"):
        if "timestep_spacing" in parameters:
            # Sampling must begin at the last step, where there is only noise (Lin et al. 2023,
            # arXiv:2305.08891, section 3.3)
            settings["timestep_spacing"] = "trailing"
        if "rescale_betas_zero_snr" in parameters:
            settings["rescale_betas_zero_snr"] = True
        else:
            settings["trained_betas"] = betas_to_noise(config)
    return factory(**settings)


def betas_to_noise(config: Mapping[str, Any]) -> list[float]:
    """Return the betas of a model's schedule that ends in pure noise, for schedulers that know none such.

    They divide by the last signal variance, so it is as small as diffusers makes it in the others.
    """
    first, last = config["beta_start"], config["beta_end"]
    steps, kind = config["num_train_timesteps"], config["beta_schedule"]
    plain = alphas_cumprod_from_betas(first, last, steps, kind)
    signal = rescale_zero_terminal_snr(plain).clamp(min=LEAST_SIGNAL)
    before = torch.cat([torch.ones(1), signal[:-1]])
    betas: list[float] = (1 - signal / before).tolist()
    return betas


def is_flow(config: Mapping[str, Any]) -> bool:
    """Return whether scheduler settings are those of flow matching, which has a sampler of its own."""
    return "beta_schedule" not in config


def keep_times_at_hand(scheduler: Any) -> None:
    """Have a diffusers scheduler step at times on the CPU, where its tables are.

    A pipeline steps at times on the GPU, and each look into a table would wait for the GPU.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step
    times: list[Tensor] = []

    @wraps(set_timesteps)
    def set_and_copy(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        times[:] = reversed(scheduler.timesteps.cpu().unbind())

    @wraps(step)
    def step_at_hand(prediction: Tensor, _: Tensor, *args: Any, **kwargs: Any) -> Any:
        return step(prediction, times.pop(), *args, **kwargs)

    scheduler.set_timesteps, scheduler.step = set_and_copy, step_at_hand


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture, and where words act in it.

    Attributes:
        pixels: [H, W, 3] uint8 RGB.
        word_maps: for each installed word of the prompt, or else of the negative prompt, the attention
            to it relative to its mean over the picture, [h, w] float32, as fine as the UNet's finest
            attention.
    """

    pixels: NDArray[np.uint8]
    word_maps: Mapping[str, NDArray[np.float32]]


def draw(
    family: ModelFamily,
    parts: Components,
    prompts: Sequence[Prompt],
    batch_size: int = 1,
    autocast: AbstractContextManager[object] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Draw each prompt, and yield [H, W, 3] uint8 RGB pictures in the order of the prompts.

    A prompt's picture depends on its seed alone, not on its neighbours in the batch; prompts in one
    batch must agree in everything but text, negative and seed. Global randomness is left untouched.
    Text is encoded under `autocast`; UNet and VAE work in their own precision.
    """
    for drawn in draw_with_maps(family, parts, prompts, batch_size, autocast, show_words=False):
        yield drawn.pixels


@torch.no_grad()
def draw_with_maps(
    family: ModelFamily,
    parts: Components,
    prompts: Sequence[Prompt],
    batch_size: int = 1,
    autocast: AbstractContextManager[object] | None = None,
    *,
    show_words: bool = True,
) -> Iterator[Drawn]:
    """Draw each prompt as `draw` does, to the same bits, and see where the installed words act.

    Without `show_words` there are no maps, and nothing is computed for them.
    """
    for chunks, batch in _alike(family, parts, prompts, batch_size):
        prepared = replace(parts, chunks=chunks)
        places = _places(family, prepared, batch) if show_words else []
        attention = WordAttention(places) if places else None
        watching = watched(parts.denoiser, attention.add) if attention else nullcontext()
        with watching, autocast or nullcontext():
            latents = _sample(family, prepared, batch)
        images = (_decode(parts, latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        maps: list[dict[str, NDArray[np.float32]]] = [{} for _ in batch]
        if attention:
            height, width = latents.shape[-2:]
            for place, word_map in zip(places, attention.maps((height, width)), strict=True):
                maps[place.text][place.word] = word_map.numpy()
        for image, word_maps in zip(images, maps, strict=True):
            yield Drawn((image * 255).round().astype(np.uint8), word_maps)


def _places(family: ModelFamily, parts: Components, prompts: Sequence[Prompt]) -> list[Place]:
    """Return where the installed words stand in prompts that share their settings."""
    if not family.facts.cross_attends:
        return []
    (scale,) = guidance_of(family.facts, parts, prompts[0].scale).values()
    # Without guidance the pipeline does not read negative prompts
    negatives = [prompt.negative for prompt in prompts] if scale > 1 else []
    return find_words(family, parts, [prompt.text for prompt in prompts], negatives)


def _decode(parts: Components, latents: Tensor) -> Tensor:
    """Decode latents to pixels, [B, 3, H, W] float32 around -1..1.

    A VAE that overflows computes in a wider precision from then on.

    Raises:
        CoinageError: the pixels are not finite even in float32.
    """
    vae = parts.vae
    while True:
        with placed(vae, parts.device, vae.dtype):
            pixels = _decoded(parts, parts.unscaled(latents.to(vae.dtype))).float()
        if torch.isfinite(pixels).all():
            return pixels
        if not widened(vae, parts.device):
            break
    raise CoinageError("the picture is not finite", hint="try --precision no, or another VAE")


def _decoded(parts: Components, latents: Tensor) -> Tensor:
    """Decode latents, part by part where they would not fit in the GPU's memory as a whole."""
    vae: Any = parts.vae

    def decoded() -> Tensor:
        pixels: Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels

    side = max(latents.shape[-2:])
    return in_memory(vae, decoded, len(latents), side, sparing=parts.low_memory)


def _chunks(family: ModelFamily, parts: Components, prompt: Prompt) -> int:
    """Return how many chunks of 75 tokens a prompt takes, the negative one included."""
    longest = 1
    for words in parts.word_encoders:
        for text in (prompt.text, prompt.negative):
            longest = max(longest, words.chunks_of(parse_weights(text, words.names)))
    most = min(MOST_CHUNKS, family.facts.most_chunks)
    read = family.facts.chunks_read(most)
    if longest > read:
        log.warning(
            "a prompt is longer than %d tokens; the rest is cut: %s",
            read * CHUNK,
            prompt.text,
        )
    least = parts.chunks if family.facts.fills_prompts else 1
    return min(max(longest, least), most)


def _alike(
    family: ModelFamily, parts: Components, prompts: Sequence[Prompt], most: int
) -> Iterator[tuple[int, Sequence[Prompt]]]:
    """Yield runs of at most `most` prompts that take equally many chunks, after that number."""
    for chunks, group in groupby(prompts, key=partial(_chunks, family, parts)):
        alike = list(group)
        for first in range(0, len(alike), most):
            yield chunks, alike[first : first + most]


def _sample(family: ModelFamily, parts: Components, prompts: Sequence[Prompt]) -> Tensor:
    """Sample latents [B, C, h, w] for prompts that share everything but text, negative and seed."""
    first = prompts[0]
    scheduler = make_scheduler(first.sampler, parts.scheduler_config)
    keep_times_at_hand(scheduler)
    pipeline: Any = family.pipeline(parts, scheduler)
    facts = family.facts
    width, height = (
        (side or facts.side) // facts.size_unit * facts.size_unit
        for side in (first.width, first.height)
    )
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
    ends_in_noise = parts.scheduler_config.get("rescale_betas_zero_snr")
    rescale = {"guidance_rescale": GUIDANCE_RESCALE} if ends_in_noise else {}
    with parts.own_precision():
        latents: Tensor = pipeline(
            prompt_embeds=cond.encoder_hidden_states.to(dtype),
            negative_prompt_embeds=blank.encoder_hidden_states.to(dtype),
            width=width,
            height=height,
            num_inference_steps=min(first.steps, parts.scheduler_config["num_train_timesteps"] - 1),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
            **guidance_of(facts, parts, first.scale),
            **pooled,
            **rescale,
        ).images
    if facts.packs:
        scale = pipeline.vae_scale_factor  # of this model's own VAE
        return unpack(latents, height // scale, width // scale, facts.patch)
    return latents
