"""Words saved to files: whole or not at all, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from coinage.embeddings.format_names import PRECISIONS
from coinage.embeddings.formats import writer_for
from coinage.embeddings.header import renamed
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word, as_sd1_word
from coinage.embeddings.writing import rounded_vectors, write
from coinage.errors import CoinageError, ConfigError, Problem
from coinage.system.files import write_bytes
from coinage.system.text_files import is_there, path_problem


def write_checked(path: Path, word: Word, precision: str = "float") -> None:
    """Write a word as training does, with its header as it is; read it back, and compare.

    Args:
        path: the file; its suffix is .safetensors, .pt or .ckpt.
        word: with the header's metadata.
        precision: float, fp16 or bf16.

    Raises:
        CoinageError: it cannot be written, or the file does not hold what was written.
    """
    write(path, word, precision)
    actual, expected = read(path).vectors, rounded_vectors(word, str(path), precision)
    same = actual.keys() == expected.keys()
    if not same or any(not torch.equal(actual[key], expected[key].float()) for key in expected):
        raise _not_what_was_written(path)


def save_word(
    word: Word, path: Path, *, to: str | None, precision: str, overwrite: bool
) -> list[Path]:
    """Save a word as `Word.save` does; returns the files written.

    Raises:
        CoinageError: the format cannot hold it, a file exists, or it cannot be written.
    """
    files = encode_word(word, path, to=to, precision=precision)
    write_files(files, overwrite=overwrite)
    return list(files)


def encode_word(word: Word, path: Path, *, to: str | None, precision: str) -> dict[Path, bytes]:
    """Return the files of a word under a new name, not yet written.

    Args:
        word: to save.
        path: where to.
        to: the format, or None: as the path's suffix says.
        precision: float, fp16 or bf16.

    Raises:
        CoinageError: the suffix fits no format, or the format cannot hold the word.
    """
    if precision not in PRECISIONS:
        what = f"precision: {precision!r} is not known"
        raise ConfigError([Problem(what, hint=f"use one of {', '.join(PRECISIONS)}")])
    if problem := path_problem(str(path)):
        raise CoinageError(f"cannot write the file: {problem}", str(path))
    writer = writer_for(path, to)
    return writer.encode(path, renamed(as_sd1_word(word), path.stem), precision)


def write_files(files: Mapping[Path, bytes], *, overwrite: bool) -> None:
    """Write several files, all or none, and read them back.

    Raises:
        CoinageError: one exists and `overwrite` is False, or one cannot be written; the others are
            then as they were before.
    """
    for path in files:
        if is_there(path) and not overwrite:
            raise CoinageError(
                "the file already exists",
                str(path),
                "choose another name, or replace it: --force, in Python overwrite=True",
            )
    before = {path: path.read_bytes() for path in files if path.is_file()}
    try:
        for path, data in files.items():
            _write_and_compare(path, data)
    except BaseException:
        if len(files) > 1:
            _restore(files, before)
        raise


def _write_and_compare(path: Path, data: bytes) -> None:
    write_bytes(path, data)
    if path.read_bytes() != data:
        raise _not_what_was_written(path)


def _restore(files: Mapping[Path, bytes], before: Mapping[Path, bytes]) -> None:
    for path in files:
        with suppress(CoinageError, OSError):
            if path in before:
                write_bytes(path, before[path])
            else:
                path.unlink(missing_ok=True)


def _not_what_was_written(path: Path) -> CoinageError:
    return CoinageError(
        "the file does not hold what was written",
        str(path),
        "the disk may be failing: choose another folder",
    )
