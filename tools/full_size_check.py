"""Train on full-size models with random weights, as the user guide says: `make full-size-check`.

For SD1.5, SD2.1, SDXL, SD3.5 medium and FLUX.1 in turn, as a single file in the original layout
and as a diffusers folder: writes the model in bf16, runs the guide's command for a few steps, loads
the word in diffusers, prints peak memory and seconds a step, deletes the model. Of the last two, a
few layers of the real width stand for all. One model at a time: about 14 GB of disk, 20 GB of memory.
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
from transformers import CLIPTokenizer, T5TokenizerFast

from coinage.embeddings.reading import read
from coinage.models.facts import FACTS
from original_flux import flux_tensors
from original_layout import original_tensors
from original_sd3 import sd3_tensors

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from random_models import RELEASED, part_names, random_part, write_dataset, write_folder  # noqa: E402

# Layers of the parts that would not fit in the memory of a small machine, by the part's settings
FEW: dict[str, dict[str, dict[str, Any]]] = {
    "sd3": {
        "transformer": {"num_layers": 4, "dual_attention_layers": [0, 1]},
        "text_encoder_3": {"num_layers": 2},
    },
    "flux": {
        "transformer": {"num_layers": 1, "num_single_layers": 2},
        "text_encoder_2": {"num_layers": 2},
    },
}
# Single files have no settings: the released ones ask for all layers
WITH_FEW_LAYERS = """
import pathlib, sys
from coinage.cli.main import main
from coinage.models import loading
loading.CONFIGS = pathlib.Path(sys.argv.pop(1))
sys.exit(main())
"""
LEAST_SPEED = 0.05  # images a second; the progress line shows anything less as 0.0
TENSORS = {"sd3": sd3_tensors, "flux": flux_tensors}  # how single files name them


def settings_of(family: str, folder: Path) -> Path:
    """A folder with the settings of the released model, with few layers where it is huge."""
    configs = folder / "settings" / family
    shutil.copytree(RELEASED / family, configs, dirs_exist_ok=True)
    for part, few in FEW.get(family, {}).items():
        path = configs / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | few))
    return configs


def write_model(family: str, kind: str, folder: Path) -> Path:
    """The model as one `file` or as a diffusers `folder`."""
    configs = settings_of(family, folder)
    if kind == "file":
        parts = {name: random_part(configs, name) for name in part_names(configs)}
        named = TENSORS[family](parts) if family in TENSORS else original_tensors(family, parts)
        save_file(named, folder / f"{family}.safetensors")
        return folder / f"{family}.safetensors"
    CLIPTokenizer.from_pretrained(vocabulary_folder(folder)).save_pretrained(folder / "tokenizer")
    made = write_folder(configs, folder / family, folder / "tokenizer")
    for encoder in FACTS[family].text_encoders:
        if encoder.kind == "t5":
            shutil.copytree(t5_folder(folder), made / encoder.tokenizer_folder, dirs_exist_ok=True)
    return made


def t5_folder(folder: Path) -> Path:
    """A tokenizer of T5's kind that reads letter by letter: T5's own vocabulary is in no package."""
    target = folder / "tokenizers" / "t5"
    letters = [(letter, -9.0) for letter in map(chr, range(33, 127))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -8.0)]
    T5TokenizerFast(vocab=[*special, *letters], extra_ids=0).save_pretrained(target)
    return target


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


def start_of_command(family: str, work: Path) -> list[str]:
    """The guide's command, or `coinage train` where sd-scripts has none."""
    script = ROOT / FACTS[family].script
    if not script.is_file():
        return [sys.executable, "-c", WITH_FEW_LAYERS, str(work / "settings"), "train"]
    launch = ["-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1"]
    return [sys.executable, *launch, str(script), *FACTS[family].script_flags]


def train(
    family: str, model: Path, dataset: Path, out: Path, steps: int, wheel: Path, precision: str
) -> dict[str, float]:
    """Run the command; its peak memory in GB, the whole time, and the seconds a step, 20 at most."""
    reads_t5 = any(encoder.kind == "t5" for encoder in FACTS[family].text_encoders)
    command = [
        *start_of_command(family, out.parent),
        *([f"--tokenizer_cache_dir={t5_folder(out.parent).parent}"] if reads_t5 else []),
        f"--pretrained_model_name_or_path={model}", f"--dataset_config={dataset}", f"--output_dir={out}",
        "--output_name=my_textual_inversion", "--save_model_as=safetensors",
        "--token_string=mychar", "--init_word=girl",
        "--num_vectors_per_token=4", f"--max_train_steps={steps}", "--learning_rate=1e-6",
        "--optimizer_type=AdamW8bit",
        f"--mixed_precision={precision}", "--cache_latents", "--sdpa",
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
        "step": 1 / max(float(speeds[-1]), LEAST_SPEED),
    }


def loads_in_diffusers(family: str, file: Path, vocabulary: Path) -> bool:
    """Whether diffusers' own loader takes the word into CLIP encoders of the released sizes."""
    from diffusers.loaders import TextualInversionLoaderMixin

    vectors = read(file).vectors
    clips = [one for one in FACTS[family].text_encoders if one.kind != "t5"]
    for key, name in ((one.key, one.folder) for one in clips):

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
    parser.add_argument("--families", nargs="+", default=list(FACTS))
    parser.add_argument(
        "--kinds", nargs="+", default=["file", "folder"], choices=["file", "folder"]
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="resolution, pixels")
    parser.add_argument(
        "--precision", default="fp16", help="no: on a CPU that does not multiply bf16"
    )
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
            figures = train(family, model, dataset, out, args.steps, wheel, args.precision)
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
