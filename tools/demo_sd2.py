"""Make the SD2-like demo world from the SD1-like one: v-prediction on a schedule that ends in pure noise.

The trained UNet, text encoder and VAE of the first world are the start; secret words get new rows, are learned
again together with everything else, and are cut off again: `python tools/demo_sd2.py --out build/demo_sd2`.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from coinage.demo.run import MODELS
from coinage.diffusion.schedule import DiffusionSchedule, alphas_cumprod_from_betas, rescale_zero_terminal_snr
from demo_ship import ship
from demo_unet import CAPTIONS_PER_STEP, DRAWS_PER_CAPTION, SCHEDULER, SECRETS, Encoder, Heads, cached_latents, draw_captions, encode

SETTINGS = SCHEDULER | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
RATES = {"text": 3e-4, "unet": 6e-4, "heads": 1e-3}


def with_secrets(old: CLIPTextModel, vocabulary: int) -> CLIPTextModel:
    """The first world's text encoder with OpenCLIP's activation and new rows for the secret words."""
    config = copy.deepcopy(old.config)
    config.hidden_act, config.vocab_size = "gelu", vocabulary + len(SECRETS)
    text = CLIPTextModel(config)
    state = dict(old.state_dict())
    name = next(key for key in state if key.endswith("token_embedding.weight"))
    mean = state[name].mean(0)
    state[name] = torch.cat([state[name], mean + 0.02 * torch.randn(len(SECRETS), len(mean))])
    text.load_state_dict(state)
    return text


def velocity_loss(unet: UNet2DConditionModel, schedule: DiffusionSchedule, latents: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity."""
    x0 = latents.repeat(DRAWS_PER_CAPTION, 1, 1, 1)
    t, noise = torch.randint(0, 1000, (len(x0),)), torch.randn_like(x0)
    prediction = unet(schedule.add_noise(x0, noise, t), t, hidden.repeat(DRAWS_PER_CAPTION, 1, 1)).sample
    return (prediction - schedule.target(x0, noise, t)).square().mean()


def train(steps: int, images: int, seed: int, out: Path) -> tuple[CLIPTextModel, UNet2DConditionModel, AutoencoderKL, int]:
    """Train text encoder and UNet; returns their averages, the VAE, and the size of the shipped vocabulary."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    start = MODELS / "sd1"
    encoder = Encoder(CLIPTokenizer.from_pretrained(start / "tokenizer"))
    vae = AutoencoderKL.from_pretrained(start / "vae").eval()
    text = with_secrets(CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32), encoder.size)
    unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    heads = Heads()
    latents, scenes = cached_latents(vae, images, seed + 1)
    schedule = DiffusionSchedule(
        rescale_zero_terminal_snr(alphas_cumprod_from_betas(0.00085, 0.012, 1000, "scaled_linear")), "v_prediction"
    )
    live = nn.ModuleList([text, unet])
    average = copy.deepcopy(live).requires_grad_(False)
    groups = zip((text, unet, heads), RATES.values(), strict=True)
    optimizer = torch.optim.AdamW([{"params": list(module.parameters()), "lr": rate} for module, rate in groups], betas=(0.9, 0.99))
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * i / steps)))
    )
    began, smooth = time.time(), 0.0
    for step in range(steps):
        chosen = torch.randint(0, images, (CAPTIONS_PER_STEP,))
        captions, known = draw_captions([scenes[i] for i in chosen.tolist()], rng)
        captions = ["" if rng.random() < 0.1 else caption for caption in captions]
        hidden, pooled = encode(text, encoder, captions)
        spoken = torch.tensor([caption != "" for caption in captions])
        aux = heads.loss(pooled[spoken], [k for k, caption in zip(known, captions, strict=True) if caption])
        loss = velocity_loss(unet, schedule, latents[chosen], hidden) + 0.02 * aux
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
        if step % 500 == 499 or step == steps - 1:
            out.mkdir(parents=True, exist_ok=True)
            torch.save(average.state_dict(), out / "average.pt")
    return average[0].eval(), average[1].eval(), vae, encoder.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/demo_sd2"))
    parser.add_argument("--ship_to", type=Path, default=MODELS / "sd2")
    parser.add_argument("--steps", type=int, default=3100)
    parser.add_argument("--images", type=int, default=14000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    text, unet, vae, vocabulary = train(args.steps, args.images, args.seed, args.out)
    ship(text, unet, vae, MODELS / "sd1" / "tokenizer", vocabulary, args.ship_to, SETTINGS, "demo_card_sd2.md")


if __name__ == "__main__":
    main()
