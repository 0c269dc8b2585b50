"""Measure a training step of SD 1.5 on the CPU, with the layers for the CPU and without.

`python benchmarks/cpu_step.py`: full-size UNet and text encoder with random weights, batch 1, forward
and backward to the word's row. Each way has a process of its own, and they take steps in turns; medians
of CPU seconds (all threads together) and of seconds by the clock are printed, with peak memory and
the cosine of the two gradients. It takes 7 GB of memory in bf16 and 12 in float32.

`--against CHECKOUT` takes the step without them from another copy of the repository.
OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch

import torch
import torch.nn.functional as F
from torch import Tensor

from coinage.models.quiet import quiet_libraries
from coinage.models.token_embedding import install_rows
from random_models import RELEASED, random_part

ROOT = Path(__file__).parents[1]
SETTINGS = ((256, "bf16"), (256, "no"), (512, "bf16"), (512, "no"))
DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}
Step = Callable[[], Tensor]


def model(precision: str) -> tuple[Any, Any]:
    """UNet and text encoder."""
    unet, encoder = (
        torch.nn.Module.to(random_part(RELEASED / "sd1", name), dtype).requires_grad_(False).eval()
        for name, dtype in (("unet", DTYPES[precision]), ("text_encoder", torch.float32))
    )
    return unet, encoder


def step_of(unet: Any, encoder: Any, side: int, precision: str) -> Step:
    """Return a step: it returns the gradient of the word's row."""
    table = encoder.get_input_embeddings().weight
    embedding = install_rows(encoder, [table[:1]])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(table), (1, 77), generator=generator)
    ids[0, 5] = len(table)
    latents, noise = torch.randn(2, 1, 4, side // 8, side // 8, generator=generator)
    dtype = DTYPES[precision]

    def step() -> Tensor:
        (row,) = embedding.words
        row.grad = None
        with torch.autocast("cpu", dtype, enabled=precision != "no"):
            hidden = encoder(ids).last_hidden_state.to(dtype)
            predicted = unet(latents.to(dtype), torch.tensor([500]), hidden).sample
        (predicted.float() - noise).square().mean().backward()
        if row.grad is None:
            raise RuntimeError("the row has no gradient")
        gradient: Tensor = row.grad.clone()
        return gradient

    return step


def answer_steps(side: int, precision: str, way: str) -> None:
    """Take a step for each line that is read, and print what it took; the first line has the gradient."""
    unet, encoder = model(precision)
    if way == "fast":
        from coinage.models.cpu_layers import use_cpu_layers
        from coinage.system.heap import keep_freed_memory

        use_cpu_layers(unet)
        keep_freed_memory()  # as programs do
    step = step_of(unet, encoder, side, precision)
    print(json.dumps(step().flatten().tolist()), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        took = time.process_time() - cpu, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([*took, peak]), flush=True)


@contextmanager
def stepping(
    side: int, precision: str, way: str, checkout: Path
) -> Iterator[tuple[list[float], Callable[[], list[float]]]]:
    """A process that takes steps: the gradient, and what takes a step and returns its figures."""
    command = [sys.executable, __file__, "--sides", str(side), "--precisions", precision]
    folders = [checkout / "src", checkout / "benchmarks"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    with subprocess.Popen(
        [*command, "--way", way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        asked, answers = process.stdin, process.stdout
        if asked is None or answers is None:
            raise RuntimeError("the process has no pipes")

        def take() -> list[float]:
            print(file=asked, flush=True)
            figures: list[float] = json.loads(answers.readline())
            return figures

        yield json.loads(answers.readline()), take
        asked.close()


def compared(side: int, precision: str, steps: int, against: Path) -> str:
    """A row of the table: both ways in turns."""
    with (
        stepping(side, precision, "plain", against) as (gradient, plain_step),
        stepping(side, precision, "fast", ROOT) as (fast_gradient, fast_step),
    ):
        pairs = [(plain_step(), fast_step()) for _ in range(steps)]
    plain, fast = ([median(figures) for figures in zip(*way)] for way in zip(*pairs))  # noqa: B905
    ratio = median(now[0] / before[0] for before, now in pairs)
    cosine = float(F.cosine_similarity(torch.tensor(gradient), torch.tensor(fast_gradient), dim=0))
    cells = [f"{a:.2f} | {b:.2f}" for a, b in zip(plain, fast, strict=True)]
    name = "float32" if precision == "no" else precision
    return (
        f"| {side} px, {name} | {cells[0]} | {ratio:.2f} | {cells[1]} | {cells[2]} | {cosine:.5f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="*", help="only these of 256 and 512")
    parser.add_argument("--precisions", nargs="*", choices=list(DTYPES), help="only these")
    parser.add_argument("--steps", type=int, default=5, help="pairs")
    parser.add_argument("--against", type=Path, default=ROOT, help="another copy's folder")
    parser.add_argument("--way", choices=["plain", "fast"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    settings = [
        (side, precision)
        for side, precision in SETTINGS
        if side in (args.sides or (side,)) and precision in (args.precisions or (precision,))
    ]
    if args.way:
        answer_steps(*settings[0], args.way)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.steps} pairs\n")
    print(
        "| setting | CPU s before | now | ratio | s before | now | peak GB before | now | cosine |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for side, precision in settings:
        print(compared(side, precision, args.steps, args.against), flush=True)


if __name__ == "__main__":
    main()
