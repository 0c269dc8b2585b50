"""InvokeAI: the word is written as the file's name in angle brackets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.rules import (
    CONVERT,
    OTHER_FAMILY,
    TargetModel,
    ToolReading,
    as_rows,
    check_width,
    content_of,
    first_value,
    is_pair,
    refuse,
)

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".pth", ".bin")
KNOWN_KEYS = ("string_to_param", "emb_params", "clip_g")
ALLOWED_NAME = re.compile(r"[a-zA-Z0-9., _-]+")
RENAME = "Rename it there: it takes only the letters a to z, digits and . , _ -."


def invokeai(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply InvokeAI's rule: it probes type and base model on adding, then loads; both must agree."""
    content = content_of(file, SUFFIXES)
    if not isinstance(content, dict):
        refuse(f"it expects named tensors and finds a {type(content).__name__.lower()}; {CONVERT}.")
    small = len(content) < 10 and all(isinstance(value, Tensor) for value in content.values())
    if not small and not any(key in content for key in KNOWN_KEYS):
        refuse("it does not look like an embedding to it.")
    _check_probe(content, model.widths[-1])
    by_key = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        tensor = _tensor_for(content, width)
        check_width(tensor, width)
        by_key[key] = tensor
    why = "" if ALLOWED_NAME.fullmatch(file.path.stem) else RENAME
    return ToolReading(by_key, f"<{file.path.stem}>", why)


def _check_probe(content: Mapping[str, Any], needed: int) -> None:
    """Refuse a file that InvokeAI takes for one of another base model."""
    width, ndim = _probed(content)
    if ndim == 2 and width != needed:
        refuse(
            f"under this name it takes the number of vectors, {width}, for their width; {CONVERT}."
        )
    if width != needed:
        refuse(
            f"it takes the file for a model of width {width} and this one has {needed}: "
            f"{OTHER_FAMILY}."
        )


def _probed(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size from which it guesses the base model, and the tensor's number of dimensions.

    It asks a tensor under an unknown name for its first size, which is the width only if there is
    one dimension. For known names the second value is 0.
    """
    if "string_to_token" in content:
        return int(first_value(content["string_to_param"]).shape[-1]), 0
    for key in ("emb_params", "clip_g"):
        if key in content:
            return int(content[key].shape[-1]), 0
    tensor = first_value(content)
    if not isinstance(tensor, Tensor):
        refuse(f"it finds no base model: string_to_token is missing; {CONVERT}.")
    return int(tensor.shape[0]), tensor.ndim


def _tensor_for(content: Mapping[str, Any], width: int) -> Any:
    """Return the tensor for a text encoder of a width."""
    if "string_to_param" in content:
        return first_value(content["string_to_param"])
    if "emb_params" in content:
        return content["emb_params"]
    if is_pair(content):
        return content["clip_l"] if content["clip_l"].shape[1] == width else content["clip_g"]
    return as_rows(first_value(content))
