"""Save and load everything that a run needs to go on as if it had never stopped."""

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
from coinage.optim.capturable import state_to_save
from coinage.runs.states import SUMMARY, TENSORS, Summary, digest_of, fingerprint, read_summary
from coinage.system.files import write_bytes
from coinage.training.losses import name_of
from coinage.training.results import Best, Measurement
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
        files: digests of what the run learns from, as `states.content_digests`.
        epoch_ended: go on with the next epoch.

    Raises:
        CoinageError: it cannot be written.
    """
    progress = run.progress
    epoch, done = (progress.epoch + 1, 0) if epoch_ended else (progress.epoch, progress.done)
    data = _packed(run, epoch, done, folder)
    known = fingerprint(run.config, run.samples) | dict(files) | plugged_in(run)
    summary = Summary(run.step, epoch, done, known, digest_of(data))
    try:
        (folder / SUMMARY).unlink(missing_ok=True)  # from here on the older state does not count
    except OSError as error:
        raise CoinageError(f"cannot replace the state: {error.strerror}", str(folder)) from error
    write_bytes(folder / TENSORS, data)
    write_bytes(folder / SUMMARY, summary.as_json())
    log.debug("saved the state %s", folder)


def _packed(run: Run, epoch: int, done: int, folder: Path) -> bytes:
    """Return the contents of the tensors' file.

    Raises:
        CoinageError: it could not be read again, which must not be found out when it is needed.
    """
    results = run.results
    measurements = {step: tuple(measurement) for step, measurement in results.measurements.items()}
    content: dict[str, Any] = {
        "place": (run.step, epoch, done),
        "rows": [row.detach().cpu() for row in run.rows],
        "optimizer": state_to_save(run.optimizer),
        "schedule": run.schedule.state_dict(),
        "scaler": run.scaler.state_dict(),
        "init_word": run.config.word.init_word if run.config.word.search else None,
        "starts": list(results.init_words),
        "measured": measurements,
        "best": _best_as_table(results.best),
    }
    if results.scores:
        content["scores"] = dict(results.scores)
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception as error:
        name = type(run.optimizer).__name__
        what = f"the state of {name} cannot be saved: {reason_of(error)}"
        raise CoinageError(what, str(folder)) from error
    return buffer.getvalue()


def _best_as_table(best: Best | None) -> dict[str, Any] | None:
    if best is None:
        return None
    table = {"step": best.step, "epoch": best.epoch, "loss": best.loss, "rows": best.rows}
    return table if best.score is None else table | {"score": best.score}


def plugged_in(run: Run) -> dict[str, str]:
    """Return the names of the user's own optimizer and loss, for the fingerprint."""
    names = {"own_loss": name_of(run.loss)}
    names["own_optimizer"] = run.optimizer_name if run.optimizer_factory else ""
    return {key: name for key, name in names.items() if name}


def load_state(run: Run, folder: Path) -> None:
    """Put a run where a state was saved.

    Raises:
        CoinageError: the state cannot be read, or does not fit the run.
    """
    summary = read_summary(folder)
    if summary is None:
        raise CoinageError("the state is incomplete", str(folder))
    _check_plugged_in(run, summary, folder)
    try:
        content: dict[str, Any] = torch.load(
            folder / TENSORS, map_location="cpu", weights_only=True
        )
        check_content(content, summary, run.rows)
        if run.config.word.search and content.get("init_word"):
            run.begin_from(content["init_word"], content["starts"])
        try_optimizer(run, content)
        _restore_content(run, content)
    except Exception as error:
        hint = "continue from the embedding instead: --weights FILE"
        reason = reason_of(error)
        if isinstance(error, MISSHAPEN):
            reason = "its contents are damaged"
        raise CoinageError(f"the state cannot be used: {reason}", str(folder), hint) from error
    run.restore(summary.step, summary.epoch, summary.done)
    log.debug(
        "read rows, optimizer and schedule of step %d, in epoch %d, from %s",
        run.step,
        run.progress.epoch,
        folder,
    )


def _check_plugged_in(run: Run, summary: Summary, folder: Path) -> None:
    """Compare the user's own loss and optimizer with those that the state was saved with.

    Raises:
        CoinageError: the optimizer is another one, so that its state cannot be used.
    """
    now = plugged_in(run)
    then = {key: summary.fingerprint.get(key) for key in ("own_loss", "own_optimizer")}
    if then["own_optimizer"] != now.get("own_optimizer"):
        before, after = (
            names.get("own_optimizer") or run.config.optim.name for names in (then, now)
        )
        what = f"the state was saved with the optimizer {before}, and this run uses {after}"
        raise CoinageError(what, str(folder), "pass the optimizer that the state was trained with")
    if then["own_loss"] != now.get("own_loss"):
        before, after = (names.get("own_loss") or "the configured one" for names in (then, now))
        log.warning(
            "%s: the loss function was %s and is now %s; the run continues, with other results",
            folder,
            before,
            after,
        )


def _restore_content(run: Run, content: Mapping[str, Any]) -> None:
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
        run.results.measurements[step] = Measurement(*numbers)
    run.results.scores.update(content.get("scores", {}))
    best = content.get("best")
    run.results.best = Best(**best) if best else None


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
        what = f"an older save cannot be deleted, and stays: {error.strerror}"
        raise CoinageError(what, str(path), "delete it by hand") from error
