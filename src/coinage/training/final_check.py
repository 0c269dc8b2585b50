"""The check at the end of a run: which file to use, whether it works in every tool, and how."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from coinage.embeddings.verify import COMPARED, Check, usage, verify
from coinage.embeddings.word import Word
from coinage.embeddings.writing import DTYPES
from coinage.errors import reason_of
from coinage.models.loading_lock import LOADING_LOCK
from coinage.models.quiet import libraries_silenced
from coinage.system.shell import quoted
from coinage.training.observers.saver import file_to_use

if TYPE_CHECKING:
    from coinage.training.run import Run

log = logging.getLogger("coinage")


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The file of a finished run that is to be used.

    Attributes:
        path: of the file.
        checks: how it works in each tool; empty if it could not be checked.
    """

    path: Path
    checks: Sequence[Check]


def check_saved_file(run: Run) -> CheckedFile:
    """Load the file to use as other tools do, and log where it works and how to use it.

    A check that fails is logged, and nothing else depends on it: the file is there.
    """
    path = file_to_use(run)
    token = run.placeholder.token
    try:
        with libraries_silenced(), same_draws_afterwards(), run.autocast():
            checks = verify(path, run.family, run.parts, _as_saved(run, path), token)
    except Exception as error:  # noqa: BLE001 - the file is written and read back; that is what counts
        log.warning("%s could not be checked in other tools: %s", path.name, reason_of(error))
        return CheckedFile(path, [])
    log_checks(path, checks)
    negative = run.config.word.role == "negative"
    if run.word_index == 0 or negative:  # the other words are used in the same way
        for line in usage(path, run.family.name, checks, token, negative=negative):
            log.info("  %s", line)
    if offer := mending_offer(run, path):
        log.info("note: %s", offer)
    return CheckedFile(path, checks)


def mending_offer(run: Run, path: Path) -> str:
    """Return how to mend a word with vectors longer than all of the model's words; "" for any other."""
    saved = _as_saved(run, path).vectors.values()
    longest = 0.0
    for rows, embedding in zip(saved, run.parts.embeddings, strict=True):
        # Tensor.norm takes no dtype on a Mac
        lengths = torch.linalg.vector_norm(embedding.table, dim=1, dtype=torch.float32)
        usual = float(lengths.max())
        longest = max(longest, float(rows.norm(dim=1).max()) / usual)
    if longest <= 1:
        return ""
    mended = path.with_stem(f"{path.stem}-mended")
    init_word = run.config.word.init_word or "INIT_WORD"
    command = ["coinage", "convert", str(path), str(mended), "--adjust", init_word]
    command += ["--model", run.config.model.source]
    return (
        f"the vectors are up to {longest:.1f} times as long as the model's longest word; "
        f"if prompts are obeyed too little: {quoted(command)}"
    )


@contextmanager
def same_draws_afterwards() -> Iterator[None]:
    """Keep torch's default random numbers as they are: the text encoders of the tools draw some.

    One thread at a time may do so, as each puts back what it has found.
    """
    with LOADING_LOCK, torch.random.fork_rng(devices=[]):
        yield


def _as_saved(run: Run, path: Path) -> Word:
    """Return the word of a file, rounded to the precision of the file."""
    best = run.results.best if path != run.config.output_file else None
    rows = best.rows if best else run.rows_to_save()
    dtype = DTYPES[run.config.save.precision]
    rounded = [row.to(dtype).float() for row in rows]
    vectors = dict(zip(run.family.embedding_keys, rounded, strict=True))
    return Word(vectors, run.placeholder.token)


def log_checks(path: Path, checks: Sequence[Check]) -> None:
    """Log in which tools a file works, in which it does not, and why."""
    compared = [check for check in checks if check.tool in COMPARED]
    good = [check.tool for check in compared if check.same]
    if good:
        log.info("works in %s (prompts encode exactly as in training)", ", ".join(good))
    for check in compared:
        why = f": {check.why}" if check.why else ""
        if not check.loads:
            log.info("note: does not work in %s%s", check.tool, why)
        elif check.untried:
            log.warning("%s could not be checked in %s%s", path.name, check.tool, why)
        elif not check.same:
            text = "in %s this word gives different results (by %.1e)%s"
            log.warning(text, check.tool, check.difference, why)
