"""Measure speed and memory on a GPU, beside what is expected: `python benchmarks/gpu_matrix.py`.

It is a part of `make gpu-check`.

SD1.5 at 512 px and SDXL at 1024 px, batch 1 and 4, in bf16 and fp16: plain, with flags of the
product (--gradient_checkpointing, --fp8_base, --cuda_graphs on, --torch_compile), and with settings
of torch that it leaves as they are (`SETTINGS`). All rows are trainings by the product in this
process; only the weights are not read but drawn at random on the GPU.

Columns: seconds a step and what the model of `roofline.py` expects; the share of the time in which
the GPU is busy and the kernels of a step, from torch's profiler; memory, beside what
`coinage.checks.footprint` estimates for "training GB". A row that fails says why.

Each row is kept in `--results` when it is done. Rows that would start after `--minutes` are left for
the next call, which goes on from there. `--rows` chooses rows by parts of their names, as `--list`
shows them. `--device cpu --demo` tries everything on the demo model.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from coinage.demo.run import MODEL as DEMO
from coinage.models import loading
from coinage.models.placement import DTYPES
from coinage.models.sizes import model_sizes
from coinage.settings.discover import complete
from memory import Built
from profiled import Trace, profiling
from random_models import RELEASED, random_part, write_dataset, write_folder
from recorded_run import Record
from roofline import Rates, known_rates, measured_rates, step_work
from throughput import GB, SIDES, Task

RESULTS = Path(__file__).parent / "results"
FLAGS = ("--gradient_checkpointing", "--fp8_base", "--cuda_graphs=on", "--torch_compile")
WARM_UP, TIMED, PROFILED = 3, 6, 3  # steps of a row
HEADER = (
    "| model | px | batch | precision | with | s/step | expected s | images/s | busy % | kernels | "
    "first step s | training GB | estimate GB | whole run GB | reserved GB |"
)
MEASURES = 10  # cells of a row after its name


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration.

    Attributes:
        model: its name.
        configs: the settings of the model, laid out as a diffusers folder.
        side: of a picture, in pixels.
        batch: pictures.
        precision: of `--mixed_precision`.
        flag: of the product.
        setting: of torch.
    """

    model: str
    configs: Path
    side: int
    batch: int
    precision: str
    flag: str = ""
    setting: str = ""

    @property
    def name(self) -> str:
        """All that tells it from the others."""
        extra = self.flag.strip("-") or self.setting or "plain"
        return f"{self.model} {self.side} b{self.batch} {self.precision} {extra}"

    @property
    def start(self) -> str:
        """The row's first cells."""
        extra = self.flag.strip("-") or self.setting
        return f"| {self.model} | {self.side} | {self.batch} | {self.precision} | {extra} |"


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Have an attribute another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def channels_last() -> Iterator[None]:
    """Have convolutions' weights laid out by pixels."""
    load = loading.Source.unet

    def unet(source: loading.Source, dtype: torch.dtype) -> Any:
        return load(source, dtype).to(memory_format=torch.channels_last)

    with patch.object(loading.Source, "unet", unet):
        yield


@contextmanager
def expandable_segments() -> Iterator[None]:
    """Have CUDA's memory in segments that grow."""
    old = torch.cuda.memory._set_allocator_settings  # noqa: SLF001 - neither has another name
    apply = getattr(torch._C, "_accelerator_setAllocatorSettings", old)  # noqa: SLF001
    apply("expandable_segments:True")
    try:
        yield
    finally:
        apply("expandable_segments:False")


# Of torch, which the product leaves as they are: each changed for a row, with the precision that it
# is for
SETTINGS: dict[str, tuple[str, Callable[[], Any]]] = {
    "cudnn_benchmark": ("bf16", lambda: changed(torch.backends.cudnn, "benchmark", True)),
    "channels_last": ("bf16", channels_last),
    "tf32": ("no", lambda: changed(torch.backends.cuda.matmul, "allow_tf32", True)),
    "fp16_sums": (
        "fp16",
        lambda: changed(torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
    ),
    "expandable_segments": ("bf16", expandable_segments),
}


def all_rows(*, demo: bool = False) -> list[Row]:
    """The matrix, in the order of work: what compiles is last, since it takes longest."""
    sources = {"demo": DEMO} if demo else {name: RELEASED / name for name in ("sd1", "sdxl")}
    extras: list[tuple[str, str, tuple[str, ...]]] = [("", "", ("bf16", "fp16", "no"))]
    extras += [("", setting, (precision,)) for setting, (precision, _) in SETTINGS.items()]
    extras += [(flag, "", ("bf16", "fp16")) for flag in FLAGS]
    return [
        Row(model, configs, SIDES[model], batch, precision, flag, setting)
        for flag, setting, precisions in extras
        for precision in precisions
        for model, configs in sources.items()
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
        patch.object(
            loading.Source, "text_encoder", lambda _, facts, dtype: part(facts.folder, dtype)
        ),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Measured:
    """A row's training: its record, its profile, and the estimated bytes of a step."""

    record: Record
    trace: Trace
    estimate: int


def measured(row: Row, folder: Path) -> Measured:
    """Train a row's model for a few steps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = write_folder(row.configs, folder / row.model, weights=False)
    data = write_dataset(folder / f"{row.side}-{row.batch}", row.side, row.batch)
    steps = WARM_UP + TIMED + PROFILED
    task = Task(model, data, data.parent, folder / "out", steps, row.batch, row.side, row.precision)
    flags = [*task.flags, "--sample_every_n_steps=0", *([row.flag] if row.flag else [])]
    config, _ = complete(parse("coinage", flags, "gpu_matrix"))
    record, trace = Record(), Trace()
    with ExitStack() as stack:
        stack.enter_context(random_weights(row.configs, device))
        if row.setting:
            stack.enter_context(SETTINGS[row.setting][1]())
        stack.enter_context(profiling(record, trace, WARM_UP + TIMED, PROFILED))
        plans = make_plans([config])
        for plan in plans:
            plan.start()
            stack.callback(plan.release)
        run_training(plans)
    sizes = model_sizes(config.model)
    pixels = row.side**2
    estimate = weights(config.model, sizes) + activations(config.model, sizes, pixels, row.batch)
    return Measured(record, trace, int(estimate))


def expected_seconds(row: Row, rates: dict[str, Rates]) -> float | None:
    """What a step of a row should take; None where only a compiler knows the kernels."""
    if row.flag == "--torch_compile":
        return None
    family = "sd1" if row.model == "demo" else row.model
    built = Built(
        family,
        row.configs,
        DTYPES[row.precision],
        checkpointed=row.flag == "--gradient_checkpointing",
        eight_bits=row.flag == "--fp8_base",
    )
    kind = row.setting if row.setting == "tf32" else row.precision
    return step_work(built, row.side, row.batch).seconds(rates[kind])


def rates_of(device: str) -> dict[str, Rates]:
    """The peaks of the device by precision: of a known GPU its maker's, else what it reaches itself."""
    side = 4096 if device == "cuda" else 256
    known = known_rates(torch.cuda.get_device_name()) if device == "cuda" else None
    half = known or measured_rates(device, torch.bfloat16, side)
    single = measured_rates(device, torch.float32, side)
    return {"bf16": half, "fp16": half, "no": single, "tf32": Rates(half.flops / 2, half.bandwidth)}


def table_row(row: Row, folder: Path, rates: dict[str, Rates]) -> str:
    """A row of the table: what was measured, or why not."""
    clean()
    try:
        found, expected = measured(row, folder), expected_seconds(row, rates)
    except Exception as error:  # noqa: BLE001 - whatever a configuration raises, the others matter more
        text = str(error).strip() or type(error).__name__
        why = (
            "out of memory" if "out of memory" in text else f"failed: {text.splitlines()[0][:100]}"
        )
        return f"{row.start} {why} |{' |' * (MEASURES - 1)}"
    record, trace = found.record, found.trace
    step = median(record.steps[WARM_UP : WARM_UP + TIMED])
    cells = [
        f"{step:.4f}",
        "-" if expected is None else f"{expected:.4f}",
        f"{row.batch / step:.2f}",
        "-" if trace.busy is None else f"{100 * trace.busy:.0f}",
        "-" if trace.kernels is None else f"{trace.kernels:.0f}",
        f"{record.steps[0]:.1f}",
        f"{record.gpu.get('training', 0) / GB:.2f}",
        f"{found.estimate / GB:.2f}",
        *(f"{record.gpu.get(name, 0) / GB:.2f}" for name in ("allocated", "reserved")),
    ]
    return f"{row.start} {' | '.join(cells)} |"


def clean() -> None:
    """Forget the last model, what was compiled for it, and the peaks."""
    gc.collect()
    torch.compiler.reset()  # else a model's code counts as compiled too often
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def matrix(
    rows: Sequence[Row], deadline: float, rates: dict[str, Rates]
) -> Iterator[tuple[Row, str]]:
    """The table's rows as they come, none begun after the deadline of the monotonic clock."""
    with tempfile.TemporaryDirectory() as name:
        for row in rows:
            if time.monotonic() >= deadline:
                return
            yield row, table_row(row, Path(name), rates)


class Table:
    """A table in a folder, which a later call goes on with."""

    def __init__(self, folder: Path, device: str) -> None:
        name = "-".join(re.findall(r"[a-z0-9]+", device.lower()))
        self._rows, self._page = folder / f"{name}.json", folder / f"{name}.md"
        self._title = (
            f"{device}, torch {torch.__version__}; {TIMED} steps a row, after {WARM_UP} that are not "
            f"counted and before {PROFILED} that are profiled"
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, str] = {}
        if self._rows.is_file():
            kept = json.loads(self._rows.read_text(encoding="utf-8"))
            self.done = kept["rows"] if kept["title"] == self._title else {}

    def add(self, row: Row, line: str) -> None:
        """Keep a row at once, since the next one may end the process."""
        self.done[row.name] = line
        kept = {"title": self._title, "rows": self.done}
        self._rows.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        self._page.write_text(self.text + "\n", encoding="utf-8")

    @property
    def text(self) -> str:
        """The table as Markdown."""
        rule = re.sub(r"[^|]+", "---", HEADER)
        return "\n".join([self._title, "", HEADER, rule, *self.done.values()])


def chosen(rows: Sequence[Row], parts: Sequence[str]) -> list[Row]:
    """The rows whose name has all words of one of the parts, such as `sdxl b1`; all without parts."""
    wanted = [set(part.split()) for part in parts]
    return [row for row in rows if not wanted or any(w <= set(row.name.split()) for w in wanted)]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="*", default=[], metavar="PART", help='such as "sdxl b1" or fp8_base')
    add("--list", action="store_true", help="print the names of the rows, and stop")
    add("--minutes", type=float, default=7, help="after which no row is begun")
    add("--results", type=Path, default=RESULTS, help="folder of the table")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--demo", action="store_true", help="the demo model in place of the released sizes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write it."""
    start = time.monotonic()
    args = arguments(argv)
    rows = chosen(all_rows(demo=args.demo), args.rows)
    if args.list:
        print("\n".join(row.name for row in rows))
        return
    if args.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif not torch.cuda.is_available():
        sys.exit("no GPU here: the matrix needs one")
    logging.getLogger("coinage").setLevel(logging.ERROR)
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    table = Table(args.results, device)
    left = [row for row in rows if row.name not in table.done]
    print(f"{HEADER}", flush=True)
    for row, line in matrix(left, start + 60 * args.minutes, rates_of(args.device)):
        print(line, flush=True)
        table.add(row, line)
    missing = [row for row in rows if row.name not in table.done]
    if missing:
        print(f"{len(missing)} rows are left: the same command goes on with them")


if __name__ == "__main__":
    main()
