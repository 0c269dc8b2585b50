"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import time
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.errors import CoinageError, reason_of

# Bytes of a name that a temporary file may repeat; some file systems take names of 143 bytes.
LONGEST_NAME = 64
# What Windows answers while another program has a file open: access denied, sharing violation
HELD = (5, 32)
PATIENCE = 3.0  # seconds for which others may hold a file; a virus scanner needs less than one
LOOKS = 0.05  # seconds between two attempts
HELD_BY_OTHER = "another program has it open, or it is read-only"
CLOSE_IT = "close what shows or edits it, then try again; or choose another folder"


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file; missing folders are created.
        data: the file's content.
        sync: wait until the disk holds it; not needed for files that can be made again and are
            checked when they are read.

    Raises:
        CoinageError: the file cannot be written; no part of it is left, and an older file stays.
    """
    if not path.name:
        raise CoinageError("this is a folder, not a file", str(path), "name a file")
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        put_in_place(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: the system cannot write such a name
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file its name, in place of an older file of that name.

    On Windows no file can be replaced while another program has it open, as virus scanners and
    indexers do for a moment: there it is tried again for `PATIENCE` seconds.

    Raises:
        OSError: it cannot be replaced; `cannot_write` says why.
    """
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            temporary.replace(path)
        except OSError as error:
            if not is_held(error) or time.monotonic() > give_up:
                raise
            time.sleep(LOOKS)
        else:
            return


def is_held(error: BaseException) -> bool:
    """Return whether Windows refuses something because another program has the file open.

    A file that is read-only gives the same error.
    """
    return getattr(error, "winerror", None) in HELD


def cannot_write(path: Path, error: BaseException) -> CoinageError:
    """Return what to tell of a file that cannot be written: the reason, and how to mend it."""
    if is_held(error):
        return CoinageError(f"cannot write the file: {HELD_BY_OTHER}", str(path), CLOSE_IT)
    reason = getattr(error, "strerror", "") or reason_of(error)
    hint = "free some space or choose another folder"
    return CoinageError(f"cannot write the file: {reason}", str(path), hint)


def temporary_of(path: Path) -> Path:
    """Return the path at which a file is written before it gets its name.

    It is beside the file and repeats its name, so that what a killed process leaves can be
    recognised (`runs.files`); a long name is shortened, since the disk may take none longer.
    """
    name, in_bytes = path.name, path.name.encode(errors="surrogatepass")
    if len(in_bytes) > LONGEST_NAME:
        name = f"{zlib.crc32(in_bytes):08x}"
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def save_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] pixels as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
