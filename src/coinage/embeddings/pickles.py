"""Pickles of torch: followed before they are loaded, and loaded without running their code."""

from __future__ import annotations

import io
import struct
import threading
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from coinage.embeddings.pickle_check import MOST_PICKLE_BYTES, RESAVE, Pickled, follow
from coinage.errors import EmbeddingFileError

MAGIC = 0x1950A86A20F9469CFC6C  # opens a file of torch before 1.6, in a pickle of its own
LEAST_MAPPED_BYTES = 16 * 2**20  # of a file that is mapped
MOST_BYTES_AT_ONCE = 128 * 2**20  # of a file that cannot be mapped
MOST_DIRECTORY_BYTES = 2**20  # of a zip: an embedding's has a few hundred
# Sizes of the last three parts of a zip
END_BYTES, LOCATOR_BYTES, END64_BYTES = 22, 20, 56
DOWNLOAD_AGAIN = "download or copy it again"
LONG_PICKLE = "its pickle is far larger than an embedding's"
IS_IT_A_MODEL = "is it a model or a LoRA?"
_lock = threading.Lock()


class ParameterDict:
    """A stand-in for torch's ParameterDict, whose own code must not run: it only stores its state."""

    __module__ = "torch.nn.modules.container"  # torch finds it under this name

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.state = state


def read_pickle(path: Path, stream: BinaryIO, size: int) -> Any:
    """Load what torch saved in a zip or, before 1.6, as a sequence of pickles.

    Args:
        path: the file.
        stream: the open file, at its start.
        size: of the file, in bytes.

    Raises:
        EmbeddingFileError: broken, or it asks for what no embedding needs.
    """
    is_zip = stream.read(4) == b"PK\3\4"
    # Mapped, a few rows of a large table take no more memory than they are. Torch maps only zips
    # that it opens itself, and takes a file of this suffix for safetensors.
    mapped = is_zip and size > LEAST_MAPPED_BYTES and path.suffix != ".safetensors"
    if size > MOST_BYTES_AT_ONCE and not mapped:
        hint = "give it the suffix .pt" if is_zip else RESAVE
        raise EmbeddingFileError(
            f"too large to be read in this form: {size // 2**20} MB", hint=hint
        )
    pickled = _follow_zip(stream, size) if is_zip else _follow_legacy(stream, size)
    stream.seek(0)
    source = str(path) if mapped else stream
    # The lock: while one thread leaves the context, another must not lose the class.
    with _lock, _allowed_classes(pickled):
        try:
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
        except UnpicklingError:
            reason = "its unpickler refuses it"
        except Exception as error:  # noqa: BLE001 - torch raises anything on a file that is broken
            reason = " ".join(str(error).partition(". ")[0][:150].split())
    raise EmbeddingFileError(f"torch cannot load it: {reason}", hint=DOWNLOAD_AGAIN)


def _allowed_classes(pickled: Pickled) -> AbstractContextManager[None]:
    """Return a context in which torch loads the classes that a pickle may need."""
    if not pickled.has_parameter_dict:
        return nullcontext()
    return torch.serialization.safe_globals([ParameterDict])


def _follow_zip(stream: BinaryIO, size: int) -> Pickled:
    """Follow the pickle of a zip, and compare what it needs with what is there."""
    _check_directory(stream, size)
    try:
        with zipfile.ZipFile(stream) as archive:
            records = _records(archive, size)
            pickled = follow(io.BytesIO(archive.read(records["data.pkl"])))
    except EmbeddingFileError:
        raise
    except Exception:  # noqa: BLE001 - zipfile raises anything on a zip that is broken
        raise EmbeddingFileError("its zip is broken", hint=DOWNLOAD_AGAIN) from None
    for name, storage in pickled.storages.items():
        record = records.get(f"data/{name}")
        if record is None or record.file_size != storage.nbytes:
            raise EmbeddingFileError(
                "its pickle and its data do not fit together", hint=DOWNLOAD_AGAIN
            )
    return pickled


def _check_directory(stream: BinaryIO, size: int) -> None:
    """Refuse a zip whose directory is large, or where two readers might find different ones.

    Those are this reader and torch's.
    """
    stream.seek(max(0, size - END_BYTES - LOCATOR_BYTES - END64_BYTES))
    tail = stream.read()
    if len(tail) < END_BYTES or tail[-END_BYTES:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise EmbeddingFileError(
            "its zip is cut off, or has something behind its end", hint=DOWNLOAD_AGAIN
        )
    length, start = struct.unpack("<II", tail[-10:-2])
    after = END_BYTES
    if (
        tail[-END_BYTES - LOCATOR_BYTES :].startswith(b"PK\6\7")
        and len(tail) == END_BYTES + LOCATOR_BYTES + END64_BYTES
    ):
        length, start = struct.unpack("<QQ", tail[40:56])
        after = len(tail)
        if (
            tail[:4] != b"PK\6\6"
            or struct.unpack("<Q", tail[END64_BYTES + 8 : END64_BYTES + 16])[0] != size - after
        ):
            raise EmbeddingFileError("its zip is broken", hint=DOWNLOAD_AGAIN)
    if start + length != size - after:
        raise EmbeddingFileError("its zip is broken", hint=DOWNLOAD_AGAIN)
    if length > MOST_DIRECTORY_BYTES:
        raise EmbeddingFileError(
            "its zip has far more records than an embedding's", hint="is it a model?"
        )


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the records of torch's zip by name.

    Raises:
        EmbeddingFileError: torch does not write such a zip: compressed, encrypted, a record twice.
    """
    every = archive.infolist()
    if not all(_is_stored(info) for info in every):
        raise EmbeddingFileError(
            "its zip is compressed, as torch never writes one",
            hint="unpack it, and zip it again without compression",
        )
    if any(info.flag_bits & 1 for info in every):
        raise EmbeddingFileError("its zip is encrypted")
    names = {info.filename.lower() for info in every}
    total_bytes = sum(info.file_size for info in every)
    if len(names) < len(every) or total_bytes > size:
        raise EmbeddingFileError(
            "its zip is broken: records of one name, or of more bytes than the file",
            hint=DOWNLOAD_AGAIN,
        )
    root = every[0].filename.partition("/")[0] if every else ""
    records = {}
    for info in every:
        if info.filename.startswith(f"{root}/"):
            records[info.filename.removeprefix(f"{root}/")] = info
    if "data.pkl" not in records or len(records) < len(every):
        raise EmbeddingFileError(
            "a zip, but not one that torch wrote",
            hint="unpack it, and give the embedding that is in it",
        )
    if records["data.pkl"].file_size > MOST_PICKLE_BYTES:
        raise EmbeddingFileError(LONG_PICKLE, hint=IS_IT_A_MODEL)
    if "constants.pkl" in records:
        raise EmbeddingFileError("a TorchScript program, not an embedding")
    order = records.get("byteorder")
    if order and order.file_size < 9 and archive.read(order) == b"big":
        raise EmbeddingFileError(
            "saved on a machine with big-endian numbers", hint="save it as .safetensors there"
        )
    return records


def _is_stored(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size


def _follow_legacy(stream: BinaryIO, size: int) -> Pickled:
    """Follow the five pickles of a file of torch before 1.6.

    They are magic number, version, machine, content, and the names of the data behind them.
    """
    stream.seek(0)
    head = io.BytesIO(stream.read(MOST_PICKLE_BYTES))
    try:
        _follow_magic_number(head)
        follow(head)  # the version
        follow(head)  # the machine
        pickled = follow(head)
        names = follow(head).value
    except EmbeddingFileError:
        if size > MOST_PICKLE_BYTES and not head.read(1):
            raise EmbeddingFileError(LONG_PICKLE, hint=IS_IT_A_MODEL) from None
        raise
    if type(names) is not list or sorted(map(str, names)) != sorted(pickled.storages):
        raise EmbeddingFileError("its pickle and its data do not fit together", hint=DOWNLOAD_AGAIN)
    data_bytes = sum(8 + storage.nbytes for storage in pickled.storages.values())
    if head.tell() + data_bytes > size:
        raise EmbeddingFileError("cut off: a part of its data is missing", hint=DOWNLOAD_AGAIN)
    return pickled


def _follow_magic_number(head: io.BytesIO) -> None:
    if follow(head).value != MAGIC:
        raise EmbeddingFileError(
            "a pickle, but not one that torch wrote",
            hint="save its tensor with safetensors or torch.save",
        )
