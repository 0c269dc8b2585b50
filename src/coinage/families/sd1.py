"""Stable Diffusion 1.x: one CLIP-L text encoder, a UNet that reads its last hidden states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.schedule import DiffusionSchedule, alphas_cumprod_from_betas
from coinage.errors import CoinageError
from coinage.families.base import Components, Conditioning
from coinage.families.clip_text import encode_captions
from coinage.words import CHUNK, Tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline


class SD1:
    """Stable Diffusion 1.x in a diffusers folder."""

    name = "sd1"
    architecture = "stable-diffusion-v1"
    default_size = 512
    embedding_keys = ("emb_params",)

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        source = model.source
        config = _scheduler_config(source)
        schedule = DiffusionSchedule(
            alphas_cumprod_from_betas(config["beta_start"], config["beta_end"], config["num_train_timesteps"], config["beta_schedule"]),
            model.prediction_type or config.get("prediction_type", "epsilon"),
        )
        parts = Components(
            tokenizers=(cast(Tokenizer, CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")),),
            text_encoders=(CLIPTextModel.from_pretrained(source, subfolder="text_encoder", dtype=torch.float32),),
            vae=_load_vae(model, torch.float32 if model.full_precision_vae else dtype),
            denoiser=UNet2DConditionModel.from_pretrained(source, subfolder="unet", torch_dtype=dtype),
            schedule=schedule,
            scheduler_config={**config, "prediction_type": schedule.prediction_type},
            clip_skip=model.clip_skip,
            chunks=model.max_token_length // CHUNK,
        )
        layers = parts.text_encoders[0].config.num_hidden_layers
        if model.clip_skip and model.clip_skip > layers:
            raise CoinageError(f"--clip_skip {model.clip_skip}: the text encoder has {layers} layers", source)
        for module in parts.modules():
            module.requires_grad_(False).eval()
        return parts

    def encode(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        encoder, words = parts.text_encoders[0], parts.word_encoders[0]
        return Conditioning(encode_captions(encoder, words, captions, parts.clip_skip, parts.chunks, parts.device))

    def predict(self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        dtype = parts.denoiser.dtype
        hidden = cond.encoder_hidden_states.to(dtype)
        prediction: Tensor = parts.denoiser(noisy_latents.to(dtype), timesteps, hidden).sample
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


def _scheduler_config(source: str) -> Mapping[str, Any]:
    """The model's scheduler settings, from its folder or the hub.

    Raises:
        CoinageError: settings that training would get wrong.
    """
    from diffusers import DDIMScheduler

    folder = Path(source) / "scheduler" / "scheduler_config.json"
    if folder.is_file():
        config: dict[str, Any] = json.loads(folder.read_text(encoding="utf-8"))
    else:
        config = dict(DDIMScheduler.load_config(source, subfolder="scheduler"))
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    missing = [k for k in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps") if k not in config]
    odd = [k for k in ("rescale_betas_zero_snr", "trained_betas") if config.get(k)]
    odd += ["prediction_type"] if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction") else []
    odd += ["beta_schedule"] if config.get("beta_schedule") not in ("linear", "scaled_linear") else []
    odd += ["num_train_timesteps"] if config.get("num_train_timesteps") != 1000 else []
    if missing or odd:
        shown = ", ".join(f"{k} = {config.get(k)!r}" for k in dict.fromkeys([*missing, *odd]))
        raise CoinageError(f"the model's scheduler settings are not supported yet: {shown}", str(folder))
    return config


def _load_vae(model: ModelConfig, dtype: torch.dtype) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    if model.vae is None:
        return AutoencoderKL.from_pretrained(model.source, subfolder="vae", torch_dtype=dtype)
    try:
        return AutoencoderKL.from_pretrained(model.vae, torch_dtype=dtype)
    except OSError:
        try:
            return AutoencoderKL.from_pretrained(model.vae, subfolder="vae", torch_dtype=dtype)
        except OSError as error:
            hint = "give a diffusers folder or hub id with a VAE, at its root or in vae/"
            raise CoinageError("--vae: cannot load a VAE", model.vae, hint) from error
