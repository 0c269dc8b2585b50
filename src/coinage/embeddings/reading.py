"""Embedding files of every tool, read without running anything.

Layouts, by the id that `Found.layout` gives:

| id  | written by                                   | holds                                                     |
|-----|----------------------------------------------|-----------------------------------------------------------|
| E   | sd-scripts, invoke-training (.safetensors)   | `emb_params`                                              |
| X   | the same and diffusers, for SDXL             | `clip_l`, `clip_g`                                        |
| A   | AUTOMATIC1111 (.pt)                          | `string_to_param` {"*": tensor}, `name`, `step`           |
| O   | the original code (.pt)                      | `string_to_param`, a ParameterDict                        |
| Ept | sd-scripts (.pt, .ckpt)                      | `emb_params`                                              |
| Xpt | sd-scripts, for SDXL (.pt, .ckpt)            | `clip_l`, `clip_g`, or one of them                        |
| D   | diffusers (.bin, .safetensors)               | one tensor, under the word                                |
| D2  | diffusers, for SDXL                          | two files like D                                          |
| P   | diffusers, pivotal tuning of SD 1            | one of `clip_l`, `clip_g`                                 |
| PTI | diffusers, pivotal tuning (.pti)             | `text_encoders_0`, `text_encoders_1`                      |
| OT  | OneTrainer                                   | `emp_params`, or X with `*_out` beside                    |
| B   | OneTrainer, in a LoRA                        | `bundle_emb.<word>.clip_l` and so on                      |
| L   | list                                         | [{word: tensor}, ...]                                     |
| T   | bare                                         | a tensor                                                  |
| G   | AUTOMATIC1111 (.png, lossless .webp)         | A, in a text chunk or in the pixels                       |
"""

from __future__ import annotations

import logging
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from coinage.embeddings.file import PAIR, EmbeddingFile
from coinage.embeddings.layouts import (
    BUNDLE_KEY,
    ONLY_OUTPUT,
    RETRAIN,
    Recognised,
    gather,
    not_embedding,
    recognise,
    shown,
)
from coinage.embeddings.pickles import read_pickle
from coinage.embeddings.png import SIGNATURE, read_png, read_webp
from coinage.errors import EmbeddingFileError, Problem
from coinage.models.facts import (
    KNOWN_WIDTHS,
    SDXL,
    family_of_vectors,
    fits_other_families,
)
from coinage.wording import counted

log = logging.getLogger("coinage")
MEGABYTE = 2**20
MOST_BYTES = 256 * MEGABYTE
LARGE = 32 * MEGABYTE
MOST_HEADER_BYTES = 4 * MEGABYTE  # of a safetensors file; thumbnails lie in it
MOST_TENSORS = 1000  # XTI files have 16
JOIN = "if it is one of two files that diffusers wrote: coinage convert ONE WORD.safetensors --second OTHER joins them"
ALIENS = {  # what is found where an embedding should be
    b"<": ("a web page, not an embedding", "the download failed, or needs a login"),
    b"version https://git-lfs": ("a pointer to the file, not the file", "run `git lfs pull`"),
    b"\x1f\x8b": ("a gzip archive", "unpack it first"),
    b"Rar!": ("a RAR archive", "unpack it first"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it first"),
    b"\xff\xd8\xff": ("a JPEG picture", "AUTOMATIC1111's embeddings in pictures are PNG files"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    Attributes:
        embedding: vectors [n, d] float32 under `emb_params`, or under `clip_l`, `clip_g` or both.
        layout: its id, see the table above.
        dtype: as stored.
        notes: what was left out or is odd, a line each.
        warnings: vectors that do nothing, a line for each text encoder.
        problem: why there is no word in it that other tools could use; None where there is.
    """

    embedding: EmbeddingFile
    layout: str
    dtype: torch.dtype
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    problem: Problem | None = None

    def word(self) -> EmbeddingFile:
        """Return the word.

        Raises:
            EmbeddingFileError: its vectors are nothing, and what was learned lies elsewhere.
        """
        if self.problem:
            raise EmbeddingFileError(self.problem.what, self.problem.where, self.problem.hint)
        return self.embedding

    @property
    def family(self) -> str | None:
        """Name of the family that the vectors fit, by their widths; None where they fit no known model."""
        widths = {key: rows.shape[1] for key, rows in self.embedding.vectors.items()}
        facts = family_of_vectors(widths)
        return facts.name if facts else None


def read(path: Path) -> EmbeddingFile:
    """Read an embedding of any layout.

    Returns:
        Vectors [n, d] float32 under `emb_params`, or under `clip_l` and `clip_g`; a lone half is under its own key.

    Raises:
        EmbeddingFileError: missing, unreadable, or no embedding.
    """
    return open_embedding(path).word()


def open_embedding(path: Path, *, key: str | None = None, second: Path | None = None) -> Found:
    """Read an embedding of any layout and tell what it is.

    Args:
        path: the file; its content counts, not its suffix.
        key: the placeholder, word or tensor to take from a file with several.
        second: the other file of an SDXL pair that diffusers wrote as two.

    Raises:
        EmbeddingFileError: missing, unreadable, no embedding, or one must be chosen with `key`.
    """
    first = _open_one(path, key)
    if second is not None and second.exists() and second.samefile(path):
        raise EmbeddingFileError(
            "the second file is the first one again",
            str(second),
            "name the other one of the two files",
        )
    return first if second is None else _paired(first, _open_one(second, key), f"{path}, {second}")


def open_word(path: Path) -> Found:
    """As `open_embedding`, with the other half of an SDXL word where diffusers wrote two files that lie side by side.

    Raises:
        EmbeddingFileError: missing, unreadable, or no embedding.
    """
    found = _open_one(path, None)
    other = other_half(path, found)
    if other is None:
        return found
    files = (other, path) if _is_second(path, other) else (path, other)
    paired = open_embedding(files[0], second=files[1])
    return replace(
        paired,
        notes=(f"read together with {other.name}, the other half of this SDXL word", *paired.notes),
    )


def tell(path: Path, found: Found) -> None:
    """Say that a second file is read with one, and which of its vectors are nothing."""
    for note in found.notes if found.layout == "D2" else ():
        log.info("note: %s: %s", path, note)
    for warning in found.warnings:
        log.warning("%s: %s", path, warning)


def other_half(path: Path, found: Found) -> Path | None:
    """Return the file beside one of diffusers' that holds the other half of its SDXL word, None where there is none.

    diffusers writes NAME and NAME_2, and in training NAME-steps-500 and NAME_2-steps-500; both hold one tensor under the
    word, as many vectors, of the two text encoders' widths.
    """
    if found.layout != "D":
        return None
    word = found.embedding
    for name in _other_names(path):
        other = path.with_name(name)
        try:
            beside = _open_one(other, None) if other.is_file() else None
        except EmbeddingFileError:
            continue
        if beside is None or beside.layout != "D":
            continue
        widths = {
            rows.shape[1] for file in (word, beside.embedding) for rows in file.vectors.values()
        }
        alike = (word.token, word.num_vectors) == (
            beside.embedding.token,
            beside.embedding.num_vectors,
        )
        if alike and len(widths) == 2 and (widths == set(SDXL.widths) or not widths & KNOWN_WIDTHS):
            return other
    return None


def half_note(path: Path, found: Found, other: Path | None) -> str:
    """Return what is to be said of a file that is, or may be, one of the two files of an SDXL word; "" of any other."""
    if other is not None:
        return f"half of a pair: {other.name} holds the other half of this SDXL word; --second {other} reads both"
    if tuple(found.embedding.vectors) == ("clip_g",):
        return "only the second half of an SDXL word; --second names the file of the first"
    if found.layout in ("D", "P") and fits_other_families(found.family):
        name = f", whose other file would be {_other_names(path)[0]}" if found.layout == "D" else ""
        return f"an SD 1.x word, or the first half of an SDXL word{name}"
    return ""


def _other_names(path: Path) -> list[str]:
    """What the other file of a pair may be called: that of the second half, then that of the first."""
    stem, dash, step = path.stem.partition("-steps-")
    first = (
        [f"{stem[:-2]}{dash}{step}{path.suffix}"] if stem.endswith("_2") and stem != "_2" else []
    )
    return [f"{stem}_2{dash}{step}{path.suffix}", *first]


def _is_second(path: Path, other: Path) -> bool:
    return other.name != _other_names(path)[0]


def contents(path: Path) -> tuple[Any, dict[str, str], str]:
    """What a file holds, before it is recognised; a safetensors header's metadata; and safetensors, image or pickle.

    Raises:
        EmbeddingFileError: missing, unreadable, or of no such kind.
    """
    with path.open("rb") if path.is_file() else _no_file(path) as stream:
        return _content(path, stream, stream.seek(0, 2))


def _open_one(path: Path, key: str | None) -> Found:
    try:
        content, metadata, kind = contents(path)
        size = path.stat().st_size
        found = recognise(content, key, pickled=kind == "pickle")
        metadata = metadata or _told(content)
        return _found(
            replace(found, layout="G") if kind == "image" else found, metadata, path, size
        )
    except EmbeddingFileError as error:
        raise EmbeddingFileError(
            error.problems[0].what, str(path), error.problems[0].hint
        ) from None
    except OSError as error:
        raise EmbeddingFileError(
            f"cannot read the embedding: {error.strerror}", str(path)
        ) from None


def _nothing(
    vectors: Mapping[str, Tensor], recognised: Recognised, path: Path
) -> tuple[tuple[str, ...], Problem | None]:
    """Warnings about text encoders whose vectors are all zero, and the problem where the word lies elsewhere."""
    # Makes no copy of the rows
    zero = [key for key, rows in vectors.items() if not torch.stack(rows.aminmax()).any()]
    if not zero:
        return (), None
    if len(zero) < len(vectors):
        return tuple(
            f"all vectors of {key} are zero: the word does nothing in this text encoder"
            for key in zero
        ), None
    if recognised.outputs:
        return (f"all its vectors are zero: {ONLY_OUTPUT}",), Problem(
            ONLY_OUTPUT, str(path), RETRAIN
        )
    why = (
        " (AUTOMATIC1111 makes such words where no initialization text is given)"
        if recognised.layout in "AG"
        else ""
    )
    return (f"all its vectors are zero: the word does nothing{why}",), None


def _told(content: Any) -> dict[str, str]:
    """What AUTOMATIC1111's dictionary says of the model."""
    names = {"sd_checkpoint": "ss_sd_model_hash", "sd_checkpoint_name": "ss_sd_model_name"}
    given = content if isinstance(content, dict) else {}
    return {
        ours: given[key]
        for key, ours in names.items()
        if isinstance(given.get(key), str) and len(given[key]) < 300
    }


def _no_file(path: Path) -> BinaryIO:
    """Say why there is nothing to open: opening a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except ValueError:  # a null character
        raise EmbeddingFileError("cannot read the embedding: no such file") from None
    raise EmbeddingFileError(
        f"cannot read the embedding: it is {'a folder' if stat.S_ISDIR(mode) else 'not a file'}"
    )


def _content(path: Path, stream: BinaryIO, size: int) -> tuple[Any, dict[str, str], str]:
    """What the file holds, its metadata, and how it is stored."""
    if size > MOST_BYTES:
        raise EmbeddingFileError(
            f"too large for an embedding: {size // MEGABYTE} MB", hint="is it a model?"
        )
    stream.seek(0)
    head = stream.read(64)
    stream.seek(0)
    if head[8:9] == b"{":
        return *_read_safetensors(path, stream, size), "safetensors"
    if head.startswith(SIGNATURE):
        return read_png(stream), {}, "image"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return read_webp(stream), {}, "image"
    if head.startswith((b"PK\3\4", b"\x80")):
        return read_pickle(path, stream, size), {}, "pickle"
    if not head:
        raise EmbeddingFileError("the file is empty")
    for start, (what, hint) in ALIENS.items():
        if head.lstrip().startswith(start):
            raise EmbeddingFileError(f"not an embedding: {what}", hint=hint)
    raise EmbeddingFileError(
        "not an embedding: neither safetensors, nor torch's, nor a PNG or WebP picture"
    )


def _read_safetensors(
    path: Path, stream: BinaryIO, size: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by name, mapped from the file; those of a LoRA or a model stay unread."""
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
            wanted = _wanted(file.keys())
            return {
                name: file.get_tensor(name) if name in wanted else None
                for name in file.keys()  # noqa: SIM118
            }, file.metadata() or {}
    except EmbeddingFileError:
        raise
    except Exception as error:  # noqa: BLE001 - the library and torch raise several kinds
        reason = str(error).partition("\n")[0][:200]
        raise EmbeddingFileError(f"not a valid safetensors file: {reason}") from None


def _wanted(names: Iterable[str]) -> set[str]:
    """The names that may be an embedding's, not a LoRA's or a model's."""
    wanted = {name for name in names if BUNDLE_KEY.fullmatch(name) or not not_embedding([name])}
    if len(wanted) > MOST_TENSORS:
        raise EmbeddingFileError(f"not an embedding: it has {len(wanted)} tensors")
    return wanted


def _found(found: Recognised, metadata: Mapping[str, str], path: Path, size: int) -> Found:
    vectors, dtype, notes = gather(found.parts)
    token = metadata.get("ti.token_string") or found.token
    notes = (*found.notes, *notes)
    if token is not None and (not token.isprintable() or len(token) > 200):
        notes, token = (*notes, f"the name in it cannot be used: {shown(token)}"), None
    step = metadata.get("ti.step", "")
    embedding = EmbeddingFile(
        vectors, token, int(step) if step.isdecimal() and len(step) < 10 else found.step, metadata
    )
    if size > LARGE:
        held = counted(embedding.num_vectors, "vector")
        notes = (
            *notes,
            f"the file has {size // MEGABYTE} MB for {held}; write it again with `coinage convert`",
        )
    return Found(embedding, found.layout, dtype, notes, *_nothing(vectors, found, path))


def _paired(first: Found, second: Found, where: str) -> Found:
    """SDXL's halves from a file each, told apart by width; where that says nothing, in the order given."""
    halves = [next(iter(found.embedding.vectors.values())) for found in (first, second)]
    if any(len(found.embedding.vectors) > 1 for found in (first, second)):
        raise EmbeddingFileError(
            "one of the two files holds both halves already", where, "give it alone"
        )
    widths = tuple(half.shape[1] for half in halves)
    if widths == SDXL.widths[::-1]:
        first, second, halves = second, first, halves[::-1]
    elif widths != SDXL.widths and {*widths} & KNOWN_WIDTHS:
        raise EmbeddingFileError(
            f"the two files are not an SDXL pair: their vectors are {widths[0]} and {widths[1]} wide",
            where,
        )
    if len(halves[0]) != len(halves[1]):
        raise EmbeddingFileError(
            f"the two files do not match: {len(halves[0])} and {len(halves[1])} vectors", where
        )
    tokens = [found.embedding.token for found in (first, second) if found.embedding.token]
    notes = dict.fromkeys((*first.notes, *second.notes))
    if len({*tokens}) > 1:
        notes[f"the two files name different words: {shown(tokens[0])} and {shown(tokens[1])}"] = (
            None
        )
    metadata = {**second.embedding.metadata, **first.embedding.metadata}
    embedding = EmbeddingFile(
        dict(zip(PAIR, halves, strict=True)),
        next(iter(tokens), None),
        first.embedding.step,
        metadata,
    )
    warnings = tuple(dict.fromkeys((*first.warnings, *second.warnings)))
    return Found(
        embedding, "D2", first.dtype, tuple(notes), warnings, first.problem or second.problem
    )
