"""Print messages on stderr and errors as blocks, and return exit codes, for all commands."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from coinage.errors import CoinageError, ConfigError
from coinage.system.full_memory import full_memory, is_full
from coinage.system.launch import process_rank, wait_asleep
from coinage.terminal.messages import (
    Lines,
    Messages,
    print_error,
    print_line,
    print_text,
    settle_streams,
)

INTERRUPTED = 130
READER_LEFT = 141  # as a shell reports SIGPIPE
LAUNCHER_PATIENCE = 5.0  # seconds, for a launcher to end this process


class _File(logging.FileHandler):
    """A log file; what the disk does not take goes to stderr, after one warning."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="w", encoding="utf-8", errors="backslashreplace")
        self.setFormatter(Lines())
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self._failed:
            print_text(self.format(record), "stderr")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the library's name
        if not self._failed:
            print_line(f"warning: cannot write the log file: {self.baseFilename}", "stderr")
        self._failed = True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _in_a_thread(failed: threading.ExceptHookArgs) -> None:
    """Log one line about a library's thread that failed; ours hand their errors on."""
    name = failed.thread.name if failed.thread else "a thread"
    logging.getLogger("coinage").warning("%s failed: %s", name, failed.exc_value)


def set_up_log(
    level: str = "INFO", file: Path | None = None, *, simple: bool = False, live: bool = True
) -> None:
    """Print our messages to stderr, and what a console cannot show as an escape.

    Args:
        level: the least that is printed.
        file: where to instead, written anew; errors that end a run still go to stderr.
        simple: print to stdout.
        live: whether progress may be shown on a terminal.

    Raises:
        CoinageError: the file cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    threading.excepthook = _in_a_thread
    # On damaged metadata, which is then not used
    warnings.filterwarnings("ignore", module=r"PIL\.")
    messages = Messages("stdout" if simple else "stderr", live=live and process_rank() == 0)
    handlers: list[logging.Handler] = [messages]
    if file and process_rank() == 0:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_File(file))
        except OSError as error:
            what = f"--console_log_file: cannot write there: {error.strerror}"
            raise CoinageError(what, str(file)) from None
        messages.setLevel(logging.CRITICAL + 1)  # only what is live is shown there
    log = logging.getLogger("coinage")
    for older in log.handlers:
        older.close()
    log.handlers = handlers
    # The first process speaks for all
    shown = logging.getLevelName(level) if process_rank() == 0 else logging.ERROR
    for handler in handlers:
        handler.setLevel(max(handler.level, shown))
    log.setLevel(min(shown, logging.WARNING))  # the report shows warnings that are not printed
    log.propagate = False


@contextlib.contextmanager
def _log_lent() -> Iterator[None]:
    """Give the log back as it was: a command may be one call among others of a Python process."""
    log, hook = logging.getLogger("coinage"), threading.excepthook
    handlers, level, propagate = log.handlers, log.level, log.propagate
    log.handlers = []
    try:
        yield
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers, log.level, log.propagate = handlers, level, propagate
        threading.excepthook = hook


def exit_code_of(action: Callable[[], None]) -> int:
    """Run a command and return its exit code.

    It is 0 if the command is done, 1 if it failed, 2 for wrong usage, 130 if it was interrupted,
    141 if nobody reads its output. A user's error is one block per problem, without a traceback.
    """
    # At its end Python looks for garbage among all that the libraries have made; nobody needs that
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    wait_asleep()
    with _log_lent():
        set_up_log()
        return _exit_code_of(action)


def _exit_code_of(action: Callable[[], None]) -> int:
    try:
        action()
    except CoinageError as error:
        if process_rank() and isinstance(error, ConfigError):
            # Wrong input is wrong in all processes; give the first one time to report it
            time.sleep(LAUNCHER_PATIENCE)
            return error.exit_code
        for problem in error.problems:
            print_error(str(problem))
        return error.exit_code
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
        print_error(str(full_memory(error)))
        return CoinageError.exit_code
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print_line("interrupted", "stderr")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        return READER_LEFT
    finally:
        settle_streams()
    return 0
