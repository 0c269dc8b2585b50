"""What Stable Diffusion 1.x and 2.x share: one text encoder, whose last hidden states the UNet reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.families.base import Components, Conditioning
from coinage.families.clip_text import hidden_states, join_chunks, rows_and_weights, weigh
from coinage.families.loading import make_schedule, open_source
from coinage.tokenizer_files import find_tokenizer
from coinage.words import CHUNK, Tokenizer

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


log = logging.getLogger("coinage")


def load_tokenizer(model: ModelConfig, name: str) -> Tokenizer:
    """A text encoder's tokenizer, wherever it is found."""
    from transformers import CLIPTokenizer

    return cast(Tokenizer, CLIPTokenizer.from_pretrained(find_tokenizer(model.source, name, model.tokenizer_cache)))


def load_parts(model: ModelConfig, dtype: torch.dtype, family: str) -> Components:
    """The parts of a model with one text encoder, frozen.

    Raises:
        CoinageError: the file cannot be read, or `--clip_skip` has no such layer.
    """
    source = open_source(model, family, dtype)
    config = source.scheduler_config(model)
    if family == "sd2" and source.tensors is not None and model.prediction_type is None:
        log.info("note: a file does not tell what a 2.x model predicts: noise is taken; the 768 px models need --v_parameterization")
    schedule = make_schedule(model, config)
    tokenizer = load_tokenizer(model, "tokenizer")
    encoder = source.text_encoder("text_encoder", torch.float32)
    layers = encoder.config.num_hidden_layers
    if model.clip_skip and model.clip_skip > layers:
        raise CoinageError(f"--clip_skip {model.clip_skip}: the text encoder has {layers} layers", model.source)
    return Components(
        tokenizers=(tokenizer,),
        text_encoders=(encoder,),
        vae=source.vae(model, torch.float32 if model.full_precision_vae else dtype),
        denoiser=source.unet(dtype),
        schedule=schedule,
        scheduler_config={**config, "prediction_type": schedule.prediction_type},
        clip_skip=model.clip_skip,
        chunks=model.max_token_length // CHUNK,
        pad_ids=(pad_id(tokenizer) if family == "sd2" else tokenizer.pad_token_id,),
    ).frozen()


def pad_id(tokenizer: Tokenizer) -> int:
    """What OpenCLIP's text encoders are padded with: id 0, which is `!`."""
    return tokenizer.get_vocab().get("!", tokenizer.pad_token_id)


def encode(parts: Components, captions: Sequence[str], *, weighted: bool) -> Conditioning:
    """The text encoder's hidden states for B captions."""
    rows, weights = rows_and_weights(parts.word_encoders[0], captions, parts.chunks, weighted=weighted)
    states = hidden_states(parts.text_encoders[0], rows.to(parts.device), parts.clip_skip)
    return Conditioning(weigh(join_chunks(states, parts.chunks), weights, parts.chunks, keep_mean=True))


def predict(parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
    """The UNet's answer, [B, C, H, W]."""
    dtype = parts.denoiser.dtype
    prediction: Tensor = parts.denoiser(noisy_latents.to(dtype), timesteps, cond.encoder_hidden_states.to(dtype)).sample
    return prediction


def pipeline(parts: Components, scheduler: object) -> DiffusionPipeline:
    """A diffusers pipeline over the same parts."""
    from diffusers import StableDiffusionPipeline

    made = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoders[0],
        tokenizer=cast(Any, parts.tokenizers[0]),
        unet=parts.denoiser,
        scheduler=cast(Any, scheduler),
        safety_checker=cast(Any, None),
        feature_extractor=cast(Any, None),
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made
