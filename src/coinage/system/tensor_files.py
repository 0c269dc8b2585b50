"""Tensors kept between runs: in files that tell when they are broken, cut or of another program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor


def pack(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """A safetensors file, with a digest of all that it holds; `about` needs a `format`."""
    return safetensors.torch.save(dict(tensors), {**about, "sum": _sum(tensors, about)})


def unpack(data: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, str]] | str:
    """The tensors of a file of a format, and what is said about them; or why they cannot be used."""
    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, SafetensorError):
        return "the file is broken"
    if not isinstance(about, dict) or about.get("format") != kind:
        return "the file is not ours"
    return (tensors, about) if about.get("sum") == _sum(tensors, about) else "the file is broken"


def digest_of_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of tensors with their names, dtypes and shapes, in any order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor.detach().cpu()))
    return digest.hexdigest()


def _sum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """A digest of all that a file holds, but the digest itself."""
    shapes = [
        (name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in sorted(tensors.items())
    ]
    digest = hashlib.blake2b(
        repr([shapes, sorted((k, v) for k, v in about.items() if k != "sum")]).encode(),
        digest_size=8,
    )
    for name in sorted(tensors):
        digest.update(_bytes_of(tensors[name]))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
