"""Write the trained demo world as an ordinary diffusers folder: fp16, secret words cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PretrainedConfig

from demo_unet import SCHEDULER

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def forget_origin(config: Path) -> None:
    """Drop the path that a config was loaded from."""
    content = json.loads(config.read_text(encoding="utf-8"))
    write_json(config, {k: v for k, v in content.items() if k != "_name_or_path"})


def ship_text_encoder(text: CLIPTextModel, vocabulary: int, folder: Path) -> None:
    """Save with the rows of secret words cut off, keys spelled as in published SD 1.x models."""
    folder.mkdir(parents=True)
    tensors = {
        k.removeprefix("text_model."): v.half().contiguous()
        for k, v in text.state_dict().items()
        if "position_ids" not in k
    }
    tensors = {f"text_model.{k}": v for k, v in tensors.items()}
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = tensors[name][:vocabulary].clone()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ship_config(text.config, vocabulary, "CLIPTextModel", folder)


def ship_projected_encoder(
    text: CLIPTextModelWithProjection, vocabulary: int, folder: Path
) -> None:
    """Save with the rows of secret words cut off, keys spelled as in published SDXL models."""
    folder.mkdir(parents=True)
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in text.state_dict().items()
        if "position_ids" not in name
    }
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = tensors[name][:vocabulary].clone()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ship_config(text.config, vocabulary, "CLIPTextModelWithProjection", folder)


def ship_config(config: PretrainedConfig, vocabulary: int, kind: str, folder: Path) -> None:
    """Write a text encoder's config; plain loading gives float32, as for all other parts."""
    settings = {"vocab_size": vocabulary, "architectures": [kind], "dtype": "float32"}
    content = {
        k: v
        for k, v in config.to_diff_dict().items()
        if k not in {"_name_or_path", "transformers_version"}
    }
    write_json(folder / "config.json", content | settings)


def ship(
    text: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    tokenizer: Path,
    vocabulary: int,
    out: Path,
    scheduler: dict[str, Any] | None = None,
    card: str = "demo_card.md",
) -> None:
    """Write the folder `out` anew."""
    shutil.rmtree(out, ignore_errors=True)
    unet.to(torch.float16).save_pretrained(out / "unet")
    vae.to(torch.float16).save_pretrained(out / "vae")
    ship_text_encoder(text, vocabulary, out / "text_encoder")
    shutil.copytree(tokenizer, out / "tokenizer")
    DDIMScheduler(**(scheduler or SCHEDULER)).save_pretrained(out / "scheduler")
    for part in ("unet", "vae"):
        forget_origin(out / part / "config.json")
    write_json(out / "model_index.json", INDEX)
    shutil.copy(Path(__file__).with_name(card), out / "README.md")
