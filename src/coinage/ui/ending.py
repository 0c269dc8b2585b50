"""End the runs with the server, where nothing outlives it: in a container. Imports no torch."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from coinage.errors import CoinageError
from coinage.ui.job import STOP, Job, ask, is_asked, read_job
from coinage.ui.processes import ask_to_stop
from coinage.ui.workspace import NotFoundError, WordFolder, Workspace

LOOKS = 0.2  # seconds between looks whether the runs have ended


def ask_runs(workspace: Workspace) -> list[str]:
    """Ask every run at work to stop with all saved, once; return the ids of their words."""
    at_work = []
    for word_id in workspace.word_ids():
        with suppress(NotFoundError):  # deleted just now
            folder = workspace.word(word_id)
            job = read_job(folder)
            if job.at_work:
                at_work.append(word_id)
                _ask_once(folder, job)
    return at_work


def _ask_once(folder: WordFolder, job: Job) -> None:
    process = job.known_process
    if process is None or is_asked(folder, STOP):  # it has not said yet who it is, or knows
        return
    with suppress(CoinageError):  # a full disk: the signal suffices
        ask(folder, STOP)
    ask_to_stop(process)


async def runs_ended(workspace: Workspace) -> None:
    """Wait until no run is at work; those that have begun meanwhile are asked, too."""
    while await asyncio.to_thread(ask_runs, workspace):  # noqa: ASYNC110 - in processes of their own
        await asyncio.sleep(LOOKS)
