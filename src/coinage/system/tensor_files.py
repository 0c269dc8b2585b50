"""Keep tensors between runs, as caches do, in files that show when they are damaged or foreign."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor


def pack(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with a digest of its content.

    Args:
        tensors: by name.
        about: what the header says of them; its `format` names the kind of file.
    """
    return safetensors.torch.save(dict(tensors), {**about, "sum": _content_digest(tensors, about)})


def unpack(data: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, str]] | str:
    """Read the bytes that `pack` made.

    Args:
        data: the whole file.
        kind: the `format` that its header must name.

    Returns:
        The tensors and the header; or, for a file that cannot be used, the reason as a text.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, SafetensorError):
        return "the file is broken"
    if not isinstance(about, dict) or about.get("format") != kind:
        return "the file has another format"
    if about.get("sum") != _content_digest(tensors, about):
        return "the file is broken"
    return tensors, about


def digest_of_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of tensors with their names, dtypes and shapes, whatever their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor.detach().cpu()))
    return digest.hexdigest()


def _content_digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return a digest of everything that a file holds, except the digest itself."""
    names = sorted(tensors)
    shapes = [(name, tuple(tensors[name].shape), str(tensors[name].dtype)) for name in names]
    header = sorted(item for item in about.items() if item[0] != "sum")
    digest = hashlib.blake2b(repr([shapes, header]).encode(), digest_size=8)
    for name in names:
        digest.update(_bytes_of(tensors[name]))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
