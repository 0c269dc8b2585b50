"""Embedding files of every tool, read without running anything. `formats.py` lists their layouts."""

from __future__ import annotations

import logging
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch

from coinage.embeddings.formats import recognise
from coinage.embeddings.layouts import (
    BUNDLE_KEY,
    IN_A_LORA,
    ONLY_OUTPUT,
    RETRAIN,
    Recognised,
    quoted,
    why_not_embedding,
)
from coinage.embeddings.pickles import read_pickle
from coinage.embeddings.png import SIGNATURE, read_png, read_webp
from coinage.embeddings.vectors import gather, is_zero
from coinage.embeddings.word import Word
from coinage.errors import EmbeddingFileError, Problem
from coinage.wording import counted

log = logging.getLogger("coinage")
MEGABYTE = 2**20
MOST_BYTES = 256 * MEGABYTE
LARGE_BYTES = 32 * MEGABYTE
MOST_HEADER_BYTES = 4 * MEGABYTE  # of a safetensors file; thumbnails are in it
MOST_TENSORS = 1000  # XTI files have 16
OTHER_FILES = {  # what is found where an embedding should be: what it is, and what to do
    b"<": ("a web page, not an embedding", "the download failed, or needs a login"),
    b"version https://git-lfs": ("a pointer to the file, not the file", "run `git lfs pull`"),
    b"\x1f\x8b": ("a gzip archive", "unpack it first"),
    b"Rar!": ("a RAR archive", "unpack it first"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it first"),
    b"\xff\xd8\xff": ("a JPEG picture", "AUTOMATIC1111's embeddings in pictures are PNG files"),
}
# Of a LoRA's header, what is true of the words in it as well
LORA_METADATA = ("ss_base_model_version", "ss_v2", "ss_sd_model_name", "ss_sd_model_hash")
# Keys of AUTOMATIC1111's dictionary about the model, and their names in headers
WEBUI_METADATA = {"sd_checkpoint": "ss_sd_model_hash", "sd_checkpoint_name": "ss_sd_model_name"}
MADE_BY_WEBUI = "AUTOMATIC1111 makes such words if no initialization text is given"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, before its layout is recognised.

    Attributes:
        content: tensors, and whatever else, as they were stored.
        metadata: of a safetensors header.
        kind: "safetensors", "image" or "pickle".
    """

    content: Any
    metadata: Mapping[str, str]
    kind: str


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """An embedding file that was read.

    Attributes:
        word: with vectors [n, d] float32 under `emb_params`, or under `clip_l`, `clip_g` or both.
        layout: its id, as in `formats.FORMATS`.
        dtype: of the vectors in the file.
        notes: what was left out or is odd, a line each.
        warnings: vectors that do nothing, a line for each text encoder.
        problem: why there is no word in it that other tools could use; None if there is.
    """

    word: Word
    layout: str
    dtype: torch.dtype
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    problem: Problem | None = None

    def usable_word(self) -> Word:
        """Return the word.

        Raises:
            EmbeddingFileError: its vectors are zero, and what was learned is elsewhere.
        """
        if self.problem:
            raise EmbeddingFileError(self.problem.what, self.problem.where, self.problem.hint)
        return self.word


def read(path: Path) -> Word:
    """Read an embedding of any layout from one file.

    Returns:
        The word, with vectors [n, d] float32 under `emb_params`, or under `clip_l` and `clip_g`;
        a lone half is under its own key.

    Raises:
        EmbeddingFileError: missing, unreadable, or not an embedding.
    """
    return open_file(path).usable_word()


def open_file(path: Path, key: str | None = None, token: str | None = None) -> OpenedFile:
    """Read an embedding of any layout from one file, with what is known of the file.

    Args:
        path: the file; its content counts, not its suffix.
        key: the placeholder, word or tensor to take from a file with several.
        token: the word that is wanted: it is taken if the file is a LoRA with several words.

    Raises:
        EmbeddingFileError: missing, unreadable, not an embedding, or one must be chosen with `key`.
    """
    try:
        contents = read_contents(path)
        size = path.stat().st_size
        is_pickle = contents.kind == "pickle"
        recognised = recognise(contents.content, key, pickled=is_pickle, token=token)
        if contents.kind == "image":
            recognised = replace(recognised, layout="G")
        metadata = contents.metadata or _webui_metadata(contents.content)
        if recognised.layout == IN_A_LORA:
            metadata = {name: metadata[name] for name in LORA_METADATA if name in metadata}
        return _opened(recognised, metadata, path, size)
    except EmbeddingFileError as error:
        problem = error.problems[0]
        raise EmbeddingFileError(problem.what, str(path), problem.hint) from None
    except OSError as error:
        raise EmbeddingFileError(
            f"cannot read the embedding: {error.strerror}", str(path)
        ) from None


def log_reading(path: Path, opened: OpenedFile) -> None:
    """Log that a second file or a LoRA was read with one, and which of its vectors do nothing."""
    for note in opened.notes if opened.layout in ("D2", IN_A_LORA) else ():
        log.info("note: %s: %s", path, note)
    for warning in opened.warnings:
        log.warning("%s: %s", path, warning)


def words_in_lora(path: Path) -> list[str]:
    """Return the names of the words in a LoRA; empty for any other file, whatever is in it."""
    try:
        content = read_contents(path).content
    except (EmbeddingFileError, OSError):
        return []
    matches = map(BUNDLE_KEY.fullmatch, content if isinstance(content, dict) else ())
    return list(dict.fromkeys(match["word"] for match in matches if match))


def read_contents(path: Path) -> Contents:
    """Read what a file holds, before its layout is recognised.

    Raises:
        EmbeddingFileError: missing, unreadable, or of no known kind.
    """
    if not path.is_file():
        _refuse_no_file(path)
    with path.open("rb") as stream:
        return _contents_of(path, stream, stream.seek(0, 2))


def _refuse_no_file(path: Path) -> None:
    """Raise why there is nothing to open: opening a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except ValueError:  # a null character
        raise EmbeddingFileError("cannot read the embedding: no such file") from None
    what = "a folder" if stat.S_ISDIR(mode) else "not a file"
    raise EmbeddingFileError(f"cannot read the embedding: it is {what}")


def _contents_of(path: Path, stream: BinaryIO, size: int) -> Contents:
    stream.seek(0)
    head = stream.read(64)
    stream.seek(0)
    if head[8:9] == b"{":
        return _read_safetensors(path, stream, size)
    if size > MOST_BYTES:
        raise _too_large(size)
    if head.startswith(SIGNATURE):
        return Contents(read_png(stream), {}, "image")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Contents(read_webp(stream), {}, "image")
    if head.startswith((b"PK\3\4", b"\x80")):
        return Contents(read_pickle(path, stream, size), {}, "pickle")
    if not head:
        raise EmbeddingFileError("the file is empty")
    for start, (what, hint) in OTHER_FILES.items():
        if head.lstrip().startswith(start):
            raise EmbeddingFileError(f"not an embedding: {what}", hint=hint)
    raise EmbeddingFileError(
        "not an embedding: neither safetensors, nor torch's, nor a PNG or WebP picture"
    )


def _read_safetensors(path: Path, stream: BinaryIO, size: int) -> Contents:
    """Map tensors from the file, by name; those of a LoRA or a model stay unread, as None."""
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > size - 8:
        raise EmbeddingFileError(
            "not a valid safetensors file: its header is longer than the file",
            hint="download or copy it again",
        )
    if length > MOST_HEADER_BYTES:
        raise EmbeddingFileError(
            f"its header has {length // MEGABYTE} MB, far more than an embedding's",
            hint="is it a model?",
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors: dict[str, Any] = dict.fromkeys(names)
            for name in _names_to_read(names, size):
                tensors[name] = file.get_tensor(name)
            return Contents(tensors, file.metadata() or {}, "safetensors")
    except EmbeddingFileError:
        raise
    except Exception as error:  # noqa: BLE001 - the library and torch raise several kinds
        reason = str(error).partition("\n")[0][:200]
        raise EmbeddingFileError(f"not a valid safetensors file: {reason}") from None


def _names_to_read(names: Sequence[str], size: int) -> list[str]:
    """Return the names that may be an embedding's, not a LoRA's or a model's, of a file of `size` bytes."""
    wanted = [name for name in names if BUNDLE_KEY.fullmatch(name)]
    if not wanted:
        if size > MOST_BYTES:
            raise _too_large(size)
        wanted = [name for name in names if not why_not_embedding([name])]
    if len(wanted) > MOST_TENSORS:
        raise EmbeddingFileError(f"not an embedding: it has {len(wanted)} tensors")
    return wanted


def _too_large(size: int) -> EmbeddingFileError:
    what = f"too large for an embedding: {size // MEGABYTE} MB"
    return EmbeddingFileError(what, hint="is it a model?")


def _webui_metadata(content: Any) -> dict[str, str]:
    """Return what AUTOMATIC1111's dictionary says of the model, under the names of headers."""
    metadata = {}
    if isinstance(content, dict):
        for key, name in WEBUI_METADATA.items():
            value = content.get(key)
            if isinstance(value, str) and len(value) < 300:
                metadata[name] = value
    return metadata


def _opened(
    recognised: Recognised, metadata: Mapping[str, str], path: Path, size: int
) -> OpenedFile:
    vectors, dtype, vector_notes = gather(recognised.parts)
    notes = [*recognised.notes, *vector_notes]
    token = metadata.get("ti.token_string") or recognised.token
    if token is not None and (not token.isprintable() or len(token) > 200):
        notes.append(f"the name in it cannot be used: {quoted(token)}")
        token = None
    step_text = metadata.get("ti.step", "")
    step = recognised.step
    if step_text.isdecimal() and len(step_text) < 10:
        step = int(step_text)
    word = Word(vectors, token, step, metadata, path)
    if size > LARGE_BYTES and recognised.layout != IN_A_LORA:
        notes.append(
            f"the file has {size // MEGABYTE} MB for {counted(word.num_vectors, 'vector')}; "
            "write it again with `coinage convert`"
        )
    warnings, problem = _zero_vectors(word, recognised, path)
    return OpenedFile(word, recognised.layout, dtype, tuple(notes), warnings, problem)


def _zero_vectors(
    word: Word, recognised: Recognised, path: Path
) -> tuple[tuple[str, ...], Problem | None]:
    """Return warnings about text encoders with zero vectors only, and a problem if the word is elsewhere."""
    zero_keys = [key for key, rows in word.vectors.items() if is_zero(rows)]
    if not zero_keys:
        return (), None
    if len(zero_keys) < len(word.vectors):
        does_nothing = "are zero: the word does nothing in this text encoder"
        return tuple(f"all vectors of {key} {does_nothing}" for key in zero_keys), None
    if recognised.has_outputs:
        problem = Problem(ONLY_OUTPUT, str(path), RETRAIN)
        return (f"all its vectors are zero: {ONLY_OUTPUT}",), problem
    why = f" ({MADE_BY_WEBUI})" if recognised.layout in ("A", "G") else ""
    return (f"all its vectors are zero: the word does nothing{why}",), None
