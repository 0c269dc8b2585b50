"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952).

CLIP-L and OpenCLIP-bigG side by side, a pooled vector, and the picture's sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.models.base import Components, Conditioning
from coinage.models.clip_text import join_chunks, pool, rows_and_weights, weigh
from coinage.models.facts import FamilyFacts
from coinage.models.loading import load_parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

log = logging.getLogger("coinage")


@dataclass(frozen=True, slots=True)
class StableDiffusionXL:
    """Stable Diffusion XL, base model."""

    facts: FamilyFacts

    @property
    def name(self) -> str:
        return self.facts.name

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        if model.clip_skip:
            log.info(
                "note: --clip_skip has no effect on SDXL, whose UNet reads the second-to-last layers"
            )
        return load_parts(replace(model, clip_skip=None), dtype, self.facts)

    def encode(
        self, parts: Components, captions: Sequence[str], sizes: Tensor, *, weighted: bool = False
    ) -> Conditioning:
        """Return the second-to-last hidden states of both encoders, and the second's pooled vector.

        The hidden states are without the final norm.
        """
        if not weighted:
            ids = [ids.to(parts.device) for ids in parts.token_ids(captions)]
            return self.encode_ids(parts, ids, sizes.to(parts.device))
        found = [rows_and_weights(words, captions, parts.chunks) for words in parts.word_encoders]
        states, pooled = _states(parts, [ids.to(parts.device) for ids, _ in found])
        weighed = []
        for hidden, (_, weights) in zip(states, found, strict=True):
            weighed.append(weigh(hidden, self.joined(weights, parts.chunks), keep_mean=False))
        return Conditioning(torch.cat(weighed, dim=-1), pooled, sizes.to(parts.device))

    def joined(self, rows: Tensor, chunks: int) -> Tensor:
        return join_chunks(rows, chunks)

    def encode_ids(self, parts: Components, ids: Sequence[Tensor], sizes: Tensor) -> Conditioning:
        states, pooled = _states(parts, ids)
        return Conditioning(torch.cat(states, dim=-1), pooled, sizes)

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        dtype = parts.dtype
        added = {
            "text_embeds": cast(Tensor, cond.pooled).to(dtype),
            "time_ids": cast(Tensor, cond.time_ids),
        }
        hidden = cond.encoder_hidden_states.to(dtype)
        with parts.own_precision():
            prediction: Tensor = parts.denoiser(
                noisy_latents.to(dtype), timesteps, hidden, added_cond_kwargs=added
            ).sample
        return prediction

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline(
            vae=parts.vae,
            text_encoder=parts.text_encoders[0],
            text_encoder_2=parts.text_encoders[1],
            tokenizer=cast(Any, parts.tokenizers[0]),
            tokenizer_2=cast(Any, parts.tokenizers[1]),
            unet=parts.denoiser,
            scheduler=cast(Any, scheduler),
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _states(parts: Components, ids: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | None]:
    """Return the second-to-last hidden states of each text encoder, joined, and the pooled vectors.

    Args:
        parts: of the model.
        ids: of B captions for each text encoder, [B * chunks, 77] on the model's device.
    """
    states, pooled = [], None
    for encoder, words, rows in zip(parts.text_encoders, parts.word_encoders, ids, strict=True):
        output: Any = encoder(rows, output_hidden_states=True)
        states.append(join_chunks(output.hidden_states[-2], parts.chunks))
        if hasattr(encoder, "text_projection"):
            (end_id,) = words.row_format.end
            projected = pool(encoder, output.last_hidden_state, rows, end_id)
            pooled = projected[:: parts.chunks]
    return states, pooled
