"""Embeddings that AUTOMATIC1111 hides in the pixels of a picture, beside what is drawn.

The low halves of the bytes are left of the drawing, the high halves right of it, with a black column
between; each in the low half of a colour value, masked with a fixed sequence. The bytes are zlib's,
of the same JSON as in a picture's text.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
MOST_PIXELS = 2**23  # of a picture; 75 vectors of SD 2 make one of 0.7 million
MOST_FILE_BYTES = 2**25
MOST_JSON_BYTES = 2**22  # 75 vectors of SD 2 have 1.7 MB
FACTOR, ADDEND = 1664525, 1013904223  # of the sequence, a linear congruential one


def hidden_text(data: bytes, kind: str) -> bytes | None:
    """Return the JSON in a picture's pixels; None if there is none.

    Args:
        data: the picture's file.
        kind: its format, PNG or WEBP.
    """
    width, height = _sides(data, kind)
    if not 2 < width * height <= MOST_PIXELS or len(data) > MOST_FILE_BYTES:
        return None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as picture:
            return _between_black(np.asarray(picture.convert("RGB")))
    except Exception:  # noqa: BLE001 - a broken picture can raise anything
        return None


def _sides(data: bytes, kind: str) -> tuple[int, int]:
    """Return width and height of a picture before it is decoded; 0 for a lossy one, which keeps no bits."""
    if kind == "PNG" and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        return width, height
    if kind == "WEBP" and data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == "WEBP" and data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return 0, 0


def _between_black(pixels: Pixels) -> bytes | None:
    """Return the JSON in [H, W, 3] pixels: outside the first and last black columns within the border."""
    lit = pixels.min(axis=2) > 0
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    if not len(rows):
        return None
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 15
    black = np.flatnonzero(~low.any(axis=(0, 2)))
    if len(black) < 2:
        return None
    left, right = low[:, : black[0]], low[:, black[-1] + 1 :]
    if left.shape != right.shape or left.size > MOST_JSON_BYTES:
        return None
    mask = sequence(left.size) & 15
    packed = ((right.reshape(-1) ^ mask) << 4 | left.reshape(-1) ^ mask).tobytes()
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, MOST_JSON_BYTES)
    except zlib.error:
        return None
    return text if unpacker.eof else None  # what follows only fills the rows


def sequence(count: int) -> Pixels:
    """Return the first `count` numbers of the sequence that hides the bytes, 0 to 254."""
    states = np.array([ADDEND], dtype=np.uint32)  # one step from 0
    factor, addend = FACTOR, ADDEND
    while len(states) < count:
        # As many steps on as there are
        states = np.concatenate([states, states * np.uint32(factor) + np.uint32(addend)])
        factor, addend = factor * factor % 2**32, (factor + 1) * addend % 2**32
    return (states[:count] % 255).astype(np.uint8)
