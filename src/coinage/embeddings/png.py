"""Embeddings that AUTOMATIC1111 hides in pictures: JSON of its dictionary, as text or in the pixels."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from coinage.embeddings.pixels import MOST_FILE_BYTES, hidden_text
from coinage.errors import EmbeddingFileError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"sd-ti-embedding"
MOST_TEXT_BYTES = 4 * 2**20  # 75 vectors of SD 2 have 2.3 MB
MOST_CHUNKS = 100_000
PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"IDAT")
END = b"\0\0\0\0IEND\xaeB`\x82"
NOT_READ = "the text of its picture is not an embedding"
LOST = "pictures lose it when they are edited, or sent by a service that writes them anew"


def read_png(stream: BinaryIO) -> Any:
    """Return the dictionary in a PNG's text, or in its pixels if that text was lost; tensors are float32.

    Raises:
        EmbeddingFileError: there is none, or it is broken.
    """
    drawn: list[tuple[int, int]] = []  # start and length of what makes the picture
    for kind, length in _chunks(stream):
        if kind in PICTURE_CHUNKS:
            drawn.append((stream.tell() - 8, length + 12))
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        head = stream.read(min(length, len(KEYWORD) + 1))
        if head != KEYWORD + b"\0":
            continue
        if length > MOST_TEXT_BYTES:
            raise EmbeddingFileError("the text of its picture is far larger than an embedding's")
        rest = stream.read(length - len(head))
        if zlib.crc32(kind + head + rest).to_bytes(4, "big") != stream.read(4):
            raise EmbeddingFileError(
                "the text of its picture is broken", hint="download or copy it again"
            )
        return _decoded(_text(kind, rest))
    text = hidden_text(_picture(stream, drawn), "PNG")
    if text is None:
        raise EmbeddingFileError("this PNG contains no embedding", hint=LOST)
    return _from_json(text)


def read_webp(stream: BinaryIO) -> Any:
    """Return the dictionary in a WebP picture's pixels; tensors are float32.

    Raises:
        EmbeddingFileError: there is none.
    """
    text = hidden_text(stream.read(MOST_FILE_BYTES + 1), "WEBP")
    if text is None:
        raise EmbeddingFileError(
            "this WebP picture contains no embedding", hint=f"{LOST}; give the PNG file"
        )
    return _from_json(text)


def _picture(stream: BinaryIO, parts: list[tuple[int, int]]) -> bytes:
    """Return the PNG with only the chunks that make the picture; b"" if it is too large."""
    if sum(length for _, length in parts) > MOST_FILE_BYTES:
        return b""
    chunks = [SIGNATURE]
    for start, length in parts:
        stream.seek(start)
        chunks.append(stream.read(length))
    return b"".join([*chunks, END])


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield type and length of each chunk, with the stream at its data."""
    at = len(SIGNATURE)
    for _ in range(MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        (length,) = struct.unpack(">I", head[:4])
        at += length + 12
        yield head[4:], length


def _text(kind: bytes, rest: bytes) -> bytes:
    """Return the text of a chunk after its keyword, unpacked up to a limit."""
    if kind == b"tEXt":
        return rest
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        # Behind flags, language, keyword
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    if not packed:
        return rest
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(rest, MOST_TEXT_BYTES)
    except zlib.error:
        raise EmbeddingFileError(
            "the text of its picture is broken", hint="download or copy it again"
        ) from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise EmbeddingFileError(
            "the text of its picture is far larger than an embedding's, or cut off"
        )
    return text


def _decoded(text: bytes) -> Any:
    try:
        return _from_json(base64.b64decode(text, validate=True))
    except ValueError:
        raise EmbeddingFileError(NOT_READ) from None


def _from_json(text: bytes) -> Any:
    try:
        return json.loads(text, object_hook=_tensor)
    except (ValueError, RecursionError):
        raise EmbeddingFileError(NOT_READ) from None


def _tensor(item: dict[str, Any]) -> Any:
    if "TORCHTENSOR" not in item:
        return item
    try:
        return torch.tensor(item["TORCHTENSOR"], dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        raise EmbeddingFileError(
            "the text of its picture holds something else where a tensor should be"
        ) from None
