"""FLUX.1 (Black Forest Labs 2024): dev, schnell, and models made from them.

A transformer that learns by flow matching. It reads the states of T5, and of CLIP only the vector at
the end of a text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.flow import FlowSchedule, flow_schedule
from coinage.models.base import Components, Conditioning
from coinage.models.clip_text import at_end, join_chunks, rows_and_weights, weigh
from coinage.models.detect import UNET
from coinage.models.facts import FamilyFacts
from coinage.models.flow_loading import load_transformer, note_length, sampler_settings
from coinage.models.flux_layout import READS_GUIDANCE, converted, settings_of
from coinage.models.guidance import READS
from coinage.models.loading import Build, Source, load_parts
from coinage.models.packing import pack, places, unpack

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

log = logging.getLogger("coinage")
# Embedded in training, as the examples of diffusers do: at 1 a model that was distilled from
# guidance predicts what flow matching asks for
GUIDANCE_IN_TRAINING = 1.0
PLACE_AXES = 3  # of a token: one that all share, row and column


@dataclass(frozen=True, slots=True)
class Flux:
    """FLUX.1, with or without a guidance embedding."""

    facts: FamilyFacts

    @property
    def name(self) -> str:
        return self.facts.name

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        note_length(model, self.facts)
        if model.clip_skip:
            what = "of CLIP it reads the last layer alone"
            log.info("note: --clip_skip has no effect on %s: %s", self.facts.display_name, what)
        return load_parts(
            replace(model, clip_skip=None), dtype, self.facts, Build(_transformer, _schedule)
        )

    def encode(
        self, parts: Components, captions: Sequence[str], sizes: Tensor, *, weighted: bool = False
    ) -> Conditioning:
        """Return the last states of T5 [B, 512, D], and CLIP's states at the ends of the texts [B, P].

        Weights act on T5's states.
        """
        if not weighted:
            ids = [ids.to(parts.device) for ids in parts.token_ids(captions)]
            return self.encode_ids(parts, ids, sizes)
        found = [rows_and_weights(words, captions, parts.chunks) for words in parts.word_encoders]
        made = self.encode_ids(parts, [ids.to(parts.device) for ids, _ in found], sizes)
        _, weights = found[1]
        return replace(
            made, encoder_hidden_states=weigh(made.encoder_hidden_states, weights, keep_mean=False)
        )

    def joined(self, rows: Tensor, chunks: int) -> Tensor:
        return join_chunks(rows, chunks)

    def encode_ids(
        self,
        parts: Components,
        ids: Sequence[Tensor],
        sizes: Tensor,  # noqa: ARG002 - of SDXL
    ) -> Conditioning:
        clip, t5 = parts.text_encoders
        (end_id,) = parts.word_encoders[0].row_format.end
        pooled = at_end(clip(ids[0]).last_hidden_state, ids[0], end_id)
        return Conditioning(t5(ids[1]).last_hidden_state, pooled)  # padding is read as any token

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        dtype, patch = parts.dtype, self.facts.patch
        height, width = noisy_latents.shape[-2:]
        text = cond.encoder_hidden_states.to(dtype)
        guidance = None
        if parts.denoiser.config.get(READS):
            guidance = torch.full_like(timesteps, GUIDANCE_IN_TRAINING, dtype=torch.float32)
        with parts.own_precision():
            tokens: Tensor = parts.denoiser(
                hidden_states=pack(noisy_latents.to(dtype), patch),
                timestep=timesteps,  # a share of noise, not of 1000 steps
                guidance=guidance,
                encoder_hidden_states=text,
                pooled_projections=cast(Tensor, cond.pooled).to(dtype),
                img_ids=places(height // patch, width // patch, text.device, dtype),
                txt_ids=text.new_zeros(text.shape[1], 3),
            ).sample
        return unpack(tokens, height, width, patch)

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        from diffusers import FluxPipeline

        pipeline = FluxPipeline(
            transformer=parts.denoiser,
            scheduler=cast(Any, scheduler),
            vae=parts.vae,
            text_encoder=parts.text_encoders[0],
            tokenizer=cast(Any, parts.tokenizers[0]),
            text_encoder_2=parts.text_encoders[1],
            tokenizer_2=cast(Any, parts.tokenizers[1]),
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _schedule(source: Source, model: ModelConfig) -> tuple[FlowSchedule, Mapping[str, Any]]:  # noqa: ARG001
    """Return the schedule of a model's scheduler settings, and the settings.

    The settings for single files are those of dev, whose files alone read a guidance.
    """
    settings = sampler_settings(source)
    if source.tensors is not None and f"{UNET}{READS_GUIDANCE}" not in source.tensors:
        settings |= {"shift": 1.0, "use_dynamic_shifting": False}
    return flow_schedule(settings), settings


def _transformer(source: Source, dtype: torch.dtype) -> Any:
    """Load the transformer in `dtype`."""
    from diffusers import FluxTransformer2DModel

    transformer = load_transformer(source, dtype, FluxTransformer2DModel, settings_of, converted)
    axes, head = transformer.config.axes_dims_rope, transformer.config.attention_head_dim
    if len(axes) != PLACE_AXES or sum(axes) != head or any(axis % 2 for axis in axes):
        raise ValueError(f"`axes_dims_rope` is {list(axes)}, and a head is {head} wide")
    return transformer
