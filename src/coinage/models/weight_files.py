"""Read the tensors of model files: safetensors, mapped, and pickles, which run nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coinage.errors import CoinageError, reason_of
from coinage.models.detect import known_name, safetensors_places

CHILDREN = ("embeddings.", "encoder.", "final_layer_norm.")
SD1_TEXT = "cond_stage_model.transformer."
PROJECTION = "conditioner.embedders.1.model.text_projection"


def read_tensors(
    path: Path, wanted: Mapping[str, torch.dtype] | None = None, *, mapped: bool = True
) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a pickle, by name; also if nested under `state_dict`.

    Args:
        path: the file.
        wanted: the dtype of tensors by the start of their names. In a safetensors file, one of
            another dtype is read and converted alone, so that the file is never in memory twice;
            all others are mapped.
        mapped: off: read all of it into memory, which can be faster from a network drive.

    Raises:
        CoinageError: the file is broken, or a pickle that holds more than tensors.
    """
    content = _read_content(path, wanted or {}, mapped=mapped)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        what = "cannot read the model: the file holds no table of tensors"
        raise CoinageError(what, str(path), "use a .safetensors file")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    # Under this name, it is stored as a linear layer's
    projection = tensors.pop(f"{PROJECTION}.weight", None)
    if projection is not None:
        tensors[PROJECTION] = projection.T.contiguous()
    renamed = {}
    for name, value in tensors.items():
        if not name.endswith("position_ids"):
            renamed[_renamed(known_name(name))] = value
    return renamed


def _read_content(path: Path, wanted: Mapping[str, torch.dtype], *, mapped: bool) -> Any:
    """Return everything in a safetensors file or a pickle, which runs nothing.

    Raises:
        CoinageError: the file is broken, or a pickle that holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if path.suffix.lower() != ".safetensors":
            # Old pickles are not zip files, which alone can be mapped
            is_zip = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        if mapped:
            return _in_dtypes(path, load_file(path), wanted)
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        reason, hint = reason_of(error), "download the file again"
    except Exception as error:  # noqa: BLE001 - a broken or hostile pickle can raise anything
        reason, hint = reason_of(error), "use a .safetensors file"
    raise CoinageError(f"cannot read the model: {reason}", str(path), hint)


def _in_dtypes(
    path: Path, mapped: Mapping[str, Tensor], wanted: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """Return mapped tensors, those of another dtype than wanted replaced by converted copies."""
    places = safetensors_places(path)
    tensors = {}
    with path.open("rb") as file:
        for name, tensor in mapped.items():
            dtype = _wanted_dtype(name, tensor, wanted)
            if dtype == tensor.dtype or not tensor.is_floating_point() or not tensor.numel():
                tensors[name] = tensor
                continue
            shape, start, end = places[name]
            # Reading through the map would keep every page of the file in memory
            file.seek(start)
            data = bytearray(file.read(end - start))
            tensors[name] = torch.frombuffer(data, dtype=tensor.dtype).reshape(shape).to(dtype)
    return tensors


def _wanted_dtype(name: str, tensor: Tensor, wanted: Mapping[str, torch.dtype]) -> torch.dtype:
    """Return the dtype that a tensor is wanted in: its own where nothing is said."""
    for start, dtype in wanted.items():
        if known_name(name).startswith(start):
            return dtype
    return tensor.dtype


def _renamed(name: str) -> str:
    """Return the name of a text encoder's tensor with the level that old files leave out."""
    rest = name.removeprefix(SD1_TEXT)
    if rest != name and rest.startswith(CHILDREN):
        return f"{SD1_TEXT}text_model.{rest}"
    return name
