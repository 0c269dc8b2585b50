"""The process that trains a word of the page: it writes how it began, how far it is, and how it ended.

It is started by `python -m coinage.cli.job`, which brings the training command. Imports no torch before
that command does.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from coinage.errors import CoinageError, described
from coinage.runs.lock import hold
from coinage.terminal.messages import print_error, print_line, print_text
from coinage.ui.job import (
    BEGINS,
    PREVIEW,
    SAVE,
    STOP,
    Job,
    State,
    forget,
    is_asked,
    last_error,
    read_job,
    write_job,
)
from coinage.ui.processes import own_process
from coinage.ui.workspace import WordFolder, read_json_or, write_json

if TYPE_CHECKING:
    from coinage.training.session import Followers

log = logging.getLogger("coinage")
STOPPED = 128  # and more: the exit codes of a process that a signal has ended
LOOKS = 0.5  # seconds between looks for a request to stop, on systems without such a signal
Train = Callable[[Sequence[str], Callable[[], "Followers"]], int]


def run_job(folder: WordFolder, more: Sequence[str], train: Train) -> int:
    """Train the word of a folder, and write what becomes of it to its `job.json`.

    Args:
        folder: of the word, with the settings of the run.
        more: words for the command line of the training, such as `--resume latest`.
        train: the training command: gets its words and what follows it, returns its exit code.

    Returns:
        The exit code.
    """
    # Two servers may have started it, where a folder was copied back under them
    lock = hold(folder.path / ".job.lock")
    if lock is None:
        print_error("another process trains this word already")
        return 1
    try:
        return _run(folder, more, train)
    finally:
        lock.release()


def _run(folder: WordFolder, more: Sequence[str], train: Train) -> int:
    process, now, asked = own_process(), time.time(), read_job(folder)
    job = Job(
        state="running",
        process=process.number,
        process_started=process.started,
        since=asked.since or now,
        started=now,
        device=asked.device,
    )
    forget(folder, PREVIEW, SAVE, STOP)
    signal.signal(signal.SIGTERM, _end)
    if sys.platform == "win32":
        threading.Thread(target=stop_when_asked, args=(folder,), daemon=True).start()
    write_job(folder, job)
    with suppress(OSError):  # a full disk takes no line
        print_line(f"{BEGINS}{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}")
    words = ["--config_file", str(folder.run_settings), *more]
    code = _exit_code(lambda: train(words, lambda: followers(folder)))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is being written
    state, reason = _end_of(folder, code)
    if state == "ended":
        _note_done(folder)
    with suppress(CoinageError):  # a full disk: whoever reads finds the process gone
        write_job(
            folder, replace(job, state=state, ended=time.time(), exit_code=code, reason=reason)
        )
    forget(folder, PREVIEW, SAVE, STOP)
    return code


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End the process in order when it is asked to, while no training catches the signal."""
    sys.exit(STOPPED + number)


def _exit_code(train: Callable[[], int]) -> int:
    try:
        return train()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - whatever it is, the page is to show it
        with suppress(OSError):
            print_text(traceback.format_exc(), "stderr")
            print_error(described(error))
        return 1


def _end_of(folder: WordFolder, code: int) -> tuple[State, str]:
    """Return the state that an exit code means, and the reason of a failure."""
    if code == 0:
        return "ended", ""
    if code > STOPPED:
        return "stopped", ""
    return "failed", last_error(folder.printed) or f"the training ended with exit code {code}"


def _note_done(folder: WordFolder) -> None:
    with suppress(CoinageError):
        write_json(folder.progress, {**read_json_or(folder.progress, {}), "phase": "done"})


def stop_when_asked(folder: WordFolder) -> None:
    """Wait until the page asks this process to stop, and end its training as the signal would."""
    while not is_asked(folder, STOP):
        time.sleep(LOOKS)
    signal.raise_signal(signal.SIGTERM)


def followers(folder: WordFolder) -> Followers:
    """Return what follows the training of a word: the file of its progress, and the page's requests."""
    from coinage.training.observers.base import Observer
    from coinage.training.run import Run
    from coinage.training.session import Followers
    from coinage.ui.previews import write_prompts
    from coinage.ui.progress import ProgressFile
    from coinage.ui.requests import Requests

    progress = ProgressFile(folder)

    def beside(_: Run, observers: Sequence[Observer]) -> Sequence[Observer]:
        write_prompts(folder, observers)
        return [*progress.beside(observers), Requests(folder, observers)]

    return Followers(progress.loaded, beside)


def folder_of(words: Sequence[str]) -> tuple[WordFolder, Sequence[str]]:
    """Return the word's folder that a command line names first, and the words behind it."""
    return WordFolder(Path(words[0]).absolute()), words[1:]
