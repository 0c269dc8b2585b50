"""The gen_img scripts of sd-scripts, which draw with a word."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.rules import (
    CONVERT,
    TargetModel,
    ToolReading,
    check_width,
    content_of,
    first_value,
    refuse,
)

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")


def sd_scripts(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply gen_img's rule: the webui's dictionary or the first tensor; for SDXL the pair."""
    content = content_of(file, SUFFIXES)
    if not isinstance(content, dict):
        refuse(f"it expects named tensors; {CONVERT}.")
    takes_pair = len(model.keys) > 1
    by_key = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        tensor = content.get(key) if takes_pair else _first_tensor(content)
        if not isinstance(tensor, Tensor):
            refuse(f"it finds no tensor {key}; {CONVERT}.")
        check_width(tensor, width)
        by_key[key] = tensor
    why = ""
    if not takes_pair and "string_to_param" not in content and len(content) > 1:
        why = f"It takes the first of {len(content)} tensors; {CONVERT}."
    return ToolReading(by_key, file.path.stem, why)


def _first_tensor(content: dict[str, Any]) -> Any:
    return first_value(content.get("string_to_param", content))
