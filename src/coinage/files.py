"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.errors import CoinageError


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        path: where to; missing folders are made.
        data: what to write.
        sync: wait until the disk has it; not needed for what can be made again and is checked when read.

    Raises:
        CoinageError: the file cannot be written; nothing is left behind and an older file stays.
    """
    if not path.name:
        raise CoinageError("this is a folder, not a file", str(path), "name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        hint = "free some space or choose another folder"
        raise CoinageError(f"cannot write the file: {error.strerror}", str(path), hint) from error


def save_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] pixels as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
