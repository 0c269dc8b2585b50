"""A line of JSON for every update: what a run has measured, kept on disk as it goes."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from coinage.training.image_losses import ImageLoss
from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run

log = logging.getLogger("coinage")


def entry_of(run: Run) -> dict[str, Any]:
    """Return the log's line for the last update.

    `norms` and `angles` have a number for each vector, those of all text encoders in turn.
    """
    return {
        "step": run.step,
        "epoch": run.progress.epoch,
        "loss": run.last.loss,
        "lr": run.last.rate,
        # An update that overflowed was skipped
        "grad_norm": run.last.grad_norm if math.isfinite(run.last.grad_norm) else None,
        "bands": [None if loss is None else _short(loss) for loss in run.last.bands],
        "norms": [_short(norm) for norm in run.last.norms],
        "angles": [_short(angle) for angle in run.last.angles],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


class Journal(Observer):
    """Writes the lines to `OUTPUT/NAME-log.jsonl`; a resumed run goes on where its state was saved.

    Args:
        path: of the file.
        receive: gets every entry, with those that a resumed run finds in the file.
    """

    priority = Priority.JOURNAL

    def __init__(
        self, path: Path, receive: Callable[[Mapping[str, Any]], None] = lambda _: None
    ) -> None:
        self._path, self._receive = path, receive
        self._file: FileIO | None = None
        self._size = 0  # of the whole lines in the file
        self._unwritten = bytearray()
        self._warned = False

    def started(self, run: Run) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not (run.step and self._path.is_file()):
                self._path.write_bytes(b"")
            # So that a run that is killed leaves it whole
            self._file = self._path.open("r+b", buffering=0)
            with self._path.open("rb") as lines:
                for line in lines:
                    entry = _read(line)
                    if entry and entry["step"] > run.step:
                        break
                    if entry:  # damaged lines before the last good one stay in the file
                        self._receive(entry)
                        self._size = lines.tell()
            self._file.truncate(self._size)
        except OSError as error:
            self._warn(error)

    def stepped(self, run: Run) -> None:
        entry = entry_of(run)
        self._receive(entry)
        self._write(entry)

    def compared(self, run: Run, losses: Sequence[ImageLoss]) -> None:
        """Write how much the word helps with each image, that which gains least first."""
        images = [
            {
                "name": run.samples[one.sample].path.name,
                "before": _short(one.before),
                "after": _short(one.after),
                "gain": _short(one.gain),
            }
            for one in sorted(losses, key=lambda one: one.gain)
        ]
        self._write({"images": images})

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._unwritten += json.dumps(entry).encode() + b"\n"
        try:
            self._append()
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning(
                "cannot write the log; training continues: %s: %s", self._path, error.strerror
            )
        self._warned = True

    def _append(self) -> None:
        """Write what is not written yet, after the last whole line: a full disk may have taken a part."""
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise OSError(errno.ENOENT, "it was deleted")
        self._file.seek(self._size)
        if self._file.write(self._unwritten) < len(self._unwritten):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(self._unwritten)
        self._unwritten.clear()

    def close(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        if self._file:
            self._file.close()


def _read(line: bytes) -> dict[str, Any] | None:
    """Return a line's entry; None for half a line, or one without a step or a loss."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry: dict[str, Any] = json.loads(line)
        good = isinstance(entry["step"], int) and math.isfinite(entry["loss"])
    except (ValueError, TypeError, KeyError):
        return None
    return entry if good else None
