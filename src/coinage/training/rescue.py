"""Save a word that its output folder does not take: in other folders, and at last on the terminal."""

from __future__ import annotations

import base64
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from coinage.embeddings.word import Word
from coinage.embeddings.writing import bytes_for
from coinage.errors import CoinageError, reason_of
from coinage.system.files import write_bytes

# A name that any file system and any shell takes
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{,63}")
COLUMNS = 76
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - one of several, and the folder made there is private


def bring_to_safety(path: Path, file: Word, error: Exception) -> CoinageError:
    """Write the last word where it can be written, and return the error that says where that is.

    Args:
        path: where it should have gone.
        file: the word.
        error: why it did not. Returned as it is where the word has numbers that cannot be written at all.
    """
    if not isinstance(error, CoinageError):
        error = CoinageError(f"cannot write the file: {reason_of(error)}", str(path))
    name, without_header = _short_name(path), replace(file, metadata={})
    data = _bytes_or_none(Path(name), file) or _bytes_or_none(Path(name), without_header)
    if data is None:
        return error
    problem = error.problems[0]
    hint = _save_somewhere(name, data) or _print(name, without_header) or problem.hint
    return CoinageError(problem.what, problem.where, hint)


def _save_somewhere(name: str, data: bytes) -> str:
    """Write a file to the first folder that takes it; returns a hint that names it, "" where none does."""
    for folder in places():
        path = _write(folder, name, data)
        if path:
            soon = " before this machine is switched off" if folder == IN_MEMORY else ""
            return f"the word is safe in {path}: copy it from there{soon}"
    return ""


def _print(name: str, file: Word) -> str:
    """Print a word as text; returns a hint that points to it, "" where no stream takes it."""
    name = Path(name).with_suffix(".safetensors").name
    if print_lines(as_text(name, bytes_for(Path(name), file))):
        return "the word is printed above as text, with commands that make a file of it"
    return ""


def places() -> Iterator[Path]:
    """Yield folders that may take a small file: of temporary files, at hand, at home, and in memory."""
    ways: list[Callable[[], str | Path]] = [
        tempfile.gettempdir,
        Path.cwd,
        Path.home,
        lambda: os.environ["XDG_RUNTIME_DIR"],
        lambda: IN_MEMORY,
    ]
    for way in ways:
        with suppress(OSError, RuntimeError, KeyError):
            folder = Path(way())
            if folder.is_absolute() and folder.is_dir():
                yield folder


def as_text(name: str, data: bytes) -> str:
    """Return a small file as text, with the commands that make a file of it again.

    Args:
        name: for the file.
        data: in it.
    """
    lines = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), COLUMNS))
    code = f"open('{name}', 'wb').write(base64.b64decode(open('word.txt', 'rb').read()))"
    return (
        "the word could not be saved in any folder, so it is printed here as text.\n"
        "Save the lines between the two rulers as word.txt, then\n"
        f"  base64 -d word.txt > {name}\n"
        "or, on any system,\n"
        f'  python -c "import base64; {code}"\n'
        f"{'-' * COLUMNS}\n{lines}\n{'-' * COLUMNS}"
    )


def print_lines(text: str) -> bool:
    """Print to stderr, or to stdout where that does not take it; returns whether one did.

    Not by the log, which may go to a file or be silent.
    """
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError, AttributeError):  # closed, full, or not there
            stream.write(text + "\n")
            stream.flush()
            return True
    return False


def _short_name(path: Path) -> str:
    """Return the file's own name, by which most tools know the word, unless it may cause the failure."""
    return path.name if PLAIN.fullmatch(path.name) else f"word{path.suffix}"


def _bytes_or_none(path: Path, file: Word) -> bytes | None:
    with suppress(Exception):  # whatever a header or a number raises
        return bytes_for(path, file)
    return None


def _write(folder: Path, name: str, data: bytes) -> Path | None:
    """Write a file in a new private folder and read it again; None, with nothing left, if that fails."""
    made = path = None
    with suppress(CoinageError, OSError):
        made = Path(tempfile.mkdtemp(prefix="coinage-", dir=folder))
        path = made / name
        write_bytes(path, data)
        if path.read_bytes() == data:
            return path
    with suppress(OSError):
        if path:
            path.unlink(missing_ok=True)
        if made:
            made.rmdir()
    return None
