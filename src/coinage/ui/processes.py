"""Start processes that outlive this one, tell whether they still run, and end them. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STATE, STARTED = 0, 19  # places in /proc/PID/stat, behind the name
SAME_MOMENT = 0.5  # seconds that two measurements of one start may differ


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is known by more than its number, which the system gives again to others.

    Attributes:
        number: of the process.
        started: when, in seconds; on Linux since the computer was switched on, which no change of the
            clock moves, elsewhere since 1970.
    """

    number: int
    started: float


def own_process() -> Process:
    """Return this process."""
    return Process(os.getpid(), _started(os.getpid()) or 0.0)


def start(
    command: Sequence[str], folder: Path, printed: Path, more: Mapping[str, str] | None = None
) -> Process:
    """Start a command without a shell, in a session of its own, so that it outlives this process.

    Args:
        command: the program and its arguments.
        folder: in which it works.
        printed: file that gets what it prints, after what is there already.
        more: variables of its environment, beside those of this process.

    Raises:
        OSError: the program or the file cannot be opened.
    """
    with printed.open("ab") as file:
        child = subprocess.Popen(  # noqa: S603 - no shell, and our own program
            command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            close_fds=True,
            start_new_session=os.name != "nt",
            creationflags=_windows_flags(),
        )
    started = _started(child.pid) or 0.0
    # Whoever has started a process must wait for it, or its number is never given free
    threading.Thread(target=child.wait, daemon=True).start()
    return Process(child.pid, started)


def _windows_flags() -> int:
    """Return the flags for a process group without a console; 0 on other systems."""
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return 0


def is_alive(process: Process) -> bool:
    """Return whether a process still runs; another one that has its number now is none of ours."""
    started = _started(process.number)
    return started is not None and abs(started - process.started) < SAME_MOMENT


def ask_to_stop(process: Process) -> None:
    """Ask a process to end in order; nothing happens to one that is gone.

    Windows has no such signal for a process without a console: there, only a file can ask.
    """
    if os.name != "nt" and is_alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.number, signal.SIGTERM)


def kill(process: Process) -> None:
    """End a process and those it has started, at once; nothing happens to one that is gone."""
    if not is_alive(process):
        return
    with suppress(OSError):
        if sys.platform == "win32":
            os.kill(process.number, signal.SIGTERM)  # ends it at once there
        else:
            os.killpg(process.number, signal.SIGKILL)


def _started(number: int) -> float | None:
    """Return when a process was started; None where none of this number runs."""
    if not sys.platform.startswith("linux"):
        return _started_elsewhere(number)
    try:
        stat = Path(f"/proc/{number}/stat").read_bytes()
    except OSError:
        return None
    # The name stands in brackets, and may hold brackets and spaces itself
    fields = stat.rpartition(b")")[2].split()
    if fields[STATE] in (b"Z", b"X"):  # it has ended, and nobody has asked yet how
        return None
    return int(fields[STARTED]) / os.sysconf("SC_CLK_TCK")


def _started_elsewhere(number: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None
