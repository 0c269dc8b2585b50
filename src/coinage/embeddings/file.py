"""A learned word, and its files: written whole or not at all.

Layouts: SD 1/2 safetensors hold one tensor `emb_params` [n, D]; `.pt` files hold AUTOMATIC1111's
dictionary, re-zipped so that its pickle gate accepts them. SDXL has `clip_l` and `clip_g` in both.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from coinage.errors import CoinageError
from coinage.models.facts import SDXL
from coinage.system.files import write_bytes

DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HINT_END = "was written in training"
PAIR = SDXL.keys


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """A learned word.

    Attributes:
        vectors: one [n, D] tensor per text encoder, by key (`emb_params`).
        token: the word it was trained as, where known.
        metadata: string to string, stored in safetensors headers only.
    """

    vectors: Mapping[str, Tensor]
    token: str | None = None
    step: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_vectors(self) -> int:
        """Vectors per text encoder."""
        return len(next(iter(self.vectors.values())))


def vectors_for(vectors: Mapping[str, Tensor], key: str) -> Tensor | None:
    """The vectors [n, D] for one text encoder of a model; None if there are none.

    The encoder of SD 1 is SDXL's first, so that a `clip_l` that stands alone serves it as well.
    """
    if key == "emb_params" and tuple(vectors) == ("clip_l",):
        return vectors["clip_l"]
    return vectors.get(key)


def utc_now() -> str:
    """ISO 8601 UTC to the second; SOURCE_DATE_EPOCH wins where it is a time, for byte-equal files."""
    try:
        moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        moment = datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path: Path, file: EmbeddingFile, precision: str = "float") -> None:
    """Write `file` in the format of the path's suffix: .safetensors, .pt or .ckpt.

    Raises:
        CoinageError: a vector is not finite, or the file cannot be written.
    """
    write_bytes(path, bytes_for(path, file, precision))


def bytes_for(path: Path, file: EmbeddingFile, precision: str = "float") -> bytes:
    """Return what `write` writes.

    Raises:
        CoinageError: a vector is not finite.
    """
    tensors = tensors_of(file, str(path), precision)
    if path.suffix.lower() == ".safetensors":
        return _safetensors_bytes(tensors, file.metadata)
    return pickle_bytes(_webui_dict(path.stem, tensors, file))


def tensors_of(file: EmbeddingFile, where: str, precision: str) -> dict[str, Tensor]:
    """The vectors as they are written: on the CPU, in a number format, each with its own memory.

    Raises:
        CoinageError: a vector is not finite.
    """
    tensors = {}
    for key, vectors in file.vectors.items():
        found = vectors.detach().to("cpu", DTYPES[precision]).clone().contiguous()
        if not torch.isfinite(found).all():
            raise CoinageError(
                f"{key} holds numbers that are not finite in {precision}; nothing was written",
                where,
            )
        tensors[key] = found
    return tensors


def _safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes, its body's sha256 in the header (the digest that AutoV3 names)."""
    body = safetensors.torch.save(dict(tensors))
    body = body[8 + struct.unpack("<Q", body[:8])[0] :]
    # Names and titles from a command line may hold bytes that are no text.
    clean = {key: value.encode("utf-8", "replace").decode() for key, value in metadata.items()}
    header = {**clean, "modelspec.hash_sha256": f"0x{hashlib.sha256(body).hexdigest()}"}
    data: bytes = safetensors.torch.save(dict(tensors), metadata=dict(sorted(header.items())))
    size = struct.unpack("<Q", data[:8])[0]
    # The library writes the metadata in the order of a hash map: sort it, so that equal runs give equal bytes.
    ordered = json.dumps(
        json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")
    ).encode()
    ordered += b" " * (-len(ordered) % 8)
    return struct.pack("<Q", len(ordered)) + ordered + data[8 + size :]


def usage_hint(stem: str, word: str) -> str:
    """What a header says where a file's name, by which most tools know the word, is another than in training."""
    return f"write {stem}, the file's name, where {word} {HINT_END}"


def body_hash(data: bytes) -> str | None:
    """The sha256 of a safetensors file's bytes after the header; None for other files."""
    if data[8:9] != b"{":
        return None
    return hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0] :]).hexdigest()


def _webui_dict(name: str, tensors: Mapping[str, Tensor], file: EmbeddingFile) -> dict[str, Any]:
    if tuple(tensors) != ("emb_params",):
        return dict(tensors)
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensors["emb_params"]},
        "name": name,
        "step": int(file.step),
        "sd_checkpoint": file.metadata.get("ss_sd_model_hash") or None,
        "sd_checkpoint_name": file.metadata.get("ss_sd_model_name") or None,
    }


def pickle_bytes(content: dict[str, Any]) -> bytes:
    """A torch zip with only the records that AUTOMATIC1111's gate allows, the same bytes every time."""
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=2)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            record = name.split("/", 1)[1]
            if record in ("data.pkl", "version") or record.startswith("data/"):
                target.writestr(
                    zipfile.ZipInfo(f"archive/{record}", (1980, 1, 1, 0, 0, 0)), source.read(name)
                )
    return out.getvalue()
