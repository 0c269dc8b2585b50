"""Write a word and see that it is there."""

from __future__ import annotations

from pathlib import Path

import torch

from coinage.embeddings.file import EmbeddingFile, tensors_of, write
from coinage.embeddings.reading import read
from coinage.errors import CoinageError


def save(path: Path, file: EmbeddingFile, precision: str = "float") -> None:
    """Write a word, read it back, and compare.

    Raises:
        CoinageError: it cannot be written, or is not what was written.
    """
    write(path, file, precision)
    found, due = read(path).vectors, tensors_of(file, str(path), precision)
    if found.keys() != due.keys() or any(
        not torch.equal(found[key], rows.float()) for key, rows in due.items()
    ):
        raise CoinageError(
            "the file does not hold what was written",
            str(path),
            "the disk may be failing: choose another folder",
        )
