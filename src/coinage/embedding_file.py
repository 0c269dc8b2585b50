"""Embedding files: written whole or not at all, read without running anything.

Layouts: SD 1/2 safetensors hold one tensor `emb_params` [n, D]; `.pt` files hold AUTOMATIC1111's
dictionary, re-zipped so that its pickle gate accepts them.
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

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from coinage.errors import CoinageError, EmbeddingFileError
from coinage.files import write_bytes

DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GENERIC_KEYS = ("emb_params", "emp_params")
PAIR = ("clip_l", "clip_g")  # SDXL's two text encoders
MAX_BYTES = 256 * 2**20


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


def utc_now() -> str:
    """ISO 8601 UTC to the second; SOURCE_DATE_EPOCH wins, for byte-equal files."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path: Path, file: EmbeddingFile, precision: str = "float") -> None:
    """Write `file` in the format of the path's suffix: .safetensors, .pt or .ckpt.

    Raises:
        CoinageError: a vector is not finite, or the file cannot be written.
    """
    tensors = {}
    for key, vectors in file.vectors.items():
        if not torch.isfinite(vectors).all():
            raise CoinageError(f"{key} holds numbers that are not finite; nothing was written", str(path))
        tensors[key] = vectors.detach().to("cpu", DTYPES[precision]).clone().contiguous()
    if path.suffix == ".safetensors":
        write_bytes(path, _safetensors_bytes(tensors, file.metadata))
    else:
        write_bytes(path, _pickle_bytes(_webui_dict(path.stem, tensors, file)))


def _safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes, its body's sha256 in the header (the digest that AutoV3 names)."""
    body = safetensors.torch.save(dict(tensors))
    body = body[8 + struct.unpack("<Q", body[:8])[0] :]
    header = {**metadata, "modelspec.hash_sha256": f"0x{hashlib.sha256(body).hexdigest()}"}
    data: bytes = safetensors.torch.save(dict(tensors), metadata=dict(sorted(header.items())))
    size = struct.unpack("<Q", data[:8])[0]
    # The library writes the metadata in the order of a hash map: sort it, so that equal runs give equal bytes.
    ordered = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)
    return struct.pack("<Q", len(ordered)) + ordered + data[8 + size :]


def _webui_dict(name: str, tensors: Mapping[str, Tensor], file: EmbeddingFile) -> dict[str, Any]:
    if tuple(tensors) != ("emb_params",):
        return dict(tensors)
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensors["emb_params"]},
        "name": name,
        "step": int(file.step),
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


def _pickle_bytes(content: dict[str, Any]) -> bytes:
    """A torch zip with only the records that AUTOMATIC1111's gate allows, the same bytes every time."""
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=2)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            record = name.split("/", 1)[1]
            if record in ("data.pkl", "version") or record.startswith("data/"):
                target.writestr(zipfile.ZipInfo(f"archive/{record}", (1980, 1, 1, 0, 0, 0)), source.read(name))
    return out.getvalue()


def read(path: Path) -> EmbeddingFile:
    """Read an embedding: `emb_params` and single-tensor files, AUTOMATIC1111's dictionary, SDXL's pairs.

    Returns:
        Vectors [n, D] float32 under `emb_params`, or under `clip_l` and `clip_g`.

    Raises:
        EmbeddingFileError: missing, unreadable, or no embedding.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EmbeddingFileError("too large for an embedding", str(path))
        with path.open("rb") as stream:
            head = stream.read(9)
        content, metadata = _read_safetensors(path) if head[8:9] == b"{" else (_read_pickle(path), {})
    except OSError as error:
        raise EmbeddingFileError(f"cannot read the embedding: {error.strerror}", str(path)) from None
    if isinstance(content, Mapping) and set(content) == set(PAIR):
        return EmbeddingFile({key: _vectors(key, content[key], path) for key in PAIR}, metadata.get("ti.token_string"), 0, metadata)
    vectors, token = _recognise(content, path)
    return EmbeddingFile({"emb_params": vectors}, metadata.get("ti.token_string", token), 0, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise EmbeddingFileError(f"no valid safetensors file: {error}", str(path)) from None


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a broken or hostile pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EmbeddingFileError(f"no readable embedding: {reason}", str(path)) from None


def _recognise(content: Any, path: Path) -> tuple[Tensor, str | None]:
    token = None
    if isinstance(content, dict) and "string_to_param" in content:
        token, content = content.get("name"), content["string_to_param"]
    if not isinstance(content, Mapping) or len(content) != 1:
        keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise EmbeddingFileError(f"not an embedding: found {keys}", str(path), "give a file with one tensor")
    key, tensor = next(iter(content.items()))
    return _vectors(key, tensor, path), token or (str(key) if key not in (*GENERIC_KEYS, "*") else None)


def _vectors(key: object, tensor: Any, path: Path) -> Tensor:
    """Vectors [n, D] float32 of one tensor of a file."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim not in (1, 2) or not tensor.numel():
        raise EmbeddingFileError(f"{key!r} holds no vectors", str(path))
    if not torch.isfinite(tensor).all():
        raise EmbeddingFileError(f"{key!r} holds numbers that are not finite", str(path))
    return tensor.detach().float().reshape(-1, tensor.shape[-1]).clone()
