"""Read how well a flow-matching demo world obeys its words: `python tools/demo_flow_gate.py FOLDER`.

The stock pipeline draws; prompts go to all encoders, and then to T5 alone, while CLIP reads "".
Exit code 1 where the world is not good enough to be shipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline

from coinage.demo.score import base_accuracy, base_prompts

LEAST, LEAST_T5_COLOUR = 0.75, 0.8
PARTS = ("shape", "colour", "background", "texture")


def draw(pipe: DiffusionPipeline, texts: list[str], alone: bool, batch: int) -> list[Any]:
    """Pictures [64, 64, 3] uint8 of the prompts, each from its number as a seed."""
    out: list[Any] = []
    for i in range(0, len(texts), batch):
        some = texts[i : i + batch]
        empty = [""] * len(some)
        noises = [torch.Generator().manual_seed(i + k) for k in range(len(some))]
        given: dict[str, Any] = {
            "num_inference_steps": 20,
            "generator": noises,
            "output_type": "np",
        }
        clip = empty if alone else some
        if isinstance(pipe, StableDiffusion3Pipeline):
            given |= {"prompt_2": clip, "prompt_3": some, "guidance_scale": 4.0}
        else:
            given |= {"prompt_2": some, "true_cfg_scale": 4.0, "height": 64, "width": 64}
        pictures = pipe(clip, negative_prompt=empty, **given).images
        out += list((pictures * 255).round().astype(np.uint8))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = DiffusionPipeline.from_pretrained(args.folder)
    pipe.set_progress_bar_config(disable=True)
    pairs = base_prompts(args.pictures, args.seed)
    texts, scenes = [prompt.text for prompt, _ in pairs], [scene for _, scene in pairs]
    found = {}
    for name, alone in (("all", False), ("T5 alone", True)):
        found[name] = base_accuracy(scenes, draw(pipe, texts, alone, args.batch))
        print(name, " ".join(f"{k} {v:.2f}" for k, v in found[name].items()), flush=True)
    good = min(found["all"][part] for part in PARTS) >= LEAST
    sys.exit(0 if good and found["T5 alone"]["colour"] >= LEAST_T5_COLOUR else 1)


if __name__ == "__main__":
    main()
