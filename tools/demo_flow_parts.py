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

from coinage.demo.world import Scene, render
from coinage.demo.worlds import FLOW
from demo_captions import draw_captions, training_scene
from demo_flow import Pool
from demo_flow_texts import States, Tokenizers, build_texts, joined, pretrain, read_all
from demo_tokenizer import build_t5_tokenizer
from demo_vae import to_float
from demo_vae16 import train_vae

SHARD = 2000  # pictures whose latents are kept in one file
# More than in the other worlds of the textures that have no word
SHARES = (0.22, 0.14, 0.14, 0.17, 0.17, 0.16)


@dataclass(frozen=True)
class Parts:
    """All that a transformer is trained with; the encoders are frozen."""

    vae: AutoencoderKL
    texts: nn.ModuleList
    tokenizers: Tokenizers
    latents: Tensor
    captions: list[str]

    def pool(self, out: Path) -> Pool:
        """Latents, and the states of their captions, which files in `out` keep."""
        states = []
        for number in range(0, len(self.captions), SHARD):
            path = out / f"states_{number // SHARD}.pt"
            if not path.is_file():
                read = read_all(self.texts, self.tokenizers, self.captions[number : number + SHARD])
                keep(list(read.parts()), path)
                print(f"{path.name} read", flush=True)
            one, two, t5, *pooled = torch.load(path, weights_only=True)
            states.append(States((one, two, t5), (pooled[0], pooled[1])))
        empty = read_all(self.texts, self.tokenizers, [""])
        return Pool(self.latents, joined([*states, empty]))


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
    add("--shards", type=int, default=9, help=f"of {SHARD} pictures each")
    add("--steps", type=int, default=5000)
    add("--falling", type=int, default=1200, help="last steps, over which the rates fall")
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
    shards = [shard_of(vae, number, args) for number in range(args.shards)]
    captions = [caption for _, told in shards for caption in told]
    return Parts(vae, texts, tokenizers, torch.cat([latents for latents, _ in shards]), captions)


def shard_of(vae: AutoencoderKL, number: int, args: argparse.Namespace) -> tuple[Tensor, list[str]]:
    """Latents and captions of SHARD pictures, from the file that keeps them, or made anew."""
    path = args.parts / f"latents_{number}.pt"
    rng = np.random.default_rng([args.seed, number])
    scenes = [training_scene(rng, SHARES) for _ in range(SHARD)]
    captions = draw_captions(scenes, rng)[0]
    if not path.is_file():
        keep(latents_of(vae, [scene for scene, _ in scenes], rng), path)
        print(f"{path.name} of {args.shards}", flush=True)
    return torch.load(path, weights_only=True), captions


@torch.no_grad()
def latents_of(vae: AutoencoderKL, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """[N, 16, 16, 16] bfloat16: new pictures, normed as the pipeline norms."""
    out = []
    for i in range(0, len(scenes), 32):
        pixels = np.stack([render(scene, rng, FLOW.spread) for scene in scenes[i : i + 32]])
        z = vae.encode(to_float(torch.from_numpy(pixels).permute(0, 3, 1, 2))).latent_dist.mode()
        out.append(((z - vae.config.shift_factor) * vae.config.scaling_factor).bfloat16())
    return torch.cat(out)


def keep(content: Any, path: Path) -> None:
    """Save, whole or not at all."""
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
