"""Measure speed and memory of a training.

For example: `python benchmarks/throughput.py --random sd1 --resolution 256 --precision bf16`.

Each measurement is a training command in a process of its own; medians of `--runs` are printed. The
model is `--model PATH`, or one of a released size with random weights (`--random sd1`, `sd2`,
`sdxl`: 2 to 7 GB in the temporary folder, deleted afterwards), or the demo's own (`--random demo`).
Latents are cached. OMP_NUM_THREADS sets the CPU's threads.

`--profile`: what a step consists of. `--floor`: the engine's steps beside a bare loop of forward
and backward.

`--peer-script PATH --peer-args ...` (the last flag) runs another trainer in turns with this one. In
its arguments {model}, {data} (a dataset file), {images} (its folder of images), {out}, {steps},
{batch}, {resolution} and {precision} are filled in. Its seconds a step are taken from the progress
bar that it prints, if it does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import IO, Any, TypeVar

from coinage.demo.worlds import MODELS as DEMO
from random_models import write_dataset

HERE = Path(__file__).parent
SIDES = {"demo": 64, "sd1": 512, "sd2": 768, "sdxl": 1024, "sd3": 1024, "flux": 1024}
GB = 2**30
# Of a step, in a record
PARTS = ("data", "captions to ids", "text encoder forward", "UNet forward", "backward", "optimizer")
BARE = PARTS[2:5]  # what a step cannot do without
T = TypeVar("T")
RATE = re.compile(r"([\d.]+) ?(s/it|it/s)")
BAR = re.compile(rb"(\d+)/(\d+) \[")


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, and how; the fields are placeholders in a peer's arguments too."""

    model: Path
    data: Path
    images: Path
    out: Path
    steps: int
    batch: int
    resolution: int
    precision: str

    def filled(self, argument: str) -> str:
        """A peer's argument with the placeholders filled in."""
        for field in fields(self):
            argument = argument.replace(f"{{{field.name}}}", str(getattr(self, field.name)))
        return argument

    @property
    def flags(self) -> list[str]:
        """Of our training command."""
        return [
            f"--pretrained_model_name_or_path={self.model}",
            f"--dataset_config={self.data}",
            f"--output_dir={self.out}",
            "--output_name=word",
            "--save_model_as=safetensors",
            "--token_string=mychar",
            "--init_word=girl",
            f"--max_train_steps={self.steps}",
            "--learning_rate=5e-4",
            f"--mixed_precision={self.precision}",
            "--cache_latents",
            "--seed=0",
        ]


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    Its seconds, its peak memory in bytes, what it printed, and when its progress bar moved.
    """

    began: float
    whole: float
    peak: float
    text: str
    moved: Sequence[tuple[int, float]]

    def step_seconds(self, warm_up: int) -> float | None:
        """Seconds a step by the progress bar: from its moves, or from the rate it showed last."""
        after = [point for point in self.moved if point[0] >= warm_up]
        if len(after) > 1:
            return median(
                (then - now) / (done - before) for (before, now), (done, then) in pairwise(after)
            )
        rates = RATE.findall(self.text)
        if not rates or not float(rates[-1][0]):
            return None
        return float(rates[-1][0]) if rates[-1][1] == "s/it" else 1 / float(rates[-1][0])


def movements(stream: IO[bytes], steps: int, said: list[bytes]) -> Iterator[tuple[int, float]]:
    """Read a process's output to its end.

    Yields when a progress bar of so many steps got further, and keeps the text.
    """
    last = 0
    while chunk := os.read(stream.fileno(), 1 << 16):
        said.append(chunk)
        for done, total in BAR.findall(chunk):
            if int(total) == steps and int(done) > last:
                last = int(done)
                yield last, time.monotonic()


def run(
    command: Sequence[str], steps: int, environment: Mapping[str, str] = os.environ
) -> Finished:
    """Run a process to its end; one that fails ends the benchmark with its output."""
    began, start = time.time(), time.monotonic()
    said: list[bytes] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        stream = process.stdout
        moved = list(movements(stream, steps, said)) if stream else []
        # Its own peak, where getrusage knows the largest child's
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    text = b"".join(said).decode(errors="replace")
    if process.returncode:
        sys.exit(f"{shlex.join(command)}\n{text}\nfailed with exit code {process.returncode}")
    return Finished(began, time.monotonic() - start, usage.ru_maxrss * 1024, text, moved)


def trained(task: Task, mode: str, more: Sequence[str]) -> tuple[dict[str, Any], Finished]:
    """One run of ours: its record, and the process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        command = [
            sys.executable,
            str(HERE / "recorded_run.py"),
            str(path),
            mode,
            *task.flags,
            *more,
        ]
        # Which sets it before it imports torch; the clock comes later
        as_the_command = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        done = run(command, task.steps, as_the_command)
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record, done


def summary(record: dict[str, Any], done: Finished, warm_up: int, batch: int) -> dict[str, float]:
    """The figures of one run of ours."""
    step = median(record["steps"][warm_up:])
    figures = {
        "step": step,
        "images": batch / step,
        "first": record["first_done"] - done.began,
        "whole": done.whole,
        "peak": done.peak / GB,
    }
    return figures | {f"gpu {name}": value / GB for name, value in record["gpu"].items()}


def calmer_half(measured: Sequence[T], seconds: Callable[[T], float]) -> list[T]:
    """The faster half: a step that other processes have disturbed says nothing about this one."""
    return sorted(measured, key=seconds)[: -(-len(measured) // 2)]


def shares(record: dict[str, Any], warm_up: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds and percent of a step for each part, the rest, and the whole.

    They are means of the calmer half of the steps.
    """
    measured = list(zip(record["steps"], record["sections"], strict=True))[warm_up:]
    steps = calmer_half(measured, lambda step: step[0])
    whole = mean(took for took, _ in steps)
    figures = {name: mean(parts.get(name, 0.0) for _, parts in steps) for name in PARTS}
    figures |= {"rest": whole - sum(figures.values()), "step": whole}
    return {name: (1000 * value, 100 * value / whole) for name, value in figures.items()}


def against_floor(record: dict[str, Any], warm_up: int) -> dict[str, float]:
    """Return the seconds of the engine's step and of the bare one, and their ratio.

    They are medians over the calmer half of the pairs.
    """
    pairs = list(zip(record["steps"], record["floor"], strict=True))[warm_up:]
    calm = calmer_half(pairs, sum)
    engine, floor = (median(side) for side in zip(*calm, strict=True))
    return {"engine": engine, "floor": floor, "ratio": median(ours / bare for ours, bare in calm)}


def middle(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: median(result[name] for result in results) for name in results[0]}


def heading(args: argparse.Namespace, record: dict[str, Any]) -> str:
    """What was measured, in a line."""
    what = (
        f"{args.random or args.model}, {args.resolution} px, batch {args.batch}, {record['dtype']}"
    )
    where = f"{record['threads']} threads" if record["device"] == "cpu" else record["device"]
    more = f", {shlex.join(args.flags)}" if args.flags else ""
    return (
        f"{what} on {record['device'] if record['device'] == 'cpu' else 'GPU'} "
        f"({where}){more}; {args.steps} steps, {args.runs} runs"
    )


def print_measured(args: argparse.Namespace, task: Task) -> None:
    """The plain table, with the peer's run in turns with ours if there is one."""
    ours: list[dict[str, float]] = []
    peers: list[Finished] = []
    for _ in range(args.runs):
        record, done = trained(task, "plain", args.flags)
        ours.append(summary(record, done, args.warm_up, task.batch))
        if args.peer_script:
            peers.append(
                run(
                    [sys.executable, args.peer_script, *map(task.filled, args.peer_args)],
                    task.steps,
                )
            )
    print(heading(args, record), end="\n\n")
    figures = middle(ours)
    gpu = [name for name in figures if name.startswith("gpu ")]
    print(
        "| | s/step | images/s | first step after s | whole run s | peak GB |"
        + "".join(f" {name} GB |" for name in gpu)
    )
    print("|---|---|---|---|---|---|" + "---|" * len(gpu))
    row = (
        f"| ours | {figures['step']:.4f} | {figures['images']:.2f} | "
        f"{figures['first']:.1f} | {figures['whole']:.1f} | {figures['peak']:.2f} |"
    )
    print(row + "".join(f" {figures[name]:.2f} |" for name in gpu))
    if peers:
        whole, peak = (median(getattr(peer, name) for peer in peers) for name in ("whole", "peak"))
        steps = [step for peer in peers if (step := peer.step_seconds(args.warm_up)) is not None]
        cells = f"{median(steps):.4f} | {task.batch / median(steps):.2f}" if steps else "? | ?"
        print(f"| peer | {cells} | ? | {whole:.1f} | {peak / GB:.2f} |")
        ratio = f"{figures['step'] / median(steps):.3f}" if steps else "?"
        whole_ratio, peak_ratio = figures["whole"] / whole, figures["peak"] * GB / peak
        print(f"| ours / peer | {ratio} | | | {whole_ratio:.3f} | {peak_ratio:.3f} |")
    print(flush=True)


def print_profile(args: argparse.Namespace, task: Task) -> None:
    """What a step consists of."""
    record, _ = trained(task, "profile", args.flags)
    figures = shares(record, args.warm_up)
    print(f"{heading(args, record)}\n\n| part | ms | % of the step |\n|---|---|---|")
    for name, (milliseconds, percent) in figures.items():
        print(f"| {name} | {milliseconds:.2f} | {percent:.2f} |")
    print(
        f"\nbeyond the two forwards and the backward: {100 - sum(figures[name][1] for name in BARE):.2f} %\n",
        flush=True,
    )


def print_floor(args: argparse.Namespace, task: Task) -> None:
    """The engine's steps beside a bare loop."""
    results = []
    for _ in range(args.runs):
        record, _ = trained(task, "floor", args.flags)
        results.append(against_floor(record, args.warm_up))
    figures = middle(results)
    print(f"{heading(args, record)}\n\n| engine s/step | bare loop s/step | ratio |\n|---|---|---|")
    print(
        f"| {figures['engine']:.4f} | {figures['floor']:.4f} | {figures['ratio']:.4f} |\n",
        flush=True,
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path)
    source.add_argument("--random", choices=list(SIDES))
    parser.add_argument("--resolution", type=int, help="pixels, both sides; else the model's own")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=("no", "fp16", "bf16"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that do not count")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--flags",
        type=shlex.split,
        default=[],
        help='more flags of the training command: --flags="--fp8_base"',
    )
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--peer-script", metavar="PATH")
    parser.add_argument("--peer-args", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args(argv)
    if args.steps <= args.warm_up:
        parser.error("--steps must be more than --warm-up")
    args.resolution = args.resolution or SIDES[args.random or "sd1"]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, measure, print."""
    args = arguments(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or DEMO / "sd1"
        if args.random not in (None, "demo"):
            # In a process of its own, since a child's peak starts from its parent's
            model = folder / "model"
            subprocess.run(
                [sys.executable, str(HERE / "random_models.py"), args.random, str(model)],
                check=True,
            )
        data = write_dataset(folder / "data", args.resolution, args.batch)
        task = Task(
            model,
            data,
            data.parent / "images",
            folder / "out",
            args.steps,
            args.batch,
            args.resolution,
            args.precision,
        )
        if args.profile:
            print_profile(args, task)
        if args.floor:
            print_floor(args, task)
        if not (args.profile or args.floor):
            print_measured(args, task)


if __name__ == "__main__":
    main()
