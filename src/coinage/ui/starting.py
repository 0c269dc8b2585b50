"""Start the runs of words: each in a process of its own, which outlives the server. Imports no torch."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from coinage.errors import CoinageError
from coinage.system.nvidia import card_numbers
from coinage.ui.job import PREVIEW, SAVE, STOP, Job, forget, read_job, write_job
from coinage.ui.processes import start
from coinage.ui.queue import Entry, Queue
from coinage.ui.workspace import NotFoundError, WordFolder, Workspace

log = logging.getLogger("coinage")
TICK = 1.0  # seconds between looks at the queue


def words_of(folder: WordFolder, entry: Entry) -> list[str]:
    """Return the command that trains a word: a program and its arguments, for no shell."""
    command = [sys.executable, "-m", "coinage.cli.job", str(folder.path)]
    if entry.resume:
        command += ["--resume", "latest"]
    if entry.steps is not None:
        command += ["--max_train_steps", str(entry.steps)]
    return command


def start_run(workspace: Workspace, folder: WordFolder, entry: Entry, device: str = "") -> None:
    """Start the process that trains a word; if that fails, its job says why.

    Args:
        workspace: in whose folder it works.
        folder: of the word.
        entry: how to start.
        device: number of the GPU that it gets for itself; "" for whatever there is.

    Raises:
        CoinageError: the job cannot be written.
    """
    now = time.time()
    since = read_job(folder).since if entry.resume else now
    job = Job(state="starting", started=now, since=since or now, device=device)
    write_job(folder, job)
    forget(folder, PREVIEW, SAVE, STOP)
    folder.progress.unlink(missing_ok=True)
    more = {"CUDA_VISIBLE_DEVICES": device} if device else {}
    try:
        start(words_of(folder, entry), workspace.root, folder.printed, more)
    except OSError as error:
        reason = f"the process could not be started: {error.strerror}"
        write_job(folder, Job(state="failed", since=since, started=now, ended=now, reason=reason))


@asynccontextmanager
async def starting(queue: Queue, before: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Start the runs of the queue whenever they may begin, while the server runs.

    Args:
        queue: of the workspace.
        before: called before a run is started, to give the GPU free.
    """
    task = asyncio.create_task(_keep_starting(queue, before))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        queue.close()


async def _keep_starting(queue: Queue, before: Callable[[], Awaitable[None]]) -> None:
    queue.devices = await asyncio.to_thread(find_devices)
    while True:
        try:
            await start_due(queue, before)
        except (CoinageError, OSError) as error:  # such as a full disk, which may have room again
            log.warning("the queue waits: %s", error)
        await asyncio.sleep(TICK)


async def start_due(queue: Queue, before: Callable[[], Awaitable[None]]) -> list[str]:
    """Start the runs that may begin now, and return the ids of their words."""
    due = queue.due()
    if due:
        await before()
    begun = []
    for word_id, entry, device in due:
        with suppress(NotFoundError):  # deleted just now
            start_run(queue.workspace, queue.workspace.word(word_id), entry, device)
            queue.started(word_id)
            begun.append(word_id)
    return begun


def find_devices() -> Sequence[str]:
    """Return the numbers of the GPUs if there are several, so that each may have a run; ("",) otherwise."""
    numbers = card_numbers()
    return numbers if len(numbers) > 1 else ("",)
