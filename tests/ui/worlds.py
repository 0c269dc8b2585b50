"""A workspace with a word of the built-in model, ready to train."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from coinage.demo.worlds import MODELS
from coinage.ui.job import Job, read_job
from coinage.ui.processes import Process, start
from coinage.ui.workspace import WordFolder, Workspace

PATIENCE = 600.0  # seconds; a busy machine is not a fault


def new_word(workspace: Workspace, images: Path, word_id: str = "zibu", **flags: Any) -> WordFolder:
    """Make a word with eight pictures of a moon, and the settings of a run of a few seconds."""
    folder = WordFolder(workspace.words / word_id)
    folder.path.mkdir(parents=True)
    shutil.copytree(images.parent / "images", folder.images)
    values = {
        "pretrained_model_name_or_path": str(MODELS / "sd1"),
        "train_data_dir": str(folder.images),
        "resolution": "64",
        "train_batch_size": 4,
        "output_dir": str(folder.output),
        "output_name": "zibu",
        "token_string": "zibu",
        "init_word": "shape",
        "max_train_steps": 30,
        "learning_rate": 5e-3,
        "seed": 0,
        **flags,
    }
    folder.run_settings.write_text(tomli_w.dumps(values), encoding="utf-8")
    return folder


def start_job(folder: WordFolder, *more: str) -> Process:
    command = [sys.executable, "-m", "coinage.cli.job", str(folder.path), *more]
    return start(command, folder.path, folder.printed)


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what is true at last."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)
    return value


def ended(folder: WordFolder) -> Job:
    """Return the job of a word when its process has ended."""

    def over() -> Job | None:
        job = read_job(folder)
        return None if job.at_work or job.state in ("draft", "queued") else job

    job: Job = wait_for(over)
    return job


def step_of(folder: WordFolder) -> int:
    """Return how many steps stand in the log of a run."""
    log = folder.output / "zibu-log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0
