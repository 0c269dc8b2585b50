"""Read small text files from strangers within bounds; whatever is wrong becomes one clear error.

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

from coinage.errors import CoinageError, ConfigError, Problem

MEGABYTE = 2**20
# Of a file of settings or metadata; ten thousand captions are 2 MB.
MOST_BYTES = 16 * MEGABYTE
SAVE_AS_UTF8 = "save it as UTF-8 in your editor"
SLASHES = r"in paths use forward slashes, C:/Users/me, or single quotes: 'C:\Users\me'"
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Python's message for a number with too many digits names a function that users do not have.
TOO_MANY_DIGITS = re.compile(r"Exceeds the limit \(\d+ digits\)")


def is_file(path: Path | str) -> bool:
    """Return whether a regular file is at a path; False for a name that no file can have.

    pathlib raises an error for such a name.
    """
    return os.path.isfile(path)  # noqa: PTH113 - see above


def is_folder(path: Path | str) -> bool:
    """Return whether a folder is at a path, as `is_file` does."""
    return os.path.isdir(path)  # noqa: PTH112 - see above


def is_there(path: Path | str) -> bool:
    """Return whether anything is at a path, as `is_file` does."""
    return os.path.exists(path)  # noqa: PTH110 - see above


def no_file(path: Path | str) -> str:
    """Return the message for a path at which no regular file is."""
    if is_folder(path):
        return "this is a folder, not a file"
    return "this is not a file" if is_there(path) else "file not found"


def read_text(path: Path, name: str = "", most: int = MOST_BYTES) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it.

    Args:
        path: of a regular file; devices and pipes are refused, since reading may never end.
        name: of the option that gave the path, such as "--config_file"; errors begin with it.
        most: the largest size that is read, in bytes.

    Raises:
        CoinageError: the file is missing, not a regular file, too large, or not text.
    """
    prefix = f"{name}: " if name else ""
    data = read_limited(path, name, most)
    try:
        return decoded(data)
    except UnicodeError as error:
        raise CoinageError(f"{prefix}{error}", str(path), SAVE_AS_UTF8) from None


def decoded(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UnicodeError: it is neither; the message is for the user. UTF-16 without a mark is refused
            by its null bytes, which UTF-8 takes for characters.
    """
    encoding = next(
        (encoding for mark, encoding in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8"
    )
    what = "the file is not text in UTF-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" not in data[:64]:
            wrong = f"byte 0x{data[error.start]:02x} at position {error.start}"
            raise UnicodeError(f"{what}: {wrong}") from None
        text = "\0"
    if "\0" in text:
        raise UnicodeError(f"{what}: it looks like UTF-16, or is not text at all")
    return text


def read_limited(path: Path, name: str = "", most: int = MOST_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes; arguments and errors as in `read_text`."""
    prefix = f"{name}: " if name else ""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CoinageError(f"{prefix}this is a folder, not a file", str(path))
        if not stat.S_ISREG(mode):
            hint = "give a file, not a device or a pipe"
            raise CoinageError(f"{prefix}this is not a regular file", str(path), hint)
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise CoinageError(f"{prefix}file not found", str(path)) from None
    except OSError as error:
        raise CoinageError(f"{prefix}cannot read the file: {error.strerror}", str(path)) from None
    except ValueError:  # a null character in its name
        raise CoinageError(f"{prefix}file not found", str(path)) from None
    if len(data) > most:
        limit = f"{most // MEGABYTE or most / MEGABYTE:.3g} MB"
        raise CoinageError(f"{prefix}the file is too large: more than {limit}", str(path))
    return data


def read_toml(path: Path, name: str = "", most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a TOML file; arguments as in `read_text`.

    Raises:
        CoinageError: it cannot be read, or is not TOML. A Windows path whose backslashes TOML reads
            as escapes gets a hint.
    """
    text = read_text(path, name, most)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = SLASHES if "\\" in _line_of(text, error) else ""
        prefix = f"{name}: " if name else ""
        raise CoinageError(f"{prefix}{_reason(error)}", str(path), hint) from None


def read_json(path: Path, name: str = "", most: int = MOST_BYTES) -> Any:
    """Read a JSON file; arguments as in `read_text`.

    Raises:
        CoinageError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path, name, most))
    except (ValueError, RecursionError) as error:
        prefix = f"{name}: " if name else ""
        raise CoinageError(f"{prefix}{_reason(error)}", str(path)) from None


def at_home(path: str) -> str:
    """Replace a leading `~` by the home folder, as shells do; unless a file has that name."""
    if not path.startswith("~") or os.path.lexists(path.split("/", maxsplit=1)[0]):
        return path
    return os.path.expanduser(path)  # noqa: PTH111 - pathlib raises an error for an unknown user


def as_path(value: object, name: str) -> Path:
    """Return a path that a user gave as a text or a path.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return Path(value)  # type: ignore[arg-type]
    except TypeError:
        what = f"{name}: an object of type {type(value).__name__} is not a path"
        raise ConfigError([Problem(what, hint="give a text or a pathlib.Path")]) from None


def path_problem(path: str) -> str:
    """Return why nothing can be at a path: a control character, or its length; "" otherwise.

    Control characters come from Windows paths in TOML: a backslash and a t are read as a tab.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "the path holds characters that no file name can have"
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
    """Return the line that a parser's error names; the whole text if it names none."""
    line_number = re.search(r"at line (\d+)", str(error))
    if not line_number:
        return text
    lines = text.split("\n")
    return lines[min(int(line_number[1]), len(lines)) - 1]


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the file is nested too deeply"
    if TOO_MANY_DIGITS.match(str(error)):
        return "the file has a number with too many digits"
    kind = "JSON" if isinstance(error, json.JSONDecodeError) else "TOML"
    return f"the file is not valid {kind}: {error}"
