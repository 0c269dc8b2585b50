"""A terminal for tests: a pseudo-terminal that stands for stderr, and what its screen shows."""

import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from coinage.cli.console import set_up_log

pty = pytest.importorskip("pty", reason="pseudo-terminals are not on Windows")
PART = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)|(.)", re.DOTALL)


class Screen:
    """What was written to a terminal."""

    def __init__(self) -> None:
        self.raw = b""
        self.encoding = "utf-8"

        self.closed = threading.Event()  # set it, and the terminal goes away

    @property
    def text(self) -> str:
        return self.raw.decode(self.encoding)

    @property
    def drawn(self) -> list[str]:
        """Everything that stood in a line at some time, without colours."""
        return [
            line.rstrip()
            for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", self.text))
            if line.strip()
        ]

    @property
    def lines(self) -> list[str]:
        """The lines at the end, on a terminal that is wide enough for all of them."""
        rows, row, column = [""], 0, 0
        for code, command, back, down, words, other in PART.findall(self.text):
            assert not other, f"a control character: {other!r}"
            if command == "A":
                row -= int(code or 1)
            elif command == "K":
                rows[row] = "" if code == "2" else rows[row][:column]
            elif command:
                assert command in "mhl", f"an unknown command: {command}"
            elif back:
                column = 0
            elif down:
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            else:
                rows[row] = (
                    rows[row].ljust(column)[:column] + words + rows[row][column + len(words) :]
                )
                column += len(words)
        return "\n".join(line.rstrip() for line in rows).rstrip().split("\n")


@contextmanager
def terminal(
    monkeypatch: pytest.MonkeyPatch,
    columns: int = 80,
    encoding: str = "utf-8",
    term: str = "xterm-256color",
) -> Iterator[Screen]:
    """Have stderr be a terminal, and our messages printed there; see what it shows after the block."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", term)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    screen = Screen()
    screen.encoding = encoding
    leader, follower = pty.openpty()

    def read() -> None:
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # Linux's way to say that it is closed
                return
            screen.raw += data
            if screen.closed.is_set():
                os.close(leader)
                return

    reader = threading.Thread(target=read)
    reader.start()
    stream = io.TextIOWrapper(
        os.fdopen(follower, "wb", buffering=0), encoding=encoding, write_through=True
    )
    before, sys.stderr = sys.stderr, stream
    try:
        set_up_log()
        yield screen
    finally:
        sys.stderr = before
        set_up_log()
        with suppress(OSError):
            stream.close()
        reader.join()
        if not screen.closed.is_set():
            os.close(leader)
