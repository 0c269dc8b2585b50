"""Draw with a flow-matching demo world in training, and read what came of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from coinage.demo.score import base_accuracy, base_prompts
from demo_flow import Kind
from demo_flow_attention import FAST
from demo_flow_parts import Parts
from demo_flow_texts import States, encode, shortened
from demo_vae16 import CHANNELS

PICTURES = 48
STEPS, GUIDANCE = 20, 4.0


@torch.no_grad()
def draw(
    model: nn.Module,
    kind: Kind,
    asked: States,
    empty: States,
    start: Tensor,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> Tensor:
    """Latents [B, C, H, W], drawn from the noise `start` as the stock pipeline draws.

    `empty` holds the states of "", for one picture.
    """
    count, dtype = len(start), next(model.parameters()).dtype
    both = [
        torch.cat([e.expand(count, *e.shape[1:]).to(dtype), a.to(dtype)])
        for e, a in zip(empty.parts(), asked.parts(), strict=True)
    ]
    states = States((both[0], both[1], both[2]), (both[3], both[4]))
    scheduler = kind.schedule(steps)
    x = start
    for t in scheduler.timesteps:
        level = (t / 1000).expand(2 * count)
        without, told = (
            kind.predict(model, torch.cat([x, x]).to(dtype), level, states).float().chunk(2)
        )
        x = scheduler.step(without + guidance * (told - without), t, x).prev_sample
    return x


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """[B, 64, 64, 3] uint8."""
    latents = latents / vae.config.scaling_factor + vae.config.shift_factor
    pixels = torch.cat([vae.decode(part).sample for part in latents.split(16)])
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).numpy()


class Check:
    """Accuracy in a model's own words: all encoders told, and T5 alone."""

    def __init__(self, parts: Parts, kind: Kind, out: Path) -> None:
        pairs = base_prompts(PICTURES, seed=5)
        self.scenes = [scene for _, scene in pairs]
        self.vae, self.kind, self.out = parts.vae, kind, out
        captions = [prompt.text for prompt, _ in pairs]
        with torch.no_grad():
            self.told = shortened(encode(parts.texts, parts.tokenizers.read(captions)))
            self.empty = shortened(encode(parts.texts, parts.tokenizers.read([""])))

    def t5_alone(self) -> States:
        """The same captions, read by T5; both CLIPs read ""."""
        (one, two, _), pooled = self.empty.hidden, self.empty.pooled
        count = len(self.scenes)
        hidden = (one.expand(count, -1, -1), two.expand(count, -1, -1), self.told.hidden[2])
        return States(hidden, (pooled[0].expand(count, -1), pooled[1].expand(count, -1)))

    def __call__(self, model: nn.Module, guidance: float = GUIDANCE) -> str:
        half = copy.deepcopy(model).to(FAST).eval()
        half.set_attn_processor(self.kind.attention(self.kind.weights(1.0)))
        lines = []
        for name, states in (("all", self.told), ("T5", self.t5_alone())):
            start = torch.randn(
                PICTURES, CHANNELS, 16, 16, generator=torch.Generator().manual_seed(1)
            )
            latents = draw(half, self.kind, states, self.empty, start, guidance)
            pictures = decode(self.vae, latents)
            rows = pictures[:24].reshape(3, 8, 64, 64, 3).transpose(0, 2, 1, 3, 4)
            Image.fromarray(rows.reshape(192, 512, 3)).save(self.out / f"last_{name}.png")
            found = base_accuracy(self.scenes, list(pictures))
            lines.append(name + " " + " ".join(f"{k} {v:.2f}" for k, v in found.items()))
        return " | ".join(lines)
