"""How messages look: a little colour, and above whatever line is live, on a terminal; plain text everywhere else."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Stream = Literal["stderr", "stdout"]
GOLD = "color(178)"
INDENT = 8  # columns of a fact's label
STYLES = {"error:": "bold red", "warning:": "bold yellow", "note:": "cyan", "hint:": "cyan", "saved": "bold green", "checked:": "green"}
FIRST_WORD = re.compile(r"\S+")
DIM = re.compile(r"note:|hint:|\s+-->")
log = logging.getLogger("coinage")


def terminal(stream: Stream = "stderr") -> Console | None:
    """A console for what is written there, if that is a terminal on which a line can be drawn again; rich is imported only then."""
    file = getattr(sys, stream)
    if file is None or not file.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=stream == "stderr", highlight=False, markup=False, emoji=False)
    return console if console.is_interactive else None


def live_console() -> Console | None:
    """The terminal below whose messages a line may be live: that of the log; None where there is none, or none is wanted."""
    return next((handler.console for handler in log.handlers if isinstance(handler, Messages) and handler.live), None)


def gap() -> None:
    """An empty line on that terminal."""
    for handler in log.handlers:
        if isinstance(handler, Messages) and handler.live:
            handler.gap()


def fact(label: str, text: str) -> None:
    """Tell something of a run, in a column beside its label."""
    log.info("%s", text, extra={"label": label})


class Lines(logging.Formatter):
    """`warning: ...` for trouble, a fact in its column, the bare text otherwise."""

    def format(self, record: logging.LogRecord) -> str:
        if (label := _label(record)) is not None:
            return f"{label:<{INDENT}}{record.getMessage()}"
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()


class Messages(logging.Handler):
    """Prints messages as they are on a terminal or elsewhere, whatever stands for the stream then.

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
                print(self.format(record), file=getattr(sys, self._stream), flush=True)
        except Exception:  # noqa: BLE001 - as handlers do
            self.handleError(record)

    def gap(self) -> None:
        """An empty line, on a terminal."""
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


def _label(record: logging.LogRecord) -> str | None:
    return getattr(record, "label", None)


def print_error(text: str) -> None:
    """Say on stderr why a command ends."""
    console = terminal()
    if console:
        console.print(styled(f"error: {text}", console.width), soft_wrap=True)
    else:
        print(f"error: {text}", file=sys.stderr)  # noqa: T201 - the last word


def styled(text: str, width: int, label: str | None = None) -> Text:
    """A message for a terminal: broken between words, its first word coloured, hints and facts' labels dimmed.

    A line that is indented is there to be copied, and stays whole.
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
    """A line broken between words, those after the first one indented; what fits in none, such as a path, is left to the terminal."""
    first, *words = line.split(" ")
    lines = [first]
    for word in words:
        begun = len(lines) > 1 or " " in lines[0].strip()  # one word alone looks lost
        if begun and len(lines[-1]) + len(word) >= width >= len(word) + indent:
            lines.append(" " * indent + word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)
