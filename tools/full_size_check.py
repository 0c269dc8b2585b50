"""Train on full-size models with random weights, as the user guide says: `make full-size-check`.

For SD1.5, SD2.1 and SDXL in turn, as a single file in the original layout and as a diffusers
folder: writes the model in bf16, runs the guide's command for a few steps, loads the word in
diffusers, prints peak memory and seconds a step, deletes the model. One model at a time: about 14
GB of disk, 20 GB of memory.
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

import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from coinage.embeddings.reading import read
from original_layout import original_tensors

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from random_models import RELEASED, part_names, random_part, write_dataset, write_folder  # noqa: E402

SCRIPTS = {
    "sd1": "train_textual_inversion.py",
    "sd2": "train_textual_inversion.py",
    "sdxl": "sdxl_train_textual_inversion.py",
}


def write_model(family: str, kind: str, folder: Path) -> Path:
    """The model as one `file` or as a diffusers `folder`."""
    configs = RELEASED / family
    if kind == "file":
        parts = {name: random_part(configs, name) for name in part_names(configs)}
        save_file(original_tensors(family, parts), folder / f"{family}.safetensors")
        return folder / f"{family}.safetensors"
    CLIPTokenizer.from_pretrained(vocabulary_folder(folder)).save_pretrained(folder / "tokenizer")
    return write_folder(configs, folder / family, folder / "tokenizer")


def vocabulary_folder(folder: Path) -> Path:
    """CLIP's vocabulary, from open_clip's wheel, which is unpacked and not imported."""
    from coinage.models.tokenizer_files import OPEN_CLIP, read_open_clip

    target = folder / "vocabulary"
    if not (target / "vocab.json").is_file():
        target.mkdir(parents=True, exist_ok=True)
        vocabulary, merges = read_open_clip(folder / "open_clip_wheel" / "open_clip" / OPEN_CLIP)
        (target / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (target / "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8"
        )
    return target


def train(
    family: str, model: Path, dataset: Path, out: Path, steps: int, wheel: Path
) -> dict[str, float]:
    """Run the guide's command; its peak memory in GB, the whole time, and the seconds a step."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1",
        str(ROOT / SCRIPTS[family]),
        f"--pretrained_model_name_or_path={model}", f"--dataset_config={dataset}", f"--output_dir={out}",
        "--output_name=my_textual_inversion", "--save_model_as=safetensors",
        "--token_string=mychar", "--init_word=girl",
        "--num_vectors_per_token=4", f"--max_train_steps={steps}", "--learning_rate=1e-6",
        "--optimizer_type=AdamW8bit",
        "--mixed_precision=fp16", "--cache_latents", "--sdpa", *(["--v2"] if family == "sd2" else []),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(wheel), "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    with (
        (out.parent / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    text = (out.parent / "log").read_text(encoding="utf-8")
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{text}")
    speeds = re.findall(r"([\d.]+) img/s", text)  # one image a step
    return {
        "peak": usage.ru_maxrss / 2**20,
        "whole": time.monotonic() - start,
        "step": 1 / float(speeds[-1]),
    }


def loads_in_diffusers(family: str, file: Path, vocabulary: Path) -> bool:
    """Whether diffusers' own loader takes the word into text encoders of the released sizes."""
    from diffusers.loaders import TextualInversionLoaderMixin

    vectors = read(file).vectors
    for key, name in zip(vectors, ("text_encoder", "text_encoder_2"), strict=False):

        class Loader(TextualInversionLoaderMixin):
            components: dict[str, Any] = {}  # noqa: RUF012
            hf_device_map = None

        encoder, tokenizer = (
            random_part(RELEASED / family, name),
            CLIPTokenizer.from_pretrained(vocabulary),
        )
        Loader().load_textual_inversion(
            {"mychar": vectors[key]}, token="mychar", text_encoder=encoder, tokenizer=tokenizer
        )
        ids = tokenizer.convert_tokens_to_ids(["mychar", "mychar_1", "mychar_2", "mychar_3"])
        if ids != [49408, 49409, 49410, 49411] or not torch.allclose(
            encoder.get_input_embeddings().weight[ids].float(), vectors[key], atol=1e-2
        ):
            return False
    return True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=["sd1", "sd2", "sdxl"])
    parser.add_argument(
        "--kinds", nargs="+", default=["file", "folder"], choices=["file", "folder"]
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="resolution, pixels")
    parser.add_argument("--keep", action="store_true", help="do not delete the models")
    parser.add_argument("--work", type=Path, default=Path("build/full_size"))
    args = parser.parse_args()
    work: Path = args.work.resolve()
    wheel = work / "open_clip_wheel"
    if not wheel.is_dir():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(wheel),
        ]
        subprocess.run([*pip, "open_clip_torch"], check=True)
    dataset = write_dataset(work / "data", args.side)
    print(
        "| model | as | size GB | peak memory GB | seconds a step | whole run s | loads in diffusers |\n"
        "|---|---|---|---|---|---|---|"
    )
    for family in args.families:
        for kind in args.kinds:
            model = write_model(family, kind, work)
            files = [model] if model.is_file() else [p for p in model.rglob("*") if p.is_file()]
            size = sum(p.stat().st_size for p in files) / 2**30
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            figures = train(family, model, dataset, out, args.steps, wheel)
            if not args.keep:
                shutil.rmtree(model) if model.is_dir() else model.unlink()
            good = loads_in_diffusers(
                family, out / "my_textual_inversion.safetensors", vocabulary_folder(work)
            )
            row = (
                f"{size:.1f} | {figures['peak']:.1f} | {figures['step']:.1f} "
                f"| {figures['whole']:.0f} | {'yes' if good else 'NO'}"
            )
            print(f"| {family} | {kind} | {row} |", flush=True)


if __name__ == "__main__":
    main()
