"""What is known of a run that the page has started, read from its folder. Imports no torch."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from coinage.errors import CoinageError
from coinage.system.typed_json import decode
from coinage.ui.processes import Process, is_alive
from coinage.ui.workspace import WordFolder, read_json_or, write_json

State = Literal[
    "draft", "queued", "starting", "running", "stopping", "ended", "stopped", "failed", "killed"
]
AT_WORK = ("starting", "running", "stopping")
PREVIEW, SAVE, STOP = "preview", "save", "stop"  # what the page asks a run for
TO_START = 60.0  # seconds after which a process that has not said a word is gone
TAIL = 2**16  # bytes of what was printed, among which the reason of a failure is looked for
KILLED = (
    "the process has ended without a word: it was killed, or the computer was switched off. "
    "Go on from the last state that was saved"
)
NOT_STARTED = "the process could not be started; what it printed says why"
BEGINS = "--- a run begins: "  # a line in what is printed
DAMAGED = "job.json cannot be read; start the run again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The process that trains a word.

    Attributes:
        state: of the run; "draft" before the first start.
        process: its number.
        process_started: as `processes.Process.started`.
        since: when the run began that this process goes on with, seconds since 1970.
        started, ended: of this process, seconds since 1970.
        exit_code: of the process.
        reason: why it has ended, in a sentence, where it was not to end.
        before: the state before the run was queued, which it has again if it is taken out.
        device: that it has for itself, such as "0" for the first GPU; "" where there is but one.
    """

    state: State = "draft"
    process: int | None = None
    process_started: float | None = None
    since: float | None = None
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    reason: str = ""
    before: State = "draft"
    device: str = ""

    @property
    def at_work(self) -> bool:
        """Whether its process runs, or is being started."""
        return self.state in AT_WORK

    @property
    def known_process(self) -> Process | None:
        """Return its process; None before it has said which it is."""
        if self.process is None or self.process_started is None:
            return None
        return Process(self.process, self.process_started)

    def queued(self) -> Job:
        """Return the same job in the queue."""
        return self if self.state == "queued" else replace(self, state="queued", before=self.state)

    def not_queued(self) -> Job:
        """Return the job as it was before it was queued."""
        return replace(self, state=self.before, before="draft") if self.state == "queued" else self

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def write_job(folder: WordFolder, job: Job) -> None:
    """Write what is known of a word's run.

    Raises:
        CoinageError: it cannot be written.
    """
    try:
        write_json(folder.job, job.as_json())
    except CoinageError:
        if not _written_over(folder.job, json.dumps(job.as_json()).encode()):
            raise


def _written_over(path: Path, data: bytes) -> bool:
    """Write a small file into the room that it has already, which a full disk still allows."""
    try:
        with path.open("r+b", buffering=0) as file:
            # One write, so that whoever reads finds all of it
            written = file.write(data.ljust(path.stat().st_size))
            return written >= len(data)
    except OSError:
        return False


def read_job(folder: WordFolder) -> Job:
    """Return what is known of a word's run, as it is now.

    A run whose process is gone without an end written is "killed"; one that was asked to stop is
    "stopping".
    """
    try:
        job = decode(Job, read_json_or(folder.job, {}))
    except (CoinageError, ValueError, TypeError):
        return Job(state="failed", reason=DAMAGED)
    if not job.at_work:
        return job
    process = job.known_process
    if process is None:
        began = job.started or 0.0
        is_late = not 0 <= time.time() - began < TO_START
        return replace(job, state="failed", reason=NOT_STARTED) if is_late else job
    if not is_alive(process):
        return _gone(folder, job)
    return replace(job, state="stopping") if is_asked(folder, STOP) else job


def _gone(folder: WordFolder, job: Job) -> Job:
    """Return the job of a process that is gone; it may have written its end just now."""
    try:
        again = decode(Job, read_json_or(folder.job, {}))
    except (CoinageError, ValueError, TypeError):
        again = job
    if again != job:
        return again
    return replace(job, state="killed", reason=last_error(folder.printed) or KILLED)


def is_asked(folder: WordFolder, what: str) -> bool:
    """Return whether the page has asked a run for something that it has not done yet."""
    return (folder.requests / what).is_file()


def ask(folder: WordFolder, what: str) -> None:
    """Ask a run for something: `PREVIEW`, `SAVE` or `STOP`.

    Raises:
        CoinageError: the request cannot be written.
    """
    try:
        folder.requests.mkdir(exist_ok=True)
        (folder.requests / what).touch()
    except OSError as error:
        raise CoinageError(f"cannot ask the run: {error.strerror}", str(folder.requests)) from None


def forget(folder: WordFolder, *whats: str) -> None:
    """Take requests back, or remove them when they are done."""
    for what in whats:
        (folder.requests / what).unlink(missing_ok=True)


def last_error(printed: Path) -> str:
    """Return the last error that the last run has printed, in one line; "" for none."""
    try:
        if printed.is_symlink():
            return ""
        with printed.open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    of_last_run = text.rpartition(BEGINS)[2]
    errors = [line for line in of_last_run.splitlines() if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else ""
