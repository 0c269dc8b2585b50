"""Print messages, lines, tables and JSON. Nothing else in the package prints.

On a terminal there is a little colour, and messages stand above whatever line is live; elsewhere it
is plain text. Whatever strangers have written (file names, captions, metadata, keys, names of
tensors) is shown with its control characters as escapes, so that no file can steer a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Self

from coinage.errors import CoinageError, Problem
from coinage.wording import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Stream = Literal["stderr", "stdout"]
GOLD = "color(178)"
LINE_BREAK = "\n"
INDENT = 8  # columns of a fact's label
STYLES = {
    "error:": "bold red",
    "warning:": "bold yellow",
    "note:": "cyan",
    "hint:": "cyan",
    "saved": "bold green",
    "works": "green",
}
FIRST_WORD = re.compile(r"\S+")
DIM = re.compile(r"note:|hint:|\s+-->")
log = logging.getLogger("coinage")
# That this thread works on, where several learn side by side
WORD: ContextVar[str] = ContextVar("word", default="")


def terminal(stream: Stream = "stderr") -> Console | None:
    """Return a console for a stream, if that is a terminal on which a line can be drawn again.

    Only then is rich imported.
    """
    file = getattr(sys, stream)
    if file is None or not file.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=stream == "stderr", highlight=False, markup=False, emoji=False)
    return console if console.is_interactive else None


def live_console() -> Console | None:
    """Return the terminal of the log, below whose messages a line may be live.

    Returns:
        None if there is no terminal, or no live line is wanted.
    """
    for handler in log.handlers:
        if isinstance(handler, Messages) and handler.live:
            return handler.console
    return None


def print_line(text: str = "", stream: Stream = "stdout", style: str = "") -> None:
    """Print one line; a line break within it is an escape, as all control characters are.

    Args:
        text: the line.
        stream: where to.
        style: of the line on a terminal, as rich names it.
    """
    print_text(visible(text), stream, style)


def print_text(text: str, stream: Stream = "stdout", style: str = "") -> None:
    """Print lines, as `print_line`; the line breaks stay, other control characters become escapes."""
    text = visible(text, keep=LINE_BREAK)
    console = terminal(stream) if style else None
    if console:
        console.print(text, style=style, soft_wrap=True)
    else:
        print(text, file=getattr(sys, stream), flush=True)


def print_json(value: Any) -> None:
    """Print plain values as JSON on stdout, in ASCII without control characters."""
    print_text(json.dumps(value, indent=1).replace("\x7f", "\\u007f"))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    least_width: int = 0,
) -> None:
    """Print a table on stdout; a cell is one line, wrapped where the terminal is narrow.

    Args:
        columns: their names.
        rows: cells, as many as columns.
        right: places of columns that are aligned at their right ends.
        least_width: that it may take, also on a narrower or unknown terminal.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in right else "left")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, least_width)
    with console.capture() as shown:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in shown.get().splitlines()))
    sys.stdout.flush()


def gap() -> None:
    """Print an empty line on the terminal of the log."""
    for handler in log.handlers:
        if isinstance(handler, Messages) and handler.live:
            handler.gap()


def fact(label: str, text: str) -> None:
    """Log something about a run, in a column beside its label."""
    log.info("%s", text, extra={"label": label})


@contextmanager
def naming(word: str) -> Iterator[None]:
    """Have warnings and errors of this thread name a word; other threads have their own."""
    token = WORD.set(word)
    try:
        yield
    finally:
        WORD.reset(token)


def message_of(record: logging.LogRecord) -> str:
    """Return a record's text; warnings and errors name the word that the calling thread works on.

    The message's own line breaks stay, and all control characters of its values are escapes.
    """
    args: Any = record.args
    if isinstance(args, Mapping):
        args = {name: _harmless(value) for name, value in args.items()}
    elif args:
        args = tuple(map(_harmless, args))
    text = str(record.msg) % args if args else str(record.msg)
    word = WORD.get() if record.levelno >= logging.WARNING else ""
    return visible(f"{word}: {text}" if word else text, keep=LINE_BREAK)


def _harmless(value: object) -> object:
    """Return a message's value, with its control characters as escapes.

    Problems and errors have lines of their own, which are escaped already.
    """
    if isinstance(value, (int, float, Problem, CoinageError)):
        return value
    text = str(value)
    return value if text.isprintable() else visible(text)


class Lines(logging.Formatter):
    """Formats warnings and errors as `warning: ...`, facts in their column, all else as it is."""

    def format(self, record: logging.LogRecord) -> str:
        if (label := _label(record)) is not None:
            return f"{label:<{INDENT}}{message_of(record)}"
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + message_of(record)


class Messages(logging.Handler):
    """Prints messages to whatever is the stream when they come.

    Attributes:
        console: where the stream is a terminal.
        live: whether progress may be shown on it.
    """

    def __init__(self, stream: Stream = "stderr", *, live: bool = True) -> None:
        super().__init__()
        self._stream: Stream = stream
        self.console = terminal(stream)
        self.live = live
        self._trouble: bool | None = None  # whether the last message was one, which stands apart
        self.setFormatter(Lines())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.console:
                self._print(record, self.console)
            else:
                print_text(self.format(record), self._stream)
        except Exception:  # noqa: BLE001 - as handlers do
            self.handleError(record)

    def gap(self) -> None:
        """Print an empty line, on a terminal."""
        self._trouble = None
        if self.console:
            with suppress(OSError):
                self.console.print()

    def _print(self, record: logging.LogRecord, console: Console) -> None:
        text = self.format(record)
        trouble = text.startswith(("warning:", "error:", "critical:", "note:"))
        if self._trouble is not None and trouble != self._trouble:
            console.print()
        self._trouble = trouble
        if record.levelno <= logging.DEBUG:
            console.print(wrapped(text, console.width, 2), style="dim", soft_wrap=True)
        else:
            console.print(styled(text, console.width, _label(record)), soft_wrap=True)


class WarningCollector(logging.Handler):
    """Collects warnings while it is in use as a context, each text once.

    Attributes:
        texts: so far, those that were there already first.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        super().__init__(logging.WARNING)
        self._texts = dict.fromkeys(texts)

    @property
    def texts(self) -> list[str]:
        return list(self._texts)

    def emit(self, record: logging.LogRecord) -> None:
        self._texts[message_of(record)] = None

    def __enter__(self) -> Self:
        logging.getLogger("coinage").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("coinage").removeHandler(self)


def _label(record: logging.LogRecord) -> str | None:
    return getattr(record, "label", None)


def print_error(text: str) -> None:
    """Print on stderr why a command ends; if nothing can be written, the exit code must do."""
    text = f"error: {visible(text, keep=LINE_BREAK)}"
    with suppress(OSError, ValueError):
        if console := terminal():
            console.print(styled(text, console.width), soft_wrap=True)
        else:
            print_text(text, "stderr")


def print_result(text: str) -> None:
    """Write a command's result to stdout, unless nobody reads it."""
    with suppress(OSError, ValueError):
        print_line(text)


def settle_streams() -> None:
    """Drop what stdout or stderr does not take, for which Python would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def styled(text: str, width: int, label: str | None = None) -> Text:
    """Return a message for a terminal, broken between words and coloured.

    Its first word is coloured, hints and facts' labels are dimmed. An indented line is there to be
    copied, and stays whole.
    """
    from rich.text import Text

    shown = []
    for line in text.split("\n"):
        copied = line.startswith(" ") and label is None
        whole = Text(line if copied else wrapped(line, width, 2 if label is None else INDENT))
        if DIM.match(line):
            whole.stylize("dim")
        if label is not None:
            whole.stylize("dim", 0, INDENT)
        elif word := FIRST_WORD.search(line):
            tool = line.startswith("  ") and word[0].endswith(":")
            whole.stylize("dim" if tool else STYLES.get(word[0], ""), *word.span())
        shown.append(whole)
    return Text("\n").join(shown)


def wrapped(line: str, width: int, indent: int) -> str:
    """Return a line broken between words, with the lines after the first one indented.

    What does not fit into a line, such as a path, is left to the terminal.
    """
    first, *words = line.split(" ")
    lines = [first]
    for word in words:
        begun = len(lines) > 1 or " " in lines[0].strip()  # one word alone looks lost
        if begun and len(lines[-1]) + len(word) >= width >= len(word) + indent:
            lines.append(" " * indent + word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)
