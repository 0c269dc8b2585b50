"""Keep other threads and other servers from changing a file of a workspace meanwhile. Imports no torch."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from coinage.errors import CoinageError
from coinage.runs.lock import Lock, hold

PATIENCE = 5.0  # seconds that a change waits for another server's
LOOKS = 0.01  # seconds between looks meanwhile


class Alone:
    """What one thread of one process holds at a time; the one that holds it may take it again.

    Args of the constructor:
        path: of the file that other processes see.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._held: Lock | None = None
        self._depth = 0

    def __enter__(self) -> None:
        """Wait until nobody else holds it.

        Raises:
            CoinageError: another server holds it for longer than any change takes.
        """
        self._threads.acquire()
        try:
            if self._depth == 0:
                self._held = _waited_for(self._path)
        except BaseException:
            self._threads.release()
            raise
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._held:
            self._held.release()
            self._held = None
        self._threads.release()


def _waited_for(path: Path) -> Lock:
    end = time.monotonic() + PATIENCE
    while (lock := hold(path)) is None:
        if time.monotonic() > end:
            what = "another server of this workspace does not finish a change"
            raise CoinageError(what, hint="try again")
        time.sleep(LOOKS)
    return lock
