"""Run commands on the pretended GPU, and the same on the CPU.

Usage: `python -m tests.pretended_gpu.variants OUT NAME...`.

A process of its own, since the device must be there before torch is. Writes what it has seen to
OUT/seen.json.
"""

import json
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from io import StringIO
from pathlib import Path

from tests.pretended_gpu import device

MODELS = Path(__file__).parents[2] / "src" / "coinage" / "demo" / "models"
WORD = ["--token_string=zibu", "--output_name=zibu", "--init_word=ball"]
BF16, FP16, CACHED = "--mixed_precision=bf16", "--mixed_precision=fp16", "--cache_latents"
FLOAT32 = "--mixed_precision=no"
SHORT = [
    "--max_train_steps=2",
    "--learning_rate=5e-3",
    "--seed=0",
    "--save_model_as=safetensors",
    "--sample_every_n_steps=0",
]
PREVIEWS = ["--sample_every_n_steps=1", "--sample_prompts=OUT/prompts.txt"]
INPAINTING = "--pretrained_model_name_or_path=OUT/inpainting"
PROMPT = "a photo of zibu --w 64 --h 64 --s 2 --d 1\n"
TWO_WORDS = """
[[words]]
token_string = "zibu"
init_word = "ball"
dataset_config = "OUT/data/dataset.toml"
[[words]]
token_string = "wopo"
init_word = "box"
num_vectors_per_token = 2
dataset_config = "OUT/more/dataset.toml"
"""
ONE_PICTURE = """
together = true
dataset_config = "OUT/both/dataset.toml"
[[words]]
token_string = "zibu"
init_word = "ball"
[[words]]
token_string = "wopo"
init_word = "box"
start_step = 1
"""


def train(family: str, *flags: str, words: Sequence[str] = WORD) -> list[str]:
    """A short training; OUT stands for the folder of the device."""
    model = [f"--pretrained_model_name_or_path={MODELS / family}", "--output_dir=OUT"]
    own = list(words) or ["--config_file=OUT/words.toml"]
    if words == WORD:
        own = ["--dataset_config=OUT/data/dataset.toml", *words]
    return ["train", *model, *own, *SHORT, *(["--v2"] if family == "sd2" else []), *flags]


def draw(family: str, *flags: str) -> list[str]:
    """Two small pictures with the word."""
    small = ["--width=64", "--height=64", "--steps=2", "--seed=1", "--output=OUT/pictures"]
    return [
        "generate",
        str(MODELS / family),
        "a photo of zibu",
        "a red ball",
        "--embedding",
        "OUT/zibu.safetensors",
        *small,
        *flags,
    ]


def verify(family: str) -> list[str]:
    """The word's file in other tools."""
    return ["verify", "OUT/zibu.safetensors", "--model", str(MODELS / family)]


# What looks at the machine's own devices when it is imported, which must be before the pretended
# GPU is seen.
EARLY = {
    "accelerate": ["PartialState"],
    "diffusers": [
        "AutoencoderKL",
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "UNet2DConditionModel",
    ],
    "transformers": ["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"],
}
# What is done one after the other, in one folder for each device.
VARIANTS: dict[str, list[list[str]]] = {
    "sd1 bf16, previews, resume, generate, verify": [
        train("sd1", BF16, CACHED, *PREVIEWS, "--max_train_steps=1", "--save_state"),
        train("sd1", CACHED, *PREVIEWS, "--resume=latest"),  # as it was
        draw("sd1"),
        verify("sd1"),
    ],
    "sdxl bf16, fp8, checkpointing": [train("sdxl", BF16, CACHED, "--fp8_base", "--gradient_checkpointing")],
    "sd2 fp16, uncached": [train("sd2", FP16)],
    "sd1 fp16, words of one picture": [
        train("sd1", FP16, CACHED, words=("--config_file=OUT/picture.toml",))
    ],
    "sdxl fp16, several words": [train("sdxl", FP16, CACHED, words=())],
    "sd1 bf16, low memory, previews": [train("sd1", BF16, "--low_memory", *PREVIEWS)],
    "sdxl fp16, low memory": [train("sdxl", FP16, "--low_memory")],
    "sd1 fp16, checkpointing": [train("sd1", FP16, CACHED, "--gradient_checkpointing")],
    "sd1 fp8 fp16, uncached, checkpointing": [train("sd1", FP16, "--fp8_base", "--gradient_checkpointing")],
    "sd1 float32, several words": [train("sd1", FLOAT32, CACHED, words=())],
    "sd1 in what suits the device": [train("sd1", CACHED)],  # the CPU in float32
    "sd1 full bf16": [train("sd1", BF16, "--full_bf16", CACHED)],
    "sd1 full fp16": [train("sd1", FP16, "--full_fp16", CACHED)],
    "sd1 bf16, clip skip, two vectors": [train("sd1", BF16, "--clip_skip=2", "--num_vectors_per_token=2")],
    "sd2 bf16, v, disk": [
        train("sd2", BF16, "--v_parameterization", "--zero_terminal_snr", "--cache_latents_to_disk")
    ],
    "sdxl fp16, previews, resume, generate, verify": [
        train("sdxl", FP16, CACHED, *PREVIEWS, "--max_train_steps=1", "--save_state"),
        train("sdxl", FP16, CACHED, *PREVIEWS, "--resume=latest"),
        draw("sdxl", "--precision=bf16"),
        verify("sdxl"),
    ],
    "sdxl bf16, VAE in float32": [train("sdxl", BF16, CACHED, "--no_half_vae", *PREVIEWS)],
    "sd1 inpainting bf16, previews": [train("sd1", BF16, CACHED, *PREVIEWS, INPAINTING)],
    "sd1 inpainting fp16, fp8, uncached": [train("sd1", FP16, "--fp8_base", INPAINTING)],
    "sdxl fp16, one encoder": [train("sdxl", FP16, CACHED, "--train_encoders=g")],
    "sd1 bf16, search, early stop": [
        train("sd1", BF16, CACHED, "--init_word=auto", "--early_stop", "--keep_best")
    ],
    "sd1 fp16, accumulation, held out": [
        train("sd1", FP16, CACHED, "--gradient_accumulation_steps=2",
              "--validation_split=0.25", "--validate_every_n_steps=1")
    ],
}  # fmt: skip
USUAL = list(VARIANTS)[:1]  # of each run of the tests; all others are slow


@dataclass
class Seen:
    """What a variant did on one device."""

    # Of its commands; a traceback where one raised
    codes: list[int | str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # lines on stderr and stdout
    # Python's warnings, and what the model libraries log past us
    warned: list[str] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)  # of each word's log, by its name
    pictures: list[str] = field(default_factory=list)  # their names
    waits: int = 0
    kernels: int = 0


def write_inputs(out: Path) -> None:
    """The files that the commands name."""
    from coinage.demo.concepts import CONCEPTS
    from coinage.demo.dataset import write_dataset

    write_dataset(out / "data", CONCEPTS["moon"], "zibu", seed=0)
    write_dataset(out / "more", CONCEPTS["moon"], "wopo", seed=1)
    (out / "prompts.txt").write_text(PROMPT, encoding="utf-8")
    for caption in (
        write_dataset(out / "both", CONCEPTS["moon"], "zibu", seed=0).parent / "images"
    ).glob("*.txt"):
        caption.write_text("a wopo beside a zibu", encoding="utf-8")
    (out / "picture.toml").write_text(ONE_PICTURE.replace("OUT", out.as_posix()), encoding="utf-8")
    (out / "words.toml").write_text(TWO_WORDS.replace("OUT", out.as_posix()), encoding="utf-8")


def write_inpainting(out: Path) -> None:
    """The demo's model, whose UNet also reads a mask and a masked picture."""
    from diffusers import UNet2DConditionModel

    from tests.tiny_models import with_inputs

    shutil.copytree(MODELS / "sd1", out)
    unet = UNet2DConditionModel.from_pretrained(out / "unet")
    parts = with_inputs({"unet": unet}, 9, 0.1)
    parts["unet"].save_pretrained(out / "unet")  # type: ignore[operator]


def run(commands: Sequence[Sequence[str]], out: Path, *, gpu: bool) -> Seen:
    """Run commands one after the other, in this process."""
    from tests.helpers import libraries_told
    from tests.pretended_gpu.tensors import pretended_gpu

    write_inputs(out)
    if INPAINTING in commands[0]:
        write_inpainting(out / "inpainting")
    seen, text = Seen(), StringIO()
    for command in commands:
        forget()
        name, *flags = (word.replace("OUT", out.as_posix()) for word in command)
        with (
            warnings.catch_warnings(record=True) as caught,
            redirect_stderr(text),
            redirect_stdout(text),
        ):
            warnings.simplefilter("always")
            with (
                libraries_told() as libraries,
                pretended_gpu() if gpu else nullcontext() as counted,
            ):
                seen.codes.append(code_of(name, flags))
        seen.warned += [*(str(warning.message) for warning in caught), *libraries]
        if counted:
            seen.waits, seen.kernels = (
                seen.waits + counted.waits.total(),
                seen.kernels + counted.kernels,
            )
    seen.told = text.getvalue().replace(out.as_posix(), "OUT").splitlines()
    for log in sorted(out.glob("*-log.jsonl")):
        seen.losses[log.name] = [
            json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()
        ]
    drawn = [
        str(path.relative_to(out)) for path in out.rglob("*.png") if path.parent.name != "images"
    ]
    seen.pictures = sorted(re.sub(r"\d{14}", "TIME", name) for name in drawn)
    return seen


def forget() -> None:
    """Have a command find the process as if it were the first one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    logging.getLogger("coinage").handlers.clear()


def code_of(name: str, flags: Sequence[str]) -> int | str:
    """The exit code of a command; the traceback where it raises, as CUDA's refusals do."""
    from coinage.cli.main import main
    from coinage.cli.train import train_command

    try:
        return train_command("coinage", flags) if name == "train" else main([name, *flags])
    except Exception:  # noqa: BLE001 - it is what the test is to show
        return traceback.format_exc()


def run_all(out: Path, names: Sequence[str]) -> None:
    """Run variants on both devices, and write what was seen."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    device.load(device.built())
    for module, names_in_it in EARLY.items():
        for name in names_in_it:
            getattr(import_module(module), name)
    seen = {}
    for number, name in enumerate(names):
        folder = out / str(number)
        seen[name] = {
            kind: asdict(run(VARIANTS[name], folder / kind, gpu=kind == "gpu"))
            for kind in ("gpu", "cpu")
        }
    (out / "seen.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), sys.argv[2:])
    os._exit(0)  # autograd's thread for the device does not end with Python
