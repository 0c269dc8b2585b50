"""Small text files that others have written: read within bounds, and every way to be broken is one clear error.

Imports no torch.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from coinage.errors import CoinageError

MEGABYTE = 2**20
MOST_BYTES = 16 * MEGABYTE  # of settings; ten thousand captions in one metadata file are 2 MB
SAVE = "save it as UTF-8 in your editor"
SLASHES = r"in paths use forward slashes, C:/Users/me, or single quotes: 'C:\Users\me'"
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Python's own words for a number of too many digits name a function that users do not have.
TOO_LONG = re.compile(r"Exceeds the limit \(\d+ digits\)")


def is_file(path: Path | str) -> bool:
    """Return whether a regular file is there; a name that no file can have is none, where pathlib raises an error."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def is_folder(path: Path | str) -> bool:
    """Return whether a folder is there; as `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112 - see above


def is_there(path: Path | str) -> bool:
    """Return whether anything of that name is there; as `is_file`."""
    return os.path.exists(path)  # noqa: PTH110 - see above


def no_file(path: Path | str) -> str:
    """Return why a path is not one of a regular file, as a user is told."""
    return (
        "this is a folder, not a file"
        if is_folder(path)
        else "this is not a file"
        if is_there(path)
        else "file not found"
    )


def read_text(path: Path, name: str = "", most: int = MOST_BYTES) -> str:
    """Read a text file: UTF-8, or UTF-16 with its mark, as PowerShell writes it.

    Args:
        path: of a regular file; devices and pipes are refused, since reading them may never end.
        name: what the file is to the user, such as "--config_file"; errors begin with it.
        most: bytes that are read at most.

    Raises:
        CoinageError: it is missing, no regular file, too large, or not text.
    """
    prefix = f"{name}: " if name else ""
    data = read_limited(path, name, most)
    try:
        return decoded(data)
    except UnicodeError as error:
        raise CoinageError(f"{prefix}{error}", str(path), SAVE) from None


def decoded(data: bytes) -> str:
    """Return text of UTF-8, or of UTF-16 with its mark.

    Raises:
        UnicodeError: it is neither, in words for the user. Every second byte of UTF-16 without a mark is null, which
            UTF-8 takes for a character.
    """
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    what = "the file is not text in UTF-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" not in data[:64]:
            raise UnicodeError(
                f"{what}: byte 0x{data[error.start]:02x} at position {error.start}"
            ) from None
        text = "\0"
    if "\0" in text:
        raise UnicodeError(f"{what}: it looks like UTF-16, or is not text at all")
    return text


def read_limited(path: Path, name: str = "", most: int = MOST_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes; arguments and errors as those of `read_text`."""
    prefix = f"{name}: " if name else ""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat() is the same, and pathlib hides ValueError elsewhere
        if stat.S_ISDIR(mode):
            raise CoinageError(f"{prefix}this is a folder, not a file", str(path))
        if not stat.S_ISREG(mode):
            raise CoinageError(
                f"{prefix}this is not a regular file",
                str(path),
                "give a file, not a device or a pipe",
            )
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise CoinageError(f"{prefix}file not found", str(path)) from None
    except OSError as error:
        raise CoinageError(f"{prefix}cannot read the file: {error.strerror}", str(path)) from None
    except ValueError:  # a null character in its name
        raise CoinageError(f"{prefix}file not found", str(path)) from None
    if len(data) > most:
        raise CoinageError(
            f"{prefix}the file is too large: more than {most // MEGABYTE or most / MEGABYTE:.3g} MB",
            str(path),
        )
    return data


def read_toml(path: Path, name: str = "", most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a TOML file; arguments as those of `read_text`.

    Raises:
        CoinageError: it cannot be read, or is no TOML; a backslash that TOML takes for an escape gets a hint.
    """
    text = read_text(path, name, most)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = SLASHES if "\\" in _line_of(text, error) else ""
        raise CoinageError(
            f"{name + ': ' if name else ''}{_reason(error)}", str(path), hint
        ) from None


def read_json(path: Path, name: str = "", most: int = MOST_BYTES) -> Any:
    """Read a JSON file; arguments as those of `read_text`.

    Raises:
        CoinageError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path, name, most))
    except (ValueError, RecursionError) as error:
        raise CoinageError(f"{name + ': ' if name else ''}{_reason(error)}", str(path)) from None


def at_home(path: str) -> str:
    """Return a path with the home folder for a leading `~`, as shells put it; a folder of that name wins."""
    if not path.startswith("~") or os.path.lexists(path.split("/", maxsplit=1)[0]):
        return path
    return os.path.expanduser(path)  # noqa: PTH111 - takes a user that is not there


def path_problem(path: str) -> str:
    """Return why nothing can be at a path, or "": a backslash made a tab in it, or it is too long."""
    if os.path.lexists(path):
        return ""
    if CONTROL.search(path):
        return "the path holds a tab, a newline or another control character"
    try:
        os.lstat(path)
    except OSError as error:
        return "the path is too long" if error.errno == errno.ENAMETOOLONG else ""
    return ""


def _line_of(text: str, error: Exception) -> str:
    """The line that a parser complains of; the whole text where it names none."""
    found = re.search(r"at line (\d+)", str(error))
    lines = text.split("\n")
    return lines[min(int(found[1]), len(lines)) - 1] if found else text


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the file is nested too deeply"
    if TOO_LONG.match(str(error)):
        return "the file has a number with too many digits"
    kind = "JSON" if isinstance(error, json.JSONDecodeError) else "TOML"
    return f"the file is not valid {kind}: {error}"
