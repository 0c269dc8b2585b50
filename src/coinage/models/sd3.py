"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206).

A transformer that learns by flow matching and reads two CLIP text encoders, and T5 where it is there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.flow import FlowSchedule, flow_schedule
from coinage.errors import CoinageError
from coinage.models.base import Components, Conditioning
from coinage.models.clip_text import join_chunks, pool, rows_and_weights, weigh
from coinage.models.facts import FamilyFacts
from coinage.models.flow_loading import WHOLE_WAY, load_transformer, note_length, sampler_settings
from coinage.models.loading import Build, Source, load_parts
from coinage.models.text_encoder_sizes import check_clip_skip

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

log = logging.getLogger("coinage")
CLIPS = 2  # text encoders of CLIP; T5 follows them
USUAL_LAYER = 2  # counted from the last one
USUAL_HEAD = 64  # width of an attention head


@dataclass(frozen=True, slots=True)
class StableDiffusion3:
    """Stable Diffusion 3 and 3.5, with or without T5."""

    facts: FamilyFacts

    @property
    def name(self) -> str:
        return self.facts.name

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        note_length(model, self.facts)
        parts = load_parts(model, dtype, self.facts, Build(_transformer, _schedule))
        layers = min(one.config.num_hidden_layers for one in parts.text_encoders[:CLIPS])
        check_clip_skip(model, layers)
        if len(parts.text_encoders) == CLIPS:
            log.info("note: the model has no T5 text encoder: the word is learned for CLIP alone")
        return parts

    def encode(
        self, parts: Components, captions: Sequence[str], sizes: Tensor, *, weighted: bool = False
    ) -> Conditioning:
        """Return the states of all text encoders, and the pooled vectors of both CLIPs.

        CLIP's are the second-to-last ones, or those of `--clip_skip`, without the final norm.
        """
        if not weighted:
            ids = [ids.to(parts.device) for ids in parts.token_ids(captions)]
            return self.encode_ids(parts, ids, sizes)
        found = [rows_and_weights(words, captions, parts.chunks) for words in parts.word_encoders]
        states, pooled = _states(parts, [ids.to(parts.device) for ids, _ in found])
        weighed = []
        for hidden, (_, weights) in zip(states, found, strict=True):
            weighed.append(weigh(hidden, self.joined(weights, parts.chunks), keep_mean=False))
        return Conditioning(self._side_by_side(parts, weighed), pooled)

    def joined(self, rows: Tensor, chunks: int) -> Tensor:
        return join_chunks(rows, chunks)

    def encode_ids(
        self,
        parts: Components,
        ids: Sequence[Tensor],
        sizes: Tensor,  # noqa: ARG002 - of SDXL
    ) -> Conditioning:
        states, pooled = _states(parts, ids)
        return Conditioning(self._side_by_side(parts, states), pooled)

    def _side_by_side(self, parts: Components, states: Sequence[Tensor]) -> Tensor:
        """Return CLIP's states, padded with zeros to the transformer's width, before T5's.

        Without T5, zeros stand in its place, as in the released pipeline.

        Args:
            parts: of the model.
            states: of each text encoder, [B, T, D] with its own T and D.
        """
        width = parts.denoiser.config.joint_attention_dim
        clip = torch.cat(list(states[:CLIPS]), dim=-1)
        clip = F.pad(clip, (0, width - clip.shape[-1]))
        length = self.facts.text_encoders[CLIPS].room + 1
        rest = states[CLIPS:] or [clip.new_zeros(len(clip), length, width)]
        return torch.cat([clip, *rest], dim=1)

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        dtype, most = parts.dtype, parts.denoiser.config.pos_embed_max_size
        unit = self.facts.size_unit
        if most and max(noisy_latents.shape[-2:]) > most * self.facts.patch:
            what = (
                f"the images are too large: the model has {most * unit} pixels along a side at most"
            )
            raise CoinageError(what, hint="lower --resolution, or --max_bucket_reso")
        with parts.own_precision():
            prediction: Tensor = parts.denoiser(
                hidden_states=noisy_latents.to(dtype),
                timestep=timesteps * WHOLE_WAY,
                encoder_hidden_states=cond.encoder_hidden_states.to(dtype),
                pooled_projections=cast(Tensor, cond.pooled).to(dtype),
            ).sample
        return prediction

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        from diffusers import StableDiffusion3Pipeline

        encoders = [*parts.text_encoders, None][: CLIPS + 1]
        tokenizers: list[Any] = [*parts.tokenizers, None][: CLIPS + 1]
        pipeline = StableDiffusion3Pipeline(
            transformer=parts.denoiser,
            scheduler=cast(Any, scheduler),
            vae=parts.vae,
            text_encoder=encoders[0],
            tokenizer=tokenizers[0],
            text_encoder_2=encoders[1],
            tokenizer_2=tokenizers[1],
            text_encoder_3=cast(Any, encoders[2]),
            tokenizer_3=tokenizers[2],
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _states(parts: Components, ids: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the hidden states of each text encoder, and CLIP's pooled vectors side by side.

    Args:
        parts: of the model.
        ids: of B captions for each text encoder, [B, T] on the model's device.
    """
    layer = parts.clip_skip or USUAL_LAYER
    states: list[Tensor] = []
    pooled: list[Tensor] = []
    for encoder, words, rows in zip(parts.text_encoders, parts.word_encoders, ids, strict=True):
        if len(states) == CLIPS:
            states.append(encoder(rows).last_hidden_state)  # padding is read as any other token
            continue
        output: Any = encoder(rows, output_hidden_states=True)
        states.append(output.hidden_states[-layer])
        (end_id,) = words.row_format.end
        pooled.append(pool(encoder, output.last_hidden_state, rows, end_id))
    return states, torch.cat(pooled, dim=-1)


def _schedule(source: Source, model: ModelConfig) -> tuple[FlowSchedule, Mapping[str, Any]]:  # noqa: ARG001
    """Return the schedule of a model's scheduler settings, and the settings."""
    settings = sampler_settings(source)
    return flow_schedule(settings), settings


def _transformer(source: Source, dtype: torch.dtype) -> Any:
    """Load the transformer in `dtype`."""
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    return load_transformer(
        source,
        dtype,
        SD3Transformer2DModel,
        settings_of,
        convert_sd3_transformer_checkpoint_to_diffusers,
    )


def settings_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the settings of a transformer in the original layout, as the shapes of its tensors show.

    Args:
        shapes: of the tensors, by their names without prefix.

    Raises:
        CoinageError: a tensor is missing.
    """
    blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("joint_blocks.")}
    twice = {int(name.split(".")[1]) for name in shapes if ".x_block.attn2." in name}
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        projected, text_width = shapes["context_embedder.weight"]
        _, pooled = shapes["y_embedder.mlp.0.weight"]
        _, places, _ = shapes["pos_embed"]
        numbers, _ = shapes["final_layer.linear.weight"]
    except (KeyError, ValueError) as error:
        what = f"the transformer lacks weights, or they have another shape: {error}"
        raise CoinageError(what, hint="download the model again") from None
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = norm[0] if norm else USUAL_HEAD
    return {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": numbers // patch**2,
        "num_layers": len(blocks),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": text_width,
        "caption_projection_dim": projected,
        "pooled_projection_dim": pooled,
        "pos_embed_max_size": math.isqrt(places),
        "dual_attention_layers": tuple(sorted(twice)),
        "qk_norm": "rms_norm" if norm else None,
    }
