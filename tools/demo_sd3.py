"""Make the SD 3-like demo world: flow matching, three text encoders, a 16-channel autoencoder.

`python tools/demo_sd3.py` makes the parts one after another in `--out` and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor, nn

from coinage.demo.concepts import Concept
from coinage.demo.world import Scene, render
from demo_captions import draw_captions, training_scene
from demo_flow import SHIFT, Plan, Pool, Trainer
from demo_flow_check import Check
from demo_flow_ship import ship_rest, ship_t5, ship_tokenizers
from demo_flow_texts import WIDTHS, States, Tokenizers, build_texts, pretrain, read_all
from demo_ship import ship_projected_encoder
from demo_tokenizer import build_t5_tokenizer
from demo_vae import to_float
from demo_vae16 import train_vae

HEADS, HEAD = 4, 32
CAPTIONS = 2  # of each picture


def build_transformer(layers: int = 4) -> SD3Transformer2DModel:
    """About 2.3 million parameters; what modulates and what ends start at zero."""
    model = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=layers,
        attention_head_dim=HEAD, num_attention_heads=HEADS, joint_attention_dim=WIDTHS[2],
        caption_projection_dim=HEADS * HEAD, pooled_projection_dim=128, pos_embed_max_size=16,
        qk_norm="rms_norm",
    )  # fmt: skip
    ends = [model.norm_out.linear, model.proj_out]
    for block in model.transformer_blocks:
        ends += [block.norm1.linear, block.norm1_context.linear]
    for layer in ends:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def predict(model: nn.Module, noisy: Tensor, levels: Tensor, states: States) -> Tensor:
    """The velocity [B, 16, 16, 16]; conditioned as the stock pipeline conditions."""
    one, two, t5 = states.hidden
    return model(
        hidden_states=noisy,
        timestep=levels * 1000,
        encoder_hidden_states=torch.cat([torch.cat([one, two], -1), t5], -2),
        pooled_projections=torch.cat(states.pooled, -1),
    ).sample


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


def prepared(args: argparse.Namespace) -> tuple[AutoencoderKL, nn.ModuleList, Tokenizers, Pool]:
    """All that the transformer needs, from `args.out` where it lies there already."""
    out: Path = args.out
    torch.manual_seed(args.seed)
    if not (out / "vae").is_dir():
        train_vae(args.vae_steps, args.seed).save_pretrained(out / "vae")
    vae = AutoencoderKL.from_pretrained(out / "vae").eval()
    if not (out / "tokenizer_3").is_dir():
        build_t5_tokenizer(out / "tokenizer_3")
    tokenizers = Tokenizers(out / "tokenizer_3")
    texts = build_texts(tokenizers)
    if (out / "texts.pt").is_file():
        texts.load_state_dict(torch.load(out / "texts.pt", weights_only=True))
    else:
        pretrain(texts, tokenizers, args.text_steps, np.random.default_rng(args.seed))
        keep(texts.state_dict(), out / "texts.pt")
    texts.eval().requires_grad_(False)
    if not (out / "latents.pt").is_file():
        keep(latents_of(vae, args.images, args.seed + 1), out / "latents.pt")
    latents = torch.load(out / "latents.pt", weights_only=True)
    scenes = scenes_of(len(latents), np.random.default_rng(args.seed + 1))
    rng = np.random.default_rng(args.seed + 2)
    captions = draw_captions([scene for scene in scenes for _ in range(CAPTIONS)], rng)[0]
    states = read_all(texts, tokenizers, [*captions, ""])
    print("texts read", flush=True)
    return vae, texts, tokenizers, Pool(latents, states, CAPTIONS)


def keep(content: Any, path: Path) -> None:
    """Save, whole or not at all."""
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
}


def ship(
    transformer: nn.Module,
    texts: nn.ModuleList,
    vae: AutoencoderKL,
    tokenizers: Tokenizers,
    t5_tokenizer: Path,
    out: Path,
) -> None:
    """Write the folder `out` anew."""
    shutil.rmtree(out, ignore_errors=True)
    size = tokenizers.clip.size
    ship_projected_encoder(texts[0], size, out / "text_encoder")
    ship_projected_encoder(texts[1], size, out / "text_encoder_2")
    ship_t5(texts[2], tokenizers.t5_size, out / "text_encoder_3")
    ship_tokenizers(["tokenizer", "tokenizer_2"], t5_tokenizer, "tokenizer_3", out)
    scheduler = {"num_train_timesteps": 1000, "shift": SHIFT}
    ship_rest(transformer, vae, scheduler, INDEX, "demo_card_sd3.md", out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo_sd3"))
    parser.add_argument("--ship_to", type=Path, default=Path("build/demo_sd3/model"))
    parser.add_argument("--vae_steps", type=int, default=400)
    parser.add_argument("--text_steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--falling", type=int, default=2500)
    parser.add_argument("--images", type=int, default=16000)
    parser.add_argument("--check_every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    vae, texts, tokenizers, pool = prepared(args)
    torch.manual_seed(args.seed)
    trainer = Trainer(build_transformer(), predict, Plan(args.steps, args.falling), args.out)
    trainer.use_compiled_blocks()
    check = Check(texts, tokenizers, vae, predict, args.out)
    average = trainer.run(pool, check, args.check_every)
    ship(average, texts, vae, tokenizers, args.out / "tokenizer_3", args.ship_to)


if __name__ == "__main__":
    main()
