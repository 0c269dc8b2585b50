"""The vectors of a file: checked, and copied into one tensor for each text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from coinage.embeddings.layouts import MOST_VECTORS
from coinage.embeddings.word import PAIR
from coinage.errors import EmbeddingFileError
from coinage.models.facts import KNOWN_WIDTHS, SDXL, key_of_width
from coinage.text.placeholder import CHUNK

READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MOST_NUMBERS = MOST_VECTORS * max(SDXL.widths)
FLAT = "one-dimensional, read as one vector"


def gather(
    parts: Iterable[tuple[str, Any]],
) -> tuple[dict[str, Tensor], torch.dtype, tuple[str, ...]]:
    """Return a file's vectors: [n, d] float32 by key, copied; their dtype in the file; what is odd.

    A single tensor as wide as the second text encoder of a pair is its half, whatever its name.

    Raises:
        EmbeddingFileError: no floating-point vectors, not finite, too many, or rows that do not match.
    """
    views: dict[str, list[Tensor]] = {}
    notes = []
    dtypes = dict[torch.dtype, None]()
    for key, tensor in parts:
        views.setdefault(key, []).append(_rows(key, tensor))
        dtypes[tensor.dtype] = None
        if tensor.ndim == 1 and FLAT not in notes:
            notes.append(FLAT)
    if len(views) == 1:
        (only,) = views.values()
        half = key_of_width(only[0].shape[1])
        if half is not None:
            views = {half: only}
    counts = {key: sum(map(len, rows)) for key, rows in views.items()}
    _check_counts(counts, {key: rows[0].shape[1] for key, rows in views.items()})
    vectors = {key: _copied(rows) for key, rows in views.items()}
    for key, rows in vectors.items():
        _check_finite(key, rows)
        if rows.shape[1] not in KNOWN_WIDTHS:
            notes.append(f"vector width {rows.shape[1]} matches no known Stable Diffusion model")
    if max(counts.values()) > CHUNK:
        notes.append(f"{max(counts.values())} vectors; most tools read {CHUNK} at most")
    if len(dtypes) > 1:
        notes.append("its tensors have different dtypes")
    return vectors, next(iter(dtypes)), tuple(notes)


def is_zero(rows: Tensor) -> bool:
    """Return whether all numbers are zero, without making a copy of them."""
    return not torch.stack(rows.aminmax()).any()


def _check_finite(key: str, rows: Tensor) -> None:
    # Makes no copy of the rows, as `isfinite` of all would
    if not torch.isfinite(torch.stack(rows.aminmax())).all():
        raise EmbeddingFileError(
            f"{key} holds numbers that are not finite",
            hint="its training failed; take an earlier file of it",
        )


def _copied(views: list[Tensor]) -> Tensor:
    """Return the rows of all in one new tensor [n, d] float32, without another copy on the way."""
    counts = [len(view) for view in views]
    rows = torch.empty(sum(counts), views[0].shape[1], dtype=torch.float32)
    for part, view in zip(rows.split(counts), views, strict=True):
        part.copy_(view)
    return rows


def _rows(key: str, tensor: Any) -> Tensor:
    """Return the tensor as [n, d], not copied."""
    if not isinstance(tensor, Tensor):
        raise EmbeddingFileError(f"{key} is not a tensor")
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if tensor.dtype not in READ_DTYPES or not is_plain:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise EmbeddingFileError(f"{key} holds {dtype}, not floating-point vectors")
    rows = tensor.detach()
    while rows.ndim > 2 and rows.shape[0] == 1:
        rows = rows[0]
    if rows.ndim == 1:
        rows = rows[None]
    if rows.ndim != 2 or 0 in rows.shape:
        raise EmbeddingFileError(
            f"{key} has the shape {_shape(tensor)}, which is not a list of vectors"
        )
    if rows.shape[0] in KNOWN_WIDTHS and rows.shape[1] not in KNOWN_WIDTHS:
        raise EmbeddingFileError(f"{key} has the shape {_shape(tensor)}", hint="is it transposed?")
    return rows


def _shape(tensor: Tensor) -> str:
    sides = "x".join(map(str, tensor.shape[:4]))
    return f"[{sides}x...]" if tensor.ndim > 4 else f"[{sides}]"


def _check_counts(counts: Mapping[str, int], widths: Mapping[str, int]) -> None:
    for key, count in counts.items():
        if count > MOST_VECTORS or count * widths[key] > MOST_NUMBERS:
            raise EmbeddingFileError(
                f"{key} has {count} vectors of width {widths[key]}, more than any embedding",
                hint="is it a model's whole table?",
            )
    if len(set(counts.values())) > 1:
        shown = " and ".join(f"{count} rows in {key}" for key, count in counts.items())
        raise EmbeddingFileError(f"its halves do not match: {shown}")
    if tuple(widths.get(key) for key in PAIR) == SDXL.widths[::-1]:
        raise EmbeddingFileError("its halves are swapped: clip_l is 1280 wide and clip_g 768")
