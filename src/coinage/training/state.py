"""Save everything that a run needs to go on as if it had never stopped, and load it."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from coinage.errors import CoinageError, reason_of
from coinage.runs.states import SUMMARY, TENSORS, Summary, digest_of, fingerprint, read_summary
from coinage.system.files import write_bytes
from coinage.training.measured import Best, Measured
from coinage.training.state_content import check_content, try_optimizer

if TYPE_CHECKING:
    from coinage.training.run import Run

log = logging.getLogger("coinage")
MISSHAPEN = (TypeError, AttributeError, LookupError)  # what Python says of these, users cannot know
NO_FILES: Mapping[str, str] = MappingProxyType({})


def save_state(
    run: Run, folder: Path, files: Mapping[str, str] = NO_FILES, *, epoch_ended: bool = False
) -> None:
    """Write a state: a few hundred kB, since random draws are keyed by what they are for and need no memory.

    Args:
        run: at the end of a step.
        folder: where to; an older state there is replaced.
        files: digests of what the run learns from, as `state_files.content_digests`.
        epoch_ended: go on with the next epoch.

    Raises:
        CoinageError: it cannot be written.
    """
    buffer = io.BytesIO()
    epoch, done = (
        (run.progress.epoch + 1, 0) if epoch_ended else (run.progress.epoch, run.progress.done)
    )
    content = {
        "place": (run.step, epoch, done),
        "rows": [row.detach().cpu() for row in run.rows],
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": run.scaler.state_dict(),
        "init_word": run.config.word.init_word if run.config.word.search else None,
        "starts": list(run.starts),
        "measured": {step: tuple(measured) for step, measured in run.measured.items()},
        "best": run.best
        and {
            "step": run.best.step,
            "epoch": run.best.epoch,
            "loss": run.best.loss,
            "rows": run.best.rows,
        },
    }
    try:
        torch.save(content, buffer)
        data = buffer.getvalue()
        # What cannot be read again must not be found out when it is needed
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise CoinageError(
            f"the state of {type(run.optimizer).__name__} cannot be saved: {reason_of(error)}",
            str(folder),
        ) from error
    known = fingerprint(run.config, run.samples) | dict(files)
    summary = Summary(run.step, epoch, done, known, digest_of(data))
    try:
        (folder / SUMMARY).unlink(missing_ok=True)  # from here on the older state does not count
    except OSError as error:
        raise CoinageError(f"cannot replace the state: {error.strerror}", str(folder)) from error
    write_bytes(folder / TENSORS, data)
    write_bytes(folder / SUMMARY, summary.as_json())
    log.debug("saved the state %s", folder)


def load_state(run: Run, folder: Path) -> None:
    """Put a run where a state was saved.

    Raises:
        CoinageError: the state cannot be read, or does not fit the run.
    """
    summary = read_summary(folder)
    if summary is None:
        raise CoinageError("the state is not whole", str(folder))
    try:
        content: dict[str, Any] = torch.load(
            folder / TENSORS, map_location="cpu", weights_only=True
        )
        check_content(content, summary, run.rows)
        if run.config.word.search and content.get("init_word"):
            run.begin_from(content["init_word"], content["starts"])
        try_optimizer(run, content)
        _take(run, content)
    except Exception as error:
        hint = "go on from the embedding: --weights FILE"
        reason = (
            "its contents are not as they were saved"
            if isinstance(error, MISSHAPEN)
            else reason_of(error)
        )
        raise CoinageError(f"the state cannot be used: {reason}", str(folder), hint) from error
    run.go_on_from(summary.step, summary.epoch, summary.done)
    log.debug(
        "read rows, optimizer and schedule of step %d, in epoch %d, from %s",
        run.step,
        run.progress.epoch,
        folder,
    )


def _take(run: Run, content: Mapping[str, Any]) -> None:
    """Give a run what a state holds."""
    with torch.no_grad():
        for row, values in zip(run.rows, content["rows"], strict=True):
            row.copy_(values)
    run.optimizer.load_state_dict(content["optimizer"])
    run.schedule.load_state_dict(content["schedule"])
    if content["scaler"] and run.scaler.is_enabled():
        run.scaler.load_state_dict(content["scaler"])
    for step, values in content["measured"].items():
        # The loss alone in older states
        numbers = values if isinstance(values, tuple) else (values,)
        run.measured[step] = Measured(*numbers)
    run.best = Best(**content["best"]) if content.get("best") else None


def remove(path: Path) -> None:
    """Delete an older save, a file or a state's folder; one that is gone already is no matter.

    Raises:
        CoinageError: it cannot be deleted.
    """
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CoinageError(f"cannot delete an older save: {error.strerror}", str(path)) from error
