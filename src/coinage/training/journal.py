"""A line of JSON for every update: what a run has measured, kept on disk as it goes."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from torch.nn.functional import cosine_similarity

from coinage.files import write_bytes
from coinage.training.observers import Observer
from coinage.training.setup import Run

log = logging.getLogger("coinage")


def entry_of(run: Run) -> dict[str, Any]:
    """What is told of the last update; lengths of the rows and degrees from their start are those of all text encoders in turn."""
    norms, angles = [], []
    for rows, start in zip(run.parts.rows(), run.start, strict=True):
        now = rows.detach().cpu()
        norms += now.norm(dim=1).tolist()
        angles += cosine_similarity(now.double(), start.double(), dim=1).clamp(-1, 1).acos().rad2deg().tolist()
    return {
        "step": run.step,
        "epoch": run.epoch,
        "loss": run.loss,
        "lr": run.rate,
        "grad_norm": run.grad_norm if math.isfinite(run.grad_norm) else None,  # an update that overflowed was skipped
        "bands": [None if loss is None else _short(loss) for loss in run.bands],
        "norms": [_short(norm) for norm in norms],
        "angles": [_short(angle) for angle in angles],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


class Journal(Observer):
    """Writes the lines to `OUTPUT/NAME-log.jsonl`; a resumed run goes on where its state was saved.

    Args:
        path: of the file.
        tell: gets every entry, those that a resumed run finds in the file included.
    """

    def __init__(self, path: Path, tell: Callable[[Mapping[str, Any]], None] = lambda _: None) -> None:
        self._path, self._tell = path, tell
        self._file: FileIO | None = None
        self._size = 0  # of the whole lines in the file
        self._unwritten = b""
        self._told = False

    def started(self, run: Run) -> None:
        kept = []
        if run.step and self._path.is_file():
            kept = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= run.step]
        for line in kept:
            self._tell(json.loads(line))
        data = "".join(f"{line}\n" for line in kept).encode()
        write_bytes(self._path, data)
        self._size = len(data)
        self._file = self._path.open("r+b", buffering=0)  # so that a run that is killed leaves it whole

    def stepped(self, run: Run) -> None:
        entry = entry_of(run)
        self._tell(entry)
        self._unwritten += json.dumps(entry).encode() + b"\n"
        try:
            self._append()
        except OSError as error:
            if not self._told:
                log.warning("cannot write the log, training goes on: %s: %s", self._path, error.strerror)
            self._told = True

    def _append(self) -> None:
        """Write what is not written yet, after the last whole line: a full disk may have taken a part."""
        if self._file is None:
            return
        self._file.seek(self._size)
        if self._file.write(self._unwritten) < len(self._unwritten):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(self._unwritten)
        self._unwritten = b""

    def close(self) -> None:
        if self._file:
            self._file.close()


def _step_of(line: str) -> float:
    """The step of a line of the journal; infinite for half a line, and for one without a loss."""
    try:
        entry = json.loads(line)
        return int(entry["step"]) if math.isfinite(entry["loss"]) else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf
