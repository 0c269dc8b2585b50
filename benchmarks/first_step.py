"""Seconds from the command to its first step, and from its last step to its end.

`python benchmarks/first_step.py --repeats 3` writes a full-size SD 1.5 with random weights, trains
on 8 images of 256 pixels in a process of its own, and prints what each phase took: medians of the
runs. CPU time says how much work there is; on an idle machine the wall follows it. `--model` takes
a model that is there already, and `--source` the `src` folder of another revision.
"""

from __future__ import annotations

import argparse
import builtins
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
STEPS = 3
IMAGES = 8
SIDE = 256
TO_FIRST_STEP = (
    "command", "checks", "libraries", "load", "encode", "observers begin", "first look", "first step",
)  # fmt: skip
AFTER_LAST = ("files, frozen weights", "file in other tools", "end of process")
PHASES = (*TO_FIRST_STEP, "other steps", *AFTER_LAST)
Seconds = dict[str, dict[str, float]]


class Clock:
    """The wall time and the CPU time of each phase, and the CPU time of the imports in it."""

    def __init__(self, started: float) -> None:
        self.phases: Seconds = {}
        self._wall, self._cpu, self._imports = started, 0.0, 0.0
        self._importing = False

    def end(self, name: str) -> None:
        """End a phase. One that ended before is left as it is."""
        if name in self.phases:
            return
        wall, cpu = time.time(), time.process_time()
        took = {"wall": wall - self._wall, "CPU": cpu - self._cpu, "imports": self._imports}
        self.phases[name] = took
        self._wall, self._cpu, self._imports = wall, cpu, 0.0

    def watch_imports(self) -> None:
        """Time all imports from now on."""
        original = builtins.__import__

        def timed(*args: Any, **more: Any) -> Any:
            if self._importing:
                return original(*args, **more)
            self._importing, began = True, time.process_time()
            try:
                return original(*args, **more)
            finally:
                self._importing = False
                self._imports += time.process_time() - began

        builtins.__import__ = timed

    def around(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """End phases where a function begins, and where it returns."""
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any, **more: Any) -> Any:
            if before:
                self.end(before)
            result = function(*args, **more)
            if after:
                self.end(after)
            return result

        setattr(owner, name, timed)


def timed_training(started: float, record: Path, flags: Sequence[str]) -> int:
    """Train in this process with a clock beside it, and write what it shows.

    Args:
        started: time of day when the process was started.
        record: file to write.
        flags: of the training command.
    """
    clock = Clock(started)
    clock.watch_imports()
    import coinage.cli.train as command

    clock.end("command")
    run_training = command.run_training

    def watched(*args: Any, **more: Any) -> None:
        clock.end("checks")
        from coinage.training import loop, session

        clock.around(session, "train_plans", "libraries", "file in other tools")
        clock.around(session, "prepare_runs", "", "load")
        clock.around(session, "find_starts", "", "encode")
        clock.around(session, "check_model", "observers begin", "first look")
        clock.around(loop, "update", "", "first step")
        clock.around(loop.Learner, "end", "other steps")
        clock.around(session, "train_runs", "", "files, frozen weights")
        run_training(*args, **more)

    command.run_training = watched
    code = command.train_command("coinage", flags, prog="coinage train")
    record.write_text(json.dumps(clock.phases), encoding="utf-8")
    return code


# In the process that measures


def measured(source: Path, flags: Sequence[str], folder: Path) -> Seconds:
    """Train in a new process; what its phases took.

    Args:
        source: folder with the package.
        flags: of the training command.
        folder: for the record.
    """
    record = folder / "record.json"
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    words = [sys.executable, __file__, "--record", str(record), str(started), *flags]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    phases: Seconds = json.loads(record.read_text(encoding="utf-8"))
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rest = {"wall": ended - started, "CPU": whole, "imports": 0.0}
    for took in phases.values():
        rest["wall"] -= took["wall"]
        rest["CPU"] -= took["CPU"]
    return {**phases, "end of process": rest}


def flags_of(model: Path, dataset: Path, output: Path, precision: str) -> list[str]:
    """The flags of a short training."""
    return [
        f"--pretrained_model_name_or_path={model}", f"--dataset_config={dataset}",
        f"--output_dir={output}", "--output_name=mychar", "--save_model_as=safetensors",
        "--token_string=mychar", "--init_word=girl", "--num_vectors_per_token=4",
        f"--max_train_steps={STEPS}", "--learning_rate=1e-3", "--optimizer_type=AdamW",
        f"--mixed_precision={precision}", "--cache_latents", "--seed=1",
    ]  # fmt: skip


def medians(runs: Sequence[Seconds]) -> Seconds:
    """The median of each phase over the runs."""
    result: Seconds = {}
    for phase in PHASES:
        result[phase] = {}
        for kind in ("wall", "CPU", "imports"):
            result[phase][kind] = statistics.median(run[phase][kind] for run in runs)
    return result


def table(precision: str, phases: Seconds) -> str:
    """A table of phases, with the sums of those before the first step and after the last."""
    lines = [
        f"| {precision} | wall | CPU | imports |",
        "|---|---|---|---|",
    ]
    groups = (("to the first step", TO_FIRST_STEP), ("after the last step", AFTER_LAST))
    for phase in PHASES:
        lines.append(_row(phase, phases[phase]))
        for name, group in groups:
            if phase == group[-1]:
                total = {kind: sum(phases[part][kind] for part in group) for kind in phases[phase]}
                lines.append(_row(f"**{name}**", total))
    return "\n".join(lines)


def _row(name: str, took: dict[str, float]) -> str:
    return f"| {name} | {took['wall']:.2f} | {took['CPU']:.2f} | {took['imports']:.2f} |"


def main() -> None:
    """Measure, and print a table for each precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model that is there")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with the package")
    parser.add_argument("--precision", nargs="+", default=["bf16", "no"], choices=["bf16", "no"])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    from random_models import RELEASED, write_dataset, write_folder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_folder(RELEASED / "sd1", folder / "sd1")
        dataset = write_dataset(folder, SIDE, pictures=IMAGES)
        for precision in args.precision:
            flags = flags_of(model, dataset, folder / "output", precision)
            runs = [measured(args.source, flags, folder) for _ in range(args.repeats)]
            print(table(precision, medians(runs)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        raise SystemExit(timed_training(float(sys.argv[3]), Path(sys.argv[2]), sys.argv[4:]))
    main()
