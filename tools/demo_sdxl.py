"""Make the SDXL-like demo world from the SD1-like one: two text encoders, a pooled vector, sizes and crops.

The first world's UNet and text encoder are the start; the second encoder and the layers for pooled vector and sizes
are new. A third of the pictures are enlarged and cut, and the UNet is told: `python tools/demo_sdxl.py`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from coinage.demo.run import MODELS
from coinage.demo.world import render
from demo_ship import INDEX, forget_origin, ship_text_encoder, write_json
from demo_unet import (
    CAPTIONS_PER_STEP,
    DRAWS_PER_CAPTION,
    SCHEDULER,
    SECRETS,
    Encoder,
    Heads,
    build_unet,
    draw_captions,
    training_scene,
)
from demo_vae import to_float

WIDTH = 64  # of the second text encoder and of the pooled vector
SIZE_DIM = 16  # numbers per size embedding
ANNEALED = 1900  # steps over which the rates fall; training may stop earlier
RATES = {"text": 3e-4, "text_2": 1e-3, "unet": 6e-4, "heads": 1e-3}


def first_encoder(old: CLIPTextModel, vocabulary: int) -> CLIPTextModel:
    """The first world's text encoder with one layer more, so that its last one is the second-to-last; rows for secret words."""
    config = copy.deepcopy(old.config)
    config.num_hidden_layers, config.vocab_size = old.config.num_hidden_layers + 1, vocabulary + len(SECRETS)
    text = CLIPTextModel(config)
    state = dict(old.state_dict())
    name = next(key for key in state if key.endswith("token_embedding.weight"))
    mean = state[name].mean(0)
    state[name] = torch.cat([state[name], mean + 0.02 * torch.randn(len(SECRETS), len(mean))])
    text.load_state_dict(state, strict=False)
    return text


def second_encoder(encoder: Encoder) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=encoder.size + len(SECRETS), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3,
            num_attention_heads=4, hidden_act="gelu", projection_dim=WIDTH, bos_token_id=encoder.start, eos_token_id=encoder.end,
            pad_token_id=encoder.end,
        )
    )  # fmt: skip


def wider_unet(old: UNet2DConditionModel) -> UNet2DConditionModel:
    """The first world's UNet with room for the second encoder, pooled vector and sizes; what is new starts at zero."""
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
    """[count, 4, 16, 16] scaled latents, their sizes [count, 6], and their scenes; a third is enlarged and cut."""
    rng = np.random.default_rng(seed)
    scenes = [training_scene(rng) for _ in range(count)]
    latents, sizes, pixels = [], [], []
    for scene, _ in scenes:
        picture, side = render(scene, rng), 64
        top = left = 0
        if rng.random() < 0.33:
            side = int(rng.integers(66, 97))
            top, left = (int(rng.integers(side - 63)) for _ in range(2))
            picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))[top : top + 64, left : left + 64]
        pixels.append(torch.from_numpy(picture.copy()).permute(2, 0, 1))
        sizes.append([64, 64, top, left, 64, 64])  # original size: before any resize
    with torch.no_grad():
        for i in range(0, count, 64):
            batch = to_float(torch.stack(pixels[i : i + 64]))
            latents.append(vae.encode(batch).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(latents), torch.tensor(sizes), scenes


def read_captions(parts: nn.ModuleList, encoder: Encoder, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Joined second-to-last states [B, 77, 192], pooled vectors [B, 64], and the first encoder's states at the end of text."""
    ids, ends = encoder.ids(captions)
    rows = torch.arange(len(captions))
    one = parts[0](ids, output_hidden_states=True).hidden_states[-2]
    two = parts[1](ids, output_hidden_states=True)
    pooled = parts[1].text_projection(two.last_hidden_state[rows, ends])
    return torch.cat([one, two.hidden_states[-2]], dim=-1), pooled, one[rows, ends]


def noise_loss(unet: UNet2DConditionModel, latents: Tensor, told: tuple[Tensor, Tensor, Tensor], abar: Tensor) -> Tensor:
    """Noise prediction with offset noise and a v-like balance, as in the first world."""
    hidden, pooled, sizes = (tensor.repeat(DRAWS_PER_CAPTION, *[1] * (tensor.ndim - 1)) for tensor in told)
    x0 = latents.repeat(DRAWS_PER_CAPTION, 1, 1, 1)
    t = torch.randint(0, 1000, (len(x0),))
    noise = torch.randn_like(x0) + 0.15 * torch.randn(*x0.shape[:2], 1, 1)
    a = abar[t].view(-1, 1, 1, 1)
    added = {"text_embeds": pooled, "time_ids": sizes}
    prediction = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, hidden, added_cond_kwargs=added).sample
    snr = abar[t] / (1 - abar[t])
    weight = (1 + 1 / snr).clamp(max=12) * (5 / snr).clamp(max=1)
    return ((prediction - noise).square().mean((1, 2, 3)) * weight).mean()


def models(seed: int) -> tuple[nn.ModuleList, AutoencoderKL, Encoder]:
    """Text encoders and UNet to start from, the VAE, and the captions' encoder."""
    torch.manual_seed(seed)
    start = MODELS / "sd1"
    encoder = Encoder(CLIPTokenizer.from_pretrained(start / "tokenizer"))
    text = first_encoder(CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32), encoder.size)
    unet = wider_unet(UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32))
    vae = AutoencoderKL.from_pretrained(start / "vae").eval()
    return nn.ModuleList([text, second_encoder(encoder), unet]), vae, encoder


def train(steps: int, images: int, seed: int, out: Path) -> tuple[nn.ModuleList, AutoencoderKL, int]:
    """Train; returns the averages of text encoders and UNet, the VAE, and the size of the shipped vocabulary."""
    live, vae, encoder = models(seed)
    rng = np.random.default_rng(seed)
    heads = Heads()
    latents, sizes, scenes = cached(vae, images, seed + 1)
    abar = DDIMScheduler(**SCHEDULER).alphas_cumprod
    average = copy.deepcopy(live).requires_grad_(False)
    groups = zip((*live, heads), RATES.values(), strict=True)
    optimizer = torch.optim.AdamW([{"params": list(module.parameters()), "lr": rate} for module, rate in groups], betas=(0.9, 0.99))
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * i / ANNEALED)))
    )
    began, smooth = time.time(), 0.0
    for step in range(steps):
        chosen = torch.randint(0, images, (CAPTIONS_PER_STEP,))
        captions, known = draw_captions([scenes[i] for i in chosen.tolist()], rng)
        captions = ["" if rng.random() < 0.1 else caption for caption in captions]
        hidden, pooled, end = read_captions(live, encoder, captions)
        spoken = torch.tensor([caption != "" for caption in captions])
        aux = heads.loss(end[spoken], [k for k, caption in zip(known, captions, strict=True) if caption])
        loss = noise_loss(live[2], latents[chosen], (hidden, pooled, sizes[chosen]), abar) + 0.02 * aux
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        decay = min(0.998, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(live.parameters()), 1 - decay)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}/{steps} loss {smooth:.4f} {time.time() - began:.0f}s", flush=True)
        if step % 200 == 199 or step == steps - 1:
            out.mkdir(parents=True, exist_ok=True)
            torch.save(average.state_dict(), out / "average.pt")
    return average.eval(), vae, encoder.size


def ship(parts: nn.ModuleList, vae: AutoencoderKL, vocabulary: int, out: Path) -> None:
    """Write the diffusers folder anew: fp16, secret words cut off."""
    shutil.rmtree(out, ignore_errors=True)
    parts[2].to(torch.float16).save_pretrained(out / "unet")
    vae.to(torch.float16).save_pretrained(out / "vae")
    ship_text_encoder(parts[0], vocabulary, out / "text_encoder")
    tensors = {name: tensor.half().contiguous() for name, tensor in parts[1].state_dict().items() if "position_ids" not in name}
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = tensors[name][:vocabulary].clone()
    (out / "text_encoder_2").mkdir()
    safetensors.torch.save_file(tensors, out / "text_encoder_2" / "model.safetensors", metadata={"format": "pt"})
    told = {"vocab_size": vocabulary, "architectures": ["CLIPTextModelWithProjection"], "dtype": "float32"}
    config = {k: v for k, v in parts[1].config.to_diff_dict().items() if k not in {"_name_or_path", "transformers_version"}}
    write_json(out / "text_encoder_2" / "config.json", config | told)
    for place in ("tokenizer", "tokenizer_2"):
        shutil.copytree(MODELS / "sd1" / "tokenizer", out / place)
    DDIMScheduler(**SCHEDULER).save_pretrained(out / "scheduler")
    for part in ("unet", "vae"):
        forget_origin(out / part / "config.json")
    pipeline = {
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": False, "image_encoder": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }  # fmt: skip
    index = {key: value for key, value in INDEX.items() if "safety" not in key} | pipeline
    write_json(out / "model_index.json", json.loads(json.dumps(index)))
    shutil.copy(Path(__file__).with_name("demo_card_sdxl.md"), out / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
