"""Stable Diffusion 1.x and 2.x: one text encoder, whose last hidden states the UNet reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.models.base import Components, Conditioning
from coinage.models.clip_text import (
    hidden_states,
    join_chunks,
    rows_and_weights,
    weigh,
    whole_chunks,
)
from coinage.models.facts import FamilyFacts
from coinage.models.loading import load_parts
from coinage.models.text_encoder_sizes import check_clip_skip

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, slots=True)
class StableDiffusion:
    """A family with one text encoder: CLIP-L, or OpenCLIP's."""

    facts: FamilyFacts

    @property
    def name(self) -> str:
        return self.facts.name

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        parts = load_parts(model, dtype, self.facts)
        check_clip_skip(model, parts.text_encoders[0].config.num_hidden_layers)
        return parts

    def encode(
        self,
        parts: Components,
        captions: Sequence[str],
        sizes: Tensor,
        *,
        weighted: bool = False,
    ) -> Conditioning:
        if not weighted:
            ids = [ids.to(parts.device) for ids in parts.token_ids(captions)]
            return self.encode_ids(parts, ids, sizes)
        # Pictures are drawn as in the tools that draw; training joins the rows of a long caption as
        # sd-scripts does.
        rows, weights = rows_and_weights(parts.word_encoders[0], captions, parts.chunks)
        states = hidden_states(parts.text_encoders[0], rows.to(parts.device), parts.clip_skip)
        joined = self.joined(states, parts.chunks)
        return Conditioning(weigh(joined, self.joined(weights, parts.chunks), keep_mean=True))

    def joined(self, rows: Tensor, chunks: int) -> Tensor:
        return whole_chunks(rows, chunks)

    def encode_ids(
        self,
        parts: Components,
        ids: Sequence[Tensor],
        sizes: Tensor,  # noqa: ARG002 - of SDXL
    ) -> Conditioning:
        states = hidden_states(parts.text_encoders[0], ids[0], parts.clip_skip)
        return Conditioning(join_chunks(states, parts.chunks))

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        dtype = parts.dtype
        with parts.own_precision():
            prediction: Tensor = parts.denoiser(
                noisy_latents.to(dtype), timesteps, cond.encoder_hidden_states.to(dtype)
            ).sample
        return prediction

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=parts.vae,
            text_encoder=parts.text_encoders[0],
            tokenizer=cast(Any, parts.tokenizers[0]),
            unet=parts.denoiser,
            scheduler=cast(Any, scheduler),
            safety_checker=cast(Any, None),
            feature_extractor=cast(Any, None),
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
