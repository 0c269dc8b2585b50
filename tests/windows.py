"""Files as Windows treats them, on Linux: what a program has open is not replaced, renamed or deleted.

    with windows_files(), held_open(path):
        ...  # PermissionError, with the number that Windows gives

A file counts as open while one of these processes has a descriptor of it, or has it mapped into its
memory, as safetensors does. Python opens files there without leave to delete them.
"""

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ACCESS_DENIED, SHARING_VIOLATION, ALREADY_EXISTS = 5, 32, 183
HOLD = "import sys; file = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"
OTHERS: set[int] = set()
ON_WINDOWS = os.name == "nt"  # its own rules are there without us


def windows_error(number: int, path: Any) -> OSError:
    """The error that Python raises on Windows for one of the system's numbers."""
    code = errno.EEXIST if number == ALREADY_EXISTS else errno.EACCES
    error = OSError(code, os.strerror(code), os.fspath(path))
    error.winerror = number  # type: ignore[attr-defined]
    return error


def is_open(path: Any, folder: int | None = None) -> bool:
    """Whether one of the processes has a file open."""
    try:
        status = os.stat(path, dir_fd=folder)
    except OSError:
        return False
    wanted = status.st_dev, status.st_ino
    return any(wanted in opened(process) for process in (os.getpid(), *OTHERS))


def opened(process: int) -> Iterator[tuple[int, int]]:
    """Device and number of each file that a process has open."""
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            status = link.stat()
        except OSError:  # closed by now
            continue
        yield status.st_dev, status.st_ino
    for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
        device, inode = line.split()[3:5]
        if inode != "0":
            major, minor = (int(part, 16) for part in device.split(":"))
            yield os.makedev(major, minor), int(inode)


@contextmanager
def windows_files() -> Iterator[list[str]]:
    """Have the rules of Windows for a while; yields what was refused, unless Windows itself did."""
    refused: list[str] = []
    if ON_WINDOWS:
        yield refused
        return

    def check(path: Any, number: int, folder: int | None = None) -> None:
        if not os.path.isdir(path) and is_open(path, folder):  # noqa: PTH112 - bytes too
            refused.append(os.fsdecode(path))
            raise windows_error(number, path)

    def moved(real: Callable[..., None], *, replaces: bool) -> Callable[..., None]:
        def move(source: Any, target: Any, **more: Any) -> None:
            if not replaces and os.path.lexists(target):
                raise windows_error(ALREADY_EXISTS, target)
            check(source, SHARING_VIOLATION)
            check(target, ACCESS_DENIED)
            real(source, target, **more)

        return move

    def deleted(real: Callable[..., None]) -> Callable[..., None]:
        def delete(path: Any, *, dir_fd: int | None = None) -> None:
            check(path, SHARING_VIOLATION, dir_fd)
            real(path, dir_fd=dir_fd)

        return delete

    changed = {
        "replace": moved(os.replace, replaces=True),
        "rename": moved(os.rename, replaces=False),
        "unlink": deleted(os.unlink),
        "remove": deleted(os.remove),
    }
    with patch.multiple(os, **changed):
        yield refused


@contextmanager
def letters_alike() -> Iterator[None]:
    """Have files found and renamed by names in other letters, upper or lower case, for a while."""
    if ON_WINDOWS:
        yield
        return
    stat, rename = os.stat, os.rename

    def spelled(path: Any) -> Any:
        if not isinstance(path, (str, os.PathLike)) or os.path.lexists(path):
            return path
        whole = Path(path)
        alike = [p for p in whole.parent.glob("*") if p.name.casefold() == whole.name.casefold()]
        return alike[0] if alike else path

    changed = {
        "stat": lambda path, **more: stat(spelled(path), **more),
        "rename": lambda source, target, **more: rename(spelled(source), target, **more),
    }
    with patch.multiple(os, **changed):
        yield


class LikeMsvcrt:
    """The part of Python's msvcrt that locks bytes of an open file: for one opening of it alone."""

    LK_NBLCK = 2

    @staticmethod
    def locking(file: int, mode: int, count: int) -> None:
        import fcntl

        assert mode == LikeMsvcrt.LK_NBLCK
        start = os.lseek(file, 0, os.SEEK_CUR)
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, count, 0)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
        except OSError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


class LikeWindows:
    """Python's os as Windows has it, as far as names tell: for one module at a time."""

    name = "nt"

    def __getattr__(self, name: str) -> Any:
        if name in ("pathconf", "killpg", "getuid", "fork"):
            raise AttributeError(name)
        return getattr(os, name)


@contextmanager
def held_open(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another program hold a file open; it lets go at the end, or when its stdin is closed."""
    command = [sys.executable, "-S", "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        OTHERS.add(other.pid)
        try:
            yield other
        finally:
            OTHERS.discard(other.pid)
