"""Learned words in other files, at another length, and mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from coinage.embeddings.file import DTYPES, PAIR, EmbeddingFile, pickle_bytes, tensors_of
from coinage.embeddings.saving import save
from coinage.errors import CoinageError, EmbeddingFileError
from coinage.system.files import write_bytes

# Target -> suffixes that its files may have, the first where none is given.
TARGETS = {
    "safetensors": (".safetensors",),
    "pt": (".pt", ".ckpt", ".bin"),
    "diffusers": (".safetensors", ".bin"),
    "onetrainer": (".safetensors",),
}


def target_of(path: Path, wanted: str | None) -> str:
    """The kind of file to write: as asked, or as the suffix says.

    Raises:
        CoinageError: the suffix is of no kind, or of another.
    """
    target = wanted or next(
        (name for name, suffixes in TARGETS.items() if path.suffix.lower() in suffixes), None
    )
    if target is None:
        raise CoinageError(
            "cannot tell the format from the file name",
            str(path),
            "end it with .safetensors or .pt, or add --to",
        )
    if path.suffix.lower() not in TARGETS[target]:
        raise CoinageError(
            f"--to {target} does not write {path.suffix or 'files without an ending'}",
            str(path),
            f"end it with {TARGETS[target][0]}",
        )
    return target


def paths_of(target: str, path: Path, file: EmbeddingFile) -> list[Path]:
    """The files that a target is written to: for diffusers one for each of SDXL's text encoders."""
    both = target == "diffusers" and tuple(file.vectors) == PAIR
    return [path, path.with_name(f"{path.stem}_2{path.suffix}")] if both else [path]


def write_as(target: str, path: Path, file: EmbeddingFile, precision: str = "float") -> list[Path]:
    """Write a word as a tool's own kind of file; returns what was written.

    Args:
        target: safetensors (one tensor `emb_params`, or SDXL's pair), pt (AUTOMATIC1111's), diffusers (the tensor under
            the word itself; two files for SDXL), onetrainer (`emp_params`).
        path: where to.
        file: the word.
        precision: float, fp16 or bf16.

    Raises:
        CoinageError: the target cannot hold it, or the file cannot be written.
    """
    pair = tuple(file.vectors) == PAIR
    if tuple(file.vectors) == ("clip_l",):  # alone, it is a word of SD 1
        file = replace(file, vectors={"emb_params": file.vectors["clip_l"]})
    if target in ("safetensors", "pt") or (target == "onetrainer" and pair):
        save(path, file, precision)
        return [path]
    tensors = tensors_of(file, str(path), precision)
    if target == "onetrainer":
        _write_tensors(path, {"emp_params": next(iter(tensors.values()))})
        return [path]
    if file.token is None:
        raise CoinageError(
            "a diffusers file holds the word, and this file does not tell it",
            str(path),
            "add --token mychar",
        )
    paths = paths_of(target, path, file)
    for place, rows in zip(paths, tensors.values(), strict=True):
        # A single vector of a .bin is read flat by InvokeAI
        one = rows[0] if len(rows) == 1 and path.suffix.lower() == ".bin" else rows
        _write_tensors(place, {file.token: one.contiguous()})
    return paths


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    data = (
        pickle_bytes(tensors)
        if path.suffix.lower() == ".bin"
        else safetensors.torch.save(tensors, {"format": "pt"})
    )
    write_bytes(path, data)


def rescaled(file: EmbeddingFile, lengths: Mapping[str, float]) -> EmbeddingFile:
    """The word with every vector at a length, given for each text encoder."""
    vectors = {
        key: rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12) * lengths[key]
        for key, rows in file.vectors.items()
    }
    return replace(file, vectors=vectors)


def merged(
    files: Sequence[tuple[str, EmbeddingFile, float]], *, slerp: bool = False
) -> EmbeddingFile:
    """Several words as one: the weighted sum of their vectors.

    Args:
        files: name, word and weight of each.
        slerp: of two, turn from the first to the second along the sphere instead (Shoemake 1985), and their lengths along.

    Raises:
        EmbeddingFileError: they are of different models or lengths, or more than two for `slerp`.
    """
    first = files[0][1]
    shapes = [
        {key: tuple(rows.shape) for key, rows in file.vectors.items()} for _, file, _ in files
    ]
    if any(shape != shapes[0] for shape in shapes):
        told = zip((name for name, _, _ in files), shapes, strict=True)
        shown = "; ".join(
            f"{name}: {', '.join(f'{k} {n}x{d}' for k, (n, d) in shape.items())}"
            for name, shape in told
        )
        raise EmbeddingFileError(
            f"words of different shapes cannot be merged ({shown})",
            hint="give files of one model with equally many vectors",
        )
    if slerp and len(files) != 2:
        raise EmbeddingFileError("--slerp is for two files")
    weights = [weight for _, _, weight in files]
    if slerp and (min(weights) < 0 or sum(weights) <= 0):
        raise EmbeddingFileError("--slerp needs weights of 0 or more, and one above 0")
    vectors = {
        key: _slerp(rows, files[1][1].vectors[key], weights[1] / sum(weights))
        if slerp
        else sum((weight * file.vectors[key] for _, file, weight in files), torch.zeros_like(rows))
        for key, rows in first.vectors.items()
    }
    kept = {
        key: first.metadata[key]
        for key in ("format", "modelspec.sai_model_spec", "modelspec.architecture")
        if key in first.metadata
    }
    source = ", ".join(f"{name}:{weight:g}" for name, _, weight in files)
    return EmbeddingFile(vectors, first.token, 0, kept | {"modelspec.merged_from": source})


def _slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Rows [N, D] between those of `a` (share 0) and of `b` (share 1), in direction along the great circle, in length evenly."""
    lengths = torch.lerp(a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), share)
    a, b = (
        torch.nn.functional.normalize(a.double(), dim=1),
        torch.nn.functional.normalize(b.double(), dim=1),
    )
    angle = (a * b).sum(dim=1, keepdim=True).clamp(-1, 1).acos()
    if bool((angle > math.pi - 1e-4).any()):
        raise EmbeddingFileError(
            "--slerp: two vectors point in opposite directions, so there is no way between them",
            hint="leave out --slerp",
        )
    turned = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
    direction = torch.where(torch.sin(angle) < 1e-6, torch.lerp(a, b, share), turned)
    return (torch.nn.functional.normalize(direction, dim=1) * lengths).float()


def precision_of(dtype: torch.dtype) -> str:
    """The name of a file's number format, so that a copy keeps it; float where it is none that is written."""
    return next((name for name, known in DTYPES.items() if known == dtype), "float")
