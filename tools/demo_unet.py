"""The SD 1.x-like demo world's text encoder and UNet, trained from nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from coinage.diffusion.schedule import DiffusionSchedule, alphas_cumprod_from_betas
from demo_captions import SECRETS, Encoder, Heads, cached_latents, draw_captions, training_scene
from demo_fit import CaptionInputs, Plan, fit

RATE = 1.2e-3
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def schedule() -> DiffusionSchedule:
    """The noise schedule of `SCHEDULER`."""
    return DiffusionSchedule(alphas_cumprod_from_betas(0.00085, 0.012, 1000, "scaled_linear"))


def build_text_encoder(encoder: Encoder) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=encoder.size + len(SECRETS),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=128,
            bos_token_id=encoder.start,
            eos_token_id=encoder.end,
            pad_token_id=encoder.end,
        )
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=128,
    )


def grown_text_encoder(old: CLIPTextModel, vocabulary: int, **settings: object) -> CLIPTextModel:
    """A trained text encoder with rows for the secret words, and other settings.

    Layers beyond its own are new.
    """
    config = copy.deepcopy(old.config)
    config.update({"vocab_size": vocabulary + len(SECRETS), **settings})
    text = CLIPTextModel(config)
    state = dict(old.state_dict())
    name = next(key for key in state if key.endswith("token_embedding.weight"))
    mean = state[name].mean(0)
    state[name] = torch.cat([state[name], mean + 0.02 * torch.randn(len(SECRETS), len(mean))])
    text.load_state_dict(state, strict=False)
    return text


def encode(text: CLIPTextModel, encoder: Encoder, captions: list[str]) -> tuple[Tensor, Tensor]:
    ids, ends = encoder.ids(captions)
    hidden = text(ids).last_hidden_state
    return hidden, hidden[torch.arange(len(captions)), ends]


def pretrain_text(
    text: CLIPTextModel, heads: Heads, encoder: Encoder, steps: int, rng: np.random.Generator
) -> None:
    """Teach the text encoder to gather what a caption says at its end token."""
    optimizer = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=1e-3)
    for step in range(steps):
        captions, known = draw_captions([training_scene(rng) for _ in range(64)], rng)
        loss = heads.loss(encode(text, encoder, captions)[1], known)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"text step {step} loss {loss.item():.4f}", flush=True)


def train_models(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, out: Path, *, steps: int, images: int, seed: int
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Train text encoder and UNet together on noise prediction; returns their running averages."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = Encoder(tokenizer)
    text, heads, unet = build_text_encoder(encoder), Heads(), build_unet()
    pretrain_text(text, heads, encoder, 500, rng)
    latents, scenes = cached_latents(vae, images, seed + 1)
    print("latents cached", flush=True)

    def read(captions: list[str], _: Tensor) -> CaptionInputs:
        return CaptionInputs(*encode(text, encoder, captions), {})

    plan = Plan(steps, annealed=steps, warm_up=200, floor=0.01, average=0.999)
    average = fit(
        nn.ModuleList([text, unet]),
        heads,
        (RATE,) * 3,
        read,
        latents,
        scenes,
        schedule(),
        rng,
        out,
        plan,
    )
    return average[0], average[1]
