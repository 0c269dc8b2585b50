"""Train on full-size models with random weights, as the user guide says: `make full-size-check`.

For SD1.5, SD2.1 and SDXL in turn, as a single file in the original layout and as a diffusers folder: writes
the model in bf16, runs the guide's command for a few steps, loads the word in diffusers, prints peak memory and
seconds a step, deletes the model. One model at a time: about 14 GB of disk, 20 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from coinage.embedding_file import read
from coinage.families.loading import CONFIGS
from original_layout import original_tensors

ROOT = Path(__file__).parents[1]
SCRIPTS = {"sd1": "train_textual_inversion.py", "sd2": "train_textual_inversion.py", "sdxl": "sdxl_train_textual_inversion.py"}
CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def random_part(family: str, name: str) -> Any:
    """A part of a released architecture with small random weights, bf16."""
    config = json.loads((CONFIGS / family / name / "config.json").read_text(encoding="utf-8"))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        part = CLASSES[name](CLIPTextConfig(**config)) if name.startswith("text") else CLASSES[name].from_config(config)
    torch.set_default_dtype(torch.float32)
    part.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, tensor in part.state_dict().items():
        if key.endswith("position_ids"):
            tensor.copy_(torch.arange(tensor.shape[-1]).expand_as(tensor))
        elif tensor.ndim == 1:
            tensor.fill_(1.0 if key.endswith("weight") else 0.0)
        else:
            tensor.normal_(0, 0.02, generator=generator)
    return part


def write_model(family: str, kind: str, folder: Path) -> Path:
    """The model as one `file` or as a diffusers `folder`."""
    names = [name for name in CLASSES if (CONFIGS / family / name).is_dir()]
    if kind == "file":
        save_file(original_tensors(family, {name: random_part(family, name) for name in names}), folder / f"{family}.safetensors")
        return folder / f"{family}.safetensors"
    for name in names:
        random_part(family, name).save_pretrained(folder / family / name)
    shutil.copytree(CONFIGS / family / "scheduler", folder / family / "scheduler")
    for name in ("tokenizer", "tokenizer_2") if family == "sdxl" else ("tokenizer",):
        tokenizer = CLIPTokenizer.from_pretrained(vocabulary_folder(folder))
        tokenizer.save_pretrained(folder / family / name)
    return folder / family


def vocabulary_folder(folder: Path) -> Path:
    """CLIP's vocabulary, from open_clip's wheel, which is unpacked and not imported."""
    from coinage.tokenizer_files import OPEN_CLIP, read_open_clip

    target = folder / "vocabulary"
    if not (target / "vocab.json").is_file():
        target.mkdir(parents=True, exist_ok=True)
        vocabulary, merges = read_open_clip(folder / "open_clip_wheel" / "open_clip" / OPEN_CLIP)
        (target / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return target


def write_dataset(folder: Path, side: int) -> Path:
    """Four noisy pictures with captions, and the guide's dataset file at a small resolution."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text("mychar, 1girl, blonde hair, blue eyes", encoding="utf-8")
    text = '[general]\nshuffle_caption = false\ncaption_extension = ".txt"\nkeep_tokens = 1\n\n[[datasets]]\n'
    text += f"resolution = {side}\nbatch_size = 1\nenable_bucket = true\nmin_bucket_reso = 64\n\n[[datasets.subsets]]\n"
    text += f'image_dir = "{images}"\ncaption_extension = ".txt"\nnum_repeats = 10\n'
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return folder / "dataset.toml"


def train(family: str, model: Path, dataset: Path, out: Path, steps: int, wheel: Path) -> dict[str, float]:
    """Run the guide's command; its peak memory in GB, the whole time, and the seconds a step."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1", str(ROOT / SCRIPTS[family]),
        f"--pretrained_model_name_or_path={model}", f"--dataset_config={dataset}", f"--output_dir={out}",
        "--output_name=my_textual_inversion", "--save_model_as=safetensors", "--token_string=mychar", "--init_word=girl",
        "--num_vectors_per_token=4", f"--max_train_steps={steps}", "--learning_rate=1e-6", "--optimizer_type=AdamW8bit",
        "--mixed_precision=fp16", "--cache_latents", "--sdpa", *(["--v2"] if family == "sd2" else []),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(wheel), "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    with (out.parent / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    text = (out.parent / "log").read_text(encoding="utf-8")
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{text}")
    speeds = re.findall(r"([\d.]+) steps/s", text)
    return {"peak": usage.ru_maxrss / 2**20, "whole": time.monotonic() - start, "step": 1 / float(speeds[-1])}


def loads_in_diffusers(family: str, file: Path, vocabulary: Path) -> bool:
    """Whether diffusers' own loader takes the word into text encoders of the released sizes."""
    from diffusers.loaders import TextualInversionLoaderMixin

    vectors = read(file).vectors
    for key, name in zip(vectors, ("text_encoder", "text_encoder_2"), strict=False):

        class Loader(TextualInversionLoaderMixin):
            components: dict[str, Any] = {}  # noqa: RUF012
            hf_device_map = None

        encoder, tokenizer = random_part(family, name), CLIPTokenizer.from_pretrained(vocabulary)
        Loader().load_textual_inversion({"mychar": vectors[key]}, token="mychar", text_encoder=encoder, tokenizer=tokenizer)
        ids = tokenizer.convert_tokens_to_ids(["mychar", "mychar_1", "mychar_2", "mychar_3"])
        if ids != [49408, 49409, 49410, 49411] or not torch.allclose(
            encoder.get_input_embeddings().weight[ids].float(), vectors[key], atol=1e-2
        ):
            return False
    return True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["sd1", "sd2", "sdxl"])
    parser.add_argument("--kinds", nargs="+", default=["file", "folder"], choices=["file", "folder"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="resolution, pixels")
    parser.add_argument("--keep", action="store_true", help="do not delete the models")
    parser.add_argument("--work", type=Path, default=Path("build/full_size"))
    args = parser.parse_args()
    work: Path = args.work.resolve()
    wheel = work / "open_clip_wheel"
    if not wheel.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(wheel)]
        subprocess.run([*pip, "open_clip_torch"], check=True)
    dataset = write_dataset(work / "data", args.side)
    print("| model | as | size GB | peak memory GB | seconds a step | whole run s | loads in diffusers |\n|---|---|---|---|---|---|---|")
    for family in args.families:
        for kind in args.kinds:
            model = write_model(family, kind, work)
            files = [model] if model.is_file() else [p for p in model.rglob("*") if p.is_file()]
            size = sum(p.stat().st_size for p in files) / 2**30
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            found = train(family, model, dataset, out, args.steps, wheel)
            if not args.keep:
                shutil.rmtree(model) if model.is_dir() else model.unlink()
            good = loads_in_diffusers(family, out / "my_textual_inversion.safetensors", vocabulary_folder(work))
            row = f"{size:.1f} | {found['peak']:.1f} | {found['step']:.1f} | {found['whole']:.0f} | {'yes' if good else 'NO'}"
            print(f"| {family} | {kind} | {row} |", flush=True)


if __name__ == "__main__":
    main()
