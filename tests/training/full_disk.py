"""Runs on a disk of 512 kB of its own, which fills up on the way; prints what happened as JSON.

Started by test_full_disk.py in a mount namespace: `full_disk.py DISK DATASET`.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from coinage.cli.train import train_command
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word
from coinage.runs.states import latest_state, read_summary
from coinage.training import loop
from coinage.training.rescue import bring_to_safety
from coinage.training.run import Run
from tests.helpers import config_for, flags, rows_of, trained

SIZE = 512 * 1024
SAVING = (
    "--max_train_steps=6",
    "--save_every_n_steps=2",
    "--save_state",
    "--sample_every_n_steps=2",
)
PLACES = ("temporary", "work", "home", "runtime", "memory")
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
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "sample" not in path.parts
    )


def for_a_while(disk: Path, dataset: Path, prompts: Path, whole: torch.Tensor) -> dict[str, Any]:
    """Full from step 3 on, free again at step 5."""
    out = disk / "a"
    loop.update = at_steps({3: lambda: fill(disk), 5: lambda: free(disk)})
    code = train_command(
        "sd",
        flags(
            dataset, out, *SAVING, f"--sample_prompts={prompts}", f"--logging_dir={disk / 'logs'}"
        ),
    )
    steps = [
        json.loads(line)["step"]
        for line in (out / "zibu-log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
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
    return {
        **found,
        "again": again,
        "same": torch.equal(rows_of(read(out / "zibu.safetensors")), whole),
    }


def with_nowhere_to_go(disk: Path, dataset: Path) -> dict[str, Any]:
    """Every folder that may take the word is on the full disk, but for one at a time; and then none is."""
    free_places = disk.parent / "places"
    config = config_for(dataset, disk / "c")
    word = Word({"emb_params": torch.arange(64.0).reshape(2, 32)}, "zibu", 6, {"title": "x" * 100})
    fill(disk)
    kept = {}
    for free_one in (*PLACES, None):
        folders = {name: free_places / name if name == free_one else disk / name for name in PLACES}
        with placed(folders):
            error = bring_to_safety(
                config.output_file, word, OSError(28, "No space left on device")
            )
        found = list(free_places.rglob("zibu.safetensors"))
        kept[str(free_one)] = [
            str(error),
            [torch.equal(rows_of(read(path)), rows_of(word)) for path in found],
        ]
        for path in found:
            path.unlink()
    left = [str(path) for path in disk.rglob("coinage-*")]
    free(disk)
    loop.update = at_steps({3: lambda: fill(disk)})
    with placed({name: disk / name for name in PLACES}):
        code = train_command(
            "sd",
            flags(
                dataset,
                disk / "d",
                "--max_train_steps=6",
                "--quiet",
                f"--console_log_file={disk / 'log'}",
            ),
        )
    loop.update = real_update
    free(disk)
    return {"kept": kept, "left": left, "code": code}


@contextmanager
def placed(folders: dict[str, Path]) -> Iterator[None]:
    """Have each of the folders for small files lie elsewhere; that in memory is mounted."""
    before = Path.cwd()
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folders["temporary"])
    os.environ |= {"HOME": str(folders["home"]), "XDG_RUNTIME_DIR": str(folders["runtime"])}
    os.chdir(folders["work"])
    subprocess.run(["mount", "--bind", str(folders["memory"]), "/dev/shm"], check=True)  # noqa: S607, S108
    try:
        yield
    finally:
        subprocess.run(["umount", "/dev/shm"], check=True)  # noqa: S607, S108
        os.chdir(before)
        tempfile.tempdir = None


def main() -> None:
    disk, dataset = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)  # noqa: S607
    _, word = trained(dataset, disk.parent / "whole", *SAVING[:3])
    prompts = disk.parent / "prompts.txt"
    prompts.write_text("zibu --s 1 --w 64 --h 64\n", encoding="utf-8")
    results = {"for a while": for_a_while(disk, dataset, prompts, rows_of(word))}
    for path in sorted(disk.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    results["to the end"] = to_the_end(disk, dataset, rows_of(word))
    for path in sorted(disk.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    results["nowhere"] = with_nowhere_to_go(disk, dataset)
    logging.shutdown()
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
