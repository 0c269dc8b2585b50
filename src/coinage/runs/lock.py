"""Two runs never write the same files: each holds a lock on its name in its folder. Imports no torch."""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coinage.config import TrainConfig
from coinage.errors import Findings
from coinage.runs.files import earlier_files, is_mixing, word_files
from coinage.system.launch import process_rank
from coinage.wording import few

log = logging.getLogger("coinage")
TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
TAKEN_BY_OTHER = "another run writes {} into this folder"
FAR = 2**20  # the byte that is locked on Windows, where what is locked cannot be read


@dataclass(slots=True)
class Lock:
    """A lock on a run's name, held until it is released or forgotten, or the process dies."""

    path: Path
    file: int | None  # None: not taken yet, or the file system has no locks
    # A copy of it in a child of that one has nothing to give free
    process: int = field(default_factory=os.getpid)

    def release(self) -> None:
        """Give the name free."""
        file, self.file = self.file, None
        if file is not None and self.process == os.getpid():
            is_ours = is_at(self.path, file)
            if os.name == "nt":  # there an open file cannot be deleted
                os.close(file)
            if is_ours:
                with suppress(OSError):
                    self.path.unlink()
            if os.name != "nt":  # closed twice, a number may be another file's by then
                os.close(file)

    def take(self, findings: Findings) -> None:
        """Take the name, if it is not held yet; another run that holds it is an error."""
        if self.file is None:
            name = self.path.name.removeprefix(".").removesuffix(".lock")
            held = _hold(self.path, findings, TAKEN_BY_OTHER.format(name))
            if held:
                self.file, held.file = held.file, None

    def __del__(self) -> None:
        self.release()


def claim(config: TrainConfig, state: Path | None, findings: Findings) -> Lock | None:
    """Take a run's name in its output folder, and warn of an earlier run's files that are in the way.

    Where the folder is not there yet, nobody holds the name, and `Lock.take` takes it later. Of several
    processes of one run, the first one does this for all.

    Args:
        config: of the run.
        state: what it goes on from; then the files are its own.
        findings: get an error where another run holds the name.

    Returns:
        The lock, to be kept for as long as the run takes.
    """
    if process_rank():
        return None
    folder, name = config.save.output_dir, config.word.output_name
    lock = _hold(folder / f".{name}.lock", findings, TAKEN_BY_OTHER.format(name))
    if lock and state is None and is_mixing(folder, name, config.state.resume):
        _warn_of_earlier(config, findings)
    return lock


def hold(path: Path) -> Lock | None:
    """Lock a file, for whoever is to be the only process that does something.

    Returns:
        The lock; None where another process has it. Where the file system knows no locks, nothing
        stands in the way.
    """
    return _hold(path, Findings(), TAKEN_BY_OTHER)


def locks_work(folder: Path) -> bool:
    """Return whether a folder's file system has locks, as far as a trial tells."""
    path = folder / f".coinage-{os.getpid()}.lock"
    lock = hold(path)
    works = lock is not None and lock.file is not None
    if lock:
        lock.release()
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return works


def _warn_of_earlier(config: TrainConfig, findings: Findings) -> None:
    folder, name = config.save.output_dir, config.word.output_name
    has_word = config.output_file in word_files(folder, name)
    others = [path.name for path in earlier_files(folder, name)]
    if not has_word and not others:
        return
    what = "an earlier run of this name has left files"
    hint = "choose another --output_name, or go on with --resume latest"
    if has_word:
        what = f"{config.output_file.name} is there already: this run replaces it at its end"
        hint = "to keep the earlier word, choose another --output_name"
    if others:
        are = "is" if len(others) == 1 else "are"
        what += f"; {few(others)} {are} kept under a number"
    findings.warn(what, str(folder), hint)


def _hold(path: Path, findings: Findings, taken: str) -> Lock | None:
    """Lock a file, or find who has; where the file system knows no locks, nothing stands in the way."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            log.debug("no lock: %s: %s", path, error.strerror)
            return Lock(path, None)
        try:
            _lock(file)
        except OSError as error:
            owner = _owner(file)
            os.close(file)
            if error.errno not in TAKEN or owner == _own_name():
                return Lock(path, None)
            process, _, host = owner.partition(" ")
            shown = f"process {process} on {host}" if host else "it"
            findings.error(
                taken,
                str(path),
                f"wait for {shown}, or end it; or choose another --output_name or --output_dir",
            )
            return None
        if is_at(path, file):
            break
        os.close(file)  # the run before has just deleted it
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.write(file, _own_name().encode(errors="replace"))
    return Lock(path, file)


def _own_name() -> str:
    """Return process and host; in containers, each machine has a process of the same number."""
    return f"{os.getpid()} {socket.gethostname()}"


def _lock(file: int) -> None:
    """Lock a file that is open, or fail at once.

    Raises:
        OSError: another process has it, or the file system has no locks.
    """
    if os.name == "nt":
        import msvcrt

        os.lseek(file, FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(file: int) -> str:
    """Return who holds a lock, as "PROCESS HOST"; "" where that cannot be read."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        return os.read(file, 300).decode(errors="replace")
    except OSError:
        return ""


def is_at(path: Path, file: int) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
