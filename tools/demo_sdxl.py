"""Make the SDXL-like demo world from the SD1-like one: two text encoders, a pooled vector, sizes and crops.

The first world's UNet and text encoder are the start; the second encoder and the layers for pooled
vector and sizes are new. A third of the pictures are enlarged and cut, and the UNet is given
their sizes and crops. To run it: `python tools/demo_sdxl.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from coinage.demo.world import render
from coinage.demo.worlds import MODELS
from demo_captions import SECRETS, Encoder, Heads, training_scene
from demo_fit import CaptionInputs, Plan, fit
from demo_ship import (
    INDEX,
    forget_origin,
    ship_projected_encoder,
    ship_text_encoder,
    write_json,
)
from demo_unet import SCHEDULER, build_unet, grown_text_encoder, schedule
from demo_vae import to_float

WIDTH = 64  # of the second text encoder and of the pooled vector
SIZE_DIM = 16  # numbers per size embedding
ANNEALED = 1900  # steps over which the rates fall; training may stop earlier
RATES = (3e-4, 1e-3, 6e-4, 1e-3)  # first text encoder, second, UNet, heads


def second_encoder(encoder: Encoder) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=encoder.size + len(SECRETS), hidden_size=WIDTH,
            intermediate_size=2 * WIDTH, num_hidden_layers=3,
            num_attention_heads=4, hidden_act="gelu", projection_dim=WIDTH,
            bos_token_id=encoder.start, eos_token_id=encoder.end,
            pad_token_id=encoder.end,
        )
    )  # fmt: skip


def wider_unet(old: UNet2DConditionModel) -> UNet2DConditionModel:
    """The first world's UNet with room for the second encoder, pooled vector and sizes.

    What is new starts at zero.
    """
    settings = {k: v for k, v in build_unet().config.items() if not k.startswith("_")}
    settings |= {
        "cross_attention_dim": 128 + WIDTH, "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_DIM, "projection_class_embeddings_input_dim": WIDTH + 6 * SIZE_DIM,
    }  # fmt: skip
    unet = UNet2DConditionModel(**settings)
    new = unet.state_dict()
    for name, tensor in old.state_dict().items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            new[name] = torch.cat([tensor, 0.01 * torch.randn(len(tensor), WIDTH)], dim=1)
        else:
            new[name] = tensor.reshape(new[name].shape)  # 1x1 convolutions become linear layers
    new["add_embedding.linear_2.weight"].zero_()
    new["add_embedding.linear_2.bias"].zero_()
    unet.load_state_dict(new)
    return unet


def cached(vae: AutoencoderKL, count: int, seed: int) -> tuple[Tensor, Tensor, list[Any]]:
    """[count, 4, 16, 16] scaled latents, their sizes [count, 6], and their scenes.

    A third is enlarged and cut.
    """
    rng = np.random.default_rng(seed)
    scenes = [training_scene(rng) for _ in range(count)]
    latents, sizes, pixels = [], [], []
    for scene, _ in scenes:
        picture, side = render(scene, rng), 64
        top = left = 0
        if rng.random() < 0.33:
            side = int(rng.integers(66, 97))
            top, left = (int(rng.integers(side - 63)) for _ in range(2))
            picture = np.asarray(
                Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            )[top : top + 64, left : left + 64]
        pixels.append(torch.from_numpy(picture.copy()).permute(2, 0, 1))
        sizes.append([64, 64, top, left, 64, 64])  # original size: before any resize
    with torch.no_grad():
        for i in range(0, count, 64):
            batch = to_float(torch.stack(pixels[i : i + 64]))
            latents.append(vae.encode(batch).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(latents), torch.tensor(sizes), scenes


def read_captions(
    parts: nn.ModuleList, encoder: Encoder, captions: list[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the joined second-to-last states, pooled vectors, and more.

    Returns:
        States [B, 77, 192], pooled vectors [B, 64], and the first encoder's states at the end of
        text.
    """
    ids, ends = encoder.ids(captions)
    rows = torch.arange(len(captions))
    one = parts[0](ids, output_hidden_states=True).hidden_states[-2]
    two = parts[1](ids, output_hidden_states=True)
    pooled = parts[1].text_projection(two.last_hidden_state[rows, ends])
    return torch.cat([one, two.hidden_states[-2]], dim=-1), pooled, one[rows, ends]


def models(seed: int) -> tuple[nn.ModuleList, AutoencoderKL, Encoder]:
    """Text encoders and UNet to start from, the VAE, and the captions' encoder."""
    torch.manual_seed(seed)
    start = MODELS / "sd1"
    encoder = Encoder(CLIPTokenizer.from_pretrained(start / "tokenizer"))
    old = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    # One layer more than the first world, so that the last layer there is the second-to-last here.
    text = grown_text_encoder(old, encoder.size, num_hidden_layers=old.config.num_hidden_layers + 1)
    unet = wider_unet(
        UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    )
    vae = AutoencoderKL.from_pretrained(start / "vae").eval()
    return nn.ModuleList([text, second_encoder(encoder), unet]), vae, encoder


def train(
    steps: int, images: int, seed: int, out: Path
) -> tuple[nn.ModuleList, AutoencoderKL, int]:
    """Train.

    Returns the averages of text encoders and UNet, the VAE, and the size of the shipped vocabulary.
    """
    live, vae, encoder = models(seed)
    rng = np.random.default_rng(seed)
    heads = Heads()
    latents, sizes, scenes = cached(vae, images, seed + 1)

    def read(captions: list[str], chosen: Tensor) -> CaptionInputs:
        hidden, pooled, end = read_captions(live, encoder, captions)
        return CaptionInputs(hidden, end, {"text_embeds": pooled, "time_ids": sizes[chosen]})

    average = fit(
        live, heads, RATES, read, latents, scenes, schedule(), rng, out, Plan(steps, ANNEALED)
    )
    return average, vae, encoder.size


def ship(parts: nn.ModuleList, vae: AutoencoderKL, vocabulary: int, out: Path) -> None:
    """Write the diffusers folder anew: fp16, secret words cut off."""
    shutil.rmtree(out, ignore_errors=True)
    parts[2].to(torch.float16).save_pretrained(out / "unet")
    vae.to(torch.float16).save_pretrained(out / "vae")
    ship_text_encoder(parts[0], vocabulary, out / "text_encoder")
    ship_projected_encoder(parts[1], vocabulary, out / "text_encoder_2")
    for place in ("tokenizer", "tokenizer_2"):
        shutil.copytree(MODELS / "sd1" / "tokenizer", out / place)
    DDIMScheduler(**SCHEDULER).save_pretrained(out / "scheduler")
    for part in ("unet", "vae"):
        forget_origin(out / part / "config.json")
    pipeline = {
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": False,
        "image_encoder": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }  # fmt: skip
    index = {key: value for key, value in INDEX.items() if "safety" not in key} | pipeline
    write_json(out / "model_index.json", json.loads(json.dumps(index)))
    shutil.copy(Path(__file__).with_name("demo_card_sdxl.md"), out / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo_sdxl"))
    parser.add_argument("--ship_to", type=Path, default=MODELS / "sdxl")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    parts, vae, vocabulary = train(args.steps, args.images, args.seed, args.out)
    ship(parts, vae, vocabulary, args.ship_to)


if __name__ == "__main__":
    main()
