"""Run the training command in this process, as the command line would."""

import atexit
import io
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import torch

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.config import TrainConfig
from coinage.demo.worlds import MODELS
from coinage.embeddings.word import Word
from coinage.settings.discover import complete
from coinage.system.accelerator import cpu_computes_bf16
from coinage.training import session
from coinage.training.observers.base import Observer
from coinage.training.processes import ALONE
from coinage.training.run import Run
from coinage.training.setup import prepare

# For tests of what a model has learned to draw; for most others the smallest model will do.
TAUGHT = f"--pretrained_model_name_or_path={MODELS / 'sd1'}"


needs_bf16 = pytest.mark.skipif(not cpu_computes_bf16(), reason="this processor lacks bf16")
# Seconds after which a command can be said to hang, however busy the machine is.
HANGS = 600


@cache
def small_model() -> Path:
    """The folder of the smallest Stable Diffusion 1.x, with random weights.

    Written once in a process.
    """
    from tests.tiny_models import write_folder

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_folder(folder, "sd1")


def flags(dataset: Path, out: Path, *more: str) -> list[str]:
    """A short training on the small model."""
    return [
        f"--pretrained_model_name_or_path={small_model()}",
        f"--dataset_config={dataset}",
        f"--output_dir={out}",
        "--token_string=zibu",
        "--init_word=shape",
        "--save_model_as=safetensors",
        "--learning_rate=5e-3",
        "--max_train_steps=3",
        "--seed=0",
        *more,
    ]


def config_for(dataset: Path, out: Path, *more: str) -> TrainConfig:
    return complete(parse("sd", flags(dataset, out, *more), "test"))[0]


def prepared(dataset: Path, out: Path, *more: str) -> Run:
    config = config_for(dataset, out, *more)
    return prepare(config, make_plans([config])[0].samples, torch.device("cpu"))


def trained(
    dataset: Path,
    out: Path,
    *more: str,
    change: Callable[[Run], None] | None = None,
    config: TrainConfig | None = None,
    observers: Iterable[Observer] = (),
    beside: session.ObserversBeside = session.nobody_beside,
) -> tuple[Run, Word]:
    """Train and write the files, without the check of these at the end.

    Args:
        dataset: its file.
        out: the output folder.
        more: flags.
        change: tampers with the prepared run.
        config: in place of flags.
        observers: beside the standard ones.
        beside: gives still more, which work with those.
    """
    config = config or config_for(dataset, out, *more)
    (plan,) = make_plans([config])
    outputs = session.open_outputs([config], ALONE)
    (run,) = session.prepare_runs([plan], ALONE, torch.device("cpu"))
    if config.data.cache_latents:
        run.latents.cache(config.data.vae_batch_size, lambda _: None)
    if change:
        change(run)
    watched = session.observe([run], [plan], outputs, lambda _: observers, beside=beside)
    (word,) = session.train_runs([run], [watch.observers for watch in watched])
    return run, word


def captured(command: Callable[[], int]) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which saves the seconds of its imports."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        code = command()
    return subprocess.CompletedProcess([], code, out.getvalue(), error.getvalue())


def timed(
    command: Sequence[str | Path], folder: Path | None = None
) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command in a process of its own, and return the CPU seconds that it took too."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    after = os.times()
    return done, sum(after[2:4]) - sum(before[2:4])


@contextmanager
def libraries_told(names: Sequence[str] = ("diffusers", "transformers")) -> Iterator[list[str]]:
    """Lines that the model libraries write past us, while they do; or those of other loggers."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, libraries = (
        Handler(logging.WARNING),
        [logging.getLogger(name) for name in names],
    )
    for library in libraries:
        library.addHandler(handler)
    try:
        yield lines
    finally:
        for library in libraries:
            library.removeHandler(handler)


def rows_of(file: Word) -> torch.Tensor:
    return file.vectors["emb_params"]
