"""ComfyUI: the word is written as `embedding:` and the file's name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
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

SUFFIXES = (".safetensors", ".pt", ".bin")
# ComfyUI's own numbers for the raw bytes of a torch zip, whatever the model: SD 1's width if it
# divides their count, else SD 2's.
GUESSED_SD1_WIDTH, GUESSED_SD2_WIDTH = 768, 1024
END_OF_WORD = re.compile(r"[\s<\[(),]")
GUESSES = f"It holds a ParameterDict, so ComfyUI guesses the vectors from the raw bytes; {CONVERT}."
RENAME = "Rename the file: its prompts end the word at such a sign."


def comfyui(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply ComfyUI's rule: each text encoder looks for its own tensor, else takes the first.

    A tensor of another width than the text encoder's is dropped.
    """
    content = _content(file)
    tensor: Tensor | None = None
    by_key = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        tensor = as_rows(_tensor_for(key, width, content))
        if tensor.shape[-1] == width:
            by_key[key] = tensor
    if not by_key:
        check_width(tensor, model.widths[-1])
    notes = [GUESSES if isinstance(content, Tensor) else _luck(content, model)]
    name = _written_name(file)
    if END_OF_WORD.search(name):
        notes.append(RENAME)
    why = " ".join(note for note in notes if note)
    return ToolReading(by_key, f"embedding:{name}", why)


def _written_name(file: RawFile) -> str:
    """Return the file's name as prompts take it: without the suffix if ComfyUI lists such files."""
    return file.path.stem if file.path.suffix.lower() in SUFFIXES else file.path.name


def _content(file: RawFile) -> Any:
    """Return the file's content; the bytes of its largest record if safe unpickling fails."""
    suffix = file.path.suffix.lower()
    if file.container == "zip" and not file.weights_only and suffix != ".safetensors":
        return _guessed_vectors(file)
    if file.container == "image":
        refuse("it reads no images.")
    # Any suffix is read when it is written out in the prompt.
    content = content_of(file, (".safetensors", suffix))
    if isinstance(content, Tensor):
        refuse(f"it holds a bare tensor without a name; {CONVERT}.")
    return content


def _guessed_vectors(file: RawFile) -> Tensor:
    """Return the last record of the zip that is large enough, read as float32 vectors."""
    with zipfile.ZipFile(file.path) as archive:
        for record in reversed([name for name in file.records if "data/" in name]):
            data = bytearray(archive.read(record))
            count = len(data) // 4
            if count >= GUESSED_SD1_WIDTH:
                fits_sd1 = count % GUESSED_SD1_WIDTH == 0
                width = GUESSED_SD1_WIDTH if fits_sd1 else GUESSED_SD2_WIDTH
                return torch.frombuffer(data, dtype=torch.float32).reshape(-1, width)
    return refuse(f"safe unpickling refuses it and the bytes inside say nothing; {CONVERT}.")


def _tensor_for(model_key: str, width: int, content: Any) -> Tensor:
    """Return the tensor that one text encoder takes."""
    if isinstance(content, Tensor):
        return content
    if "string_to_param" in content:
        return _tensor(first_value(content["string_to_param"]))
    if isinstance(content, list):
        return _tensor_of_list(content, width)
    key = "clip_l" if model_key == "emb_params" else model_key
    if key in content:
        return _tensor(content[key])
    for ending in (".string_to_param.*", f".{key}"):
        bundled = _bundled_tensors(content, ending)
        if bundled:
            return torch.cat(bundled)
    return _tensor(first_value(content))


def _tensor_of_list(content: list[Any], width: int) -> Tensor:
    tensors: list[Tensor] = []
    for entry in content:
        tensors += entry.values()
    fitting = [tensor.reshape(-1, width) for tensor in tensors if tensor.shape[-1] == width]
    if not fitting:
        refuse(f"no tensor of the list fits this model: {OTHER_FAMILY}.")
    return torch.cat(fitting)


def _bundled_tensors(content: Mapping[str, Any], ending: str) -> list[Tensor]:
    """Return the tensors of embeddings in a LoRA whose names end so."""
    names = [name for name in content if name.startswith("bundle_emb.") and name.endswith(ending)]
    return [content[name] for name in names]


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        refuse(f"what comes first in it is not a tensor; {CONVERT}.")
    return value


def _luck(content: Any, model: TargetModel) -> str:
    """Return a note if the file has more than what is taken."""
    if isinstance(content, list) or "string_to_param" in content:
        return ""
    if is_pair(content):
        return "" if len(model.keys) > 1 else "It is an SDXL word; this model uses one half of it."
    if len(content) > 1 and "clip_l" not in content:
        return f"It takes the first of {len(content)} tensors, {next(iter(content))!r}; {CONVERT}."
    return ""
