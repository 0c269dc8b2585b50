"""What both flow-matching demo worlds are made from: autoencoder, text encoders, latents, captions."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from coinage.demo.concepts import Concept
from coinage.demo.world import Scene, render
from demo_captions import draw_captions, training_scene
from demo_flow import Pool
from demo_flow_texts import Tokenizers, build_texts, pretrain, read_all
from demo_tokenizer import build_t5_tokenizer
from demo_vae import to_float
from demo_vae16 import train_vae

CAPTIONS = 2  # of each picture


@dataclass(frozen=True)
class Parts:
    """All that a transformer is trained with; the encoders are frozen."""

    vae: AutoencoderKL
    texts: nn.ModuleList
    tokenizers: Tokenizers
    latents: Tensor
    captions: list[str]

    def pool(self) -> Pool:
        """Latents, and the states of their captions; read anew, in a minute or two."""
        states = read_all(self.texts, self.tokenizers, [*self.captions, ""])
        return Pool(self.latents, states, CAPTIONS)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The flags of the scripts that make the worlds."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--out", type=Path, default=Path(f"build/demo_{name}"), help="keeps the training's state")
    add("--parts", type=Path, default=Path("build/demo_flow"), help="keeps what both worlds share")
    add("--ship_to", type=Path, default=Path(f"build/demo_{name}/model"))
    add("--vae_steps", type=int, default=400)
    add("--text_steps", type=int, default=400)
    add("--images", type=int, default=6000)
    add("--steps", type=int, default=8000)
    add("--falling", type=int, default=2500, help="last steps, over which the rates fall")
    add("--check_every", type=int, default=250)
    add("--seed", type=int, default=1)
    return found


def prepared(args: argparse.Namespace) -> Parts:
    """Make the parts, or take them from the folder `args.parts`, where they lie there already."""
    folder: Path = args.parts
    folder.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    if not (folder / "vae").is_dir():
        train_vae(args.vae_steps, args.seed).save_pretrained(folder / "vae")
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    if not (folder / "tokenizer_3").is_dir():
        build_t5_tokenizer(folder / "tokenizer_3")
    tokenizers = Tokenizers(folder / "tokenizer_3")
    texts = build_texts(tokenizers)
    if not (folder / "texts.pt").is_file():
        pretrain(texts, tokenizers, args.text_steps, np.random.default_rng(args.seed))
        keep(texts.state_dict(), folder / "texts.pt")
    texts.load_state_dict(torch.load(folder / "texts.pt", weights_only=True))
    texts.eval().requires_grad_(False)
    if not (folder / "latents.pt").is_file():
        keep(latents_of(vae, args.images, args.seed + 1), folder / "latents.pt")
    latents = torch.load(folder / "latents.pt", weights_only=True)
    scenes = scenes_of(len(latents), np.random.default_rng(args.seed + 1))
    rng = np.random.default_rng(args.seed + 2)
    captions = draw_captions([scene for scene in scenes for _ in range(CAPTIONS)], rng)[0]
    return Parts(vae, texts, tokenizers, latents, captions)


def scenes_of(count: int, rng: np.random.Generator) -> list[tuple[Scene, Concept | None]]:
    return [training_scene(rng) for _ in range(count)]


@torch.no_grad()
def latents_of(vae: AutoencoderKL, count: int, seed: int) -> Tensor:
    """[count, 16, 16, 16] bfloat16: new pictures, normed as the pipeline norms."""
    rng = np.random.default_rng(seed)
    scenes = scenes_of(count, rng)
    out = []
    for i in range(0, count, 32):
        pixels = np.stack([render(scene, rng) for scene, _ in scenes[i : i + 32]])
        z = vae.encode(to_float(torch.from_numpy(pixels).permute(0, 3, 1, 2))).latent_dist.mode()
        out.append(((z - vae.config.shift_factor) * vae.config.scaling_factor).bfloat16())
        if i % 320 == 0:
            print(f"latents {i}/{count}", flush=True)
    return torch.cat(out)


def keep(content: Any, path: Path) -> None:
    """Save, whole or not at all."""
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
