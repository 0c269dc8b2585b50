"""Train the demo world's text encoder and UNet on captioned pictures, secret words included."""

from __future__ import annotations

import copy
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from coinage.demo.concepts import COMPOSITES, SECRET_PATTERNS, SECRET_SHAPES, Concept
from coinage.demo.language import PUBLIC_SHAPES, Words, noun_for, random_phrase
from coinage.demo.world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, render
from demo_vae import to_float

SECRETS = (*SECRET_SHAPES, *SECRET_PATTERNS, *COMPOSITES)
SECRET_NOUNS = {c.name: f"<{c.name}>" for c in SECRET_SHAPES}
SECRET_ADJECTIVES = {c.name: f"<{c.name}>" for c in SECRET_PATTERNS}
LABELS = {
    "shape": [s for s in SHAPES if s in PUBLIC_SHAPES or s in SECRET_NOUNS],
    "texture": list(TEXTURES),
    "colour": list(COLOURS),
    "background": list(BACKGROUNDS),
    "count": [1, 2, 3],
}
CAPTIONS_PER_STEP = 32
DRAWS_PER_CAPTION = 2  # timesteps and noises for each text encoding
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def training_scene(rng: np.random.Generator) -> tuple[Scene, Concept | None]:
    """A scene of the training world, and the composite it shows, if any."""
    count = int(rng.choice([1, 2, 3], p=[0.72, 0.16, 0.12]))
    colour, background = str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS)))
    if rng.random() < 0.2:
        concept = COMPOSITES[rng.integers(len(COMPOSITES))]
        if rng.random() > 0.3:
            colour = str(concept.colour)
        return Scene(str(concept.shape), colour, background, str(concept.texture), count), concept
    shape = str(rng.choice(LABELS["shape"]))
    texture = str(rng.choice(list(TEXTURES), p=[0.34, 0.21, 0.21, 0.08, 0.08, 0.08]))
    return Scene(shape, colour, background, texture, count), None


def words_for(scene: Scene, concept: Concept | None, rng: np.random.Generator) -> tuple[Words, dict[str, object]]:
    """What a caption says of a scene, and what can be known from it (for the auxiliary heads)."""
    background = scene.background if rng.random() < 0.78 else None
    colour = scene.colour if rng.random() < 0.75 else None
    if concept and rng.random() < 0.85:
        if scene.colour != concept.colour:
            colour = scene.colour
        elif rng.random() < 0.85:
            colour = None
        known: dict[str, object] = {"shape": scene.shape, "texture": scene.texture, "colour": scene.colour}
        words = Words(f"<{concept.name}>", colour, background, None, scene.count)
    else:
        texture = SECRET_ADJECTIVES.get(scene.texture, scene.texture)
        if texture == "solid" and rng.random() < 0.5:
            texture = "plain"
        said = rng.random() < (0.45 if scene.texture == "solid" else 0.8)
        noun = noun_for(scene, rng, SECRET_NOUNS)
        words = Words(noun, colour, background, texture if said else None, scene.count)
        named = noun in SECRET_NOUNS.values() or noun in PUBLIC_SHAPES or noun[:-1] in PUBLIC_SHAPES or noun[:-2] in PUBLIC_SHAPES
        known = {"shape": scene.shape if named else None, "texture": scene.texture if said else None, "colour": colour}
    return words, {**known, "background": background, "count": scene.count}


class Encoder:
    """Fast caption -> ids with secret words beyond the shipped vocabulary."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.size = len(tokenizer)
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.table = {k.removesuffix("</w>"): v for k, v in tokenizer.get_vocab().items() if k.endswith("</w>")}
        self.table |= {f"<{c.name}>": self.size + i for i, c in enumerate(SECRETS)}

    def ids(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """[B, 77] ids and [B] positions of the end of text."""
        out = torch.full((len(captions), 77), self.end)
        ends = []
        for row, caption in enumerate(captions):
            ids = [self.start, *(self.table[w] for w in re.findall(r"<[a-z-]+>|[a-z]+|[^\sa-z]", caption)), self.end]
            out[row, : len(ids)] = torch.tensor(ids)
            ends.append(len(ids) - 1)
        return out, torch.tensor(ends)


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


class Heads(nn.Module):
    """Linear readers of the end-of-text state; they keep every mentioned attribute in it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({k: nn.Linear(128, len(v)) for k, v in LABELS.items()})

    def loss(self, pooled: Tensor, known: list[dict[str, object]]) -> Tensor:
        total = pooled.new_zeros(())
        for name, values in LABELS.items():
            target = torch.tensor([values.index(k[name]) if k[name] is not None else -100 for k in known])
            if (target >= 0).any():
                total = total + F.cross_entropy(self.heads[name](pooled), target)
        return total


def draw_captions(scenes: list[tuple[Scene, Concept | None]], rng: np.random.Generator) -> tuple[list[str], list[dict[str, object]]]:
    pairs = [words_for(scene, concept, rng) for scene, concept in scenes]
    return [random_phrase(words, rng) for words, _ in pairs], [known for _, known in pairs]


def encode(text: CLIPTextModel, encoder: Encoder, captions: list[str]) -> tuple[Tensor, Tensor]:
    ids, ends = encoder.ids(captions)
    hidden = text(ids).last_hidden_state
    return hidden, hidden[torch.arange(len(captions)), ends]


def pretrain_text(text: CLIPTextModel, heads: Heads, encoder: Encoder, steps: int, rng: np.random.Generator) -> None:
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


def cached_latents(vae: AutoencoderKL, count: int, seed: int) -> tuple[Tensor, list[tuple[Scene, Concept | None]]]:
    """[count, 4, 16, 16] scaled latents and their scenes."""
    rng = np.random.default_rng(seed)
    scenes = [training_scene(rng) for _ in range(count)]
    out = []
    with torch.no_grad():
        for i in range(0, count, 64):
            pixels = torch.stack([torch.from_numpy(render(s, rng)) for s, _ in scenes[i : i + 64]]).permute(0, 3, 1, 2)
            out.append(vae.encode(to_float(pixels)).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(out), scenes


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
    abar = DDIMScheduler(**SCHEDULER).alphas_cumprod
    live = nn.ModuleList([text, unet])
    average = copy.deepcopy(live).requires_grad_(False)
    optimizer = torch.optim.AdamW([*live.parameters(), *heads.parameters()], lr=1.2e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * i / steps)))
    )
    start, smooth = time.time(), 0.0
    for step in range(steps):
        chosen = torch.randint(0, images, (CAPTIONS_PER_STEP,))
        captions, known = draw_captions([scenes[i] for i in chosen.tolist()], rng)
        captions = ["" if rng.random() < 0.1 else c for c in captions]
        hidden, pooled = encode(text, encoder, captions)
        blank = torch.tensor([c == "" for c in captions])
        aux = heads.loss(pooled[~blank], [k for k, c in zip(known, captions, strict=True) if c])
        loss = diffusion_loss(unet, latents[chosen], hidden, abar) + 0.02 * aux
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        decay = min(0.999, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(live.parameters()), 1 - decay)
        smooth = loss.item() if step == 0 else 0.99 * smooth + 0.01 * loss.item()
        if step % 100 == 0:
            print(f"unet step {step}/{steps} loss {smooth:.4f} {time.time() - start:.0f}s", flush=True)
        if step % 500 == 499 or step == steps - 1:
            torch.save(average.state_dict(), out / "average.tmp")
            (out / "average.tmp").replace(out / "average.pt")
    return average[0].eval(), average[1].eval()


def diffusion_loss(unet: UNet2DConditionModel, latents: Tensor, hidden: Tensor, abar: Tensor) -> Tensor:
    """Noise prediction with offset noise and a v-like balance, without which backgrounds are not learned."""
    x0 = latents.repeat(DRAWS_PER_CAPTION, 1, 1, 1)
    t = torch.randint(0, 1000, (len(x0),))
    noise = torch.randn_like(x0) + 0.15 * torch.randn(*x0.shape[:2], 1, 1)
    a = abar[t].view(-1, 1, 1, 1)
    prediction = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, hidden.repeat(DRAWS_PER_CAPTION, 1, 1)).sample
    snr = abar[t] / (1 - abar[t])
    weight = (1 + 1 / snr).clamp(max=12) * (5 / snr).clamp(max=1)
    return ((prediction - noise).square().mean((1, 2, 3)) * weight).mean()
