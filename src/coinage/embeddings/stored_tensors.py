"""Tensors of safetensors files moved from file to file as bytes, whatever their dtype and size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import safetensors

from coinage.errors import CoinageError, reason_of
from coinage.system.files import cannot_write, put_in_place, temporary_of
from coinage.system.text_files import is_file, no_file

CHUNK_BYTES = 2**20
HEADER_UNIT = 8  # bytes; the body begins at a multiple of it


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a safetensors file stores it.

    Attributes:
        name: of the tensor.
        dtype: as safetensors writes it, such as F16.
        shape: its sizes.
        size: of its numbers, in bytes.
        data: its bytes, if they are in memory.
        path: else the file that holds them.
        start: where they begin in that file, in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    data: bytes | None = None
    path: Path | None = None
    start: int = 0

    @property
    def item_size(self) -> int:
        """Bytes of one number; 1 if there are none."""
        return max(1, self.size // max(1, prod(self.shape)))

    def chunks(self) -> Iterator[bytes]:
        """Return its bytes, piece by piece."""
        if self.data is not None or self.path is None:
            yield self.data or b""
            return
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left:
                chunk = file.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise CoinageError("the file became shorter while it was read", str(self.path))
                left -= len(chunk)
                yield chunk


def stored_tensors(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """Return the tensors of a safetensors file, which stay on the disk, and its metadata.

    Raises:
        CoinageError: it cannot be read, or is not such a file.
    """
    if not is_file(path):
        raise CoinageError(f"cannot read it: {no_file(path)}", str(path))
    try:
        with safetensors.safe_open(path, framework="pt"):  # which checks the header
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except Exception as error:  # noqa: BLE001 - the library raises several kinds
        what = f"not a valid safetensors file: {reason_of(error)[:200]}"
        raise CoinageError(what, str(path)) from None
    metadata = header.pop("__metadata__", None) or {}
    tensors = []
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        shape, begin = tuple(entry["shape"]), 8 + length + start
        tensors.append(
            StoredTensor(name, entry["dtype"], shape, end - start, path=path, start=begin)
        )
    return tensors, metadata


def body_digest(tensors: Iterable[StoredTensor]) -> str:
    """Return the sha256 of the body of a file with these tensors, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in _in_order(tensors):
        for chunk in tensor.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def file_digest(path: Path, start: int = 0) -> str:
    """Return the sha256 of a file's bytes from `start` on, in hexadecimal digits."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def body_start(path: Path) -> int | None:
    """Return where the body of a safetensors file begins; None for another file."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", head[:8])
    return 8 + int(length)


def write_tensors(
    path: Path, tensors: Sequence[StoredTensor], metadata: Mapping[str, str], digest: str
) -> None:
    """Write a safetensors file whole or not at all, and read it back.

    Args:
        path: of the file; missing folders are made.
        tensors: what it holds.
        metadata: of its header.
        digest: the `body_digest` of the tensors.

    Raises:
        CoinageError: it cannot be written; an older file stays.
    """
    ordered = _in_order(tensors)
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = _header(ordered, metadata)
        with temporary.open("wb") as file:
            file.write(header)
            for tensor in ordered:
                file.writelines(tensor.chunks())
            file.flush()
            os.fsync(file.fileno())
        if file_digest(temporary, len(header)) != digest:
            what, hint = "the file does not hold what was written", "choose another folder"
            raise CoinageError(what, str(path), hint)
        put_in_place(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _in_order(tensors: Iterable[StoredTensor]) -> list[StoredTensor]:
    """Return tensors in the order of the file: the widest numbers first, so that all are aligned."""
    return sorted(tensors, key=lambda tensor: (-tensor.item_size, tensor.name))


def _header(tensors: Sequence[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for tensor in tensors:
        end = start + tensor.size
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_UNIT)
    return struct.pack("<Q", len(text)) + text
