"""InvokeAI and diffusers, both on diffusers' models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coinage.embeddings.consumers.verdict import (
    CONVERT,
    FAMILY,
    Model,
    Taken,
    check_width,
    content_of,
    first,
    is_pair,
    refuse,
)
from coinage.embeddings.file import PAIR
from coinage.embeddings.raw import Raw

TORCH_SUFFIXES = (".pt", ".ckpt", ".pth", ".bin")
KNOWN_KEYS = ("string_to_param", "emb_params", "clip_g")


def invokeai(raw: Raw, model: Model, _token: str | None) -> Taken:
    """InvokeAI: probes type and base model when the file is added, then loads it; both must agree."""
    content = content_of(raw, (".safetensors", *TORCH_SUFFIXES))
    if not isinstance(content, dict):
        refuse(f"it expects named tensors and finds a {type(content).__name__.lower()}; {CONVERT}.")
    small = len(content) < 10 and all(isinstance(value, Tensor) for value in content.values())
    if not small and not any(key in content for key in KNOWN_KEYS):
        refuse("it does not look like an embedding to it.")
    width, ndim = _probed(content)
    if ndim == 2 and width != model.widths[-1]:
        refuse(
            f"under this name it takes the number of vectors, {width}, for their width; {CONVERT}."
        )
    if width != model.widths[-1]:
        refuse(
            f"it takes the file for a model of width {width} and this one has {model.widths[-1]}: {FAMILY}."
        )
    found = {}
    for key, needed in zip(model.keys, model.widths, strict=True):
        tensor = _invokeai_tensor(content, needed)
        check_width(tensor, needed)
        found[key] = tensor
    odd = (
        ""
        if re.fullmatch(r"[a-zA-Z0-9., _-]+", raw.path.stem)
        else "Rename it there: it takes only the letters a to z, digits and . , _ -."
    )
    return Taken(found, f"<{raw.path.stem}>", odd)


def _probed(content: Mapping[str, Any]) -> tuple[int, int]:
    """The size that it tells the base model from; and, for a tensor under another name, how many sizes it has.

    Of such a tensor it asks the first size, which is the width only where there is one size.
    """
    if "string_to_token" in content:
        return int(first(content["string_to_param"]).shape[-1]), 0
    for key in ("emb_params", "clip_g"):
        if key in content:
            return int(content[key].shape[-1]), 0
    tensor = first(content)
    if not isinstance(tensor, Tensor):
        refuse(f"it finds no base model: string_to_token is missing; {CONVERT}.")
    return int(tensor.shape[0]), tensor.ndim


def _invokeai_tensor(content: Mapping[str, Any], width: int) -> Tensor:
    """The tensor for a text encoder of a width."""
    tensor: Tensor
    if "string_to_param" in content:
        tensor = first(content["string_to_param"])
    elif "emb_params" in content:
        tensor = content["emb_params"]
    elif is_pair(content):
        tensor = content["clip_l"] if content["clip_l"].shape[1] == width else content["clip_g"]
    else:
        tensor = first(content)
        tensor = tensor[None] if tensor.ndim == 1 else tensor
    return tensor


def diffusers(raw: Raw, model: Model, token: str | None) -> Taken:
    """`load_textual_inversion(file, token=...)`; for SDXL's pair once per text encoder."""
    # It tries every file as safetensors first, whatever its suffix.
    suffixes = (
        (".safetensors",)
        if raw.container == "safetensors"
        else (*TORCH_SUFFIXES, raw.path.suffix.lower())
    )
    content = raw.content if raw.container == "safetensors" else content_of(raw, suffixes)
    if raw.container == "image":
        refuse("it reads no images.")
    if is_pair(content) and len(model.keys) > 1:
        why = "Load each half by itself: load_file, then load_textual_inversion(half, token=..., text_encoder=..., tokenizer=...)."
        found = {key: _rows(content[key]) for key in PAIR}
        for key, width in zip(model.keys, model.widths, strict=True):
            check_width(found[key], width)
        write, own = token or raw.path.stem, None
    else:
        tensor, own = _diffusers_tensor(content)
        tensor = _rows(tensor)
        check_width(tensor, model.widths[0])
        found = {model.keys[0]: tensor}
        write = token or (
            raw.path.stem if own in (None, "emb_params", "emp_params", "clip_l") else str(own)
        )
        why = (
            ""
            if own == write
            else f'Pass token="{write}"{f": without it the word is {own}" if own else ""}.'
        )
    count = max(len(tensor) for tensor in found.values())
    if count > 1 and write != write.lower():
        why += f" A word with capitals uses only the first of its {count} vectors there: pass it in small letters."
    return Taken(found, write, why.strip())


def _diffusers_tensor(content: Any) -> tuple[Any, str | None]:
    """The tensor and the file's own word: one key of any name, or the webui's dictionary with a name."""
    if isinstance(content, Tensor):
        return content, None
    if isinstance(content, list):
        refuse(f"it does not read lists; {CONVERT}.")
    if len(content) == 1:
        return first(content), next(iter(content))
    if "string_to_param" not in content:
        refuse(
            f"it must hold one tensor and holds {len(content)} entries ({', '.join(sorted(map(str, content))[:4])}); {CONVERT}."
        )
    if "name" not in content or "*" not in content["string_to_param"]:
        refuse(f"it needs a name and string_to_param['*'] in the file; {CONVERT}.")
    return content["string_to_param"]["*"], content["name"]


def _rows(tensor: Any) -> Any:
    return tensor[None] if isinstance(tensor, Tensor) and tensor.ndim == 1 else tensor
