"""ComfyUI, and SwarmUI, which draws with it."""

from __future__ import annotations

import re
import zipfile
from typing import Any

import torch
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
from coinage.embeddings.raw import Raw

SUFFIXES = (".safetensors", ".pt", ".bin")
# ComfyUI's own numbers for the raw bytes of a torch zip, whatever the model: SD 1 where it divides, else SD 2.
RAW_SD1, RAW_SD2 = 768, 1024


def comfyui(raw: Raw, model: Model, _token: str | None) -> Taken:
    """ComfyUI: each text encoder looks for its own tensor, else takes the first; what does not fit is dropped."""
    name, content, why = _name(raw), _content(raw), ""
    if isinstance(content, Tensor):
        why = (
            "It holds a ParameterDict, so ComfyUI guesses the vectors from the raw bytes; "
            + CONVERT
            + "."
        )
    found, last = {}, None
    for key, width in zip(model.keys, model.widths, strict=True):
        last = (
            content
            if isinstance(content, Tensor)
            else _tensor_for("clip_g" if key == "clip_g" else "clip_l", width, content)
        )
        if last.ndim == 1:
            last = last[None]
        if last.shape[-1] == width:
            found[key] = last
    if not found:
        check_width(last, model.widths[-1])
    odd = (
        ""
        if not re.search(r"[\s<\[(),]", name)
        else "Rename the file: its prompts end the word at such a sign."
    )
    return Taken(
        found,
        f"embedding:{name}",
        " ".join(part for part in (why or _luck(content, model), odd) if part),
    )


def _name(raw: Raw) -> str:
    return raw.path.stem if raw.path.suffix.lower() in SUFFIXES else raw.path.name


def _content(raw: Raw) -> Any:
    """What the file holds; the bytes of its largest record where safe unpickling fails."""
    if (
        raw.container == "zip"
        and not raw.weights_only
        and raw.path.suffix.lower() != ".safetensors"
    ):
        return _guessed(raw)
    if raw.container == "image":
        refuse("it reads no images.")
    # Any suffix is read when it is written out in the prompt.
    content = content_of(raw, (".safetensors", raw.path.suffix.lower()))
    if isinstance(content, Tensor):
        refuse(f"it holds a bare tensor without a name; {CONVERT}.")
    return content


def _guessed(raw: Raw) -> Tensor:
    """Vectors from the last record of the zip that is large enough, read as float32."""
    with zipfile.ZipFile(raw.path) as archive:
        for record in reversed([name for name in raw.records if "data/" in name]):
            data = bytearray(archive.read(record))
            if len(data) // 4 >= RAW_SD1:
                width = RAW_SD1 if len(data) // 4 % RAW_SD1 == 0 else RAW_SD2
                return torch.frombuffer(data, dtype=torch.float32).reshape(-1, width)
    return refuse(f"safe unpickling refuses it and the bytes inside say nothing; {CONVERT}.")


def _tensor_for(key: str, width: int, content: Any) -> Tensor:
    """The tensor that one text encoder asks for."""
    if "string_to_param" in content:
        return _tensor(first(content["string_to_param"]))
    if isinstance(content, list):
        fitting = [
            tensor.reshape(-1, width)
            for entry in content
            for tensor in entry.values()
            if tensor.shape[-1] == width
        ]
        return (
            torch.cat(fitting)
            if fitting
            else refuse(f"no tensor of the list fits this model: {FAMILY}.")
        )
    if key in content:
        return _tensor(content[key])
    for ending in (".string_to_param.*", f".{key}"):
        bundled = [
            value
            for name, value in content.items()
            if name.startswith("bundle_emb.") and name.endswith(ending)
        ]
        if bundled:
            return torch.cat(bundled)
    return _tensor(first(content))


def _tensor(value: Any) -> Tensor:
    return (
        value
        if isinstance(value, Tensor)
        else refuse(f"what comes first in it is no tensor; {CONVERT}.")
    )


def _luck(content: Any, model: Model) -> str:
    """A word where the file has more than what is taken."""
    if isinstance(content, list) or "string_to_param" in content:
        return ""
    if is_pair(content):
        return "" if len(model.keys) > 1 else "It is an SDXL word; this model uses one half of it."
    if len(content) > 1 and "clip_l" not in content:
        return f"It takes the first of {len(content)} tensors, {next(iter(content))!r}; {CONVERT}."
    return ""


def swarmui(raw: Raw, model: Model, _token: str | None) -> Taken:
    """SwarmUI: draws with ComfyUI; tells the family from the header, or from the names and widths of the tensors."""
    drawn = comfyui(raw, model, _token)
    if raw.path.suffix.lower() not in SUFFIXES:
        refuse(f"it does not list {raw.path.suffix} files; {CONVERT}.")
    why = drawn.why or ("" if _classified(raw) else f"It is listed without a family; {CONVERT}.")
    return Taken(drawn.tensors, f"<embed:{raw.path.stem}>", why)


def _classified(raw: Raw) -> bool:
    if raw.container != "safetensors":
        return False
    bracketed = [key for key in raw.content if key.startswith("<") and key.endswith(">")]
    known = raw.metadata.get("modelspec.architecture", "").endswith("/textual-inversion")
    return known or "emb_params" in raw.content or is_pair(raw.content) or len(bracketed) == 1
