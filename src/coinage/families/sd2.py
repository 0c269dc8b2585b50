"""Stable Diffusion 2.x: one OpenCLIP-H text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.families import stable_diffusion as shared
from coinage.families.base import Components, Conditioning

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class SD2:
    """Stable Diffusion 2.x."""

    name = "sd2"
    architecture = "stable-diffusion-v2-512"
    default_size = 768
    embedding_keys = ("emb_params",)

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        return shared.load_parts(model, dtype, self.name)

    def encode(self, parts: Components, captions: Sequence[str], sizes: Tensor, *, weighted: bool = False) -> Conditioning:  # noqa: ARG002 - sizes are SDXL's
        return shared.encode(parts, captions, weighted=weighted)

    def predict(self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        return shared.predict(parts, noisy_latents, timesteps, cond)

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        return shared.pipeline(parts, scheduler)
