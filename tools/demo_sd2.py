"""Make the SD 2.x-like demo world from the SD 1.x-like one.

It learns v-prediction on a schedule that ends in pure noise.

The first world's UNet and text encoder are the start; the text encoder gets OpenCLIP's activation:
`python tools/demo_sd2.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from coinage.demo.worlds import MODELS
from coinage.diffusion.schedule import DiffusionSchedule, rescale_zero_terminal_snr
from demo_captions import Encoder, Heads, cached_latents
from demo_fit import CaptionInputs, Plan, fit
from demo_ship import ship
from demo_unet import SCHEDULER, encode, grown_text_encoder, schedule

SETTINGS = SCHEDULER | {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
RATES = (3e-4, 8e-4, 1e-3)  # text encoder, UNet, heads


def train(
    rounds: list[int], images: int, seed: int, out: Path
) -> tuple[nn.ModuleList, AutoencoderKL, int]:
    """Train; returns the averages of text encoder and UNet, the VAE, and the size of the shipped vocabulary.

    Each round starts from the average that the one before it left, at half its rates.
    """
    torch.manual_seed(seed)
    start = MODELS / "sd1"
    encoder = Encoder(CLIPTokenizer.from_pretrained(start / "tokenizer"))
    vae = AutoencoderKL.from_pretrained(start / "vae").eval()
    old = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    text = grown_text_encoder(old, encoder.size, hidden_act="gelu")
    unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    latents, scenes = cached_latents(vae, images, seed + 1)
    velocity = DiffusionSchedule(
        rescale_zero_terminal_snr(schedule().alphas_cumprod), "v_prediction"
    )

    def read(captions: list[str], _: Tensor) -> CaptionInputs:
        return CaptionInputs(*encode(text, encoder, captions), {})

    live, heads, rng = nn.ModuleList([text, unet]), Heads(), np.random.default_rng(seed)
    for number, steps in enumerate(rounds):
        rates = tuple(rate / 2**number for rate in RATES)
        # Without offset noise: the last timestep, where nothing is left of the picture, teaches the
        # background.
        average = fit(
            live,
            heads,
            rates,
            read,
            latents,
            scenes,
            velocity,
            rng,
            out,
            Plan(steps, steps),
            offset=0.0,
        )
        live.load_state_dict(average.state_dict())
    return average, vae, encoder.size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo_sd2"))
    parser.add_argument("--ship_to", type=Path, default=MODELS / "sd2")
    parser.add_argument("--rounds", nargs="+", type=int, default=[3000, 2000], help="steps of each")
    parser.add_argument("--images", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    parts, vae, vocabulary = train(args.rounds, args.images, args.seed, args.out)
    ship(
        parts[0],
        parts[1],
        vae,
        MODELS / "sd1" / "tokenizer",
        vocabulary,
        args.ship_to,
        SETTINGS,
        "demo_card_sd2.md",
    )


if __name__ == "__main__":
    main()
