"""Make models of the released architectures with small random weights, and pictures to train on.

Speed and memory need no more.

`python benchmarks/random_models.py sd1 FOLDER` writes a diffusers folder (bf16, about 2 GB for sd1,
7 GB for sdxl).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from coinage.demo.worlds import MODELS as DEMO
from coinage.models.detect import read_config

if TYPE_CHECKING:
    import torch

RELEASED = Path(__file__).parents[1] / "src" / "coinage" / "models" / "configs"
CLASSES = {
    "unet": "diffusers.UNet2DConditionModel",
    "vae": "diffusers.AutoencoderKL",
    "text_encoder": "transformers.CLIPTextModel",
    "text_encoder_2": "transformers.CLIPTextModelWithProjection",
    "text_encoder_3": "transformers.T5EncoderModel",
    "transformer": "diffusers.",  # its settings name it
}
PICTURES = 4
USES = 10  # batches that each picture is in, an epoch


def part_names(configs: Path) -> list[str]:
    """The parts of a model that have weights, from its folder of settings."""
    return [name for name in CLASSES if (configs / name).is_dir()]


def meta_part(configs: Path, name: str, dtype: torch.dtype | None = None) -> Any:
    """A part of a model on the `meta` device: with sizes and without numbers.

    Args:
        configs: settings, laid out as a diffusers folder.
        name: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        dtype: of its weights; bf16 unless given.
    """
    import diffusers
    import torch
    import transformers

    library, _, kind = CLASSES[name].partition(".")
    config = read_config(configs / name / "config.json")
    (kind,) = config.get("architectures", [config.get("_class_name", kind)])
    cls = getattr({"diffusers": diffusers, "transformers": transformers}[library], kind)
    torch.set_default_dtype(dtype or torch.bfloat16)
    try:
        with torch.device("meta"):
            return (
                cls(cls.config_class(**config))
                if library == "transformers"
                else cls.from_config(config)
            )
    finally:
        torch.set_default_dtype(torch.float32)


def random_part(configs: Path, name: str, device: str = "cpu") -> Any:
    """A part of a model with small random weights, bf16, made on the device where it is to be.

    Args:
        configs: settings, laid out as a diffusers folder.
        name: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        device: where the weights are drawn.
    """
    import torch

    # Initialising billions of weights that are drawn anew would take minutes
    part = meta_part(configs, name)
    part.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for key, buffer in part.named_buffers():  # what the class computes itself is in no state
        if key.endswith("pos_embed"):  # a transformer's table of places, which is in its files
            buffer.normal_(0, 0.02, generator=generator)
        elif key.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
        else:
            raise NotImplementedError(f"{name} has a buffer {key}")
    for key, weight in part.named_parameters():
        with torch.no_grad():
            if weight.ndim == 1:
                weight.fill_(1.0 if key.endswith("weight") else 0.0)
            else:
                weight.normal_(0, 0.02, generator=generator)
    return part


def write_folder(
    configs: Path,
    folder: Path,
    tokenizer: Path = DEMO / "sd1" / "tokenizer",
    *,
    weights: bool = True,
) -> Path:
    """A model as a diffusers folder.

    Args:
        configs: its settings, laid out as a diffusers folder.
        folder: where to.
        tokenizer: a folder with a vocabulary; the demo's small one reads any text, and takes as
            long.
        weights: off: settings and tokenizer alone, and files without a tensor, which pass for weights
            before a model is loaded.
    """
    from safetensors.numpy import save_file

    for name in part_names(configs):
        shutil.copytree(
            configs / name,
            folder / name,
            ignore=shutil.ignore_patterns("*.safetensors"),
            dirs_exist_ok=True,
        )
        if weights:
            random_part(configs, name).save_pretrained(folder / name)
        else:
            save_file({}, folder / name / "model.safetensors")
        if name.startswith("text_encoder"):
            shutil.copytree(
                tokenizer, folder / name.replace("text_encoder", "tokenizer"), dirs_exist_ok=True
            )
    shutil.copytree(configs / "scheduler", folder / "scheduler", dirs_exist_ok=True)
    return folder


def write_dataset(folder: Path, side: int, batch: int = 1, pictures: int = PICTURES) -> Path:
    """Noisy pictures with captions, and a dataset file whose epochs hold whole batches only."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(pictures):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text("mychar, 1girl, blonde hair, blue eyes", encoding="utf-8")
    text = '[general]\nshuffle_caption = false\ncaption_extension = ".txt"\nkeep_tokens = 1\n\n[[datasets]]\n'
    text += (
        f"resolution = {side}\nbatch_size = {batch}\nenable_bucket = true\n"
        "min_bucket_reso = 64\n\n[[datasets.subsets]]\n"
    )
    text += f'image_dir = "{images.as_posix()}"\ncaption_extension = ".txt"\nnum_repeats = {USES * batch}\n'
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return folder / "dataset.toml"


def main() -> None:
    """Write a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    from coinage.models.quiet import quiet_libraries

    quiet_libraries()
    write_folder(RELEASED / args.family, args.folder)


if __name__ == "__main__":
    main()
