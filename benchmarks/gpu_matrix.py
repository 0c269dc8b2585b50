"""Measure speed and memory on a GPU: `python benchmarks/gpu_matrix.py`, or with `--only sd1`.

It is a part of `make gpu-check`.

SD1.5 at 512 px and SDXL at 1024 px, batch 1 and 4, in bf16 and fp16: plain, with
--gradient_checkpointing, --fp8_base and --torch_compile. All rows are trainings by the product in
this process; only the weights are not read but drawn at random on the GPU. The last column is what
`coinage.checks.footprint` estimates for "training GB". A row that fails says why. Rows that would start
after `--minutes` are left out and say so; those that compile come last. The table is printed and
kept in `benchmarks/results/`, named after the GPU.
"""

from __future__ import annotations

import argparse
import gc
import logging
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from coinage.checks import make_plans
from coinage.checks.footprint import activations, weights
from coinage.cli.parse import parse
from coinage.cli.train import run_training
from coinage.config import ModelConfig
from coinage.models import loading
from coinage.models.sizes import model_sizes
from coinage.settings.discover import complete
from random_models import RELEASED, random_part, write_dataset, write_folder
from recorded_run import Record, recording
from throughput import GB, SIDES, Task

RESULTS = Path(__file__).parent / "results"
FLAGS = ("", "--gradient_checkpointing", "--fp8_base", "--torch_compile")
STEPS, WARM_UP = 9, 3
HEADER = (
    "| model | px | batch | precision | flag | s/step | images/s | first "
    "step s | training GB | whole run GB | reserved GB | estimate GB |"
)
RULE = "|---|---|---|---|---|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration; `configs` holds the settings of the model."""

    model: str
    configs: Path
    side: int
    batch: int
    precision: str
    flag: str = ""

    @property
    def start(self) -> str:
        """The row's first cells."""
        return f"| {self.model} | {self.side} | {self.batch} | {self.precision} | {self.flag.strip('-')} |"


def all_rows(models: Sequence[str]) -> list[Row]:
    """The matrix, in the order of work: what compiles is last, since it takes longest."""
    return [
        Row(model, RELEASED / model, SIDES[model], batch, precision, flag)
        for flag in FLAGS
        for precision in ("bf16", "fp16")
        for model in models
        for batch in (1, 4)
    ]


@contextmanager
def random_weights(configs: Path, device: str) -> Iterator[None]:
    """Have loaded models get random weights on the device, in place of what would be read."""

    def part(name: str, dtype: torch.dtype) -> Any:
        # diffusers' own warns of what is not so
        return torch.nn.Module.to(random_part(configs, name, device), dtype)

    def vae(_: object, model: ModelConfig, dtype: torch.dtype) -> Any:  # noqa: ARG001 - a source's
        return part("vae", dtype)

    with (
        patch.object(loading.Source, "unet", lambda _, dtype: part("unet", dtype)),
        patch.object(loading.Source, "vae", vae),
        patch.object(loading.Source, "text_encoder", lambda _, name, dtype: part(name, dtype)),
    ):
        yield


def measured(row: Row, folder: Path) -> tuple[Record, float]:
    """Train a row's model for a few steps.

    Returns:
        What was measured, and the bytes of a step as `coinage.checks.footprint` estimates them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = write_folder(row.configs, folder / row.model, weights=False)
    data = write_dataset(folder / f"{row.side}-{row.batch}", row.side, row.batch)
    task = Task(model, data, data.parent, folder / "out", STEPS, row.batch, row.side, row.precision)
    config, _ = complete(
        parse("coinage", [*task.flags, *([row.flag] if row.flag else [])], "gpu_matrix")
    )
    record = Record()
    with random_weights(row.configs, device), recording(record):
        plans = make_plans([config])
        for plan in plans:
            plan.start()
        run_training(plans)
    sizes = model_sizes(config.model)
    return record, weights(config.model, sizes) + activations(
        config.model, sizes, row.side**2, row.batch
    )


def table_row(row: Row, folder: Path) -> str:
    """A row of the table: what was measured, or why not."""
    clean()
    try:
        record, estimate = measured(row, folder)
    except Exception as error:  # noqa: BLE001 - whatever a configuration raises, the others matter more
        text = str(error).strip() or type(error).__name__
        why = (
            "out of memory" if "out of memory" in text else f"failed: {text.splitlines()[0][:100]}"
        )
        return f"{row.start} {why} | | | | | | |"
    step = median(record.steps[WARM_UP:])
    memory = [
        f"{record.gpu.get(name, 0) / GB:.2f}" for name in ("training", "allocated", "reserved")
    ]
    memory.append(f"{estimate / GB:.2f}")
    return f"{row.start} {step:.4f} | {row.batch / step:.2f} | {record.steps[0]:.1f} | {' | '.join(memory)} |"


def clean() -> None:
    """Forget the last model, what was compiled for it, and the peaks."""
    gc.collect()
    torch.compiler.reset()  # else a model's code counts as compiled too often
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def matrix(rows: Sequence[Row], deadline: float) -> Iterator[str]:
    """The table's rows as they come, none begun after the deadline of the monotonic clock."""
    with tempfile.TemporaryDirectory() as name:
        for row in rows:
            yield (
                table_row(row, Path(name))
                if time.monotonic() < deadline
                else f"{row.start} not begun in time | | | | | | |"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write it."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["sd1", "sdxl"])
    parser.add_argument("--minutes", type=float, default=8, help="after which no row is begun")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("no GPU here: the matrix needs one")
    logging.getLogger("coinage").setLevel(logging.ERROR)
    device = torch.cuda.get_device_name()
    name = "-".join(re.findall(r"[a-z0-9]+", device.lower())) + (
        f"-{args.only}" if args.only else ""
    )
    lines = [
        f"{device}, torch {torch.__version__}, {STEPS} steps a row, the first {WARM_UP} not counted",
        "",
        HEADER,
        RULE,
    ]
    print("\n".join(lines), flush=True)
    args.results.mkdir(parents=True, exist_ok=True)
    for line in matrix(
        all_rows([args.only] if args.only else ["sd1", "sdxl"]), start + 60 * args.minutes
    ):
        print(line, flush=True)
        lines.append(line)
        # Each time: a row may end the process
        (args.results / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
