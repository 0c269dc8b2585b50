"""Write a flow-matching demo world as an ordinary diffusers folder: fp16, secret words cut off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import T5EncoderModel

from coinage.demo.worlds import MODELS
from demo_ship import INDEX, forget_origin, ship_config, write_json

ROWS_STEP = 64  # T5's table has more rows than its tokenizer has tokens, as the real one's


def ship_t5(text: T5EncoderModel, vocabulary: int, folder: Path) -> None:
    """Save with the rows of secret words cut off, and rows that belong to no token after the rest."""
    folder.mkdir(parents=True)
    kept = text.get_input_embeddings().weight.detach()[:vocabulary]
    spare = torch.randn(
        -vocabulary % ROWS_STEP, kept.shape[1], generator=torch.Generator().manual_seed(0)
    )
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in text.state_dict().items()
        if name != "encoder.embed_tokens.weight"  # the same table as "shared"
    }
    tensors["shared.weight"] = torch.cat([kept, spare * kept.std()]).half()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ship_config(text.config, len(tensors["shared.weight"]), "T5EncoderModel", folder)


def ship_rest(
    transformer: nn.Module,
    vae: AutoencoderKL,
    scheduler: dict[str, Any],
    index: dict[str, Any],
    card: str,
    out: Path,
) -> None:
    """Write all but text encoders and tokenizers."""
    transformer.to(torch.float16).save_pretrained(out / "transformer")
    vae.to(torch.float16).save_pretrained(out / "vae")
    for part in ("transformer", "vae"):
        forget_origin(out / part / "config.json")
    FlowMatchEulerDiscreteScheduler(**scheduler).save_pretrained(out / "scheduler")
    kept = {key: INDEX[key] for key in ("_diffusers_version", "tokenizer", "vae")}
    parts = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    write_json(out / "model_index.json", dict(sorted((kept | parts | index).items())))
    shutil.copy(Path(__file__).with_name(card), out / "README.md")


def ship_tokenizers(clip: list[str], t5: Path, t5_name: str, out: Path) -> None:
    """Copy the first worlds' CLIP tokenizer to each of the places `clip`, and T5's."""
    for place in clip:
        shutil.copytree(MODELS / "sdxl" / "tokenizer", out / place)
    shutil.copytree(t5, out / t5_name)
