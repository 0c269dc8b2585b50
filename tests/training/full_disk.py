"""Runs on a disk of 512 kB of its own, which fills up on the way; prints what happened as JSON.

Started by test_full_disk.py in a mount namespace: `full_disk.py DISK DATASET`.
"""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from coinage.cli.kohya import train_command
from coinage.embeddings.reading import read
from coinage.state_files import latest_state, read_summary
from coinage.training import loop
from coinage.training.setup import Run
from tests.helpers import flags, rows_of, trained

SIZE = 512 * 1024
SAVING = ("--max_train_steps=6", "--save_every_n_steps=2", "--save_state", "--sample_every_n_steps=2")
real_update = loop.update


def fill(disk: Path) -> None:
    """Take what is left, down to the last page."""
    with (disk / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def free(disk: Path) -> None:
    (disk / "filler").unlink()


def at_steps(acts: dict[int, Callable[[], None]]) -> Callable[[Run], None]:
    def update(run: Run) -> None:
        real_update(run)
        acts.get(run.step, lambda: None)()

    return update


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "sample" not in path.parts)


def for_a_while(disk: Path, dataset: Path, prompts: Path, whole: torch.Tensor) -> dict[str, Any]:
    """Full from step 3 on, free again at step 5."""
    out = disk / "a"
    loop.update = at_steps({3: lambda: fill(disk), 5: lambda: free(disk)})
    code = train_command("sd", flags(dataset, out, *SAVING, f"--sample_prompts={prompts}", f"--logging_dir={disk / 'logs'}"))
    steps = [json.loads(line)["step"] for line in (out / "zibu-log.jsonl").read_text(encoding="utf-8").splitlines()]
    same = torch.equal(rows_of(read(out / "zibu.safetensors")), whole)
    return {"code": code, "names": names_in(out), "steps": steps, "same": same}


def to_the_end(disk: Path, dataset: Path, whole: torch.Tensor) -> dict[str, Any]:
    """Full from step 3 to the end; then freed, and the run goes on from its last state."""
    out = disk / "b"
    log = disk / "log.txt"
    loop.update = at_steps({3: lambda: fill(disk)})
    code = train_command("sd", flags(dataset, out, *SAVING[:3], f"--console_log_file={log}"))
    rescued = list(Path(tempfile.gettempdir()).glob("coinage-*/zibu.safetensors"))
    state = latest_state(out, "zibu")
    summary = read_summary(state) if state else None
    found = {
        "code": code,
        "names": names_in(out),
        "rescued": [torch.equal(rows_of(read(path)), whole) for path in rescued],
        "state": summary.step if summary else None,
    }
    free(disk)
    loop.update = real_update
    again = train_command("sd", flags(dataset, out, *SAVING[:3], "--resume=latest"))
    return {**found, "again": again, "same": torch.equal(rows_of(read(out / "zibu.safetensors")), whole)}


def main() -> None:
    disk, dataset = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)  # noqa: S607 - of the system
    _, word = trained(dataset, disk.parent / "whole", *SAVING[:3])
    prompts = disk.parent / "prompts.txt"
    prompts.write_text("zibu --s 1 --w 64 --h 64\n", encoding="utf-8")
    results = {"for a while": for_a_while(disk, dataset, prompts, rows_of(word))}
    for path in sorted(disk.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    results["to the end"] = to_the_end(disk, dataset, rows_of(word))
    logging.shutdown()
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
