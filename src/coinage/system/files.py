"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.errors import CoinageError, reason_of

# Bytes of a name that a temporary file may repeat; some file systems take names of 143 bytes.
LONGEST_NAME = 64


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
        temporary.replace(path)
    except (OSError, ValueError) as error:  # ValueError: the system cannot write such a name
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", "") or reason_of(error)
        hint = "free some space or choose another folder"
        raise CoinageError(f"cannot write the file: {reason}", str(path), hint) from error


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
