"""Embedding files, written whole or not at all: the bytes of each format.

SD 1 and SD 2 words in .safetensors files are one tensor `emb_params` [n, D]; .pt files hold
AUTOMATIC1111's dictionary, re-zipped so that its pickle gate accepts them. SDXL has `clip_l` and
`clip_g` in both, Stable Diffusion 3 `t5xxl` beside them, and FLUX.1 `clip_l` and `t5xxl`.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from coinage.embeddings.word import PAIR, Word
from coinage.errors import CoinageError
from coinage.models.facts import FACTS, ONETRAINER_NAMES, T5
from coinage.system.files import write_bytes

DTYPES: dict[str, torch.dtype] = {
    "float": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
ARCHITECTURE = "modelspec.architecture"
WEBUI_RECORDS = ("data.pkl", "version")  # of a torch zip, beside those of data
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # always the same, for equal bytes


def write(path: Path, word: Word, precision: str = "float") -> None:
    """Write a word in the format of the path's suffix: .safetensors, .pt or .ckpt.

    Raises:
        CoinageError: a vector is not finite, or the file cannot be written.
    """
    write_bytes(path, bytes_for(path, word, precision))


def bytes_for(path: Path, word: Word, precision: str = "float") -> bytes:
    """Return the bytes that `write` writes.

    Raises:
        CoinageError: a vector is not finite.
    """
    if path.suffix.lower() == ".safetensors":
        return safetensors_bytes(path, word, precision)
    return webui_bytes(path, word, precision)


def precision_of(dtype: torch.dtype) -> str:
    """Return the precision that keeps a file's dtype; float if it is one that is not written."""
    for precision, written in DTYPES.items():
        if written == dtype:
            return precision
    return "float"


def rounded_vectors(word: Word, where: str, precision: str) -> dict[str, Tensor]:
    """Return the vectors as they are written: on the CPU, in the precision, with memory of their own.

    Raises:
        CoinageError: a vector is not finite.
    """
    tensors = {}
    for key, vectors in word.vectors.items():
        rounded = vectors.detach().to("cpu", DTYPES[precision]).clone().contiguous()
        if not torch.isfinite(rounded).all():
            raise CoinageError(
                f"{key} holds numbers that are not finite in {precision}; nothing was written",
                where,
            )
        tensors[key] = rounded
    return tensors


def safetensors_bytes(path: Path, word: Word, precision: str) -> bytes:
    """Return a .safetensors file with the word's metadata.

    Its header also has the body's sha256, which other tools call AutoV3.
    """
    tensors = rounded_vectors(word, str(path), precision)
    body = _body(safetensors.torch.save(tensors))
    # Names and titles from a command line may hold bytes that are not text.
    header = {
        key: value.encode("utf-8", "replace").decode() for key, value in word.metadata.items()
    }
    if len(tensors) > 1 and T5 in tensors and word.family:
        # Of such a file's names alone SwarmUI does not see the family
        header.setdefault(ARCHITECTURE, f"{FACTS[word.family].architecture}/textual-inversion")
    header["modelspec.hash_sha256"] = f"0x{hashlib.sha256(body).hexdigest()}"
    data: bytes = safetensors.torch.save(tensors, metadata=dict(sorted(header.items())))
    return _with_sorted_header(data)


def _with_sorted_header(data: bytes) -> bytes:
    """Return a safetensors file with its header's keys sorted, so that equal runs give equal bytes.

    The library writes the metadata in the order of a hash map.
    """
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    ordered = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)
    return struct.pack("<Q", len(ordered)) + ordered + data[8 + size :]


def _body(data: bytes) -> bytes:
    """Return the bytes of a safetensors file after its header."""
    return data[8 + struct.unpack("<Q", data[:8])[0] :]


def webui_bytes(path: Path, word: Word, precision: str) -> bytes:
    """Return a .pt file: AUTOMATIC1111's dictionary, or for SDXL its two tensors."""
    tensors = rounded_vectors(word, str(path), precision)
    if tuple(tensors) != ("emb_params",):
        return pickle_bytes(dict(tensors))
    return pickle_bytes(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": tensors["emb_params"]},
            "name": path.stem,
            "step": int(word.step),
            "sd_checkpoint": word.metadata.get("ss_sd_model_hash") or None,
            "sd_checkpoint_name": word.metadata.get("ss_sd_model_name") or None,
        }
    )


def pickle_bytes(content: dict[str, Any]) -> bytes:
    """Return a torch zip with only the records that AUTOMATIC1111's gate allows; always the same bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=2)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            record = name.split("/", 1)[1]
            if record in WEBUI_RECORDS or record.startswith("data/"):
                target.writestr(zipfile.ZipInfo(f"archive/{record}", ZIP_TIME), source.read(name))
    return out.getvalue()


def one_file(path: Path, word: Word, precision: str) -> dict[Path, bytes]:
    """Return the file of formats whose bytes `bytes_for` gives."""
    return {path: bytes_for(path, word, precision)}


def onetrainer_files(path: Path, word: Word, precision: str) -> dict[Path, bytes]:
    """Return OneTrainer's file: `emp_params`, or SDXL's pair as any .safetensors file has it.

    T5's vectors have a name of their own there.
    """
    tensors = rounded_vectors(word, str(path), precision)
    if T5 in tensors:
        renamed = {ONETRAINER_NAMES.get(key, key): rows for key, rows in tensors.items()}
        return {path: _bare_bytes(path, renamed)}
    if tuple(word.vectors) == PAIR:
        return one_file(path, word, precision)
    name = ONETRAINER_NAMES["emb_params"]
    return {path: _bare_bytes(path, {name: next(iter(tensors.values()))})}


def diffusers_files(path: Path, word: Word, precision: str) -> dict[Path, bytes]:
    """Return the files of diffusers: the tensor under the word itself, one for each text encoder.

    Raises:
        CoinageError: the word is unknown, or a vector is not finite.
    """
    families = [facts for facts in FACTS.values() if set(word.vectors) <= set(facts.keys)]
    if families and not any(facts.in_diffusers for facts in families):
        raise CoinageError(
            f"diffusers loads no words into {families[0].display_name}",
            str(path),
            "write --to safetensors, which ComfyUI and SwarmUI read",
        )
    if word.token is None:
        raise CoinageError(
            "a diffusers file holds the word, and this file does not name it",
            str(path),
            "add --token mychar",
        )
    tensors = rounded_vectors(word, str(path), precision)
    paths = diffusers_paths(path, word)
    files = {}
    for file, rows in zip(paths, tensors.values(), strict=True):
        # InvokeAI reads a single vector of a .bin only if it is flat.
        flat = len(rows) == 1 and path.suffix.lower() == ".bin"
        tensor = rows[0] if flat else rows
        files[file] = _bare_bytes(path, {word.token: tensor.contiguous()})
    return files


def diffusers_paths(path: Path, word: Word) -> list[Path]:
    """Return the files that `diffusers_files` names."""
    if len(word.vectors) == 1:
        return [path]
    return [path, path.with_name(f"{path.stem}_2{path.suffix}")]


def _bare_bytes(path: Path, tensors: dict[str, Tensor]) -> bytes:
    """Return a file with tensors and no metadata."""
    if path.suffix.lower() == ".bin":
        return pickle_bytes(dict(tensors))
    data: bytes = safetensors.torch.save(tensors, {"format": "pt"})
    return data
