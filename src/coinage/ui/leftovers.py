"""Remove what a server has left that was killed while it received or wrote a file. Imports no torch."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from coinage.ui.workspace import Workspace

LEFT = re.compile(r"\..+\.(upload|tmp)")
OLD = 3600.0  # seconds; a younger one may be another server's at work


@asynccontextmanager
async def sweeping(workspace: Workspace) -> AsyncIterator[None]:
    """Remove old leftovers once, beside what the server does first."""
    task = asyncio.create_task(asyncio.to_thread(sweep, workspace))
    yield
    await task


def sweep(workspace: Workspace) -> None:
    """Remove files of the page that were never finished, an hour after they were begun."""
    before = time.time() - OLD
    for folder in _folders(workspace):
        with suppress(OSError):
            for path in folder.iterdir():
                if LEFT.fullmatch(path.name) and path.lstat().st_mtime < before:
                    path.unlink(missing_ok=True)


def _folders(workspace: Workspace) -> Iterator[Path]:
    """Yield the folders that the page receives and writes files in."""
    yield workspace.own
    for place in (workspace.words, workspace.files):
        with suppress(OSError):
            for folder in place.iterdir():
                if folder.is_dir() and not folder.is_symlink():
                    yield folder
    for word_id in workspace.word_ids():
        for name in ("images", "masks", "thumbs"):
            folder = workspace.words / word_id / name
            if not folder.is_symlink():
                yield folder
