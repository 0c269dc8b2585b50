"""Several words at once: `python benchmarks/words.py`, or `--model PATH --resolution 512`.

Trains one word at a batch of `--words` images, and so many words side by side with one image each,
and prints seconds a step and peak memory: medians of `--runs`, taken in turns. The model's work is
the same; the table shows what the words cost beside it. OMP_NUM_THREADS sets the CPU's threads.
Each training is a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from unittest.mock import patch

from coinage.demo.run import MODEL
from random_models import write_dataset

if TYPE_CHECKING:
    from coinage.training.run import Run

GB = 2**30
WARM_UP = 3  # steps that do not count


@dataclass(frozen=True, slots=True)
class Measured:
    """A training: seconds a step, and bytes of memory at most; those of the GPU where there is one."""

    step: float
    peak: float


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained: so many words, each with so many images in a step."""

    model: str
    resolution: int
    precision: str
    words: int
    batch: int
    steps: int


def token(number: int) -> str:
    """A word of its own for each number, and none that is a piece of another."""
    return "mychar" + chr(ord("a") + number // 26) + chr(ord("a") + number % 26)


def command_of(task: Task, folder: Path) -> list[str]:
    """The training command: a config file with a table for each word, and images for each."""
    shared = {
        "pretrained_model_name_or_path": task.model,
        "output_dir": (folder / "out").as_posix(),
        "init_word": "girl",
        "save_model_as": "safetensors",
        "mixed_precision": task.precision,
        "max_train_steps": task.steps,
        "learning_rate": 5e-4,
        "seed": 0,
        "cache_latents": True,
        "sample_every_n_steps": 0,
    }
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in shared.items())
    for number in range(task.words):
        data = write_dataset(folder / token(number), task.resolution, task.batch)
        for caption in (data.parent / "images").glob("*.txt"):
            caption.write_text(
                caption.read_text(encoding="utf-8").replace("mychar", token(number)),
                encoding="utf-8",
            )
        text += (
            f'\n[[words]]\ntoken_string = "{token(number)}"\n'
            f"dataset_config = {json.dumps(data.as_posix())}\n"
        )
    (folder / "words.toml").write_text(text, encoding="utf-8")
    return [f"--config_file={folder / 'words.toml'}"]


def measure(task: Task) -> Measured:
    """Train in this process; its peak counts from its beginning."""
    import torch

    from coinage.cli.train import train_command
    from coinage.training.supply import Supply

    times: list[float] = []
    real = Supply.next

    def next_inputs(supply: Supply, runs: Sequence[Run]) -> object:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        return real(supply, runs)

    clocked = patch.object(Supply, "next", next_inputs)
    with clocked, tempfile.TemporaryDirectory() as folder:
        code = train_command("coinage", command_of(task, Path(folder)))
    if code:
        sys.exit(code)
    steps = [after - before for before, after in pairwise(times)][WARM_UP:]
    used = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return Measured(median(steps), float(used))


def measured_apart(task: Task) -> Measured:
    """As `measure`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [
            sys.executable,
            __file__,
            "--task",
            json.dumps(asdict(task)),
            "--result",
            str(result),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}\nfailed with exit code {done.returncode}")
        return Measured(**json.loads(result.read_text(encoding="utf-8")))


def compare(model: str, args: argparse.Namespace) -> None:
    """Print the table of a model."""
    side = 64 if model == str(MODEL) else args.resolution
    tasks = [
        Task(model, side, args.precision, words, args.words // words, args.steps)
        for words in (1, args.words)
    ]
    found: list[list[Measured]] = [[], []]
    for _ in range(args.runs):
        for task, own in zip(tasks, found, strict=True):
            own.append(measured_apart(task))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(
        f"{model}, {side} px, {args.precision}; {args.steps} steps, {args.runs} runs, threads: {threads}\n"
    )
    print("| words | images of each | s/step | peak GB |\n|---|---|---|---|")
    middles = [(median(m.step for m in own), median(m.peak for m in own)) for own in found]
    for task, (step, peak) in zip(tasks, middles, strict=True):
        print(f"| {task.words} | {task.batch} | {step:.4f} | {peak / GB:.3f} |")
    (one, least), (many, most) = middles
    print(f"| ratio | | {many / one:.3f} | {most / least:.3f} |\n", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; or, for a process of its own, measure one training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="also this one, beside the demo's")
    parser.add_argument(
        "--resolution",
        type=int,
        default=512,
        help="pixels, both sides, of --model; the demo's are 64",
    )
    parser.add_argument("--precision", default="no", choices=("no", "fp16", "bf16"))
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.task:
        args.result.write_text(json.dumps(asdict(measure(Task(**args.task)))), encoding="utf-8")
        return
    if args.steps <= WARM_UP + 1:
        parser.error(f"--steps must be more than {WARM_UP + 1}")
    for model in filter(None, (str(MODEL), args.model)):
        compare(model, args)


if __name__ == "__main__":
    main()
