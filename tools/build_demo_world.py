"""Train the demo world's models from nothing: `python tools/build_demo_world.py --out build/`.

Stages: the tokenizer, the autoencoder, then text encoder and UNet together. Repeatable from the
seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import AutoencoderKL

import demo_unet
import demo_vae
from demo_ship import ship
from demo_tokenizer import build_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ship_to", type=Path, default=Path("src/coinage/demo/models/sd1"))
    parser.add_argument(
        "--reuse_vae", action="store_true", help="take the autoencoder that OUT/vae holds already"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vae_steps", type=int, default=9000)
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--images", type=int, default=24000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(args.out / "tokenizer")
    if not args.reuse_vae:
        demo_vae.train_vae(args.vae_steps, args.seed).save_pretrained(args.out / "vae")
    vae = AutoencoderKL.from_pretrained(args.out / "vae")
    text, unet = demo_unet.train_models(
        vae, tokenizer, args.out, steps=args.steps, images=args.images, seed=args.seed
    )
    ship(text, unet, vae, args.out / "tokenizer", len(tokenizer), args.ship_to)


if __name__ == "__main__":
    main()
