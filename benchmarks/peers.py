"""Measure this trainer and others in turns, at equal settings, on the CPU.

Each peer is a checkout of its repository and the Python that runs it:

    python benchmarks/peers.py --reference DIR --reference-python PATH \
        --diffusers DIR --diffusers-python PATH --onetrainer DIR --onetrainer-python PATH

`--reference` is kohya-ss/sd-scripts, `--diffusers` the repository with the Textual Inversion
example. Every run is a process of its own: only its output, its log and /proc are read, nothing in
it is changed. A step is timed when the trainer's progress bar moves on, ours when its log gets the
next line; the first steps do not count. CPU seconds are user and system time of the process and its
children: on a machine that others use too, compare these. Memory is the most that was resident in
the largest process, and the most without pages of files. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from coinage.demo.worlds import MODELS as DEMO
from peer_rows import Case, Job, Trainer, trainers
from random_models import write_dataset

HERE = Path(__file__).parent
GB = 2**30
POLL = 0.05  # seconds between two looks at a process
TICKS = os.sysconf("SC_CLK_TCK")
LAST_LINES = 15
CASES = {
    "256-bf16": Case(256, "bf16"),
    "256-float32": Case(256, "no"),
    "512-bf16": Case(512, "bf16"),
}
ENTRIES = 49408  # of CLIP's vocabulary
FIGURES = ("step CPU s", "step s", "first CPU s", "first s", "whole CPU s", "whole s")
MEMORY = ("peak GB", "not file pages GB")
Figures = dict[str, float]


class FailedError(Exception):
    """A trainer came to no figures; the text says how, with its last lines."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every run: the environment, seconds it may take, steps that do not count."""

    environment: Mapping[str, str]
    limit: float
    warm_up: int


# One process


@dataclass(frozen=True, slots=True)
class Mark:
    """So many steps were done at this time; both in seconds since the start of the process."""

    steps: int
    wall: float
    cpu: float


@dataclass(slots=True)
class Watched:
    """What is known of a process and its children while they run.

    Bytes are those of the largest process: a forked one shares the pages of its parent.
    """

    marks: list[Mark] = field(default_factory=list)
    peak: int = 0
    anonymous: int = 0
    wall: float = 0.0
    cpu: float = 0.0


def processes(pid: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from processes(int(child))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, with that of the children that it has waited for."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, numbers[11:15])) / TICKS


def memory(pid: int) -> tuple[int, int]:
    """Return the most bytes that were resident, and those now that are not pages of a file."""
    text = Path(f"/proc/{pid}/status").read_text()
    peak, now = (
        re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in ("VmHWM", "RssAnon")
    )
    return (int(peak[1]) * 1024, int(now[1]) * 1024) if peak and now else (0, 0)


def look(watched: Watched, pid: int) -> None:
    """Note CPU time and memory as they are now."""
    cpu = 0.0
    try:
        for one in processes(pid):
            cpu += cpu_seconds(one)
            peak, now = memory(one)
            watched.peak, watched.anonymous = max(watched.peak, peak), max(watched.anonymous, now)
    except (FileNotFoundError, ProcessLookupError):  # it ended while it was looked at
        return
    watched.cpu = max(watched.cpu, cpu)


@contextmanager
def started(
    command: Sequence[str], folder: Path, printed: Path, rules: Rules
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process; what is left of it and its children at the end is killed."""
    with (
        printed.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            env=rules.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def watch(
    command: Sequence[str],
    folder: Path,
    printed: Path,
    steps_done: Callable[[str], int],
    rules: Rules,
) -> Watched:
    """Run a process to its end.

    Args:
        command: what runs.
        folder: where it runs.
        printed: file that gets what it prints.
        steps_done: number of steps that are done, from what was printed so far.
        rules: its environment, and the seconds that it may take.

    Raises:
        FailedError: it ended with an error, or did not end in time.
    """
    watched, start = Watched(), time.monotonic()
    with started(command, folder, printed, rules) as process:
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            watched.wall = time.monotonic() - start
            if ended:
                break
            look(watched, process.pid)
            steps = steps_done(printed.read_text(errors="replace"))
            if steps > (watched.marks[-1].steps if watched.marks else 0):
                watched.marks.append(Mark(steps, watched.wall, watched.cpu))
            if watched.wall > rules.limit:
                raise FailedError(f"not done after {rules.limit:.0f} s{tail(printed)}")
            time.sleep(POLL)
        process.returncode = code = os.waitstatus_to_exitcode(status)
    if code:
        raise FailedError(f"exit code {code} after {watched.wall:.0f} s{tail(printed)}")
    watched.cpu = max(watched.cpu, usage.ru_utime + usage.ru_stime)
    return watched


def tail(printed: Path) -> str:
    """Return the last lines of a process, to stand below a message."""
    text = printed.read_text(errors="replace").strip() or "(it printed nothing)"
    return "".join(f"\n    {line}" for line in re.split(r"[\r\n]+", text)[-LAST_LINES:])


# The figures of one run


def figures_of(watched: Watched, warm_up: int) -> Figures:
    """Return the figures of one run; a step's are medians without the first ones.

    Raises:
        FailedError: too few steps were seen.
    """
    after = [mark for mark in watched.marks if mark.steps >= warm_up]
    pairs = list(pairwise(after))
    if not pairs:
        raise FailedError(f"only {len(watched.marks)} steps could be read from its output")
    first = watched.marks[0]
    return {
        "step CPU s": median((b.cpu - a.cpu) / (b.steps - a.steps) for a, b in pairs),
        "step s": median((b.wall - a.wall) / (b.steps - a.steps) for a, b in pairs),
        "first CPU s": first.cpu,
        "first s": first.wall,
        "whole CPU s": watched.cpu,
        "whole s": watched.wall,
        "peak GB": watched.peak / GB,
        "not file pages GB": watched.anonymous / GB,
    }


def train(trainer: Trainer, job: Job, rules: Rules) -> Figures:
    """Train once, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name:
        job = job.in_folder(Path(name))
        printed, command = job.out / "printed.text", trainer.command(job)

        def steps_done(text: str) -> int:
            return trainer.steps_done(text, job)

        watched = watch(command, trainer.folder, printed, steps_done, rules)
        try:
            return figures_of(watched, rules.warm_up)
        except FailedError as failed:
            raise FailedError(f"{failed}{tail(printed)}") from None


def ask_help(trainer: Trainer, rules: Rules) -> Figures:
    """Have the trainer print its help."""
    with tempfile.TemporaryDirectory() as name:
        command = [*trainer.script, "--help"]
        printed = Path(name) / "printed.text"
        watched = watch(command, trainer.folder, printed, lambda _: 0, rules)
    return {"help CPU s": watched.cpu, "help s": watched.wall}


# Several trainers in turns


def in_turns(
    rows: list[Trainer], runs: int, measure: Callable[[Trainer], Figures]
) -> dict[str, list[Figures]]:
    """Measure A B A B; a trainer that fails is told and left out from then on."""
    measured: dict[str, list[Figures]] = {row.name: [] for row in rows}
    for turn in range(runs):
        for row in list(rows):
            try:
                figures = measure(row)
            except FailedError as failed:
                print(f"{row.name} failed: {failed}", file=sys.stderr, flush=True)
                rows.remove(row)
                del measured[row.name]
                continue
            measured[row.name].append(figures)
            told = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"run {turn + 1}, {row.name}: {told}", file=sys.stderr, flush=True)
    return measured


def table(measured: dict[str, list[Figures]], names: Sequence[str]) -> str:
    """Return medians, and ratios of ours to each peer with the least and the most of the turns."""
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for trainer, results in measured.items():
        cells = [f"{median(result[name] for result in results):.2f}" for name in names]
        lines.append(f"| {trainer} | {' | '.join(cells)} |")
    ours = measured.get("ours", [])
    for peer, results in measured.items():
        if peer != "ours" and ours:
            cells = [ratio(ours, results, name) for name in names]
            lines.append(f"| ours / {peer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ratio(ours: list[Figures], peer: list[Figures], name: str) -> str:
    """Return the ratio of the medians, with the least and the most of the turns."""
    middle = median(result[name] for result in ours) / median(result[name] for result in peer)
    turns = [a[name] / b[name] for a, b in zip(ours, peer, strict=False)]
    return f"{middle:.2f} ({min(turns):.2f} to {max(turns):.2f})"


# Model, images, machine


def write_tokenizer(folder: Path) -> None:
    """Write the demo's tokenizer with as many entries as CLIP's, so that the tables are as long."""
    demo = DEMO / "sd1" / "tokenizer"
    shutil.copytree(demo, folder, dirs_exist_ok=True)
    words = list(json.loads((demo / "vocab.json").read_text(encoding="utf-8")))
    filler = [f"<filler{number}>" for number in range(ENTRIES - len(words))]
    entries = [*words[:-2], *filler, *words[-2:]]  # start and end of text come last
    numbers = {word: number for number, word in enumerate(entries)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")


def write_index(model: Path) -> None:
    """Write the file by which diffusers opens a folder as a pipeline."""
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", **parts}
    (model / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def write_released_names(path: Path) -> None:
    """Give the weights of a text encoder the names of released models, which older code looks for."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries, data = json.loads(file.read(length)), file.read()
    unnamed = (name for name in entries if not name.startswith(("text_model.", "__")))
    for name in list(unnamed):
        entries[f"text_model.{name}"] = entries.pop(name)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def model_in(folder: Path, asked: str) -> Path:
    """Return the model asked for: a folder, the demo's, or one of SD 1.5's size made here."""
    if asked == "demo":
        return DEMO / "sd1"
    if asked != "random":
        return Path(asked).resolve()
    model = folder / "model"
    subprocess.run([sys.executable, str(HERE / "random_models.py"), "sd1", str(model)], check=True)
    write_tokenizer(model / "tokenizer")
    write_released_names(model / "text_encoder" / "model.safetensors")
    write_index(model)
    return model


def machine(threads: int) -> str:
    """Return the processor, its cores and the threads that each trainer gets."""
    info = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", info)
    return f"{name[1] if name else 'CPU'}, {os.cpu_count()} cores, {threads} threads each"


def versions(trainer: Trainer) -> str:
    """Return the revision of a trainer and the versions of what it runs on."""
    names = ("torch", "diffusers", "transformers", "accelerate")
    ask = f"from importlib.metadata import version; print(*map(version, {names}))"
    done = subprocess.run(
        [trainer.script[0], "-c", ask], capture_output=True, text=True, check=False
    )
    git = ["git", "-C", str(trainer.folder), "log", "-1", "--format=%h of %cs"]
    revision = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found = [f"{name} {version}" for name, version in zip(names, done.stdout.split(), strict=False)]
    return ", ".join([revision or "no revision", *found])


# The command


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for folder, python in (
        ("--reference", "--reference-python"),
        ("--diffusers", "--diffusers-python"),
        ("--onetrainer", "--onetrainer-python"),
    ):
        parser.add_argument(folder, type=Path, metavar="DIR", help="its checkout")
        parser.add_argument(python, default=sys.executable, metavar="PATH")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--model",
        default="random",
        help="random: of SD 1.5's size, 2 GB in the temporary folder; demo; or a diffusers folder",
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--resolution", type=int, help="pixels, instead of each case's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that do not count")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3600, help="seconds a process may take")
    parser.add_argument("--no-help", action="store_true", help="do not time --help")
    args = parser.parse_args(argv)
    if args.steps <= args.warm_up + 1:
        parser.error("--steps must be more than --warm-up and one")
    return args


def environment(threads: int) -> dict[str, str]:
    """Return the environment of every trainer."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # a thread that spins while it waits would count as work
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def measure_all(args: argparse.Namespace, rows: list[Trainer], folder: Path) -> None:
    """Measure every case and print its table."""
    rules = Rules(environment(args.threads), args.limit, args.warm_up)
    if not args.no_help:
        print("## --help\n", flush=True)
        measured = in_turns(rows, args.runs, lambda row: ask_help(row, rules))
        print(table(measured, ("help CPU s", "help s")), flush=True)
    model = model_in(folder, args.model)
    for name in args.cases:
        case = CASES[name]
        side = args.resolution or case.resolution
        data = write_dataset(folder / name, side, pictures=args.images)
        job = Job(model, data, data.parent / "images", folder, args.steps, side, case.precision)

        def once(row: Trainer, job: Job = job) -> Figures:
            return train(row, job, rules)

        print(f"## {side} px, {case.dtype}, {args.steps} steps, {args.runs} runs\n", flush=True)
        measured = in_turns(rows, args.runs, once)
        print(table(measured, (*FIGURES, *MEMORY)), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; return 1 if a trainer failed."""
    args = read_arguments(argv)
    rows = trainers(args)
    known = list(rows)
    print(f"{machine(args.threads)}; batch 1, AdamW, no previews\n")
    for row in rows:
        print(f"- {row.name}: {versions(row)}")
    print(flush=True)
    with tempfile.TemporaryDirectory() as name:
        measure_all(args, rows, Path(name).resolve())
    print("Not equal:\n")
    for row in known:
        print("".join(f"- {row.name}: {note}\n" for note in row.differs), end="")
    return 0 if rows == known else 1


if __name__ == "__main__":
    sys.exit(main())
