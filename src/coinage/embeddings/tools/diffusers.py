"""The diffusers library: `load_textual_inversion(file, token=...)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.rules import (
    CONVERT,
    TargetModel,
    ToolReading,
    as_rows,
    check_width,
    content_of,
    first_value,
    refuse,
)

TORCH_SUFFIXES = (".pt", ".ckpt", ".pth", ".bin")
KEYS_WITHOUT_WORD = (None, "emb_params", "emp_params", "clip_l")
LOAD_EACH_HALF = (
    "Load each half by itself: load_file, then "
    "load_textual_inversion(half, token=..., text_encoder=..., tokenizer=...)."
)


def diffusers(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
    """Apply the rule of `load_textual_inversion`; a pair needs a call for each text encoder."""
    content = _content(file)
    is_whole = isinstance(content, Mapping) and all(key in content for key in model.keys)
    if is_whole and len(model.keys) > 1:
        by_key = {key: as_rows(content[key]) for key in model.keys}
        for key, width in zip(model.keys, model.widths, strict=True):
            check_width(by_key[key], width)
        write, why = token or file.path.stem, LOAD_EACH_HALF
    else:
        tensor, key_in_file = _tensor_and_key(content)
        tensor = as_rows(tensor)
        check_width(tensor, model.widths[0])
        by_key = {model.keys[0]: tensor}
        own_word = file.path.stem if key_in_file in KEYS_WITHOUT_WORD else str(key_in_file)
        write = token or own_word
        why = _token_note(key_in_file, write)
    count = max(len(tensor) for tensor in by_key.values())
    if count > 1 and write != write.lower():
        why += (
            f" A word with capitals uses only the first of its {count} vectors there: "
            "pass it in small letters."
        )
    return ToolReading(by_key, write, why.strip())


def _content(file: RawFile) -> Any:
    """Return the file's content; every file is tried as safetensors first, whatever its suffix."""
    if file.container == "safetensors":
        return file.content
    content = content_of(file, (*TORCH_SUFFIXES, file.path.suffix.lower()))
    if file.container == "image":
        refuse("it reads no images.")
    return content


def _token_note(key_in_file: str | None, write: str) -> str:
    """Return what to pass as `token=`, unless the file itself holds that word."""
    if key_in_file == write:
        return ""
    otherwise = f": without it the word is {key_in_file}" if key_in_file else ""
    return f'Pass token="{write}"{otherwise}.'


def _tensor_and_key(content: Any) -> tuple[Any, str | None]:
    """Return the tensor and its key: one of any name, or the name in the webui's dictionary."""
    if isinstance(content, Tensor):
        return content, None
    if isinstance(content, list):
        refuse(f"it does not read lists; {CONVERT}.")
    if len(content) == 1:
        return first_value(content), next(iter(content))
    if "string_to_param" not in content:
        names = ", ".join(sorted(map(str, content))[:4])
        refuse(f"it must hold one tensor and holds {len(content)} entries ({names}); {CONVERT}.")
    if "name" not in content or "*" not in content["string_to_param"]:
        refuse(f"it needs a name and string_to_param['*'] in the file; {CONVERT}.")
    return content["string_to_param"]["*"], content["name"]
