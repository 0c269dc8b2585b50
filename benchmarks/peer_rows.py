"""The trainers that `peers.py` compares: how each is started, and how its steps are read."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
WORD, INIT, RATE = "mychar", "a", "5e-4"
BAR = re.compile(r"(\d+)/(\d+) \[")


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained: pixels of a side, and the mixed precision as accelerate names it."""

    resolution: int
    precision: str

    @property
    def dtype(self) -> str:
        """Of the computation."""
        return "float32" if self.precision == "no" else self.precision


@dataclass(frozen=True, slots=True)
class Job:
    """One training.

    Attributes:
        model: a diffusers folder.
        data: a dataset file, of the format of sd-scripts.
        images: the folder of its images and captions.
        out: an empty folder, where the process runs and writes.
        steps: optimizer updates, of one image each.
        resolution: pixels of a side.
        precision: `no` or `bf16`.
    """

    model: Path
    data: Path
    images: Path
    out: Path
    steps: int
    resolution: int
    precision: str

    def in_folder(self, out: Path) -> Job:
        """Return the same training in another folder."""
        return replace(self, out=out)


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer.

    Attributes:
        name: in the tables.
        folder: of its repository.
        script: its Python and its script, which takes `--help`.
        arguments: of the script, for a training.
        steps_done: how many steps are done, from what was printed.
        differs: settings in which it is not equal to the others.
    """

    name: str
    folder: Path
    script: tuple[str, str]
    arguments: Callable[[Job], list[str]]
    steps_done: Callable[[str, Job], int]
    differs: tuple[str, ...] = ()

    def command(self, job: Job) -> list[str]:
        """Return the command of a training."""
        return [*self.script, *self.arguments(job)]


def steps_in_bar(text: str, job: Job) -> int:
    """Return where the progress bar of so many steps stands."""
    return max((int(done) for done, of in BAR.findall(text) if int(of) == job.steps), default=0)


def steps_in_log(text: str, job: Job) -> int:  # noqa: ARG001 - a row's
    """Return the number of lines in our log."""
    log = job.out / f"{WORD}-log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def shared_flags(job: Job) -> list[str]:
    """Return the flags that ours and sd-scripts both have."""
    return [
        f"--pretrained_model_name_or_path={job.model}",
        f"--dataset_config={job.data}",
        f"--output_dir={job.out}",
        f"--output_name={WORD}",
        "--save_model_as=safetensors",
        f"--token_string={WORD}",
        f"--init_word={INIT}",
        f"--max_train_steps={job.steps}",
        "--optimizer_type=AdamW",
        f"--learning_rate={RATE}",
        "--lr_scheduler=constant",
        f"--mixed_precision={job.precision}",
        "--sdpa",
        "--cache_latents",
        "--max_data_loader_n_workers=0",
        "--seed=0",
    ]


def reference_flags(job: Job) -> list[str]:
    """Return those of sd-scripts, which takes its tokenizer from a folder of its own."""
    name = "openai_clip-vit-large-patch14"
    shutil.copytree(job.model / "tokenizer", job.out / "tokenizers" / name)
    return [*shared_flags(job), f"--tokenizer_cache_dir={job.out / 'tokenizers'}"]


def diffusers_flags(job: Job) -> list[str]:
    """Return those of diffusers' example, which takes a folder of nothing but images."""
    images = job.out / "images"
    images.mkdir()
    for image in job.images.glob("*.png"):
        shutil.copy(image, images)
    return [
        f"--pretrained_model_name_or_path={job.model}",
        f"--train_data_dir={images}",
        f"--output_dir={job.out / 'word'}",
        f"--placeholder_token={WORD}",
        f"--initializer_token={INIT}",
        f"--resolution={job.resolution}",
        "--train_batch_size=1",
        f"--max_train_steps={job.steps}",
        f"--learning_rate={RATE}",
        "--lr_scheduler=constant",
        f"--mixed_precision={job.precision}",
        "--seed=0",
    ]


def absolute(python: str) -> str:
    """Return the path of a Python, whose link is not followed: it says where its packages are."""
    return os.path.abspath(python)  # noqa: PTH100 - resolve() follows links


def trainers(args: argparse.Namespace) -> list[Trainer]:
    """Return ours and the peers whose folders are given."""
    rows = [
        Trainer(
            "ours",
            REPOSITORY,
            (sys.executable, str(REPOSITORY / "train_textual_inversion.py")),
            shared_flags,
            steps_in_log,
            ("writes a log and a report of the run, which no other does",),
        )
    ]
    if args.reference:
        script = args.reference.resolve() / "train_textual_inversion.py"
        rows.append(
            Trainer(
                "sd-scripts",
                args.reference,
                (absolute(args.reference_python), str(script)),
                reference_flags,
                steps_in_bar,
                ("trains the whole table of 49,409 tokens and puts the others back",),
            )
        )
    if args.diffusers:
        script = (
            args.diffusers.resolve() / "examples" / "textual_inversion" / "textual_inversion.py"
        )
        rows.append(
            Trainer(
                "diffusers",
                args.diffusers,
                (absolute(args.diffusers_python), str(script)),
                diffusers_flags,
                steps_in_bar,
                (
                    "cannot cache latents: the VAE encodes the image in every step",
                    "reads no captions, it has templates of its own",
                    "keeps the text encoder's weights as they are saved, here bf16",
                    "clips no gradient",
                ),
            )
        )
    return rows
